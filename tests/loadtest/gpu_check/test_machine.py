"""What is checked is named: by git where there is a checkout, as changed where it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from loadtest.gpu_check.machine import UNKNOWN, describe_machine, read_commit


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_comes_from_git_and_says_when_files_differ(tmp_path: Path) -> None:
    assert read_commit(tmp_path) == UNKNOWN
    git(tmp_path, "init")
    (tmp_path / "inner").mkdir()
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert read_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert read_commit(tmp_path) == f"{commit} with changes"
    assert read_commit(tmp_path / "inner") == UNKNOWN, "another project's checkout around this one says nothing"


def test_a_given_commit_is_taken_as_it_is() -> None:
    machine = describe_machine(torch.device("cpu"), "c0ffee")
    assert machine["commit"] == "c0ffee"
    assert machine["torch"] == torch.__version__
    assert machine["device"] == "cpu"
