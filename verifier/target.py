"""Loading the target: its weights as a packed model, and the card that tells a gateway all it needs of it."""

from __future__ import annotations

import zlib
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from edgedraft.demo_model import resolve_model
from edgedraft.paged import PackedModel
from edgedraft.settings import VerifierSettings
from edgedraft.tokenizer import fingerprint
from edgedraft.torch_device import pick_device, pick_dtype, use_cores
from edgedraft.wire import ModelCard
from verifier.tensor_parallel import LeadingModel, Ranks, sharding


def load_target(settings: VerifierSettings, ranks: Ranks | None = None) -> tuple[PackedModel, ModelCard]:
    """Weights onto the device, or this one of several `ranks`' slices of them; checked to run packed.

    Raises OSError for a model that is not there, ValueError for cpus that are not, or a model that cannot be cut.
    """
    use_cores(settings.threads, settings.cpus)
    device = ranks.device if ranks else pick_device(settings.device)
    path = resolve_model(settings.model)
    place = {"distributed_config": sharding(path, ranks.size)} if ranks else {"device_map": {"": device}}
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=pick_dtype(settings.dtype, device), attn_implementation="sdpa", **place
    )
    if ranks:
        ranks.meet()
    packed = PackedModel(model, settings.kv_tokens)
    card = _card(settings, path, model.generation_config.eos_token_id)
    return LeadingModel(packed, ranks) if ranks and ranks.leads else packed, card


def _card(settings: VerifierSettings, path: str, generation_eos: int | list[int] | None) -> ModelCard:
    config = AutoConfig.from_pretrained(path).get_text_config()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    file = cached_file(path, "tokenizer.json")
    if file is None:
        raise OSError(f"{path} has no tokenizer.json")
    source = Path(file).read_bytes()
    eos = [tokenizer.eos_token_id, *(generation_eos if isinstance(generation_eos, list) else [generation_eos])]
    native = int(getattr(config, "max_position_embeddings", 0) or settings.kv_tokens)
    template = tokenizer.chat_template
    return ModelCard(
        name=settings.served_name or Path(settings.model).name,
        fingerprint=fingerprint(source),
        vocab_size=config.vocab_size,
        context_length=min(settings.context_length or native, settings.kv_tokens),
        eos=tuple(sorted({token for token in eos if isinstance(token, int)})),
        tokenizer=zlib.compress(source),
        chat_template=template if isinstance(template, str) else "",
        bos_token=str(tokenizer.bos_token or ""),
        eos_token=str(tokenizer.eos_token or ""),
    )
