"""`edgedraft draft evaluate`: how well a draft model predicts its target, on the prompts that no draft is trained on.

The target's greedy answers are decoded once and kept in the work folder; evaluate.py has the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from edge_agent.distill.collect import WRITTEN_LENGTH, collect_measured
from edge_agent.distill.decode import BatchDecoder
from edge_agent.distill.evaluate import Figures, evaluate, markdown_table
from edge_agent.distill.recipe import load_target, stop_tokens
from edge_agent.distill.samples import HELD_OUT, WRITTEN, load_samples
from edge_agent.drafters.pytorch.draft_model import SPEC_FILE, load_draft, read_spec, shipped_draft
from edge_agent.settings import DraftEvaluateSettings
from edgedraft.local.demo_model import DEMO_MODEL, DemoModelError, resolve_model
from edgedraft.observability.logs import configure_logging
from edgedraft.private_files import make_private_folder


def main(settings: DraftEvaluateSettings) -> None:
    """Run `edgedraft draft evaluate`. Exits with 1 and a line on stderr when there is no such draft."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        held_out, written = measure(settings)
    except (OSError, ValueError, DemoModelError) as error:
        sys.exit(f"edgedraft draft evaluate: {error}")
    print(f"Held-out prompts of the generator:\n\n{markdown_table(held_out)}")
    print(f"\nPrompts that were written by hand:\n\n{markdown_table(written)}")


def measure(settings: DraftEvaluateSettings) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Figures by kind of prompt, on held-out and on written prompts. Raises OSError, ValueError and DemoModelError."""
    folder = Path(settings.draft) if settings.draft else shipped_draft(DEMO_MODEL)
    if folder is None or not (folder / SPEC_FILE).is_file():
        raise ValueError(f"{folder or DEMO_MODEL} is no distilled draft")
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    path = resolve_model(read_spec(folder).target)
    samples = settings.work / "samples"
    if not all((samples / name).exists() for name in (HELD_OUT, WRITTEN)):
        make_private_folder(settings.work)
        make_private_folder(samples)
        tokenizer = AutoTokenizer.from_pretrained(path)
        target = load_target(path, device)
        decoder = BatchDecoder(target, stop_tokens(target, tokenizer), settings.slots, WRITTEN_LENGTH, 1, 0)
        collect_measured(decoder, tokenizer, samples, settings)
    student, head_ids = load_draft(folder, path, torch.float32, device)
    assert head_ids is not None
    return (
        evaluate(student, head_ids, load_samples(samples / HELD_OUT)),
        evaluate(student, head_ids, load_samples(samples / WRITTEN)),
    )
