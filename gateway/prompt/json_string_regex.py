r"""Rewrites a regular expression so that it matches the same texts inside a JSON string, without its quotes.

A pattern for `a"b` becomes one for `a\"b`. Each character of a text has one escaped form here, the one that json.dumps
writes without ensure_ascii, so that structure (groups, alternatives, repetition) stays as it is and only what matches
single characters is rewritten.

Source: the syntax of Rust's regex crate, of which llguidance takes a part.
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import lru_cache
from typing import NoReturn

# The characters that stand escaped in a JSON string, with their escaped forms.
ESCAPED = {character: json.dumps(character)[1:-1] for character in (*map(chr, range(32)), '"', "\\")}
_ALL = frozenset(ESCAPED)

_ORDINARY = r'[^"\\\x00-\x1F]'
_CONTROL = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a"}
_SHORTHAND = {"d": str.isdigit, "w": lambda c: c == "_" or c.isalnum(), "s": lambda c: c in "\t\n\v\f\r "}
_HEX = re.compile(r"[xu]\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})")
_CATEGORY = re.compile(r"p([A-Z])|p\{([A-Z][a-z]?)\}")
_COUNT = re.compile(r"\{\d+(,\d*)?\}|\{,\d+\}")
_GROUP = re.compile(r"\(\?(?:P?<\w+>|([ism]*(?:-[ism]+)?)([:)]))")
_SET_OPERATORS = ("&&", "--", "~~")

_Characters = tuple[str, frozenset[str]]  # a class item as it is written, and which of ESCAPED are in it


def quote_regex(pattern: str, *, ignore_case: bool = False, dot_all: bool = False) -> str:
    """Returns the pattern for texts in a JSON string; it can stand between the slashes of a Lark regex.

    `ignore_case` and `dot_all` are the flags under which it is used. Raises ValueError for syntax that has no such
    pattern, or is not supported: anchors, look-around, classes in classes.
    """
    return _Scanner(pattern, ignore_case, dot_all).scan()


class _Scanner:
    def __init__(self, pattern: str, ignore_case: bool, dot_all: bool) -> None:
        self._pattern = pattern
        self._at = 0
        self._flags = [(ignore_case, dot_all)]  # of the groups that are open, innermost last

    def scan(self) -> str:
        pieces: list[str] = []
        while self._at < len(self._pattern):
            pieces.append(self._next())
        return "".join(pieces)

    def _next(self) -> str:
        character = self._pattern[self._at]
        match character:
            case "(":
                return self._group()
            case ")":
                if len(self._flags) > 1:
                    self._flags.pop()
                return self._take(1)
            case "[":
                return self._class()
            case ".":
                self._take(1)
                return self._either(_ORDINARY, _ALL if self._flags[-1][1] else _ALL - {"\n"})
            case "\\":
                written, escaped = self._escape()
                single = len(written) == 1
                return self._literal(written) if single else self._either(f"[{written}&&{_ORDINARY}]", escaped)
            case "{":
                count = _COUNT.match(self._pattern, self._at)
                return self._take(len(count[0])) if count else self._fail("'{' has to be escaped")
            case "*" | "+" | "?" | "|":
                return self._take(1)
            case "^" | "$":
                return self._fail("anchors are not supported")
            case _:
                return self._literal(self._take(1))

    def _group(self) -> str:
        if not self._pattern.startswith("(?", self._at):
            self._flags.append(self._flags[-1])
            return self._take(1)
        found = _GROUP.match(self._pattern, self._at)
        if not found:
            self._fail("this kind of group is not supported")
        on, _, off = (found[1] or "").partition("-")
        case, dots = self._flags[-1]
        flags = ("i" in on or (case and "i" not in off), "s" in on or (dots and "s" not in off))
        if found[2] == ")":
            self._flags[-1] = flags
        else:
            self._flags.append(flags)
        return self._take(len(found[0]))

    def _class(self) -> str:
        start = self._at
        self._take(1)
        negated = self._pattern.startswith("^", self._at)
        self._take(int(negated))
        escaped: set[str] = set()
        first = True
        while first or not self._pattern.startswith("]", self._at):
            first = False
            escaped |= self._class_range()
        self._take(1)
        inside = _ALL - escaped if negated else frozenset(escaped)
        return self._either(f"[{self._pattern[start : self._at]}&&{_ORDINARY}]", inside)

    def _class_range(self) -> frozenset[str]:
        begin, escaped = self._class_item()
        following = self._pattern[self._at : self._at + 2]
        if not following.startswith("-") or following in ("-]", "-"):
            return escaped
        self._take(1)
        end, _ = self._class_item()
        if len(begin) != 1 or len(end) != 1 or begin > end:
            self._fail("invalid range in a class")
        return frozenset(character for character in ESCAPED if begin <= character <= end)

    def _class_item(self) -> _Characters:
        if self._at >= len(self._pattern):
            self._fail("a class is not closed")
        if self._pattern[self._at] == "[" or self._pattern[self._at : self._at + 2] in _SET_OPERATORS:
            self._fail("classes in classes are not supported")
        if self._pattern[self._at] == "\\":
            return self._escape()
        character = self._take(1)
        return character, frozenset({character} & ESCAPED.keys())

    def _escape(self) -> _Characters:
        r"""Reads what a backslash begins: one character, or a shorthand such as \d as it stands."""
        self._take(1)
        kind = self._pattern[self._at : self._at + 1]
        if kind.lower() in _SHORTHAND:
            written = "\\" + self._take(1)
            members = frozenset(character for character in ESCAPED if _SHORTHAND[kind.lower()](character))
            return written, members if kind.islower() else _ALL - members
        if found := _CATEGORY.match(self._pattern, self._at):
            category = found[1] or found[2]
            members = frozenset(c for c in ESCAPED if unicodedata.category(c).startswith(category))
            return "\\" + self._take(len(found[0])), members
        if found := _HEX.match(self._pattern, self._at):
            self._take(len(found[0]))
            code = int(next(digits for digits in found.groups() if digits), 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                self._fail("no such character")
            character = chr(code)
        elif not kind or (kind.isalnum() and kind not in _CONTROL):
            self._fail(f"'\\{kind}' is not supported")
        else:
            character = _CONTROL.get(self._take(1), kind)
        return character, frozenset({character} & ESCAPED.keys())

    def _literal(self, character: str) -> str:
        if character in ESCAPED:
            return self._either("", frozenset({character}))
        return f"\\{character}" if character in r".+*?()|[]{}^$#&-~/" else character

    def _either(self, ordinary: str, escaped: frozenset[str]) -> str:
        """A character of the class `ordinary`, or the escaped form of one of `escaped`."""
        forms = _any_form(escaped)
        if forms and self._flags[-1][0]:  # \\N would be no escape
            forms = f"(?-i:{forms})"
        return f"(?:{'|'.join(part for part in (ordinary, forms) if part)})"

    def _take(self, length: int) -> str:
        taken = self._pattern[self._at : self._at + length]
        self._at += length
        return taken

    def _fail(self, reason: str) -> NoReturn:
        raise ValueError(f"/{self._pattern[:80]}/: {reason}")


@lru_cache(maxsize=1024)
def _any_form(escaped: frozenset[str]) -> str:
    """A pattern of the escaped forms of these characters; most patterns have few such sets, many times."""
    forms = [ESCAPED[character] for character in sorted(escaped)]
    short = "".join("\\" + form[1] if form[1] in '"\\' else form[1] for form in forms if len(form) == 2)
    parts = [rf"\\[{short}]"] if short else []
    for digit in "01":
        if last := "".join(form[-1] for form in forms if len(form) == 6 and form[-2] == digit):
            parts.append(rf"\\u00{digit}[{last}]")
    return "|".join(parts)
