"""`edgedraft gpu-check`: runs the sections in order, each within its share of the time, and writes the report.

The report is written anew after each section, so that a run that is ended early leaves what it has found.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from transformers.utils import logging as transformers_logging

from edgedraft.observability.logs import configure_logging
from loadtest.gpu_check import shapes
from loadtest.gpu_check.costs import draft, policy, target
from loadtest.gpu_check.costs.graphs import try_graphs
from loadtest.gpu_check.costs.sampling import time_sampling
from loadtest.gpu_check.costs.timing import Hardware, measure_hardware
from loadtest.gpu_check.exactness import sampling
from loadtest.gpu_check.exactness.attention import check_attention
from loadtest.gpu_check.exactness.kernels import check_kernels
from loadtest.gpu_check.exactness.pairs import TARGET, given_pair, random_pair
from loadtest.gpu_check.exactness.texts import check_texts
from loadtest.gpu_check.machine import describe_machine
from loadtest.gpu_check.report import Report, Section
from loadtest.policy.cost_profile import CostProfile
from loadtest.settings import GpuCheckSettings


@dataclass
class Run:
    """What sections share: the device, and what earlier ones have measured."""

    settings: GpuCheckSettings
    device: torch.device
    with_graphs: bool = False
    hardware: Hardware | None = None
    steps: dict[str, dict[int, target.StepTimes]] = field(default_factory=dict)
    profiles: dict[str, CostProfile] = field(default_factory=dict)

    @property
    def tiny(self) -> bool:
        return self.settings.tiny


# The shapes of targets and of their draft models. Tiny ones have one shape, which is measured in both ways.
SIZES = {"14b": ("qwen3-14b", "qwen3-0.6b"), "32b": ("qwen3-32b", "qwen3-1.7b")}


def _sampling(section: Section, run: Run) -> None:
    sampling.check_sampling(section, run.device, sampling.TINY if run.tiny else sampling.FULL)


def _attention(section: Section, run: Run) -> None:
    check_attention(section, run.device, run.tiny)


def _texts(section: Section, run: Run) -> None:
    settings = run.settings
    check_texts(
        section,
        run.device,
        given_pair(settings.target, settings.draft, run.tiny) if settings.target else random_pair(run.tiny),
    )


def _graphs(section: Section, run: Run) -> None:
    run.with_graphs = try_graphs(section, run.device, shapes.TINY_TARGET if run.tiny else TARGET)


def _hardware(section: Section, run: Run) -> None:
    copied, side = (1 << 20, 128) if run.tiny else (1 << 32, 8192)
    run.hardware = measure_hardware(run.device, target.DTYPE, copied, side, 3 if run.tiny else 10)
    section.notes.append(f"a copy moves {run.hardware.bandwidth / 1e9:.3g} GB/s, bytes read and written")
    section.notes.append(f"a bfloat16 product of side {side} computes {run.hardware.flops / 1e12:.3g} TFLOP/s")


def _target(size: str) -> Callable[[Section, Run], None]:
    def measure(section: Section, run: Run) -> None:
        assert run.hardware is not None, "the hardware's section comes first"
        shape, plan = (shapes.TINY_TARGET, target.TINY) if run.tiny else (shapes.SHAPES[SIZES[size][0]], target.FULL)
        plan = replace(plan, with_graphs=run.with_graphs)
        room = 0 if run.tiny and size == "32b" else None
        run.steps[size] = target.measure_target(section, run.device, shape, plan, run.hardware, room)

    return measure


def _sampled(section: Section, run: Run) -> None:
    time_sampling(section, run.device, run.tiny)


def _drafts(section: Section, run: Run) -> None:
    for size, (_, name) in SIZES.items():
        shape, plan = (shapes.TINY_DRAFT, draft.TINY) if run.tiny else (shapes.SHAPES[name], draft.FULL)
        forwards = draft.measure_draft(section, run.device, shape, plan, run.with_graphs)
        run.profiles |= policy.make_profiles(size, run.steps.get(size, {}), forwards)


def _policy(section: Section, run: Run) -> None:
    wanted = dict(list(run.profiles.items())[:1]) if run.tiny else run.profiles
    policy.run_policy(section, wanted, policy.TINY if run.tiny else policy.FULL)


def _kernels(section: Section, run: Run) -> None:
    check_kernels(section, run.device, run.tiny)


@dataclass(frozen=True)
class Part:
    """`share` is the part of the time that the section may take, beside what those before it have left."""

    name: str
    title: str
    share: float
    fill: Callable[[Section, Run], None]
    must_run: bool = False


PARTS = (
    Part("sampling", "Noise and sampling against the CPU", 0.06, _sampling, must_run=True),
    Part("attention", "Masks and paged attention against a plain definition", 0.06, _attention, must_run=True),
    Part("texts", "Texts of the engine against the CPU", 0.18, _texts, must_run=True),
    Part("graphs", "CUDA graphs", 0.03, _graphs),
    Part("hardware", "Bandwidth and arithmetic", 0.02, _hardware),
    Part("steps-14b", "Step costs of a 14B target", 0.15, _target("14b")),
    Part("steps-32b", "Step costs of a 32B target", 0.2, _target("32b")),
    Part("sampled", "What sampling adds to a step", 0.02, _sampled),
    Part("drafts", "Draft forwards", 0.08, _drafts),
    Part("policy", "Systems compared on these costs", 0.14, _policy),
    Part("kernels", "The attention kernel and CUDA graphs of the engine", 0.06, _kernels),
)


def main(settings: GpuCheckSettings, parts: Sequence[Part] = PARTS) -> None:
    """Exits with 1 if the machine does not qualify, with 2 where there is no GPU to check."""
    configure_logging("warning")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if not settings.cpu and not torch.cuda.is_available():
        print("edgedraft gpu-check: no CUDA device; --cpu runs the same checks on the CPU", file=sys.stderr)
        sys.exit(2)
    device = torch.device("cpu") if settings.cpu else torch.device("cuda", torch.cuda.current_device())
    run = Run(settings, device)
    report = _start_report(run, parts)
    for part, section in zip(parts, report.sections, strict=True):
        _run_part(part, section, run)
        print(f"{section.seconds:6.1f} s  {section.title}: {section.outcome}", file=sys.stderr, flush=True)
        _write(report, settings)
    print(report.markdown)
    sys.exit(1 if report.problems else 0)


def _start_report(run: Run, parts: Sequence[Part]) -> Report:
    began, deadlines = time.monotonic(), 0.0
    sections: list[Section] = []
    for part in parts:
        deadlines += part.share * 60 * run.settings.minutes
        sections.append(Section(part.name, part.title, began + deadlines))
    machine = describe_machine(run.device, run.settings.commit)
    machine["command"] = "edgedraft gpu-check" + "".join(
        f" --{name}" for name in ("cpu", "tiny") if getattr(run.settings, name)
    )
    return Report(machine, sections, frozenset(part.name for part in parts if part.must_run), run.profiles)


def _run_part(part: Part, section: Section, run: Run) -> None:
    """An exception is the section's error, and the next ones run."""
    if section.is_over:
        return
    section.ran = True
    is_cuda = run.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(run.device)
    began = time.perf_counter()
    try:
        part.fill(section, run)
    except Exception:
        section.error = traceback.format_exc().strip()
    section.seconds = time.perf_counter() - began
    gc.collect()
    if is_cuda:
        section.peak_bytes = torch.cuda.max_memory_allocated(run.device)
        with suppress(RuntimeError):  # an illegal access breaks all that comes later, which says so itself
            torch.cuda.empty_cache()


def _write(report: Report, settings: GpuCheckSettings) -> None:
    if settings.json_file:
        settings.json_file.write_text(json.dumps(report.document, indent=2) + "\n")
    if settings.report:
        settings.report.write_text(report.markdown)
