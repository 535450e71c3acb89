"""The agent as a desktop program: login, service, doctor, manners and the live view."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import plistlib
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from edge_agent.attach.attachment import stay_attached
from edge_agent.attach.connection import AttachRejected
from edge_agent.attach.observer import LineObserver
from edge_agent.desktop import doctor, forget, idle_policy, login, service
from edge_agent.desktop.live_view import BAR_SECONDS, LiveView, StatsHistory, render_bars
from edge_agent.desktop.login import Login, fill_from_login, load_login, save_login
from edge_agent.drafters.past_outputs import PastOutputStore
from edge_agent.drafters.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.stats import DraftStats, StatsCollector
from edge_agent.settings import AgentForgetSettings, AgentInstallSettings, AgentSettings, DoctorSettings, LoginSettings
from edgedraft.wire import PROTOCOL, AgentWelcome, Hello
from tests.edge_agent.scripted_gateway import Attached, ScriptedGateway, until

VOCAB = 97
SAID = [11, 12, 13, 14, 15, 16, 17, 18, 19]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))


def agent_settings(**values: Any) -> AgentSettings:
    return AgentSettings.model_validate({"draft_model": "none", **values})


# login


def test_a_login_is_kept_for_its_owner_alone() -> None:
    assert load_login() is None
    file = save_login(Login("https://gateway.example.com", "secret"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_login() == Login("https://gateway.example.com", "secret")
    save_login(Login("https://other.example.com", "newer"))
    assert load_login() == Login("https://other.example.com", "newer")
    assert [path.name for path in file.parent.iterdir()] == ["login.json"]


def test_attach_takes_what_it_lacks_from_the_login() -> None:
    with pytest.raises(AttachRejected, match="edgedraft login"):
        fill_from_login(agent_settings())
    save_login(Login("https://gateway.example.com", "secret"))
    assert fill_from_login(agent_settings()).key == "secret"
    assert fill_from_login(agent_settings(url="https://gateway.example.com/v1/")).key == "secret"
    assert fill_from_login(agent_settings(key="other")).url == "https://gateway.example.com"
    assert fill_from_login(agent_settings(url="http://b", key="k")).key == "k"


def test_a_key_goes_to_no_other_gateway_than_its_own() -> None:
    save_login(Login("https://gateway.example.com", "secret"))
    with pytest.raises(AttachRejected, match="a key is needed"):
        fill_from_login(agent_settings(url="https://evil.example.com"))


def test_a_login_that_cannot_be_read_says_so() -> None:
    save_login(Login("https://gateway.example.com", "secret")).write_text("{")
    with pytest.raises(AttachRejected, match="run `edgedraft login` again"):
        fill_from_login(agent_settings())


async def test_login_checks_the_key_before_it_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedGateway(VOCAB, status=401) as gateway:
        settings = LoginSettings(url=gateway.url, key="k", log_level="info")
        with pytest.raises(SystemExit, match="does not know this key"):
            await asyncio.to_thread(login.main, settings)
        assert load_login() is None
        gateway.status = 0
        await asyncio.to_thread(login.main, settings)
    assert load_login() == Login(settings.url, "k")
    assert gateway.keys == ["Bearer k"] * 2
    assert "edgedraft login kept" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Connect call failed"):
        await asyncio.to_thread(login.main, settings)


# service


def test_the_service_runs_attach_with_what_was_given_and_without_the_key() -> None:
    given = AgentInstallSettings.model_validate({"draft_model": "/a b/100%.gguf", "polite": False, "threads": 2})
    words = service.attach_command(given)
    assert words[:5] == [sys.executable, "-m", "edgedraft.cli", "attach", "--no-live"]
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
    told = [line for line in checked.stderr.splitlines() if service.UNIT in line]
    assert (checked.returncode, told) == (0, [])
    assert '"/a b/100%% \\"$$HOME\\"\\\\.gguf"' in unit.read_text()


def test_launchd_gets_a_property_list() -> None:
    command = service.attach_command(AgentInstallSettings.model_validate({}))
    document = plistlib.loads(service.Launchd().render(command))
    assert document["ProgramArguments"] == command
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


# doctor


async def test_the_doctor_looks_at_everything_and_finds_a_good_agent_good() -> None:
    async with ScriptedGateway(VOCAB) as gateway:
        settings = DoctorSettings.model_validate({"url": gateway.url, "key": "k", "draft_model": "none"})
        found = await asyncio.to_thread(lambda: {finding.name: finding for finding in doctor.run_checks(settings)})
    assert {finding.status for finding in found.values()} <= {"ok", "warn"}
    assert {"memory", "draft model", "gateway", "tokenizer", "round trip", "this desktop"} <= found.keys()
    assert gateway.closes == [(1000, "examined")]


async def test_the_doctor_names_what_is_wrong_and_goes_on(target: Path, tmp_path: Path) -> None:
    async with ScriptedGateway(VOCAB, status=403) as gateway:
        wrong = {"url": gateway.url, "key": "k", "draft_model": str(tmp_path / "no-model")}
        found = await asyncio.to_thread(lambda: list(doctor.run_checks(DoctorSettings.model_validate(wrong))))
        bad = {finding.name: finding for finding in found if finding.status == "failed"}
        assert "no-model" in bad["draft model"].message
        assert bad["draft model"].advice
        right = {**wrong, "draft_model": str(target), "device": "cpu"}
        found = await asyncio.to_thread(lambda: list(doctor.run_checks(DoctorSettings.model_validate(right))))
        bad = {finding.name: finding for finding in found if finding.status == "failed"}
    assert list(bad) == ["gateway"]
    assert "may not attach agents" in bad["gateway"].message
    assert any(finding.name == "draft speed" for finding in found), (
        "what does not need a gateway is checked all the same"
    )


def test_the_doctor_without_a_gateway_says_how_to_log_in() -> None:
    found = list(doctor.run_checks(DoctorSettings.model_validate({"draft_model": "none"})))
    assert [finding.advice for finding in found if finding.status == "failed"] == [
        f"`edgedraft login URL` keeps both in {login.login_file()}"
    ]


# manners


def test_an_agent_steps_back_behind_everything_else() -> None:
    script = (
        "from edge_agent.desktop.idle_policy import lower_priority; import psutil; lower_priority(); lower_priority();"
        "p = psutil.Process(); print(p.nice(), int(p.ionice().ioclass) if hasattr(p, 'ionice') else 3)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert int(told[0]) >= idle_policy.NICENESS
    assert told[1] == "3"


@pytest.mark.parametrize(
    ("battery", "pauses"),
    [
        (None, False),
        (SimpleNamespace(power_plugged=True), False),
        (SimpleNamespace(power_plugged=None), False),
        (SimpleNamespace(power_plugged=False), True),
    ],
)
def test_it_pauses_on_battery(monkeypatch: pytest.MonkeyPatch, battery: object, pauses: bool) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert (idle_policy.pause_reason() == "on battery") == pauses


@pytest.mark.skipif(sys.platform != "linux", reason="GameMode is Linux's")
def test_it_pauses_while_gamemode_is_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for state, why in (("inactive", ""), ("active", "a game")):
        (tmp_path / "gamemoded").write_text(f"#!/bin/sh\necho gamemode is {state}\n")
        (tmp_path / "gamemoded").chmod(0o755)
        assert idle_policy.busy_screen_reason() == why


async def test_while_paused_sessions_are_followed_and_drafting_goes_on_afterwards(
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
        seat = await gateway.open([*SAID, 1, 2, *SAID[:4]], SAID[4:] * 3)
        await asyncio.sleep(0.2)
        assert len(seat.tree) == 0
        may = True
        await seat.verify()
        await until(lambda: len(seat.tree) > 0)
        task.cancel()
        await asyncio.wait([task])


async def test_manners_tell_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    why = ""
    monkeypatch.setattr(idle_policy, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(idle_policy, "pause_reason", lambda: why)
    observer = LineObserver("http://gateway")
    monkeypatch.setattr(observer, "paused", told.append)
    watched = idle_policy.IdlePolicy(observer)
    task = asyncio.ensure_future(watched.watch())
    await asyncio.sleep(0.05)
    assert watched.may_draft()
    why = "a game"
    await until(lambda: told == ["a game"])
    assert not watched.may_draft()
    why = ""
    await until(lambda: told == ["a game", ""])
    assert watched.may_draft()
    task.cancel()


# the view


def shown(view: LiveView) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(view.render())
    return out.getvalue()


def test_the_view_shows_the_link_the_sessions_and_what_was_saved() -> None:
    tally = StatsCollector()
    view = LiveView("https://gateway.example.com", Hello(PROTOCOL, "desk", "f", "tiny on cpu", 8), tally)
    assert "connecting" in shown(view)
    view.attached(AgentWelcome(PROTOCOL, "agent-7", "large-model", 100, 8))
    view.round_trip(0.0421)
    tally.begin(1)
    tally.add(1, DraftStats(drafted=4000, accepted=1500, committed=3000))
    picture = shown(view)
    for words in (
        "agent-7",
        "42 ms",
        "large-model",
        "1 of 8",
        "4,000 tokens",
        "38% of those drafted",
        "1,500 of 3,000",
    ):
        assert words in picture
    view.paused("on battery")
    assert "on battery" in shown(view)
    view.paused("")
    view.lost("the connection broke", 3)
    picture = shown(view)
    assert "next try in 3 s" in picture
    assert "on battery" not in picture
    assert "42 ms" not in picture


def test_the_view_takes_the_log_and_gives_it_back() -> None:
    before = list(logging.getLogger().handlers)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with LiveView("http://g", Hello(PROTOCOL), StatsCollector(), console) as view:
        logging.getLogger("x").warning("the %s is warm", "room")
        assert "the room is warm" in shown(view)
    assert logging.getLogger().handlers == before


def test_rates_and_bars_are_of_the_time_they_say() -> None:
    history = StatsHistory()
    for second in range(1, 60):
        history.add(
            second,
            DraftStats(drafted=20 * second, accepted=(10 * second if second < 30 else 300), committed=20 * second),
        )
    assert history.between(50, 55).drafted == 100
    shares = history.acceptance_per_bar(59)
    assert len(shares) == int(59 / BAR_SECONDS)
    assert shares[0] == pytest.approx(0.5, abs=0.1)
    assert shares[-1] == pytest.approx(0, abs=0.01)
    assert render_bars([None, 0, 0.5, 1]) == "·▁▅█"
    for second in range(60, 3000):
        history.add(second, DraftStats())
    assert len(history._seen) < 400


# forget


def test_forget_deletes_past_outputs_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "past"
    PastOutputStore(4096, folder / "a.tokens").add(list(range(20)))
    (folder / "note.txt").write_text("mine")
    forget.main(AgentForgetSettings(past_folder=folder, log_level="info"))
    assert [path.name for path in folder.iterdir()] == ["note.txt"]
    assert "forgot 1 files" in capsys.readouterr().out
    forget.main(AgentForgetSettings(past_folder=tmp_path / "none", log_level="info"))
