"""Grammars over the target's tokens: compiled once, kept while they are asked for, and followed by each session.

llguidance (https://github.com/guidance-ai/llguidance) does the parsing. A session's Constraint says at its place in
the text which tokens may come next; the choice among them is sampling.py's. Nothing here raises for what a grammar
does in mid-text: one that grows too complex fails, and its session ends there.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from edgedraft.grammar.probe import REASON, limits, refusal
from edgedraft.wire import ModelCard
from verifier.engine.interface import Request, RequestRejected

log = logging.getLogger(__name__)

MAX_CACHED = 32  # grammars, those asked for last
COMPILING = 2  # at once
TOKEN_SECONDS = 0.5  # of processor time for one mask or one token; common ones take a few 0.0001
TOO_SLOW = "the grammar takes too long a token"


class GrammarCache:
    """The compiled grammars of one model. Safe for use from several threads."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._tokenizer: LLTokenizer | None = None
        self._known: OrderedDict[str, LLMatcher | str] = OrderedDict()  # or why it is refused
        self._lock = threading.Lock()
        self._compiling = threading.Semaphore(COMPILING)

    def get_or_compile(self, grammar: str) -> LLMatcher | str:
        """Compile a grammar, or learn why it is refused. At once for one that is known, else it takes its time."""
        with self._lock:
            if known := self._known.get(grammar):
                self._known.move_to_end(grammar)
                return known
        with self._compiling:
            made = refusal(grammar) or self._compile(grammar)
        self._store(grammar, made)
        return made

    def start(self, grammar: str, committed: Sequence[int]) -> Constraint:
        """A session's place behind what it has committed. Raises Refused."""
        made = self.get_or_compile(grammar)
        if isinstance(made, str):
            raise RequestRejected(f"Invalid grammar: {made}")
        matcher = made.deep_copy()
        if committed and not matcher.consume_tokens(list(committed)):
            raise RequestRejected("the text so far does not follow the grammar")
        return Constraint(self, grammar, matcher)

    def reject(self, grammar: str, why: str) -> None:
        """Refuse this grammar from now on."""
        self._store(grammar, why)

    def _store(self, grammar: str, made: LLMatcher | str) -> None:
        with self._lock:
            self._known[grammar] = made
            while len(self._known) > MAX_CACHED:
                self._known.popitem(last=False)

    def _compile(self, grammar: str) -> LLMatcher | str:
        try:
            matcher = LLMatcher(self._load_tokenizer(), grammar, log_level=0, limits=limits())
        except ValueError as error:
            log.warning("no grammars with this model: %s", error)
            return "this model's tokenizer takes no grammars"
        return matcher.get_error()[:REASON] if matcher.is_error() else matcher

    def _load_tokenizer(self) -> LLTokenizer:
        """The model's tokens as llguidance reads them, made when they are first needed: that takes a second."""
        if self._tokenizer is None:
            source = zlib.decompress(self._card.tokenizer).decode()
            self._tokenizer = LLTokenizer(source, eos_token=list(self._card.eos) or None)
        return self._tokenizer


class Constraint:
    """One session's place in its grammar."""

    def __init__(self, grammars: GrammarCache, grammar: str, matcher: LLMatcher) -> None:
        self._grammars = grammars
        self._grammar = grammar
        self._matcher = matcher
        self._slow = False

    @property
    def is_complete(self) -> bool:
        """Whether it is complete, so that nothing can follow."""
        return not self.has_failed and self._matcher.is_stopped()

    @property
    def has_failed(self) -> bool:
        """Whether it cannot tell any more what may follow."""
        return self._slow or self._matcher.is_error()

    def allowed_tokens(self, vocab_size: int) -> np.ndarray | None:
        """Which tokens may come next, bool [vocab_size], at least one of them; None once it has failed.

        A model's logits may have more columns than its tokenizer has tokens. Those are never allowed.
        """
        began = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._watch(began)
        bits = np.unpackbits(mask, count=vocab_size, bitorder="little").view(np.bool_)
        return None if self.has_failed or not bits.any() else bits

    def accept_token(self, token: int) -> None:
        """This token, one of those allowed, comes next."""
        began = time.thread_time()
        self._matcher.consume_token(token)
        self._watch(began)

    def _watch(self, began: float) -> None:
        if time.thread_time() - began > TOKEN_SECONDS and not self._slow:
            self._slow = True
            self._grammars.reject(self._grammar, TOO_SLOW)
            log.warning("%s: its session ends", TOO_SLOW)


def start_constraint(request: Request, grammars: GrammarCache | None) -> Constraint | None:
    """A session's place in the grammar that it asks for, None if it asks for none. Raises Refused."""
    if not request.sampling.grammar:
        return None
    if grammars is None:
        raise RequestRejected("grammars are not served here")
    constraint = grammars.start(request.sampling.grammar, request.committed)
    if constraint.is_complete:
        raise RequestRejected("nothing can follow in the grammar")
    return constraint
