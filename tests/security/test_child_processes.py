"""Attack: a folder with a module of a known name, in which somebody starts a program: `python -m` would import it."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from edgedraft.child_process import python_command

ROOT = Path(__file__).parents[2]
SHIPPED = ("edgedraft", "gateway", "verifier", "edge_agent", "loadtest")
STARTS = {"Popen", "run", "check_output", "check_call", "create_subprocess_exec", "create_subprocess_shell", "system"}


def shipped_files() -> list[Path]:
    return sorted(path for folder in SHIPPED for path in (ROOT / folder).rglob("*.py"))


def unsafe_commands(source: str) -> Iterator[int]:
    """Lines of command lines that begin with this interpreter and not with -P behind it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List | ast.Tuple | ast.Call):
            words = node.args if isinstance(node, ast.Call) else node.elts
            for word, following in pairwise(words):
                if ast.unparse(word) != "sys.executable":
                    continue
                option = following.value if isinstance(following, ast.Constant) else ""
                if isinstance(option, str) and option.startswith("-") and option != "-P":
                    yield node.lineno


def test_no_module_is_run_with_the_current_folder_on_its_path() -> None:
    assert not [f"{path}:{line}" for path in shipped_files() for line in unsafe_commands(path.read_text())]


def test_an_unsafe_command_is_found() -> None:
    assert list(unsafe_commands("x = [sys.executable, '-m', 'pip']")) == [1]
    assert list(unsafe_commands("run(sys.executable, '-c', code)")) == [1]
    assert list(unsafe_commands("x = [sys.executable, '-P', '-m', 'pip']")) == []


def test_a_module_in_the_current_folder_is_not_imported(tmp_path: Path) -> None:
    for name in ("msgspec", "json", "edgedraft"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = python_command("edgedraft.cli", "--version")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("edgedraft ")


def test_a_shell_is_never_started() -> None:
    for path in shipped_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] in STARTS:
                assert not [word for word in node.keywords if word.arg == "shell"], f"{path}:{node.lineno}"
