"""Collecting samples: prompts in, shards out, until a budget is used.

Besides answering the templates of prompts.py the target writes user turns of its own (as in Magpie, Xu et al. 2024),
answers follow-up questions, and summarises or is asked about its earlier answers. How it decodes is decode.py's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

from edge_agent.distill.decode import Generator, Job, sample
from edge_agent.distill.prompts import KINDS, Message, Prompt, PromptMaker
from edge_agent.distill.samples import HELD_OUT, Sample, load_samples, save_samples, shards
from edge_agent.settings import DistillSettings
from edgedraft.observability.progress import progress

GREEDY_SHARE = 0.4
# Kinds with long prompts and short answers cost most and teach least.
KIND_WEIGHTS = (3, 1, 3, 2, 1, 1)
MAGPIE_SHARE = 0.45
MAGPIE_TOKENS = 80
FOLLOW_UP_SHARE = 0.15
REUSE_SHARE = 0.15
SHARD_SAMPLES = 256


class Writer:
    """Turns prompts into jobs, and what the target answered into samples and more jobs."""

    def __init__(self, tokenizer: Any, maker: PromptMaker, answer_tokens: int, seed: str) -> None:
        self._tokenizer, self._maker, self._answer_tokens = tokenizer, maker, answer_tokens
        self._random = random.Random(seed)
        mark = "\u2603"
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
        )
        before, _, after = str(text).partition(mark)
        self._user_prefix, self._user_suffix = self._encode(before), self._encode(after)

    def job(self, prompt: Prompt, temperature: float | None = None) -> Job:
        """The job of answering a prompt; without a temperature, greedy or a random one."""
        messages = [dict(message) for message in prompt.messages]
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        drawn = self._temperature() if temperature is None else temperature
        return Job(prompt.kind, prompt.messages, self._encode(str(text)), drawn, self._answer_tokens)

    def training_jobs(self) -> Iterator[Job]:
        """Without end: templates of every kind, and user turns for the target to write."""
        while True:
            if self._random.random() < MAGPIE_SHARE:
                yield Job("chat", (), list(self._user_prefix), 1.0, MAGPIE_TOKENS, user_turn=True)
            else:
                yield self.job(self._maker.make(self._random.choices(KINDS, KIND_WEIGHTS)[0]))

    def next_job(self, job: Job) -> Job | None:
        """What to go on with after a job, if anything."""
        if not job.ended:
            return None
        if job.user_turn:
            # The turn's own end token is the first of what the template puts after it.
            closed = job.ids if job.ids[-1] == self._user_suffix[0] else [*job.ids[:-1], self._user_suffix[0]]
            return Job(
                job.kind,
                (),
                closed + self._user_suffix[1:],
                self._temperature(),
                self._answer_tokens,
                positions=job.positions,
                top_ids=job.top_ids,
                top_logps=job.top_logps,
            )
        answer = str(self._tokenizer.decode(job.ids[job.positions[0] :], skip_special_tokens=True))
        draw = self._random.random()
        if job.messages and draw < FOLLOW_UP_SHARE and len(job.messages) < 4:
            said: Message = {"role": "assistant", "content": answer}
            asked: Message = {"role": "user", "content": self._maker.follow_up()}
            return self.job(Prompt(job.kind, (*job.messages, said, asked)))
        if job.kind == "chat" and job.messages and draw > 1 - REUSE_SHARE and len(job.positions) > 60:
            return self.job(self._maker.about(answer, self._random.choice(("summary", "retrieval"))))
        return None

    def _temperature(self) -> float:
        return 0.0 if self._random.random() < GREEDY_SHARE else self._random.uniform(0.7, 1.0)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def collect(target: PreTrainedModel, tokenizer: Any, stop: set[int], settings: DistillSettings) -> None:
    """Held-out samples first, then training shards until the token or time budget is used. Goes on where it stopped."""
    folder = settings.work / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    length, top_k = settings.sample_length, settings.top_k
    old = shards(folder)
    generator = Generator(target, stop, settings.slots, length, top_k, settings.seed + len(old))
    held_out = folder / HELD_OUT
    if not held_out.exists():
        maker = PromptMaker(settings.seed, held_out=True)
        writer = Writer(tokenizer, maker, settings.answer_tokens, f"{settings.seed}/held-out")
        prompts = [maker.make(kind) for _ in range(settings.held_out) for kind in KINDS]
        done: list[Sample] = []
        with progress("held-out answers", len(prompts), "answers") as advance:

            def keep(job: Job) -> None:
                done.append(sample(job))
                advance()

            generator.run((writer.job(prompt, 0.0) for prompt in prompts), keep, lambda: False)
        save_samples(held_out, done)

    tokens = sum(len(s.positions) for path in old for s in load_samples(path))
    seed = f"{settings.seed}/{len(old)}"
    writer = Writer(tokenizer, PromptMaker(seed), settings.answer_tokens, seed)
    batch: list[Sample] = []
    number = len(old)
    until = time.monotonic() + settings.sample_seconds

    def flush() -> None:
        nonlocal number
        save_samples(folder / f"shard-{number:05d}.safetensors", batch)
        number += 1
        batch.clear()

    with progress("samples", settings.tokens, "labelled tokens") as advance:
        advance(tokens)

        def finished(job: Job) -> Job | None:
            nonlocal tokens
            more = writer.next_job(job)
            if not job.user_turn:
                batch.append(sample(job))
                tokens += len(job.positions)
                advance(len(job.positions), f"{number} shards")
                if len(batch) >= SHARD_SAMPLES:
                    flush()
            return more

        def over() -> bool:
            return tokens >= settings.tokens or time.monotonic() > until

        generator.run(writer.training_jobs(), finished, over)
    if batch:
        flush()
