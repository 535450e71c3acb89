"""Which verifier is selected: by health, prefix affinity and load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from gateway.verifiers.affinity import BLOCK_SIZE
from gateway.verifiers.selection import TOKENS_PER_EXTRA_SESSION, select_verifier

NO_MATCH = ("", 0)


@dataclass(eq=False)
class FakeLink:
    """What selection reads of a verifier's link."""

    url: str
    running: int = 0
    max_sessions: int = 8
    waiting: int = 0
    preferred: bool = True


def select(links: list[FakeLink], avoid: Any = None, blocks: Any = (), match: Any = NO_MATCH) -> str:
    return select_verifier(cast(Any, links), avoid, blocks, match).url


def test_the_least_loaded_in_proportion_to_its_capacity() -> None:
    assert select([FakeLink("a", 3), FakeLink("b", 2)]) == "b"
    assert select([FakeLink("a", 3, 16), FakeLink("b", 2, 8)]) == "a"
    assert select([FakeLink("a", 0, waiting=1), FakeLink("b", 7)]) == "b", "one with a queue comes last"


def test_an_ejected_or_avoided_one_is_used_only_if_there_is_no_other() -> None:
    ejected, busy = FakeLink("a", preferred=False), FakeLink("b", 7)
    assert select([ejected, busy]) == "b"
    assert select([ejected]) == "a"
    assert select([FakeLink("c"), busy], avoid=busy) == "c"
    assert select([busy], avoid=busy) == "b"
    assert select([ejected, busy], avoid=busy) == "b", "an avoided one rather than an ejected one"


@pytest.mark.parametrize(("more", "selected"), [(0, "a"), (1, "a"), (2, "b")])
def test_a_match_outweighs_some_running_sessions(more: int, selected: str) -> None:
    count = TOKENS_PER_EXTRA_SESSION // BLOCK_SIZE
    blocks = list(range(count))
    assert select([FakeLink("a", 3 + more), FakeLink("b", 3)], None, blocks, ("a", count)) == selected


def test_a_match_with_a_queue_or_that_is_avoided_is_not_followed() -> None:
    blocks = list(range(100))
    assert select([FakeLink("a", waiting=1), FakeLink("b")], None, blocks, ("a", 100)) == "b"
    matching = FakeLink("a")
    assert select([matching, FakeLink("b")], matching, blocks, ("a", 100)) == "b"
    assert select([FakeLink("b")], None, blocks, ("gone", 100)) == "b"


def test_gateways_agree_on_a_verifier_for_a_prefix_and_spread_prefixes() -> None:
    links = [FakeLink("a"), FakeLink("b"), FakeLink("c")]
    blocks = [hash((number, 7)) for number in range(60)]
    selected = [select(links, None, [block]) for block in blocks]
    assert selected == [select(links[::-1], None, [block]) for block in blocks]
    assert set(selected) == {"a", "b", "c"}
