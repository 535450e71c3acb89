"""The stored login: owner-only, used for its own gateway, checked before it is stored."""

from __future__ import annotations

import asyncio
import stat
from typing import Any

import pytest

from edge_agent.attach.errors import AttachRejected
from edge_agent.desktop import login
from edge_agent.desktop.login import Login, fill_from_login, load_login, save_login
from edge_agent.settings import AgentSettings, LoginSettings
from tests.edge_agent.scripted_gateway import ScriptedGateway

VOCAB = 97


def agent_settings(**values: Any) -> AgentSettings:
    return AgentSettings.model_validate({"draft_model": "none", **values})


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
        settings = LoginSettings(url=gateway.url, key="k", key_file=None, log_level="info")
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
