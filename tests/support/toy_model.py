"""A model of bytes: each token is one byte, and the next one a fixed function of prompt, seed and what came before.

A last message, or a prompt, that begins with "say " is said; any other makes the model babble till its tokens end.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from edgedraft.tokenizer import fingerprint
from edgedraft.wire import ModelCard, Sampling, TokenLogprobs

NAME = "toy"
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build() -> Tokenizer:
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    tokenizer.decoder = ByteLevelDecoder()  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    return tokenizer


TOKENIZER = build()
EOS: int = TOKENIZER.encode(END, add_special_tokens=False).ids[0]
VOCAB_SIZE = TOKENIZER.get_vocab_size()
FINGERPRINT = fingerprint(TOKENIZER.to_str())
_LETTERS = TOKENIZER.encode("abcdefghijklmnopqrstuvwxyz      ", add_special_tokens=False).ids


def card(context_length: int = 2048, name: str = NAME, template: str = TEMPLATE, mark: str = FINGERPRINT) -> ModelCard:
    return ModelCard(
        name=name,
        fingerprint=mark,
        vocab_size=VOCAB_SIZE,
        context_length=context_length,
        eos=(EOS,),
        tokenizer=zlib.compress(TOKENIZER.to_str().encode()),
        chat_template=template,
        bos_token=START,
        eos_token=END,
    )


def next_token(prompt: Sequence[int], sampling: Sampling, committed: Sequence[int]) -> int:
    """The token that follows; any prefix of prompt and output determines it."""
    forced = [biased for biased, bias in sampling.logit_bias.items() if bias == 100]
    if forced:
        return forced[0]
    script, state = _about(tuple(prompt))
    if script is not None:
        return script[len(committed)] if len(committed) < len(script) else EOS
    seed = sampling.seed if sampling.temperature else 0
    penalties = sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty
    state = f"{state}/{seed}/{len(committed)}/{committed[-3:]}/{penalties}"
    return _LETTERS[hashlib.sha256(state.encode()).digest()[0] % len(_LETTERS)]


@lru_cache(maxsize=64)
def _about(prompt: tuple[int, ...]) -> tuple[list[int] | None, str]:
    """What the last message has the model say, if it does, and what stands for the prompt in a hash."""
    last = TOKENIZER.decode(list(prompt), skip_special_tokens=False)
    if START in last:
        last = last.split(START)[-2].removesuffix("\n").removesuffix(END).partition("\n")[2]
    script = TOKENIZER.encode(last.removeprefix("say "), add_special_tokens=False).ids
    return script if last.startswith("say ") else None, hashlib.sha256(repr(prompt).encode()).hexdigest()


def logprobs(prompt: Sequence[int], committed: Sequence[int], token: int, count: int) -> TokenLogprobs:
    """Of `token` as the next one, and of `count` tokens: this one, then those numbered behind it."""
    best = -(hashlib.sha256(f"{prompt}/{committed}".encode()).digest()[0] + 1) / 64
    others = [(token + i) % VOCAB_SIZE for i in range(count)]
    return TokenLogprobs(best, others, [best - i for i in range(count)])


def complete_text(prompt: Sequence[int], sampling: Sampling, max_tokens: int) -> list[int]:
    """What the model says alone, up to an EOS, that included."""
    tokens: list[int] = []
    while len(tokens) < max_tokens and (not tokens or tokens[-1] != EOS):
        tokens.append(next_token(prompt, sampling, tokens))
    return tokens


def chat_prompt(*messages: tuple[str, str]) -> list[int]:
    text = "".join(f"{START}{role}\n{content}{END}\n" for role, content in messages) + f"{START}assistant\n"
    return TOKENIZER.encode(text, add_special_tokens=False).ids
