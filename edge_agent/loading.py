"""From settings to a draft that is loaded and checked: which model, its tokenizer's fingerprint, and what to call it.

Loading is done once a process. What a draft on disk looks like is draft_model.py's; drafting is the drafters'.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils.hub import cached_file

from edge_agent.draft_model import SPEC_FILE, load_draft, read_spec, shipped_draft
from edge_agent.drafter import Drafter, Together
from edge_agent.model_drafter import ModelDrafter
from edge_agent.prompt_lookup import PromptLookup
from edgedraft.demo_model import DEMO_MODEL, resolve_model
from edgedraft.paged import PackedModel
from edgedraft.settings import AgentSettings
from edgedraft.tokenizer import fingerprint
from edgedraft.torch_device import pick_device, pick_dtype

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedDraft:
    """A draft model ready to run. `head_ids` are the token ids of its logits if its head is cut."""

    model: PackedModel
    head_ids: torch.Tensor | None
    context_length: int


@dataclass(frozen=True)
class Armoury:
    """Everything this agent drafts with. `fingerprint` is empty where no tokenizer is involved."""

    draft: LoadedDraft | None
    prompt_lookup: bool
    fingerprint: str
    description: str

    def drafter(self, vocab_size: int) -> Drafter:
        """A fresh drafter for one attachment to a gateway whose target has that many tokens."""
        drafters: list[Drafter] = [PromptLookup()] if self.prompt_lookup else []
        if self.draft is not None:
            draft = self.draft
            drafters.append(ModelDrafter(draft.model, draft.context_length, vocab_size, draft.head_ids))
        return Together(drafters)


def load(settings: AgentSettings) -> Armoury:
    """Raises OSError for a model that is not there, ValueError for one that does not fit or for nothing to draft with,
    UnsupportedModel for one that cannot run packed, DemoModelError where the demo model cannot be had.
    """
    path = _draft_path(settings.draft_model)
    if path is None:
        if not settings.prompt_lookup:
            raise ValueError("with no draft model and without prompt lookup there is nothing to draft with")
        return Armoury(None, True, "", "prompt lookup")
    # One core stays free for the link and for the person in front of the machine.
    torch.set_num_threads(settings.threads or max(1, torch.get_num_threads() - 1))
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    target = _target_of(path)
    model, head_ids = load_draft(path, target, dtype, device)
    context_length = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or settings.kv_tokens)
    draft = LoadedDraft(PackedModel(model, settings.kv_tokens), head_ids, context_length)
    description = f"{Path(path).name} on {device.type} in {str(dtype).removeprefix('torch.')}"
    if settings.prompt_lookup:
        description += ", prompt lookup"
    return Armoury(draft, settings.prompt_lookup, fingerprint(_tokenizer(target or path)), description)


def _draft_path(name: str) -> str | None:
    """The draft's folder or hub name, None for no model."""
    if name == "none":
        return None
    if name != "auto":
        return resolve_model(name)
    shipped = shipped_draft(DEMO_MODEL)
    if shipped is None:
        log.warning("no draft model comes with this installation: drafting by prompt lookup alone")
    return None if shipped is None else str(shipped)


def _target_of(path: str) -> str | None:
    """The target whose embeddings and tokenizer a distilled draft shares, None for any other model."""
    if not (Path(path) / SPEC_FILE).is_file():
        return None
    return resolve_model(read_spec(Path(path)).target)


def _tokenizer(path: str) -> bytes:
    file = cached_file(path, "tokenizer.json")
    if file is None:
        raise OSError(f"{path} has no tokenizer.json")
    return Path(file).read_bytes()
