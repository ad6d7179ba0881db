"""The console's pages in a real browser: they run under their policy without a complaint, for everybody, and show what there is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from playwright.async_api import Browser, expect

from gateway.console.users import Users

if TYPE_CHECKING:
    from tests.conftest import Database, Open, Psps
    from tests.console.conftest import Looked, Window

PASSWORD: Final = "correct horse battery"
PROBE: Final = """"><img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>{{7*7}}'"""
"""What a merchant may write wherever the API takes text: it has to stay text."""
VIEWPORTS: Final = {1280: 900, 390: 844}
KEEP: Final = os.environ.get("GATEWAY_KEEP_SCREENSHOTS")
"""Where screenshots are kept, if anywhere: docs/images, when the pages have changed and somebody has looked at them."""


@asynccontextmanager
async def every_look(windows: Window, path: str, name: str) -> AsyncIterator[list[Looked]]:
    """A page at both widths and in both themes: it complains of nothing, is good for everybody, and no wider than its window."""
    async with AsyncExitStack() as stack:
        looks = []
        for width, height in VIEWPORTS.items():
            for theme in ("light", "dark"):
                viewport: Any = {"width": width, "height": height}
                looked = await stack.enter_async_context(windows.open(viewport=viewport, color_scheme=theme))
                await looked.go(path)
                where = f"{name} {width} {theme}"
                assert await looked.faults() == [], where
                assert looked.complaints == [], where
                assert await looked.page.evaluate("document.documentElement.scrollWidth") == width, where
                if KEEP:
                    await looked.page.screenshot(path=f"{KEEP}/console-{name}-{width}-{theme}.png", full_page=True)
                looks.append(looked)
        yield looks


async def test_the_overview_shows_what_is_open_and_keeps_it_text(
    open_gateway: Open, browser: Browser, window: type[Window], psps: Psps, api_port: int
) -> None:
    async with open_gateway(listening=True) as inside:
        windows = window(browser, inside, f"http://127.0.0.1:{api_port}")
        for number in range(3):
            await inside.merchant.charged(reference=f"order-{number}")
        psps.fault("stripe", "authorize", "status", status=500, times=None)
        unknown = (await inside.merchant.charge(reference=PROBE)).json()
        (attempt,) = inside.database.operations(unknown["id"])
        inside.database.rows(
            "INSERT INTO incident (id, merchant_id, livemode, kind, payment_id, operation_id, account, said, details, created_at)"
            " VALUES ('in_1', 'mer_dev', false, 'amount_mismatch', %(payment)s, %(attempt)s, 'stripe', %(said)s, '{}', now())",
            payment=unknown["id"],
            attempt=attempt["id"],
            said=PROBE,
        )
        async with every_look(windows, "/console", "overview") as looks:
            page = looks[0].page
            text = await page.locator("main").inner_text()
            title = await page.title()
            images = await page.locator("main img").count()
            async with page.expect_response("**/console") as refreshed:
                await page.evaluate(
                    "htmx.ajax('GET', '/console', {source: '#live', target: '#live', select: '#live', swap: 'outerHTML'})"
                )
            again = await page.locator("main").inner_text()
        async with windows.open("mer_dev", java_script_enabled=False) as plain:
            await plain.page.goto(f"http://127.0.0.1:{api_port}/console")
            without = await plain.page.locator("main").inner_text()

    assert text.count(PROBE) == 2
    assert (title, images) == ("Overview · Interlock", 0)
    assert (await refreshed.value).status == 200
    assert again.count(PROBE) == without.count(PROBE) == 2
    for shown in (unknown["id"], "1", "19.99\u00a0EUR", "looked up by the worker", "Amount mismatch"):
        assert shown in without


async def test_a_user_of_one_merchant_sees_nothing_of_anothers(
    open_gateway: Open, database: Database, psps: Psps
) -> None:
    database.rows("INSERT INTO merchant (id, name, created_at) VALUES ('mer_other', 'Other', now())")
    other = (
        '[accounts.theirs]\nmerchant = "mer_other"\nprovider = "stripe"\n'
        f'base_url = "{psps.urls["stripe"]}"\napi_key_env = "FLOWS_STRIPE_API_KEY"\n'
        'webhook_secret_env = "FLOWS_STRIPE_WEBHOOK_SECRET"\n'
    )
    async with open_gateway(more=other) as inside:
        psps.fault("stripe", "authorize", "garbage", times=None)
        unknown = (await inside.merchant.charge(reference="ours-alone")).json()
        users = Users(inside.house.pool, inside.house.deps.keys.console)
        pages = {}
        for merchant in ("mer_dev", "mer_other"):
            await users.create(f"ada@{merchant.replace('_', '-')}.example", merchant, PASSWORD)
            fields = {"email": f"ada@{merchant.replace('_', '-')}.example", "password": PASSWORD}
            form = {"Sec-Fetch-Site": "same-origin"}
            assert (await inside.merchant.http.post("/console/login", data=fields, headers=form)).status_code == 303
            pages[merchant] = (await inside.merchant.http.get("/console")).text

    for ours in (unknown["id"], "ours-alone", '<th scope="row">adyen</th>'):
        assert ours in pages["mer_dev"]
        assert ours not in pages["mer_other"]
    assert '<th scope="row">theirs</th>' in pages["mer_other"]
    assert '<th scope="row">theirs</th>' not in pages["mer_dev"]


async def test_somebody_signs_in_changes_the_theme_and_signs_out(
    open_gateway: Open, browser: Browser, window: type[Window], api_port: int
) -> None:
    async with open_gateway(listening=True) as inside:
        url = f"http://127.0.0.1:{api_port}"
        async with window(browser, inside, url).open() as looked:
            page = looked.page
            await page.context.clear_cookies()
            await looked.go("/console/nowhere-yet?days=7")
            assert page.url == f"{url}/console/login?next=/console/nowhere-yet%3Fdays%3D7"
            assert await looked.faults() == []
            await page.get_by_label("Email").fill("ada.mer_dev@example.com")
            await page.get_by_label("Password").fill("wrong password")
            await page.get_by_role("button", name="Sign in").click()
            await expect(page.get_by_role("alert")).to_have_text("The email or the password is wrong.")
            await page.get_by_label("Password").fill("correct horse battery")
            await page.get_by_role("button", name="Sign in").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such page")
            await page.get_by_role("link", name="Overview", exact=True).click()
            await page.get_by_text("ada.mer_dev@example.com").click()
            await page.get_by_role("button", name="Dark").click()
            await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
            dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            await page.get_by_text("ada.mer_dev@example.com").click()
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
            await page.goto(f"{url}/console")
            assert page.url == f"{url}/console/login"

    assert dark == "rgb(14, 17, 22)"
    # Chromium says so of every answer above 399, such as the wrong password's.
    assert [each for each in looked.complaints if "Failed to load resource" not in each] == []
