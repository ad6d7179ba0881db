"""A client that retries finds out as much as the worker does, and never puts the worker off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.books import LADDER_S

if TYPE_CHECKING:
    from tests.conftest import Open, Psps

MANY = 9
"""More retries than the worker's ladder has steps."""


@pytest.mark.parametrize("verb", ["authorize", "capture", "refund"])
async def test_a_retry_looks_up_what_the_providers_replay_does_not_tell(
    verb: str, open_gateway: Open, psps: Psps
) -> None:
    """Stripe keeps its own 500 under the key: every replay gets it again, for a charge that was made."""
    psps.fault("stripe", verb, "error_after_effect")
    psps.fault("stripe", verb, "drop_webhook", times=None)

    async with open_gateway() as inside:
        merchant = inside.merchant
        path, fields = "/v1/refunds", {"payment": "", "amount": 700}
        if verb != "authorize":
            payment = await merchant.charged(capture_method="manual" if verb == "capture" else "automatic")
            if verb == "capture":
                path, fields = f"/v1/payments/{payment['id']}/capture", {"amount": 700}
            else:
                fields["payment"] = payment["id"]
        answers = [
            await (merchant.charge(key="key-1") if verb == "authorize" else merchant.post(path, fields, key="key-1"))
            for _ in range(3)
        ]

    done = {"authorize": 201, "capture": 200, "refund": 201}[verb]
    assert [answer.status_code for answer in answers] == [202, done, done]
    assert answers[1].content == answers[2].content
    book = {"authorize": "authorisations", "capture": "captures", "refund": "refunds"}[verb]
    assert len(psps.books("stripe", book)) == 1


@pytest.mark.parametrize("tries", [0, 7])
async def test_retries_of_a_client_do_not_put_the_workers_next_look_off(
    tries: int, open_gateway: Open, psps: Psps
) -> None:
    """A client is told to come back after two seconds. Were its looks counted, the worker's next one would be an hour away."""
    psps.fault("stripe", "authorize", "garbage", times=None)
    psps.fault("stripe", "lookup", "garbage", times=None)
    psps.fault("stripe", "authorize", "drop_webhook", times=None)

    async with open_gateway() as inside:
        answers = [await inside.merchant.charge(key="order-1")]
        inside.database.rows("UPDATE operation SET tries = %(tries)s", tries=tries)
        answers += [await inside.merchant.charge(key="order-1") for _ in range(MANY)]
        waits = inside.database.value("SELECT extract(epoch FROM due_at - now()) FROM operation")

    assert {answer.status_code for answer in answers} == {202}
    assert float(waits) <= LADDER_S[0]
