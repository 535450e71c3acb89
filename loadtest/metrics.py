"""Reads the /metrics of a gateway or a verifier: values by name, and what is still open."""

from __future__ import annotations

import re
import urllib.request

OPEN = {"gateway": ("sessions", "queued", "guests"), "verifier": ("sessions", "waiting")}


def read_metrics(url: str) -> dict[str, float]:
    """All samples without labels. `url` is the process's own (ws:// or http://). Raises OSError."""
    base = url.replace("ws", "http", 1) if url.startswith("ws") else url
    with urllib.request.urlopen(f"{base}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def open_sessions(kind: str, url: str) -> dict[str, float]:
    """Open sessions by kind, and for a verifier `kv_held`: KV cache tokens neither free nor only cached.

    `kind` is the program's name. Empty for an agent, which has no metrics.
    """
    if kind not in OPEN:
        return {}
    metrics = read_metrics(url)
    found = {name: metrics[f"edgedraft_{kind}_{name}"] for name in OPEN[kind]}
    if kind == "verifier":
        found["kv_held"] = metrics["edgedraft_verifier_kv_tokens"] - metrics["edgedraft_verifier_kv_free_tokens"]
    return found
