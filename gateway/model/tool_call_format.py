"""How a model writes tool calls into its text: the marks around each call, by the conventions in wide use.

A format holds literal text only. Grammars (grammar.py) make the model write exactly this; part_reader.py reads exactly
this. Which format a model is used to is told by its chat template; the others are asked for Hermes' in words
(tool_prompt.py).
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass

# The marks that may be tokens of their own in a model's vocabulary.
MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")

_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """opening NAME after_name ARGUMENTS closing, then following NAME ... for each further call, then end.

    `marker`, the beginning of `opening`, is text that nothing but a call begins with: where `anywhere`, it ends
    text that comes before; otherwise calls stand at the output's beginning only. `following` is empty where a model
    writes one call at most. `id_length` is what a template demands of the ids of calls, 0 for nothing.
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
    """The format that a chat template, which takes tools, teaches its model; None for one that is not spoken here."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL if "[ARGS]" in template else MISTRAL_LIST
    if "<tool_call>" in template:
        # Some write XML, or pairs of keys and values, between the same tags.
        foreign = any(tag in template for tag in ("<function=", "<arg_key>"))
        return None if foreign or "arguments" not in template else HERMES
    return LLAMA if "<|python_tag|>" in template and "parameters" in template else None
