"""A streamed chat through the gateway with OpenAI's own package; how it was made stands on the final chunk.

OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=ed-... python examples/chat.py "Why is the sky blue?"
"""

from __future__ import annotations

import sys

from openai import OpenAI


def main(question: str) -> None:
    client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=200,
        stream=True,
        stream_options={"include_usage": True},
    )
    mode = ""
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        mode = (chunk.model_extra or {}).get("edgedraft", {}).get("mode", mode)
        if chunk.usage:
            print(f"\n\n{chunk.usage.completion_tokens} tokens, mode {mode}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Why is the sky blue?")
