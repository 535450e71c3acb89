"""A model's plain text, as it comes, taken apart into thought, content and tool calls.

The parts do not depend on how the text was cut into pieces. Text that may yet turn out to be a mark is held back; what
looked like a call and is none is content, as it stands. Output under a grammar (grammar.py) is never of that kind, but
a reader believes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.model.reasoning import ReasoningFormat
from gateway.model.tool_call_format import ToolCallFormat

_NAME = re.compile(r"[a-zA-Z0-9_-]{0,64}")
_TELLING = re.compile(r'[{}\[\]"\\]')  # what an argument object's end is found by


@dataclass(frozen=True, slots=True)
class Thought:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the function `name` begins; calls are numbered from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of that call's arguments, a JSON text."""

    index: int
    text: str


OutputPart = Thought | Content | Call | Arguments
_State = Callable[[], bool]  # takes what it can from the rest; False when it needs more text


class OutputParser:
    """Feed it, and finish it at the end."""

    def __init__(
        self, thinking: ReasoningFormat | None, calls: ToolCallFormat | None, names: Collection[str] = ()
    ) -> None:
        """`names` are the functions that exist: a call of any other is content."""
        self._marks = thinking
        self._format = calls
        self._names = frozenset(names)
        self._rest = ""
        self._final = False
        self._parts: list[OutputPart] = []
        self._call = -1
        self._depth, self._in_string, self._escaped = 0, False, False
        self._opening = ""
        self._fresh = True  # nothing has been emitted in this state
        if thinking is None:
            self._state: _State = self._first
        else:
            self._state = self._thinking if thinking.opened_by_prompt else self._before_thinking

    @property
    def thinking(self) -> bool:
        """Whether the text now belongs to the thought."""
        return self._state in (self._thinking, self._before_thinking)

    @property
    def calls(self) -> int:
        """How many have begun."""
        return self._call + 1

    @property
    def in_calls(self) -> bool:
        """Whether the text now belongs to calls."""
        return self._state not in (self._first, self._text, self._only_text)

    def feed(self, text: str) -> list[OutputPart]:
        self._rest += text
        while self._rest and self._state():
            pass
        parts, self._parts = self._parts, []
        return parts

    def finish(self) -> list[OutputPart]:
        """What was held back. A call that was cut off before its name was whole is dropped."""
        self._final = True
        return self.feed("")

    def _take(self, length: int) -> str:
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken

    def _emit(self, part: OutputPart) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(part, Thought | Content) and not part.text:
            return
        if isinstance(part, Content) and isinstance(last, Content):
            part = Content(last.text + part.text)
            self._parts.pop()
        self._parts.append(part)

    def _expect(self, literal: str) -> bool | None:
        """Whether the rest begins with it; None while that is open."""
        if self._rest.startswith(literal):
            return True
        return None if literal.startswith(self._rest) else False

    def _before_thinking(self) -> bool:
        assert self._marks
        lead = len(self._rest) - len(self._rest.lstrip())
        begins = self._rest[lead:]
        if begins.startswith(self._marks.start_marker):
            self._take(lead + len(self._marks.start_marker))
            self._state = self._thinking
            return True
        if self._marks.start_marker.startswith(begins) and not self._final:
            return False
        self._state = self._first
        return True

    def _thinking(self) -> bool:
        assert self._marks
        if self._fresh:
            self._rest = self._rest.lstrip()
            self._fresh = not self._rest
        end = self._rest.find(self._marks.end_marker)
        if end >= 0:
            self._emit(Thought(self._take(end).rstrip()))
            self._take(len(self._marks.end_marker))
            self._state, self._fresh = self._after_thinking, True
            return True
        self._emit(Thought(self._take(len(self._rest) if self._final else self._settled(self._marks.end_marker))))
        return False

    def _after_thinking(self) -> bool:
        self._rest = self._rest.lstrip()
        self._state = self._first if self._rest else self._state
        return bool(self._rest)

    def _first(self) -> bool:
        """The answer's first text: where a call of some formats has to begin, if there is to be one."""
        if self._format is None or self._format.anywhere:
            self._state = self._text
            return True
        begins = self._expect(self._format.opening)
        if begins is None and not self._final:
            return False
        self._opening = self._format.opening
        self._state = self._call_head if begins else self._only_text
        return True

    def _only_text(self) -> bool:
        self._emit(Content(self._take(len(self._rest))))
        return False

    def _text(self) -> bool:
        form = self._format
        if form is None:
            return self._only_text()
        at = self._rest.find(form.marker)
        if at >= 0:
            self._emit(Content(self._take(len(self._rest[:at].rstrip()))))
            self._opening = form.opening
            self._state = self._call_head
            return True
        self._emit(Content(self._take(len(self._rest) if self._final else self._settled(form.marker))))
        return False

    def _settled(self, mark: str) -> int:
        """How much of the rest is before any white space, or beginning of the mark, that it ends in."""
        for length in range(min(len(mark) - 1, len(self._rest)), 0, -1):
            if self._rest.endswith(mark[:length]):
                return len(self._rest[:-length].rstrip())
        return len(self._rest.rstrip())

    def _call_head(self) -> bool:
        assert self._format
        lead = len(self._rest) - len(self._rest.lstrip())
        head = self._rest[lead:]
        if not head.startswith(self._opening):
            return self._unless(self._opening.startswith(head))
        start = lead + len(self._opening)
        match = _NAME.match(self._rest, start)
        assert match
        behind = self._rest[match.end() :]
        if not behind.startswith(self._format.after_name):
            return self._unless(self._format.after_name.startswith(behind))
        if match[0] not in self._names:
            return self._unless(False)
        self._take(match.end() + len(self._format.after_name))
        self._call += 1
        self._emit(Call(self._call, self._format.new_id(), match[0]))
        self._depth, self._in_string, self._escaped = 0, False, False
        self._state = self._arguments
        return True

    def _unless(self, may_become_one: bool) -> bool:
        """What stands here is no call, unless it may yet become one."""
        if may_become_one:
            return self._cut_off()
        assert self._format
        at = self._rest.find(self._format.marker) + len(self._format.marker)
        self._emit(Content(self._take(at)))
        self._state = self._text if self._format.anywhere else self._only_text
        return True

    def _arguments(self) -> bool:
        """An object, up to the brace that closes it."""
        assert self._format
        if not self._depth and not self._rest.startswith("{"):
            self._state = self._call_tail
            return True
        position = 0
        while position < len(self._rest):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            found = _TELLING.search(self._rest, position)
            if not found:
                break
            position = found.end()
            character = found[0]
            if self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    self._emit(Arguments(self._call, self._take(position)))
                    self._state = self._call_tail
                    return True
        self._emit(Arguments(self._call, self._take(len(self._rest))))
        return False

    def _call_tail(self) -> bool:
        assert self._format
        closes = self._expect(self._format.closing)
        if closes is None:
            return self._cut_off()
        if closes:
            self._take(len(self._format.closing))
        self._state = self._after_call
        return True

    def _after_call(self) -> bool:
        assert self._format
        form = self._format
        following = self._expect(form.following) if form.following else False
        if following:
            self._opening = form.following.lstrip()
            self._state = self._call_head
            return True
        end = self._expect(form.end) if form.end else False
        if end:
            self._take(len(form.end))
        elif following is None or end is None:
            return self._cut_off()
        self._state = self._after_calls
        return True

    def _cut_off(self) -> bool:
        """A mark is not whole: at the end of the text it is dropped."""
        if self._final:
            self._rest = ""
        return False

    def _after_calls(self) -> bool:
        self._rest = self._rest.lstrip()
        if self._rest:
            self._state = self._text if self._format and self._format.anywhere else self._only_text
        return bool(self._rest)
