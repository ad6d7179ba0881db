"""An outcome that nobody knows is settled: by the same key, a look-up, a webhook, or a person. Never by guessing."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import generate_latest

from gateway.payment import OperationStatus
from gateway.settle import call_of
from providers.contract import Unknown

if TYPE_CHECKING:
    from tests.conftest import Database, Inside, Kit, Open, Psps

AT_EACH = ("stripe", "adyen")
FOUND = {
    "outcome": "succeeded",
    "provider_id": "pi_found_by_hand",
    "reason": "Their support has confirmed it.",
    "evidence": "ticket 4711, settlement report of 20 November, line 12",
}


def _mute(psps: Psps, psp: str, operation: str = "authorize", fault: str = "garbage") -> None:
    """Whatever is asked is done, and nobody hears of it."""
    psps.fault(psp, operation, fault, times=None)
    psps.fault(psp, operation, "drop_webhook", times=None)


def _hours_pass(inside: Inside, psps: Psps, hours: float) -> None:
    """For the gateway's rows and for the PSPs, which forget keys by their own clock."""
    aged = "UPDATE operation SET created_at = created_at - make_interval(hours => %(hours)s::int)"
    inside.database.rows(aged, hours=hours)
    for psp in AT_EACH:
        psps.let_pass(psp, hours * 3600)


async def _unknown(inside: Inside, psps: Psps, psp: str, **fields: Any) -> dict[str, Any]:
    _mute(psps, psp)
    answer = await inside.merchant.charge(key="order-1", routing={"account": psp}, **fields)
    assert (answer.status_code, answer.json()["processing_reason"]) == (202, "outcome_unknown")
    payment: dict[str, Any] = answer.json()
    return payment


# --- The horizon ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("psp", AT_EACH)
async def test_a_key_that_the_provider_may_have_forgotten_is_never_sent_again(
    psp: str, open_gateway: Open, psps: Psps
) -> None:
    """Neither by the worker nor by the client's own retry: the same bytes would be a new charge."""
    beyond = {"stripe": 25, "adyen": 8 * 24}[psp]
    async with open_gateway() as inside:
        payment = await _unknown(inside, psps, psp)
        _hours_pass(inside, psps, beyond)
        asked = len(psps.requests(psp, "authorize"))
        inside.database.let_time_pass()
        again = await inside.merchant.charge(key="order-1", routing={"account": psp})
        await inside.work()
        shown = await inside.merchant.payment(payment["id"])

    assert len(psps.requests(psp, "authorize")) == asked
    assert len(psps.charges()) == 1
    if psp == "stripe":  # the look-up has told, in the client's own retry
        assert (again.status_code, again.json()["status"], shown["status"]) == (201, "succeeded", "succeeded")
    else:
        assert (again.status_code, shown["status"]) == (202, "processing")


@pytest.mark.parametrize("psp", AT_EACH)
async def test_within_the_horizon_the_same_bytes_under_the_same_key_tell(
    psp: str, open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway() as inside:
        payment = await _unknown(inside, psps, psp)
        psps.clear_faults(psp)
        inside.database.let_time_pass()
        again = await inside.merchant.charge(key="order-1", routing={"account": psp})
        shown = await inside.merchant.payment(payment["id"])

    assert (again.status_code, again.json()["status"], shown["status"]) == (201, "succeeded", "succeeded")
    assert len({entry["key"] for entry in psps.requests(psp, "authorize")}) == 1
    assert len(psps.charges()) == 1


# --- A person ---------------------------------------------------------------------------------------------------------


async def _in_review(inside: Inside, psps: Psps, psp: str = "adyen", **fields: Any) -> dict[str, Any]:
    payment = await _unknown(inside, psps, psp, **fields)
    if psp == "stripe":
        psps.fault(psp, "lookup", "status", times=None)
    _hours_pass(inside, psps, 25)
    await inside.work()
    shown = await inside.merchant.payment(payment["id"])
    assert shown["processing_reason"] == "needs_review"
    return shown


async def test_what_nobody_could_tell_for_a_day_is_put_before_a_person_with_the_evidence(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway() as inside:
        other = await inside.merchant.charged(routing={"account": "stripe"})
        payment = await _in_review(inside, psps)
        await inside.work()
        listed = (await inside.merchant.get("/v1/payments", needs_review="true")).json()
        wrong = await inside.merchant.get("/v1/payments", needs_review="false")
        again = await inside.merchant.charge(key="order-1", routing={"account": "adyen"})
        counted = generate_latest(inside.house.registry).decode()
        events = (await inside.merchant.get(f"/v1/payments/{payment['id']}", **{"expand[]": "history"})).json()[
            "history"
        ]

    (review,) = payment["review"]
    assert (review["kind"], review["account"], review["amount"]) == ("authorize", "adyen", 1999)
    assert review["evidence"]["heard"]["look_up"] == "no_lookup"
    assert [found["id"] for found in listed["data"]] == [payment["id"]]
    assert other["review"] == []
    assert (wrong.status_code, wrong.json()["param"]) == (422, "needs_review")
    assert (again.status_code, again.json()["processing_reason"]) == (202, "needs_review")
    assert [event["news"] for event in events].count("Review") == 1
    assert 'interlock_operations_put_in_review_total{account="adyen",kind="authorize"} 1.0' in counted


@pytest.mark.parametrize(
    ("outcome", "status", "code"), [("succeeded", "succeeded", 201), ("failed", "requires_payment_method", 402)]
)
async def test_a_person_resolves_it_once_and_the_client_hears_the_same_for_ever(
    outcome: str, status: str, code: int, open_gateway: Open, psps: Psps, database: Database
) -> None:
    async with open_gateway() as inside:
        payment = await _in_review(inside, psps)
        path, body = f"/v1/payments/{payment['id']}/resolve", FOUND | {"outcome": outcome}
        resolved = await inside.merchant.post(path, body, key="resolve-1")
        again = await inside.merchant.post(path, body, key="resolve-1")
        other = await inside.merchant.post(path, body | {"reason": "Another one."}, key="resolve-1")
        late = await inside.merchant.post(path, body, key="resolve-2")
        client = await inside.merchant.charge(key="order-1", routing={"account": "adyen"})
        replay = await inside.merchant.charge(key="order-1", routing={"account": "adyen"})

    assert (resolved.status_code, resolved.json()["status"]) == (200, status)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (resolved.content, "true")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (late.status_code, late.json()["code"]) == (409, "payment_state")
    assert (client.status_code, client.json()["status"], replay.content) == (code, status, client.content)
    (row,) = database.rows("SELECT evidence, sealed_request FROM operation")
    assert row["sealed_request"] is None
    found = row["evidence"]["resolution"]
    assert (found["outcome"], found["by"], found["evidence"]) == (outcome, "sk_test_dev", FOUND["evidence"])
    assert database.value("SELECT news FROM change WHERE source = 'operator'") == "Resolved"


async def test_the_account_is_asked_once_more_before_a_person_is_believed(open_gateway: Open, psps: Psps) -> None:
    """They say that nothing happened; the account knows better."""
    async with open_gateway() as inside:
        payment = await _in_review(inside, psps, "stripe")
        psps.clear_faults("stripe")
        inside.database.let_time_pass()
        path = f"/v1/payments/{payment['id']}/resolve"
        refused = await inside.merchant.post(path, FOUND | {"outcome": "failed"})
        shown = await inside.merchant.payment(payment["id"])

    assert (refused.status_code, refused.json()["code"]) == (409, "payment_state")
    assert (shown["status"], shown["amount_received"]) == ("succeeded", 1999)


async def test_a_webhook_settles_what_waits_for_a_person(open_gateway: Open, psps: Psps) -> None:
    from gateway.settle import record
    from providers.contract import Approved
    from providers.money import Money

    async with open_gateway() as inside:
        payment = await _in_review(inside, psps)
        deps = inside.house.deps
        known = await deps.queries.payment(payment["id"])
        assert known is not None
        approved = Approved("8835511210681234", Money(1999, "EUR"), captured=True)
        await record(known, known.operations[0], approved, source="webhook", deps=deps)
        shown = await inside.merchant.payment(payment["id"])

    assert (shown["status"], shown["processing_reason"], shown["review"]) == ("succeeded", None, [])


async def test_only_what_is_in_review_is_resolved_and_only_with_all_that_is_needed(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway() as inside:
        paid = await inside.merchant.charged()
        settled = await inside.merchant.post(f"/v1/payments/{paid['id']}/resolve", FOUND)
        payment = await _in_review(inside, psps)
        path = f"/v1/payments/{payment['id']}/resolve"
        nameless = await inside.merchant.post(path, {name: FOUND[name] for name in ("outcome", "reason", "evidence")})
        silent = await inside.merchant.post(path, FOUND | {"evidence": ""})
        another = await inside.merchant.post(path, FOUND | {"operation": "att_" + "0" * 32})
        stranger = await inside.merchant.post(f"/v1/payments/pay_{'0' * 32}/resolve", FOUND)
        good = await inside.merchant.post(path, FOUND)

    assert (settled.status_code, settled.json()["code"]) == (409, "payment_state")
    assert (nameless.status_code, nameless.json()["param"]) == (422, "provider_id")
    assert (silent.status_code, silent.json()["param"]) == (422, "evidence")
    assert (another.status_code, another.json()["code"]) == (409, "payment_state")
    assert stranger.status_code == 404
    assert (good.status_code, good.json()["provider_payment_id"]) == (200, FOUND["provider_id"])


@pytest.mark.parametrize(("verb", "moved"), [("capture", "amount_received"), ("refund", "amount_refunded")])
async def test_a_follow_up_in_review_keeps_its_amount_reserved_until_a_person_tells(
    verb: str, moved: str, open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway() as inside:
        method = "manual" if verb == "capture" else "automatic"
        payment = await inside.merchant.charged(capture_method=method, routing={"account": "adyen"})
        _mute(psps, "adyen", verb)
        path = f"/v1/payments/{payment['id']}/capture" if verb == "capture" else "/v1/refunds"
        body = {} if verb == "capture" else {"payment": payment["id"]}
        asked = await inside.merchant.post(path, body, key="verb-1")
        _hours_pass(inside, psps, 25)
        await inside.work()
        waiting = await inside.merchant.payment(payment["id"])
        more = await inside.merchant.post(path, body, key="verb-2")
        resolved = await inside.merchant.post(f"/v1/payments/{payment['id']}/resolve", FOUND)
        told = await inside.merchant.post(path, body, key="verb-1")

    assert (asked.status_code, [each["kind"] for each in waiting["review"]]) == (202, [verb])
    assert more.status_code == 409
    assert (resolved.json()[moved], resolved.json()["review"]) == (1999, [])
    assert told.status_code == (200 if verb == "capture" else 201)


# --- What a provider has accepted -------------------------------------------------------------------------------------


async def test_a_refund_whose_webhook_is_lost_is_asked_about(open_gateway: Open, psps: Psps, flow: type[Kit]) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged(
            routing={"account": "stripe"}, payment_method_data=flow.card("4000000000007726")
        )
        psps.fault("stripe", "any", "drop_webhook", times=None)
        refund = await inside.merchant.post("/v1/refunds", {"payment": payment["id"]}, key="refund-1")

        async def settled() -> bool:
            await inside.work()
            shown: dict[str, Any] = (await inside.merchant.get(f"/v1/refunds/{refund.json()['id']}")).json()
            return bool(shown["status"] == "succeeded")

        await flow.eventually(settled, "the refund was looked up")

    assert (refund.status_code, refund.json()["status"]) == (202, "pending")
    assert len(psps.books("stripe", "refunds")) == 1
    assert len(psps.requests("stripe", "refund")) == 1, "what was accepted is never sent again"


async def test_what_was_accepted_and_never_told_is_put_before_a_person_after_a_week(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway() as inside:
        payment = await inside.merchant.charged(capture_method="manual", routing={"account": "adyen"})
        psps.fault("adyen", "any", "drop_webhook", times=None)
        await inside.merchant.post(f"/v1/payments/{payment['id']}/capture", {})
        _hours_pass(inside, psps, 6 * 24)
        await inside.work()
        before = await inside.merchant.payment(payment["id"])
        _hours_pass(inside, psps, 2 * 24)
        await inside.work()
        after = await inside.merchant.payment(payment["id"])

    assert (before["review"], len(psps.requests("adyen", "capture"))) == ([], 1)
    assert [each["kind"] for each in after["review"]] == ["capture"]


# --- Late success -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("psp", AT_EACH)
@pytest.mark.parametrize("method", ["automatic", "manual"])
async def test_a_success_that_is_told_after_the_cancel_is_given_back_at_once(
    psp: str, method: str, open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    from gateway.sweep import honour_cancels

    async with open_gateway(listening=True) as inside:
        payment = await _unknown(inside, psps, psp, capture_method=method)
        canceled = await inside.merchant.post(f"/v1/payments/{payment['id']}/cancel", {}, key="cancel-1")
        psps.clear_faults(psp)
        await inside.work()
        await honour_cancels(inside.house.deps)

        async def given_back() -> bool:
            await inside.work()
            shown = await inside.merchant.payment(payment["id"])
            return bool(shown["status"] == "canceled" or shown["amount_refunded"])

        await flow.eventually(given_back, "the money was given back")

    assert (canceled.status_code, canceled.json()["cancel_requested"]) == (202, True)
    assert len(psps.charges()) == 1
    given = psps.books(psp, "voids") if method == "manual" else psps.books(psp, "refunds")
    assert [entry["amount"] for entry in given] == [1999]


@pytest.mark.parametrize("psp", AT_EACH)
async def test_a_success_that_is_told_late_and_still_wanted_is_kept(psp: str, open_gateway: Open, psps: Psps) -> None:
    async with open_gateway() as inside:
        payment = await _unknown(inside, psps, psp)
        psps.clear_faults(psp)
        await inside.work()
        shown = await inside.merchant.payment(payment["id"])

    assert (shown["status"], shown["amount_received"]) == ("succeeded", 1999)
    assert len(psps.charges()) == 1


# --- Void, then failover ----------------------------------------------------------------------------------------------

FAILOVER = {"on_unknown": "void_then_failover"}


async def test_held_is_held_nobody_else_is_asked(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway() as inside:
        _mute(psps, "stripe")
        answer = await inside.merchant.charge(key="order-1")
        await inside.work()

    assert answer.status_code == 202
    assert psps.requests("adyen") == []
    assert psps.requests("stripe", "void") == []


async def test_an_unknown_attempt_that_is_surely_void_is_followed_by_the_other_account(
    open_gateway: Open, psps: Psps
) -> None:
    """The first account has authorized, and nobody heard it: its hold is released before anybody else is asked."""
    async with open_gateway(**FAILOVER) as inside:
        _mute(psps, "stripe")
        answer = await inside.merchant.charge(key="order-1", capture_method="manual")
        again = await inside.merchant.charge(key="order-1", capture_method="manual")
        attempts = (
            await inside.merchant.get(f"/v1/payments/{answer.json()['id']}", **{"expand[]": "attempts"})
        ).json()["attempts"]

    assert (answer.status_code, answer.json()["account"]) == (201, "adyen")
    assert again.content == answer.content
    assert [(attempt["account"], attempt["status"]) for attempt in attempts] == [
        ("stripe", "voided"),
        ("adyen", "authorized"),
    ]
    assert [(entry["status"]) for entry in psps.charges()] == ["voided", "authorised"]


async def test_what_is_captured_cannot_be_voided_and_is_kept(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(**FAILOVER) as inside:
        _mute(psps, "stripe")
        answer = await inside.merchant.charge(key="order-1")
        psps.clear_faults("stripe")
        await inside.work()
        await inside.work()
        later = await inside.merchant.charge(key="order-1")

    assert answer.status_code == 202
    assert (later.status_code, later.json()["account"], later.json()["status"]) == (201, "stripe", "succeeded")
    assert psps.requests("adyen") == []
    assert len(psps.charges()) == 1


async def test_a_void_that_is_confirmed_by_webhook_lets_the_clients_retry_go_on(
    open_gateway: Open, psps: Psps, flow: type[Kit]
) -> None:
    """Until then nobody else is asked, and the attempt is not sent again behind its void."""
    async with open_gateway(("adyen", "stripe"), listening=True, **FAILOVER) as inside:
        _mute(psps, "adyen")
        psps.fault("adyen", "void", "drop_webhook")
        first = await inside.merchant.charge(key="order-1", capture_method="manual")
        asked = len(psps.requests("adyen", "authorize"))
        meanwhile = await inside.merchant.charge(key="order-1", capture_method="manual")
        await inside.work()
        assert psps.requests("stripe") == []
        assert len(psps.requests("adyen", "authorize")) == asked
        from gateway.settle import record
        from providers.contract import Approved
        from providers.money import Money

        deps = inside.house.deps
        payment = await deps.queries.payment(first.json()["id"])
        assert payment is not None
        attempt, void = payment.operations
        approved = Approved("8835511210681234", Money(1999, "EUR"))
        held = await record(payment, attempt, approved, source="webhook", deps=deps)
        assert held is not None
        assert held.change is None, "what comes of the void decides"
        await record(payment, void, approved, source="webhook", deps=deps)
        answer = await inside.merchant.charge(key="order-1", capture_method="manual")

    assert (first.status_code, meanwhile.status_code) == (202, 202)
    assert (answer.status_code, answer.json()["account"]) == (201, "stripe")
    assert [entry["status"] for entry in psps.charges()] == ["authorised", "voided"]


async def test_what_is_voided_is_looked_for_at_the_time_of_the_attempt(open_gateway: Open, psps: Psps) -> None:
    """A busy account has thousands of payments between an attempt and its void."""
    async with open_gateway(**FAILOVER) as inside:
        _mute(psps, "stripe")
        answer = await inside.merchant.charge(key="order-1", capture_method="manual")
        payment = await inside.house.deps.queries.payment(answer.json()["id"])

    assert payment is not None
    attempt, void, _ = payment.operations
    earlier = dataclasses.replace(attempt, status=OperationStatus.UNKNOWN)
    before = dataclasses.replace(payment, operations=(earlier, void))
    assert attempt.created_at is not None
    assert void.created_at is not None
    assert call_of(before, void, {}).opened_at == attempt.created_at < void.created_at


async def test_a_void_that_fails_leaves_the_attempt_to_be_settled(open_gateway: Open, psps: Psps) -> None:
    """Nothing was found to void: the request may be on its way still, and nobody else is asked."""
    async with open_gateway(**FAILOVER) as inside:
        psps.fault("stripe", "authorize", "reset_before_effect", times=None)
        answer = await inside.merchant.charge(key="order-1", capture_method="manual")
        psps.clear_faults("stripe")
        await inside.work()
        later = await inside.merchant.charge(key="order-1", capture_method="manual")

    assert answer.status_code == 202
    assert (later.status_code, later.json()["account"]) == (201, "stripe")
    assert psps.requests("adyen") == []
    assert len(psps.charges()) == 1


async def test_the_only_account_is_not_voided_for_nobody(open_gateway: Open, psps: Psps) -> None:
    async with open_gateway(("stripe",), **FAILOVER) as inside:
        _mute(psps, "stripe")
        answer = await inside.merchant.charge(key="order-1", capture_method="manual")

    assert answer.status_code == 202
    assert psps.requests("stripe", "void") == []


async def test_a_void_that_is_never_told_of_is_put_before_a_person_after_a_day(open_gateway: Open, psps: Psps) -> None:
    """Adyen takes a cancel by our reference also of what it has not seen, and says no more. A person tells, and the attempt goes on."""
    async with open_gateway(("adyen", "stripe"), **FAILOVER) as inside:
        psps.fault("adyen", "authorize", "reset_before_effect", times=None)
        answer = await inside.merchant.charge(key="order-1", capture_method="manual")
        psps.clear_faults("adyen")
        asked = len(psps.requests("adyen", "authorize"))
        _hours_pass(inside, psps, 25)
        await inside.work()
        waiting = await inside.merchant.payment(answer.json()["id"])
        held = len(psps.requests("adyen", "authorize"))
        path = f"/v1/payments/{waiting['id']}/resolve"
        resolved = await inside.merchant.post(path, FOUND | {"outcome": "failed"})
        await inside.work()
        later = await inside.merchant.charge(key="order-1", capture_method="manual")

    assert (answer.status_code, [each["kind"] for each in waiting["review"]]) == (202, ["void"])
    assert (held, resolved.status_code) == (asked, 200)
    assert (later.status_code, later.json()["account"]) == (201, "adyen")
    assert psps.requests("stripe") == []
    assert len(psps.charges()) == 1


async def test_a_release_of_another_attempt_does_not_confirm_a_failovers_void(open_gateway: Open, psps: Psps) -> None:
    """An attempt under such a void has no name at its provider: an event by name means another one."""
    from gateway import news
    from providers.contract import Approved, Event, Kind
    from providers.money import Money

    async with open_gateway(("adyen", "stripe"), **FAILOVER) as inside:
        psps.fault("adyen", "authorize", "reset_before_effect", times=None)
        await inside.merchant.charge(key="order-1", capture_method="manual")
        inside.database.rows("UPDATE operation SET provider_id = 'another' WHERE kind = 'authorize'")
        released = Approved("another", Money(1999, "EUR"))
        event = Event("evt_1", "CANCELLATION", Kind.VOID, provider_payment_id="another", outcome=released)
        applied = await news.apply("adyen", event, inside.house.deps)

    assert applied.result == "waits_for_attempt"
    assert inside.database.value("SELECT status FROM operation WHERE kind = 'void'") == "pending"


async def test_a_void_is_not_waited_for_past_the_charges_own_time(
    open_gateway: Open, psps: Psps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client hears of it in time; the worker voids."""
    monkeypatch.setattr("gateway.charge.CHARGE_S", 5.0)
    async with open_gateway(**FAILOVER) as inside:
        _mute(psps, "stripe")
        answer = await inside.merchant.charge(key="order-1", capture_method="manual")
        before = len(psps.requests("stripe", "void"))
        psps.fault("stripe", "lookup", "status", times=None)
        await inside.work()

    assert (answer.status_code, before) == (202, 0)
    assert inside.database.value("SELECT count(*) FROM operation WHERE kind = 'void'") == 1


# --- What stands in the way of an outcome -----------------------------------------------------------------------------


async def test_a_queued_operation_that_is_sent_at_the_last_moment_is_not_called_unsent(
    open_gateway: Open, psps: Psps
) -> None:
    """Its day ends while the account is asked: whatever came of that, it is no longer certain that nothing did."""
    from gateway.settle import look, take_over

    async with open_gateway(("adyen",)) as inside:
        payment = await inside.merchant.charged(routing={"account": "adyen"})
    async with open_gateway(("adyen",), unreachable=["adyen"]) as inside:
        queued = await inside.merchant.post("/v1/refunds", {"payment": payment["id"]}, key="refund-1")
        assert queued.status_code == 202
    async with open_gateway(("adyen",)) as inside:
        _mute(psps, "adyen", "refund")
        inside.database.let_time_pass()
        known = await inside.house.deps.queries.payment(payment["id"])
        assert known is not None
        opened = known.operations[1].created_at
        assert opened is not None
        clock = (opened + timedelta(hours=23, minutes=59, seconds=second) for second in range(45, 3600, 8))
        deps = dataclasses.replace(inside.house.deps, clock=lambda: next(clock))
        taken = await take_over(known, known.operations[1], deps)
        assert taken is not None
        assert taken.reached_nobody
        looked = await look(taken, deps)
        assert deps.clock() - opened > timedelta(hours=24)

    assert isinstance(looked.outcome, Unknown)
    assert len(psps.books("adyen", "refunds")) == 1


async def test_a_request_that_does_not_open_is_looked_up_and_else_put_before_a_person(
    open_gateway: Open, psps: Psps
) -> None:
    async with open_gateway() as inside:
        payments = {}
        for psp in AT_EACH:
            _mute(psps, psp)
            payments[psp] = (await inside.merchant.charge(routing={"account": psp})).json()
        inside.database.rows("UPDATE operation SET sealed_request = 'nothing of ours', holds_card = false")
        asked = len(psps.requests("stripe", "authorize")) + len(psps.requests("adyen", "authorize"))
        _hours_pass(inside, psps, 25)
        await inside.work()
        shown = {psp: await inside.merchant.payment(payments[psp]["id"]) for psp in AT_EACH}

    assert (shown["stripe"]["status"], shown["adyen"]["processing_reason"]) == ("succeeded", "needs_review")
    assert len(psps.requests("stripe", "authorize")) + len(psps.requests("adyen", "authorize")) == asked


async def test_a_verification_in_review_is_in_the_list_of_what_waits(open_gateway: Open, psps: Psps) -> None:
    """It is no payment of anybody's, and a person has to look all the same."""
    async with open_gateway(("adyen",)) as inside:
        _mute(psps, "adyen")
        card = {"type": "card", "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030}}
        stored = await inside.merchant.post("/v1/payment_methods", {**card, "verify": True, "currency": "EUR"})
        _hours_pass(inside, psps, 25)
        await inside.work()
        waiting = (await inside.merchant.get("/v1/payments", needs_review="true")).json()["data"]
        listed = (await inside.merchant.get("/v1/payments")).json()["data"]

    assert stored.status_code == 202
    assert [(found["amount"], found["processing_reason"]) for found in waiting] == [(0, "needs_review")]
    assert listed == []
