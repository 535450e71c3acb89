"""A GGUF file as a drafter, run by llama.cpp through xllamacpp: for desktops without PyTorch.

llama.cpp's server runs inside this process and is called directly, not over a network; the HTTP port that it opens on
the loopback address requires a random key. Each session has one server slot, whose KV cache keeps the common prefix of
consecutive requests. A request decodes one token and reads the most likely next tokens
(proposals/from_top_tokens.py). Requests of several sessions run in parallel, those of one session one after another.

This module does not decide where in a tree to draft or what is sent (drafting/draft_session.py).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.drafters.gguf.header import read_gguf_header
from edge_agent.drafters.interface import INCOMPLETE, NO_PROPOSAL, DraftRequest, Proposal
from edge_agent.drafters.proposals.from_top_tokens import num_top_tokens, propose_from_top_tokens
from edge_agent.drafters.proposals.token_counts import SessionTokenCounts
from edgedraft.tokenizer import fingerprint_vocabulary

PREFILL_CHUNK = 256  # prompt tokens per call; other sessions wait for it
KV_NUMBER_BYTES = 2  # llama.cpp's KV cache is float16
UNUSED_TOKEN_TYPE = 5  # llama.cpp's token type of padding entries of a vocabulary


@dataclass(frozen=True, slots=True)
class GgufMetadata:
    """From a GGUF file's header: the fingerprint of its tokenizer, the file size, and the KV cache bytes per token."""

    fingerprint: str
    weight_bytes: int
    kv_bytes_per_token: int


def read_gguf_metadata(path: Path) -> GgufMetadata:
    """Read a GGUF file's header. Raises ValueError when it is not a causal LM in GGUF or has no tokenizer."""
    fields = read_gguf_header(path)
    try:
        vocabulary = _vocabulary(fields)
        kind = fields["general.architecture"]
        heads = fields[f"{kind}.attention.head_count"]
        kv_heads = max(np.atleast_1d(fields[f"{kind}.attention.head_count_kv"]))
        length = f"{kind}.attention.key_length"
        dim = fields[length] if length in fields else fields[f"{kind}.embedding_length"] // heads
        kv_bytes = 2 * fields[f"{kind}.block_count"] * int(kv_heads) * dim * KV_NUMBER_BYTES
    except KeyError as error:
        raise ValueError(f"{path} does not tell its {error}") from None
    return GgufMetadata(fingerprint_vocabulary(vocabulary), path.stat().st_size, kv_bytes)


def read_gguf_vocabulary(path: Path) -> dict[int, str]:
    """A GGUF file's tokens by id, without padding entries. Raises ValueError when it has no tokenizer."""
    try:
        return _vocabulary(read_gguf_header(path))
    except KeyError as error:
        raise ValueError(f"{path} does not tell its {error}") from None


def _vocabulary(fields: Mapping[str, Any]) -> dict[int, str]:
    kinds = fields.get("tokenizer.ggml.token_type", ())
    unused = {i for i, kind in enumerate(kinds) if kind == UNUSED_TOKEN_TYPE}
    return {i: token for i, token in enumerate(fields["tokenizer.ggml.tokens"]) if i not in unused}


class LlamaCpp:
    """A loaded GGUF model with `slots` server slots, which share `kv_tokens` evenly."""

    def __init__(self, path: Path, slots: int, kv_tokens: int, threads: int, on_cpu: bool) -> None:
        """`threads` 0 takes all CPUs but one. Raises ValueError when the model cannot be loaded."""
        xllamacpp: Any = import_module("xllamacpp")  # compiled, and without types
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.kv_unified = kv_tokens, slots, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or max(1, (os.cpu_count() or 2) - 1)
        if on_cpu:
            params.n_gpu_layers = 0
        # Copies of idle slots and checkpoints would cost more than they save: a session keeps its slot to its end.
        params.cache_ram_mib, params.cache_idle_slots, params.n_ctx_checkpoints = 0, False, 0
        params.api_keys, params.ui, params.n_threads_http, params.verbosity = [secrets.token_hex(16)], False, 1, -1
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        self.slots, self.max_context = slots, kv_tokens // slots

    def top_tokens(self, slot: int, tokens: Sequence[int], count: int) -> list[tuple[int, float]] | None:
        """The `count` most likely tokens after `tokens` with their log-probabilities, best first; None on failure.

        With `count` 0 the tokens are only prefilled.
        """
        answer: Any = self._server.handle_completions(
            {
                "prompt": list(tokens),
                "id_slot": slot,
                "n_predict": 1 if count else 0,
                "n_probs": count,
                "cache_prompt": True,
                "stream": False,
            }
        )
        if "choices" not in answer:
            return None
        if not count:
            return []
        # None of a token that ends inside of a character: llama.cpp holds it back until the character is complete.
        logprobs = answer["choices"][0]["logprobs"]
        top = logprobs["content"][0]["top_logprobs"] if logprobs else []
        return [(int(entry["id"]), float(entry["logprob"])) for entry in top] or None


class GgufDrafter:
    """Drafts with a LlamaCpp. Nothing else may use its slots."""

    def __init__(self, model: LlamaCpp, vocab_size: int) -> None:
        """Tokens at or above the target's `vocab_size` are not proposed. A session without a slot gets NO_PROPOSAL."""
        self._model = model
        self._vocab_size = vocab_size
        self._free = list(range(model.slots))
        self._slots: dict[int, int] = {}
        self._num_cached: dict[int, int] = {}  # tokens of the session's context that its slot holds, at least
        self._token_counts = SessionTokenCounts()
        self._pool = ThreadPoolExecutor(model.slots, thread_name_prefix="gguf")

    def open(self, session: int) -> None:
        self.close(session)
        if self._free:
            self._slots[session], self._num_cached[session] = self._free.pop(), 0

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._token_counts.remove(session)
        if session in self._slots:
            self._free.append(self._slots.pop(session))
            del self._num_cached[session]

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Return NO_PROPOSAL for a request that cannot be drafted, INCOMPLETE until a long context is prefilled."""
        by_session: dict[int, list[DraftRequest]] = {}
        for request in requests:
            by_session.setdefault(request.session, []).append(request)
        done = zip(by_session, self._pool.map(self._propose_in_turn, by_session.values()), strict=True)
        proposals = {session: iter(found) for session, found in done}
        return [next(proposals[request.session]) for request in requests]

    def _propose_in_turn(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """The proposals for requests of one session, with at most one chunk of a long context."""
        proposals: list[Proposal] = []
        for request in requests:
            proposals.append(INCOMPLETE if INCOMPLETE in proposals else self._propose(request))
        return proposals

    def _propose(self, request: DraftRequest) -> Proposal:
        slot = self._slots.get(request.session)
        # llama.cpp needs one position for the token that it decodes itself.
        if slot is None or not 0 < len(request.context) < self._model.max_context:
            return NO_PROPOSAL
        run = min(self._num_cached[request.session], len(request.context) - 1)
        if len(request.context) - run > PREFILL_CHUNK:
            taken = self._model.top_tokens(slot, request.context[: run + PREFILL_CHUNK], 0)
            self._num_cached[request.session] = run + PREFILL_CHUNK
            return NO_PROPOSAL if taken is None else INCOMPLETE
        top = self._model.top_tokens(slot, request.context, num_top_tokens(request.sampling))
        if top is None:
            return NO_PROPOSAL
        # The drafted path after the committed text may be dropped, and what replaces it may be longer.
        self._num_cached[request.session] = request.num_committed
        with self._token_counts.counts_at(request) as counts:
            known = [pair for pair in top if pair[0] < self._vocab_size]
            return propose_from_top_tokens(known, request.sampling, request.output_index, counts)
