"""Separate environments for the client packages, whose pinned dependencies conflict with this repository's.

Each is made once from a lock file and kept under EDGEDRAFT_CONFORMANCE (a folder; else beside the demo model's cache),
named by what is in the lock file, so that another lock file is another environment. `python -m
tests.conformance.environments` makes them all, which takes minutes; a test makes what it misses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedraft.local.browser_runtime import browser_folder, fetch_runtime
from edgedraft.local.demo_model import cache_root

CLIENTS = Path(__file__).parent / "clients"
INSTALL_SECONDS = 600.0


def python_clients(lock_file: str = "requirements.txt") -> Path:
    """The Python that has the packages of a lock file. Raises CalledProcessError or TimeoutExpired."""
    lock = CLIENTS / lock_file
    folder = _folder("python", lock)
    python = folder / "bin" / "python"
    with _made_once(folder) as missing:
        if missing:
            _run(sys.executable, "-m", "venv", str(folder))
            # The lock file names every package, so pip has nothing to resolve.
            _run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "-r", str(lock))
    return python


def node_clients() -> Path:
    """A folder with the Node packages of package-lock.json and the scripts that use them. Raises as above."""
    folder = _node_packages("node", CLIENTS)
    for script in CLIENTS.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def codex_command() -> Path:
    """The Codex CLI, 400 MB with what it brings. Raises as above."""
    return _node_packages("codex", CLIENTS / "codex") / "node_modules" / ".bin" / "codex"


def typescript_compiler() -> Path:
    """tsc, which checks the types of the pages' modules. Raises as above."""
    source = CLIENTS.parent.parent / "gateway" / "api" / "attach" / "typescript"
    return _node_packages("typescript", source) / "node_modules" / ".bin" / "tsc"


def _node_packages(kind: str, source: Path) -> Path:
    folder = _folder(kind, source / "package-lock.json")
    with _made_once(folder) as missing:
        if missing:
            folder.mkdir(parents=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, folder)
            _run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder))
    return folder


def _folder(kind: str, lock: Path) -> Path:
    chosen = os.environ.get("EDGEDRAFT_CONFORMANCE")
    root = Path(chosen) if chosen else cache_root() / "conformance"
    mark = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    return root / f"{kind}-{mark}"


@contextmanager
def _made_once(folder: Path) -> Iterator[bool]:
    """Whether it is still to be made; one process at a time, and what was made by half is made anew."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder.with_suffix(".done")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not done.exists()
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
        yield missing
        done.touch()


def main() -> None:
    fetch_runtime(browser_folder())
    for make in python_clients, node_clients, codex_command, typescript_compiler:
        make()
    python_clients("agents_requirements.txt")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_SECONDS, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
