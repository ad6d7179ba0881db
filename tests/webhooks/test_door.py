"""The door: what is forged, stale, foreign, huge, compressed or unreadable is refused, with the right word, and leaves nothing behind.

Each case speaks of a payment whose outcome is unknown, and says that it was approved: were it believed, the payment would say so.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from pydantic import SecretStr

from providers.contract import WebhookRefused, fingerprint_of
from providers.registry import AccountConfig, load_accounts
from providers.sandbox.signatures import adyen_signature, stripe_signature
from providers.transport import Transport
from webhooks.refusals import REASONS
from webhooks.router import BODY_MAX

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Kit, Open, Psps

at_each = pytest.mark.parametrize("psp", ["stripe", "adyen"])

OLD, NEW = "whsec_before_the_rotation", "whsec_after_the_rotation"
OLD_KEY, NEW_KEY = "AB" * 32, "CD" * 32
MORE: Final = """
[accounts.stripe_unproved]
merchant = "mer_dev"
provider = "stripe"
api_key_env = "FLOWS_STRIPE_API_KEY"

[accounts.adyen_unproved]
merchant = "mer_dev"
provider = "adyen"
api_key_env = "FLOWS_ADYEN_API_KEY"
merchant_account = "FlowsECOM"

[accounts.stripe_of_another]
merchant = "mer_other"
provider = "stripe"
api_key_env = "FLOWS_STRIPE_API_KEY"
webhook_secret_env = "DOOR_STRIPE_SECRETS"

[accounts.adyen_of_another]
merchant = "mer_other"
provider = "adyen"
api_key_env = "FLOWS_ADYEN_API_KEY"
hmac_key_env = "DOOR_ADYEN_KEYS"
merchant_account = "AnotherECOM"

[accounts.adyen_guarded]
merchant = "mer_dev"
provider = "adyen"
api_key_env = "FLOWS_ADYEN_API_KEY"
hmac_key_env = "FLOWS_ADYEN_HMAC_KEY"
merchant_account = "FlowsECOM"
webhook_basic_auth_env = "DOOR_PASSWORDS"
"""


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch) -> str:
    """Accounts beside the usual two: without a secret, of another merchant, with a password, with two secrets."""
    monkeypatch.setenv("DOOR_STRIPE_SECRETS", f"{NEW}, {OLD}")
    monkeypatch.setenv("DOOR_ADYEN_KEYS", f"{NEW_KEY},{OLD_KEY}")
    monkeypatch.setenv("DOOR_PASSWORDS", "hook:new pass,hook:old:pass")
    return MORE


# --- Cases ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One request to the door, and what has to come of it."""

    name: str
    body: bytes
    reason: str | None
    headers: Any = field(default_factory=dict)
    account: str | None = None
    stored: int = 0
    streamed: bool = False

    @property
    def content(self) -> bytes | AsyncIterator[bytes]:
        """Its body; in parts without a length in front where it is ``streamed``."""
        return _parts(self.body) if self.streamed else self.body


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 16_384):
        yield body[at : at + 16_384]


@dataclass
class Psp:
    """How one PSP writes and signs what says that ``operation`` was approved."""

    name: str
    operation: str
    flow: type[Kit]
    numbers: int = 0

    def number(self) -> str:
        self.numbers += 1
        return f"door{self.numbers}"

    def sign(self, body: bytes, *, age_s: int = 0) -> dict[str, str]:
        return self.flow.signed(body, age_s=age_s) if self.name == "stripe" else {}

    def good(self, **changes: Any) -> bytes:
        """An authentic body, each time of another event."""
        if self.name == "adyen":
            return batch(self.item(**changes))
        event = json.loads(self.flow.stripe_event(self.operation, number=self.number()))
        return json.dumps(event | {"livemode": False} | changes).encode()

    def item(self, *, key: str | None = None, more: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        plain = {
            "eventCode": "AUTHORISATION",
            "success": "true",
            "pspReference": self.number(),
            "merchantReference": self.operation,
            "merchantAccountCode": self.flow.MERCHANT_ACCOUNT,
            "amount": {"value": 1999, "currency": "EUR"},
            "eventDate": "2026-11-21T09:30:00+01:00",
        } | changes
        signature = adyen_signature(plain, key or self.flow.SECRETS["FLOWS_ADYEN_HMAC_KEY"])
        captured = {"metadata.capture_method": "automatic"}
        return plain | {"additionalData": {"hmacSignature": signature, **captured, **(more or {})}}


def batch(*items: Any, live: Any = "false") -> bytes:
    entries = [{"NotificationRequestItem": item} for item in items]
    return json.dumps({"live": live, "notificationItems": entries}).encode()


def without(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != name}


def shown(item: Mapping[str, Any], signature: Any) -> dict[str, Any]:
    return {**item, "additionalData": {**item["additionalData"], "hmacSignature": signature}}


def bodies(psp: Psp) -> Iterable[Case]:
    """Bodies that cannot be read, or in two ways: signed as if the PSP had sent them, where a body is what is signed."""
    told = {"unreadable": "unreadable", "no text": "signature" if psp.name == "stripe" else "unreadable"}
    extra = b', "extra": %s}'
    good = psp.good
    texts = {
        "empty": b"",
        "a blank": b" ",
        "no json": b"not json",
        "null": b"null",
        "a number": b"7",
        "a text": b'"evt_1"',
        "an array": b"[]",
        "an empty object": b"{}",
        "an array of a good one": b"[" + good() + b"]",
        "two good ones": good() + good(),
        "a good one cut off": good()[:-2],
        "trailing garbage": good() + b"x",
        "a comment": good() + b"// x",
        "a byte order mark": b"\xef\xbb\xbf" + good(),
        "single quotes": good().replace(b'"', b"'"),
        "very deep": b"[" * 20_000,
        "very deep and closed": b"[" * 20_000 + b"]" * 20_000,
        "a deep part": good()[:-1] + extra % (b"[" * 5_000 + b"]" * 5_000),
        "NaN": good()[:-1] + extra % b"NaN",
        "Infinity": good()[:-1] + extra % b"Infinity",
        "minus Infinity": good()[:-1] + extra % b"-Infinity",
        "a key twice": good()[:-1] + extra % b'{"a": 1, "a": 2}',
        "the same key twice at the top": good()[:-1] + b', "extra": 1, "extra": 1}',
        "half a character": good()[:-1] + extra % b'"\\ud800"',
    }
    for name, text in texts.items():
        yield Case(name, text, told["unreadable"], psp.sign(text))
    garbled = {
        "no utf-8": good() + b"\xff\xfe",
        "no utf-8 within": good()[:-1] + extra % b'"\xc3\x28"',
        "utf-16": good().decode().encode("utf-16"),
        "gzip that does not say so": gzip.compress(good()),
    }
    for name, text in garbled.items():
        yield Case(name, text, told["no text"], psp.flow.signed(b"x") if psp.name == "stripe" else {})


def envelopes(psp: Psp) -> Iterable[Case]:
    """What is refused before anything is read, and what stands in the address."""
    for coding in ("gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "identity, gzip", "compress"):
        body = psp.good()
        packed = zlib.compress(body) if coding == "deflate" else gzip.compress(body)
        yield Case(f"packed: {coding}", packed, "encoded", psp.sign(body) | {"Content-Encoding": coding})
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < BODY_MAX
    yield Case("a gzip bomb", bomb, "encoded", psp.sign(bomb) | {"Content-Encoding": "gzip"})
    huge = psp.good()[:-1] + b', "extra": "' + b"x" * BODY_MAX + b'"}'
    yield Case("too large", huge, "too_large", psp.sign(huge))
    yield Case("too large, without a length", huge, "too_large", psp.sign(huge), streamed=True)
    spaces = b" " * (BODY_MAX + 1)
    yield Case("one byte too many", spaces, "too_large", psp.sign(spaces))
    yield Case("one byte too many, without a length", spaces, "too_large", psp.sign(spaces), streamed=True)
    body = psp.good()
    for name in ("nobody", "x" * 5_000, "%00", "STRIPE", "stripe%20", "stripe%0A"):
        yield Case(f"an address of nobody: {name[:10]}", body, "unknown_account", psp.sign(body), name)
    yield Case("an account without a secret", body, "no_secret", psp.sign(body), f"{psp.name}_unproved")
    yield Case("the account of another merchant", body, "signature", psp.sign(body), f"{psp.name}_of_another")


def stripe_signatures(psp: Psp) -> Iterable[Case]:
    """Signatures of every wrong sort."""
    now, secret = int(time.time()), psp.flow.SECRETS["FLOWS_STRIPE_WEBHOOK_SECRET"]
    body = psp.good()
    (right,) = psp.sign(body).values()
    hexed = right.partition("v1=")[2]
    headers: dict[str, str | bytes] = {
        "empty": "",
        "a word": "hello",
        "only a time": f"t={now}",
        "only a signature": f"v1={hexed}",
        "the old scheme": f"t={now},v0={hexed}",
        "no names": f"{now},{hexed}",
        "commas": ",,,,",
        "equal signs": "t==,v1==",
        "cut off": right[:-1],
        "capitals": right.upper(),
        "another time": f"t={now + 1},v1={hexed}",
        "no number for a time": f"t=now,v1={hexed}",
        "a broken number": f"t={now}.5,v1={hexed}",
        "an endless time": f"t={'9' * 3_000},v1={hexed}",
        "more digits than are read": f"t={'9' * 4_000},v1={hexed[:50]}",
        "a time below zero": f"t=-{now},v1={hexed}",
        "the wrong time first": f"t=1,t={now},v1={hexed}",
        "not ascii": f"t={now},v1=é".encode(),
        "no utf-8": b"t=1,v1=\xff\xfe",
        "ten thousand signatures": f"t={now}" + ",v1=0" * 10_000,
        "a long one": f"t={now},v1=" + "0" * 60_000,
        "another secret": stripe_signature(body, "whsec_other", now),
        "no secret": stripe_signature(body, "", now),
        "the prefix alone": stripe_signature(body, "whsec_", now),
        "another case": stripe_signature(body, secret.upper(), now),
        "of another body": stripe_signature(psp.good(), secret, now),
        "of the body alone": f"t={now}," + stripe_signature(body, secret, 0).partition(",")[2],
    }
    for name, header in headers.items():
        yield Case(f"signature: {name}", body, "signature", {"Stripe-Signature": header})
    yield Case("no header", body, "signature")
    yield Case("another header", body, "signature", {"X-Stripe-Signature": right})
    yield Case(
        "the wrong one of two", body, "signature", [("Stripe-Signature", "t=1,v1=0"), ("Stripe-Signature", right)]
    )
    for name, changed in {
        "the amount": body.replace(b"1999", b"9999"),
        "the id": body.replace(b"evt_", b"evt-"),
        "a blank behind it": body + b" ",
        "a blank before it": b" " + body,
        "written anew": json.dumps(json.loads(body), indent=1).encode(),
    }.items():
        yield Case(f"changed: {name}", changed, "signature", {"Stripe-Signature": right})


def stripe_events(psp: Psp) -> Iterable[Case]:
    """Signed with the right secret: at the wrong time, or an event that is none, or of somewhere else."""
    now, body = int(time.time()), psp.good()
    for name, age_s, reason in (
        ("a bit too old", 310, "stale"),
        ("an hour old", 3_600, "stale"),
        ("of 1970", now, "stale"),
        ("a bit ahead", -330, "future"),
        ("an hour ahead", -3_600, "future"),
        ("of the next millennium", -(10**12), "future"),
        ("of no time there is", -(10**300), "future"),
    ):
        yield Case(name, body, reason, psp.sign(body, age_s=age_s))
    for name, changes, reason in (
        ("of live", {"livemode": True}, "another_mode"),
        ("of a connected account", {"account": "acct_1"}, "another_account"),
        ("no mode at all", {"livemode": "no"}, "unreadable"),
        ("no event", {"object": "charge"}, "unreadable"),
        ("no type", {"type": None}, "unreadable"),
        ("an empty id", {"id": ""}, "unreadable"),
        ("a null character", {"type": "payment_intent\0.succeeded"}, "unreadable"),
        ("an id without end", {"id": "evt_" + "x" * 10_000}, "unreadable"),
        ("a type without end", {"type": "x" * 10_000}, "unreadable"),
    ):
        signed = psp.good(**changes)
        yield Case(name, signed, reason, psp.sign(signed))
    theirs = batch({"eventCode": "AUTHORISATION"})
    yield Case("another provider's", theirs, "unreadable", psp.sign(theirs))


def adyen_signatures(psp: Psp) -> Iterable[Case]:
    """Items whose proof is missing, wrong, or of something else."""
    good = psp.item()
    tampered = good | {"amount": {"value": 1, "currency": "EUR"}}
    data = good["additionalData"]
    items: dict[str, Any] = {
        "no additional data": without(good, "additionalData"),
        "additional data that is null": good | {"additionalData": None},
        "no signature": good | {"additionalData": without(data, "hmacSignature")},
        "an empty signature": shown(good, ""),
        "a null": shown(good, None),
        "a list": shown(good, [data["hmacSignature"]]),
        "an object": shown(good, {"v": data["hmacSignature"]}),
        "a number": shown(good, 7),
        "true": shown(good, True),
        "not ascii": shown(good, "é"),
        "a null character": shown(good, data["hmacSignature"] + "\0"),
        "cut off": shown(good, data["hmacSignature"][:-1]),
        "small letters": shown(good, data["hmacSignature"].lower()),
        "in hex": shown(good, base64.b64decode(data["hmacSignature"]).hex()),
        "a long one": shown(good, "A" * 100_000),
        "another key": psp.item(key="EF" * 32),
        "no key": psp.item(key="00" * 32),
        "another amount": tampered,
        "another currency": good | {"amount": {"value": 1999, "currency": "USD"}},
        "no amount": without(good, "amount"),
        "another reference": good | {"merchantReference": f"{psp.operation}0"},
        "another psp reference": good | {"pspReference": "OTHER"},
        "another event": good | {"eventCode": "CAPTURE"},
        "another success": good | {"success": "false"},
        "an original": good | {"originalReference": "OTHER"},
        "a moved colon": good | {"pspReference": good["pspReference"] + ":", "originalReference": ""},
    }
    for name, item in items.items():
        yield Case(f"item: {name}", batch(item), "signature")
    yield Case("the second of two", batch(psp.item(), tampered), "signature")
    yield Case("the first of two", batch(tampered, psp.item()), "signature")
    yield Case("the third of three", batch(psp.item(), psp.item(), tampered), "signature")
    yield Case("the second without one", batch(psp.item(), without(good, "additionalData")), "signature")
    thousand = [psp.item() for _ in range(500)]
    yield Case("the 501st", batch(*thousand, tampered), "signature")


def adyen_items(psp: Psp) -> Iterable[Case]:
    """Items of another account or mode, and what is no item."""
    good = psp.item()
    for name, item in {
        "another account": psp.item(merchantAccountCode="SomebodyElse"),
        "capitals": psp.item(merchantAccountCode=psp.flow.MERCHANT_ACCOUNT.upper()),
        "no account": psp.item(merchantAccountCode=""),
    }.items():
        yield Case(f"merchant account: {name}", batch(item), "another_account")
        yield Case(f"merchant account of the second: {name}", batch(psp.item(), item), "another_account")
    for live in ("true", True):
        yield Case(f"live: {live!r}", batch(psp.item(), live=live), "another_mode")
    for name, body in {
        "live: maybe": batch(psp.item(), live="maybe"),
        "live: a number": batch(psp.item(), live=1),
        "no items": batch(),
        "an item that is null": batch(None),
        "an item that is a list": batch([]),
        "an item that is a text": batch("x"),
        "items that are null": b'{"live": "false", "notificationItems": null}',
        "items that are an object": b'{"live": "false", "notificationItems": {}}',
        "an entry without its item": b'{"live": "false", "notificationItems": [{}]}',
        "an amount that is a number": batch(good | {"amount": 1999}),
        "an amount that is a list": batch(good | {"amount": [1999]}),
        "no psp reference": batch(without(good, "pspReference")),
        "a psp reference that is a number": batch(good | {"pspReference": 7}),
        "no event code": batch(without(good, "eventCode")),
        "no merchant account": batch(without(good, "merchantAccountCode")),
        "additional data that is a text": batch(good | {"additionalData": "x"}),
        "a null character in the code": batch(psp.item(eventCode="AUTH\0")),
        "a code without end": batch(psp.item(eventCode="X" * 1_000)),
        "another provider's": psp.flow.stripe_event(psp.operation),
    }.items():
        yield Case(name, body, "unreadable")


def adyen_passwords(psp: Psp) -> Iterable[Case]:
    """An account that asks for a password, and requests without the right one."""
    for name, header in {
        "no password": None,
        "another password": "hook:other",
        "another user": "other:new pass",
        "no colon": "hook",
        "both in one": "hook:new pass,hook:old:pass",
    }.items():
        written = {} if header is None else {"Authorization": "Basic " + base64.b64encode(header.encode()).decode()}
        yield Case(f"password: {name}", batch(psp.item()), "basic_auth", written, "adyen_guarded")
    for name, written_so in {
        "not in base64": "Basic hook:new pass",
        "another scheme": "Bearer " + base64.b64encode(b"hook:new pass").decode(),
        "without end": "Basic " + "A" * 10_000,
        "empty": "",
    }.items():
        yield Case(f"password: {name}", batch(psp.item()), "basic_auth", {"Authorization": written_so}, "adyen_guarded")


Cases = Callable[[Psp], Iterable[Case]]
COMMON: Final[tuple[Cases, ...]] = (bodies, envelopes)
SPECIAL: Final[Mapping[str, tuple[Cases, ...]]] = {
    "stripe": (stripe_signatures, stripe_events),
    "adyen": (adyen_signatures, adyen_items, adyen_passwords),
}


async def _unknown(inside: Inside, psps: Psps, psp: str) -> dict[str, Any]:
    """A payment that nobody knows the outcome of: it waits for a webhook that says it."""
    psps.fault(psp, "authorize", "garbage")
    psps.fault(psp, "authorize", "drop_webhook")
    answer = await inside.merchant.charge(routing={"account": psp})
    assert answer.status_code == 202, answer.text
    unknown: dict[str, Any] = answer.json()
    return unknown


@at_each
async def test_nothing_comes_in_but_what_is_authentic_readable_and_ours(
    psp: str,
    open_gateway: Open,
    api_port: int,
    database: Database,
    psps: Psps,
    flow: type[Kit],
    more: str,
    proved: Callable[[str], None],
) -> None:
    wrong: dict[str, Any] = {}
    async with (
        open_gateway(more=more, listening=True) as inside,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{api_port}", timeout=60) as http,
    ):
        unknown = await _unknown(inside, psps, psp)
        (operation,) = database.operations(unknown["id"])
        writer = Psp(psp, operation["id"], flow)
        cases = [case for cases in (*COMMON, *SPECIAL[psp]) for case in cases(writer)]
        assert len({case.name for case in cases}) == len(cases)
        for case in cases:
            path = f"/v1/webhooks/{case.account or psp}"
            answer = await http.post(path, content=case.content, headers=case.headers)
            told = REASONS[case.reason or ""]
            if (answer.status_code, answer.json()["code"]) != (told.status, told.code):
                wrong[case.name] = (case.reason, answer.status_code, answer.text)
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
            answer = await http.request(method, f"/v1/webhooks/{psp}")
            if answer.status_code != 405:
                wrong[method] = answer.status_code
        assert wrong == {}
        stored = database.value("SELECT count(*) FROM webhook_inbox")
        await flow.eventually(
            lambda: database.value("SELECT coalesce(sum(refused), 0) FROM webhook_refusal") == len(cases),
            "every refusal was counted",
        )
        after = await inside.merchant.payment(unknown["id"])
        counted = {
            row["reason"]: row["n"]
            for row in database.rows("SELECT reason, sum(refused)::int AS n FROM webhook_refusal GROUP BY reason")
        }
        good = writer.good()
        believed = await http.post(f"/v1/webhooks/{psp}", content=good, headers=writer.sign(good))
        await flow.eventually(lambda: _all_applied(database), "the good one was applied")
        settled = await inside.merchant.payment(unknown["id"])

    assert (stored, after) == (0, unknown)
    assert sum(counted.values()) == len(cases) >= 60
    assert (believed.status_code, settled["status"]) == (200, "succeeded")
    proved(f"the door, {psp}: {len(cases) + 6} bad requests, 0 stored, 0 applied, {len(counted)} reasons counted")


def _all_applied(database: Database) -> bool:
    counts = database.rows("SELECT count(*) AS all, count(applied_at) AS applied FROM webhook_inbox")[0]
    return bool(counts["all"] == counts["applied"] > 0)


async def test_a_flood_of_forgeries_is_a_row_a_minute(
    open_gateway: Open, database: Database, flow: type[Kit], more: str
) -> None:
    began = time.time() // 60
    async with open_gateway(more=more) as inside:
        for _ in range(5):
            answers = await asyncio.gather(
                *(inside.merchant.http.post("/v1/webhooks/stripe", content=b"{}") for _ in range(100))
            )
            assert {answer.status_code for answer in answers} == {401}
        written = database.value("SELECT count(*) FROM webhook_refusal")
    minutes = int(time.time() // 60 - began) + 1

    rows = database.rows("SELECT account, reason, refused FROM webhook_refusal")
    assert written <= len(rows) <= minutes
    assert {(row["account"], row["reason"]) for row in rows} == {("stripe", "signature")}
    assert sum(row["refused"] for row in rows) == 500


# --- Who may come in --------------------------------------------------------------------------------------------------


@at_each
async def test_every_secret_that_is_configured_is_good_and_the_log_says_which_it_was(
    psp: str, open_gateway: Open, database: Database, flow: type[Kit], more: str
) -> None:
    writer = Psp(psp, "att_1", flow)
    proofs = {}
    async with open_gateway(more=more) as inside:
        for secret in (OLD, NEW) if psp == "stripe" else (OLD_KEY, NEW_KEY):
            if psp == "stripe":
                body = writer.good()
                headers = {"Stripe-Signature": stripe_signature(body, secret, int(time.time()))}
            else:
                body, headers = batch(writer.item(key=secret, merchantAccountCode="AnotherECOM")), {}
            answer = await inside.merchant.http.post(f"/v1/webhooks/{psp}_of_another", content=body, headers=headers)
            assert answer.status_code == 200, answer.text
            proofs[fingerprint_of(secret)] = database.value(
                "SELECT proved_by FROM webhook_inbox ORDER BY id DESC LIMIT 1"
            )

    assert len(proofs) == 2
    assert all(told == secret for told, secret in proofs.items())


@pytest.mark.parametrize("password", ["hook:new pass", "hook:old:pass"])
@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
async def test_a_password_is_asked_for_beside_the_signature(
    password: str, scheme: str, open_gateway: Open, database: Database, flow: type[Kit], more: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("DOOR_PASSWORDS", "hook:new pass,hook:old:pass")
    written = {"Authorization": f"{scheme} {base64.b64encode(password.encode()).decode()}"}
    async with open_gateway(more=more) as inside:
        body = batch(Psp("adyen", "att_1", flow).item())
        let_in = await inside.merchant.http.post("/v1/webhooks/adyen_guarded", content=body, headers=written)
        forged = await inside.merchant.http.post(
            "/v1/webhooks/adyen_guarded", content=body.replace(b"1999", b"2999"), headers=written
        )

    assert (let_in.status_code, forged.status_code) == (200, 401)
    assert database.value("SELECT count(*) FROM webhook_inbox") == 1


@pytest.mark.parametrize(
    ("environment", "live", "refused"),
    [("test", False, None), ("test", True, "another_mode"), ("live", True, None), ("live", False, "another_mode")],
)
@at_each
def test_an_account_hears_of_its_own_mode_alone(
    psp: str, environment: Any, live: Any, refused: str | None, flow: type[Kit]
) -> None:
    secret = "whsec_x" if psp == "stripe" else flow.SECRETS["FLOWS_ADYEN_HMAC_KEY"]
    config = AccountConfig(
        name="door",
        merchant="mer_dev",
        provider=psp,
        api_key=SecretStr("rk_live_x" if environment == "live" and psp == "stripe" else "x"),
        webhook_secrets=(SecretStr(secret),),
        merchant_account=flow.MERCHANT_ACCOUNT if psp == "adyen" else None,
        environment=environment,
        live_prefix="prefix" if psp == "adyen" else None,
    )
    account = load_accounts([config], Transport())["door"]
    writer = Psp(psp, "att_1", flow)
    body = writer.good(livemode=live) if psp == "stripe" else batch(writer.item(), live=str(live).lower())
    headers = {"Stripe-Signature": stripe_signature(body, secret, int(time.time()))} if psp == "stripe" else {}

    if refused is None:
        assert account.verify_webhook(headers, body) == fingerprint_of(secret)
    else:
        with pytest.raises(WebhookRefused) as told:
            account.verify_webhook(headers, body)
        assert told.value.reason == refused


# --- What is authentic is stored once ---------------------------------------------------------------------------------


@at_each
async def test_a_hundred_at_once_are_one(
    psp: str, open_gateway: Open, api_port: int, database: Database, psps: Psps, flow: type[Kit]
) -> None:
    async with (
        open_gateway((psp,), listening=True) as inside,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{api_port}", timeout=60) as http,
    ):
        unknown = await _unknown(inside, psps, psp)
        (operation,) = database.operations(unknown["id"])
        writer = Psp(psp, operation["id"], flow)
        body = writer.good()
        answers = await asyncio.gather(
            *(http.post(f"/v1/webhooks/{psp}", content=body, headers=writer.sign(body)) for _ in range(100))
        )
        await flow.eventually(lambda: _all_applied(database), "it was applied")
        settled = await inside.merchant.payment(unknown["id"])
        late = await http.post(f"/v1/webhooks/{psp}", content=body, headers=writer.sign(body))

    assert {answer.status_code for answer in answers} == {200} == {late.status_code}
    (row,) = database.rows("SELECT result, tries, payment_id FROM webhook_inbox")
    assert (row["result"], row["tries"], row["payment_id"]) == ("applied", 1, unknown["id"])
    assert settled["status"] == "succeeded"
    changes = database.value("SELECT count(*) FROM change WHERE source = 'webhook'")
    assert changes == 1


async def test_an_event_that_only_names_its_object_is_kept_and_acknowledged(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    """A thin event of Stripe's: refused, it would come again for three days, and the endpoint be switched off."""
    thin = {
        "id": "evt_test_65R9",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "livemode": False,
        "created": "2026-11-21T06:20:52.246Z",
        "context": None,
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
        "reason": None,
    }
    body, writer = json.dumps(thin).encode(), Psp("stripe", "att_1", flow)
    async with open_gateway() as inside:
        answer = await inside.merchant.http.post("/v1/webhooks/stripe", content=body, headers=writer.sign(body))
        await flow.eventually(lambda: _all_applied(database), "it was looked at")
        of_live = json.dumps(thin | {"livemode": True}).encode()
        refused = await inside.merchant.http.post("/v1/webhooks/stripe", content=of_live, headers=writer.sign(of_live))

    assert (answer.status_code, refused.status_code) == (200, 401)
    (row,) = database.rows("SELECT event_id, type, result FROM webhook_inbox")
    assert dict(row) == {"event_id": thin["id"], "type": thin["type"], "result": "kept"}


async def test_a_batch_of_a_thousand_is_a_thousand_events_and_no_more_bytes_than_came(
    open_gateway: Open, database: Database, flow: type[Kit]
) -> None:
    writer = Psp("adyen", "order-of-another-shop", flow)
    items = [without(writer.item(eventCode="REPORT_AVAILABLE"), "eventDate") for _ in range(700)]
    body = json.dumps(json.loads(batch(*items, items[0])), separators=(",", ":")).encode()
    assert 200_000 < len(body) < BODY_MAX
    async with open_gateway() as inside:
        answer = await inside.merchant.http.post("/v1/webhooks/adyen", content=body)
        await flow.eventually(lambda: _all_applied(database), "all were applied")
        one = database.rows("SELECT * FROM webhook_inbox ORDER BY id DESC LIMIT 1")[0]
        sealed = bytes(one["sealed_body"])
        alone = inside.house.deps.keys.sealer.open(sealed, "adyen", "webhook")
        again = await inside.merchant.http.post("/v1/webhooks/adyen", content=alone)

    assert (answer.status_code, answer.text, again.status_code) == (200, "[accepted]", 200)
    count, total, kept = database.rows(
        "SELECT count(*), sum(body_bytes) AS came, sum(octet_length(sealed_body)) AS kept FROM webhook_inbox"
    )[0].values()
    assert count == 700
    assert len(body) * 0.9 < total < kept < len(body) * 2
    assert len(alone) == one["body_bytes"]


async def test_a_body_that_does_not_come_is_not_waited_for_long(
    open_gateway: Open, api_port: int, database: Database
) -> None:
    """It drips, a byte a second: a limit on each read alone would wait for ever."""
    async with open_gateway(listening=True):
        reader, writer = await asyncio.open_connection("127.0.0.1", api_port)
        writer.write(b"POST /v1/webhooks/stripe HTTP/1.1\r\nHost: gateway\r\nContent-Length: 2000\r\n\r\n")

        async def drip() -> None:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(1)

        dripping = asyncio.create_task(drip())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()
        await writer.wait_closed()

    assert answer.split()[1] == b"408"
    assert database.value("SELECT reason FROM webhook_refusal") == "too_slow"
    assert database.value("SELECT count(*) FROM webhook_inbox") == 0
