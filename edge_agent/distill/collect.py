"""Collects training samples: lets the target answer prompts until a token or time budget is used up.

Besides answering the templates of prompts.py, the target writes user turns of its own (Magpie, Xu et al. 2024,
arXiv 2406.08464), answers follow-up questions, and answers prompts about its earlier answers. The decoding itself is
decode.py's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from edge_agent.distill.decode import BatchDecoder, Conversation, to_sample
from edge_agent.distill.prompts import HELD_OUT_KINDS, KINDS, Message, Prompt, PromptMaker, written_prompts
from edge_agent.distill.samples import HELD_OUT, WRITTEN, Sample, load_samples, save_samples, shards
from edge_agent.settings import DistillSettings, MeasuredSettings
from edgedraft.observability.progress import progress
from edgedraft.private_files import make_private_folder

GREEDY_SHARE = 0.4
# By kind. Long prompts with short answers give the fewest labels per second.
KIND_WEIGHTS = (3, 1, 3, 2, 1, 1, 1, 1)
MAGPIE_SHARE = 0.45
MAGPIE_TOKENS = 80
FOLLOW_UP_SHARE = 0.15
REUSE_SHARE = 0.15
SHARD_SAMPLES = 256
# The longest conversations and answers that drafts are measured on: the same for all, whatever they are trained on.
HELD_OUT_LENGTH = 352
WRITTEN_LENGTH = 640
MEASURED_TOKENS = 200


class ConversationMaker:
    """Makes the conversations that the target is to continue: from prompts, and from its finished conversations."""

    def __init__(self, tokenizer: Any, maker: PromptMaker, answer_tokens: int, seed: str) -> None:
        self._tokenizer, self._maker, self._answer_tokens = tokenizer, maker, answer_tokens
        self._random = random.Random(seed)
        mark = "\u2603"
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
        )
        before, _, after = str(text).partition(mark)
        self._user_prefix, self._user_suffix = self._encode(before), self._encode(after)

    def answer_conversation(self, prompt: Prompt, temperature: float | None = None) -> Conversation:
        """A conversation that waits for the answer to a prompt; without `temperature` it is drawn, 0 included."""
        messages = [dict(message) for message in prompt.messages]
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        drawn = self._temperature() if temperature is None else temperature
        return Conversation(prompt.kind, prompt.messages, self._encode(str(text)), drawn, self._answer_tokens)

    def training_conversations(self) -> Iterator[Conversation]:
        """Endless: prompts of every kind, and user turns for the target to write."""
        while True:
            if self._random.random() < MAGPIE_SHARE:
                yield Conversation("chat", (), list(self._user_prefix), 1.0, MAGPIE_TOKENS, user_turn=True)
            else:
                yield self.answer_conversation(self._maker.make(self._random.choices(KINDS, KIND_WEIGHTS)[0]))

    def follow_up_conversation(self, conversation: Conversation) -> Conversation | None:
        """The conversation that continues a finished one, if any."""
        if not conversation.ended:
            return None
        if conversation.user_turn:
            # The turn's own end token is the first of what the template puts after it.
            closed = (
                conversation.ids
                if conversation.ids[-1] == self._user_suffix[0]
                else [*conversation.ids[:-1], self._user_suffix[0]]
            )
            return Conversation(
                conversation.kind,
                (),
                closed + self._user_suffix[1:],
                self._temperature(),
                self._answer_tokens,
                positions=conversation.positions,
                top_ids=conversation.top_ids,
                top_logps=conversation.top_logps,
            )
        answer = str(self._tokenizer.decode(conversation.ids[conversation.positions[0] :], skip_special_tokens=True))
        draw = self._random.random()
        if conversation.messages and draw < FOLLOW_UP_SHARE and len(conversation.messages) < 4:
            answered: Message = {"role": "assistant", "content": answer}
            question: Message = {"role": "user", "content": self._maker.follow_up()}
            return self.answer_conversation(Prompt(conversation.kind, (*conversation.messages, answered, question)))
        if (
            conversation.kind == "chat"
            and conversation.messages
            and draw > 1 - REUSE_SHARE
            and len(conversation.positions) > 60
        ):
            return self.answer_conversation(self._maker.about(answer, self._random.choice(("summary", "retrieval"))))
        return None

    def _temperature(self) -> float:
        return 0.0 if self._random.random() < GREEDY_SHARE else self._random.uniform(0.7, 1.0)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def collect_measured(decoder: BatchDecoder, tokenizer: Any, folder: Path, settings: MeasuredSettings) -> None:
    """Write the greedy answers to held-out and to written prompts, unless they are there."""
    maker = PromptMaker(settings.seed, held_out=True)
    held_out = [maker.make(kind) for _ in range(settings.held_out) for kind in HELD_OUT_KINDS]
    for name, prompts, length in (
        (HELD_OUT, held_out, HELD_OUT_LENGTH),
        (WRITTEN, written_prompts(), WRITTEN_LENGTH),
    ):
        if (folder / name).exists():
            continue
        conversations = ConversationMaker(tokenizer, maker, MEASURED_TOKENS, "")
        waiting = (conversations.answer_conversation(prompt, 0.0) for prompt in prompts)
        save_samples(folder / name, _decode_all(decoder, waiting, length, len(prompts)))


def _decode_all(decoder: BatchDecoder, conversations: Iterator[Conversation], length: int, count: int) -> list[Sample]:
    done: list[Sample] = []
    with progress("measured answers", count, "answers") as advance:

        def keep(conversation: Conversation) -> None:
            done.append(to_sample(conversation))
            advance()

        decoder.run(conversations, keep, lambda: False, length)
    return done


def collect_samples(target: PreTrainedModel, tokenizer: Any, stop: set[int], settings: DistillSettings) -> None:
    """Write measured samples, then training shards until the token or time budget is used up; resumes earlier runs."""
    folder = settings.work / "samples"
    make_private_folder(settings.work)
    make_private_folder(folder)
    old = shards(folder)
    length = max(settings.sample_length, WRITTEN_LENGTH)
    decoder = BatchDecoder(target, stop, settings.slots, length, settings.top_k, settings.seed + len(old))
    collect_measured(decoder, tokenizer, folder, settings)

    tokens = sum(len(s.positions) for path in old for s in load_samples(path))
    seed = f"{settings.seed}/{len(old)}"
    conversations = ConversationMaker(tokenizer, PromptMaker(seed), settings.answer_tokens, seed)
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

        def on_finished(conversation: Conversation) -> Conversation | None:
            nonlocal tokens
            more = conversations.follow_up_conversation(conversation)
            if not conversation.user_turn:
                batch.append(to_sample(conversation))
                tokens += len(conversation.positions)
                advance(len(conversation.positions), f"{number} shards")
                if len(batch) >= SHARD_SAMPLES:
                    flush()
            return more

        def should_stop() -> bool:
            return tokens >= settings.tokens or time.monotonic() > until

        decoder.run(conversations.training_conversations(), on_finished, should_stop, settings.sample_length)
    if batch:
        flush()
