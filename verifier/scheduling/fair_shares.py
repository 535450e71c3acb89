"""Fair shares of a verifier: which tenant's and which key's session starts next, and who gets a step's prompt tokens.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) over tenants, and within each tenant over its keys.
Each has a virtual time, the tokens that its sessions took. The one that is furthest behind goes next; one that was idle
starts at the virtual time of the others, so nobody saves anything up. A session's tokens are estimated when it starts
and corrected when it ends.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

MAX_REMEMBERED = 4096  # idle keys whose virtual times are kept

K = TypeVar("K", bound=Hashable)


class Share(NamedTuple):
    """Whom a session counts for: a tenant, and one of its keys by an opaque name (wire.Open)."""

    tenant: str = ""
    key: str = ""


NO_SHARE = Share()  # of sessions that name no key: they are served in order of arrival


@dataclass(slots=True)
class _Account:
    virtual: float = 0.0  # tokens
    open: int = 0  # sessions that run or wait
    running: int = 0


class FairShares:
    """The virtual times and running sessions of all tenants and keys."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Account] = {}
        self._keys: dict[Share, _Account] = {}
        self._virtual = 0.0  # of the tenant that started a session last
        self._virtual_within: dict[str, float] = {}  # the same of the keys of a tenant

    def arrive(self, share: Share) -> None:
        """A session of this share runs or waits from now on."""
        if len(self._keys) >= MAX_REMEMBERED:
            self._forget_idle()
        tenant = self._tenants.setdefault(share.tenant, _Account())
        key = self._keys.setdefault(share, _Account())
        if not tenant.open:
            tenant.virtual = max(tenant.virtual, self._virtual)
        if not key.open:
            key.virtual = max(key.virtual, self._virtual_within.get(share.tenant, 0.0))
        tenant.open += 1
        key.open += 1

    def leave(self, share: Share) -> None:
        """A session that has arrived is gone; it runs no more."""
        self._tenants[share.tenant].open -= 1
        self._keys[share].open -= 1

    def start(self, share: Share, tokens: float) -> None:
        """A session that has arrived starts and is expected to take so many tokens."""
        tenant, key = self._tenants[share.tenant], self._keys[share]
        self._virtual = max(self._virtual, tenant.virtual)
        self._virtual_within[share.tenant] = max(self._virtual_within.get(share.tenant, 0.0), key.virtual)
        tenant.running += 1
        key.running += 1
        self._charge(share, tokens)

    def stop(self, share: Share, correction: float) -> None:
        """A session that was started has ended, with so many tokens more than were expected, or fewer."""
        self._tenants[share.tenant].running -= 1
        self._keys[share].running -= 1
        self._charge(share, correction)

    def is_newcomer(self, share: Share) -> bool:
        """Whether nothing of the share's tenant runs."""
        tenant = self._tenants.get(share.tenant)
        return tenant is None or not tenant.running

    def runs_nothing(self, share: Share) -> bool:
        """Whether nothing of this key runs."""
        key = self._keys.get(share)
        return key is None or not key.running

    def order(self, waiting: Sequence[tuple[K, Share, float]]) -> list[K]:
        """The order in which sessions, each with its expected tokens, would start; within a key as they are given."""
        tenants = {share.tenant: self._virtual_of(self._tenants.get(share.tenant)) for _, share, _ in waiting}
        keys = {share: self._virtual_of(self._keys.get(share)) for _, share, _ in waiting}
        queues: dict[str, dict[Share, list[tuple[K, float]]]] = {}
        for name, share, tokens in waiting:
            queues.setdefault(share.tenant, {}).setdefault(share, []).append((name, tokens))
        for by_key in queues.values():
            for queue in by_key.values():
                queue.reverse()
        ordered: list[K] = []
        while queues:
            tenant = min(queues, key=tenants.__getitem__)
            share = min(queues[tenant], key=keys.__getitem__)
            name, tokens = queues[tenant][share].pop()
            ordered.append(name)
            tenants[tenant] += tokens
            keys[share] += tokens
            if not queues[tenant][share]:
                del queues[tenant][share]
                if not queues[tenant]:
                    del queues[tenant]
        return ordered

    @staticmethod
    def _virtual_of(account: _Account | None) -> float:
        return account.virtual if account else 0.0

    def _charge(self, share: Share, tokens: float) -> None:
        self._tenants[share.tenant].virtual += tokens
        self._keys[share].virtual += tokens

    def _forget_idle(self) -> None:
        """Idle ones that are remembered for longest; one that comes back is at most treated as a newcomer."""
        for share in [share for share, key in self._keys.items() if not key.open][: MAX_REMEMBERED // 2]:
            del self._keys[share]
        tenants = {share.tenant for share in self._keys}
        for name in [name for name in self._tenants if name not in tenants]:
            del self._tenants[name]
            self._virtual_within.pop(name, None)


def greediest(waiting: Iterable[Share], newcomer: Share) -> Share | None:
    """The key whose last waiting session makes room for one of `newcomer`; None if the newcomer's own waits the most.

    It is the key with the most sessions waiting, of the tenant with the most.
    """
    shares = list(waiting)
    tenants, keys = dict[str, int](), dict[Share, int]()
    for share in (*shares, newcomer):
        tenants[share.tenant] = tenants.get(share.tenant, 0) + 1
        keys[share] = keys.get(share, 0) + 1
    most = max(tenants.values())
    tenant = newcomer.tenant if tenants[newcomer.tenant] == most else max(tenants, key=tenants.__getitem__)
    of_tenant = {share: number for share, number in keys.items() if share.tenant == tenant}
    if of_tenant.get(newcomer) == max(of_tenant.values()):
        return None
    return max(of_tenant, key=of_tenant.__getitem__)


def divide(amount: int, demands: Sequence[int]) -> list[int]:
    """Max-min fair parts of `amount`: equal ones, and what one does not need goes to the others."""
    parts = [0] * len(demands)
    left = sorted(range(len(demands)), key=demands.__getitem__)
    for position, i in enumerate(left):
        # The remainder of an uneven division goes to those that came first.
        equal = -(-amount // (len(left) - position))
        parts[i] = min(demands[i], equal)
        amount -= parts[i]
    return parts


def divide_prompt_tokens(amount: int, demands: Sequence[tuple[K, Share, int]]) -> dict[K, int]:
    """Prompt tokens of a step for each session that gets some: equal parts by tenant, then by key, then in order."""
    by_tenant: dict[str, dict[Share, list[tuple[K, int]]]] = {}
    for name, share, demand in demands:
        by_tenant.setdefault(share.tenant, {}).setdefault(share, []).append((name, demand))
    parts: dict[K, int] = {}
    totals = [[sum(demand for _, demand in sessions) for sessions in keys.values()] for keys in by_tenant.values()]
    for keys, of_keys, tenant_part in zip(
        by_tenant.values(), totals, divide(amount, [sum(total) for total in totals]), strict=True
    ):
        for sessions, key_part in zip(keys.values(), divide(tenant_part, of_keys), strict=True):
            left = key_part
            for name, demand in sessions:
                if part := min(demand, left):
                    parts[name] = part
                    left -= part
    return parts
