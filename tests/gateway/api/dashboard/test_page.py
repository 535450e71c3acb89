"""The dashboard in a real browser, Chromium, with live figures: what people see, on a desk and on a phone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.gateway.conftest import KEY, Gateway

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "say one two three four five"}]}


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


class Visit:
    """One tab, and everything in it that a careful page would not do."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.wrong: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: self.asked.append(request.url))

    async def enter(self, url: str, key: str) -> None:
        await self.page.goto(f"{url}/dashboard")
        await self.page.get_by_label("API key").fill(key)
        await self.page.keyboard.press("Enter")
        await expect(self.page.locator("#figures")).to_be_visible(timeout=20_000)


async def opened(browser: Browser, size: dict[str, int], scheme: Any = "light") -> Visit:
    context = await browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    return Visit(await context.new_page())


async def ask(gateway: Gateway, key: str = KEY) -> None:
    async with gateway.http(key) as http:
        assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200


async def test_figures_agents_and_charts_are_shown_and_updated(gateway: Gateway, browser: Browser) -> None:
    visit = await opened(browser, DESKTOP)
    async with gateway.agent():
        await ask(gateway)
        await visit.enter(gateway.url, KEY)
        page = visit.page
        await expect(page.locator("#edge-share")).to_contain_text("%")
        await expect(page.locator("#state")).to_have_text("Live · toy")
        await expect(page.locator("#agents td").first).to_contain_text("test")
        await expect(page.locator("#modes")).to_contain_text("With a desktop1")
        assert await page.locator(".chart [role=img]").count() == 3
        await ask(gateway)
        await expect(page.locator("#modes")).to_contain_text("With a desktop2")
    await expect(page.locator("#agents")).to_contain_text("No desktop is attached")
    assert visit.wrong == []
    assert all(url.startswith(gateway.url) for url in visit.asked)
    assert not any(KEY in url for url in visit.asked)


async def test_the_key_stays_in_the_tab(gateway: Gateway, browser: Browser) -> None:
    visit = await opened(browser, DESKTOP)
    await visit.enter(gateway.url, KEY)
    page = visit.page
    kept = "() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]"
    inside, outside, cookies = await page.evaluate(kept)
    assert KEY in inside
    assert (outside, cookies) == ("{}", "")
    assert KEY not in await page.content()
    await page.reload()
    await expect(page.locator("#figures")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("API key")).to_be_focused()
    assert KEY not in (await page.evaluate(kept))[0]


async def test_a_wrong_key_is_reported_and_not_kept(gateway: Gateway, browser: Browser) -> None:
    visit = await opened(browser, PHONE)
    await visit.page.goto(f"{gateway.url}/dashboard")
    for key in ("ed-wrong", "ключ"):
        await visit.page.get_by_label("API key").fill(key)
        await visit.page.get_by_role("button", name="Show").click()
        await expect(visit.page.get_by_role("alert")).not_to_be_empty()
        await expect(visit.page.locator("#figures")).to_be_hidden()
    assert "edgedraft.key" not in await visit.page.evaluate("JSON.stringify(sessionStorage)")


async def test_agent_names_are_inserted_as_text(gateway: Gateway, browser: Browser) -> None:
    visit = await opened(browser, DESKTOP)
    async with gateway.agent(name="<img src=x onerror=alert(1)>"):
        await visit.enter(gateway.url, KEY)
        await expect(visit.page.locator("#agents .who")).to_have_text("<img src=x onerror=alert(1)>")
    assert await visit.page.locator("#agents img").count() == 0
    assert visit.wrong == []


async def test_the_last_figures_stay_when_the_gateway_is_gone(gateway: Gateway, browser: Browser) -> None:
    visit = await opened(browser, DESKTOP)
    await visit.enter(gateway.url, KEY)
    await visit.page.route("**/dashboard/data", lambda route: asyncio.ensure_future(route.abort()))
    await expect(visit.page.locator("#state")).to_have_text("No answer from the gateway")
    await expect(visit.page.locator("#figures")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone_and_can_be_read(gateway: Gateway, browser: Browser, scheme: str) -> None:
    visit = await opened(browser, PHONE, scheme)
    async with gateway.agent(name="a-desktop-with-a-very-long-name-" * 4):
        await ask(gateway)
        await visit.enter(gateway.url, KEY)
        await expect(visit.page.locator("#agents .who")).to_be_visible()
        page = visit.page
        assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        for landmark in ("banner", "main", "contentinfo"):
            assert await page.get_by_role(landmark).count() == 1  # type: ignore[arg-type]
        faint = await page.evaluate(CONTRAST)
        assert faint == []
        before = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.get_by_role("button", name="Switch between light and dark").click()
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") != before


# Text whose contrast with what is behind it is below WCAG 2.2's 4.5 to 1 (3 to 1 where it is large).
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0.5) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(element.closest("svg") ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) faint.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""
