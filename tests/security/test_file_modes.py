"""Attack: another user of the machine reads the files that hold prompts, keys or usage."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edge_agent.desktop import login
from edge_agent.distill.prompts import KINDS
from edge_agent.distill.samples import Sample, save_samples
from edge_agent.drafters.lookup.past_outputs import PastOutputStore
from edgedraft.local.processes import Supervisor
from edgedraft.observability.logs import PACKAGES, configure_logging
from edgedraft.private_files import make_private_folder
from gateway.storage.database import Database

OTHERS = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture(autouse=True)
def _wide_umask() -> Iterator[None]:
    """The most careless one."""
    before = os.umask(0)
    yield
    os.umask(before)


def readable_by_others(folder: Path) -> list[str]:
    return sorted(str(path) for path in [folder, *folder.rglob("*")] if path.stat().st_mode & OTHERS)


async def test_the_database_and_the_files_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    database = Database(f"sqlite:///{folder}/gateway.db")
    await database.open()
    async with database.begin():
        names = {path.name for path in folder.iterdir()}
        assert names == {"gateway.db", "gateway.db-wal", "gateway.db-shm"}
        assert readable_by_others(folder) == []
    await database.close()


async def test_a_database_of_an_earlier_version_is_narrowed(tmp_path: Path) -> None:
    file = tmp_path / "gateway.db"
    beside = [file, tmp_path / "gateway.db-wal", tmp_path / "gateway.db-shm"]
    for path in beside:
        path.touch(0o666)
    database = Database(f"sqlite:///{file}")
    await database.open()
    assert not [path for path in beside if path.exists() and path.stat().st_mode & OTHERS]
    await database.close()


@pytest.mark.parametrize("wide_before", [False, True])
def test_past_outputs(tmp_path: Path, wide_before: bool) -> None:
    file = tmp_path / "past" / "outputs"
    if wide_before:
        make_private_folder(file.parent)
        file.touch(0o666)
    store = PastOutputStore(1 << 12, file)
    store.add(list(range(100)))
    assert file.stat().st_size
    assert readable_by_others(file.parent) == []


def test_samples_of_a_distillation(tmp_path: Path) -> None:
    folder = make_private_folder(tmp_path / "work")
    tensor = torch.zeros(1, dtype=torch.int64)
    save_samples(folder / "shard.safetensors", [Sample(KINDS[0], tensor, tensor, tensor[None], tensor[None].float())])
    assert readable_by_others(folder) == []


def test_the_login_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "config"
    monkeypatch.setattr(login, "user_config_path", lambda name: folder)
    login.save_login(login.Login("https://gateway.example.com", "ed-key"))
    assert readable_by_others(folder) == []
    login.login_file().chmod(0o644)
    assert login.load_login()
    assert readable_by_others(folder) == [], "one that was made wider is narrowed when it is read"


def test_logs_of_local_processes(tmp_path: Path) -> None:
    folder = make_private_folder(tmp_path / "logs")
    with Supervisor("key", folder) as stack:
        stack.launch("gateway", "--port", "http")
    assert [path.name for path in folder.iterdir()] == ["0-gateway.log"]
    assert readable_by_others(folder) == []


def test_an_agents_log_file(tmp_path: Path) -> None:
    file = make_private_folder(tmp_path / "logs") / "agent.log"
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in ("", *PACKAGES)}
    try:
        configure_logging("info", file=file, bounded=True)
        logging.getLogger("edge_agent").info("a line")
        assert "a line" in file.read_text()
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert readable_by_others(file.parent) == []
