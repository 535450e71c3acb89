"""Settings of `edgedraft up` and `edgedraft browser fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.settings import DATABASE_URL, KEY_ADVICE, KeySettings, Port, Settings


class UpSettings(KeySettings):
    """Run verifier, gateway and agent on this machine, with the demo models."""

    port: Port = Field(8000, description="the gateway's port; 0 takes a free one")
    key: str = Field("", description=f"the key, with every scope; a random one if empty{KEY_ADVICE}")
    model: str = Field(DEMO_MODEL, description="target model")
    draft_model: str = Field("auto", description="draft model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of both models")
    agent: bool = Field(True, description="attach agents on this machine")
    gateways: int = Field(
        1, ge=1, le=16, description="number of gateways, on ports from --port up; they share agents and limits"
    )
    verifiers: int = Field(1, ge=1, le=16, description="number of verifiers")
    agents: int = Field(1, ge=0, le=16, description="number of agents on this machine, with --agent")
    redis: str = Field(
        "", description="URL of the Redis or Valkey that several gateways share; one is started if empty"
    )
    database: str = Field(DATABASE_URL, description="SQLAlchemy URL of accounts and usage ledger")
    browser_drafts: Path | None = Field(
        None, description="folder of drafts for other devices; with the demo model, its own if it can be exported here"
    )


class BrowserFetchSettings(Settings):
    """Fetch onnxruntime-web's files, with which browsers draft at a gateway's /attach."""

    out: Path | None = Field(
        None, description="folder for --browser-drafts of the gateway; that of `edgedraft up` if not given"
    )
    package: Path | None = Field(None, description="the npm package, if it was downloaded already")
