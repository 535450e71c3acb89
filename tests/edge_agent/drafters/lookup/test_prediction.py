"""The client's prediction as a drafter: proposals follow its cursor through committed text and drafted path."""

from __future__ import annotations

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest
from edge_agent.drafters.lookup.prediction import PredictionDrafter
from edge_agent.drafting.draft_session import DraftSession
from edgedraft.wire import Commit, Open, Sampling

PROMPT = [1, 2]
PREDICTION = list(range(10, 40))
SAMPLING = Sampling(temperature=0)


def test_it_goes_on_where_the_path_has_come_to_and_forgets_paths_that_were_not_taken() -> None:
    drafter = PredictionDrafter()
    drafter.open(1)
    [first] = drafter.propose([DraftRequest(1, PROMPT, 2, 0, SAMPLING, PREDICTION)])
    assert first.tokens[:3] == (10, 11, 12)
    assert first.parents[:3] == (-1, 0, 1)
    [deeper] = drafter.propose([DraftRequest(1, [*PROMPT, 10, 11, 12], 3, 3, SAMPLING, PREDICTION)])
    assert deeper.tokens[:2] == (13, 14)
    [lost] = drafter.propose([DraftRequest(1, [*PROMPT, 10, 99], 4, 2, SAMPLING, PREDICTION)])
    assert lost == NO_PROPOSAL
    [found] = drafter.propose([DraftRequest(1, [*PROMPT, 10, 99, 12], 5, 3, SAMPLING, PREDICTION)])
    assert found.tokens[:2] == (13, 14)
    drafter.close(1)
    drafter.close(1)


def test_sessions_without_a_prediction_get_nothing() -> None:
    assert PredictionDrafter().propose([DraftRequest(1, PROMPT, 2, 0, SAMPLING)]) == [NO_PROPOSAL]


def test_a_session_drafts_the_whole_prediction_as_its_window_moves() -> None:
    drafter = PredictionDrafter()
    session = DraftSession(Open(1, PROMPT, SAMPLING, 30, window=16, prediction=PREDICTION), epoch=1)
    drafter.open(1)
    drafted: list[int] = []
    while len(session.tree.committed) < 30:
        while wanted := session.next_request():
            drafts = session.add_proposals([(wanted[0], drafter.propose([wanted[1]])[0])])
            drafted += [token for draft in drafts for token in draft.tokens]
        at = len(session.tree.committed)
        held = session.commit(Commit(1, at, PREDICTION[at : at + 5], window=16))
        drafted += [token for draft in held for token in draft.tokens]
    assert drafted == PREDICTION
