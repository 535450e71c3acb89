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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from edgedraft.grammar.compiler import GrammarError, compile_grammar
from edgedraft.grammar.service import MAX_WORKERS, GrammarService
from edgedraft.wire import ModelCard
from edgedraft.workers.pool import JobOwner, JobRefused, WorkersUnavailable
from verifier.engine.interface import Overloaded, Request, RequestRejected

log = logging.getLogger(__name__)

MAX_CACHED_BYTES = 128 << 20  # of compiled grammars that no session uses, those used last; by the estimates below
MATCHER_BYTES = 256 << 10  # a compiled grammar, without what depends on its length
BYTES_PER_CHARACTER = 20  # measured: a choice of 2,000 texts takes 17
BYTES_PER_TOKEN = 10 << 10  # that the lexer grows by while a text is followed, at worst
MAX_LEXER_BYTES = 28 << 20  # where it ends, at the limit of lexer states

TOKEN_SECONDS = 0.5  # of processor time for one mask or one token; common ones take a few 0.0001
TOO_SLOW = "the grammar takes too long a token"


@dataclass(eq=False, slots=True)
class CompiledGrammar:
    """A compiled grammar, or why it is rejected. Sessions follow copies of the matcher, which share its lexer.

    Without `is_final` it was not compiled, since the workers are busy or cannot be started: the grammar may be good.
    """

    matcher: LLMatcher | None
    error: str = ""
    num_characters: int = 0
    num_tokens: int = 0  # that sessions have followed it by
    is_final: bool = True

    @property
    def estimated_bytes(self) -> int:
        """What it takes in memory: llguidance does not tell."""
        lexer = min(MAX_LEXER_BYTES, self.num_tokens * BYTES_PER_TOKEN) if self.matcher else 0
        return MATCHER_BYTES + self.num_characters * BYTES_PER_CHARACTER + lexer


class GrammarCache:
    """The compiled grammars of one model. Safe for use from several threads.

    A matcher needs the model's tokenizer and cannot be sent between processes, so it is compiled in this one, under the
    limits that the service has found it to keep (edgedraft/grammar/limits.py).
    """

    def __init__(self, card: ModelCard, service: GrammarService | None = None) -> None:
        self._card = card
        self._service = service or GrammarService()
        self._tokenizer: LLTokenizer | None = None
        self._cached: OrderedDict[bytes, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()
        self._compiling = threading.Semaphore(MAX_WORKERS)

    def compile(self, grammar: str, share: str = "") -> CompiledGrammar:
        """Blocks while a grammar that is not cached compiles. `share` is whose part of the workers it takes."""
        return self._get(grammar, lambda: self._check_and_compile(grammar, share))

    def compile_checked(self, grammar: str) -> CompiledGrammar:
        """As `compile`, of a grammar that another cache of this model has compiled: no worker is asked again."""
        return self._get(grammar, lambda: self._compile(grammar))

    def _get(self, grammar: str, compile_missing: Callable[[], CompiledGrammar]) -> CompiledGrammar:
        digest = sha256(grammar.encode()).digest()
        with self._lock:
            if cached := self._cached.get(digest):
                self._cached.move_to_end(digest)
                return cached
        compiled = compile_missing()
        if compiled.is_final:
            with self._lock:
                self._cached[digest] = compiled
                self._evict()
        return compiled

    def start(self, compiled: CompiledGrammar, committed: Sequence[int]) -> Constraint:
        """Returns a session's constraint after the tokens that it has committed.

        Raises RequestRejected, and Overloaded for a grammar that was not compiled.
        """
        if not compiled.is_final:
            raise Overloaded(f"grammars cannot be compiled now: {compiled.error}")
        if compiled.matcher is None:
            raise RequestRejected(f"Invalid grammar: {compiled.error}")
        matcher = compiled.matcher.deep_copy()
        if committed and not matcher.consume_tokens(list(committed)):
            raise RequestRejected("the text so far does not follow the grammar")
        return Constraint(compiled, matcher)

    def _evict(self) -> None:
        taken = sum(compiled.estimated_bytes for compiled in self._cached.values())
        while taken > MAX_CACHED_BYTES:
            taken -= self._cached.popitem(last=False)[1].estimated_bytes

    def _check_and_compile(self, grammar: str, share: str) -> CompiledGrammar:
        try:
            error = self._service.find_compile_error(grammar, JobOwner(share))
        except (JobRefused, WorkersUnavailable) as refused:
            return CompiledGrammar(None, str(refused), is_final=False)
        return CompiledGrammar(None, error) if error else self._compile(grammar)

    def _compile(self, grammar: str) -> CompiledGrammar:
        try:
            with self._compiling:
                return CompiledGrammar(compile_grammar(grammar, self._load_tokenizer()), "", len(grammar))
        except GrammarError as refused:
            return CompiledGrammar(None, str(refused))
        except ValueError as unusable:
            log.warning("no grammars with this model: %s", unusable)
            return CompiledGrammar(None, "this model's tokenizer takes no grammars")

    def _load_tokenizer(self) -> LLTokenizer:
        """Returns llguidance's form of the model's tokenizer, built when it is first needed: that takes a second."""
        if self._tokenizer is None:
            source = zlib.decompress(self._card.tokenizer).decode()
            self._tokenizer = LLTokenizer(source, eos_token=list(self._card.eos) or None)
        return self._tokenizer


class Constraint:
    """One session's position in its grammar."""

    def __init__(self, compiled: CompiledGrammar, matcher: LLMatcher) -> None:
        self._compiled = compiled
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
        self._compiled.num_tokens += 1
        self._check_time(started)

    def _check_time(self, started: float) -> None:
        if time.thread_time() - started > TOKEN_SECONDS and not self._too_slow:
            self._too_slow = True
            self._compiled.matcher, self._compiled.error = None, TOO_SLOW  # for as long as it stays in the cache
            log.warning("%s: its session ends", TOO_SLOW)


def start_constraint(request: Request, grammars: GrammarCache | None) -> Constraint | None:
    """Returns a session's position in the grammar that it asks for, None for no grammar.

    Raises RequestRejected, and Overloaded while the grammar cannot be compiled.

    Blocks for a grammar that was neither prepared (Engine.precompile) nor used before.
    """
    if not request.sampling.grammar:
        return None
    if grammars is None:
        raise RequestRejected("grammars are not served here")
    prepared = request.prepared
    compiled = prepared if isinstance(prepared, CompiledGrammar) else grammars.compile(request.sampling.grammar)
    constraint = grammars.start(compiled, request.committed)
    if constraint.is_complete:
        raise RequestRejected("nothing can follow in the grammar")
    return constraint
