"""The agent as a user service: unit files, and installing and removing them."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.desktop import service
from edge_agent.desktop.login import Login, save_login
from edge_agent.settings import AgentInstallSettings


def test_the_service_runs_attach_with_what_was_given_and_without_the_key() -> None:
    given = AgentInstallSettings.model_validate({"draft_model": "/a b/100%.gguf", "polite": False, "threads": 2})
    words = service.attach_command(given)
    assert words[:6] == [sys.executable, "-P", "-m", "edgedraft.cli", "attach", "--no-live"]
    assert "--no-polite" in words
    assert words[words.index("--threads") + 1] == "2"
    assert "--key" not in words
    assert "--device" not in words, "what was not given stays the newer version's to decide"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    given = AgentInstallSettings.model_validate({"draft_model": '/a b/100% "$HOME"\\.gguf'})
    unit = tmp_path / service.UNIT
    unit.write_bytes(service.Systemd().render(service.attach_command(given)))
    checked = subprocess.run(
        ["systemd-analyze", "--user", "verify", unit],
        capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    reported = [line for line in checked.stderr.splitlines() if service.UNIT in line]
    assert (checked.returncode, reported) == (0, [])
    assert '"/a b/100%% \\"$$HOME\\"\\\\.gguf"' in unit.read_text()


def test_launchd_gets_a_property_list() -> None:
    command = service.attach_command(AgentInstallSettings.model_validate({}))
    document = plistlib.loads(service.Launchd().render(command))
    log = document["ProgramArguments"][-1]
    assert document["ProgramArguments"] == [*command, "--log-file", log]
    assert document["StandardErrorPath"] != log, "launchd rotates nothing, so the agent keeps its log itself"
    assert document["Nice"] == 10


class _Manager:
    """Keeps to its own folder, and fails when told to."""

    def __init__(self, folder: Path, fails: bool = False) -> None:
        self.file = folder / "units" / "agent"
        self.calls: list[str] = []
        self._fails = fails

    def render(self, command: list[str]) -> bytes:
        return " ".join(command).encode()

    def start(self) -> None:
        self.calls.append("start")
        if self._fails:
            raise service.ServiceError("no bus")

    def stop(self) -> None:
        self.calls.append("stop")

    def status(self) -> str:
        return "running"


def test_install_needs_a_login_and_uninstall_takes_all_back(tmp_path: Path) -> None:
    manager = _Manager(tmp_path)
    with pytest.raises(service.ServiceError, match="edgedraft login"):
        service.install(manager, AgentInstallSettings.model_validate({}))
    save_login(Login("https://gateway.example.com", "secret"))
    assert "started" in service.install(manager, AgentInstallSettings.model_validate({}))
    assert b"attach" in manager.file.read_bytes()
    assert "removed" in service.uninstall(manager)
    assert not manager.file.exists()
    assert service.uninstall(manager) == "edgedraft agent was not installed"
    assert manager.calls == ["start", "stop"]
    with pytest.raises(service.ServiceError, match="no bus"):
        service.install(_Manager(tmp_path, fails=True), AgentInstallSettings.model_validate({}))
    assert not manager.file.exists()


def test_a_machine_without_a_known_service_manager_says_so() -> None:
    with pytest.raises(service.ServiceError, match="neither systemd nor launchd"):
        service.service_manager_for("win32")


def test_the_draft_servers_key_is_in_no_command_line(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    given = {"draft_url": "http://127.0.0.1:8080", "draft_key_file": str(tmp_path / "key")}
    words = service.attach_command(AgentInstallSettings.model_validate(given))
    assert "--draft-key-file" in words
    assert "--draft-key" not in words
    assert "s3cret" not in words
