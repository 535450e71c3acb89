"""Against vLLM alone: the same greedy text, and the same distribution of sampled ones, drafted or not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import Sampling
from tests.verifier.engine.on_vllm.conftest import SESSIONS, Both, finish, request
from tests.verifier.engine.on_vllm.test_vllm_engine import prompt_of

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(900)]

PROMPTS = [prompt_of(seed, 12 + seed) for seed in range(6)]
DRAWN = prompt_of(9, 3)
TOKENS = 48
SAMPLES = 600
PARAMETERS: dict[str, Any] = {"temperature": 1.0, "top_k": 6}
UNLIKELY = 1e-3  # the samples are the same in every run, so this is decided once
EXPECTED = 5  # of a cell at least, or it is counted with the other small ones


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    file = tmp_path_factory.mktemp("vllm-alone") / "texts.json"
    job = {
        "model": str(ensure_demo_model()),
        "prompts": PROMPTS,
        "tokens": TOKENS,
        "drawn": DRAWN,
        "samples": SAMPLES,
        "sampling": PARAMETERS,
        "to": str(file),
    }
    script = Path(__file__).with_name("vllm_alone.py")
    subprocess.run([sys.executable, script], input=json.dumps(job), text=True, check=True, timeout=600)
    return json.loads(file.read_text())


def test_greedy_text_is_vllms_own(both: Both, alone: dict[str, list[list[int]]]) -> None:
    greedy = Sampling(temperature=0)
    asked = [request(key, prompt, greedy, TOKENS) for key, prompt in enumerate(PROMPTS)]
    right = dict(enumerate(alone["greedy"]))

    def draft(key: int, text: list[int]) -> DraftSlice:
        """Every third token wrong."""
        ahead = [token + (i % 3 == 2) for i, token in enumerate(right[key][len(text) : len(text) + 6])]
        return DraftSlice.chain(ahead) if text else EMPTY_DRAFT

    texts, seen = finish(both.vllm, asked, draft)
    assert texts == right
    assert max(made.accepted for made in seen) >= 2


@pytest.mark.parametrize("drafted", [True, False], ids=["drafted", "plain"])
def test_sampled_texts_are_distributed_as_vllms_own(
    both: Both, alone: dict[str, list[list[int]]], drafted: bool
) -> None:
    from scipy.stats import chi2_contingency

    theirs = Counter(map(tuple, alone["sampled"]))
    usual = {first: second for (first, second), _ in reversed(theirs.most_common())}
    mine: Counter[tuple[int, ...]] = Counter()
    checked = 0
    for base in range(0, SAMPLES, SESSIONS):
        asked = [
            request(seed, DRAWN, Sampling(seed=seed, **PARAMETERS), tokens=2) for seed in range(base, base + SESSIONS)
        ]
        texts, seen = finish(
            both.vllm,
            asked,
            lambda key, text: DraftSlice.chain([usual.get(text[0], 0)]) if drafted and len(text) == 1 else EMPTY_DRAFT,
        )
        mine.update(tuple(text) for text in texts.values())
        checked += sum(made.nodes for made in seen)
    assert checked == (SAMPLES if drafted else 0)
    cells = [text for text in theirs | mine if theirs[text] + mine[text] >= 2 * EXPECTED]
    table = [[counts[text] for text in cells] for counts in (mine, theirs)]
    rest = [SAMPLES - sum(row) for row in table]
    if min(rest) >= EXPECTED:
        table = [[*row, more] for row, more in zip(table, rest, strict=True)]
    p = float(chi2_contingency(table).pvalue)  # type: ignore[attr-defined]
    print(f"{len(cells)} cells, p = {p:.3f}")
    assert len(cells) > 10
    assert p > UNLIKELY
