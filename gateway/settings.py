"""Settings of `edgedraft gateway` and of the commands on its database."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from edgedraft.settings import (
    COMMA_SEPARATED,
    DATABASE_URL,
    KEY_ADVICE,
    SECRET_ADVICE,
    KeySettings,
    Port,
    Settings,
    TracedSettings,
)
from edgedraft.wire import MAX_PRIORITY

Limit = Annotated[int, Field(ge=1, le=10**12)] | None
Priority = Annotated[int, Field(ge=0, le=MAX_PRIORITY)] | None
Spend = Annotated[Decimal, Field(ge=0, le=10**9)] | None


class GatewaySettings(TracedSettings, KeySettings):
    """Serve the OpenAI API; pair sessions with agents; relay drafts to verifiers."""

    verifier: Annotated[list[str], *COMMA_SEPARATED] = Field(
        ["ws://127.0.0.1:9000"],
        description="URL of a verifier, or dns+ws://NAME:PORT for one at each address of a DNS name; may be repeated",
    )
    dns_seconds: float = Field(5.0, gt=0, description="seconds between two DNS lookups of such a name")
    verifier_token: str = Field("", description=f"token that verifiers require, if they do{SECRET_ADVICE}")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(8000, description="port to listen on; 0 takes a free one")
    key: str = Field("", description=f"a key that has every scope, in addition to those in the database{KEY_ADVICE}")
    database: str = Field(
        DATABASE_URL,
        description="SQLAlchemy URL of accounts and usage ledger: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME",
    )
    db_upgrade: bool = Field(
        True, description="migrate the database's schema at start; otherwise `edgedraft db upgrade` does"
    )
    requests_per_minute: Limit = Field(None, description="requests per minute of keys that have no limit of their own")
    tokens_per_minute: Limit = Field(
        None, description="prompt and output tokens per minute of keys that have no limit of their own"
    )
    monthly_spend: Spend = Field(
        None, description="money that a key without a budget of its own may spend in a calendar month (UTC)"
    )
    work_seconds_per_minute: int = Field(
        120,
        ge=1,
        le=10**6,
        description="processor seconds per minute that workers may tokenize, render and compile for one key",
    )
    reads_per_minute: int = Field(
        1200, ge=1, le=10**9, description="requests per minute of one key that only read: models, responses, usage"
    )
    max_sessions_per_key: int = Field(
        64, ge=1, description="concurrent generations of keys that have no limit of their own"
    )
    allowed_origins: Annotated[list[str], *COMMA_SEPARATED] = Field(
        [], description="a web origin, such as https://app.example.com, whose pages may call the API; * for all"
    )
    browser_drafts: Path | None = Field(
        None,
        description="folder of exported drafts, for browsers at /attach and `edgedraft draft fetch`, and of "
        "onnxruntime-web's files",
    )
    store_responses: bool = Field(
        True, description="store responses of /v1/responses, with prompts, unless a request has store: false"
    )
    response_days: int = Field(
        30, ge=1, le=36500, description="days without use after which a stored response is deleted"
    )
    response_megabytes: int = Field(
        256,
        ge=32,
        le=1 << 20,
        description="megabytes of stored responses per owner; the least recently used are deleted first",
    )
    admin_api: bool = Field(False, description="serve /admin/v1 to keys with the admin scope")
    prices: Path | None = Field(
        None, description="TOML or JSON file of prices: datacenter_gpu_hour, edge_gpu_hour, accepted_million, currency"
    )
    max_agents_per_owner: int = Field(16, ge=1, description="agents attached at once by one owner")
    control_tokens_in_prompts: bool = Field(
        False,
        description="find control tokens such as <|im_start|> in the prompts of /v1/completions and /tokenize; "
        "in chats, what clients write never becomes one",
    )
    open_timeout: float = Field(30.0, gt=0, description="seconds a request waits for a verifier to accept it")
    sse_status_seconds: float = Field(
        5.0,
        gt=0,
        description="seconds without a first token after which a stream sends its status; a later error is an event",
    )
    sse_comment_seconds: float = Field(
        15.0, ge=0, description="seconds of silence after which a stream sends a comment, for proxies; 0 is never"
    )
    silence_timeout: float = Field(
        30.0, gt=0, description="seconds without a commit after which a session moves to another verifier"
    )
    hedge_after: float = Field(
        2.0,
        ge=0,
        description="seconds without a commit after which a generation is also opened at another verifier; 0 is never",
    )
    keep_alive: float = Field(
        75.0, gt=0, description="seconds that a connection may be idle; longer than those of proxies in front"
    )
    body_megabytes: int = Field(
        256, ge=16, le=1 << 20, description="megabytes of incomplete request bodies at once; keys share them fairly"
    )
    drain_grace: float = Field(30.0, ge=0, description="seconds that running streams have to finish after SIGTERM")
    redis: str = Field(
        "", description="URL of the Redis or Valkey that replicas share: redis://[:PASSWORD@]HOST:6379/0; none if empty"
    )
    replica_secret: str = Field(
        "", description=f"secret shared by all replicas, 16 characters or more; required with --redis{SECRET_ADVICE}"
    )
    replica_host: str = Field("127.0.0.1", description="address to listen on for other replicas, with --redis")
    replica_port: Port = Field(8001, description="port to listen on for other replicas; 0 takes a free one")
    advertise: str = Field(
        "", description="ws://HOST:PORT where other replicas reach this one; --replica-host and --replica-port if empty"
    )


class DatabaseSettings(Settings):
    """Base of the commands on the gateway's database, which work while a gateway runs or not."""

    database: str = Field(DATABASE_URL, description="SQLAlchemy URL of accounts and usage ledger")


class KeysCreateSettings(DatabaseSettings):
    """Create a key and print it; it cannot be shown again."""

    owner: str = Field(
        "default", max_length=255, description="the key's owner; requests use the agents of the same owner"
    )
    tenant: str = Field("default", max_length=255, description="the organisation that the owner belongs to")
    scopes: Annotated[list[Literal["inference", "edge", "admin"]], *COMMA_SEPARATED] = Field(
        ["inference", "edge"], description="permissions; may be repeated"
    )
    name: str = Field("", max_length=255, description="a display name")
    expires: Annotated[int, Field(ge=1, le=36500)] | None = Field(None, description="days until it expires")
    requests_per_minute: Limit = Field(None, description="requests per minute; the gateway's default if not given")
    tokens_per_minute: Limit = Field(None, description="tokens per minute; the gateway's default if not given")
    concurrent: Limit = Field(None, description="concurrent generations; the gateway's default if not given")
    monthly_spend: Spend = Field(None, description="money per calendar month; the gateway's default if not given")
    priority: Priority = Field(
        None, description="0 to 9; when verifiers are full, higher ones are admitted first (default: 0)"
    )


class KeysListSettings(DatabaseSettings):
    """List keys: prefix, owner, tenant, scopes, times, limits."""


class KeysUpdateSettings(DatabaseSettings):
    """Change a key's name and limits; the value `default` removes a limit of its own."""

    key_id: CliPositionalArg[str] = Field(description="the id that `keys list` shows")
    name: Annotated[str, Field(max_length=255)] | None = Field(None, description="a display name")
    requests_per_minute: Literal["default"] | Limit = Field(None, description="requests per minute")
    tokens_per_minute: Literal["default"] | Limit = Field(None, description="prompt and output tokens per minute")
    concurrent: Literal["default"] | Limit = Field(None, description="concurrent generations")
    monthly_spend: Literal["default"] | Spend = Field(None, description="money per calendar month")
    priority: Literal["default"] | Priority = Field(
        None, description="0 to 9; when verifiers are full, higher ones are admitted first"
    )


class KeysRevokeSettings(DatabaseSettings):
    """Revoke a key permanently."""

    key_id: CliPositionalArg[str] = Field(description="the id that `keys list` shows")


class TenantsCreateSettings(DatabaseSettings):
    """Create a tenant, an organisation that keys belong to."""

    tenant: CliPositionalArg[str] = Field(min_length=1, max_length=255, description="its name")
    title: str = Field("", max_length=255, description="a display name")


class TenantsListSettings(DatabaseSettings):
    """List tenants."""


class UsageSettings(DatabaseSettings):
    """Report usage: requests, tokens, cost, and what edge drafting saved."""

    by: Annotated[list[Literal["key", "owner", "tenant", "model", "day", "edge"]], *COMMA_SEPARATED] = Field(
        ["key"], description="what to group by, edge being the owner of the agent that drafted; may be repeated"
    )
    since: date | None = Field(None, description="first day, such as 2026-11-01 (UTC)")
    until: date | None = Field(None, description="last day, included")
    format: Literal["table", "csv", "json"] = Field("table", description="output format")
    prices: Path | None = Field(None, description="the gateway's price file, for the name of the currency")


class DbUpgradeSettings(DatabaseSettings):
    """Bring the database's schema up to date."""
