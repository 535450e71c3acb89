"""From a hundred agents to a million: sizes, loads, and what exceeds its limit first.

Verifiers are an A100 each by its bandwidth and arithmetic, computed and not measured; gateways and stores cost what was
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.scale.cell import Cell, Parts, Shape
from loadtest.scale.costs import Costs
from loadtest.scale.measure import Measured
from loadtest.scale.service_simulation import SECONDS, ServiceLoad, ServiceSimulation
from loadtest.scale.service_size import TARGET_UTILIZATION, Assumptions, ServiceSize, StreamRates, size_service
from loadtest.scale.workload import Workload
from loadtest.simulator.load import Load, run
from loadtest.simulator.profiles import DeviceProfile, EdgeProfile, LinkProfile, a100_steps
from loadtest.simulator.verifier import EDGE_LIMITS
from verifier.scheduling.step_costs import StepCosts

AGENTS = (100, 1_000, 10_000, 100_000, 1_000_000)
TARGET_PARAMETERS = 14.8e9  # Qwen3-14B
POSTGRES_CONNECTIONS = 100  # PostgreSQL's default
CONNECTION_POOL = 15  # connections that a gateway opens to it at most
CHART_REPLICAS = 10  # the chart's maxReplicas
STORE_CORES = 16  # of a large PostgreSQL
STREAMS = 48  # of the simulation token by token
CELLS = ((1, 1), (1, 12), (2, 2), (2, 12), (4, 12))  # gateways and verifiers


def target_steps() -> StepCosts:
    return a100_steps(TARGET_PARAMETERS)


def gateway_capacity(
    workload: Workload, costs: Costs, edge: tuple[DeviceProfile, LinkProfile], tokens: int, streams: int = STREAMS
) -> list[dict[str, Any]]:
    """The same streams on fewer gateways or more verifiers: a gateway core's load, and the effect on the client."""
    profile = EdgeProfile(*edge, workload.draft_model)
    rows: list[dict[str, Any]] = []
    for gateways, verifiers in CELLS:
        shape = Shape(gateways, verifiers, edge=True, remote_share=1 - 1 / gateways, limits=EDGE_LIMITS)
        parts = Parts(lambda: workload.recorded_target(target_steps()), target_steps(), costs, profile)
        cell = Cell(shape, parts)
        measured = run(cell, workload.chats, Load(streams, tokens=tokens, warmup_tokens=tokens // 2), seed=1)
        meters, seconds = measured.meters, measured.seconds
        assert isinstance(meters, type(cell.meters))
        waits = sorted(wait for thread in cell.gateways for wait in thread.waits)
        rows.append(
            {
                "gateways": gateways,
                "verifiers": verifiers,
                "streams_per_gateway": streams / gateways,
                "gateway_busy": meters.gateway_seconds / seconds / gateways,
                "verifies_per_gateway_s": meters.verifies / seconds / gateways,
                "commits_per_frame": meters.verifies / meters.frames,
                "tokens_s_per_stream": measured.tokens_per_second / streams,
                "inter_token_p99_ms": 1e3 * measured.inter_token_quantile(0.99),
                "wait_p50_ms": 1e3 * waits[len(waits) // 2],
                "wait_p99_ms": 1e3 * waits[int(0.99 * (len(waits) - 1))],
                "tokens_per_commit": measured.tokens_per_verify,
                "nodes_per_commit": meters.nodes / meters.verifies,
                "draft_frames_per_commit": meters.draft_frames / meters.verifies,
                "extra_drafts_per_commit": meters.extra_drafts / meters.verifies,
            }
        )
    return rows


def stream_rates(row: dict[str, Any]) -> StreamRates:
    """Those of a row of gateway_capacity."""
    names = ("tokens_per_commit", "nodes_per_commit", "draft_frames_per_commit", "extra_drafts_per_commit")
    return StreamRates(*(row[name] for name in names))


def simulate_sizes(
    measured: Measured,
    rates: StreamRates,
    assumptions: Assumptions,
    agents: Sequence[int] = AGENTS,
    seconds: int = SECONDS,
) -> list[dict[str, Any]]:
    """A row per number of agents."""
    rows: list[dict[str, Any]] = []
    for count in agents:
        size = size_service(count, assumptions, rates, target_steps(), measured.costs)
        load = ServiceSimulation(size, assumptions, measured.costs, measured.stores).run(seconds)
        rows.append(_row(size, load, assumptions, rates, measured))
    return rows


def _row(
    size: ServiceSize, load: ServiceLoad, assumptions: Assumptions, rates: StreamRates, measured: Measured
) -> dict[str, Any]:
    verifies = size.streams * assumptions.tokens_per_second / rates.tokens
    sockets = load.sockets_most + size.verifiers + 2 * (size.gateways - 1)
    return {
        "agents": size.agents,
        "streams": size.streams,
        "gateways": size.gateways,
        "verifiers": size.verifiers,
        "streams_per_gateway": size.streams / size.gateways,
        "verifies_per_gateway_s": verifies / size.gateways,
        "commits_per_frame": size.commits_per_frame,
        "gateway_busy": load.gateway,
        "gateway_busy_p99": load.gateway_p99,
        "sockets_per_gateway": sockets,
        "MiB_per_gateway": measured.gateway_mib + size.agents / size.gateways * measured.agent_kib / 1024,
        "requests_s": load.requests,
        "Redis_scripts_s": load.scripts,
        "Redis_busy": load.redis,
        "Redis_wait_p99_ms": 1e3 * load.redis_wait_p99,
        "DB_transactions_s": load.transactions,
        "DB_cores": load.postgres,
        "DB_connections": size.gateways * CONNECTION_POOL,
        "verifier_links": size.gateways * size.verifiers,
        "replica_links": size.gateways * (size.gateways - 1),
        "exceeded": ", ".join(exceeded_limits(size, load, assumptions, rates, measured)) or "nothing",
    }


def exceeded_limits(
    size: ServiceSize, load: ServiceLoad, assumptions: Assumptions, rates: StreamRates, measured: Measured
) -> list[str]:
    """What is beyond its limit, the furthest first, with the factor. More gateways do not help there."""
    steps_per_second = assumptions.tokens_per_second / rates.tokens
    frames_per_step = size.streams / size.verifiers / size.commits_per_frame
    used = {
        "busiest gateways": load.gateway_p99 / 1.0,
        "the chart's replicas": size.gateways / CHART_REPLICAS,
        "PostgreSQL's connections": size.gateways * CONNECTION_POOL / POSTGRES_CONNECTIONS,
        "PostgreSQL's cores": load.postgres / (TARGET_UTILIZATION * STORE_CORES),
        "Redis's core": load.redis / TARGET_UTILIZATION,
        # Measured on the scripted verifiers, which write frames in the same way.
        "frames of a verifier": frames_per_step * steps_per_second * measured.load.frame / TARGET_UTILIZATION,
    }
    ordered = sorted(used.items(), key=lambda item: -item[1])
    return [f"{name} x{factor:.2g}" for name, factor in ordered if factor > 1]
