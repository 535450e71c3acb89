"""Keys in SQL.

A key is 32 random bytes, so one round of SHA-256 hides it as well as a slow hash would. The key itself is never stored;
its first characters are, for people to recognise it by.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Row, and_, insert, or_, select, update

from gateway.accounts.principal import NO_LIMITS, SCOPES, KeyLimits, Principal
from gateway.accounts.tenants import UnknownTenant, tenant_exists
from gateway.storage.database import Database
from gateway.storage.tables import KEY_PREFIX_LENGTH, keys, tenants

KEY_PREFIX = "ed-"
CACHE_SECONDS = 2.0  # how long a revoked or changed key may still pass
CACHE_ENTRIES = 4096
KEYS_PER_QUERY = 512  # keys that one query asks for


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a stored key. Times are seconds since the epoch; revoked is None while it works."""

    id: str
    prefix: str
    owner: str
    tenant: str
    scopes: tuple[str, ...]
    name: str
    created: int
    revoked: int | None
    expires: int | None
    limits: KeyLimits


class Accounts:
    """The keys of one database, and perhaps one static key that has every scope."""

    def __init__(self, database: Database, static_key: str = "") -> None:
        self._database = database
        self._static = _hash(static_key) if static_key else None
        self._cache: dict[str, tuple[float, Principal | None]] = {}

    async def find(self, key: str) -> Principal | None:
        """The principal of a working key, as of at most CACHE_SECONDS ago. Raises DatabaseDown."""
        digest = _hash(key)
        if self._static and hmac.compare_digest(digest, self._static):
            return Principal("static", "default", "default", SCOPES)
        now = time.monotonic()
        cached = self._cache.get(digest)
        if cached and cached[0] > now:
            return cached[1]
        async with self._database.connect() as connection:
            row = (await connection.execute(select(keys).where(keys.c.hash == digest, _is_active()))).first()
        principal = None
        if row and hmac.compare_digest(row.hash, digest):
            principal = Principal(row.id, row.owner, row.tenant, frozenset(row.scopes.split()), _limits(row))
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        self._cache[digest] = (now + CACHE_SECONDS, principal)
        return principal

    async def active_keys(self, some: Sequence[str]) -> set[str]:
        """Those of these keys that work now, a query for each QUERIED of them. Raises DatabaseDown."""
        digests = {_hash(key): key for key in some}
        found = {digests[self._static]} if self._static in digests else set()
        asked = [digest for digest in digests if digest != self._static]
        for first in range(0, len(asked), KEYS_PER_QUERY):
            query = select(keys.c.hash).where(keys.c.hash.in_(asked[first : first + KEYS_PER_QUERY]), _is_active())
            async with self._database.connect() as connection:
                found.update(digests[row.hash] for row in await connection.execute(query))
        return found

    async def create(
        self,
        owner: str,
        tenant: str,
        scopes: Sequence[str],
        name: str = "",
        limits: KeyLimits = NO_LIMITS,
        expires: int | None = None,
        create_tenant: bool = True,
    ) -> str:
        """Make a key and return it; this is the only time it can be seen.

        Raises UnknownTenant, unless `new_tenant` allows to make that too.
        """
        return (await self.create_with_record(owner, tenant, scopes, name, limits, expires, create_tenant))[0]

    async def create_with_record(
        self,
        owner: str,
        tenant: str,
        scopes: Sequence[str],
        name: str = "",
        limits: KeyLimits = NO_LIMITS,
        expires: int | None = None,
        create_tenant: bool = False,
    ) -> tuple[str, KeyRecord]:
        """As `create`, with what was stored of it."""
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        now = int(time.time())
        record = KeyRecord(
            id=f"key_{secrets.token_hex(8)}",
            prefix=key[:KEY_PREFIX_LENGTH],
            owner=owner,
            tenant=tenant,
            scopes=tuple(dict.fromkeys(scopes)),
            name=name,
            created=now,
            revoked=None,
            expires=expires,
            limits=limits,
        )
        async with self._database.begin() as connection:
            if not await tenant_exists(connection, tenant):
                if not create_tenant:
                    raise UnknownTenant(f"there is no tenant {tenant!r}")
                await connection.execute(insert(tenants).values(name=tenant, title="", created=now))
            await connection.execute(
                insert(keys).values(
                    id=record.id,
                    prefix=record.prefix,
                    hash=_hash(key),
                    owner=owner,
                    tenant=tenant,
                    scopes=" ".join(record.scopes),
                    name=name,
                    created=now,
                    expires=expires,
                    **asdict(limits),
                )
            )
        return key, record

    async def list(self, tenant: str | None = None, after: str = "", limit: int | None = None) -> list[KeyRecord]:
        """Keys of one tenant or all, oldest first, those behind the key with the id `after`."""
        query = select(keys).order_by(keys.c.created, keys.c.id).limit(limit)
        if tenant is not None:
            query = query.where(keys.c.tenant == tenant)
        async with self._database.connect() as connection:
            if after:
                last = (await connection.execute(select(keys.c.created).where(keys.c.id == after))).scalar()
                query = query.where(_after(last or 0, after))
            return [_record(row) for row in await connection.execute(query)]

    async def get(self, key_id: str) -> KeyRecord | None:
        async with self._database.connect() as connection:
            row = (await connection.execute(select(keys).where(keys.c.id == key_id))).first()
        return _record(row) if row else None

    async def update(self, key_id: str, values: Mapping[str, int | str | None]) -> bool:
        """Set `name`, `expires` or limits of a working key; those not named stay. False when there is none."""
        if unknown := set(values) - {"name", "expires", *KeyLimits.__dataclass_fields__}:
            raise ValueError(f"a key's {', '.join(sorted(unknown))} cannot be changed")
        return await self._update(key_id, values)

    async def revoke(self, key_id: str) -> bool:
        """Revoke for good; False when there is no such working key."""
        return await self._update(key_id, {"revoked": int(time.time())})

    async def _update(self, key_id: str, values: Mapping[str, int | str | None]) -> bool:
        # The id stands among the values so that a change of nothing is one, too.
        query = update(keys).where(keys.c.id == key_id, keys.c.revoked.is_(None)).values(id=key_id, **values)
        async with self._database.begin() as connection:
            done = await connection.execute(query)
        self._cache.clear()
        return done.rowcount == 1


def _is_active() -> ColumnElement[bool]:
    return and_(keys.c.revoked.is_(None), or_(keys.c.expires.is_(None), keys.c.expires > int(time.time())))


def _after(created: int, key_id: str) -> ColumnElement[bool]:
    return or_(keys.c.created > created, and_(keys.c.created == created, keys.c.id > key_id))


def _limits(row: Row[tuple[object, ...]]) -> KeyLimits:
    return KeyLimits(row.requests_per_minute, row.tokens_per_minute, row.concurrent, row.monthly_spend, row.priority)


def _record(row: Row[tuple[object, ...]]) -> KeyRecord:
    return KeyRecord(
        row.id,
        row.prefix,
        row.owner,
        row.tenant,
        tuple(row.scopes.split()),
        row.name,
        row.created,
        row.revoked,
        row.expires,
        _limits(row),
    )


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
