"""The parts that requests are served with, made once per app and handed to the routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from edgedraft.grammar.service import GrammarService
from edgedraft.serving.drain import Drain
from gateway.accounts import Accounts, KeyWatch
from gateway.agents.registry import AgentRegistry
from gateway.api.responses.store import ResponseStore
from gateway.ledger import Ledger
from gateway.limits.admission import Admission
from gateway.observability.metrics import Metrics
from gateway.observability.traces import GatewayTraces
from gateway.settings import GatewaySettings
from gateway.storage.database import Database
from gateway.verifiers.pool import VerifierPool

if TYPE_CHECKING:
    from gateway.replicas.service import Replicas


@dataclass(frozen=True, slots=True)
class Services:
    settings: GatewaySettings
    database: Database
    ledger: Ledger
    accounts: Accounts
    watch: KeyWatch
    responses: ResponseStore | None
    admission: Admission
    agents: AgentRegistry
    verifiers: VerifierPool
    grammars: GrammarService
    metrics: Metrics
    drain: Drain
    replicas: Replicas | None = None
    traces: GatewayTraces | None = None


def services_of(connection: HTTPConnection) -> Services:
    """Those of the app that a request or WebSocket came to."""
    return services_of_app(connection.app)


def services_of_app(app: Starlette) -> Services:
    return cast(Services, app.state.services)
