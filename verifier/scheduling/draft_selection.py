"""The draft of one session for its next step: an agent's tree, the client's prediction, or prompt lookup.

The source with the most expected accepted tokens is taken. How many of its nodes are verified is decided in policy.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import confidence_byte
from verifier.engine.interface import Engine
from verifier.scheduling.calibration import Calibrations
from verifier.scheduling.session_state import SessionState

# Names in Calibrations of sources that are not agents; names of agents are hexadecimal.
PROMPT_LOOKUP_SOURCE = "the verifier's own"
PREDICTION_SOURCE = "predicted by clients of "  # and the tenant's salt, so that tenants do not affect each other
MAX_INDEXED_PER_STEP = 256  # tokens of a text that are added to its lookup index before one step


class DraftSelector:
    """Selects each session's draft, of at most `verify_nodes` nodes; a chain unless the engine supports trees."""

    def __init__(self, engine: Engine, calibrations: Calibrations, verify_nodes: int) -> None:
        self._engine = engine
        self._calibrations = calibrations
        self._verify_nodes = verify_nodes

    def select(self, session: SessionState) -> DraftSlice:
        """The nodes that may be verified next. Sets the session's `draft_source` and `verifier_drafted`."""
        agent = session.tree_agent
        max_nodes = min(self._verify_nodes, self._calibrations.get(agent).max_nodes)
        if self._engine.supports_trees:
            drafted = session.tree.select(max_nodes)
        else:
            path = session.tree.select(len(session.tree)).most_likely_path()
            drafted = path.subset(range(min(max_nodes, len(path))))
        source, own_draft = self.verifier_draft(session, use_lookup=not len(drafted))
        session.verifier_drafted = len(own_draft) > 0 and (
            self.expected_accepted(source, own_draft) > self.expected_accepted(agent, drafted)
        )
        session.draft_source = source if session.verifier_drafted else agent
        return own_draft if session.verifier_drafted else drafted

    def evaluate(self, session: SessionState) -> tuple[DraftSlice, list[float]]:
        """The nodes that may be verified next, and for each the probability that it and its ancestors are accepted."""
        if session.evaluated_draft is None:
            draft = self.select(session)
            session.evaluated_draft = draft, self._calibrations.get(session.draft_source).path_probabilities(draft)
        return session.evaluated_draft

    def verifier_draft(self, session: SessionState, use_lookup: bool = True) -> tuple[str, DraftSlice]:
        """The verifier's own draft and its source: the client's prediction or else, with `use_lookup`, prompt lookup.

        Neither needs a round trip. An agent's draft already includes the agent's own prompt lookup, so lookup is used
        only where there is no draft of an agent.
        """
        if session.prediction and len(predicted := self._chain(*session.prediction.propose())):
            return PREDICTION_SOURCE + session.request.salt, predicted
        if (index := session.lookup_index) is None or not use_lookup:
            return PROMPT_LOOKUP_SOURCE, EMPTY_DRAFT
        end = min(len(session.token_ids), index.num_indexed + MAX_INDEXED_PER_STEP)
        index.update(session.token_ids, end, session.num_prompt_tokens)
        return PROMPT_LOOKUP_SOURCE, self._chain(*index.propose(session.token_ids))

    def expected_accepted(self, source: str, draft: DraftSlice) -> float:
        """The expected number of the draft's tokens that will be committed."""
        return sum(self._calibrations.get(source).path_probabilities(draft))

    def _chain(self, tokens: Sequence[int], probabilities: Sequence[float]) -> DraftSlice:
        count = min(len(tokens), self._verify_nodes)
        costs = tuple(accumulate(confidence_byte(probability) for probability in probabilities[:count]))
        return DraftSlice.chain(tokens[:count], costs)
