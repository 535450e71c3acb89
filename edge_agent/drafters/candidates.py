"""What an agent could draft with, and which of it comes first when nobody chose.

`rank` is the rule. Where the gateway's model has another tokenizer than a candidate, the next one is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from edge_agent.drafters.loaded_model import LoadedModel
from edge_agent.drafters.loading import DrafterSet, DrafterUnavailable, combine_drafters, load_drafters
from edge_agent.drafters.server.connection import CheckedServer
from edge_agent.drafters.server.discovery import belongs_to_user, find_servers
from edge_agent.drafters.server.http_client import ServerUrl
from edge_agent.drafters.server.loading import server_model
from edge_agent.onnx.kept import find_kept, kept_name
from edge_agent.settings import AgentSettings

Kind = Literal["chosen", "server", "accelerator", "onnx", "cpu"]

FAST_SERVER = 25.0  # tokens per second; a slower one is behind a large target's own steps
REASONS: dict[Kind, str] = {
    "chosen": "it was chosen",
    "server": "a model server that already runs",
    "accelerator": "PyTorch has an accelerator",
    "onnx": "an exported draft, which takes less time on a CPU than PyTorch",
    "cpu": "PyTorch is there, on the CPU",
}
FETCH = "`edgedraft draft fetch` gets the draft of the gateway's model"


@dataclass(frozen=True)
class Candidate:
    """Something to draft with. `load` may raise DrafterUnavailable; `tokens_per_second` is measured of servers only."""

    kind: Kind
    name: str
    load: Callable[[], DrafterSet]
    tokens_per_second: float | None = None

    @property
    def reason(self) -> str:
        """Why it has its place in the order."""
        if self.tokens_per_second is None:
            return REASONS[self.kind]
        slow = "" if self.tokens_per_second >= FAST_SERVER else ", a slow one"
        return f"{REASONS[self.kind]}{slow}: {self.tokens_per_second:.0f} tokens per second"


def rank(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The order in which candidates are taken: fast servers, PyTorch's accelerators, ONNX, PyTorch's CPU, slow servers.

    A server costs no memory and no loading, and runs where its owner set it up to run. Of servers of one speed class
    the faster comes first; otherwise the order is kept. An exported draft runs on an accelerator where a provider of
    ONNX Runtime has one, else on the CPU in int8, which takes 0.43 of PyTorch's time (docs/devices.md).
    """
    order = {"chosen": 0, "server": 1, "accelerator": 2, "onnx": 3, "cpu": 4}

    def place(candidate: Candidate) -> tuple[int, float]:
        speed = candidate.tokens_per_second
        slow = candidate.kind == "server" and (speed or 0.0) < FAST_SERVER
        return (len(order) if slow else order[candidate.kind]), -(speed or 0.0)

    return sorted(candidates, key=place)


def find_candidates(settings: AgentSettings) -> tuple[list[Candidate], list[str]]:
    """All candidates in the order of `rank`, and for each model server that is none why not.

    There is always one; loading it says what to do where there is nothing to draft with.
    """
    if settings.draft_url or settings.draft_model != "auto":
        name = settings.draft_model if not settings.draft_url else "the model server of --draft-url"
        return [Candidate("chosen", name, partial(load_drafters, settings))], []
    found: list[tuple[ServerUrl, CheckedServer]] = []
    refused: list[str] = []
    if settings.find_servers:
        found, refused = find_servers(settings.draft_tokenizer, without=_own_ports(settings.url))
    candidates = [_server_candidate(settings, url, checked) for url, checked in found]
    if settings.runtime in ("auto", "onnx") and find_spec("onnxruntime"):
        candidates += [_kept_candidate(settings, folder) for folder in find_kept(settings.drafts_folder)]
    if settings.runtime != "onnx" and find_spec("torch"):
        local = partial(load_drafters, settings)
        candidates.append(Candidate(_local_kind(settings), "the draft model that comes along", local))
    return rank(candidates) or [Candidate("cpu", "a draft model", _fail_without_any)], refused


def _fail_without_any() -> DrafterSet:
    first = "" if find_spec("onnxruntime") else "pip install 'edgedraft[onnx]', and then "
    raise DrafterUnavailable(f"there is nothing to draft with yet: {first}{FETCH}")


def _kept_candidate(settings: AgentSettings, folder: Path) -> Candidate:
    def load() -> DrafterSet:
        try:
            return load_drafters(settings.model_copy(update={"draft_model": str(folder)}))
        except DrafterUnavailable as error:
            raise DrafterUnavailable(f"{error}; {FETCH} again") from None

    return Candidate("onnx", f"the kept draft {kept_name(folder)}", load)


def _server_candidate(settings: AgentSettings, url: ServerUrl, checked: CheckedServer) -> Candidate:
    def load() -> DrafterSet:
        model: LoadedModel = server_model(url, checked, settings.draft_tokenizer, partial(belongs_to_user, url.port))
        return combine_drafters(model, settings)

    return Candidate("server", f"{checked.api.facts.kind} at {url.shown}", load, checked.tokens_per_second)


def _local_kind(settings: AgentSettings) -> Kind:
    """Where the draft model of this installation would run."""
    from edgedraft.runtime.device import pick_device

    try:
        return "cpu" if pick_device(settings.device).type == "cpu" else "accelerator"
    except (RuntimeError, AssertionError):
        return "cpu"


def _own_ports(gateway: str) -> set[int]:
    """The gateway's port, which is no model server's."""
    parts = urlsplit(gateway)
    return {port} if (port := parts.port) else set()
