"""Prompts for the target to answer: eight kinds, made from templates and word lists (topics.py), without a data set.

Every list is split by hash into a training part and a held-out part. A held-out prompt takes its template and its
subjects from the held-out parts only, so it shares neither with a training prompt. Prompts that the target writes
itself (user turns, passages to summarise) come from collect.py, and only for training.

Sixty more were written by hand, as people type (written_prompts.json). They are measured on and never trained on.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_agent.distill import topics

# Shards store a kind as its index here.
KINDS = ("chat", "summary", "code", "maths", "translation", "retrieval", "json", "tools")
# Held-out prompts are of the first six kinds, so that figures of all drafts are of the same prompts.
HELD_OUT_KINDS = KINDS[:6]
HELD_OUT_SHARE = 6
WRITTEN_PROMPTS = Path(__file__).parent / "written_prompts.json"

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Chat messages that end with a user's turn."""

    kind: str
    messages: tuple[Message, ...]


def written_prompts() -> list[Prompt]:
    """The prompts that were written by hand."""
    return msgspec.json.decode(WRITTEN_PROMPTS.read_bytes(), type=list[Prompt])


def select_split(items: tuple[str, ...], held_out: bool) -> list[str]:
    """The held-out sixth of a list (at least one item), or the rest. Items are split by hash, whatever their order."""
    ordered = sorted(set(items), key=lambda item: hashlib.sha256(item.encode()).digest())
    cut = max(1, len(ordered) // HELD_OUT_SHARE)
    chosen = set(ordered[:cut]) if held_out else set(ordered[cut:])
    # Repeated items are kept: they act as weights.
    return [item for item in items if item in chosen]


class PromptMaker:
    """Makes prompts; the same seed and `held_out` give the same sequence."""

    def __init__(self, seed: int | str, held_out: bool = False) -> None:
        self._random = random.Random(f"{seed}/{held_out}")
        self._held_out = held_out

    def make(self, kind: str) -> Prompt:
        """Make a prompt of a kind, one of KINDS; of those without tools every fourth has a system message."""
        if kind == "tools":
            return self._tools()
        text = {
            "chat": self._chat,
            "summary": self._summary,
            "code": self._code,
            "maths": self._maths,
            "translation": self._translation,
            "retrieval": self._retrieval,
            "json": self._json,
        }[kind]()
        return self.with_system(Prompt(kind, ({"role": "user", "content": text},)))

    def with_system(self, prompt: Prompt) -> Prompt:
        """The prompt, with a system message in front in a quarter of the cases."""
        if self._random.random() >= 0.25:
            return prompt
        return Prompt(prompt.kind, ({"role": "system", "content": self._pick(topics.SYSTEMS)}, *prompt.messages))

    def follow_up(self) -> str:
        """A user's turn that fits after any answer."""
        return self._pick(topics.FOLLOW_UPS)

    def about(self, passage: str, kind: str) -> Prompt:
        """A summary or retrieval prompt over the given text."""
        text = self._over(passage) if kind == "summary" else self._read(passage, "What does the text say?")
        return self.with_system(Prompt(kind, ({"role": "user", "content": text},)))

    def _pick(self, items: tuple[str, ...]) -> str:
        return self._random.choice(select_split(items, self._held_out))

    def _number(self, low: int, high: int) -> int:
        # One number in six is held out, so that no calculation occurs in both parts.
        numbers = [n for n in range(low, high) if (n % HELD_OUT_SHARE == HELD_OUT_SHARE - 1) == self._held_out]
        return self._random.choice(numbers)

    def _chat(self) -> str:
        return self._pick(topics.CHAT).format(topic=self._pick(topics.TOPICS), other=self._pick(topics.TOPICS))

    def _code(self) -> str:
        language = self._random.choice(topics.LANGUAGES)
        return self._pick(topics.CODE).format(language=language, program=self._pick(topics.PROGRAMS))

    def _fill(self, template: str) -> str:
        return template.format(
            name=self._pick(topics.NAMES),
            friend=self._pick(topics.NAMES),
            things=self._pick(topics.THINGS),
            city=self._pick(topics.CITIES),
            drink=self._pick(topics.DRINKS),
            a=self._number(10, 90),
            b=self._number(2, 20),
            c=self._number(100, 900),
        )

    def _maths(self) -> str:
        return self._fill(self._pick(topics.MATHS))

    def _translation(self) -> str:
        tongue = self._random.choice(topics.TONGUES)
        sentence = self._fill(self._pick(topics.SENTENCES))
        return self._pick(topics.TRANSLATE).format(tongue=tongue, sentence=sentence)

    def _words(self) -> dict[str, str]:
        year = self._number(1900, 2000)
        return {
            "firm": self._pick(topics.FIRMS),
            "name": self._pick(topics.NAMES),
            "friend": self._pick(topics.NAMES),
            "city": self._pick(topics.CITIES),
            "city2": self._pick(topics.CITIES),
            "trade": self._pick(topics.TRADES),
            "trade2": self._pick(topics.TRADES),
            "year": str(year),
            "later": str(year + self._number(2, 20)),
            "future": str(self._number(2028, 2040)),
            "a": str(self._number(10, 90)),
            "b": str(self._number(12, 60)),
            "c": str(self._number(100, 900)),
            "d": str(self._number(4, 20)),
        }

    def _record_words(self) -> dict[str, str]:
        return {**self._words(), "things": self._pick(topics.THINGS), "drink": self._pick(topics.DRINKS)}

    def _passage(self) -> tuple[str, dict[str, str]]:
        facts = select_split(topics.FACTS, self._held_out)
        words = self._words()
        chosen = self._random.sample(facts, min(len(facts), self._random.randint(3, 6)))
        opening = f"{words['firm']}, based in {words['city']}, makes {words['trade']}."
        return " ".join([opening, *(fact.format(**words) for fact in chosen)]), words

    def _summary(self) -> str:
        return self._over(self._passage()[0])

    def _over(self, passage: str) -> str:
        return f"{self._pick(topics.SUMMARIES)}\n\n{passage}"

    def _retrieval(self) -> str:
        passage, words = self._passage()
        return self._read(passage, self._pick(topics.QUESTIONS).format(**words))

    def _read(self, passage: str, question: str) -> str:
        lines = self._pick(topics.READINGS).replace("|", "\n\n")
        return lines.format(passage=passage, passage2=self._passage()[0], question=question)

    def _json(self) -> str:
        record = self._pick(topics.RECORDS).format(**self._record_words())
        return self._pick(topics.AS_JSON).format(record=record)

    def _tools(self) -> Prompt:
        """A request with one or two functions; in half of the cases the call was made and its result is there."""
        tools = [tool.split("|") for tool in self._random.sample(select_split(topics.TOOLS, self._held_out), 2)]
        name, _, request, arguments, result = tools[0]
        offered = tools[: self._random.randint(1, 2)]
        self._random.shuffle(offered)
        functions = ", ".join(_function(name, parameters) for name, parameters, *_ in offered)
        system = self._pick(topics.TOOL_SYSTEMS).replace("|", "\n").format(functions=f"[{functions}]")
        words = self._record_words()
        messages: list[Message] = [
            {"role": "system", "content": system},
            {"role": "user", "content": request.format(**words)},
        ]
        if self._random.random() < 0.5:
            call = f'{{"name": "{name}", "arguments": {arguments.format(**words)}}}'
            messages.append({"role": "assistant", "content": f"<tool_call>{call}</tool_call>"})
            messages.append({"role": "user", "content": f"<tool_response>{result.format(**words)}</tool_response>"})
        return Prompt("tools", tuple(messages))


def _function(name: str, parameters: str) -> str:
    types = dict(field.split(": ") for field in parameters.split(", "))
    return json.dumps({"name": name, "parameters": types})
