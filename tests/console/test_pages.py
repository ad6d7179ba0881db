"""The console's pages in a real browser: they run under their policy without a complaint, for everybody, and show what there is."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from playwright.async_api import Browser, expect
from psycopg.types.json import Jsonb

from gateway.console.explorer import EXPLORER
from gateway.console.users import Users
from gateway.console.wording import count, money, percent
from gateway.rate_books import fold

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Kit, Open, Psps
    from tests.console.conftest import Looked, Window

PASSWORD: Final = "correct horse battery"
PROBE: Final = """"><img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>{{7*7}}'"""
"""What a merchant may write wherever the API takes text: it has to stay text."""
VIEWPORTS: Final = {1280: 900, 390: 844}


TOO_WIDE: Final = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("main *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth).map((each) => each.outerHTML.slice(0, 200))"""
"""What makes a page wider than its window. A table scrolls in a frame of its own."""


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
                assert await looked.page.evaluate(TOO_WIDE) == [], where
                looks.append(looked)
        yield looks


async def some_weeks(inside: Inside, flow: type[Kit]) -> None:
    """Payments that somebody made in the last days: approved, declined, recovered by another account, and with probes in every text."""
    texts = {"reference": PROBE, "description": PROBE, "metadata": {"note": PROBE}, "customer": None}
    charges: list[dict[str, Any]] = [{} for _ in range(9)]
    charges += [{"payment_method_data": flow.card("5555555555554444"), "metadata": {"note": "=1+1"}} for _ in range(4)]
    charges += [{"routing": {"account": "adyen"}, "currency": "GBP"} for _ in range(3)]
    charges += [{"payment_method_data": flow.card("4000000000000002", "Ada Lovelace")} for _ in range(3)]
    charges += [{"payment_method_data": flow.card("4000000000009995", "NOT_ENOUGH_BALANCE")} for _ in range(2)]
    charges += [texts | {"payment_method_data": flow.card(holder=PROBE)}]
    for charge in charges:
        assert (await inside.merchant.charge(**charge)).status_code in {201, 402}
    for table, payment in (("payment", "id"), ("operation", "payment_id")):
        inside.database.rows(
            f"UPDATE {table} SET created_at = created_at - (hashtext({payment}) & 7) * interval '1 day' - interval '1 minute'"
        )
    while await fold(inside.house.pool):
        pass


async def told(inside: Inside, metric: str, group_by: str = "", days: int = 30) -> list[dict[str, Any]]:
    """The cells of a rate, as the API tells them, of the days that the page looks at."""
    now = datetime.now(UTC)
    start = (now - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
    answer = await inside.merchant.get(
        f"/v1/metrics/{metric}", **{"from": start.isoformat(), "to": now.isoformat(), "group_by": group_by}
    )
    assert answer.status_code == 200, answer.text
    cells: list[dict[str, Any]] = answer.json()["data"]
    return cells


async def test_the_pages_show_the_numbers_of_the_api_in_every_look(
    open_gateway: Open, psps: Psps, browser: Browser, window: type[Window], flow: type[Kit], api_port: int
) -> None:
    for psp in psps.urls:
        psps.fault(psp, "any", "drop_webhook", times=None)  # what is left open below would not stay so
    async with open_gateway(listening=True) as inside:
        windows = window(browser, inside, f"http://127.0.0.1:{api_port}")
        await some_weeks(inside, flow)
        await leave_open(inside)
        (final,), (first,), (saved,) = [
            await told(inside, each)
            for each in ("payment_authorization_rate", "first_attempt_rate", "recovered_by_cascade")
        ]
        async with every_look(windows, "/console?period=30d", "overview") as looks:
            page = looks[0].page
            figures = await page.locator("dl.figures").inner_text()
            overview = await page.locator("main").inner_text()
            await expect(page.locator("#accounts-chart canvas")).to_be_visible()
            async with page.expect_response("**/console?period=30d") as refreshed:
                await page.evaluate(
                    "htmx.ajax('GET', '/console?period=30d', {source: '#live', target: '#live', select: '#live', swap: 'outerHTML'})"
                )
            assert (await refreshed.value).status == 200
            await expect(page.locator("#accounts-chart canvas")).to_be_visible()
            await page.locator("dl.figures").get_by_role("link", name=percent(first["rate"])).first.click()
            await expect(page.get_by_label("Rate", exact=True)).to_have_value("first_attempt_rate")
            assert looks[0].complaints == []

    assert f"{percent(final['rate'])}" in figures
    assert f"{percent(first['low'])} to {percent(first['high'])}" in figures
    assert f"{count(saved['hits'])} payments, for {saved['extra_attempts']} more attempts" in figures
    for amounts in (final["amounts"], saved["amounts"]):
        for each in amounts:
            if each["hits"]:
                assert money(each["hits"], each["currency"]) in figures
    assert (
        overview.count(PROBE) == 3
    )  # the reference of what is unknown, what was said of it, and the segment that a monitor has found
    for shown in (
        "looked up by the worker",
        "Amount mismatch",
        "19.99\u00a0EUR",
        "10\u202f936.00\u00a0EUR",
        "metadata.shop",
    ):
        assert shown in overview


async def leave_open(inside: Inside) -> None:
    """A payment that nobody knows the end of, an incident, and what a monitor has found, each with a probe in it."""
    inside.database.rows(
        """INSERT INTO monitor_incident (id, merchant_id, livemode, key, monitor_id, also, severity, segment, facts, summary, opened_at,
        noticed_at, updated_at, told_at) VALUES ('mi_1', 'mer_dev', false, 'k', 'mon_1', '{}', 'page', %(segment)s, %(facts)s, 's', now(), now(),
        now(), now())""",
        segment=Jsonb({"account": "stripe", "metadata.shop": PROBE}),
        facts=Jsonb(
            {
                "rate": "acceptance_rate",
                "seen_rate": 0.2,
                "expected_rate": 0.8,
                "n": 87,
                "loss_per_hour": [{"currency": "EUR", "amount": 1_093_600}],
                "child": None,
            }
        ),
    )
    inside.database.rows(
        "UPDATE operation SET status = 'unknown', due_at = now() + interval '1 hour' WHERE id = (SELECT max(o.id) FROM operation o"
        " JOIN payment p ON p.id = o.payment_id WHERE p.reference = %(probe)s)",
        probe=PROBE,
    )
    inside.database.rows(
        "INSERT INTO incident (id, merchant_id, livemode, kind, payment_id, operation_id, account, said, details, created_at)"
        " SELECT 'in_1', 'mer_dev', false, 'amount_mismatch', payment_id, id, 'stripe', %(said)s, '{}', now() FROM operation LIMIT 1",
        said=PROBE,
    )


async def test_the_explorer_shows_the_numbers_of_the_api_and_keeps_what_merchants_write_text(
    open_gateway: Open, browser: Browser, window: type[Window], flow: type[Kit], api_port: int
) -> None:
    async with open_gateway(listening=True) as inside:
        windows = window(browser, inside, f"http://127.0.0.1:{api_port}")
        await some_weeks(inside, flow)
        (whole,) = await told(inside, "attempt_authorization_rate")
        brands = await told(inside, "attempt_authorization_rate", "brand")
        async with every_look(windows, f"{EXPLORER}?by=metadata.note", "authorization") as looks:
            page = looks[0].page
            text, title = await page.locator("main").inner_text(), await page.title()
            images = await page.locator("main img").count()
            for chart in ("#time-chart", "#declines-chart", "[id^=flow-chart]"):
                await expect(page.locator(f"{chart} canvas")).to_be_visible()
            async with page.expect_download() as saving:
                await page.get_by_role("link", name="CSV of the breakdown").click()
            table = list(csv.DictReader(io.StringIO((await (await saving.value).path()).read_text())))
            await page.get_by_role("link", name=PROBE).click()
            await expect(page.get_by_role("link", name=PROBE).first).to_be_visible()
            await page.get_by_role("link", name="remove this filter").click()
            await page.get_by_label("Broken down by").select_option(
                "brand"
            )  # no button: the page is asked for by itself
            await expect(page.get_by_role("heading", name="By brand")).to_be_visible()
            await page.get_by_role("link", name="mastercard").click()
            await expect(page.get_by_role("link", name="Brand: mastercard")).to_be_visible()
            address = page.url
            await expect(page.locator("#time-chart canvas")).to_be_visible()
            assert looks[0].complaints == []
        async with windows.open(java_script_enabled=False) as plain:
            await plain.go(f"{EXPLORER}?by=brand")
            await plain.page.get_by_role("link", name="Show all in one page").first.click()
            await plain.page.get_by_text("The numbers over time").click()
            without = await plain.page.locator("main").inner_text()
            await plain.page.get_by_label("Only where").select_option("brand")
            await plain.page.get_by_label("is", exact=True).fill("visa")
            await plain.page.get_by_role("button", name="Show").click()
            await expect(plain.page.get_by_role("link", name="Brand: visa")).to_be_visible()

    assert (title, images) == ("Authorization · Interlock", 0)
    assert PROBE in text
    assert f"{percent(whole['low'])} to {percent(whole['high'])}, n = {count(whole['n'])} attempts" in text
    assert {row["metadata.note"] for row in table} == {"", PROBE, "'=1+1"}
    assert "filter=brand:mastercard" in address
    for cell in brands:
        assert f"{cell['keys']['brand']}\t{count(cell['n'])}\t{percent(cell['rate'])}" in without
    for shown in ("✓ Recovered", "Insufficient funds", "42424242"):
        assert shown in without


async def test_what_cannot_be_answered_and_what_is_not_there_are_pages_that_say_what_to_do(
    open_gateway: Open, browser: Browser, window: type[Window], api_port: int
) -> None:
    async with open_gateway(listening=True) as inside:
        windows = window(browser, inside, f"http://127.0.0.1:{api_port}")
        async with windows.open(viewport={"width": 390, "height": 844}) as looked:
            await looked.go(EXPLORER)
            assert "Nothing was counted" in await looked.page.locator("main").inner_text()
            assert await looked.faults() == []
            await looked.go("/console")
            assert await looked.faults() == []
            assert looked.complaints == []
            for path, status, says in (
                (f"{EXPLORER}?by=shoe_size", 422, "by has a dimension that is none. There are: account, "),
                (f"{EXPLORER}?metric=luck", 422, "metric must be one of: attempt_authorization_rate, "),
                (f"{EXPLORER}?period=9y", 422, "period must be one of: 24h, 7d, 30d, 90d."),
                (f"{EXPLORER}?filter=visa", 422, "filter has a dimension that is none."),
                (f"{EXPLORER}?by=bin&filter=rule:x&period=90d", 422, "ask for 31 days at most"),
                (f"{EXPLORER}.csv?table=secrets", 422, "table must be one of: time, breakdown, bins, declines."),
                ("/console/nothing", 404, "There is no such page"),
            ):
                answer = await looked.page.goto(f"http://127.0.0.1:{api_port}{path}")
                assert answer is not None
                assert (answer.status, says in await looked.page.locator("main").inner_text()) == (status, True), path
                assert await looked.faults() == []


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

    for ours in (unknown["id"], "ours-alone", ">adyen</a>"):
        assert ours in pages["mer_dev"]
        assert ours not in pages["mer_other"]
    assert ">theirs</a>" in pages["mer_other"]
    assert ">theirs</a>" not in pages["mer_dev"]


async def test_the_overview_shows_the_breakers_of_the_strategies_in_force(
    open_gateway: Open, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    database.publish({"default": {"strategy": "adaptive", "accounts": ["stripe", "adyen"]}})
    async with open_gateway() as inside:
        users = Users(inside.house.pool, inside.house.deps.keys.console)
        await users.create("ada@example.com", "mer_dev", PASSWORD)
        fields, form = {"email": "ada@example.com", "password": PASSWORD}, {"Sec-Fetch-Site": "same-origin"}
        assert (await inside.merchant.http.post("/console/login", data=fields, headers=form)).status_code == 303
        well = (await inside.merchant.http.get("/console")).text
        psps.fault("stripe", "authorize", "status", status=500, times=None)
        for _ in range(12):
            await inside.merchant.charge(routing={"account": "stripe"})

        async def ill() -> bool:
            page = (await inside.merchant.http.get("/console")).text
            return len(re.findall(r"state state-(?:open|probing)", page)) == 1

        await flow.eventually(ill, "one account's breaker is not closed any more")

    assert len(re.findall("state state-closed", well)) == 2


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
            dark = await page.evaluate("getComputedStyle(document.body).color")
            await page.get_by_text("ada.mer_dev@example.com").click()
            await page.get_by_role("link", name="Account").click()
            assert await looked.faults() == []
            await page.get_by_label("Old password").fill("correct horse battery")
            await page.get_by_label("New password").fill("another horse battery")
            await page.get_by_role("button", name="Change it").click()
            await expect(page.get_by_role("status")).to_contain_text("Your password was changed")
            await page.get_by_text("ada.mer_dev@example.com", exact=True).click()
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
            await page.goto(f"{url}/console")
            assert page.url == f"{url}/console/login"

    assert dark == "rgb(232, 235, 241)"
    # Chromium says so of every answer above 399, such as the wrong password's.
    assert [each for each in looked.complaints if "Failed to load resource" not in each] == []
