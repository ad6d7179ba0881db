"""Signatures as Standard Webhooks 1.0.0 has them, and the life of an endpoint's secrets."""

from __future__ import annotations

import hashlib
import time
from base64 import b64decode, b64encode
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from webhooks.signing import KEEP_S, SECRETS_MAX, Secret, Secrets, fingerprint, headers, new_secret, sign

BODY: Final = b'{"test": 2432232314}'
SECRET: Final = "whsec_" + b64encode(b"k" * 24).decode()


def verify(told: dict[str, str], body: bytes, secret: str) -> bool:
    """The receiving side, as the library that merchants use has it."""
    try:
        Webhook(secret).verify(body, told, json_parse=False)
    except WebhookVerificationError:
        return False
    return True


@given(st.text().map(str.encode), st.integers(1, 5))
def test_what_is_signed_verifies_with_each_of_its_secrets_and_with_no_other(body: bytes, number: int) -> None:
    at = int(time.time())
    secrets = [new_secret() for _ in range(number)]

    told = headers("evt_0", at, body, secrets)

    assert told["webhook-id"] == "evt_0"
    assert told["webhook-timestamp"] == str(at)
    assert len(told["webhook-signature"].split(" ")) == number
    assert all(verify(told, body, secret) for secret in secrets)
    assert not verify(told, body, new_secret())
    assert not verify(told, body + b" ", secrets[0])
    assert not verify(told | {"webhook-id": "evt_1"}, body, secrets[0])
    assert not verify(told | {"webhook-timestamp": str(at + 1)}, body, secrets[0])


def test_the_newest_secret_signs_first() -> None:
    secrets = [new_secret(), new_secret()]

    assert sign("evt_0", 1, BODY, secrets).split(" ")[0] == sign("evt_0", 1, BODY, secrets[:1])


@pytest.mark.parametrize(("event_id", "secrets"), [("evt.0", [SECRET]), ("evt_0", []), ("evt_0", ["whsec_no base64"])])
def test_nothing_is_signed_that_could_not_be_verified(event_id: str, secrets: list[str]) -> None:
    with pytest.raises(ValueError, match=r"full stop|no secret|base64|Only base64"):
        sign(event_id, 1, BODY, secrets)


def test_a_new_secret_is_32_random_bytes() -> None:
    drawn = {new_secret() for _ in range(100)}

    assert len(drawn) == 100
    assert {len(b64decode(each.removeprefix("whsec_"), validate=True)) for each in drawn} == {32}


def test_a_fingerprint_says_nothing_but_which_one_it_is() -> None:
    assert fingerprint(SECRET) == hashlib.sha256(SECRET.encode()).hexdigest()[:8]
    assert Secret(SECRET).fingerprint == fingerprint(SECRET)
    assert "whsec" not in repr(Secrets((Secret(SECRET),)))


# --- Rotation ----------------------------------------------------------------------------------------------------------------


def test_a_secret_signs_for_a_day_after_it_was_replaced() -> None:
    first = Secrets.new()
    second = first.rotated(1000.0)

    assert first.live(0) == [first.newest.secret]
    assert second.newest.secret != first.newest.secret
    assert second.live(1000 + KEEP_S - 1) == [second.newest.secret, first.newest.secret]
    assert second.live(1000 + KEEP_S) == [second.newest.secret]


def test_rotating_again_gives_nobody_a_longer_life() -> None:
    first = Secrets.new()
    third = first.rotated(0.0).rotated(KEEP_S / 2)

    assert len(third.live(KEEP_S / 2)) == 3
    assert first.newest.secret not in third.live(KEEP_S)
    assert len(third.rotated(9 * KEEP_S).kept) == 2, "what is over is not kept"


def test_a_short_life_may_be_asked_for() -> None:
    assert len(Secrets.new().rotated(0.0, keep_s=5).live(5)) == 1


def test_no_more_secrets_are_kept_than_fit_into_a_header() -> None:
    secrets = Secrets.new()
    for at in range(20):
        secrets = secrets.rotated(float(at))

    assert len(secrets.kept) == SECRETS_MAX


def test_what_leaked_signs_no_more_at_once() -> None:
    rotated = Secrets.new().rotated(0.0)

    assert rotated.revoked_old().live(0.0) == [rotated.newest.secret]
    assert rotated.revoked_old().revoked_old() == rotated.revoked_old()


def test_secrets_come_back_as_they_were_stored() -> None:
    secrets = Secrets.new().rotated(1000.5)

    stored = secrets.to_json()

    assert stored["secrets"][0] == {"secret": secrets.newest.secret, "until": None}
    assert stored["secrets"][1]["until"] == 1000.5 + KEEP_S
    assert Secrets.from_json(stored) == secrets
