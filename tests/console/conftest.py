"""A real Chromium in front of a gateway that listens: Debian's, driven by Playwright, which downloads none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import argon2
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from gateway.console import passwords
from gateway.console.users import Users

if TYPE_CHECKING:
    from tests.conftest import Inside

CHROMIUM: Final = Path("/usr/bin/chromium")
GRAVE: Final = {"serious", "critical"}
TELL: Final = """document.addEventListener("securitypolicyviolation", (it) =>
    console.error(`${it.violatedDirective} ${it.blockedURI} ${it.sourceFile}:${it.lineNumber}:${it.columnNumber} ${it.sample}`))"""
"""Where a page broke its policy: Chromium itself says only that it did."""
PASSWORD: Final = "correct horse battery"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function with small parameters: a real hash takes 50 ms of a core, and a hundred of them prove no more."""
    monkeypatch.setattr(passwords, "_HASHER", argon2.PasswordHasher(1, 8, 1))


@dataclass
class Looked:
    """A page in a browser, and everything it complained of."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    async def go(self, path: str) -> None:
        """Open a path of the console, and wait until it is quiet."""
        answer = await self.page.goto(f"{self.url}{path}")
        assert answer is not None
        assert answer.status == 200, (path, answer.status)
        await self.page.wait_for_load_state("networkidle")

    async def faults(self) -> list[str]:
        """What is gravely wrong for people who do not see, hear or point as most do, by axe-core."""
        found = await Axe().run(self.page)
        return [
            f"{each['id']} {node['target']} {node.get('failureSummary')}"
            for each in found.response["violations"]
            if each["impact"] in GRAVE
            for node in each["nodes"]
        ]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not here: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


class Window:
    """Windows of one browser on one gateway, each signed in as somebody who may look at one merchant."""

    def __init__(self, browser: Browser, inside: Inside, url: str) -> None:
        self._browser, self._inside, self._url = browser, inside, url
        self._state: dict[str, Any] = {}

    @asynccontextmanager
    async def open(self, merchant: str = "mer_dev", **options: Any) -> AsyncIterator[Looked]:
        """A page of a fresh browser context; ``options`` are Playwright's, such as ``viewport`` and ``color_scheme``."""
        context = await self._browser.new_context(**options)
        looked = Looked(await context.new_page(), self._url)
        looked.page.on("console", lambda said: looked.complaints.append(f"{said.type}: {said.text}"))
        looked.page.on("pageerror", lambda error: looked.complaints.append(str(error)))
        await context.add_init_script(TELL)
        await self._sign_in(context, merchant)
        yield looked
        await context.close()

    async def _sign_in(self, context: BrowserContext, merchant: str) -> None:
        if merchant not in self._state:
            email = f"ada.{merchant}@example.com"
            users = Users(self._inside.house.pool, self._inside.house.deps.keys.console)
            await users.create(email, merchant, PASSWORD)
            self._state[merchant] = await users.login(email, PASSWORD, address="127.0.0.1", before=None)
        await context.add_cookies([{"name": "interlock_session", "value": self._state[merchant], "url": self._url}])


@pytest.fixture
def window() -> type[Window]:
    return Window
