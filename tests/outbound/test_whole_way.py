"""The whole way: an endpoint made by the API, a payment, and the worker's request that proves itself to the merchant's server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Merchant, Processes
    from tests.outbound.conftest import Heard, Receiver

ENDPOINTS: Final = "/v1/webhook_endpoints"
ALWAYS: Final = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "dry_run": False}


def signed_by(heard: Heard, *secrets: str) -> list[bool]:
    """Which secrets a request proves to be signed with, as the library that merchants use sees it."""

    def proved(secret: str) -> bool:
        try:
            Webhook(secret).verify(heard.body, dict(heard.headers))
        except WebhookVerificationError:
            return False
        return True

    return [proved(secret) for secret in secrets]


async def posted(merchant: Merchant, path: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await merchant.post(path, fields)
    assert answer.status_code in {200, 201}, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def hears(receiver: Receiver, flow: type[Kit], number: int, path: str = "/hooks") -> list[Heard]:
    await flow.eventually(lambda: len(receiver.at(path)) >= number, f"{path} heard {number} times")
    return receiver.at(path)


async def test_what_the_api_was_told_is_what_the_merchant_hears(
    processes: Processes, receiver: Receiver, flow: type[Kit], database: Database
) -> None:
    broken = True

    async def sometimes(_: web.Request) -> web.Response:
        return web.Response(status=500 if broken else 200, text="Something broke, whsec_not_for_you")

    receiver.answers["/hooks"] = sometimes
    server, _ = processes.server().start(), processes.worker()
    async with server.merchant() as merchant:
        post = partial(posted, merchant)
        heard = partial(hears, receiver, flow)
        endpoint = await post(ENDPOINTS, {"url": receiver.url(), "events": ["payment.*"]})
        path = f"{ENDPOINTS}/{endpoint['id']}"
        paid = await merchant.charged()
        (first, *_) = await heard(1)

        async def noted() -> bool:
            shown = (await merchant.get(f"{path}/deliveries")).json()["data"][0]
            return bool(shown["tries"] and shown["last_attempt"]["status"] == 500)

        await flow.eventually(noted, "the failure was written down")
        (failing,) = (await merchant.get(f"{path}/deliveries", status="pending")).json()["data"]
        sick = (await merchant.get(path)).json()
        rotated = await post(f"{path}/rotate_secret")
        broken = False
        database.rows("UPDATE delivery SET due_at = now() + interval '5 hours' WHERE status = 'pending'")
        before = len(receiver.at("/hooks"))
        replayed = await post(f"{path}/replay", ALWAYS)
        again = (await heard(before + 1))[-1]

        async def healthy() -> bool:
            return (await merchant.get(path)).json()["failing_since"] is None

        await flow.eventually(healthy, "the success was written down")
        test = await post(f"{path}/test")
        told = (await heard(before + 2))[-1]
        later = await post(ENDPOINTS, {"url": receiver.url("/later")})
        await post(f"/v1/events/{failing['event']}/redeliver", {"endpoint": later["id"]})
        (elsewhere,) = await heard(1, "/later")
        await post(path, {"status": "disabled"})
        await merchant.charged()
        await heard(2, "/later")
        event = await merchant.get(f"/v1/events/{failing['event']}")
        tries = (await merchant.get(f"/v1/events/{failing['event']}/deliveries")).json()["data"]

    assert (failing["payment"], failing["type"]) == (paid["id"], "payment.succeeded")
    assert failing["last_attempt"]["excerpt"].startswith("Something broke")
    assert "whsec_not_for_you" not in failing["last_attempt"]["excerpt"]
    assert sick["failed_events"] == 1
    assert replayed["events"] == 1
    assert first.event_id == again.event_id == elsewhere.event_id == failing["event"]
    assert first.body == again.body == elsewhere.body == event.content
    old, new = endpoint["secret"], rotated["secret"]
    assert signed_by(first, old, new) == [True, False]
    assert signed_by(again, old, new, later["secret"]) == [True, True, False]
    assert signed_by(elsewhere, old, later["secret"]) == [False, True]
    assert (told.event_id, signed_by(told, new)) == (test["id"], [True])
    assert len(receiver.at("/hooks")) == before + 2
    by_endpoint = {each["endpoint"]: [one["status"] for one in each["attempts"]] for each in tries}
    assert by_endpoint == {endpoint["id"]: [*[500] * before, 200], later["id"]: [200]}
