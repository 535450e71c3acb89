"""One choice's output: committed tokens in, events out. Plain synchronous code, called once per commit."""

from __future__ import annotations

from collections.abc import Sequence

from edgedraft.wire import FinishReason, TokenLogprobs
from gateway.model.served_model import ServedModel
from gateway.output.detokenizer import IncrementalDetokenizer
from gateway.output.events import (
    ChoiceFinished,
    ChoiceFinishReason,
    OutputDelta,
    OutputEvent,
    ReasoningDelta,
    TextDelta,
)
from gateway.output.parser import OutputParser, OutputSyntax


class ChoiceOutput:
    """Detokenizes and parses one choice's tokens until `finish_reason` is set.

    `tokens` are the ids that count: none after a stop string.
    """

    def __init__(
        self,
        choice: int,
        model: ServedModel,
        eos: Sequence[int] = (),
        stops: Sequence[str] = (),
        syntax: OutputSyntax | None = None,
    ) -> None:
        """Without `syntax` all text is the answer."""
        self.tokens: list[int] = []
        self.finish_reason: ChoiceFinishReason | None = None
        self._choice = choice
        self._eos = frozenset(eos)
        self._logprobs: list[TokenLogprobs] = []
        self._num_sent = 0  # tokens, and entries of `_logprobs`, that are in events
        self._parsed = _ParsedOutput(choice, model, syntax) if syntax else None
        skip_tokens = None
        if syntax and (marks := model.special_tokens & frozenset(model.marker_tokens.values())):
            skip_tokens = model.special_tokens - marks  # the parser reads marks that are special tokens
        self._detokenizer = IncrementalDetokenizer(model.tokenizer, stops, skip_tokens)

    @property
    def reasoning_tokens(self) -> int:
        return self._parsed.reasoning_tokens(len(self.tokens)) if self._parsed and self.finish_reason else 0

    def feed(
        self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = (), finish: FinishReason | None = None
    ) -> list[OutputEvent]:
        """Takes the next committed tokens, `finish` with the last of them. Returns the events, in order.

        `logprobs` has one entry per token, or none. A stop string finishes the choice whatever `finish` says; call
        `feed` no more after that.
        """
        decoded = self._detokenizer.add(tokens)
        self.tokens += tokens[: decoded.num_tokens]
        self._logprobs += logprobs[: decoded.num_tokens]
        text, until = decoded.text, self._num_sent + decoded.num_settled
        reason = "stop" if decoded.stopped else finish
        if reason and not decoded.stopped:
            text += self._detokenizer.flush()
            until = len(self.tokens)
            if self.tokens and self.tokens[-1] in self._eos:
                until -= 1
        events: list[OutputEvent] = []
        if text or (reason and self._logprobs and self._num_sent < until):
            sent = slice(self._num_sent, until)
            self._num_sent = until
            delta = TextDelta(self._choice, text, tuple(self.tokens[sent]), tuple(self._logprobs[sent]))
            if self._parsed:
                events += self._parsed.feed(delta)
            else:
                events.append(delta)
        if reason:
            if self._parsed:
                events += self._parsed.finish()
                reason = self._parsed.finish_reason(reason)
            self.finish_reason = reason
            events.append(ChoiceFinished(self._choice, reason))
        return events


class _ParsedOutput:
    """The output of a model that may reason or call tools.

    TextDeltas carry the tokens of the answer only: none of reasoning, of tool calls, or of marks that end in them.
    """

    def __init__(self, choice: int, model: ServedModel, syntax: OutputSyntax) -> None:
        self._model = model
        self._parser = OutputParser(syntax.thinking, syntax.calls, syntax.names, choice)
        self._close = model.marker_tokens.get(syntax.thinking.end_marker if syntax.thinking else "", -1)
        self._named_tool = syntax.named_tool
        self._reasoning = ""
        self._num_reasoning = 0  # tokens up to the mark that ends reasoning, including it
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []

    def feed(self, delta: TextDelta) -> list[OutputDelta]:
        if self._parser.thinking:
            closed = self._close in delta.tokens
            self._num_reasoning += delta.tokens.index(self._close) + 1 if closed else len(delta.tokens)
        elif not delta.text:
            return [] if self._parser.in_calls else [delta]
        else:
            self._tokens += delta.tokens
            self._logprobs += delta.logprobs
        return self._with_tokens(self._parser.feed(delta.text))

    def finish(self) -> list[OutputDelta]:
        return self._with_tokens(self._parser.finish())

    def finish_reason(self, reason: FinishReason) -> ChoiceFinishReason:
        if self._parser.num_calls and reason == "stop" and not self._named_tool:
            return "tool_calls"
        return reason

    def reasoning_tokens(self, num_tokens: int) -> int:
        """How many of the choice's `num_tokens` tokens are reasoning."""
        if not self._reasoning:
            return 0
        if self._parser.thinking:
            return num_tokens
        if self._close >= 0:
            return self._num_reasoning
        # Without a token of its own for the closing mark, tokens may span it: count the tokens of the text alone.
        return len(self._model.tokenizer.encode(self._reasoning, add_special_tokens=False).ids)

    def _with_tokens(self, deltas: list[OutputDelta]) -> list[OutputDelta]:
        """Puts the answer's tokens into its deltas. Tokens that end in a tool call are dropped."""
        for index, delta in enumerate(deltas):
            if isinstance(delta, ReasoningDelta):
                self._reasoning += delta.text
                continue
            if isinstance(delta, TextDelta):
                deltas[index] = TextDelta(delta.choice, delta.text, tuple(self._tokens), tuple(self._logprobs))
            self._tokens.clear()
            self._logprobs.clear()
        return deltas
