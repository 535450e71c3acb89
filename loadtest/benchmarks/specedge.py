"""`bench specedge`: SpecEdge's experiment on this project's parts (docs/specedge.md)."""

from __future__ import annotations

from loadtest.report import Result
from loadtest.settings import BenchSettings


def specedge(settings: BenchSettings) -> Result:
    """Compares systems on the embedded engine or, with `--engines vllm`, vLLM with EdgeDraft on vLLM."""
    if "vllm" in settings.engines:
        from loadtest.specedge.vllm_comparison import compare_on_vllm

        return compare_on_vllm(settings)
    from loadtest.specedge.experiment import compare_systems

    return compare_systems(settings)
