"""What holds for all tests: nothing that a user keeps here is read or written, torch takes one thread, and workers."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgedraft.observability.logs import PACKAGES

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from tests.support.topology import Topology

os.environ["EDGEDRAFT_PAST_OUTPUTS"] = "false"
os.environ["EDGEDRAFT_FIND_SERVERS"] = "false"
os.environ["EDGEDRAFT_DRAFTS_FOLDER"] = "/nonexistent/drafts"

# On a machine that is busy otherwise, torch's threads wait for each other: up to ten times as long. torch reads this
# when it is imported, hence it also holds for fixtures of a module or session, and for the processes of tests.
os.environ["OMP_NUM_THREADS"] = "1"

# Set to 1, some tests run as long as their subject deserves; without it, as long as every change can wait for.
THOROUGH = os.environ.get("EDGEDRAFT_THOROUGH") == "1"


# Tests of complete services, each of which is a machine's work: of several pytest workers, one runs all of these.
SERVICES = ("chaos", "conformance", "e2e", "examples")


def group_of(nodeid: str) -> str:
    """The group of a test: a group's tests run on one worker, one after the other."""
    file = nodeid.partition("::")[0]
    return "services" if file.startswith(tuple(f"tests/{folder}/" for folder in SERVICES)) else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Services' tests take longest, hence they come first."""
    items.sort(key=lambda item: group_of(item.nodeid) != "services")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """For `pytest -n 2`."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # it would start with the groups of most tests, which are quick ones
    return GroupScheduling(config, log)


@contextmanager
def restored_logging() -> Iterator[None]:
    """Levels and handlers of loggers are afterwards as they were."""
    loggers = [logging.getLogger(name) for name in (None, *PACKAGES)]
    levels = [logger.level for logger in loggers]
    handlers = list(loggers[0].handlers)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for handler in loggers[0].handlers[:]:
            if handler not in handlers and type(handler) in (logging.StreamHandler, RotatingFileHandler):
                loggers[0].removeHandler(handler)
        for handler in handlers:
            loggers[0].addHandler(handler)  # if it was taken away


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A program that a test runs in this process sets up logging for all of it, and the next tests look at records."""
    with restored_logging():
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sets it again for each test, since code under test may set it for its process."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _short_collections() -> None:
    """What lives until the end is left out of garbage collections: one of everything would hold an event loop under
    test for seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """What `edgedraft up --gateways 2 --verifiers 2 --agents 3` starts; whoever breaks a part of it mends it."""
    from tests.support.topology import running  # only for those who want it: it takes processes and packages

    with running(tmp_path_factory.mktemp("topology-logs")) as topology:
        yield topology


@pytest.fixture(scope="session")
def draft_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped draft model as a GGUF file, for tests with llama.cpp's server."""
    from loadtest.drafts.gguf_file import write_draft_gguf

    return write_draft_gguf(tmp_path_factory.mktemp("draft-gguf"))
