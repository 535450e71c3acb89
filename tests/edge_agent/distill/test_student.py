"""The student: which layers and head tokens it takes from the target, and what training may change."""

from __future__ import annotations

import pytest
import torch

from edge_agent.distill.samples import Sample
from edge_agent.distill.student import choose_head, default_layers, make_student, trained_state
from edge_agent.drafters.pytorch.draft_model import embedding_name
from tests.support.tiny_llama import VOCAB, tiny_llama


@pytest.mark.parametrize(
    ("count", "layers"),
    [(1, (0,)), (3, (0, 1, 2)), (8, (0, 1, 2, 3, 4, 5, 6, 7)), (30, (0, 1, 2, 3, 4, 16, 28, 29))],
)
def test_default_layers(count: int, layers: tuple[int, ...]) -> None:
    assert default_layers(count) == layers


def labelled(ids: list[int], top_ids: list[list[int]], top_logps: list[list[float]]) -> Sample:
    positions = torch.arange(len(top_ids), dtype=torch.int32)
    return Sample(
        "chat", torch.tensor(ids, dtype=torch.int32), positions, torch.tensor(top_ids), torch.tensor(top_logps)
    )


def test_the_head_has_the_most_likely_tokens_in_ascending_order() -> None:
    samples = [labelled([1], [[9, 4], [9, 2]], [[-0.1, -2.0], [-0.1, -3.0]])]
    assert choose_head(samples, 12, 2, ()).tolist() == [4, 9]
    assert choose_head(samples, 12, 3, ()).tolist() == [1, 4, 9], "a use in the text weighs a tenth"
    assert choose_head(samples, 12, 2, [11]).tolist() == [9, 11]
    assert choose_head(samples, 12, 5, ()).tolist() == [0, 1, 2, 4, 9], "ties go to the lowest id"
    assert choose_head(samples, 12, 99, ()).tolist() == list(range(12))


def test_a_student_starts_from_the_targets_layers_and_its_embeddings_are_frozen() -> None:
    target = tiny_llama(num_hidden_layers=3)
    head_ids = torch.tensor([3, 5, 90])
    student = make_student(target, (0, 2), head_ids)
    source, state = target.state_dict(), student.state_dict()
    for index, layer in enumerate((0, 2)):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(state[name.format(index)], source[name.format(layer)])
    assert torch.equal(state["lm_head.weight"], source["lm_head.weight"][head_ids])
    embeddings = student.get_parameter(embedding_name(student))
    assert embeddings.shape[0] == VOCAB
    assert not embeddings.requires_grad
    assert set(state) - set(trained_state(student)) == {embedding_name(student)}
    state["lm_head.weight"].zero_()
    assert target.state_dict()["lm_head.weight"].any(), "the target keeps weights of its own"
