"""Rewrites a client's Lark grammar so that its texts stand inside a JSON string, where tool calls have their arguments.

Strings and regular expressions are rewritten. The rules of a grammar without recursion become terminals, so that all of
it is one lexeme: the lexer looks one byte ahead, and cannot tell by the backslash of an escaped line end that a line
has ended. A recursive grammar keeps its rules.

Source: the documentation of llguidance (syntax.md), whose dialect of Lark this is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.prompt.json_string_regex import quote_regex
from gateway.prompt.output_grammar import GrammarFragment

_STRING = r'"(?:\\.|[^"\\\n])*"'
_TOKEN = re.compile(
    rf"""
      (?P<dropped>(?://|\#)[^\n]* | ->\s*[!?]?\w+ | %llguidance\s*\{{\s*\}})
    | %import\s+common\s*\.\s*(?P<name>\w+)(?:[ \t]*->[ \t]*(?P<alias>\w+))?
    | %import\s+common\s*\((?P<names>[\w\s,]+)\)
    | (?P<ignore>%ignore\b)
    | (?P<range>{_STRING}\s*\.\.\s*{_STRING})
    | (?P<string>{_STRING})(?P<insensitive>i?)
    | /(?P<regex>(?:\\.|[^/\\])+)/(?P<flags>[imslux]*)
    | (?P<head>^[ \t]*[!?]?\w[\w-]*)(?=\s*:)
    | [!?]?(?P<symbol>[A-Za-z_][\w-]*)
    | (?P<refused>[%@<=/"] | ~(?!\s*\d))
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_START = "start"

# llguidance's imports whose texts have characters that stand escaped in JSON; the others mean the same there.
_COMMON = {
    "ESCAPED_STRING": r'"([^"\\]|\\.)*"',
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "C_COMMENT": r"/\*[^*]*\*+([^/*][^*]*\*+)*/",
    "SQL_COMMENT": r"--[^\n]*",
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rewritten text; `symbol` is the rule or terminal that it names, `head` says that its definition begins here."""

    text: str
    symbol: str = ""
    head: bool = False


def text_argument_fragment(name: str, lark: str) -> GrammarFragment:
    """A JSON object with this one property, a string whose text follows the grammar. Raises ValueError."""
    opening, closing = (json.dumps(text) for text in (f'{{"{name}": "', '"}'))
    return GrammarFragment(f"{opening} @client {closing}", quote_grammar(lark))


def quote_grammar(lark: str) -> str:
    """Returns the grammar of the same texts as they stand between the quotes of a JSON string.

    Whether it compiles is not checked. Raises ValueError for what cannot be rewritten: references to other grammars and
    to tokens, JSON schemas, options of rules, negation, and regular expressions that quote_regex does not support.
    """
    tokens = list(_TOKEN.finditer(lark))
    pieces = [piece for token in tokens for piece in _rewritten(token)]
    if any(token["ignore"] for token in tokens) or _is_recursive(pieces):
        return "".join(piece.text for piece in pieces)
    names = {piece.symbol for piece in pieces}
    prefix = "R"
    while any(name.startswith(prefix) for name in names):
        prefix += "R"
    terminals = "".join(_as_terminal(piece, prefix) for piece in pieces)
    return f"{_START}: {prefix}_{_START.upper()}\n{terminals}"


def _rewritten(token: re.Match[str]) -> Iterator[_Piece]:
    if head := token["head"]:
        symbol = head.strip().lstrip("!?")
        yield _Piece(symbol, symbol, head=True)
    elif symbol := token["symbol"]:
        yield _Piece(symbol, symbol)
    elif (text := token["string"]) is not None:
        yield _Piece(_string(_read(text), bool(token["insensitive"])))
    elif (pattern := token["regex"]) is not None:
        yield _Piece(_regex(pattern, token["flags"]))
    elif name := token["name"]:
        yield _Piece(_import(name, token["alias"] or name))
    elif names := token["names"]:
        yield _Piece("\n".join(_import(name, name) for name in re.findall(r"\w+", names)))
    elif both := token["range"]:
        begin, end = (_character(_read(text)) for text in re.findall(_STRING, both))
        yield _Piece(_regex(f"[{begin}-{end}]", ""))
    elif refused := token["refused"]:
        raise ValueError(f"{refused!r} is not supported in the grammar of a custom tool")
    else:
        yield _Piece(token["ignore"] or token["other"] or "")


def _as_terminal(piece: _Piece, prefix: str) -> str:
    is_rule = piece.symbol and not piece.symbol.isupper()
    return f"{prefix}_{piece.symbol.upper()}" if is_rule else piece.text


def _is_recursive(pieces: list[_Piece]) -> bool:
    """Whether a definition leads to itself."""
    uses: dict[str, set[str]] = {}
    current: set[str] = set()
    for piece in pieces:
        if piece.head:
            current = uses.setdefault(piece.symbol, set())
        elif piece.symbol:
            current.add(piece.symbol)
    ready = [name for name, used in uses.items() if not used & uses.keys()]
    left = {name: used & uses.keys() for name, used in uses.items() if used & uses.keys()}
    users: dict[str, list[str]] = {}
    for name, used in left.items():
        for other in used:
            users.setdefault(other, []).append(name)
    while ready:
        for user in users.get(done := ready.pop(), ()):
            left[user].discard(done)
            if not left[user]:
                del left[user]
                ready.append(user)
    return bool(left)


def _read(text: str) -> str:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"{text[:80]} is no valid string") from None


def _string(text: str, insensitive: bool) -> str:
    if insensitive and text:
        return _regex("".join(_character(character) for character in text), "i")
    inner = json.dumps(text, ensure_ascii=False)[1:-1]
    return json.dumps(inner, ensure_ascii=False)


def _character(text: str) -> str:
    """One character as regular expressions have it in every place."""
    if len(text) != 1:
        raise ValueError(f"{text[:80]!r} is not one character")
    return rf"\x{{{ord(text):x}}}"


def _regex(pattern: str, flags: str) -> str:
    if refused := set(flags) & set("xl"):
        raise ValueError(f"the flag {min(refused)!r} of a regular expression is not supported")
    return f"/{quote_regex(pattern, ignore_case='i' in flags, dot_all='s' in flags)}/{flags}"


def _import(name: str, alias: str) -> str:
    if pattern := _COMMON.get(name):
        return f"{alias}: {_regex(pattern, '')}"
    return f"%import common.{name}" + (f" -> {alias}" if alias != name else "")
