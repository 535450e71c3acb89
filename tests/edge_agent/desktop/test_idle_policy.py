"""Pausing on battery and behind games, and the process priority."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edge_agent.attach.attachment import stay_attached
from edge_agent.attach.observer import LineObserver
from edge_agent.desktop import idle_policy
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from tests.edge_agent.scripted_gateway import Attached, ScriptedGateway, until

VOCAB = 97
SAID = [11, 12, 13, 14, 15, 16, 17, 18, 19]


def test_the_process_gets_the_lowest_priority() -> None:
    script = (
        "from edge_agent.desktop.idle_policy import lower_priority; import psutil; lower_priority(); lower_priority();"
        "p = psutil.Process(); print(p.nice(), int(p.ionice().ioclass) if hasattr(p, 'ionice') else 3)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert int(printed[0]) >= idle_policy.NICENESS
    assert printed[1] == "3"


@pytest.mark.parametrize(
    ("battery", "pauses"),
    [
        (None, False),
        (SimpleNamespace(power_plugged=True), False),
        (SimpleNamespace(power_plugged=None), False),
        (SimpleNamespace(power_plugged=False), True),
    ],
)
def test_drafting_pauses_on_battery(monkeypatch: pytest.MonkeyPatch, battery: object, pauses: bool) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert (idle_policy.pause_reason() == "on battery") == pauses


@pytest.mark.skipif(sys.platform != "linux", reason="GameMode is Linux's")
def test_drafting_pauses_while_gamemode_is_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for state, reason in (("inactive", ""), ("active", "a game")):
        (tmp_path / "gamemoded").write_text(f"#!/bin/sh\necho gamemode is {state}\n")
        (tmp_path / "gamemoded").chmod(0o755)
        assert idle_policy.busy_screen_reason() == reason


async def test_a_paused_agent_applies_commits_and_drafts_again_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may = True
    async with ScriptedGateway(VOCAB) as gateway:
        attached = Attached(gateway, lambda size: PromptLookupDrafter())
        agent = type(attached.agent)(**{**vars(attached.agent), "may_draft": lambda: may})
        attached.task.cancel()
        await asyncio.wait([attached.task])
        may = False
        task = asyncio.ensure_future(stay_attached(agent))
        await until(lambda: len(attached.watch.names) >= 1)
        session = await gateway.open([*SAID, 1, 2, *SAID[:4]], SAID[4:] * 3)
        await asyncio.sleep(0.2)
        assert len(session.tree) == 0
        may = True
        await session.verify()
        await until(lambda: len(session.tree) > 0)
        task.cancel()
        await asyncio.wait([task])


async def test_the_observer_hears_of_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    reason = ""
    monkeypatch.setattr(idle_policy, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(idle_policy, "pause_reason", lambda: reason)
    observer = LineObserver("http://gateway")
    monkeypatch.setattr(observer, "paused", reasons.append)
    policy = idle_policy.IdlePolicy(observer)
    task = asyncio.ensure_future(policy.watch())
    await asyncio.sleep(0.05)
    assert policy.may_draft()
    reason = "a game"
    await until(lambda: reasons == ["a game"])
    assert not policy.may_draft()
    reason = ""
    await until(lambda: reasons == ["a game", ""])
    assert policy.may_draft()
    task.cancel()
