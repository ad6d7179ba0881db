"""Idempotency keys as each PSP honours them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import stripe

KEY = {"idempotency_key": "key-1"}


def stripe_post(sandbox: Any, path: str, key: str, **form: Any) -> httpx.Response:
    answer: httpx.Response = sandbox.http.post(
        f"{sandbox.stripe_url}/v1/{path}",
        data={"amount": 1999, "currency": "eur", **form},
        headers={"Authorization": "Bearer sk_test_sandbox", "Idempotency-Key": key},
    )
    return answer


def adyen_post(sandbox: Any, path: str, key: str, body: dict[str, Any]) -> httpx.Response:
    answer: httpx.Response = sandbox.http.post(
        f"{sandbox.adyen_url}/v72/{path}",
        json=body,
        headers={"X-API-Key": "adyen_test_sandbox", "Idempotency-Key": key},
    )
    return answer


def test_stripe_replays_the_first_answer_byte_for_byte(sandbox: Any) -> None:
    form = {"confirm": "true", "payment_method": "pm_card_visa"}

    first = stripe_post(sandbox, "payment_intents", "k", **form)
    again = stripe_post(sandbox, "payment_intents", "k", **form)

    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["idempotency-key"] == "k"
    assert again.headers["original-request"] == first.headers["request-id"]
    assert again.headers["request-id"] != first.headers["request-id"]
    assert len(sandbox.books("stripe")["authorisations"]) == 1


def test_stripe_replays_a_decline(sandbox: Any) -> None:
    form = {"confirm": "true", "payment_method": "pm_card_visa_chargeDeclined"}

    first = stripe_post(sandbox, "payment_intents", "k", **form)
    again = stripe_post(sandbox, "payment_intents", "k", **form)

    assert (again.status_code, again.content) == (402, first.content)
    assert len(sandbox.books("stripe")["declines"]) == 1


def test_stripe_refuses_a_key_with_other_parameters_or_another_path(sandbox: Any) -> None:
    sandbox.charge(key="key-1")

    with pytest.raises(stripe.IdempotencyError):
        sandbox.charge(key="key-1", amount=2000)
    with pytest.raises(stripe.IdempotencyError):
        sandbox.stripe.v1.refunds.create({"payment_intent": "pi_x"}, KEY)


def test_stripe_forgets_what_failed_validation(sandbox: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        sandbox.charge(key="key-1", amount=1)

    assert sandbox.charge(key="key-1").status == "succeeded"


def test_stripe_remembers_a_refusal_that_came_after_execution_began(sandbox: Any) -> None:
    intent = sandbox.charge(key="key-0", capture_method="manual")
    replayed = []
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            sandbox.stripe.v1.refunds.create({"payment_intent": intent.id}, KEY)
        replayed.append("Idempotent-Replayed" in (caught.value.headers or {}))

    assert replayed == [False, True]


def test_stripe_says_409_while_the_first_request_runs(sandbox: Any) -> None:
    sandbox.script("stripe", "latency", "authorize", latency_ms=300)
    form = {"confirm": "true", "payment_method": "pm_card_visa"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(stripe_post, sandbox, "payment_intents", "k", **form)
        time.sleep(0.1)

        second = stripe_post(sandbox, "payment_intents", "k", **form)

        assert (second.status_code, second.json()["error"]["code"]) == (
            409,
            "idempotency_key_in_use",
        )
        assert first.result().status_code == 200
    assert stripe_post(sandbox, "payment_intents", "k", **form).status_code == 200
    assert len(sandbox.books("stripe")["authorisations"]) == 1


def test_stripe_checks_the_credential_before_the_key(sandbox: Any) -> None:
    with pytest.raises(stripe.AuthenticationError):
        sandbox.stripe.v1.refunds.create({"payment_intent": "pi_x"}, KEY | {"api_key": "wrong"})

    assert sandbox.charge(key="key-1").status == "succeeded"


def test_a_forgotten_key_charges_again(sandbox: Any) -> None:
    sandbox.charge(key="key-1")
    sandbox.http.delete(f"{sandbox.stripe_url}/_sandbox/keys")

    sandbox.charge(key="key-1")

    assert len(sandbox.books("stripe")["authorisations"]) == 2


def charge_under(sandbox: Any, psp: str, key: str, new_neutral_charge: Any) -> None:
    match psp:
        case "stripe":
            sandbox.charge(key=key)
        case "adyen":
            sandbox.pay(key=key)
        case _:
            assert sandbox.ask("/charges", key, **new_neutral_charge()).status_code == 200


HOUR_S = 3600


@pytest.mark.parametrize(
    ("psp", "life_s"), [("stripe", 24 * HOUR_S), ("adyen", 168 * HOUR_S), ("neutral", 48 * HOUR_S)]
)
def test_a_key_is_forgotten_after_its_life_and_charges_again(
    sandbox: Any, psp: str, life_s: int, new_neutral_charge: Any
) -> None:
    def later(seconds: int) -> int:
        sandbox.http.post(f"{sandbox.url(psp)}/_sandbox/clock", json={"advance_s": seconds}).raise_for_status()
        charge_under(sandbox, psp, "key-1", new_neutral_charge)
        return len(sandbox.books(psp)["authorisations"])

    charge_under(sandbox, psp, "key-1", new_neutral_charge)

    assert later(life_s - 60) == 1
    assert later(60) == 2
    assert later(60) == 2  # a life of its own for the second


def test_the_neutral_psp_replays_by_a_field_of_the_body(sandbox: Any, new_neutral_charge: Any) -> None:
    first = sandbox.ask("/charges", "k", **new_neutral_charge())
    again = sandbox.ask("/charges", "k", **new_neutral_charge())
    other = sandbox.ask("/charges", "k", **new_neutral_charge(reference="other"))

    assert (first.status_code, again.content) == (200, first.content)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "request_id_reused")
    assert [entry["key"] for entry in sandbox.requests("neutral")] == ["k", "k", "k"]
    assert len(sandbox.books("neutral")["authorisations"]) == 1


def test_the_neutral_psp_says_409_while_the_first_request_runs(sandbox: Any, new_neutral_charge: Any) -> None:
    sandbox.script("neutral", "latency", latency_ms=300)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(sandbox.ask, "/charges", "k", **new_neutral_charge())
        time.sleep(0.1)

        second = sandbox.ask("/charges", "k", **new_neutral_charge())

        assert (second.status_code, second.json()["error"]["code"]) == (409, "request_running")
        assert first.result().status_code == 200


def test_adyen_replays_without_looking_at_the_body(sandbox: Any, new_adyen_payment: Any) -> None:
    first = adyen_post(sandbox, "payments", "k", new_adyen_payment())
    again = adyen_post(sandbox, "payments", "k", new_adyen_payment(reference="other"))

    assert again.content == first.content
    assert first.headers["idempotency-key"] == again.headers["idempotency-key"] == "k"
    assert len(sandbox.books("adyen")["authorisations"]) == 1
    assert [entry["replayed"] for entry in sandbox.requests("adyen")] == [False, True]


def test_adyen_says_704_while_the_first_request_runs(sandbox: Any, new_adyen_payment: Any) -> None:
    sandbox.script("adyen", "latency", latency_ms=300)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(adyen_post, sandbox, "payments", "k", new_adyen_payment())
        time.sleep(0.1)

        second = adyen_post(sandbox, "payments", "k", new_adyen_payment())

        assert (second.status_code, second.json()["errorCode"]) == (422, "704")
        assert second.headers["transient-error"] == "true"
        assert first.result().json()["resultCode"] == "Authorised"


def test_adyen_refuses_a_key_of_more_than_64_characters(sandbox: Any, new_adyen_payment: Any) -> None:
    assert adyen_post(sandbox, "payments", "k" * 64, new_adyen_payment()).status_code == 200
    assert adyen_post(sandbox, "payments", "k" * 65, new_adyen_payment()).status_code == 400


@pytest.mark.parametrize("psp", ["stripe", "adyen"])
def test_many_at_once_under_one_key_charge_once(sandbox: Any, psp: str) -> None:
    barrier = threading.Barrier(8)

    def send() -> None:
        barrier.wait()
        (sandbox.charge if psp == "stripe" else sandbox.pay)(key="one")

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(send) for _ in range(8)]:
            done.result()

    assert len(sandbox.books(psp)["authorisations"]) == 1
    assert len(sandbox.requests(psp)) == 8
