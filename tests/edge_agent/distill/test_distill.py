"""Distillation from end to end on a tiny random target: samples, training, resuming, export, loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from edge_agent.distill import main
from edge_agent.distill.evaluate import simulate_chain
from edge_agent.distill.prompts import KINDS, PromptMaker, select_split
from edge_agent.distill.samples import HELD_OUT, load_samples, shards
from edge_agent.distill.train import distillation_loss, pack
from edge_agent.drafters import draft_model
from edge_agent.settings import DistillSettings
from edgedraft.local.demo_model import DEMO_MODEL, ensure_demo_model
from edgedraft.tokenizer import fingerprint
from tests.support.tiny_llama import tiny_llama

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random layers over single bytes, confident enough to be learned."""
    folder = tmp_path_factory.mktemp("target")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    tiny_llama(
        1,
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(target: Path, tmp_path_factory: pytest.TempPathFactory) -> DistillSettings:
    folder = tmp_path_factory.mktemp("distill")
    return DistillSettings.model_validate(
        {
            "target": str(target),
            "out": folder / "draft",
            "work": folder / "work",
            "layers": (0, 2),
            "head_size": 200,
            "tokens": 4000,
            "slots": 32,
            "sample_length": 900,
            "answer_tokens": 24,
            "top_k": 8,
            "held_out": 2,
            "passes": 3.0,
            "row_tokens": 512,
            "rows": 2,
            "rate": 3e-3,
            "device": "cpu",
        }
    )


@pytest.fixture(scope="module")
def draft(settings: DistillSettings) -> Path:
    main(settings)
    return settings.out


def test_the_recipe_makes_a_loadable_draft_whose_loss_fell(draft: Path, settings: DistillSettings) -> None:
    spec = draft_model.read_spec(draft)
    assert (spec.layers, spec.head_size, spec.target) == ((0, 2), 200, settings.target)
    assert spec.training["last_loss"] < spec.training["first_loss"] - 0.3
    assert "all" in spec.training["acceptance"]
    assert set(spec.training["acceptance"]) <= {*KINDS, "all"}
    card = (draft / draft_model.CARD_FILE).read_text()
    assert "tokens per verify" in card
    assert "{" not in card
    assert spec.tokenizer == fingerprint((Path(settings.target) / "tokenizer.json").read_bytes())


def test_the_stored_draft_is_the_trained_child_within_the_rounding_of_int8(
    draft: Path, settings: DistillSettings
) -> None:
    model, head_ids = draft_model.load_draft(draft, settings.target)
    assert head_ids is not None
    assert isinstance(model, LlamaForCausalLM)
    assert model.config.num_hidden_layers == 2
    assert [getattr(layer.self_attn, "layer_idx", None) for layer in model.model.layers] == [0, 1]
    exact, _ = draft_model.load_draft(draft, settings.target)
    best = torch.load(settings.work / "best.pt", weights_only=True)
    assert not exact.load_state_dict(best, strict=False).unexpected_keys
    ids = torch.randint(0, 200, (2, 40), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        stored, trained = model(ids).logits, exact(ids).logits
    assert stored.shape == (2, 40, len(head_ids))
    assert (stored - trained).abs().mean() < 0.03 * trained.std()
    assert 1 in head_ids.tolist()
    assert head_ids.tolist() == sorted(set(head_ids.tolist()))


def test_the_embeddings_are_the_targets_and_are_not_stored(draft: Path, settings: DistillSettings) -> None:
    model, _ = draft_model.load_draft(draft, settings.target, torch.bfloat16)
    assert model.dtype == torch.bfloat16
    whole = AutoModelForCausalLM.from_pretrained(settings.target)
    ours, theirs = (m.state_dict()["model.embed_tokens.weight"] for m in (model, whole))
    assert torch.equal(ours, theirs.bfloat16())
    sizes = [path.stat().st_size for path in draft.iterdir()]
    assert sum(sizes) < 60_000


def test_a_plain_model_loads_without_head_ids(target: Path) -> None:
    model, head_ids = draft_model.load_draft(target)
    assert head_ids is None
    assert model.config.num_hidden_layers == 3


def test_a_draft_without_its_target_or_for_another_format_is_refused(draft: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target's embeddings"):
        draft_model.load_draft(draft)
    spec = msgspec.structs.replace(draft_model.read_spec(draft), format="edgedraft-draft/9")
    (tmp_path / draft_model.SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    with pytest.raises(ValueError, match="edgedraft-draft/9"):
        draft_model.load_draft(tmp_path, "unused")


def test_an_interrupted_run_goes_on(draft: Path, settings: DistillSettings, tmp_path: Path) -> None:
    before = draft_model.read_spec(draft).training
    marks = {path: path.stat().st_mtime_ns for path in shards(settings.work / "samples")}
    longer = settings.model_copy(update={"out": tmp_path / "again", "passes": 4.0})
    main(longer)
    after = draft_model.read_spec(tmp_path / "again").training
    assert after["steps"] > before["steps"]
    assert after["first_loss"] == before["first_loss"]
    # Enough samples were there: none was written or changed.
    assert {path: path.stat().st_mtime_ns for path in shards(settings.work / "samples")} == marks


def test_a_draft_is_trained_further_on_new_samples(draft: Path, settings: DistillSettings, tmp_path: Path) -> None:
    further = settings.model_copy(
        update={"start": str(draft), "out": tmp_path / "draft", "work": tmp_path, "tokens": 1500, "seed": 1}
    )
    main(further)
    first, second = draft_model.read_spec(draft), draft_model.read_spec(further.out)
    assert (second.layers, second.head_size) == (first.layers, first.head_size)
    assert second.training["first_loss"] < first.training["first_loss"] - 0.3
    assert second.training["before"]["trained_tokens"] == first.training["trained_tokens"]
    assert "Before that: " in (further.out / draft_model.CARD_FILE).read_text()


def test_labels_are_the_targets_own_probabilities(draft: Path, settings: DistillSettings) -> None:
    model = AutoModelForCausalLM.from_pretrained(settings.target)
    samples = load_samples(shards(settings.work / "samples")[0])
    assert {sample.kind for sample in samples} <= set(KINDS)
    for sample in [max(samples, key=lambda s: len(s.ids)), *samples[:5]]:
        with torch.inference_mode():
            logits = model(sample.ids.long()[None]).logits[0, sample.positions.long() - 1]
        values, ids = logits.log_softmax(-1).topk(8, dim=1)
        # The target may have run in bfloat16.
        assert (values - sample.top_logps.float()).abs().mean() < 0.1
        assert (ids[:, 0] == sample.top_ids[:, 0]).float().mean() > 0.8
    greedy = load_samples(settings.work / "samples" / HELD_OUT)
    assert 0 < len(greedy) <= 2 * len(KINDS)
    assert all(torch.equal(s.ids[s.positions.long()], s.top_ids[:, 0]) for s in greedy)


def test_packing_keeps_every_label_in_place(draft: Path, settings: DistillSettings) -> None:
    samples = load_samples(settings.work / "samples" / HELD_OUT)
    labels = 0
    for batch in pack(samples, 512, 2, "seed"):
        # The answers are greedy: every label's best token is the token that stands there.
        assert torch.equal(batch.ids.flatten()[batch.label_rows + 1], batch.top_ids[:, 0])
        assert (batch.position_ids.flatten()[batch.label_rows + 1] > 0).all()
        labels += len(batch.label_rows)
    total = sum(len(sample.positions) for sample in samples)
    assert 0.5 * total < labels <= total


def test_held_out_prompts_share_nothing_with_training() -> None:
    training, held_out = PromptMaker(0), PromptMaker(0, held_out=True)
    for kind in KINDS:
        seen = {training.make(kind).messages[-1]["content"] for _ in range(400)}
        kept = {held_out.make(kind).messages[-1]["content"] for _ in range(100)}
        assert not seen & kept
        assert len(seen) > 200
    items = tuple(str(i) for i in range(50))
    assert not set(select_split(items, True)) & set(select_split(items, False))
    assert set(select_split(items, True)) | set(select_split(items, False)) == set(items)


def test_prompts_repeat_with_their_seed() -> None:
    assert [PromptMaker(3).make(kind) for kind in KINDS] == [PromptMaker(3).make(kind) for kind in KINDS]


def test_the_loss_is_least_where_the_student_agrees() -> None:
    logits = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    logps, columns = logits.log_softmax(-1).topk(4)
    same = distillation_loss(logits, columns, logps)
    other = distillation_loss(logits.roll(1, 0), columns, logps)
    assert same < other
    # A label that the head lacks moves nothing to infinity.
    columns[:, 0] = -1
    assert distillation_loss(logits, columns, logps).isfinite()


def test_a_chain_takes_its_run_of_hits_and_one_token_more() -> None:
    assert simulate_chain([False] * 4) == (4, 4)
    assert simulate_chain([True] * 12) == (12, 2)
    assert simulate_chain([True, True, False, True]) == (4, 2)


def test_int8_rows_come_back_within_half_a_step() -> None:
    noise = torch.randn((7, 33), generator=torch.Generator().manual_seed(0))
    matrix = noise * torch.logspace(-9, 2, 7)[:, None]
    values, scale = draft_model.quantise(matrix)
    assert values.dtype == torch.int8
    error = (draft_model.dequantise(values, scale) - matrix).abs()
    # Half a step, and at the clipped end what the scale lost: 2^-11 of it, or half of float16's smallest number.
    assert (error <= 0.6 * scale.float()[:, None] + 127 * 2.0**-25).all()


def test_the_shipped_draft_fits_the_demo_model() -> None:
    folder = draft_model.shipped_draft(DEMO_MODEL)
    assert folder is not None
    assert draft_model.shipped_draft("no-such-model") is None
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40_000_000
    demo = ensure_demo_model()
    spec = draft_model.read_spec(folder)
    assert spec.tokenizer == fingerprint((demo / "tokenizer.json").read_bytes())
    draft, head_ids = draft_model.load_draft(folder, demo)
    assert head_ids is not None
    target: Any = AutoModelForCausalLM.from_pretrained(demo)
    tokenizer = AutoTokenizer.from_pretrained(demo)
    hits = total = 0
    for question in ("What is photosynthesis?", "Write a Python function that reverses a string."):
        chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        text = target.generate(**prompt, max_new_tokens=64, do_sample=False)
        start = prompt["input_ids"].shape[1]
        with torch.inference_mode():
            guesses = head_ids[draft(text[:, :-1]).logits[0, start - 1 :].argmax(-1)]
        hits += int((guesses == text[0, start:]).sum())
        total += len(guesses)
    assert hits / total > 0.3
