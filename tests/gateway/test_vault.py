"""Secrets at rest: what is sealed opens for its own row and key alone, and nothing secret is ever shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.api.auth import make_key
from gateway.books import KeyUse, Method, Request
from gateway.queries import SealedRow, StoredCustomer, StoredMethod, UsedKey
from gateway.vault import Keyring, SealBroken, Sealer, Wallet, key_id_of, open_card, seal_card
from idempotency.key import Key
from providers.contract import Call, Card, Kind, Token
from providers.money import Money

PAN: Final = "4242424242424242"
CVC: Final = "737"
CARD: Final = Card(PAN, 12, 2030, CVC, "A. Shopper")
SEALER: Final = Sealer(b"k" * 32)
KEYS: Final = Keyring.derive(b"s" * 32, [b"v" * 32])
CONTEXT: Final = ("mer_1", "att_1", "request")

words = st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]), max_size=12)
contexts = st.lists(words, min_size=1, max_size=4).map(tuple)


@given(st.binary(max_size=200), contexts)
def test_what_is_sealed_opens_as_it_was(plain: bytes, context: tuple[str, ...]) -> None:
    assert SEALER.open(SEALER.seal(plain, *context), *context) == plain


@given(contexts, contexts)
def test_a_record_moved_to_another_row_does_not_open(mine: tuple[str, ...], other: tuple[str, ...]) -> None:
    assume(mine != other)
    sealed = SEALER.seal(PAN.encode(), *mine)

    with pytest.raises(SealBroken):
        SEALER.open(sealed, *other)


def test_a_record_does_not_open_under_another_key() -> None:
    sealed = SEALER.seal(PAN.encode(), *CONTEXT)

    with pytest.raises(SealBroken, match="not configured"):
        Sealer(b"x" * 32).open(sealed, *CONTEXT)


@given(st.data())
def test_a_changed_bit_anywhere_is_noticed_and_nothing_of_the_card_is_told(data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal(PAN.encode(), *CONTEXT))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(SealBroken) as broken:
        SEALER.open(bytes(sealed), *CONTEXT)

    told = str(broken.value) + repr(broken.value) + repr(broken.value.__cause__)
    assert not any(secret in told for secret in (PAN, "424242", "4242"))


@given(st.integers(0, 100))
def test_a_record_cut_short_does_not_open(length: int) -> None:
    sealed = SEALER.seal(PAN.encode(), *CONTEXT)

    with pytest.raises(SealBroken):
        SEALER.open(sealed[: min(length, len(sealed) - 1)], *CONTEXT)


def test_the_same_card_is_never_sealed_to_the_same_bytes_so_equal_cards_cannot_be_told() -> None:
    one, other = SEALER.seal(PAN.encode(), *CONTEXT), SEALER.seal(PAN.encode(), *CONTEXT)

    assert one != other
    assert PAN.encode() not in one


def test_json_is_sealed_and_opened_as_the_same_values() -> None:
    value = {"amount": 1999, "steps": [{"name": "Ä"}], "none": None}

    assert SEALER.open_json(SEALER.seal_json(value, *CONTEXT), *CONTEXT) == value


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(b"k" * length)


# --- Several keys -----------------------------------------------------------------------------------------------------

OLD, NEW = b"o" * 32, b"n" * 32


def test_the_first_key_seals_and_every_key_opens() -> None:
    by_old = Sealer(OLD).seal(b"plain", *CONTEXT)
    both = Sealer(NEW, OLD)
    by_new = both.seal(b"plain", *CONTEXT)

    assert both.open(by_old, *CONTEXT) == both.open(by_new, *CONTEXT) == b"plain"
    assert Sealer(NEW).open(by_new, *CONTEXT) == b"plain"
    assert (key_id_of(by_old), key_id_of(by_new)) == (Sealer(OLD).key_id, both.key_id)
    assert both.key_ids == (both.key_id, Sealer(OLD).key_id)
    with pytest.raises(SealBroken, match="not configured"):
        Sealer(OLD).open(by_new, *CONTEXT)


@given(st.binary(max_size=200), contexts)
def test_a_record_wrapped_anew_opens_under_the_new_key_alone_and_its_body_is_untouched(
    plain: bytes, context: tuple[str, ...]
) -> None:
    sealed = Sealer(OLD).seal(plain, *context)

    rewrapped = Sealer(NEW, OLD).rewrap(sealed, *context)

    assert Sealer(NEW).open(rewrapped, *context) == plain
    assert rewrapped.endswith(sealed[-16 - len(plain) :])
    assert (rewrapped[:1], len(rewrapped)) == (sealed[:1], len(sealed))
    with pytest.raises(SealBroken):
        Sealer(OLD).open(rewrapped, *context)


@given(contexts, contexts)
def test_a_record_is_not_wrapped_anew_for_another_row(mine: tuple[str, ...], other: tuple[str, ...]) -> None:
    assume(mine != other)
    sealed = Sealer(OLD).seal(PAN.encode(), *mine)

    with pytest.raises(SealBroken):
        Sealer(NEW, OLD).rewrap(sealed, *other)


def test_a_changed_body_is_noticed_after_it_was_wrapped_anew() -> None:
    sealed = bytearray(Sealer(OLD).seal(PAN.encode(), *CONTEXT))
    sealed[-1] ^= 1

    rewrapped = Sealer(NEW, OLD).rewrap(bytes(sealed), *CONTEXT)

    with pytest.raises(SealBroken):
        Sealer(NEW, OLD).open(rewrapped, *CONTEXT)


def test_a_record_of_the_first_release_still_opens() -> None:
    """Sealed by that release, and never to be changed here."""
    assert Sealer(b"k" * 32).open(bytes.fromhex(FIRST_RELEASE), "mer_1", "pm_1", "card") == b"4242"


FIRST_RELEASE: Final = "01b1664b3200ec3ef9ecff32da0364f3043fe40d50b4db1fcf25f350c0cb68157626a0e73adcdfa24249e6c78e5cc10b2b322322f00f27175b0b430b91f83333fee14b3bb8e8ba4efd98e0b39f7ca0601a5d30fd93"


# --- Fingerprints -----------------------------------------------------------------------------------------------------


def test_a_card_is_recognised_after_the_vaults_key_was_rotated_and_by_no_other_merchant() -> None:
    rotated, other = Keyring.derive(b"s" * 32, [NEW]), Keyring.derive(b"t" * 32, [b"v" * 32])
    print_ = KEYS.card_fingerprint(PAN, "mer_1")

    assert rotated.card_fingerprint(PAN, "mer_1") == print_
    assert len({print_, KEYS.card_fingerprint(PAN, "mer_2"), other.card_fingerprint(PAN, "mer_1")}) == 3
    assert KEYS.card_fingerprint("5555555555554444", "mer_1") != print_
    assert len(bytes.fromhex(print_)) == 16


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_every_purpose_has_a_key_of_its_own_and_none_is_the_secret_itself() -> None:
    subkeys = [KEYS.fingerprint, KEYS.provider, KEYS.api_key, KEYS.client_secret, KEYS.card]

    assert len({*subkeys, b"s" * 32}) == 6
    assert {len(key) for key in subkeys} == {32}
    assert KEYS.provider != Keyring.derive(b"t" * 32).provider


def test_a_secret_key_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        Keyring.derive(b"s" * 31)


@given(st.text(max_size=60))
def test_a_provider_key_is_a_uuid_and_the_same_whenever_it_is_derived(operation_id: str) -> None:
    key = KEYS.provider_key(operation_id)

    assert key == Keyring.derive(b"s" * 32).provider_key(operation_id)
    assert str(UUID(key)) == key
    assert UUID(key).version == 4
    assert len(key) <= 64


@given(st.text(max_size=20), st.text(max_size=20))
def test_two_operations_never_travel_under_one_key(one: str, other: str) -> None:
    assume(one != other)

    assert KEYS.provider_key(one) != KEYS.provider_key(other)


def test_a_request_with_a_card_is_sealed_under_the_vault_key_and_any_other_is_not() -> None:
    with_card = KEYS.seal_request({"number": PAN}, "mer_1", "att_1", holds_card=True)
    without = KEYS.seal_request({"token": "pm_1"}, "mer_1", "att_1", holds_card=False)
    rotated = Keyring.derive(b"s" * 32, [b"w" * 32])

    assert KEYS.open_request(with_card, "mer_1", "att_1", holds_card=True) == {"number": PAN}
    assert rotated.open_request(without, "mer_1", "att_1", holds_card=False) == {"token": "pm_1"}
    with pytest.raises(SealBroken):
        rotated.open_request(with_card, "mer_1", "att_1", holds_card=True)
    with pytest.raises(SealBroken):
        KEYS.open_request(with_card, "mer_1", "att_1", holds_card=False)


def test_without_a_vault_key_no_card_is_sealed_at_all() -> None:
    keys = Keyring.derive(b"s" * 32)

    with pytest.raises(SealBroken, match="vault key"):
        keys.seal_request({"number": PAN}, "mer_1", "att_1", holds_card=True)


def test_a_request_of_another_merchant_or_operation_does_not_open() -> None:
    sealed = KEYS.seal_request({"token": "pm_1"}, "mer_1", "att_1", holds_card=False)

    for merchant, operation in (("mer_2", "att_1"), ("mer_1", "att_2")):
        with pytest.raises(SealBroken):
            KEYS.open_request(sealed, merchant, operation, holds_card=False)


# --- Cards ------------------------------------------------------------------------------------------------------------


def test_a_card_and_its_security_code_are_sealed_apart_and_come_back_together() -> None:
    sealed_card, sealed_cvc = seal_card(CARD, SEALER, "mer_1", "pm_1")

    assert open_card(sealed_card, sealed_cvc, SEALER, "mer_1", "pm_1") == CARD
    assert CVC.encode() not in SEALER.open(sealed_card, "mer_1", "pm_1", "card").replace(PAN.encode(), b"")


def test_a_card_comes_back_without_its_security_code_once_that_is_wiped() -> None:
    sealed_card, _ = seal_card(CARD, SEALER, "mer_1", "pm_1")

    card = open_card(sealed_card, None, SEALER, "mer_1", "pm_1")

    assert (card.number, card.cvc) == (PAN, None)


@pytest.mark.parametrize("moved", [("mer_2", "pm_1"), ("mer_1", "pm_2")], ids=["merchant", "row"])
def test_a_card_moved_to_another_row_or_merchant_does_not_open(moved: tuple[str, str]) -> None:
    sealed_card, sealed_cvc = seal_card(CARD, SEALER, "mer_1", "pm_1")
    other_card, _ = seal_card(CARD, SEALER, *moved)

    with pytest.raises(SealBroken):
        open_card(sealed_card, None, SEALER, *moved)
    with pytest.raises(SealBroken):
        open_card(other_card, sealed_cvc, SEALER, *moved)


def test_a_card_in_the_place_of_its_code_or_its_request_does_not_open() -> None:
    sealed_card, _ = seal_card(CARD, SEALER, "mer_1", "pm_1")

    with pytest.raises(SealBroken):
        open_card(sealed_card, sealed_card, SEALER, "mer_1", "pm_1")
    with pytest.raises(SealBroken):
        KEYS.open_request(sealed_card, "mer_1", "pm_1", holds_card=True)


def test_a_card_without_a_security_code_has_none_to_seal() -> None:
    _, sealed_cvc = seal_card(Card(PAN, 12, 2030), SEALER, "mer_1", "pm_1")

    assert sealed_cvc is None


def test_an_account_is_handed_its_own_token_before_the_card_and_never_anothers() -> None:
    wallet = Wallet({"stripe_eu": "pm_1"}, CARD)

    assert wallet.instrument("stripe_eu") == Token("pm_1")
    assert wallet.instrument("adyen_eu") == CARD
    assert Wallet({"stripe_eu": "pm_1"}).instrument("adyen_eu") is None
    assert Wallet().instrument("stripe_eu") is None


SECRETS: Final = (PAN, CVC, "A. Shopper", "c2VhbGVk", "sealed-bytes", "2030")
HOLDERS: Final = {
    "Card": CARD,
    "Wallet": Wallet(card=CARD),
    "Call": Call("att_1", Kind.AUTHORIZE, {"number": PAN, "cvc": CVC}, "key_1", Money(1, "EUR")),
    "Request": Request(b"sealed-bytes", holds_card=True),
    "Method": Method("pm_1", "card", {}, None, b"sealed-bytes", b"sealed-bytes", reusable=True, wipe_at=None),
    "StoredMethod": StoredMethod(
        "pm_1",
        {},
        b"sealed-bytes",
        b"sealed-bytes",
        None,
        reusable=True,
        type="card",
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
    ),
    "SealedRow": SealedRow("pm_1", "mer_1", {"card": b"sealed-bytes"}),
    "StoredCustomer": StoredCustomer(
        "cus_1",
        "mer_1",
        livemode=False,
        reference=None,
        metadata={},
        personal={"name": "A. Shopper"},
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
        updated_at=datetime(2026, 11, 21, tzinfo=UTC),
    ),
    "UsedKey": UsedKey(b"print", "pay_1", None, 201, b"sealed-bytes"),
    "KeyUse": KeyUse(Key("mer_1", livemode=False, text="k"), b"print", answer=(201, b"sealed-bytes")),
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS.keys())
def test_what_holds_a_secret_does_not_show_it(holder: object) -> None:
    shown = f"{holder!r} {holder}"

    assert [secret for secret in SECRETS if secret in shown] == []


def test_a_keyring_does_not_show_its_keys() -> None:
    shown = repr(KEYS)

    subkeys = (KEYS.fingerprint, KEYS.provider, KEYS.api_key, KEYS.client_secret, KEYS.card, b"s" * 32, b"v" * 32)
    assert [key for key in subkeys if repr(key) in shown] == []


def test_a_new_api_key_is_shown_once_and_not_by_its_repr() -> None:
    key = make_key("secret", livemode=False)

    assert key.secret not in repr(key)
    assert key.secret in key.text
