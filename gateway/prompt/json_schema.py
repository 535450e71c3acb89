"""Rewrites a client's JSON schema into what the compiler takes and small models can follow, and finds endless ones.

Sources: JSON Schema 2020-12; RFC 6901 (JSON Pointer).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from gateway.limits.request_bounds import MAX_SCHEMA_DEPTH, MAX_SCHEMA_VALUES

_MAX_STEPS = 8_000  # when looking for endless schemas; beyond, a schema counts as one that ends

_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "unevaluatedProperties", "propertyNames", "contains", "not")
_CONDITIONS = ("if", "then", "else")
_HOLDING = frozenset((*_LISTS, *_SINGLE, *_CONDITIONS))
_COMPOSING = ("allOf", "anyOf", "oneOf", "$ref", "if", "then", "else", "dependentSchemas", "unevaluatedProperties")
_SAME_VALUE = frozenset(("anyOf", "oneOf", "allOf", *_CONDITIONS, "not"))  # what they hold describes the value itself
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]+")

JsonObject = dict[str, Any]


class InvalidSchema(ValueError):
    """No text can follow the schema; the message says why."""


class SchemaTooLarge(ValueError):
    """The schema exceeds a bound, which the message names."""


def check_size(schema: Mapping[str, Any]) -> None:
    """To be called before anything else here, which takes its time by the schema's size. Raises SchemaTooLarge."""
    level: list[Any] = [schema]
    values = 0
    for _ in range(MAX_SCHEMA_DEPTH):
        values += sum(map(len, level))
        if values > MAX_SCHEMA_VALUES:
            raise SchemaTooLarge(f"it has more than {MAX_SCHEMA_VALUES} values")
        parts = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise SchemaTooLarge(f"it is nested more than {MAX_SCHEMA_DEPTH} deep")


def subschemas(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """The schemas right inside this one, each with the keyword that holds it. Values such as `const` are none."""
    for keyword, value in schema.items():
        if isinstance(value, dict):
            if keyword in _HOLDING:
                yield keyword, value
            elif keyword in _MAPS:
                for inner in value.values():
                    if isinstance(inner, dict):
                        yield keyword, inner
        elif isinstance(value, list) and keyword in _HOLDING:
            for inner in value:
                if isinstance(inner, dict):
                    yield keyword, inner


def all_subschemas(schema: JsonObject) -> Iterator[JsonObject]:
    """The schema and everything inside it."""
    level = [schema]
    while level:
        yield from level
        level = [inner for outer in level for _, inner in subschemas(outer)]


def located_subschemas(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """As all_subschemas, each behind its place, a JSON Pointer."""
    level = [("", schema)]
    while level:
        yield from level
        level = [found for pointer, outer in level for found in _located(pointer, outer)]


def _located(pointer: str, schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    for keyword, value in schema.items():
        if isinstance(value, dict) and keyword in _MAPS:
            for name, inner in value.items():
                if isinstance(inner, dict):
                    yield f"{pointer}/{keyword}/{name.replace('~', '~0').replace('/', '~1')}", inner
        elif isinstance(value, dict) and keyword in _HOLDING:
            yield f"{pointer}/{keyword}", value
        elif isinstance(value, list) and keyword in _HOLDING:
            for number, inner in enumerate(value):
                if isinstance(inner, dict):
                    yield f"{pointer}/{keyword}/{number}", inner


def copy_json(value: Any) -> Any:
    """A deep copy."""
    if isinstance(value, dict):
        return {name: copy_json(item) for name, item in value.items()}
    return [copy_json(item) for item in value] if isinstance(value, list) else value


def prepare_schema(schema: Mapping[str, Any]) -> JsonObject:
    """Returns a copy with plain names of definitions, and with objects closed. Raises InvalidSchema.

    An object that lists its properties takes no others, unless it says so by additionalProperties: a small model goes
    on inventing fields. Where several schemas describe one object together, none of them is closed.
    """
    prepared = copy_json(dict(schema))
    everything = list(all_subschemas(prepared))
    _rename_definitions(prepared, everything)
    try:
        can_end = _Endings(prepared).can_end(prepared, frozenset())
    except RecursionError:  # references that lead on and on count like too many steps
        can_end = True
    if not can_end:
        raise InvalidSchema("every text that follows it is endless: it requires itself")
    shared = {ref for outer in everything for inner in _composed(outer) if isinstance(ref := inner.get("$ref"), str)}
    _close(prepared, False, {id(pointed) for ref in shared if (pointed := resolve(prepared, ref)) is not None})
    return prepared


def resolve(root: JsonObject, ref: str) -> JsonObject | None:
    """Returns the schema that a local reference points to, None if there is none."""
    found: Any = root
    if not ref.startswith("#"):
        return None
    for part in filter(None, unquote(ref[1:]).split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            return None
    return found if isinstance(found, dict) else None


def _composed(schema: JsonObject) -> Iterator[JsonObject]:
    """The schemas inside that describe the same value together with others."""
    together = "properties" in schema or "allOf" in schema
    if together and "$ref" in schema:
        yield schema
    for keyword, inner in subschemas(schema):
        if keyword == "allOf" or (together and keyword in _COMPOSING):
            yield inner


def _close(schema: JsonObject, composed: bool, shared: set[int]) -> None:
    """`shared` are the ids of the schemas that others refer to as a part of theirs."""
    composed = composed or id(schema) in shared
    if (
        isinstance(schema.get("properties"), dict)
        and schema["properties"]
        and not composed
        and not any(keyword in schema for keyword in (*_COMPOSING, "additionalProperties", "patternProperties"))
    ):
        schema["additionalProperties"] = False
    parts = {id(inner) for inner in _composed(schema)}
    for keyword, inner in subschemas(schema):
        same_value = keyword in _SAME_VALUE and (composed or keyword not in _LISTS)
        _close(inner, id(inner) in parts or same_value, shared)


def _rename_definitions(root: JsonObject, everything: list[JsonObject]) -> None:
    """References are URIs to the compiler, and it takes no name with brackets, umlauts or spaces."""
    for keyword in ("$defs", "definitions"):
        definitions = root.get(keyword)
        if not isinstance(definitions, dict):
            continue
        names: dict[str, str] = {}
        for index, name in enumerate(definitions):
            safe = name
            while not _SAFE_NAME.fullmatch(safe) or (safe != name and safe in definitions):
                safe = f"definition_{index}" if not _SAFE_NAME.fullmatch(safe) else safe + "_"
            names[name] = safe
        root[keyword] = {names[name]: value for name, value in definitions.items()}
        start = f"#/{keyword}/"
        for schema in everything:
            ref = schema.get("$ref")
            if isinstance(ref, str) and ref.startswith(start):
                first, slash, rest = ref.removeprefix(start).partition("/")
                name = unquote(first).replace("~1", "/").replace("~0", "~")
                schema["$ref"] = start + names.get(name, first) + slash + rest


class _Endings:
    """Finds whether some finite value follows a schema, as far as references and required parts decide it."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._ending: set[str] = set()  # references
        self._steps = 0

    def can_end(self, schema: Any, following: frozenset[str]) -> bool:
        self._steps += 1
        if not isinstance(schema, dict) or self._steps > _MAX_STEPS:
            return True
        ref = schema.get("$ref")
        if isinstance(ref, str) and not self._ref_can_end(ref, following):
            return False
        for keyword in ("anyOf", "oneOf"):
            options = schema.get(keyword)
            if isinstance(options, list) and options and not any(self.can_end(each, following) for each in options):
                return False
        if isinstance(parts := schema.get("allOf"), list) and not all(self.can_end(part, following) for part in parts):
            return False
        return self._parts_can_end(schema, following)

    def _ref_can_end(self, ref: str, following: frozenset[str]) -> bool:
        if ref in self._ending:
            return True
        if ref in following or len(following) > MAX_SCHEMA_DEPTH:
            return ref not in following
        pointed = resolve(self._root, ref)
        if pointed is None or self.can_end(pointed, following | {ref}):
            self._ending.add(ref)
            return True
        return False

    def _parts_can_end(self, schema: JsonObject, following: frozenset[str]) -> bool:
        kind, properties, required = schema.get("type"), schema.get("properties"), schema.get("required")
        if kind == "object" and isinstance(properties, dict) and isinstance(required, list):
            names = [name for name in required if isinstance(name, str)]
            return all(self.can_end(properties.get(name), following) for name in names)
        least = schema.get("minItems")
        if kind == "array" and isinstance(least, int) and least > 0 and "prefixItems" not in schema:
            return self.can_end(schema.get("items"), following)
        return True
