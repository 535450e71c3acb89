"""From a hundred agents to a million: sizes, what is asked of what, and what gives way first.

Verifiers are an A100 each by its bandwidth and arithmetic (`bench seed`), computed and not measured; gateways and
stores cost what they cost here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.scale.cell import Cell, Parts, Shape
from loadtest.scale.costs import Costs
from loadtest.scale.crowd import SECONDS, Crowd, Seen
from loadtest.scale.measure import Measured
from loadtest.scale.service import AIM, Assumed, Service, Stream, service
from loadtest.scale.texts import Texts
from loadtest.seed.fleet import Load, run
from loadtest.seed.parts import curve
from loadtest.seed.profiles import Device, Link
from loadtest.seed.server import EDGE_LIMITS
from verifier.scheduling.step_costs import StepCosts

AGENTS = (100, 1_000, 10_000, 100_000, 1_000_000)
TARGET = 14.8e9  # parameters of the target: Qwen3-14B's
POSTGRES_CONNECTIONS = 100  # PostgreSQL's own default
POOL = 15  # connections that a gateway opens to it at most
REPLICAS = 10  # the chart's maxReplicas
STORE_CORES = 16  # of a large PostgreSQL
STREAMS = 48  # of the simulation token by token
CELLS = ((1, 1), (1, 12), (2, 2), (2, 12), (4, 12))  # gateways and verifiers


def steps() -> StepCosts:
    return curve(TARGET)


def cells(
    texts: Texts, costs: Costs, edge: tuple[Device, Link], tokens: int, streams: int = STREAMS
) -> list[dict[str, Any]]:
    """As many streams on fewer gateways and more verifiers: what a gateway core bears, and what the client notices."""
    found: list[dict[str, Any]] = []
    for gateways, verifiers in CELLS:
        shape = Shape(gateways, verifiers, edge=True, lent=1 - 1 / gateways, limits=EDGE_LIMITS)
        cell = Cell(shape, Parts(lambda: texts.played(steps()), steps(), costs, (*edge, texts.drafts)))
        window = run(cell, texts.chats, Load(streams, tokens=tokens, warm=tokens // 2), seed=1)
        meters, seconds = window.meters, window.seconds
        assert isinstance(meters, type(cell.meters))
        waits = sorted(wait for thread in cell.gateways for wait in thread.waited)
        found.append(
            {
                "gateways": gateways,
                "verifiers": verifiers,
                "streams_a_gateway": streams / gateways,
                "gateway_busy": meters.gateway / seconds / gateways,
                "rounds_a_gateway_s": meters.verifies / seconds / gateways,
                "commits_a_frame": meters.verifies / meters.frames,
                "tokens_s_a_stream": window.tokens / seconds / streams,
                "gap_p99_ms": 1e3 * window.gap(0.99),
                "wait_p50_ms": 1e3 * waits[len(waits) // 2],
                "wait_p99_ms": 1e3 * waits[int(0.99 * (len(waits) - 1))],
                "tokens_a_commit": window.tokens / meters.verifies,
                "nodes_a_commit": meters.nodes / meters.verifies,
                "draft_frames_a_commit": meters.drafts / meters.verifies,
                "more_drafts_a_commit": meters.more / meters.verifies,
            }
        )
    return found


def a_stream(cell: dict[str, Any]) -> Stream:
    names = ("tokens_a_commit", "nodes_a_commit", "draft_frames_a_commit", "more_drafts_a_commit")
    return Stream(*(cell[name] for name in names))


def sizes(
    measured: Measured, stream: Stream, assumed: Assumed, agents: Sequence[int] = AGENTS, seconds: int = SECONDS
) -> list[dict[str, Any]]:
    """A row a size."""
    found: list[dict[str, Any]] = []
    for count in agents:
        planned = service(count, assumed, stream, steps(), measured.costs)
        seen = Crowd(planned, assumed, measured.costs, measured.stores).run(seconds)
        found.append(_row(planned, seen, assumed, stream, measured))
    return found


def _row(planned: Service, seen: Seen, assumed: Assumed, stream: Stream, measured: Measured) -> dict[str, Any]:
    rounds = planned.streams * assumed.pace / stream.tokens
    sockets = seen.sockets_most + planned.verifiers + 2 * (planned.gateways - 1)
    return {
        "agents": planned.agents,
        "streams": planned.streams,
        "gateways": planned.gateways,
        "verifiers": planned.verifiers,
        "streams_a_gateway": planned.streams / planned.gateways,
        "rounds_a_gateway_s": rounds / planned.gateways,
        "commits_a_frame": planned.commits_a_frame,
        "gateway_busy": seen.gateway,
        "gateway_busy_p99": seen.gateway_99,
        "sockets_a_gateway": sockets,
        "MiB_a_gateway": measured.gateway_mib + planned.agents / planned.gateways * measured.agent_kib / 1024,
        "requests_s": seen.requests,
        "Redis_scripts_s": seen.scripts,
        "Redis_busy": seen.redis,
        "Redis_wait_p99_ms": 1e3 * seen.redis_wait_99,
        "DB_transactions_s": seen.transactions,
        "DB_cores": seen.postgres,
        "DB_connections": planned.gateways * POOL,
        "verifier_links": planned.gateways * planned.verifiers,
        "replica_links": planned.gateways * (planned.gateways - 1),
        "gives_way": ", ".join(strains(planned, seen, assumed, stream, measured)) or "nothing",
    }


def strains(planned: Service, seen: Seen, assumed: Assumed, stream: Stream, measured: Measured) -> list[str]:
    """What is beyond its bound, the furthest first, each with how many times it is. More gateways do not help there."""
    steps_s = assumed.pace / stream.tokens
    sessions = planned.streams / planned.verifiers
    frames = sessions / planned.commits_a_frame
    over = {
        "busiest gateways": seen.gateway_99 / 1.0,
        "the chart's replicas": planned.gateways / REPLICAS,
        "PostgreSQL's connections": planned.gateways * POOL / POSTGRES_CONNECTIONS,
        "PostgreSQL's cores": seen.postgres / (AIM * STORE_CORES),
        "Redis's core": seen.redis / AIM,
        # As the scripted verifiers of this benchmark, which write frames in the same way.
        "frames of a verifier": frames * steps_s * measured.load.frame / AIM,
    }
    return [f"{name} x{times:.2g}" for name, times in sorted(over.items(), key=lambda item: -item[1]) if times > 1]
