"""Which of several verifiers a session opens at: fit ones, where the prompt's beginning is, or where least runs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from gateway.verifiers.affinity import BLOCK_SIZE
from gateway.verifiers.link import VerifierLink

TOKENS_PER_EXTRA_SESSION = (
    512  # of a prompt that need not be computed, and a verifier may have one session more than another
)


def select_verifier(
    links: Sequence[VerifierLink], avoid: VerifierLink | None, blocks: Sequence[int], known: tuple[str, int]
) -> VerifierLink:
    """Of these, which have room; unfit ones, and the one to `avoid`, only where there is no other.

    `known` says where how many of the prompt's blocks have been computed.
    """
    usable = [link for link in links if link.preferred] or links
    usable = [link for link in usable if link is not avoid] or usable

    def load(link: VerifierLink) -> tuple[bool, float, int]:
        # Where nothing else tells them apart, gateways agree on one for the same beginning.
        agreed = zlib.crc32(f"{blocks[0]} {link.url}".encode()) if blocks else 0
        return link.waiting > 0, link.running / link.max_sessions, agreed

    least = min(usable, key=load)
    place, count = known
    matching = next((link for link in usable if link.url == place), None)
    if (
        matching
        and not matching.waiting
        and matching.running <= least.running + count * BLOCK_SIZE / TOKENS_PER_EXTRA_SESSION
    ):
        return matching
    return least
