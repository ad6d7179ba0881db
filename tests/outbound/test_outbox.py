"""The sender, on a real database and real receivers: what is sent, to whom, how often, and what is written of it."""

from __future__ import annotations

import asyncio
import hmac
import time
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway import backlog
from gateway.metrics.work import WorkInstruments
from webhooks import egress, outbox
from webhooks.egress import Reply, Unreached
from webhooks.outbox import FRESH_MAX, SCHEDULE_S, after, notice, pause_of
from webhooks.signing import Secret, Secrets, new_secret

if TYPE_CHECKING:
    from tests.conftest import Database, Kit, Open
    from tests.outbound.conftest import Kitchen, OpenSender, Post, Receiver

NOW: Final = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def replied(status: int, retry_after: str | None = None) -> Reply:
    return Reply(status, "", 1, retry_after)


# --- What comes of a try ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_is_a_success(status: int) -> None:
    assert after(3, replied(status), NOW, 0.5) == outbox.After("succeeded")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (replied(301), "redirect"), (replied(302), "redirect"), (replied(307), "redirect"), (replied(304), "redirect"),
        (replied(199), "status"), (replied(400), "status"), (replied(401), "status"), (replied(404), "status"),
        (replied(500), "status"), (replied(503), "status"), (Unreached("timeout"), "timeout"), (Unreached("tls"), "tls"),
    ],
)  # fmt: skip
def test_anything_else_is_tried_again_by_the_schedule_and_then_given_up(reply: Reply | Unreached, error: str) -> None:
    tries = [after(number, reply, NOW, 0.5) for number in range(len(SCHEDULE_S))]

    assert [each.due_s for each in tries] == pytest.approx([*SCHEDULE_S[1:], None])
    assert [each.status for each in tries] == ["pending"] * (len(SCHEDULE_S) - 1) + ["failed"]
    assert {each.error for each in tries} == {error}
    assert after(99, reply, NOW, 0.5).status == "failed"


def test_the_schedule_is_that_of_the_specification() -> None:
    assert SCHEDULE_S == (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


@pytest.mark.parametrize(("draw", "factor"), [(0.0, 0.8), (0.25, 0.9), (1.0, 1.2)])
def test_a_wait_is_up_to_a_fifth_shorter_or_longer(draw: float, factor: float) -> None:
    assert after(1, replied(500), NOW, draw).due_s == pytest.approx(300 * factor)


def test_gone_ends_the_delivery_and_the_endpoint() -> None:
    assert after(0, replied(410), NOW, 0.5) == outbox.After("canceled", error="gone", gone=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120), (" 7 ", 7), ("999999999999", 86400), ("0", None), ("-5", None), ("1.5", None), ("soon", None), ("", None),
        ("٣", None), (None, None), (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW + timedelta(days=3), usegmt=True), 86400), (format_datetime(NOW - timedelta(seconds=1), usegmt=True), None),
        ("Sun, 22 Nov 2026 12:01:00 -0000", 60), ("Sun, 99 Nov 2026 12:01:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date_and_a_day_at_most(text: str | None, seconds: float | None) -> None:
    assert pause_of(text, NOW) == seconds


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_receiver_is_left_alone_for_as_long_as_it_asks_and_never_for_less_than_the_schedule(status: int) -> None:
    long, short = after(0, replied(status, "600"), NOW, 0.5), after(1, replied(status, "1"), NOW, 0.5)

    assert (long.pause_s, long.due_s) == (600, 600)
    assert (short.pause_s, short.due_s) == (1, 300)


@pytest.mark.parametrize("status", [400, 500, 302])
def test_no_other_answer_pauses_anything(status: int) -> None:
    assert after(0, replied(status, "600"), NOW, 0.5).pause_s is None


DAY: Final = 86_400


@pytest.mark.parametrize(
    ("failing_s", "events", "given", "due"),
    [
        (DAY - 1, 99, 0, None), (DAY, 1, 0, (1, False)), (DAY, 1, 1, None), (3 * DAY, 1, 1, (2, False)), (3 * DAY, 1, 0, (2, False)),
        (5 * DAY, 19, 2, (3, False)), (5 * DAY, 19, 3, None), (5 * DAY, 20, 2, (3, True)), (5 * DAY, 20, 3, (3, True)),
        (5 * DAY - 1, 999, 2, None),
    ],
)  # fmt: skip
def test_a_merchant_is_told_on_three_days_and_switched_off_after_five_with_twenty_events(
    failing_s: float, events: int, given: int, due: tuple[int, bool] | None
) -> None:
    found = notice(failing_s, events, given)

    assert (found and (found.number, found.disables)) == due


# --- What is sent ------------------------------------------------------------------------------------------------------------


def verified(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """As the specification says it, and with no code of ours."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = b64encode(hmac.new(b64decode(secret.removeprefix("whsec_")), signed, "sha256").digest()).decode()
    return any(each == f"v1,{expected}" for each in headers["webhook-signature"].split(" "))


async def test_what_is_sent_are_the_stored_bytes_signed_with_every_live_secret(
    sending: OpenSender, post: Post, receiver: Receiver
) -> None:
    old, dead = new_secret(), new_secret()
    secrets = Secrets((Secret(new_secret()), Secret(old, time.time() + 600), Secret(dead, time.time() - 1)))
    endpoint = post.endpoint(receiver.url(), secrets=secrets)
    event = post.event(endpoint)

    async with sending() as sender:
        assert await sender.round() == 1
        assert await sender.round() == 0

    (heard,) = receiver.heard
    headers = {name.lower(): value for name, value in heard.headers.items()}
    assert heard.body == post.body(event)
    assert headers["webhook-id"] == event
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "Interlock-Webhooks/1"
    assert len(headers["webhook-signature"].split(" ")) == 2
    assert [verified(headers, heard.body, each) for each in (secrets.newest.secret, old, dead)] == [True, True, False]
    delivery, (tried,) = post.delivery(endpoint, event), post.tries(endpoint, event)
    assert (delivery["status"], delivery["tries"], delivery["due_at"]) == ("succeeded", 1, None)
    assert delivery["delivered_at"] is not None
    assert (tried["status"], tried["error"], tried["excerpt"]) == (200, None, "ok")
    assert sender.tried == ["succeeded"]
    assert len(sender.waited) == 1


async def test_a_failure_is_tried_again_with_the_same_id_and_bytes_and_another_time(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen]
) -> None:
    receiver.answers["/hooks"] = kitchen.answering(500)
    endpoint = post.endpoint(receiver.url())
    event = post.event(endpoint)

    async with sending() as sender:
        for number, base in enumerate(SCHEDULE_S[1:], 1):
            assert await sender.round() == 1
            delivery = post.delivery(endpoint, event)
            assert (delivery["status"], delivery["tries"]) == ("pending", number)
            assert 0.8 * base - 60 < delivery["due_s"] <= 1.2 * base
            assert await sender.round() == 0, "it is not due yet"
            post.due_now()
        assert await sender.round() == 1
        post.due_now()
        assert await sender.round() == 0

    delivery = post.delivery(endpoint, event)
    assert (delivery["status"], delivery["tries"], delivery["due_at"]) == ("failed", len(SCHEDULE_S), None)
    assert len(receiver.heard) == len(SCHEDULE_S)
    assert {(each.event_id, each.body) for each in receiver.heard} == {(event, post.body(event))}
    assert [each["status"] for each in post.tries(endpoint, event)] == [500] * len(SCHEDULE_S)
    assert sender.tried == ["again"] * (len(SCHEDULE_S) - 1) + ["failed"]


async def test_a_redirect_is_a_failure_and_nobody_goes_there(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen]
) -> None:
    receiver.answers["/hooks"] = kitchen.answering(302, Location=receiver.url("/elsewhere"))
    endpoint = post.endpoint(receiver.url())
    event = post.event(endpoint)

    async with sending() as sender:
        await sender.round()

    assert [each.path for each in receiver.heard] == ["/hooks"]
    assert post.tries(endpoint, event)[0]["error"] == "redirect"
    assert post.status(endpoint, event) == "pending"


async def test_nobody_listening_is_noted_in_a_word(sending: OpenSender, post: Post, kitchen: type[Kitchen]) -> None:
    async with kitchen.listening() as gone:
        url = gone.url()
    endpoint = post.endpoint(url)
    event = post.event(endpoint)

    async with sending() as sender:
        await sender.round()

    (tried,) = post.tries(endpoint, event)
    assert (tried["status"], tried["error"]) == (None, "not_connected")


async def test_an_endpoint_whose_secrets_do_not_open_is_sent_nothing_unsigned(
    sending: OpenSender, post: Post, receiver: Receiver
) -> None:
    endpoints = [post.endpoint(receiver.url(), sealed_secrets=sealed) for sealed in (None, b"broken")]
    event = post.event(*endpoints)

    async with sending() as sender:
        assert await sender.round() == 2

    assert receiver.heard == []
    assert {post.tries(each, event)[0]["error"] for each in endpoints} == {"not_signed"}


# --- To whom -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["disabled", "deleted"])
async def test_an_endpoint_that_is_switched_off_gets_nothing_and_what_was_on_its_way_is_canceled(
    status: str, sending: OpenSender, post: Post, receiver: Receiver
) -> None:
    endpoint, other = post.endpoint(receiver.url(), status=status), post.endpoint(receiver.url("/other"))
    event = post.event(endpoint, other)

    async with sending() as sender:
        assert await sender.round() == 1
        assert await sender.outbox.call_off() == 1
        assert await sender.outbox.call_off() == 0

    assert [each.path for each in receiver.heard] == ["/other"]
    assert (post.status(endpoint, event), post.status(other, event)) == ("canceled", "succeeded")


async def test_gone_switches_the_endpoint_off_at_once_and_the_others_are_told(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen]
) -> None:
    receiver.answers["/hooks"] = kitchen.answering(410)
    endpoint, other = post.endpoint(receiver.url()), post.endpoint(receiver.url("/other"))
    picky = post.endpoint(receiver.url("/picky"), events=["payment.succeeded"])
    of_others = post.endpoint(receiver.url("/of_others"), merchant_id="mer_else")
    live = post.endpoint(receiver.url("/live"), livemode=True)
    event, waiting = post.event(endpoint), post.event()
    post.database.rows(
        "INSERT INTO delivery VALUES (%(endpoint)s, %(event)s, 'pending', 3, now() + interval '1 hour', now(), NULL)",
        endpoint=endpoint,
        event=waiting,
    )

    async with sending() as sender:
        assert await sender.round() == 1
        assert await sender.round() == 1
        assert await sender.round() == 0

    standing = post.standing(endpoint)
    assert (standing["status"], standing["disabled_reason"]) == ("disabled", "gone")
    assert {post.status(endpoint, each) for each in (event, waiting)} == {"canceled"}
    (told,) = receiver.at("/other")
    body = orjson.loads(told.body)
    assert (body["type"], body["payment"], body["sequence"]) == ("webhook_endpoint.disabled", None, None)
    assert (body["data"]["id"], body["data"]["status"], body["data"]["disabled_reason"]) == (
        endpoint,
        "disabled",
        "gone",
    )
    assert "secret" not in told.body.decode()
    assert {each.path for each in receiver.heard} == {"/hooks", "/other"}
    assert {post.standing(each)["status"] for each in (other, picky, of_others, live)} == {"enabled"}


async def test_an_endpoint_that_asks_for_a_pause_gets_it_and_nothing_is_lost(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen]
) -> None:
    receiver.answers["/hooks"] = kitchen.answering(429, Retry_After="600")
    endpoint = post.endpoint(receiver.url())
    event = post.event(endpoint)

    async with sending() as sender:
        await sender.round()
        assert 500 < post.standing(endpoint)["paused_s"] <= 600
        assert post.delivery(endpoint, event)["due_s"] > 500
        late = post.event(endpoint)
        post.due_now()
        assert await sender.round() == 0
        del receiver.answers["/hooks"]
        post.database.rows("UPDATE webhook_endpoint SET paused_until = now()")
        assert await sender.round() == 2

    assert {post.status(endpoint, each) for each in (event, late)} == {"succeeded"}


async def test_failures_are_counted_by_events_and_a_success_wipes_the_slate(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen]
) -> None:
    receiver.answers["/hooks"] = kitchen.answering(500)
    endpoint = post.endpoint(receiver.url())
    events = [post.event(endpoint) for _ in range(3)]

    async with sending() as sender:
        await sender.round()
        began = post.standing(endpoint)["failing_since"]
        post.due_now()
        for _ in events:
            await sender.round()
        failing = post.standing(endpoint)
        post.database.rows("UPDATE webhook_endpoint SET notices = 2")
        del receiver.answers["/hooks"]
        post.due_now()
        await sender.round()

    assert began is not None
    assert (failing["failing_since"], failing["failed_events"]) == (began, 3)
    better = post.standing(endpoint)
    assert (better["failing_since"], better["failed_events"], better["notices"]) == (None, 0, 0)


async def test_a_merchant_is_told_of_an_endpoint_that_fails_and_in_the_end_it_is_switched_off(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen]
) -> None:
    receiver.answers["/hooks"] = kitchen.answering(500)
    endpoint, _other = post.endpoint(receiver.url()), post.endpoint(receiver.url("/other"))
    waiting = post.event(endpoint)

    def age(days: float, events: int) -> None:
        post.database.rows(
            "UPDATE webhook_endpoint SET failing_since = now() - make_interval(secs => %(age)s), failed_events = %(events)s"
            " WHERE id = %(id)s",
            age=days * DAY + 1,
            events=events,
            id=endpoint,
        )

    told = []
    async with sending() as sender:
        for days, events in ((0.9, 99), (1, 99), (1, 99), (3, 99), (5, 19), (5, 19), (5, 20), (9, 99)):
            age(days, events)
            assert sum(await asyncio.gather(*(sender.outbox.notify() for _ in range(3)))) in {0, 1}, "told once"
            receiver.heard.clear()
            await sender.round()
            told += [orjson.loads(each.body) for each in receiver.at("/other")]
        await sender.outbox.call_off()

    assert [each["type"].rpartition(".")[2] for each in told] == ["failing", "failing", "failing", "disabled"]
    assert len({each["id"] for each in told}) == 4
    assert told[-1]["data"]["disabled_reason"] == "failing"
    standing = post.standing(endpoint)
    assert (standing["status"], standing["disabled_reason"]) == ("disabled", "failing")
    assert post.status(endpoint, waiting) == "canceled"
    assert post.database.value("SELECT count(*) FROM event WHERE type LIKE 'webhook_endpoint.%%'") == 4


async def test_what_an_address_could_not_take_that_was_left_meanwhile_goes_to_the_new_one_at_once(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen], flow: type[Kit]
) -> None:
    """Whoever moves away has the old address say that it is gone, or busy, while a try to it is under way."""
    moved = asyncio.Event()

    def late(status: int, **headers: str) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            await moved.wait()
            return await kitchen.answering(status, **headers)(request)

        return answer

    receiver.answers |= {"/gone": late(410), "/busy": late(503, Retry_After="86400"), "/broken": late(500)}
    receiver.answers["/new"] = kitchen.answering(200)
    endpoints = [post.endpoint(receiver.url(path)) for path in ("/gone", "/busy", "/broken")]
    event = post.event(*endpoints)
    async with sending() as sender:
        assert await sender.outbox.send_due() == 3
        await flow.eventually(lambda: len(receiver.heard) == 3, "all were asked")
        post.database.rows("UPDATE webhook_endpoint SET url = %(url)s", url=receiver.url("/new"))
        moved.set()
        await sender.outbox.idle()
        left = [post.status(each, event) for each in endpoints]
        assert await sender.outbox.send_due() == 3
        await sender.outbox.idle()

    assert left == ["pending"] * 3
    assert [post.status(each, event) for each in endpoints] == ["succeeded"] * 3
    standing = [post.standing(each) for each in endpoints]
    assert [(each["status"], each["paused_until"], each["failing_since"]) for each in standing] == [
        ("enabled", None, None)
    ] * 3
    assert [len(post.tries(each, event)) for each in endpoints] == [2, 2, 2]


async def test_endpoints_that_failed_long_ago_do_not_stand_before_one_of_which_a_notice_is_due(
    sending: OpenSender, post: Post, receiver: Receiver
) -> None:
    long_ago, yesterday = datetime.now(UTC) - timedelta(days=90), datetime.now(UTC) - timedelta(days=1, seconds=1)
    for _ in range(outbox.NOTICES_MAX + 1):
        post.endpoint(receiver.url(), failing_since=long_ago, failed_events=1, notices=3)
    new = post.endpoint(receiver.url(), failing_since=yesterday, failed_events=1)

    async with sending() as sender:
        assert await sender.outbox.notify() == 1
        assert await sender.outbox.notify() == 0

    assert post.standing(new)["notices"] == 1


# --- In what order, and how much at a time -----------------------------------------------------------------------------------


async def test_an_endpoint_has_few_tries_at_a_time_and_one_lane_for_those_that_failed_before(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen]
) -> None:
    release = asyncio.Event()

    async def waiting(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers["/hooks"] = waiting
    endpoint = post.endpoint(receiver.url())
    for _ in range(10):
        post.event(endpoint)
    post.database.rows("UPDATE delivery SET tries = 1, due_at = now() - interval '1 hour'")
    fresh = {post.event(endpoint) for _ in range(10)}

    async with sending() as sender:
        assert await sender.outbox.send_due() == FRESH_MAX + 1
        assert await sender.outbox.send_due() == 0
        deadline = time.monotonic() + 30
        while len(receiver.heard) < FRESH_MAX + 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        first = {each.event_id for each in receiver.heard}
        release.set()
        await sender.outbox.idle()
        while await sender.round():
            pass

    assert len(first & fresh) == FRESH_MAX
    assert receiver.most["/hooks"] == FRESH_MAX + 1
    assert post.count("status = 'succeeded'") == 20


async def test_any_number_of_hanging_endpoints_leaves_room_for_those_that_work(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen]
) -> None:
    receiver.answers["/slow"] = kitchen.hanging
    began = datetime.now(UTC)
    for _ in range(60):
        post.event(post.endpoint(receiver.url("/slow"), failing_since=began, failed_events=1))
    post.database.rows(
        "INSERT INTO delivery SELECT w.id, e.id, 'pending', 0, now(), now() FROM webhook_endpoint w, event e"
        " ON CONFLICT DO NOTHING"
    )
    async with sending() as sender:
        assert await sender.outbox.send_due() == outbox.FAILING_MAX
        held = {each.endpoint_id for each in sender.outbox._held.values()}
        assert len(held) == outbox.FAILING_MAX, "one each, before any has two"
        well = post.endpoint(receiver.url("/well"))
        event = post.event(well)
        assert await sender.outbox.send_due() == 1
        deadline = time.monotonic() + 30
        while post.status(well, event) != "succeeded":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        for task in sender.outbox._trying:
            task.cancel()
        await asyncio.gather(*sender.outbox._trying, return_exceptions=True)


async def test_one_that_failed_once_does_not_wait_until_those_that_hang_have_nothing_left(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen], flow: type[Kit], monkeypatch: Any
) -> None:
    monkeypatch.setattr(egress, "TOTAL_S", 0.2)
    receiver.answers["/slow"] = kitchen.hanging
    began = datetime.now(UTC)
    for _ in range(outbox.FAILING_MAX + 5):
        post.endpoint(receiver.url("/slow"), failing_since=began, failed_events=1)
    for _ in range(100):
        post.event()
    post.database.rows(
        "INSERT INTO delivery SELECT w.id, e.id, 'pending', 0, now() - interval '1 hour', now() FROM webhook_endpoint w, event e"
    )
    once = post.endpoint(receiver.url("/once"), failing_since=began, failed_events=1, id="we_z")
    retried, fresh = post.event(once), post.event(once)
    post.database.rows("UPDATE delivery SET tries = 1 WHERE event_id = %(id)s", id=retried)

    async with sending() as sender, kitchen.running(sender.outbox):
        await flow.eventually(
            lambda: {post.status(once, each) for each in (retried, fresh)} == {"succeeded"}, "it had its turn"
        )
        assert post.count("status = 'pending' AND tries = 0") > 1000

    assert post.standing(once)["failing_since"] is None


# --- Leases ------------------------------------------------------------------------------------------------------------------


async def test_two_senders_never_hold_the_same_delivery_and_a_lease_is_renewed_while_a_try_lasts(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen], flow: type[Kit]
) -> None:
    release = asyncio.Event()

    async def waiting(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers["/hooks"] = waiting
    endpoint = post.endpoint(receiver.url())
    event = post.event(endpoint)
    async with sending() as one, sending() as two, kitchen.running(one.outbox), kitchen.running(two.outbox):
        await flow.eventually(lambda: len(receiver.heard) == 1, "it was sent")
        first = post.delivery(endpoint, event)["due_at"]
        await flow.eventually(lambda: post.delivery(endpoint, event)["due_at"] > first, "its lease was renewed")
        second = post.delivery(endpoint, event)["due_at"]
        await flow.eventually(lambda: post.delivery(endpoint, event)["due_at"] > second, "and again")
        release.set()
        await flow.eventually(lambda: post.status(endpoint, event) == "succeeded", "it was noted")

    assert len(receiver.heard) == 1


async def test_whoever_lost_the_lease_does_not_overwrite_what_came_later(
    sending: OpenSender, post: Post, receiver: Receiver, flow: type[Kit]
) -> None:
    """The first sender is frozen over its lease; the second one's success stands, and the first one's failure is nothing."""
    release, first = asyncio.Event(), [True]

    async def answer(_: web.Request) -> web.Response:
        if first:
            first.clear()
            await release.wait()
            return web.Response(status=500)
        return web.Response()

    receiver.answers["/hooks"] = answer
    endpoint = post.endpoint(receiver.url())
    event = post.event(endpoint)
    async with sending() as slow, sending() as quick:
        assert await slow.outbox.send_due() == 1
        await flow.eventually(lambda: bool(receiver.heard), "it was sent")
        post.due_now()
        assert await slow.outbox.send_due() == 0, "its own it does not begin again"
        post.due_now()
        assert await quick.round() == 1
        release.set()
        await slow.outbox.idle()

    assert (slow.tried, quick.tried) == (["overtaken"], ["succeeded"])
    assert post.status(endpoint, event) == "succeeded"
    assert post.standing(endpoint)["failing_since"] is None
    assert [each["status"] for each in post.tries(endpoint, event)] == [200]


async def test_a_sender_that_is_stopped_lets_its_tries_end_and_leaves_the_rest_to_their_lease(
    sending: OpenSender, post: Post, receiver: Receiver, kitchen: type[Kitchen], flow: type[Kit]
) -> None:
    async def slowly(_: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response()

    receiver.answers |= {"/slow": slowly, "/never": kitchen.hanging}
    slow, never = post.endpoint(receiver.url("/slow")), post.endpoint(receiver.url("/never"))
    event = post.event(slow, never)
    async with sending() as sender:
        running = asyncio.create_task(sender.outbox.run())
        await flow.eventually(lambda: len(receiver.heard) == 2, "both were sent")
        late = post.event(slow)
        sender.outbox.stop()
        sender.outbox.stop()
        await running
        assert sender.outbox._trying == set()

    assert post.status(slow, event) == "succeeded"
    assert (post.status(never, event), post.delivery(never, event)["tries"]) == ("pending", 0)
    assert (post.status(slow, late), len(receiver.heard)) == ("pending", 2)


async def test_what_was_being_claimed_when_the_sender_is_stopped_is_sent(
    sending: OpenSender, post: Post, receiver: Receiver
) -> None:
    endpoint = post.endpoint(receiver.url())
    event = post.event(endpoint)
    claiming, stopped = asyncio.Event(), asyncio.Event()
    async with sending() as sender:
        fetch = sender.pool.fetch

        async def slowly(query: str, *args: Any) -> Any:
            rows = await fetch(query, *args)
            if not claiming.is_set():
                claiming.set()
                await stopped.wait()
            return rows

        sender.outbox._pool = SimpleNamespace(fetch=slowly)
        running = asyncio.create_task(sender.outbox.run())
        await claiming.wait()
        sender.outbox.stop()
        stopped.set()
        await running

    assert post.status(endpoint, event) == "succeeded"
    assert len(receiver.heard) == 1


# --- What an operator sees ---------------------------------------------------------------------------------------------------


async def test_the_backlog_tells_how_much_waits_and_how_long_and_blames_no_endpoint_that_fails_by_itself(
    open_gateway: Open, post: Post, receiver: Receiver
) -> None:
    sick = post.endpoint(receiver.url("/sick"), failing_since=datetime.now(UTC))
    event = post.event(sick, post.endpoint(receiver.url("/off"), status="disabled"))
    again = post.endpoint(receiver.url("/again"))
    post.event(again)
    post.database.rows("UPDATE delivery SET tries = 1 WHERE endpoint_id = %(id)s", id=again)
    post.database.rows("UPDATE delivery SET due_at = now() - interval '1 hour'")

    async with open_gateway() as inside:
        told = WorkInstruments(CollectorRegistry())
        looking = backlog.Backlog(inside.house.pool, told, ())

        async def seen() -> tuple[float, float]:
            await looking.look()
            return told.deliveries_pending._value.get(), told.deliveries_overdue_seconds._value.get()

        assert await seen() == (3, 0)
        post.database.rows("UPDATE webhook_endpoint SET failing_since = NULL WHERE id = %(id)s", id=sick)
        assert (await seen())[1] > 3599
        await inside.house.outbox.send_due()
        await inside.house.outbox.idle()
        assert post.status(sick, event) == "succeeded"
        assert await seen() == (1, 0)
        counted = inside.house.registry.get_sample_value("interlock_webhook_deliveries_total", {"result": "succeeded"})
        waited = inside.house.registry.get_sample_value("interlock_webhook_first_try_seconds_count")

    assert (counted, waited) == (2, 1)


async def test_ever_so_many_deliveries_of_one_that_fails_do_not_hide_that_another_waits(
    open_gateway: Open, post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "COUNTED_MAX", 5)
    sick = post.endpoint(receiver.url("/sick"), failing_since=datetime.now(UTC), id="we_0")
    for _ in range(9):
        post.event(sick)
    post.event(post.endpoint(receiver.url("/well"), id="we_1"))
    post.database.rows("UPDATE delivery SET due_at = now() - interval '1 hour'")

    async with open_gateway() as inside:
        told = WorkInstruments(CollectorRegistry())
        await backlog.Backlog(inside.house.pool, told, ()).look()

    assert told.deliveries_overdue_seconds._value.get() > 3599


# --- Old events --------------------------------------------------------------------------------------------------------------


async def test_events_are_kept_for_thirty_days_and_then_deleted_with_all_that_belongs_to_them(
    sending: OpenSender, post: Post, receiver: Receiver, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH", 2)
    endpoint = post.endpoint(receiver.url())
    events = [post.event(endpoint) for _ in range(9)]
    async with sending() as sender:
        while await sender.round():
            pass
        for event, days in zip(events, (31, 31, 31, 31, 31, 30.1, 29.9, 1, 0), strict=True):
            at_ms = int((time.time() - days * DAY) * 1000)
            for table, column in (("event", "id"), ("delivery", "event_id"), ("delivery_attempt", "event_id")):
                database.rows(
                    f"UPDATE {table} SET {column} = %(aged)s WHERE {column} = %(id)s",
                    aged=f"evt_{at_ms:012x}{event[16:]}",
                    id=event,
                )
        database.rows(
            "UPDATE event SET created_at = to_timestamp(('x' || substr(id, 5, 12))::bit(48)::bigint / 1000.0)"
        )
        assert await sender.outbox.prune() == 6
        assert await sender.outbox.prune() == 0

    counts: dict[str, Any] = {
        table: database.value(f"SELECT count(*) FROM {table}") for table in ("event", "delivery", "delivery_attempt")
    }
    assert counts == {"event": 3, "delivery": 3, "delivery_attempt": 3}
