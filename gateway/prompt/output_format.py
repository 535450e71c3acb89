"""Chooses the fragment that constrains a content or a tool's arguments: the first of its candidates that compiles.

There are several candidates where a schema is followed as far as the compiler can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedraft.grammar.service import GrammarService
from gateway.http.errors import ApiError
from gateway.prompt.output_grammar import GrammarFragment, build_output_grammar, json_fragment

ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What the content has to be: the first of `candidates` that compiles. `param` is the parameter it was given in."""

    candidates: tuple[GrammarFragment, ...]
    param: str

    async def first_servable(self, grammars: GrammarService) -> GrammarFragment:
        """Returns the fragment that constrains the content. Raises ApiError 400 when no candidate compiles."""
        fragment, error = await first_compiling(self.candidates, grammars)
        if fragment is None:
            raise ApiError(400, f"Invalid {self.param}: {error}", param=self.param, code="invalid_value")
        return fragment


def schema_candidates(schema: dict[str, Any], strict: bool | None) -> tuple[GrammarFragment, ...]:
    """Returns fragments for JSON by the schema: with `strict` exactly, otherwise as far as the compiler can."""
    return (json_fragment(schema),) if strict else (json_fragment(schema), json_fragment(schema, lenient=True))


async def first_compiling(
    candidates: Sequence[GrammarFragment], grammars: GrammarService
) -> tuple[GrammarFragment | None, str]:
    """Returns the first candidate that can be served; None and the last candidate's error if there is none."""
    error = ""
    for candidate in candidates:
        error = await grammars.find_error(build_output_grammar(candidate))
        if not error:
            return candidate, ""
    return None, error
