"""`python -m edge_agent.distill`: every setting of a distillation as a flag."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from edge_agent.distill import DistillSettings, run


def parser() -> argparse.ArgumentParser:
    """One flag a field; types and defaults are the fields' own."""
    made = argparse.ArgumentParser(
        prog="edgedraft distill",
        description="Make a draft model for any transformers causal LM. Interrupted runs go on with the same --work.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for field in dataclasses.fields(DistillSettings):
        flag = f"--{field.name.replace('_', '-')}"
        help_text = field.metadata["help"]
        if field.name == "layers":
            made.add_argument(flag, type=_layers, default=field.default, help=help_text)
        else:
            made.add_argument(flag, type=type(field.default), default=field.default, help=help_text)
    return made


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and run."""
    run(DistillSettings(**vars(parser().parse_args(arguments))))


if __name__ == "__main__":
    main()
