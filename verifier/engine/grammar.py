"""Grammars over the target's tokens: compiled once, cached, and followed by each session.

llguidance (https://github.com/guidance-ai/llguidance) does the parsing. A session's Constraint gives the mask of the
tokens that may come next; edgedraft/sampling/sampler.py samples among them. A grammar that exceeds a limit in mid-text
fails without an exception, and its session ends.
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

from edgedraft.grammar.compiler import GrammarError, compile_grammar
from edgedraft.grammar.service import MAX_WORKERS, GrammarService
from edgedraft.wire import ModelCard
from verifier.engine.interface import Request, RequestRejected

log = logging.getLogger(__name__)

MAX_CACHED = 32  # grammars, those used last
TOKEN_SECONDS = 0.5  # of processor time for one mask or one token; common ones take a few 0.0001
TOO_SLOW = "the grammar takes too long a token"


class GrammarCache:
    """The compiled grammars of one model. Safe for use from several threads.

    A matcher needs the model's tokenizer and cannot be sent between processes, so it is compiled in this one, under the
    limits that the service has found it to keep (edgedraft/grammar/limits.py).
    """

    def __init__(self, card: ModelCard, service: GrammarService | None = None) -> None:
        self._card = card
        self._service = service or GrammarService()
        self._tokenizer: LLTokenizer | None = None
        self._cached: OrderedDict[str, LLMatcher | str] = OrderedDict()  # a str is why the grammar is rejected
        self._lock = threading.Lock()
        self._compiling = threading.Semaphore(MAX_WORKERS)

    def get_or_compile(self, grammar: str) -> LLMatcher | str:
        """Returns the compiled grammar, or why it is rejected. Blocks while one that is not cached compiles."""
        with self._lock:
            if cached := self._cached.get(grammar):
                self._cached.move_to_end(grammar)
                return cached
        with self._compiling:
            compiled = self._service.find_compile_error(grammar) or self._compile(grammar)
        self._store(grammar, compiled)
        return compiled

    def start(self, grammar: str, committed: Sequence[int]) -> Constraint:
        """Returns a session's constraint after the tokens that it has committed. Raises RequestRejected."""
        compiled = self.get_or_compile(grammar)
        if isinstance(compiled, str):
            raise RequestRejected(f"Invalid grammar: {compiled}")
        matcher = compiled.deep_copy()
        if committed and not matcher.consume_tokens(list(committed)):
            raise RequestRejected("the text so far does not follow the grammar")
        return Constraint(self, grammar, matcher)

    def reject(self, grammar: str, reason: str) -> None:
        """Rejects the grammar from now on, for as long as it stays in the cache."""
        self._store(grammar, reason)

    def _store(self, grammar: str, compiled: LLMatcher | str) -> None:
        with self._lock:
            self._cached[grammar] = compiled
            while len(self._cached) > MAX_CACHED:
                self._cached.popitem(last=False)

    def _compile(self, grammar: str) -> LLMatcher | str:
        try:
            return compile_grammar(grammar, self._load_tokenizer())
        except GrammarError as error:
            return str(error)
        except ValueError as error:
            log.warning("no grammars with this model: %s", error)
            return "this model's tokenizer takes no grammars"

    def _load_tokenizer(self) -> LLTokenizer:
        """Returns llguidance's form of the model's tokenizer, built when it is first needed: that takes a second."""
        if self._tokenizer is None:
            source = zlib.decompress(self._card.tokenizer).decode()
            self._tokenizer = LLTokenizer(source, eos_token=list(self._card.eos) or None)
        return self._tokenizer


class Constraint:
    """One session's position in its grammar."""

    def __init__(self, cache: GrammarCache, grammar: str, matcher: LLMatcher) -> None:
        self._cache = cache
        self._grammar = grammar
        self._matcher = matcher
        self._too_slow = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return not self.has_failed and self._matcher.is_stopped()

    @property
    def has_failed(self) -> bool:
        """Whether a limit was exceeded, so that what may follow is unknown."""
        return self._too_slow or self._matcher.is_error()

    def allowed_tokens(self, vocab_size: int) -> np.ndarray | None:
        """Returns which tokens may come next, bool [vocab_size], at least one of them; None once it has failed.

        A model's logits may have more columns than its tokenizer has tokens. Those are never allowed.
        """
        started = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check_time(started)
        bits = np.unpackbits(mask, count=vocab_size, bitorder="little").view(np.bool_)
        return None if self.has_failed or not bits.any() else bits

    def accept_token(self, token: int) -> None:
        """Moves past a token, which must be an allowed one."""
        started = time.thread_time()
        self._matcher.consume_token(token)
        self._check_time(started)

    def _check_time(self, started: float) -> None:
        if time.thread_time() - started > TOKEN_SECONDS and not self._too_slow:
            self._too_slow = True
            self._cache.reject(self._grammar, TOO_SLOW)
            log.warning("%s: its session ends", TOO_SLOW)


def start_constraint(request: Request, grammars: GrammarCache | None) -> Constraint | None:
    """Returns a session's position in the grammar that it asks for, None for no grammar. Raises RequestRejected."""
    if not request.sampling.grammar:
        return None
    if grammars is None:
        raise RequestRejected("grammars are not served here")
    constraint = grammars.start(request.sampling.grammar, request.committed)
    if constraint.is_complete:
        raise RequestRejected("nothing can follow in the grammar")
    return constraint
