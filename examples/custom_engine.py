"""A verifier with an engine of its own: a Markov chain over bytes, learned from text files, as the target.

    python examples/custom_engine.py README.md docs/*.md

It prints the URL that `edgedraft gateway --verifier` takes. The engine is complete: it samples reproducibly, verifies
draft trees, follows grammars and reports log-probabilities, all of which `Verification` does from the engine's logits.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgedraft.serving.server import serve
from edgedraft.tokenizer import fingerprint
from edgedraft.wire import MAX_FRAME, ModelCard, Sampling
from verifier.engine.grammar import GrammarCache, start_constraint
from verifier.engine.interface import Capacity, Overloaded, Request, ScheduledSession, StepResult, check_bounds
from verifier.engine.verification import Verification
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.server import build_app

ORDER = 6  # bytes that the next one depends on
CONTEXT_LENGTH = 4096
MAX_SESSIONS = 8
END = "<|end|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


class MarkovChain:
    """Log-probabilities of the next token, from counts of what followed the longest suffix that was seen."""

    def __init__(self, text: Sequence[int], vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._followers: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for i, token in enumerate(text):
            for order in range(min(ORDER, i) + 1):
                self._followers[tuple(text[i - order : i])][token] += 1

    def logits(self, context: Sequence[int]) -> torch.Tensor:
        """float32 [vocab_size]."""
        row = torch.full((self._vocab_size,), -20.0)  # not impossible: a grammar may leave nothing else
        for order in range(min(ORDER, len(context)), -1, -1):
            if followers := self._followers.get(tuple(context[len(context) - order :])):
                counts = torch.tensor(list(followers.values()), dtype=torch.float32)
                row[list(followers)] = (counts / counts.sum()).log()
                break
        return row


@dataclass(slots=True)
class MarkovSession:
    request: Request
    verification: Verification
    text: list[int] = field(init=False)  # prompt and output
    num_uncomputed: int = field(init=False)

    def __post_init__(self) -> None:
        self.text = [*self.request.prompt, *self.request.committed]
        self.num_uncomputed = len(self.text)


class MarkovEngine:
    """verifier.engine.interface.Engine over a MarkovChain."""

    supports_trees = True
    context_length = CONTEXT_LENGTH

    def __init__(self, chain: MarkovChain, card: ModelCard) -> None:
        self.vocab_size = card.vocab_size
        self._chain = chain
        self._grammars = GrammarCache(card)
        self._sessions: dict[int, MarkovSession] = {}

    def precompile(self, sampling: Sampling, share: str) -> object:
        return self._grammars.compile(sampling.grammar, share) if sampling.grammar else None

    def validate(self, request: Request) -> None:
        check_bounds(request, self.vocab_size, self.context_length)
        start_constraint(request, self._grammars)

    def open(self, request: Request) -> int:
        self.validate(request)
        if len(self._sessions) >= MAX_SESSIONS:
            raise Overloaded(f"{MAX_SESSIONS} sessions are running")
        session = MarkovSession(request, Verification(request, start_constraint(request, self._grammars)))
        self._sessions[request.session] = session
        return session.num_uncomputed

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        return [self._step(item) for item in scheduled]

    def _step(self, item: ScheduledSession) -> StepResult:
        began = time.perf_counter()
        session = self._sessions[item.session]
        session.num_uncomputed = max(0, session.num_uncomputed - item.num_tokens)
        if session.num_uncomputed:
            return StepResult(item.session, (), session.num_uncomputed)
        contexts = [session.text]  # the committed text, then the path to each draft node
        for token, parent in zip(item.draft.tokens, item.draft.parents, strict=True):
            contexts.append([*contexts[parent + 1], token])
        logits = torch.stack([self._chain.logits(context) for context in contexts])
        output = len(session.text) - len(session.request.prompt)
        result = session.verification.verify(logits, output, item.draft)
        session.text.extend(result.tokens)
        session.num_uncomputed = 1  # the token that was committed last
        return StepResult(
            session=item.session,
            tokens=result.tokens,
            num_uncomputed=1,
            nodes=len(item.draft),
            depth=max(item.draft.depths, default=0),
            accepted=len(result.path),
            seconds=time.perf_counter() - began,
            finish=result.finish,
            logprobs=result.logprobs,
        )

    def close(self, session: int) -> None:
        self._sessions.pop(session, None)

    def capacity(self) -> Capacity:
        held = sum(len(session.text) for session in self._sessions.values())
        total = MAX_SESSIONS * CONTEXT_LENGTH
        return Capacity(MAX_SESSIONS - len(self._sessions), total, total - held)


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and one for the end of a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return tokenizer


def main(paths: list[str]) -> None:
    tokenizer = byte_tokenizer()
    source = tokenizer.to_str().encode()
    end = tokenizer.token_to_id(END)
    assert end is not None
    card = ModelCard(
        name="markov",
        fingerprint=fingerprint(source),
        vocab_size=tokenizer.get_vocab_size(),
        context_length=CONTEXT_LENGTH,
        eos=(end,),
        tokenizer=zlib.compress(source),
        chat_template=TEMPLATE,
        eos_token=END,
    )
    text = [token for path in paths for token in (*tokenizer.encode(Path(path).read_text()).ids, end)]
    engine = MarkovEngine(MarkovChain(text, card.vocab_size), card)
    limits = SchedulerLimits(step_tokens=512, verify_nodes=16, prompt_delay=0.3, draft_wait=0.5, wait_share=1.0)
    app = build_app(engine, limits, card, max_sessions=2 * MAX_SESSIONS, token="")
    serve(app, "127.0.0.1", 0, "edgedraft verifier ready ws://{}".format, MAX_FRAME)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: custom_engine.py TEXT_FILE...")
    main(sys.argv[1:])
