"""Makes the fragment of a JSON schema: exactly by it, or by all of it that the compiler can take.

Without `strict`, what cannot be kept is left out keyword by keyword: each is compiled by itself, in a worker.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from edgedraft.grammar.probe import DEAD_END
from edgedraft.grammar.service import GrammarChecker
from gateway.prompt.json_schema import (
    InvalidSchema,
    JsonObject,
    all_subschemas,
    copy_json,
    located_subschemas,
    prepare_schema,
    resolve,
)
from gateway.prompt.output_grammar import GrammarFragment, build_output_grammar, json_fragment
from gateway.prompt.whole_numbers import fit_whole_numbers

_MAX_CHECKS = 32  # of single keywords; those beyond are left out
_MAX_OVERLAP_CHECKS = 32
_PER_STEP = 256  # subschemas that are reduced in one step of the event loop
MAX_LEFT_OUT = 16  # places that a response tells of one schema
MAX_POINTER = 200  # characters of one of them

# What can be left out without touching the rest: keywords that the compiler reads together, and a type they apply to.
_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("string", ("pattern",)),
    ("string", ("format",)),
    ("string", ("minLength", "maxLength")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    ("array", ("minItems", "maxItems")),
)


@dataclass(frozen=True, slots=True)
class FittedSchema:
    """The fragment of a schema, or None and why there is none.

    `left_out` are JSON Pointers to keywords of the schema that it does not keep, some of them where there are many.
    """

    fragment: GrammarFragment | None
    error: str = ""
    left_out: tuple[str, ...] = ()


async def schema_fragment(schema: Mapping[str, Any], strict: bool, grammars: GrammarChecker) -> FittedSchema:
    """For a schema that `check_size` has let pass."""
    await asyncio.sleep(0)
    try:
        prepared = prepare_schema(schema)
    except InvalidSchema as error:
        return FittedSchema(None, str(error))
    await asyncio.sleep(0)
    misfits = [
        (f"{pointer}/{misfit.place}"[:MAX_POINTER], misfit)
        for pointer, inner in located_subschemas(prepared)
        for misfit in fit_whole_numbers(inner)
    ]
    if misfits and strict:
        place, misfit = misfits[0]
        return FittedSchema(None, f"{place}: {str(misfit.value)[:40]} is a number that cannot be kept to exactly")
    numbers = [place for place, misfit in misfits if misfit.left_out]
    await asyncio.sleep(0)
    fragment = json_fragment(prepared)
    error = await _find_error(fragment, prepared, grammars)
    if not error:
        return FittedSchema(fragment, "", _told(numbers))
    if strict:
        return FittedSchema(None, error)
    reduced, removed = await _reduce(prepared, grammars)
    removed = [*numbers, *removed]
    for reduce_further in (
        lambda: (prepared, numbers),
        lambda: (reduced, removed),
        lambda: _without_groups(reduced, removed),
    ):
        await asyncio.sleep(0)
        candidate, left_out = reduce_further()
        await asyncio.sleep(0)
        fragment = json_fragment(candidate, lenient=True)
        if not (error := await _find_error(fragment, candidate, grammars)):
            names = set(await grammars.unimplemented_keywords(build_output_grammar(fragment)))
            await asyncio.sleep(0)
            return FittedSchema(fragment, "", _told([*left_out, *_places_of(names, candidate)]))
    return FittedSchema(None, error)


def _places_of(names: Collection[str], schema: JsonObject) -> Iterator[str]:
    """Where the schema has these keywords."""
    for pointer, inner in located_subschemas(schema):
        for keyword, value in inner.items():
            if keyword in names or (keyword == "format" and f"format:{value}" in names):
                yield f"{pointer}/{keyword}"


def _told(pointers: Iterable[str]) -> tuple[str, ...]:
    """No more of them than a response may repeat."""
    return tuple(pointer[:MAX_POINTER] for pointer in islice(pointers, MAX_LEFT_OUT))


async def _find_error(fragment: GrammarFragment, schema: JsonObject, grammars: GrammarChecker) -> str:
    error = await grammars.find_error(build_output_grammar(fragment))
    if error in ("", DEAD_END):  # an overlap says more
        return await _find_overlap(schema, grammars) or error
    return error


async def _find_overlap(schema: JsonObject, grammars: GrammarChecker) -> str:
    """A property that `patternProperties` matches too can be written twice to the compiler: the text runs dry."""
    await asyncio.sleep(0)
    checks = 0
    for inner in all_subschemas(schema):
        patterns, properties = inner.get("patternProperties"), inner.get("properties")
        if not isinstance(patterns, dict) or not isinstance(properties, dict) or not patterns or not properties:
            continue
        names = _pattern_of(properties)
        for pattern in patterns:
            checks += 1
            if checks > _MAX_OVERLAP_CHECKS or await _overlap(pattern, names, grammars):
                return f"patternProperties {pattern!r} matches a name that is in properties"
    return ""


def _pattern_of(names: Iterable[str]) -> str:
    """One that matches just these."""
    return "^(" + "|".join(re.escape(name).replace("\\ ", " ") for name in names) + ")$"


async def _overlap(pattern: str, other: str, grammars: GrammarChecker) -> bool:
    """The compiler itself tells whether two patterns have a text in common."""
    await asyncio.sleep(0)
    both = {"type": "object", "patternProperties": {pattern: {}, other: {}}, "additionalProperties": False}
    return pattern == other or bool(await grammars.find_error(build_output_grammar(json_fragment(both))))


async def _takes_patterns(schema: JsonObject, grammars: GrammarChecker) -> bool:
    patterns = schema["patternProperties"]
    if not isinstance(patterns, dict):
        return False
    alone = {"type": "object", "patternProperties": {pattern: {} for pattern in patterns}}
    if await grammars.find_error(build_output_grammar(json_fragment(alone))):
        return False
    return not await _find_overlap({**alone, "properties": schema.get("properties")}, grammars)


async def _reduce(schema: JsonObject, grammars: GrammarChecker) -> tuple[JsonObject, list[str]]:
    """Returns a copy without the keywords that the compiler cannot take, and where they were."""
    reduced = copy_json(schema)
    known: dict[str, bool] = {}
    removed: list[str] = []
    for number, (pointer, inner) in enumerate(located_subschemas(reduced)):
        if number % _PER_STEP == 0:
            await asyncio.sleep(0)
        if isinstance(ref := inner.get("$ref"), str) and resolve(reduced, ref) is None:
            del inner["$ref"]
            removed.append(f"{pointer}/$ref")
        if inner.get("patternProperties") and not await _takes_patterns(inner, grammars):
            del inner["patternProperties"]
            removed.append(f"{pointer}/patternProperties")
        for kind, keywords in _GROUPS:
            if not (group := {keyword: inner[keyword] for keyword in keywords if keyword in inner}):
                continue
            integer = kind == "number" and inner.get("type") == "integer"
            alone = {"type": "integer" if integer else kind, **group}
            key = json.dumps(alone, sort_keys=True)
            if key not in known:
                error = len(known) >= _MAX_CHECKS or await grammars.find_error(
                    build_output_grammar(json_fragment(alone, lenient=True))
                )
                known[key] = not error
            if not known[key]:
                for keyword in group:
                    del inner[keyword]
                    removed.append(f"{pointer}/{keyword}")
    return reduced, removed


def _without_groups(schema: JsonObject, removed: Sequence[str]) -> tuple[JsonObject, list[str]]:
    """Returns a copy without any of the groups, and what was removed with these."""
    reduced, more = copy_json(schema), list(removed)
    for pointer, inner in located_subschemas(reduced):
        for keyword in (keyword for _, keywords in _GROUPS for keyword in keywords):
            if keyword in inner:
                del inner[keyword]
                more.append(f"{pointer}/{keyword}")
    return reduced, more
