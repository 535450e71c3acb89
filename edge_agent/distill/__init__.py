"""Distillation: a draft model for any transformers causal LM, from nothing but the target itself.

The target answers prompts (collect.py, decode.py, prompts.py); a child made of a few of its layers (student.py) is
trained on its probabilities (train.py) and measured on held-out prompts (evaluate.py); the result is written as a
folder that draft_model.py loads (export.py).

Every stage goes on where it stopped, as long as settings and work folder stay the same.
"""

from __future__ import annotations

from edge_agent.distill.settings import DistillSettings

__all__ = ["DistillSettings", "run"]


def run(settings: DistillSettings) -> None:
    """The whole recipe; the finished draft is in settings.out."""
    from edge_agent.distill.recipe import distill

    distill(settings)
