"""Docker or Podman, by its command: runs containers of the chart with the rights that the chart gives them.

As the kubelet would: the image's or the chart's command, the pod's user, a root file system that is read-only, no
capabilities, emptyDirs as temporary file systems. All containers share one network namespace that has only loopback,
so the chart's own ports and addresses are used and nothing outside is reached.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.charts.rendering import Container, Document

NETWORK = "network"  # name of the container that has the namespace


class EngineError(RuntimeError):
    """A command of the engine failed; the message is its output."""


@dataclass(frozen=True)
class Running:
    """A container that was started."""

    engine: Engine
    name: str

    def execute(self, *command: str) -> str:
        """The output of a command inside, as the container's user. Raises EngineError."""
        return self.engine.call("exec", self.name, *command)

    def log(self) -> str:
        """Everything that it printed, errors too."""
        return self.engine.call("logs", self.name)

    def state(self) -> dict[str, Any]:
        return json.loads(self.engine.call("inspect", "--format", "{{json .State}}", self.name))

    def stop(self, seconds: int) -> int:
        """Its exit status after SIGTERM; SIGKILL, and so 137, if that takes longer."""
        self.engine.call("stop", "--time", str(seconds), self.name)
        return self.state()["ExitCode"]


@dataclass(frozen=True)
class Engine:
    command: str
    prefix: str  # of the names of containers, so that this run removes only its own

    def call(self, *words: str) -> str:
        """Output and errors. Raises EngineError."""
        done = subprocess.run(
            [self.command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise EngineError(f"{self.command} {' '.join(words)}: {done.stdout}")
        return done.stdout

    def configuration(self, image: str) -> dict[str, Any]:
        """User, Env, Entrypoint, ... of an image."""
        return json.loads(self.call("image", "inspect", "--format", "{{json .Config}}", image))

    def start_network(self, image: str) -> Running:
        """The namespace that the others join."""
        return self._start(NETWORK, "--network", "none", "--entrypoint", "sleep", image, "infinity")

    def start(self, network: Running, name: str, image: str, flags: Sequence[str], words: Sequence[str]) -> Running:
        return self._start(name, "--network", f"container:{network.name}", *flags, image, *words)

    def _start(self, name: str, *words: str) -> Running:
        container = Running(self, f"{self.prefix}-{name}")
        self.call("run", "--detach", "--pull", "never", "--name", container.name, *words)
        return container

    def remove_all(self) -> None:
        mine = self.call("ps", "--all", "--format", "{{.Names}}", "--filter", f"name={self.prefix}-").split()
        for name in sorted(mine, key=lambda name: name.endswith(f"-{NETWORK}")):  # which the others depend on
            self.call("rm", "--force", "--volumes", name)


def restrictions(found: Container) -> list[str]:
    """Flags with which a container has the rights that its pod would have."""
    pod, own = found.pod["securityContext"], found.container["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert not own["allowPrivilegeEscalation"]
    dropped = [flag for name in own["capabilities"]["drop"] for flag in ("--cap-drop", name)]
    user = f"{pod['runAsUser']}:{pod['runAsGroup']}"
    return ["--user", user, "--read-only", *dropped, "--security-opt", "no-new-privileges"]


def environment(found: Container, given: Mapping[str, str]) -> list[str]:
    """Its variables; those from Secrets and the pod's fields are given, and all that is given must be one of them."""
    values: dict[str, str] = {}
    for name, variable in found.env.items():
        text = given[name] if name in given else variable["value"]
        values[name] = re.sub(r"\$\((\w+)\)", lambda reference: values[reference[1]], text)
    assert given.keys() <= values.keys()
    return [flag for name, value in values.items() for flag in ("--env", f"{name}={value}")]


def volumes(found: Container, folders: Mapping[str, Path]) -> list[str]:
    """Its mounts: emptyDirs as temporary file systems, all others from these folders."""
    kinds: dict[str, Document] = {volume["name"]: volume for volume in found.pod["volumes"]}
    flags: list[str] = []
    for mount in found.container["volumeMounts"]:
        path, name = mount["mountPath"], mount["name"]
        if "emptyDir" in kinds[name]:
            flags += ["--tmpfs", f"{path}:rw,exec,mode=1777"]
        else:
            flags += ["--volume", f"{folders[name]}:{path}:{'ro' if mount.get('readOnly') else 'rw'}"]
    return flags


def words_of(found: Container) -> tuple[list[str], list[str]]:
    """Flags and words that give the image the chart's command and arguments."""
    command, *rest = found.container.get("command", [""])
    return ["--entrypoint", command] if command else [], [*rest, *found.container.get("args", [])]
