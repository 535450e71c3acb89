"""Parses a model's text, as it arrives, into reasoning, content and tool calls.

The parts do not depend on how the text was split. Text that may become a marker is held back; text that looked like a
tool call but is none becomes content, unchanged. Where the text was cut, a beginning of a marker is dropped. Output
under a grammar (gateway/prompt/output_grammar.py) always parses; the parser does not rely on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.model.reasoning import ReasoningFormat
from gateway.model.tool_call_format import ToolCallFormat
from gateway.output.events import ReasoningDelta, ToolCallArgumentsDelta, ToolCallStarted

_NAME = re.compile(r"[a-zA-Z0-9_-]{0,64}")
_STRUCTURAL = re.compile(r'[{}\[\]"\\]')  # the characters that decide where an argument object ends

MAX_DROPPED_SPACE = 32  # characters of white space that belong to a marker; a model may write it without end

_State = Callable[[], bool]  # consumes what it can of the buffer; False when it needs more text


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer. `start` is where it stands in the model's complete text, in characters."""

    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


OutputPart = Content | ReasoningDelta | ToolCallStarted | ToolCallArgumentsDelta


@dataclass(frozen=True, slots=True)
class OutputSyntax:
    """What a model's text may contain besides the answer: reasoning, and tool calls of the functions in `names`.

    With `named_tool` the client named the function to call, and the finish reason is "stop", as in OpenAI's API.
    """

    thinking: ReasoningFormat | None
    calls: ToolCallFormat | None
    names: tuple[str, ...] = ()
    named_tool: bool = False


class OutputParser:
    """Call `feed` with each piece of text and `finish` at the end.

    `reasoning_end` is where the marker that ends the reasoning ends in the complete text, None before it;
    `reasoning_text` is where its text starts and ends so far.
    """

    def __init__(
        self,
        thinking: ReasoningFormat | None,
        calls: ToolCallFormat | None,
        names: Collection[str] = (),
        choice: int = 0,
    ) -> None:
        """`names` are the functions that exist: a call of any other function is part of the answer."""
        self._thinking_marks = thinking
        self._call_format = calls
        self._names = frozenset(names)
        self.reasoning_end: int | None = None
        self.reasoning_text: tuple[int, int] | None = None
        self._buffer = ""
        self._offset = 0  # of the buffer, in characters of the complete text
        self._final = False
        self._cut = False
        self._choice = choice
        self._parts: list[OutputPart] = []
        self._call = -1
        self._depth, self._in_string, self._escaped = 0, False, False
        self._opening = ""
        self._at_start = True  # of the reasoning: nothing of it has been emitted
        if thinking is None:
            self._state: _State = self._first
        else:
            self._state = self._thinking if thinking.opened_by_prompt else self._before_thinking

    @property
    def thinking(self) -> bool:
        """Whether the next text is reasoning."""
        return self._state in (self._thinking, self._before_thinking)

    @property
    def in_arguments(self) -> bool:
        """Whether a tool call has started whose arguments are not complete."""
        return self._state == self._arguments

    @property
    def in_calls(self) -> bool:
        """Whether the next text is part of tool calls."""
        return self._state not in (self._first, self._text, self._only_text)

    def feed(self, text: str) -> list[OutputPart]:
        self._buffer += text
        while self._buffer and self._state():
            pass
        parts, self._parts = self._parts, []
        return parts

    def finish(self, cut: bool) -> list[OutputPart]:
        """Returns what was held back. `cut` says that the model would have gone on.

        A call that ends before its name is complete is dropped; where the text is cut, a beginning of a marker is, too.
        """
        self._final, self._cut = True, cut
        return self.feed("")

    def _take(self, length: int) -> str:
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        self._offset += len(taken)
        return taken

    def _skip_space(self) -> None:
        self._take(len(self._buffer) - len(self._buffer.lstrip()))

    def _emit_content(self, length: int) -> None:
        """The next `length` characters of the buffer are content."""
        content = Content(self._offset, self._take(length))
        if self._parts and isinstance(last := self._parts[-1], Content):
            self._parts[-1] = Content(last.start, last.text + content.text)
        elif length:
            self._parts.append(content)

    def _emit_reasoning(self, length: int) -> None:
        """The next `length` characters of the buffer are reasoning."""
        start, text = self._offset, self._take(length)
        if text:
            self.reasoning_text = self.reasoning_text[0] if self.reasoning_text else start, self._offset
            self._parts.append(ReasoningDelta(self._choice, text))

    def _emit_arguments(self, length: int) -> None:
        if text := self._take(length):
            self._parts.append(ToolCallArgumentsDelta(self._choice, self._call, text))

    def _expect(self, literal: str) -> bool | None:
        """Whether the buffer begins with `literal`; None when more text is needed to tell."""
        if self._buffer.startswith(literal):
            return True
        return None if literal.startswith(self._buffer) else False

    def _before_thinking(self) -> bool:
        assert self._thinking_marks
        lead = len(self._buffer) - len(self._buffer.lstrip())
        marker, begins = self._thinking_marks.start_marker, self._buffer[lead:]
        if lead <= MAX_DROPPED_SPACE:
            if begins.startswith(marker):
                self._take(lead + len(marker))
                self._state = self._thinking
                return True
            if marker.startswith(begins) and not self._final:
                return False
            if begins and marker.startswith(begins) and self._cut:
                self._take(len(self._buffer))
        self._state = self._first
        return True

    def _thinking(self) -> bool:
        assert self._thinking_marks
        marker = self._thinking_marks.end_marker
        if self._at_start:
            self._skip_space()
            self._at_start = not self._buffer
        end = self._buffer.find(marker)
        if end >= 0:
            self._emit_reasoning(_before_space(self._buffer[:end]))
            self._take(self._buffer.find(marker) + len(marker))
            self.reasoning_end = self._offset
            self._state, self._at_start = self._after_thinking, True
            return True
        self._emit_reasoning(self._settled(marker))
        return False

    def _after_thinking(self) -> bool:
        self._skip_space()
        self._state = self._first if self._buffer else self._state
        return bool(self._buffer)

    def _first(self) -> bool:
        """The start of the answer, the only place where some formats allow a call."""
        if self._call_format is None or self._call_format.anywhere:
            self._state = self._text
            return True
        begins = self._expect(self._call_format.opening)
        if begins is None:
            if not self._final:
                return False
            if self._cut:
                self._take(len(self._buffer))
        self._opening = self._call_format.opening
        self._state = self._call_head if begins else self._only_text
        return True

    def _only_text(self) -> bool:
        self._emit_content(len(self._buffer))
        return False

    def _text(self) -> bool:
        form = self._call_format
        if form is None:
            return self._only_text()
        at = self._buffer.find(form.marker)
        if at >= 0:
            self._emit_content(_before_space(self._buffer[:at]))
            self._opening = form.opening
            self._state = self._call_head
            return True
        self._emit_content(self._settled(form.marker))
        return False

    def _settled(self, marker: str) -> int:
        """The length of the buffer that is not part of a marker, whatever follows."""
        for length in range(min(len(marker) - 1, len(self._buffer)), 0, -1):
            if self._buffer.endswith(marker[:length]):
                if self._final and not self._cut:
                    return len(self._buffer)
                return _before_space(self._buffer[:-length])
        return len(self._buffer) if self._final else _before_space(self._buffer)

    def _call_head(self) -> bool:
        assert self._call_format
        lead = len(self._buffer) - len(self._buffer.lstrip())
        head = self._buffer[lead:]
        if not head.startswith(self._opening):
            return self._as_text_unless(self._opening.startswith(head))
        start = lead + len(self._opening)
        match = _NAME.match(self._buffer, start)
        assert match
        rest = self._buffer[match.end() :]
        if not rest.startswith(self._call_format.after_name):
            return self._as_text_unless(self._call_format.after_name.startswith(rest))
        if match[0] not in self._names:
            return self._as_text_unless(False)
        self._take(match.end() + len(self._call_format.after_name))
        self._call += 1
        self._parts.append(ToolCallStarted(self._choice, self._call, self._call_format.new_id(), match[0]))
        self._depth, self._in_string, self._escaped = 0, False, False
        self._state = self._arguments
        return True

    def _as_text_unless(self, may_become_call: bool) -> bool:
        """Treats the buffer as text, unless more text may make it a call."""
        if may_become_call:
            return self._await_mark()
        assert self._call_format
        at = self._buffer.find(self._call_format.marker) + len(self._call_format.marker)
        self._emit_content(at)
        self._state = self._text if self._call_format.anywhere else self._only_text
        return True

    def _arguments(self) -> bool:
        """A JSON object, up to its closing brace."""
        assert self._call_format
        if not self._depth and not self._buffer.startswith("{"):
            self._state = self._call_tail
            return True
        position = 0
        while position < len(self._buffer):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            found = _STRUCTURAL.search(self._buffer, position)
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
                    self._emit_arguments(position)
                    self._state = self._call_tail
                    return True
        self._emit_arguments(len(self._buffer))
        return False

    def _call_tail(self) -> bool:
        assert self._call_format
        closes = self._expect(self._call_format.closing)
        if closes is None:
            return self._await_mark()
        if closes:
            self._take(len(self._call_format.closing))
        self._state = self._after_call
        return True

    def _after_call(self) -> bool:
        assert self._call_format
        form = self._call_format
        following = self._expect(form.following) if form.following else False
        if following:
            self._opening = form.following.lstrip()
            self._state = self._call_head
            return True
        end = self._expect(form.end) if form.end else False
        if end:
            self._take(len(form.end))
        elif following is None or end is None:
            return self._await_mark()
        self._state = self._after_calls
        return True

    def _await_mark(self) -> bool:
        """Waits for the rest of a mark; at the end of the text an incomplete one is dropped."""
        if self._final:
            self._buffer = ""
        return False

    def _after_calls(self) -> bool:
        self._skip_space()
        if self._buffer:
            self._state = self._text if self._call_format and self._call_format.anywhere else self._only_text
        return bool(self._buffer)


def _before_space(text: str) -> int:
    """The length of `text` without its trailing white space, of which MAX_DROPPED_SPACE characters count."""
    return max(len(text.rstrip()), len(text) - MAX_DROPPED_SPACE)
