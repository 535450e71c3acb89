"""A tool loop: the model calls a function, the program runs it, and the model answers with the result.

    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=ed-... python examples/tools.py

`tool_choice` names the function in the first turn, so the call follows the function's schema whatever the model is.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "local_time",
        "description": "The time of day, so many hours east of Greenwich.",
        "parameters": {
            "type": "object",
            "properties": {"hours": {"type": "integer", "minimum": -12, "maximum": 14}},
            "required": ["hours"],
            "additionalProperties": False,
        },
    },
}


def local_time(hours: int) -> str:
    return f"{datetime.now(UTC) + timedelta(hours=hours):%H:%M}"


def main() -> None:
    client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
    model = client.models.list().data[0].id
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What time is it in Tokyo?"}]
    call_turn = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "local_time"}},
        temperature=0,
        max_tokens=100,
    )
    message = call_turn.choices[0].message
    [call] = message.tool_calls or []
    assert call.type == "function"
    result = local_time(**json.loads(call.function.arguments))
    print(f"{call.function.name}({call.function.arguments}) = {result}")
    messages.append(
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        }
    )
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = client.chat.completions.create(model=model, messages=messages, tools=[TOOL], temperature=0, max_tokens=100)
    print(answer.choices[0].message.content)


if __name__ == "__main__":
    main()
