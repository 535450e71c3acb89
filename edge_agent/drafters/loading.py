"""Loads the drafters that the settings ask for: the draft model, its tokenizer's fingerprint, and a description.

Done once per process. The format of a draft on disk is pytorch/draft_model.py's, that of one exported to ONNX is
edgedraft/draft_manifest.py's. Without a draft model, or with one in a GGUF file or exported to ONNX, neither torch nor
transformers is imported.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.drafters.gguf.header import is_gguf
from edge_agent.drafters.interface import CombinedDrafter, Drafter
from edge_agent.drafters.loaded_model import LoadedModel
from edge_agent.drafters.lookup.past_outputs import PastOutputsDrafter, PastOutputStore
from edge_agent.drafters.lookup.prediction import PredictionDrafter
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafters.pytorch.draft_model import SPEC_FILE, load_draft, read_spec, shipped_draft
from edge_agent.foreign_text import printable
from edge_agent.onnx.folder import is_exported, kv_bytes_per_token
from edge_agent.settings import AgentSettings
from edgedraft.devices import LOOKUP
from edgedraft.local.demo_model import DEMO_MODEL, DemoModelError, resolve_model
from edgedraft.proposers.prompt_lookup import MatchRates
from edgedraft.tokenizer import fingerprint

log = logging.getLogger(__name__)

MIN_KV_TOKENS = 256


class DrafterUnavailable(Exception):
    """No drafter could be loaded; the message says why."""


@dataclass(frozen=True)
class DrafterSet:
    """All drafters of this agent. Up to `past_capacity` tokens of past outputs are kept in `past_folder`; 0 is none."""

    model: LoadedModel | None
    prompt_lookup: bool
    past_capacity: int = 0
    past_folder: Path | None = None
    _past: dict[str, tuple[PastOutputStore, MatchRates]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the draft model's tokenizer; empty without a model, which fits any tokenizer."""
        return self.model.fingerprint if self.model else ""

    @property
    def device(self) -> str:
        """What runs the draft model (edgedraft/devices.py)."""
        return self.model.device if self.model else LOOKUP

    @property
    def description(self) -> str:
        model = [self.model.description] if self.model else []
        lookup = ["prompt lookup"] if self.prompt_lookup else []
        return ", ".join([*model, *lookup, *(["past outputs"] if self.past_capacity else [])])

    def new_drafter(self, vocab_size: int, tokenizer: str = "") -> Drafter:
        """A new drafter for one attachment to a gateway whose target has this vocabulary size and tokenizer."""
        drafters: list[Drafter] = [PredictionDrafter(), *([PromptLookupDrafter()] if self.prompt_lookup else [])]
        if self.past_capacity:
            drafters.append(PastOutputsDrafter(*self._past_outputs(vocab_size, tokenizer)))
        return CombinedDrafter([*drafters, self.model.new_drafter(vocab_size)] if self.model else drafters)

    def _past_outputs(self, vocab_size: int, tokenizer: str) -> tuple[PastOutputStore, MatchRates]:
        """The store for one tokenizer: token ids are meaningless under another. Its file is read once."""
        if tokenizer not in self._past:
            known = re.fullmatch("[0-9a-f]{64}", tokenizer)
            file = self.past_folder / f"{tokenizer[:32]}.tokens" if known and self.past_folder else None
            self._past[tokenizer] = PastOutputStore(self.past_capacity, file, vocab_size), MatchRates()
        return self._past[tokenizer]


def load_drafters(settings: AgentSettings) -> DrafterSet:
    """Load what the settings ask for; no servers are looked for. Raises DrafterUnavailable."""
    try:
        if settings.draft_url:
            from edge_agent.drafters.server.loading import load_server

            model = load_server(settings)
        else:
            path = _draft_path(settings.draft_model)
            model = None if path is None else LOADERS[pick_runtime(path, settings.runtime)](path, settings)
    except (OSError, ValueError, DemoModelError) as error:
        what = "the server of --draft-url" if settings.draft_url else settings.draft_model
        raise DrafterUnavailable(f"cannot draft with {what}: {error}") from error
    except ImportError as error:
        raise DrafterUnavailable(
            f"a draft model in PyTorch's format needs more packages: pip install 'edgedraft[agent]' ({error})"
        ) from error
    return combine_drafters(model, settings)


def combine_drafters(model: LoadedModel | None, settings: AgentSettings) -> DrafterSet:
    """This draft model beside the other drafters that the settings ask for. Raises DrafterUnavailable without any."""
    past_capacity = settings.past_tokens if settings.past_outputs else 0
    if model is None and not settings.prompt_lookup and not past_capacity:
        raise DrafterUnavailable("with no draft model, prompt lookup or past outputs there is nothing to draft with")
    return DrafterSet(model, settings.prompt_lookup, past_capacity, settings.past_folder)


def _draft_path(name: str) -> str | None:
    """The draft model's folder or hub name, or None for no model."""
    if name == "none":
        return None
    if name != "auto":
        return resolve_model(name)
    shipped = shipped_draft(DEMO_MODEL)
    if shipped is None:
        log.warning("no draft model comes with this installation: drafting by prompt lookup alone")
    return None if shipped is None else str(shipped)


def pick_runtime(path: str, runtime: str) -> str:
    """What runs a draft model, given its file, folder or hub name: "torch", "onnx" or "gguf".

    Raises ValueError when another runtime is wanted than the format is for.
    """
    found = "gguf" if _names_gguf(path) else "onnx" if is_exported(Path(path)) else "torch"
    if runtime in ("auto", found):
        return found
    advice = "; `edgedraft draft export` writes a folder for it" if runtime == "onnx" else ""
    raise ValueError(f"it is not a draft model for --runtime {runtime}, but for {found}{advice}")


def _names_gguf(path: str) -> bool:
    """Whether this is a GGUF file by its name, or by its content where it has another one, as Ollama's files do."""
    return path.endswith(".gguf") or is_gguf(Path(path))


def _load_model(path: str, settings: AgentSettings) -> LoadedModel:
    import torch

    from edge_agent.drafters.pytorch.drafter import ModelDrafter
    from edgedraft.runtime.device import pick_device, pick_dtype
    from edgedraft.runtime.packed_model import PackedModel, UnsupportedModel

    # One core stays free for the link and for the user's other programs.
    torch.set_num_threads(settings.threads or max(1, torch.get_num_threads() - 1))
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device, exact=False)
    target = _target_of(path)
    model, head_ids = load_draft(path, target, dtype, device)
    context_length = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or settings.kv_tokens)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    kv_tokens = fit_kv_tokens(settings, weights, _kv_bytes(model.config.get_text_config(), dtype.itemsize))
    if settings.max_memory and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, settings.max_memory * 1e9 / total), device)
    try:
        packed = PackedModel(model, kv_tokens, exact=False)
    except UnsupportedModel as error:
        raise ValueError(str(error)) from error
    return LoadedModel(
        new_drafter=lambda vocab_size: ModelDrafter(packed, context_length, vocab_size, head_ids),
        fingerprint=fingerprint(read_tokenizer(target or path)),
        description=f"{Path(path).name} on {device.type} in {str(dtype).removeprefix('torch.')}",
        device=f"torch {device.type}",
    )


def fit_kv_tokens(settings: AgentSettings, weights: int, kv_bytes: int) -> int:
    """The tokens of KV cache that fit in --max-memory beside `weights` bytes, at `kv_bytes` per token.

    Raises ValueError when they are fewer than MIN_KV_TOKENS.
    """
    if not settings.max_memory:
        return settings.kv_tokens
    fitting = int((settings.max_memory * 1e9 - weights) // kv_bytes)
    if fitting < MIN_KV_TOKENS:
        least = (weights + MIN_KV_TOKENS * kv_bytes) / 1e9
        raise ValueError(f"it needs {least:.2f} GB, and --max-memory allows {settings.max_memory:g}")
    return min(settings.kv_tokens, fitting)


def _kv_bytes(config: Any, number_bytes: int) -> int:
    queries = getattr(config, "num_attention_heads", 1)  # a model without attention is rejected later
    heads = getattr(config, "num_key_value_heads", None) or queries
    dim = getattr(config, "head_dim", None) or config.hidden_size // queries
    return 2 * config.num_hidden_layers * heads * dim * number_bytes


def _load_gguf(path: str, settings: AgentSettings) -> LoadedModel:
    if not Path(path).is_file():
        raise OSError("there is no such file")
    try:
        from edge_agent.drafters.gguf.drafter import GgufDrafter, LlamaCpp, read_gguf_metadata

        facts = read_gguf_metadata(Path(path))
        kv_tokens = fit_kv_tokens(settings, facts.weight_bytes, facts.kv_bytes_per_token)
        model = LlamaCpp(Path(path), settings.max_sessions, kv_tokens, settings.threads, settings.device == "cpu")
    except ImportError as error:
        raise ValueError(f"GGUF files need another package: pip install 'edgedraft[gguf]' ({error})") from error
    return LoadedModel(
        new_drafter=lambda vocab_size: GgufDrafter(model, vocab_size),
        fingerprint=facts.fingerprint,
        description=f"{Path(path).name} by llama.cpp",
        device="gguf",
    )


def _load_onnx(path: str, settings: AgentSettings) -> LoadedModel:
    try:
        from edge_agent.onnx.drafter import OnnxDrafter
        from edge_agent.onnx.model import load_model
    except ImportError as error:
        raise ValueError(f"ONNX drafts need another package: pip install 'edgedraft[onnx]' ({error})") from error
    # One core stays free, as for torch.
    model = load_model(Path(path), settings.provider, settings.threads or max(1, (os.cpu_count() or 2) - 1))
    weights = model.manifest.variants[model.variant].file.bytes
    kv_tokens = fit_kv_tokens(settings, weights, kv_bytes_per_token(model.manifest, model.kv_dtype))
    where = model.device.description
    return LoadedModel(
        new_drafter=lambda vocab_size: OnnxDrafter(model, vocab_size, kv_tokens),
        fingerprint=model.manifest.fingerprint,
        description=f"{printable(model.manifest.name)} on {where} in {model.variant} by ONNX Runtime",
        device=f"onnx {model.device.provider.name}",
    )


LOADERS: dict[str, Callable[[str, AgentSettings], LoadedModel]] = {
    "torch": _load_model,
    "onnx": _load_onnx,
    "gguf": _load_gguf,
}


def _target_of(path: str) -> str | None:
    """The target whose embeddings and tokenizer a distilled draft shares; None for any other model."""
    if not (Path(path) / SPEC_FILE).is_file():
        return None
    return resolve_model(read_spec(Path(path)).target)


def read_tokenizer(path: str) -> bytes:
    """The tokenizer.json of a model's folder or hub name. Raises OSError."""
    from transformers.utils.hub import cached_file

    file = cached_file(path, "tokenizer.json")
    if file is None:
        raise OSError(f"{path} has no tokenizer.json")
    return Path(file).read_bytes()
