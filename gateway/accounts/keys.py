"""API keys in SQL: created, found, listed, changed, revoked.

A key is 32 random bytes, so one round of SHA-256 protects it as well as a slow hash would. Stored are the hash and the
first characters, by which people recognise a key; never the key itself.
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
CACHE_SECONDS = 2.0  # how long a revoked or changed key may still be accepted
CACHE_ENTRIES = 4096
KEYS_PER_QUERY = 512


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A stored key without its secret. Times are seconds since the epoch; `revoked` is None while it is valid."""

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
    """The keys of one database, and optionally one static key that has every scope (--key)."""

    def __init__(self, database: Database, static_key: str = "") -> None:
        self._database = database
        self._static = key_digest(static_key) if static_key else None
        self._cache: dict[str, tuple[float, Principal | None]] = {}

    async def find(self, key: str) -> Principal | None:
        """Returns the principal of an active key, None for any other; up to CACHE_SECONDS old. Raises DatabaseDown."""
        return await self.find_by_digest(key_digest(key))

    async def find_by_digest(self, digest: str) -> Principal | None:
        """As `find`, by the key's digest (key_digest)."""
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

    async def active_keys(self, digests: Sequence[str]) -> set[str]:
        """Returns the digests of keys that are active, by one query per KEYS_PER_QUERY of them. Raises DatabaseDown."""
        found = {digest for digest in digests if digest == self._static}
        queried = [digest for digest in digests if digest != self._static]
        for first in range(0, len(queried), KEYS_PER_QUERY):
            query = select(keys.c.hash).where(keys.c.hash.in_(queried[first : first + KEYS_PER_QUERY]), _is_active())
            async with self._database.connect() as connection:
                found.update(row.hash for row in await connection.execute(query))
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
        """Creates a key and returns it; it cannot be read again. `expires` is in seconds since the epoch.

        With `create_tenant` a missing tenant is created, otherwise UnknownTenant is raised. Raises DatabaseDown.
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
        """As `create`, and returns the stored record too."""
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
                    hash=key_digest(key),
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
        """Keys of one tenant or of all, oldest first, starting after the key with the id `after`."""
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
        """Sets `name`, `expires` or limits of a key. Returns False if no key that is not revoked has this id."""
        if unknown := set(values) - {"name", "expires", *KeyLimits.__dataclass_fields__}:
            raise ValueError(f"a key's {', '.join(sorted(unknown))} cannot be changed")
        return await self._update(key_id, values)

    async def revoke(self, key_id: str) -> bool:
        """Revokes a key permanently. Returns False if no key that is not revoked has this id."""
        return await self._update(key_id, {"revoked": int(time.time())})

    async def _update(self, key_id: str, values: Mapping[str, int | str | None]) -> bool:
        # With the id among the values, an update without changes is valid SQL too.
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


def key_digest(key: str) -> str:
    """The form in which a key is stored and watched, 64 hexadecimal characters."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
