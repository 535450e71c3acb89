"""The current SQL schema; migrations/ upgrades databases of earlier versions to it.

Money is in nano-units of the price table's currency (ledger/money.py), compute time in nanoseconds, timestamps in
milliseconds since the epoch (keys, tenants and responses: seconds). All are integers, so that sums are exact.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

KEY_PREFIX_LENGTH = 10  # characters of a key that are stored in plain text

metadata = MetaData()

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("title", String(255), nullable=False),
    Column("created", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("prefix", String(KEY_PREFIX_LENGTH), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("tenant", String(255), ForeignKey("tenants.name", name="keys_tenant_fkey"), nullable=False),
    Column("scopes", String(255), nullable=False),  # separated by spaces
    Column("name", String(255), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
    Column("expires", BigInteger),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent", BigInteger),
    Column("monthly_spend", BigInteger),
    Column("priority", BigInteger),
    UniqueConstraint("hash", name="keys_hash_key"),
)

# Leases of running gateways. Running rows in `usage` of a gateway whose `seen` is too old are marked unfinished.
gateways = Table(
    "gateways",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("started", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False),
)

# One row per request. The columns up to `choices` are written when it begins, the others when it ends; while it runs,
# `output_tokens` and `attempts` are what it has come to by its gateway's last renewal of the lease.
usage = Table(
    "usage",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("gateway", String(32), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("request_id", String(128), nullable=False),  # x-request-id, which clients may choose and repeat
    Column("key_id", String(32), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("tenant", String(255), nullable=False),
    Column("model", String, nullable=False),
    Column("endpoint", String(32), nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("choices", Integer, nullable=False),
    Column("first_token", BigInteger),
    Column("ended", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("drafted", BigInteger),
    Column("accepted", BigInteger),
    Column("verifier_accepted", BigInteger),
    Column("mode", String(16)),
    Column("verifier_ns", BigInteger),
    Column("baseline_ns", BigInteger),
    Column("agent", String(64)),
    Column("agent_tenant", String(255)),
    Column("agent_owner", String(255)),
    Column("agent_ns", BigInteger),
    Column("verifier_cost", BigInteger),
    Column("edge_cost", BigInteger),
    Column("baseline_cost", BigInteger),
    Column("credit", BigInteger),
    Column("attempts", Text),  # nanoseconds of verifier_ns by attempt, as JSON: what commits carried
    Column("estimated", Boolean),  # of an unfinished row: verifiers have not reported all that it cost
    Column("agent_device", String(32)),  # edgedraft/devices.py
    Index("usage_started", "started"),
    Index("usage_key_started", "key_id", "started"),
    Index("usage_tenant_started", "tenant", "started"),
    Index("usage_outcome_gateway", "outcome", "gateway"),
)

# Attempts whose whole time a verifier reported, where it was more than the row's record has. Pruned after two days.
usage_attempts = Table(
    "usage_attempts",
    metadata,
    Column("usage_id", String(40), primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("verifier_ns", BigInteger, nullable=False),
    Column("recorded", BigInteger, nullable=False),
    Index("usage_attempts_recorded", "recorded"),
)

# Stored responses of /v1/responses, unless disabled: prompts and answers.
responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(255), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("previous", String(64)),
    Column("length", Integer, nullable=False),  # number of responses in the chain that ends here
    Column("used", BigInteger, nullable=False),  # seconds: created, or last used as previous_response_id
    Column("size", BigInteger, nullable=False),  # bytes of `input` and `body`
    Column("input", Text, nullable=False),  # the request's own items, as JSON
    Column("body", Text, nullable=False),  # the response as the client saw it, as JSON
    Index("responses_owner_used", "tenant", "owner", "used"),
    Index("responses_used", "used"),
)
