"""`edgedraft doctor`: checks everything that an agent needs, and says what to do about each failure.

Checks use the real parts: the draft model is loaded and drafts, the gateway is connected to. Nothing stays attached and
nothing is stored.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent.attach.address import agent_url
from edge_agent.attach.connection import dial
from edge_agent.attach.errors import AttachRejected, LinkLost
from edge_agent.desktop import idle_policy
from edge_agent.desktop.login import fill_from_login, login_file
from edge_agent.desktop.service import ServiceError, service_manager_for
from edge_agent.drafters.candidates import Candidate, find_candidates
from edge_agent.drafters.interface import Drafter, DraftRequest, first_chain
from edge_agent.drafters.loading import DrafterSet, DrafterUnavailable, pick_runtime
from edge_agent.main import hello_of
from edge_agent.settings import DoctorSettings
from edgedraft.observability.logs import configure_logging
from edgedraft.wire import AgentWelcome, Sampling

LOW_MEMORY = 1.0  # GB left below which a desktop begins to swap
SLOW_DRAFT = 0.04  # seconds per token, about a large model's own step
LONG_RTT = 0.1  # seconds
PINGS = 5
DRAFTED_TOKENS = 24  # tokens, to measure speed
MAX_WAITS = 200  # for a proposal that is not complete

Status = Literal["ok", "warn", "failed"]
MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "failed": "[red]fails[/]"}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check; `advice` is for what is not ok."""

    name: str
    status: Status
    message: str
    advice: str = ""


def main(settings: DoctorSettings) -> None:
    """Print a line per check as it completes. Exits with 1 when a check fails."""
    configure_logging("error")
    console = Console()
    failed = False
    for finding in run_checks(settings):
        failed |= finding.status == "failed"
        row = Table.grid(padding=(0, 2))
        for width in (6, 16):
            row.add_column(width=width)
        row.add_column(overflow="fold")
        row.add_row(MARKS[finding.status], finding.name, escape(finding.message))
        if finding.advice:
            row.add_row("", "", f"[dim]{escape(finding.advice)}[/]")
        console.print(row)
    sys.exit(1 if failed else 0)


def run_checks(settings: DoctorSettings) -> Iterator[CheckResult]:
    """Run all checks, each after those that it depends on."""
    yield _check_memory()
    yield _check_device(settings)
    candidates, refused = find_candidates(settings)
    yield from (CheckResult("model server", "ok", f"not drafted with: {reason}") for reason in refused)
    loaded: list[tuple[Candidate, DrafterSet]] = []
    for candidate in candidates:
        start = time.perf_counter()
        try:
            drafters = candidate.load()
        except DrafterUnavailable as error:
            advice = "--draft-model none drafts without a model, for any gateway"
            yield CheckResult("draft model", "warn" if len(candidates) > 1 else "failed", str(error), advice)
        else:
            loaded.append((candidate, drafters))
            seconds = time.perf_counter() - start
            yield CheckResult("draft model", "ok", f"{drafters.description}, loaded in {seconds:.1f} s")
    fitting, vocab_size = loaded, 1 << 15
    try:
        complete = fill_from_login(settings)
    except AttachRejected as error:
        yield CheckResult("gateway", "failed", str(error), f"`edgedraft login URL` keeps both in {login_file()}")
    else:
        if loaded:
            found, fitting, welcome = asyncio.run(_check_gateway(complete.url, complete.key, settings, loaded))
            vocab_size = welcome.vocab_size if welcome else vocab_size
            yield from found
    yield from _check_draft_speeds(fitting or loaded, vocab_size)
    yield from _check_desktop(settings)


def _check_memory() -> CheckResult:
    free = psutil.virtual_memory().available / 1e9
    if free < LOW_MEMORY:
        return CheckResult("memory", "warn", f"{free:.1f} GB are free", "close something, or set --max-memory")
    return CheckResult("memory", "ok", f"{free:.1f} GB are free")


def _check_device(settings: DoctorSettings) -> CheckResult:
    elsewhere = settings.draft_url or settings.draft_model == "none"
    if elsewhere or pick_runtime(settings.draft_model, "auto") != "torch":
        return CheckResult("device", "ok", "not PyTorch's to choose for this draft")
    try:
        import torch

        from edgedraft.runtime.device import pick_device

        device = pick_device(settings.device)
        torch.zeros(1, device=device)
    except ImportError:
        return _check_device_without_torch(settings)
    except (RuntimeError, AssertionError) as error:
        return CheckResult(
            "device", "failed", f"{settings.device}: {str(error).splitlines()[0]}", "--device auto, or cpu"
        )
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return CheckResult("device", "ok", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    if device.type == "cpu":
        advice = "a GPU drafts faster; if this machine has one, PyTorch does not see it"
        return CheckResult("device", "warn", f"PyTorch's CPU, {torch.get_num_threads()} threads", advice)
    return CheckResult("device", "ok", device.type)


def _check_device_without_torch(settings: DoctorSettings) -> CheckResult:
    try:
        from edge_agent.onnx.providers import installed
    except ImportError:
        advice = "pip install 'edgedraft[onnx]' for ONNX Runtime, 'edgedraft[agent]' for PyTorch, 'edgedraft[gguf]'"
        status = "warn" if settings.draft_model == "auto" else "failed"  # a model server may be found
        return CheckResult("device", status, "neither PyTorch nor ONNX Runtime is installed", advice)
    return CheckResult("device", "ok", f"ONNX Runtime with {', '.join(installed())}; no PyTorch")


async def _check_gateway(
    url: str, key: str, settings: DoctorSettings, loaded: Sequence[tuple[Candidate, DrafterSet]]
) -> tuple[list[CheckResult], list[tuple[Candidate, DrafterSet]], AgentWelcome | None]:
    """Check the key, and each candidate's tokenizer, with the gateway, and measure the round-trip time.

    Returns the results, the candidates that fit, and the welcome of the first of them.
    """
    found: list[CheckResult] = []
    fitting: list[tuple[Candidate, DrafterSet]] = []
    first: AgentWelcome | None = None
    for candidate, drafters in loaded:
        try:
            link = await dial(agent_url(url), key)
        except AttachRejected as error:
            return [CheckResult("gateway", "failed", f"{url} refuses: {error}")], [], None
        except LinkLost as error:
            advice = "is the address right, and is the gateway up? curl URL/healthz asks it"
            return [CheckResult("gateway", "failed", f"{url} does not answer: {error}", advice)], [], None
        if not found:
            found.append(CheckResult("gateway", "ok", f"{url} takes this key"))
        try:
            welcome, _ = await link.greet(hello_of(settings, drafters))
            rtts = [] if first else [await link.ping() for _ in range(PINGS)]
        except (AttachRejected, LinkLost) as error:
            found.append(
                CheckResult("tokenizer", "warn" if len(loaded) > 1 else "failed", f"{candidate.name}: {error}")
            )
            continue
        finally:
            await link.close(1000, "examined")
        own = f"of {candidate.name}" if drafters.fingerprint else "whichever it is: no draft model"
        found.append(CheckResult("tokenizer", "ok", f"{welcome.model} has the tokenizer {own}"))
        fitting.append((candidate, drafters))
        if first is None:
            first = welcome
            found.append(_round_trip(statistics.median(rtts)))
    if not fitting and len(loaded) > 1:
        found.append(CheckResult("tokenizer", "failed", "no candidate has the tokenizer of the gateway's model"))
    return found, fitting, first


def _round_trip(seconds: float) -> CheckResult:
    far = seconds > LONG_RTT
    advice = "drafting hides a round trip, but each mismatch costs one" if far else ""
    return CheckResult("round trip", "warn" if far else "ok", f"{1e3 * seconds:.1f} ms", advice)


def _check_draft_speeds(fitting: Sequence[tuple[Candidate, DrafterSet]], vocab_size: int) -> Iterator[CheckResult]:
    """Measure the candidates that fit; the first of them is what `edgedraft attach` takes."""
    for i, (candidate, drafters) in enumerate(fitting):
        speed = _check_draft_speed(drafters.new_drafter(vocab_size, ""), bool(drafters.model))
        if candidate.kind != "chosen":
            taken = f"taken: {candidate.reason}" if i == 0 else f"behind the first: {candidate.reason}"
            speed = replace(speed, message=f"{candidate.name}: {speed.message} ({taken})")
        yield speed


def _check_draft_speed(drafter: Drafter, with_model: bool) -> CheckResult:
    """Measure the time per token by drafting a few tokens down one path."""
    if not with_model:
        return CheckResult("draft speed", "ok", "no draft model: looking things up takes microseconds")
    text = list(range(3, 67))  # token ids that every vocabulary has
    drafter.open(1)
    seconds: list[float] = []
    num_waits = 0
    start = time.perf_counter()
    while len(seconds) < DRAFTED_TOKENS:
        [proposal] = drafter.propose([DraftRequest(1, text, len(text), 0, Sampling(temperature=0.0))])
        if not proposal.complete and num_waits < MAX_WAITS:
            num_waits += 1
            continue
        if not proposal.tokens:
            return CheckResult("draft speed", "failed", "the draft model proposes nothing", "another --draft-model may")
        chain = first_chain(proposal)
        seconds += [(time.perf_counter() - start) / len(chain)] * len(chain)
        text, start = [*text, *chain], time.perf_counter()
    drafter.close(1)
    token = statistics.median(seconds)
    slow = token > SLOW_DRAFT
    advice = "a smaller draft model, or another --device, drafts faster" if slow else ""
    return CheckResult("draft speed", "warn" if slow else "ok", f"{1e3 * token:.1f} ms a token", advice)


def _check_desktop(settings: DoctorSettings) -> Iterator[CheckResult]:
    why = idle_policy.pause_reason() if settings.polite else ""
    if why:
        yield CheckResult("this desktop", "warn", f"drafting would pause now: {why}", "--no-polite drafts all the same")
    else:
        yield CheckResult("this desktop", "ok", "drafting would not pause now")
    try:
        manager = service_manager_for(sys.platform)
        what = manager.status() if manager.file.exists() else "not installed; `edgedraft agent install` makes one"
    except ServiceError as error:
        what = str(error)
    yield CheckResult("service", "ok", what)
