"""The processes that a fleet starts: their arguments, order and names, with a supervisor that starts none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from edgedraft.local.fleet import Fleet, replica_environment
from edgedraft.local.processes import Supervisor


class RecordingSupervisor(Supervisor):
    """Records launched arguments; processes are ready at once, at numbered addresses."""

    def __init__(self) -> None:
        super().__init__("key")
        self.launched: list[tuple[str, ...]] = []
        self.waited: list[str] = []

    def launch(self, *words: str) -> Any:
        self.launched.append(words)
        return SimpleNamespace(address=f"{words[0]}:{len(self.launched)}")

    def wait_ready(self, child: Any) -> str:
        return child.address

    def wait_for_verifier(self, url: str = "") -> None:
        self.waited.append(url)


def test_gateways_know_all_verifiers_and_take_ports_in_order() -> None:
    supervisor = RecordingSupervisor()
    fleet = Fleet.start(supervisor, 2, 2, port=8000, verifier_flags=("--threads", "1"), gateway_flags=("--admin-api",))
    verifiers, gateways = supervisor.launched[:2], supervisor.launched[2:]
    assert all(words[0] == "verifier" and words[-2:] == ("--threads", "1") for words in verifiers)
    for index, words in enumerate(gateways):
        assert words[0] == "gateway"
        assert [words[at + 1] for at, word in enumerate(words) if word == "--verifier"] == ["verifier:1", "verifier:2"]
        assert words[-3:] == ("--port", str(8000 + index), "--admin-api")
    assert supervisor.waited == fleet.urls == ["gateway:3", "gateway:4"]


def test_agents_attach_to_gateways_in_turn_and_are_numbered() -> None:
    supervisor = RecordingSupervisor()
    fleet = Fleet.start(supervisor, 2, 1)
    fleet.attach_agents(3, ("--threads", "1"), name_prefix="laptop")
    fleet.attach_agents(1, url_of=lambda index: f"http://proxy-{index}")
    attached = [words for words in supervisor.launched if words[0] == "attach"]
    assert [words[1] for words in attached] == ["gateway:2", "gateway:3", "gateway:2", "http://proxy-3"]
    assert [words[words.index("--name") + 1] for words in attached[:3]] == ["laptop-1", "laptop-2", "laptop-3"]
    assert "--name" not in attached[3]
    assert len(fleet.agents) == 4


def test_replicas_share_a_secret_of_their_own() -> None:
    first, second = (replica_environment("redis://r", "sqlite:///d") for _ in range(2))
    assert len(first["EDGEDRAFT_REPLICA_SECRET"]) >= 16
    assert first["EDGEDRAFT_REPLICA_SECRET"] != second["EDGEDRAFT_REPLICA_SECRET"]
    assert (first["EDGEDRAFT_REDIS"], first["EDGEDRAFT_DATABASE"]) == ("redis://r", "sqlite:///d")
