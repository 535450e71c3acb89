"""Load balancing: the verifier that a session opens at, by health, prefix affinity and load."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from gateway.verifiers.affinity import BLOCK_SIZE
from gateway.verifiers.link import VerifierLink

TOKENS_PER_EXTRA_SESSION = 512  # cached prompt tokens that outweigh one more running session


def select_verifier(
    links: Sequence[VerifierLink], avoid: VerifierLink | None, blocks: Sequence[int], match: tuple[str, int]
) -> VerifierLink:
    """The best of `links`, which have capacity; `avoid` and those not preferred only if there is no other.

    `blocks` are the prompt's block hashes, `match` is PrefixAffinity.longest_match of them.
    """
    usable = [link for link in links if link.preferred] or links
    usable = [link for link in usable if link is not avoid] or usable

    def load(link: VerifierLink) -> tuple[bool, float, int]:
        # Among equals, the hash makes all gateways choose the same verifier for the same prefix.
        tie_break = zlib.crc32(f"{blocks[0]} {link.url}".encode()) if blocks else 0
        return link.waiting > 0, link.running / link.max_sessions, tie_break

    least_loaded = min(usable, key=load)
    url, count = match
    matching = next((link for link in usable if link.url == url), None)
    extra_sessions = count * BLOCK_SIZE / TOKENS_PER_EXTRA_SESSION
    if matching and not matching.waiting and matching.running <= least_loaded.running + extra_sessions:
        return matching
    return least_loaded
