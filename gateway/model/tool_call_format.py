"""How models write tool calls into their output: the markers around each call, in the common formats.

A format consists of literal text. gateway/prompt/output_grammar.py makes the model write exactly this text, and
gateway/output/parser.py reads exactly this text. The chat template shows which format a model was trained on; other
models are asked in the prompt to use Hermes' (gateway/model/tool_prompt.py).
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass

# The markers that may be single tokens of a model.
MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")

_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """opening NAME after_name ARGUMENTS closing, then following NAME ... for each further call, then end.

    `marker` is the beginning of `opening`, with which nothing but a call begins. With `anywhere` content may precede
    it; otherwise calls are at the output's beginning only. `following` is empty where a model writes at most one call.
    `id_length` is the length of call ids that a template requires, 0 for any.
    """

    marker: str
    opening: str
    after_name: str
    closing: str
    following: str = ""
    end: str = ""
    anywhere: bool = True
    id_length: int = 0

    def new_id(self) -> str:
        if self.id_length:
            return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(self.id_length))
        return f"call_{secrets.token_hex(12)}"


HERMES = ToolCallFormat(
    marker="<tool_call>",
    opening='<tool_call>\n{"name": "',
    after_name='", "arguments": ',
    closing="}\n</tool_call>",
    following='\n<tool_call>\n{"name": "',
)
MISTRAL = ToolCallFormat(
    marker="[TOOL_CALLS]",
    opening="[TOOL_CALLS]",
    after_name="[ARGS]",
    closing="",
    following="[TOOL_CALLS]",
    id_length=9,
)
MISTRAL_LIST = ToolCallFormat(
    marker="[TOOL_CALLS]",
    opening='[TOOL_CALLS][{"name": "',
    after_name='", "arguments": ',
    closing="}",
    following=', {"name": "',
    end="]",
    id_length=9,
)
LLAMA = ToolCallFormat(
    marker='{"name": "',
    opening='{"name": "',
    after_name='", "parameters": ',
    closing="}",
    anywhere=False,
)


def detect_tool_call_format(template: str) -> ToolCallFormat | None:
    """Returns the format that a template with support for tools teaches; None for a format that is not supported."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL if "[ARGS]" in template else MISTRAL_LIST
    if "<tool_call>" in template:
        # Some templates use XML, or pairs of keys and values, between the same tags.
        foreign = any(tag in template for tag in ("<function=", "<arg_key>"))
        return None if foreign or "arguments" not in template else HERMES
    return LLAMA if "<|python_tag|>" in template and "parameters" in template else None
