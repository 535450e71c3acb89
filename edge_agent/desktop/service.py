"""`edgedraft agent install|uninstall|status`: the agent as a user service of systemd or launchd.

The service runs `edgedraft attach` with the flags given at installation. URL and key stay in the login file, so that
neither a unit file nor a process list shows them. Nothing here needs more than the user's own rights.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from platformdirs import user_config_path, user_log_path

from edge_agent.attach.errors import AttachRejected
from edge_agent.desktop.login import load_login
from edge_agent.settings import AgentInstallSettings, AgentStatusSettings, AgentUninstallSettings
from edgedraft.child_process import python_command
from edgedraft.private_files import make_private_folder
from edgedraft.settings import Settings

UNIT = "edgedraft-agent.service"
LABEL = "com.edgedraft.agent"
COMMAND_SECONDS = 30.0
SECRETS = frozenset({"draft_key"})  # settings that are in no command line


class ServiceError(Exception):
    """The service manager failed or is missing; the message says what to do."""


class ServiceManager(Protocol):
    """A service manager; `file` is where it expects the service's definition."""

    file: Path

    def render(self, command: list[str]) -> bytes:
        """The service definition that runs `command`."""
        ...

    def start(self) -> None:
        """Start the service now and at every login. Raises ServiceError."""
        ...

    def stop(self) -> None: ...

    def status(self) -> str:
        """The service's state in a few words, for a person."""
        ...


def main(settings: Settings) -> None:
    """Run one of the three commands. Exits with 1 when it fails, or for a status that is not installed."""
    try:
        manager = service_manager_for(sys.platform)
        match settings:
            case AgentInstallSettings():
                print(install(manager, settings))
            case AgentUninstallSettings():
                print(uninstall(manager))
            case AgentStatusSettings():
                installed = manager.file.exists()
                print(manager.status() if installed else "not installed: edgedraft agent install")
                sys.exit(0 if installed else 1)
    except (ServiceError, AttachRejected) as error:
        sys.exit(f"edgedraft agent: {error}")


def install(manager: ServiceManager, settings: AgentInstallSettings) -> str:
    """Write the file and start the service. Raises ServiceError; nothing is then left installed."""
    if load_login() is None:
        raise ServiceError("it needs a gateway and a key first: edgedraft login URL")
    if settings.draft_key and not settings.draft_key_file:
        raise ServiceError("the service's file would show the draft server's key: pass --draft-key-file")
    manager.file.parent.mkdir(parents=True, exist_ok=True)
    manager.file.write_bytes(manager.render(attach_command(settings)))
    try:
        manager.start()
    except ServiceError:
        manager.file.unlink()
        raise
    return f"edgedraft agent installed ({manager.file}) and started; `edgedraft agent status` tells how it does"


def uninstall(manager: ServiceManager) -> str:
    """Stop the service and remove the file."""
    if not manager.file.exists():
        return "edgedraft agent was not installed"
    manager.stop()
    manager.file.unlink()
    return f"edgedraft agent stopped and removed ({manager.file})"


def attach_command(settings: AgentInstallSettings) -> list[str]:
    """The service's command line: `edgedraft attach` with every setting that was given explicitly."""
    words = python_command("edgedraft.cli", "attach", "--no-live")
    for name in type(settings).model_fields:
        if name not in settings.model_fields_set or name in SECRETS:
            continue
        value, flag = getattr(settings, name), name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def service_manager_for(platform: str) -> ServiceManager:
    """The service manager of a `sys.platform`. Raises ServiceError when there is none that is supported."""
    if platform == "darwin":
        return Launchd()
    if platform == "linux" and shutil.which("systemctl"):
        return Systemd()
    raise ServiceError("there is neither systemd nor launchd here: start `edgedraft attach` in your own way")


class Systemd:
    """Installs a systemd user unit."""

    def __init__(self) -> None:
        self.file = user_config_path("systemd") / "user" / UNIT

    def render(self, command: list[str]) -> bytes:
        return UNIT_TEXT.format(command=" ".join(_quote(word) for word in command)).encode()

    def start(self) -> None:
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--now", UNIT)

    def stop(self) -> None:
        self._systemctl("disable", "--now", UNIT)

    def status(self) -> str:
        state = _run(["systemctl", "--user", "is-active", UNIT])
        words = (state.stdout.strip() or state.stderr.strip()).splitlines()[-1:] or ["unknown"]
        return f"{UNIT}: {words[0]}; its log: journalctl --user -u {UNIT}"

    def _systemctl(self, *words: str) -> None:
        done = _run(["systemctl", "--user", *words])
        if done.returncode:
            raise ServiceError(f"systemctl --user {' '.join(words)}: {done.stderr.strip()}")


class Launchd:
    """Installs a launchd agent."""

    def __init__(self) -> None:
        self.file = Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    def render(self, command: list[str]) -> bytes:
        log = user_log_path("edgedraft") / "agent.log"
        return plistlib.dumps(
            {
                "Label": LABEL,
                # launchd rotates no logs, so the agent does; what it says at its end is a line per start.
                "ProgramArguments": [*command, "--log-file", str(log)],
                "ThrottleInterval": 60,
                "RunAtLoad": True,
                "KeepAlive": {"SuccessfulExit": False},
                "ProcessType": "Background",
                "LowPriorityIO": True,
                "Nice": 10,
                "StandardOutPath": "/dev/null",
                "StandardErrorPath": str(log.with_suffix(".err")),
                "Umask": 0o077,
            }
        )

    def start(self) -> None:
        make_private_folder(user_log_path("edgedraft"))
        done = _run(["launchctl", "bootstrap", self._domain, str(self.file)])
        if done.returncode:
            raise ServiceError(f"launchctl bootstrap: {done.stderr.strip()}")

    def stop(self) -> None:
        _run(["launchctl", "bootout", f"{self._domain}/{LABEL}"])

    def status(self) -> str:
        printed = _run(["launchctl", "print", f"{self._domain}/{LABEL}"])
        state = next(
            (line.split("=")[1].strip() for line in printed.stdout.splitlines() if "state =" in line), "not loaded"
        )
        return f"{LABEL}: {state}; its log: {user_log_path('edgedraft') / 'agent.log'}"

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid()}"


UNIT_TEXT = """[Unit]
Description=EdgeDraft agent: drafts for your own chats
After=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=15
Nice=10
IOSchedulingClass=idle
NoNewPrivileges=yes
TimeoutStopSec=5
UMask=0077
LogRateLimitIntervalSec=60
LogRateLimitBurst=200

[Install]
WantedBy=default.target
"""


def _quote(word: str) -> str:
    """Quote a word for ExecStart as systemd.service(5) requires: % and $ would be expanded."""
    safe = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{safe}"' if safe != word or " " in word else word


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"{words[0]}: {error}") from None
