"""Prefixes and the verifiers that computed them."""

from __future__ import annotations

from gateway.verifiers.affinity import BLOCK_SIZE, CAPACITY, MAX_BLOCKS, PrefixAffinity


def test_another_tenants_prefix_is_not_matched() -> None:
    affinity = PrefixAffinity()
    prompt = list(range(5 * BLOCK_SIZE + 1))
    affinity.record(affinity.hash_blocks("acme", prompt), "one")
    assert affinity.longest_match(affinity.hash_blocks("acme", prompt[: 3 * BLOCK_SIZE + 9])) == ("one", 3)
    assert affinity.longest_match(affinity.hash_blocks("acme", [*prompt[: 2 * BLOCK_SIZE], *prompt])) == ("one", 2)
    assert affinity.longest_match(affinity.hash_blocks("other", prompt)) == ("", 0)
    assert affinity.longest_match(affinity.hash_blocks("acme", prompt[1:])) == ("", 0)
    small = PrefixAffinity(capacity=3)
    small.record(small.hash_blocks("", prompt), "one")
    assert small.longest_match(small.hash_blocks("", prompt)) == ("one", 3), "the start is what others may share"


def test_only_complete_blocks_are_hashed_and_the_last_token_is_left_out() -> None:
    affinity = PrefixAffinity()
    counts = [len(affinity.hash_blocks("", range(tokens))) for tokens in (0, 1, BLOCK_SIZE, BLOCK_SIZE + 1)]
    assert counts == [0, 0, 0, 1]
    assert len(affinity.hash_blocks("", range((MAX_BLOCKS + 9) * BLOCK_SIZE))) == MAX_BLOCKS
    assert MAX_BLOCKS < CAPACITY


def test_the_verifier_recorded_last_is_the_one_matched() -> None:
    affinity = PrefixAffinity()
    blocks = affinity.hash_blocks("", range(3 * BLOCK_SIZE + 1))
    affinity.record(blocks, "one")
    affinity.record(blocks[:2], "two")
    assert affinity.longest_match(blocks) == ("one", 3)
    assert affinity.longest_match(blocks[:2]) == ("two", 2)
