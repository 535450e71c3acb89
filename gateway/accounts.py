"""Accounts: keys in SQL, and the principal that a key stands for.

A key is 32 random bytes, so one round of SHA-256 hides it as well as a slow hash would. The key itself is never stored;
its first characters are, for people to recognise it by. This file knows no HTTP (authentication.py does).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import BigInteger, String, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

KEY_PREFIX = "ed-"
SHOWN = 10  # characters of a key that are stored in the clear
CACHE_SECONDS = 2.0  # how long a revoked key may still pass
CACHE_ENTRIES = 4096
SCOPES = frozenset({"inference", "edge", "admin"})


# Tenant and owner: an owner's name means nothing outside the tenant.
Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: `owner` has agents, `tenant` pays, `scopes` say what is allowed."""

    key_id: str
    owner: str
    tenant: str
    scopes: frozenset[str]

    @property
    def agents_owner(self) -> Owner:
        """Whose agents may see this principal's prompts."""
        return self.tenant, self.owner


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


class _Base(DeclarativeBase):
    pass


class _Key(_Base):
    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    prefix: Mapped[str] = mapped_column(String(SHOWN))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    owner: Mapped[str] = mapped_column(String(255))
    tenant: Mapped[str] = mapped_column(String(255))
    scopes: Mapped[str] = mapped_column(String(255))  # separated by blanks
    name: Mapped[str] = mapped_column(String(255))
    created: Mapped[int] = mapped_column(BigInteger)
    revoked: Mapped[int | None] = mapped_column(BigInteger)


class Accounts:
    """The keys of one database, and perhaps one static key that has every scope. Use between open() and close()."""

    def __init__(self, database: str, static_key: str = "") -> None:
        self._url = make_url(database)
        self._engine = create_async_engine(self._url)
        self._static = _hashed(static_key) if static_key else None
        self._cache: dict[str, tuple[float, Principal | None]] = {}

    async def open(self) -> None:
        """Create folder and table where they are missing."""
        _make_folder(self._url)
        async with self._engine.begin() as connection:
            await connection.execute(CreateTable(_Key.__table__, if_not_exists=True))  # type: ignore[arg-type]

    async def close(self) -> None:
        await self._engine.dispose()

    async def find(self, key: str) -> Principal | None:
        """The principal of a working key, as of at most CACHE_SECONDS ago."""
        digest = _hashed(key)
        if self._static and hmac.compare_digest(digest, self._static):
            return Principal("static", "default", "default", SCOPES)
        now = time.monotonic()
        cached = self._cache.get(digest)
        if cached and cached[0] > now:
            return cached[1]
        async with self._engine.connect() as connection:
            row = (
                await connection.execute(
                    select(_Key.id, _Key.hash, _Key.owner, _Key.tenant, _Key.scopes).where(
                        _Key.hash == digest, _Key.revoked.is_(None)
                    )
                )
            ).first()
        principal = None
        if row and hmac.compare_digest(row.hash, digest):
            principal = Principal(row.id, row.owner, row.tenant, frozenset(row.scopes.split()))
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        self._cache[digest] = (now + CACHE_SECONDS, principal)
        return principal

    async def create(self, owner: str, tenant: str, scopes: Sequence[str], name: str = "") -> str:
        """Make a key and return it; this is the only time it can be seen."""
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        async with self._engine.begin() as connection:
            await connection.execute(
                _Key.__table__.insert().values(  # type: ignore[attr-defined]
                    id=f"key_{secrets.token_hex(8)}",
                    prefix=key[:SHOWN],
                    hash=_hashed(key),
                    owner=owner,
                    tenant=tenant,
                    scopes=" ".join(dict.fromkeys(scopes)),
                    name=name,
                    created=int(time.time()),
                    revoked=None,
                )
            )
        return key

    async def list(self) -> list[KeyRecord]:
        """All keys, oldest first."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(select(_Key.__table__).order_by(_Key.created, _Key.id))).all()
        return [
            KeyRecord(r.id, r.prefix, r.owner, r.tenant, tuple(r.scopes.split()), r.name, r.created, r.revoked)
            for r in rows
        ]

    async def revoke(self, key_id: str) -> bool:
        """Revoke for good; False when there is no such working key."""
        async with self._engine.begin() as connection:
            done = await connection.execute(
                update(_Key).where(_Key.id == key_id, _Key.revoked.is_(None)).values(revoked=int(time.time()))
            )
        self._cache.clear()
        return done.rowcount == 1


def _make_folder(url: URL) -> None:
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
