"""Distillation: a draft model for any transformers causal LM, from nothing but the target itself.

The target answers prompts (collect.py, decode.py, prompts.py); a child made of a few of its layers (student.py) is
trained on its probabilities (train.py) and measured on held-out prompts (evaluate.py); the result is written as a
folder that draft_model.py loads (export.py).

Every stage goes on where it stopped, as long as settings and work folder stay the same.
"""

from __future__ import annotations

from edge_agent.settings import DistillSettings
from edgedraft.observability.logs import configure_logging


def main(settings: DistillSettings) -> None:
    """`edgedraft distill`: the whole recipe; the finished draft is in settings.out."""
    from edge_agent.distill.recipe import distill

    configure_logging(settings.log_level, settings.log_format)

    distill(settings)
