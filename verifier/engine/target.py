"""Loads the target of the embedded engine: its weights as a packed model, and its model card."""

from __future__ import annotations

from transformers import AutoModelForCausalLM

from edgedraft.local.demo_model import resolve_model
from edgedraft.runtime.device import pick_device, pick_dtype, pin_to_cpus
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.runtime.paged_attention import check_available
from edgedraft.wire import ModelCard
from verifier.engine.tensor_parallel import LeaderModel, RankGroup, distributed_config
from verifier.model_card import build_model_card, native_context
from verifier.settings import VerifierSettings


def load_target(settings: VerifierSettings, ranks: RankGroup | None = None) -> tuple[PackedModel, ModelCard]:
    """Loads the weights onto the device, or with `ranks` this rank's slices of them, as a PackedModel.

    Raises OSError if the model is missing; ValueError for CPUs that do not exist, for attention or graphs that cannot
    run here, or a model that cannot be sharded; UnsupportedModel for one that cannot run packed forwards.
    """
    if settings.cuda_graphs and (ranks or settings.attention != "paged"):
        raise ValueError("--cuda-graphs needs --attention paged, and a model on one device")
    pin_to_cpus(settings.threads, settings.cpus)
    device = ranks.device if ranks else pick_device(settings.device)
    if settings.attention == "paged":
        check_available(device)
    path = resolve_model(settings.model)
    place = {"distributed_config": distributed_config(path, ranks.size)} if ranks else {"device_map": {"": device}}
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=pick_dtype(settings.dtype, device), attn_implementation="sdpa", **place
    )
    if ranks:
        ranks.wait_until_loaded()
    packed = PackedModel(model, settings.kv_tokens, attention=settings.attention, cuda_graphs=settings.cuda_graphs)
    context_length = settings.context_length or native_context(path) or settings.kv_tokens
    card = build_model_card(settings, path, min(context_length, settings.kv_tokens))
    return LeaderModel(packed, ranks) if ranks and ranks.is_leader else packed, card
