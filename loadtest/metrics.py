"""What a process of ours tells at /metrics, as numbers by name, and what of it is still open."""

from __future__ import annotations

import re
import urllib.request

OPEN = {"gateway": ("sessions", "queued", "guests"), "verifier": ("sessions", "waiting")}


def metrics_of(url: str) -> dict[str, float]:
    """What has no labels. `url` is a gateway's or a verifier's own. Raises OSError."""
    base = url.replace("ws", "http", 1) if url.startswith("ws") else url
    with urllib.request.urlopen(f"{base}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def still_open(kind: str, url: str) -> dict[str, float]:
    """Sessions of any kind; and of a verifier `kv_held`, tokens of its cache neither free nor only remembered.

    Empty for an agent, which does not tell.
    """
    if kind not in OPEN:
        return {}
    has = metrics_of(url)
    found = {what: has[f"edgedraft_{kind}_{what}"] for what in OPEN[kind]}
    if kind == "verifier":
        found["kv_held"] = has["edgedraft_verifier_kv_tokens"] - has["edgedraft_verifier_kv_free_tokens"]
    return found
