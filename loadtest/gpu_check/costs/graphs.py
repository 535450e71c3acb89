"""CUDA graphs: whether the forward that the engine does by default can be captured in one, and what that computes."""

from __future__ import annotations

from typing import Any

import torch

from loadtest.gpu_check.costs.timing import as_graph, branching_rows, cache_contexts, random_contexts, release
from loadtest.gpu_check.report import Section
from loadtest.gpu_check.shapes import Shape, random_packed
from loadtest.report import Result

CONTEXT = 256
FEW_ROWS = ((1, 1), (1, 4), (4, 1), (4, 4))  # sessions, and rows of each


@torch.inference_mode()
def try_graphs(section: Section, device: torch.device, shape: Shape) -> bool:
    """Whether forwards can be captured. That they cannot is no fault, since the engine needs none."""
    section.notes.append(
        "without --cuda-graphs the engine launches each kernel of a step; costs below tell what graphs would save"
    )
    packed = random_packed(shape, torch.bfloat16, device, 4 * (CONTEXT + 64))
    contexts = random_contexts(4, CONTEXT, shape.vocab)
    cache_contexts(packed, contexts)
    table: list[dict[str, Any]] = []
    for sessions, each in FEW_ROWS:
        rows = branching_rows(packed, contexts[:sessions], each)
        own = packed.forward(rows).float()
        inputs = packed.pack(rows)
        difference = None
        try:
            replayed = as_graph(lambda: packed.model(**inputs).logits[0], device)().float()  # noqa: B023
            difference = float((own - replayed).abs().max() / own.std())
        except RuntimeError as error:
            section.notes.append(f"{sessions} x {each} rows: {str(error).splitlines()[0]}")
        release(rows)
        table.append(
            {
                "sessions": sessions,
                "rows_each": each,
                "captured": difference is not None,
                "largest_difference": difference,
            }
        )
    note = "differences in standard deviations of the logits; on a CPU nothing is captured and the call is repeated"
    section.tables.append(Result(f"a forward of {shape.name} from a CUDA graph", table, {}, {}, [note]))
    return all(row["captured"] for row in table)
