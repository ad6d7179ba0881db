"""The console's door: who is let in, who is not, and that nobody learns more than that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import argon2
import httpx
import pytest

from gateway.console import commands, passwords, vendoring
from gateway.console.files import Files
from gateway.console.frame import HEADERS, within
from gateway.console.passwords import AT_ONCE, WAITING_MAX, Busy, Passwords
from gateway.console.users import TRIES_MAX, Users, csrf_of
from providers.registry import ConfigError

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Open

ADA: Final = "ada@example.com"
PASSWORD: Final = "correct horse battery"
OURS: Final = {"Sec-Fetch-Site": "same-origin"}
COOKIE: Final = "interlock_session"
TEMPLATES: Final = Path(str(files("gateway.console"))) / "templates"

REAL: Final = argon2.extract_parameters(passwords._HASHER.hash("x"))


def users_of(inside: Inside) -> Users:
    return Users(inside.house.pool, inside.house.deps.keys.console)


async def send(inside: Inside, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
    return await inside.merchant.http.post(f"/console/{path}", data=fields, headers=headers or OURS)


async def login(inside: Inside, password: str = PASSWORD, email: str = ADA, **more: str) -> httpx.Response:
    return await send(inside, "login", {"email": email, "password": password, **more})


async def signed_in(inside: Inside, email: str = ADA, merchant: str = "mer_dev") -> str:
    """A new user, signed in: the token in their browser."""
    await users_of(inside).create(email, merchant, PASSWORD)
    answer = await login(inside, email=email)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console"), answer.text
    return inside.merchant.http.cookies[COOKIE]


async def is_in(inside: Inside, **headers: str) -> bool:
    answer = await inside.merchant.http.get("/console", headers=headers)
    assert answer.status_code in {200, 303, 401}, answer.text
    return answer.status_code == 200


def console_routes(inside: Inside) -> list[tuple[str, str]]:
    app: Any = inside.merchant.http._transport
    return [
        (method, route.path)
        for route in app.app.router.routes
        if route.path.startswith("/console")
        for method in sorted(route.methods - {"HEAD"})
    ]


OPEN: Final = {
    ("GET", "/console/static/{name}"),
    ("GET", "/console/login"),
    ("POST", "/console/login"),
    ("GET", "/console/link/{token}"),
    ("POST", "/console/link"),
    ("POST", "/console/logout"),
    ("POST", "/console/theme"),
}
"""What needs no session: the way in and out, and files that are the same for everybody."""


async def test_without_a_session_every_page_is_the_way_to_the_door(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        await inside.merchant.charged(reference="nobody-sees-this")
        routes = console_routes(inside)
        pages = [path for method, path in routes if (method, path) not in OPEN]
        answer = httpx.Response(500)
        for path in pages:
            asked = path.replace("{path:path}", "payments/pay_1?status=failed")
            answer = await inside.merchant.http.get(asked)
            assert (answer.status_code, answer.content) == (303, b""), path
            assert answer.headers["location"].startswith("/console/login")
            part = await inside.merchant.http.get(asked, headers={"HX-Request": "true"})
            assert (part.status_code, part.content) == (401, b"")
            assert part.headers["hx-redirect"] == answer.headers["location"]

    assert set(routes) > OPEN
    assert len(pages) >= 2
    assert pages[-1] == "/console/{path:path}"
    assert answer.headers["location"] == "/console/login?next=/console/payments/pay_1%3Fstatus%3Dfailed"


async def test_a_session_is_a_cookie_that_scripts_and_other_sites_cannot_use_and_a_hash_here(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        await users_of(inside).create(ADA, "mer_dev", PASSWORD)
        inside.merchant.http.cookies.set(COOKIE, "planted")
        answer = await login(inside)
        cookie = answer.headers["set-cookie"]
        assert await is_in(inside)

    token = re.match(rf"{COOKIE}=([^;]+);", cookie)
    assert token is not None
    assert len(token[1]) == 43  # 256 bits: never the one that was planted
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    (row,) = database.rows("SELECT * FROM console_session")
    assert bytes(row["token_hash"]) == sha256(token[1].encode()).digest()


async def test_behind_https_the_cookie_is_held_to_this_host_and_to_https(open_gateway: Open) -> None:
    async with open_gateway(public_url="https://pay.example.com") as inside:
        await users_of(inside).create(ADA, "mer_dev", PASSWORD)
        answer = await login(inside)

    assert answer.headers["set-cookie"].startswith("__Host-interlock_session=")
    assert "; Secure" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"]


async def test_a_wrong_password_nobody_and_a_disabled_user_are_answered_alike(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        users = users_of(inside)
        for email in (ADA, "gone@example.com"):
            await users.create(email, "mer_dev", PASSWORD)
        await users.disable("gone@example.com")
        answers = [
            await login(inside, "wrong password"),
            await login(inside, PASSWORD, "nobody@example.com"),
            await login(inside, PASSWORD, "gone@example.com"),
            await login(inside, "x" * 5000),
        ]

    assert [answer.status_code for answer in answers] == [401] * 4
    shown = {re.sub(r'value="[^"]*@example.com"', "", answer.text) for answer in answers}
    assert len(shown) == 1
    assert not any("set-cookie" in answer.headers for answer in answers)


async def test_after_ten_wrong_passwords_the_right_one_is_not_tried_either_and_others_still_come_in(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        for email in (ADA, "bob@example.com"):
            await users_of(inside).create(email, "mer_dev", PASSWORD)
        tries = [await login(inside, f"wrong password {number}") for number in range(TRIES_MAX)]
        refused = await login(inside)
        other = await login(inside, email="bob@example.com")
        rows = database.value("SELECT count(*) FROM console_event WHERE kind = 'login_tried'")
        database.rows("UPDATE console_event SET at = at - interval '16 minutes'")
        later = await login(inside)

    assert [answer.status_code for answer in tries] == [401] * TRIES_MAX
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "900")
    assert other.status_code == 303
    assert rows == TRIES_MAX + 1  # what is refused writes nothing
    assert later.status_code == 303


async def test_a_login_that_succeeds_begins_the_count_anew(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        await users_of(inside).create(ADA, "mer_dev", PASSWORD)
        for _ in range(2):
            for _ in range(TRIES_MAX - 1):
                assert (await login(inside, "wrong password")).status_code == 401
            assert (await login(inside)).status_code == 303


def test_passwords_are_hashed_as_rfc_9106_recommends() -> None:
    assert REAL == argon2.profiles.RFC_9106_LOW_MEMORY
    assert REAL.type is argon2.Type.ID


async def test_a_hash_with_weaker_parameters_is_made_anew_when_its_user_signs_in(
    open_gateway: Open, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gateway() as inside:
        await users_of(inside).create(ADA, "mer_dev", PASSWORD)
        before = database.value("SELECT password_hash FROM console_user")
        monkeypatch.setattr(passwords, "_HASHER", argon2.PasswordHasher(1, 16, 1))
        assert (await login(inside)).status_code == 303
        after = database.value("SELECT password_hash FROM console_user")
        assert (await login(inside)).status_code == 303

    assert ("m=8," in before, "m=16," in after) == (True, True)


async def test_more_passwords_than_can_be_hashed_soon_are_refused_at_once() -> None:
    crowded = Passwords()
    crowded._here = AT_ONCE + WAITING_MAX

    with pytest.raises(Busy):
        await crowded.match(None, PASSWORD)


async def test_a_session_ends_when_it_is_idle_old_or_its_user_is_disabled(
    open_gateway: Open, database: Database
) -> None:
    changes = [
        "UPDATE console_session SET seen_at = now() - interval '61 minutes'",
        "UPDATE console_session SET ends_at = now() - interval '1 second'",
        "DELETE FROM console_session",
        "UPDATE console_user SET disabled_at = now()",
    ]
    async with open_gateway() as inside:
        await users_of(inside).create(ADA, "mer_dev", PASSWORD)
        for change in changes:
            assert (await login(inside)).status_code == 303
            database.rows("UPDATE console_session SET seen_at = now() - interval '59 minutes'")
            assert await is_in(inside)
            database.rows(change)
            assert not await is_in(inside), change


async def test_a_page_that_refreshes_itself_keeps_nobody_signed_in(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        await signed_in(inside)
        database.rows("UPDATE console_session SET seen_at = now() - interval '30 minutes'")
        assert await is_in(inside, **{"HX-Request": "true", "HX-Trigger": "live"})
        idle = database.value("SELECT now() - seen_at > interval '29 minutes' FROM console_session")
        assert await is_in(inside)
        seen = database.value("SELECT now() - seen_at < interval '1 minute' FROM console_session")

    assert (idle, seen) == (True, True)


async def test_signing_out_ends_the_session_here_and_not_only_in_the_browser(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        token = await signed_in(inside)
        answer = await send(inside, "logout", {"csrf": csrf_of(token)})
        inside.merchant.http.cookies.set(COOKIE, token)

        assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")
        assert not await is_in(inside)


@pytest.mark.parametrize("end", ["reset", "disable"])
async def test_a_new_password_and_a_disabled_user_end_every_session_and_link(open_gateway: Open, end: str) -> None:
    async with open_gateway() as inside:
        await signed_in(inside)
        users = users_of(inside)
        link = await users.link(ADA)
        if end == "reset":
            await users.set_password(ADA, "another long password")
        else:
            await users.disable(ADA)

        assert not await is_in(inside)
        assert (await send(inside, "link", {"token": link})).status_code == 401
        assert (await login(inside)).status_code == 401


async def test_a_form_is_believed_only_from_our_own_pages(open_gateway: Open) -> None:
    said: list[tuple[dict[str, str], bool]] = [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://gateway"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://gateway"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"X-Nothing": "said"}, False),
    ]
    async with open_gateway() as inside:
        token = await signed_in(inside)
        for headers, believed in said:
            for path, fields in (("theme", {"theme": "dark"}), ("link", {}), ("login", {})):
                answer = await send(inside, path, {"csrf": csrf_of(token), **fields}, **headers)
                assert (answer.status_code != 403) is believed, (path, headers)
            if not believed:
                assert (await send(inside, "logout", {"csrf": csrf_of(token)}, **headers)).status_code == 403
        assert await is_in(inside)


async def test_a_form_of_somebody_signed_in_bears_the_token_of_their_session(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        await signed_in(inside)
        for path in ("logout", "theme", "account"):
            for fields in ({}, {"csrf": ""}, {"csrf": "0" * 32}):
                assert (await send(inside, path, dict(fields))).status_code == 403
        assert await is_in(inside)


async def test_a_new_password_takes_the_old_one_and_signs_out_everybody_else(
    open_gateway: Open, database: Database
) -> None:
    fresh = "another horse battery"

    async def change(inside: Inside, old: str, new: str) -> httpx.Response:
        token = inside.merchant.http.cookies[COOKIE]
        return await send(inside, "account", {"csrf": csrf_of(token), "password": old, "changed": new})

    async with open_gateway() as inside:
        elsewhere = await signed_in(inside)
        link = await users_of(inside).link(ADA)
        inside.merchant.http.cookies.clear()
        assert (await login(inside)).status_code == 303
        here = inside.merchant.http.cookies[COOKIE]
        refused = [
            (await change(inside, old, new)).status_code
            for old, new in ((fresh, fresh + "!"), (PASSWORD, "too short"), (PASSWORD, PASSWORD), ("", fresh))
        ]
        before = database.value("SELECT password_hash FROM console_user")
        done = await change(inside, PASSWORD, fresh)
        told = (await inside.merchant.http.get(done.headers["location"])).text
        token = inside.merchant.http.cookies[COOKIE]
        ended = [await is_in(inside, Cookie=f"{COOKIE}={each}") for each in (elsewhere, here)]
        inside.merchant.http.cookies.clear()
        by_link = await send(inside, "link", {"token": link})
        passwords_ = [(await login(inside, each)).status_code for each in (PASSWORD, fresh)]
        tries = [(await change(inside, "wrong", PASSWORD)).status_code for _ in range(TRIES_MAX + 1)]

    assert refused == [401, 422, 422, 401]
    assert (done.status_code, token not in {elsewhere, here}) == (303, True)
    assert "Your password was changed" in told
    assert database.value("SELECT password_hash FROM console_user") != before
    assert ended == [False, False]
    assert by_link.status_code == 401
    assert passwords_ == [401, 303]
    assert tries == [401] * TRIES_MAX + [429]
    assert database.value("SELECT count(*) FROM console_event WHERE kind = 'password_set' AND address IS NOT NULL") == 1


async def test_a_link_signs_in_once_and_only_its_button_uses_it_up(open_gateway: Open, database: Database) -> None:
    async with open_gateway() as inside:
        users = users_of(inside)
        await users.create(ADA, "mer_dev", None)
        link = await users.link(ADA)
        page = await inside.merchant.http.get(f"/console/link/{link}")
        unknown = await inside.merchant.http.get("/console/link/nothing")
        first = await send(inside, "link", {"token": link})
        assert await is_in(inside)
        second = await send(inside, "link", {"token": link})
        late = await users.link(ADA)
        database.rows("UPDATE console_link SET ends_at = now() - interval '1 second'")

        assert (first.status_code, second.status_code) == (303, 401)
        assert (await send(inside, "link", {"token": late})).status_code == 401
        assert (await login(inside, "")).status_code == 401  # a user without a password has none, not an empty one
    assert page.text == unknown.text.replace("nothing", link)


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/console\\..\\x",
        "/consoles",
        "javascript:1",
        "",
        "/v1/x",
        "/console/\n",
    ],
)
def test_nobody_is_sent_elsewhere_after_signing_in(elsewhere: str) -> None:
    assert within(elsewhere) == "/console"


async def test_one_comes_back_to_the_page_that_was_asked_for(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        await users_of(inside).create(ADA, "mer_dev", PASSWORD)
        answer = await login(inside, next="/console/x?days=7")

        assert answer.headers["location"] == "/console/x?days=7"


async def test_a_link_from_elsewhere_asks_again_from_here_so_that_the_cookie_comes_along(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        answer = await inside.merchant.http.get("/console/x?a=%22%3E", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 200
    assert 'content="0; url=/console/x?a=%22%3E"' in answer.text


async def test_every_answer_says_what_may_run_and_that_it_is_not_kept(open_gateway: Open) -> None:
    async with open_gateway() as inside:
        http = inside.merchant.http
        strangers = [await http.get(path) for path in ("/console", "/console/login", "/console/link/x", "/console/x")]
        failed = await send(inside, "login", {}, Origin="https://evil.example")
        await signed_in(inside)
        ours = [await http.get(path) for path in ("/console", "/console/nothing")]
        static = await http.get(Files().url("console.css"))
        packed = await http.get(Files().url("vendor/htmx.min.js"), headers={"Accept-Encoding": "gzip"})
        missing = await http.get("/console/static/..%2f..%2fsettings.py")

    for answer in (*strangers, failed, *ours, missing):
        assert {name: answer.headers[name.lower()] for name in HEADERS} == dict(HEADERS), answer.url
    assert [answer.status_code for answer in (failed, *ours, missing)] == [403, 200, 404, 404]
    assert static.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert static.headers["content-type"].startswith("text/css")
    assert packed.headers["content-encoding"] == "gzip"
    assert b"htmx" in packed.content


@pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.iterdir()))
def test_no_template_holds_what_the_policy_forbids(template: str) -> None:
    text = (TEMPLATES / template).read_text(encoding="utf-8")

    assert re.findall(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son[a-z]+=|javascript:|\|\s*safe|https?://", text) == []


async def test_what_happens_at_the_door_is_kept_and_what_was_typed_is_not(
    open_gateway: Open, database: Database
) -> None:
    async with open_gateway() as inside:
        token = await signed_in(inside)
        await login(inside, "typed password", "typed@example.com")
        users = users_of(inside)
        await send(inside, "link", {"token": await users.link(ADA)})
        await users.set_password(ADA, "another long password")
        await users.disable(ADA)
        kinds = [row["kind"] for row in database.rows("SELECT kind FROM console_event ORDER BY at, id")]
        dump = str(database.rows("SELECT u.*, e.*, s.* FROM console_event e LEFT JOIN console_user u ON u.id = e.user_id "
                                 "LEFT JOIN console_session s ON s.user_id = u.id"))  # fmt: skip

    assert kinds == [
        "user_created", "login_tried", "login_succeeded", "login_tried", "link_made", "link_used", "password_set", "user_disabled",
    ]  # fmt: skip
    assert "typed" not in dump
    assert PASSWORD not in dump
    assert token not in dump
    assert "$argon2id$" in dump


async def test_a_console_that_is_switched_off_is_not_there(open_gateway: Open) -> None:
    async with open_gateway(console=False) as inside:
        answers = [await inside.merchant.http.get(path) for path in ("/console", "/console/login")]

        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 2


# --- The command line ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(configuration: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The environment that the commands read."""

    def told(**changes: str) -> None:
        for name, value in configuration.environment(configuration.accounts(), **changes).items():
            monkeypatch.setenv(name, value)

    return told


async def test_users_are_made_listed_given_a_new_password_and_let_in_no_more(
    shell: Callable[..., None], open_gateway: Open
) -> None:
    shell()
    said, shown, _ = await commands.create(" Ada@Example.com ", "mer_dev", None)
    async with open_gateway() as inside:
        assert (await login(inside, shown.removeprefix("password: "))).status_code == 303
        (line,) = await commands.listed()
        renewed = await commands.reset(ADA, "another long password")
        assert not await is_in(inside)
        disabled = [await commands.disable(ADA), await commands.disable(ADA)]
        assert (await login(inside, "another long password")).status_code == 401
        (after,) = await commands.listed()

    assert said == f"user {ADA} may look at mer_dev"
    assert line.startswith(f"{ADA}  mer_dev  created ")
    assert "signed in, last seen" in line
    assert len(renewed) == 1  # a password that was typed is not shown
    assert disabled[0] == disabled[1]
    assert "disabled 20" in after


@pytest.mark.parametrize(
    ("email", "merchant", "password", "says"),
    [
        ("ada", "mer_dev", PASSWORD, "the email is none"),
        ("a b@example.com", "mer_dev", PASSWORD, "the email is none"),
        (
            ADA,
            "mer_nobody",
            PASSWORD,
            "there is no merchant mer_nobody; make it with: gateway merchants create mer_nobody",
        ),
        (ADA, "mer_dev", "short", "a password has 12 to 256 characters"),
        ("there@example.com", "mer_dev", PASSWORD, "there is a user there@example.com already"),
    ],
)
async def test_a_user_that_cannot_be_is_refused_with_the_way_out(
    shell: Callable[..., None], email: str, merchant: str, password: str, says: str
) -> None:
    shell()
    await commands.create("there@example.com", "mer_dev", PASSWORD)

    with pytest.raises(ConfigError, match=says):
        await commands.create(email, merchant, password)


async def test_links_are_for_development_and_for_users_that_there_are(shell: Callable[..., None]) -> None:
    shell()
    await commands.create(ADA, "mer_dev", PASSWORD)
    address, _ = await commands.link("ADA@example.com")
    with pytest.raises(ConfigError, match=r"there is no user bob@example\.com"):
        await commands.link("bob@example.com")
    shell(GATEWAY_DEV="0")
    with pytest.raises(ConfigError, match="links are for development"):
        await commands.link(ADA)

    assert re.fullmatch(r"http://127.0.0.1:8080/console/link/[\w-]{43}", address)


# --- Vendored files -----------------------------------------------------------------------------------------------------


def test_the_vendored_files_are_the_ones_of_the_manifest_and_each_has_its_licence() -> None:
    manifest = json.loads((vendoring.FOLDER / vendoring.MANIFEST).read_text())
    written = {name: digest for each in manifest for name, digest in each["sha256"].items()}
    there = {path.name: sha256(path.read_bytes()).hexdigest() for path in vendoring.FOLDER.iterdir()}
    del there[vendoring.MANIFEST]

    assert there == written
    assert [(each["package"], each["version"]) for each in manifest] == [
        (wanted.package, wanted.version) for wanted in vendoring.WANTED
    ]
    assert all(any("LICENSE" in name for name in each["sha256"]) for each in manifest)
