"""`bench specedge`: SpecEdge's experiment on this project's parts (docs/specedge.md)."""

from __future__ import annotations

from loadtest.report import Result
from loadtest.settings import BenchSettings


def specedge(settings: BenchSettings) -> Result:
    """Compares systems on the embedded engine.

    With `--engines vllm` it compares vLLM with EdgeDraft on vLLM, with `--workloads` chats with an agent's work.
    """
    if "vllm" in settings.engines:
        from loadtest.specedge.vllm_comparison import compare_on_vllm

        return compare_on_vllm(settings)
    if settings.workloads:
        from loadtest.specedge.workloads import compare_workloads

        return compare_workloads(settings)
    from loadtest.specedge.experiment import compare_systems

    return compare_systems(settings)
