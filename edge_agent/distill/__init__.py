"""Distillation: makes a draft model for any transformers causal LM, from the target model alone, without a data set.

The target answers prompts (prompts.py, collect.py, decode.py). A student made of a few of its layers (student.py) is
trained on its probabilities (train.py) and measured on held-out prompts (evaluate.py). The result is written as a
folder that drafters/pytorch/draft_model.py loads (export.py).

Every stage resumes where it stopped when it is run again with the same settings and work folder.
"""

from __future__ import annotations

from edge_agent.settings import DistillSettings
from edgedraft.observability.logs import configure_logging


def main(settings: DistillSettings) -> None:
    """Run `edgedraft distill`; the finished draft is in settings.out."""
    from edge_agent.distill.recipe import distill

    configure_logging(settings.log_level, settings.log_format)
    if settings.estimate:
        from edge_agent.distill.estimate import estimate, markdown_estimate
        from edgedraft.local.demo_model import resolve_model

        print(markdown_estimate(estimate(settings, resolve_model(settings.target)), settings))
        return
    distill(settings)
