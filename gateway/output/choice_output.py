"""One choice's output: committed tokens in, events out. Plain synchronous code, called once per commit."""

from __future__ import annotations

from collections.abc import Sequence

from edgedraft.wire import FinishReason, TokenLogprobs
from gateway.model.served_model import ServedModel
from gateway.output.detokenizer import IncrementalDetokenizer
from gateway.output.events import (
    ChoiceFinished,
    ChoiceFinishReason,
    OutputEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallStarted,
)
from gateway.output.parser import Content, OutputParser, OutputPart, OutputSyntax
from gateway.output.stop_strings import StopStrings
from gateway.output.token_ends import TokenEnds


class ChoiceOutput:
    """Detokenizes and parses one choice's tokens until `finish_reason` is set.

    `tokens` are the ids that count: none after a stop string. Stop strings are looked for in the content alone, not in
    reasoning, tool calls or markers.
    """

    def __init__(
        self,
        choice: int,
        model: ServedModel,
        eos: Sequence[int] = (),
        stops: Sequence[str] = (),
        syntax: OutputSyntax | None = None,
        min_tokens: int = 0,
    ) -> None:
        """Without `syntax` all text is the answer. Stop strings within the first `min_tokens` tokens do not count."""
        self.tokens: list[int] = []
        self.finish_reason: ChoiceFinishReason | None = None
        self._choice = choice
        self._eos = frozenset(eos)
        self._min_tokens = min_tokens
        self._logprobs: list[TokenLogprobs] = []
        self._ends = TokenEnds()
        self._stops = StopStrings(stops)
        self._named_tool = bool(syntax and syntax.named_tool)
        self._num_calls = 0
        self._has_reasoning = False
        self._num_reasoning: int | None = None  # tokens of the reasoning, None before its end
        thinking = syntax.thinking if syntax else None
        self._ends_reasoning_by_token = bool(thinking and thinking.end_marker in model.marker_tokens)
        self._parser = OutputParser(syntax.thinking, syntax.calls, syntax.names, choice) if syntax else None
        skip_tokens = None
        if syntax and (marks := model.special_tokens & frozenset(model.marker_tokens.values())):
            skip_tokens = model.special_tokens - marks  # the parser reads marks that are special tokens
        self._detokenizer = IncrementalDetokenizer(model.tokenizer, skip_tokens)
        if min_tokens:
            self._stops.not_before = float("inf")

    @property
    def reasoning_tokens(self) -> int:
        """How many of the tokens are reasoning. 0 until the choice has finished."""
        if not self._has_reasoning or not self.finish_reason:
            return 0
        return len(self.tokens) if self._num_reasoning is None else self._num_reasoning

    def feed(
        self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = (), finish: FinishReason | None = None
    ) -> list[OutputEvent]:
        """Takes the next committed tokens, `finish` with the last of them. Returns the events, in order.

        `logprobs` has one entry per token, or none. A stop string finishes the choice whatever `finish` says; call
        `feed` no more after that.
        """
        parts = self._parse(self._detokenize(tokens))
        self._logprobs += logprobs
        in_content = self._parser is None or not self._parser.in_calls
        if finish and self._parser:
            parts += self._parser.finish(cut=finish == "length")
        events: list[OutputEvent] = []
        for part in parts:
            if isinstance(part, Content):
                content = self._stops.add(part)
                if self._stops.end is not None:
                    return self._finish_at_stop(content, events)
                self._append(content, events)
                continue
            self._append(self._stops.flush(), events)
            events.append(part)
            self._num_calls += isinstance(part, ToolCallStarted)
            self._has_reasoning = self._has_reasoning or isinstance(part, ReasoningDelta)
        if finish:
            self._append(self._stops.flush(), events)
            if in_content:
                self._append_textless(events)
            self._finish(finish, events)
        return events

    def _detokenize(self, tokens: Sequence[int]) -> str:
        pieces = [self._detokenizer.add(token) for token in tokens]
        missing = self._min_tokens - len(self.tokens)  # before stop strings count
        for number, text in enumerate(pieces, 1):
            self._ends.add(text)
            if number == missing:
                self._stops.not_before = self._ends.length
        self.tokens += tokens
        return "".join(pieces)

    def _parse(self, text: str) -> list[OutputPart]:
        if not text:
            return []
        if self._parser is None:
            return [Content(self._ends.length - len(text), text)]
        parts = self._parser.feed(text)
        if self._num_reasoning is None and self._parser.reasoning_end is not None:
            self._num_reasoning = self._count_reasoning(self._parser.reasoning_end, self._parser.reasoning_text)
        return parts

    def _count_reasoning(self, end: int, text: tuple[int, int] | None) -> int:
        """Tokens up to a marker that is one, with it. Of a marker in ordinary tokens none is counted."""
        if self._ends_reasoning_by_token:
            return self._ends.count(end)
        return self._ends.count(text[1]) - self._ends.count(text[0]) if text else 0

    def _append(self, content: Content, events: list[OutputEvent]) -> None:
        if content.text:
            self._append_text(content.text, self._ends.take(content.start, content.end), events)

    def _append_text(self, text: str, tokens: slice, events: list[OutputEvent]) -> None:
        """Adds to the last event where that is text already, so that a commit has one event for a run of text."""
        delta = TextDelta(self._choice, text, tuple(self.tokens[tokens]), tuple(self._logprobs[tokens]))
        if events and isinstance(last := events[-1], TextDelta):
            events[-1] = TextDelta(
                self._choice, last.text + text, last.tokens + delta.tokens, last.logprobs + delta.logprobs
            )
        elif delta.text or delta.logprobs:
            events.append(delta)

    def _append_textless(self, events: list[OutputEvent]) -> None:
        """Reports the tokens without text at the end, all but the end token."""
        until = len(self.tokens)
        start = until - self._ends.num_textless
        if self.tokens and self.tokens[-1] in self._eos:
            until -= 1
        if start < until:
            self._append_text("", slice(start, until), events)

    def _finish_at_stop(self, content: Content, events: list[OutputEvent]) -> list[OutputEvent]:
        assert self._stops.end is not None
        del self.tokens[self._ends.count_until(self._stops.end) :]
        self._append_text(content.text, self._ends.take_begun(content.start, content.end), events)
        self._finish("stop", events)
        return events

    def _finish(self, reason: ChoiceFinishReason, events: list[OutputEvent]) -> None:
        if reason == "stop" and self._parser and self._stops.end is None and self._parser.in_arguments:
            reason = "length"  # a call whose arguments are not complete is never told as complete
        if reason == "stop" and self._num_calls and not self._named_tool:
            reason = "tool_calls"
        self.finish_reason = reason
        events.append(ChoiceFinished(self._choice, reason))
