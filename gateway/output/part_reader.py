"""The reader of output that may hold thought and tool calls: output_parser.py's parts as a choice's events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgedraft.wire import TokenLogprobs
from gateway.model.served_model import ServedModel
from gateway.output.events import CallArguments, CallBegun, Delta, Event, Finished, Part, Reasoning
from gateway.output.parser import Arguments, Call, Content, OutputParser, OutputPart


class PartReader:
    """One choice's. With `named`, the one call was the client's choice, and OpenAI says "stop" at its end.

    A content's deltas carry the tokens of the answer alone: not those of thought, of calls or of marks that end in
    them. Tokens of thought are counted up to the mark that ends it, that included.
    """

    def __init__(self, model: ServedModel, parser: OutputParser, close: str, named: bool) -> None:
        """`close` is the mark that ends thought, empty for a model that does not think."""
        self.wanted = model.special_tokens & frozenset(model.marker_tokens.values())
        self._model = model
        self._parser = parser
        self._close = model.marker_tokens.get(close, -1)
        self._named = named
        self._thought = ""
        self._thought_tokens = 0
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []

    def read(self, delta: Delta) -> Iterator[Part]:
        if self._parser.thinking:
            closed = self._close in delta.tokens
            self._thought_tokens += delta.tokens.index(self._close) + 1 if closed else len(delta.tokens)
        elif not delta.text:
            if not self._parser.in_calls:
                yield delta
            return
        else:
            self._tokens += delta.tokens
            self._logprobs += delta.logprobs
        for part in self._parser.feed(delta.text):
            yield self._event(delta.choice, part)

    def end(self, finished: Finished) -> Iterator[Event]:
        for part in self._parser.finish():
            yield self._event(finished.choice, part)
        reason = finished.reason
        if self._parser.calls and reason == "stop" and not self._named:
            reason = "tool_calls"
        yield replace(finished, reason=reason, reasoning=self._reasoning(finished.tokens))

    def _reasoning(self, tokens: int) -> int:
        if not self._thought:
            return 0
        if self._parser.thinking:
            return tokens
        if self._close >= 0:
            return self._thought_tokens
        # Where no token of its own ends thought, tokens straddle the border: count such as the text would have.
        return len(self._model.tokenizer.encode(self._thought, add_special_tokens=False).ids)

    def _event(self, choice: int, part: OutputPart) -> Part:
        match part:
            case Content(text):
                tokens, logprobs = tuple(self._tokens), tuple(self._logprobs)
                self._forget()
                return Delta(choice, text, tokens, logprobs)
            case Call(index, id_, name):
                self._forget()
                return CallBegun(choice, index, id_, name)
            case Arguments(index, text):
                self._forget()
                return CallArguments(choice, index, text)
            case _:
                self._thought += part.text
                return Reasoning(choice, part.text)

    def _forget(self) -> None:
        self._tokens.clear()
        self._logprobs.clear()
