"""What a content has to be: a fragment as it stands, or a JSON schema, and the parameter that it was given in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgedraft.grammar.service import GrammarChecker
from gateway.http.errors import ApiError
from gateway.prompt.json_schema import SchemaTooLarge, check_size
from gateway.prompt.output_grammar import GrammarFragment, build_output_grammar
from gateway.prompt.schema_fragment import FittedSchema, schema_fragment

ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True, slots=True)
class ServableFormat:
    """The fragment that constrains the content, and the keywords of its schema that are not kept, by their places."""

    fragment: GrammarFragment
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What the content has to be. `strict` follows a schema exactly or not at all, else as far as possible."""

    content: GrammarFragment | dict[str, Any]
    param: str
    strict: bool = True

    async def servable(self, grammars: GrammarChecker) -> ServableFormat:
        """Raises ApiError 400 when it cannot be served."""
        if isinstance(self.content, GrammarFragment):
            error = await grammars.find_error(build_output_grammar(self.content))
            fitted = FittedSchema(None if error else self.content, error)
        else:
            try:
                check_size(self.content)
                fitted = await schema_fragment(self.content, self.strict, grammars)
            except SchemaTooLarge as too_large:
                fitted = FittedSchema(None, str(too_large))
        if fitted.fragment is None:
            message = f"Invalid {self.param}: {fitted.error}"
            raise ApiError(400, message, param=self.param, code="invalid_value")
        return ServableFormat(fitted.fragment, tuple(f"{self.param}#{place}" for place in fitted.left_out))
