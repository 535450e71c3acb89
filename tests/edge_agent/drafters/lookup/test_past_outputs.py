"""Past outputs: earlier outputs are proposed again, within bounds, and outlives the process."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent.drafters.interface import NO_PROPOSAL, Proposal
from edge_agent.drafters.loading import DrafterUnavailable, load_drafters
from edge_agent.drafters.lookup.past_outputs import END, PastOutputsDrafter, PastOutputStore
from edge_agent.settings import AgentSettings
from edgedraft.proposers.prompt_lookup import MAX_CHAIN, MatchRates
from tests.edge_agent.tiny_drafter import point

SAID = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]


def drafter(*outputs: list[int], capacity: int = 4096) -> PastOutputsDrafter:
    store = PastOutputStore(capacity)
    for output in outputs:
        store.add(output)
    made = PastOutputsDrafter(store, MatchRates())
    made.open(1)
    return made


def path(proposal: Proposal) -> list[int]:
    """The most probable child of each node in turn."""
    found, parent = [], -1
    while children := [i for i, p in enumerate(proposal.parents) if p == parent]:
        parent = max(children, key=lambda i: proposal.probabilities[i])
        found.append(proposal.tokens[parent])
    return found


def ask(made: PastOutputsDrafter, context: list[int]) -> Proposal:
    return made.propose([point(context)])[0]


def test_an_answer_that_begins_as_an_earlier_one_goes_on_like_it() -> None:
    made = drafter(SAID)
    proposal = ask(made, [1, 2, *SAID[:4]])
    assert path(proposal) == SAID[4:]
    assert all(0 < p < 1 for p in proposal.probabilities)


def test_an_output_is_known_once_its_session_has_ended_and_no_sooner() -> None:
    made = drafter()
    assert ask(made, SAID[:4]) == NO_PROPOSAL
    made.close(1, SAID)
    made.open(2)
    assert path(made.propose([point(SAID[:4], session=2)])[0]) == SAID[4:]


def test_earlier_outputs_vote_and_each_way_is_a_branch() -> None:
    common = [5, 6, 7, 8, 9]
    ways = [[*common, 30, 31, 32, 33], [*common, 40, 41, 42, 43], [*common, 40, 41, 52, 53]]
    proposal = ask(drafter(*ways), [9, 9, *common])
    first = {proposal.tokens[i]: proposal.probabilities[i] for i, p in enumerate(proposal.parents) if p == -1}
    assert first[40] == pytest.approx(2 * first[30])
    assert path(proposal)[:2] == [40, 41]


def test_the_longest_match_wins_over_the_latest() -> None:
    long, late = [1, 2, 3, 4, 5, 50, 51, 52], [9, 8, 3, 4, 5, 60, 61, 62]
    assert path(ask(drafter(long, late), [1, 2, 3, 4, 5]))[0] == 50


def test_nothing_crosses_from_one_output_into_the_next() -> None:
    made = drafter(SAID, [71, 72, 73, 74, 75, 76, 77, 78])
    assert ask(made, [9, *SAID[-3:]]) == NO_PROPOSAL
    assert ask(made, [SAID[-1], 71, 72]) == NO_PROPOSAL


def test_chains_are_bounded() -> None:
    made = drafter(list(range(100)))
    assert len(path(ask(made, list(range(30))))) == MAX_CHAIN


def test_what_was_wrong_is_trusted_less() -> None:
    made = drafter(SAID)
    before = ask(made, SAID[:3]).probabilities[0]
    for number in range(2, 12):
        made.open(number)
        made.propose([point([], [*SAID[:3], 99], session=number)])
    after = made.propose([point([], SAID[:3], session=2)])[0].probabilities[0]
    assert after < before / 2


def test_a_drafted_path_is_looked_up_but_teaches_nothing() -> None:
    store, trust = PastOutputStore(4096), MatchRates()
    store.add(SAID)
    made = PastOutputsDrafter(store, trust)
    made.open(1)
    asked = point([], SAID[:3])
    made.propose([type(asked)(1, [*SAID[:3], 14, 99], 3, 3, asked.sampling)])
    assert sum(trust.attempts) == 0


@given(st.lists(st.lists(st.integers(0, 5), max_size=40), max_size=30), st.integers(16, 120))
@example([[0] * 8, [1] * 16, [2] * 40], 35)
def test_the_bound_holds_and_every_place_found_follows_its_match(outputs: list[list[int]], capacity: int) -> None:
    store = PastOutputStore(capacity)
    for output in outputs:
        store.add(output)
        assert len(store) <= capacity
        for end in range(len(output) + 1):
            places, length = store.find_matches(output, end)
            for place in places:
                before = [store.token_at(p) for p in range(place - length, place)]
                assert before == output[end - length : end]
                assert END not in before


def test_the_latest_outputs_stay_and_the_oldest_go() -> None:
    outputs = [[n * 100 + i for i in range(20)] for n in range(50)]
    made = drafter(*outputs, capacity=400)
    assert path(ask(made, outputs[-1][:5]))
    assert ask(made, outputs[0][:5]) == NO_PROPOSAL


def test_they_outlive_the_process_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "outputs.tokens"
    PastOutputStore(4096, file).add(SAID)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = PastOutputsDrafter(PastOutputStore(4096, file), MatchRates())
    again.open(1)
    assert path(ask(again, SAID[:5])) == SAID[5:]


def test_the_file_is_bounded_and_keeps_what_memory_keeps(tmp_path: Path) -> None:
    file = tmp_path / "outputs.tokens"
    store = PastOutputStore(200, file)
    for n in range(100):
        store.add([n * 30 + i for i in range(20)])
        assert file.stat().st_size <= 8 * 200 + 4 * 21
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = PastOutputStore(200, file)
    last = [99 * 30 + i for i in range(20)]
    assert again.find_matches(last, 5)[1] == 5


@pytest.mark.parametrize("torn", [b"abc", b"\x05\x00\x00\x00" * 9, b"\x05\x00\x00\x00" * 9 + b"a"])
def test_half_an_output_at_the_end_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "outputs.tokens"
    PastOutputStore(4096, file).add(SAID)
    with file.open("ab") as out:
        out.write(torn)
    PastOutputStore(4096, file).add([*range(50, 70)])
    store = PastOutputStore(4096, file)
    assert store.find_matches(SAID, 6)[1] == 6
    assert store.find_matches([*range(50, 60)], 10)[1] == 10
    assert store.find_matches([5] * 5, 5) == ([], 0)


@pytest.mark.parametrize("damage", [b"\xff\xff\xff\x7f" * 4, b"\x00\x00\x00\x80" * 3])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "outputs.tokens"
    PastOutputStore(4096, file, vocab_size=100).add(SAID)
    with file.open("ab") as out:
        out.write(damage)
    store = PastOutputStore(4096, file, vocab_size=100)
    store.add(SAID)
    assert PastOutputStore(4096, file, vocab_size=100).find_matches(SAID, 6)[1] == 6


def test_a_folder_that_cannot_be_written_leaves_them_in_memory(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    store = PastOutputStore(4096, tmp_path / "taken" / "outputs.tokens")
    store.add(SAID)
    assert store.find_matches(SAID, 5)[1] == 5


def test_each_tokenizer_has_outputs_of_its_own_and_a_flag_turns_them_off(tmp_path: Path) -> None:
    settings = AgentSettings.model_validate(
        {"url": "http://127.0.0.1", "key": "k", "draft_model": "none", "past_outputs": True, "past_folder": tmp_path}
    )
    drafters = load_drafters(settings)
    assert drafters.description == "prompt lookup, past outputs"
    drafters.new_drafter(100, "a" * 64).close(1, SAID)
    for tokenizer, wanted in (("a" * 64, SAID[4:]), ("b" * 64, []), ("../../x", [])):
        made = drafters.new_drafter(100, tokenizer)
        made.open(2)
        assert path(made.propose([point([1, *SAID[:4]], session=2)])[0]) == wanted
    assert [file.name for file in tmp_path.iterdir()] == ["a" * 32 + ".tokens"]
    assert load_drafters(settings.model_copy(update={"past_outputs": False})).description == "prompt lookup"
    with pytest.raises(DrafterUnavailable):
        load_drafters(settings.model_copy(update={"past_outputs": False, "prompt_lookup": False}))
