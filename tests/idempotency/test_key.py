"""A key: how it is spelled, whose it is, and what it was used for."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from idempotency.key import KEY_MAX, Key, KeyMalformed, fingerprint, parse

SECRET: Final = b"s" * 32
VISIBLE: Final = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
PLAIN: Final = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"\\')

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(st.text(max_size=6), json_values, max_size=6)


# --- How it is spelled ------------------------------------------------------------------------------------------------


@given(st.text(PLAIN, min_size=1, max_size=KEY_MAX))
def test_the_quoted_and_the_bare_spelling_are_one_key(text: str) -> None:
    assert parse(text) == parse(f'"{text}"') == parse(f'  "{text}"\t') == text


@given(st.text(VISIBLE, min_size=1, max_size=100))
def test_a_quoted_key_may_hold_quotes_and_backslashes(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')

    assert parse(f'"{escaped}"') == text


@pytest.mark.parametrize("length", [1, 36, KEY_MAX])
def test_a_key_has_1_to_255_characters(length: int) -> None:
    assert parse("k" * length) == "k" * length


@pytest.mark.parametrize(
    "header",
    [
        "k" * (KEY_MAX + 1),
        f'"{"k" * (KEY_MAX + 1)}"',
        '""',
        "café",
        '"café"',
        "a\tb",
        "a\x00b",
        "a\x7fb",
        "schlüssel",
        "キー",
    ],
)
def test_what_is_no_key_is_refused_without_being_repeated(header: str) -> None:
    with pytest.raises(KeyMalformed, match="1 to 255 printable ASCII") as refused:
        parse(header)

    assert header not in str(refused.value)


@pytest.mark.parametrize("header", [None, "", "   ", "\t"])
def test_a_missing_key_says_what_to_send(header: str | None) -> None:
    with pytest.raises(KeyMalformed, match="Send an Idempotency-Key header"):
        parse(header)


@given(st.text(max_size=300))
def test_any_header_is_a_key_of_the_database_or_is_refused(header: str) -> None:
    try:
        key = parse(header)
    except KeyMalformed:
        return

    assert 1 <= len(key.encode()) <= KEY_MAX


# --- Whose it is ------------------------------------------------------------------------------------------------------

keys = st.builds(
    Key, st.from_regex(r"mer_[a-z0-9_]{1,8}", fullmatch=True), st.booleans(), st.text(VISIBLE, min_size=1, max_size=12)
)


@given(keys, keys)
def test_two_merchants_or_two_modes_never_share_a_slot(one: Key, other: Key) -> None:
    assert (one.slot == other.slot) is (one == other)


def test_the_same_text_of_another_merchant_or_mode_is_another_key() -> None:
    slots = {Key(merchant, live, "k:live:1").slot for merchant in ("mer_a", "mer_b") for live in (True, False)}

    assert len(slots) == 4


# --- What it was used for ---------------------------------------------------------------------------------------------


def shuffled(value: Any) -> Any:
    """The same JSON value with every object's keys in the opposite order."""
    if isinstance(value, dict):
        return {name: shuffled(inner) for name, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


def print_of(body: Any, *, secret: bytes = SECRET, route: str = "POST /v1/payments", path_id: str = "") -> bytes:
    return fingerprint(secret, route, path_id, body)


@given(bodies)
def test_neither_white_space_nor_the_order_of_keys_makes_another_request(body: dict[str, Any]) -> None:
    respaced = json.loads(json.dumps(shuffled(body), indent=3))

    assert print_of(respaced) == print_of(body)


@given(bodies, bodies)
def test_any_other_value_is_another_request(one: dict[str, Any], other: dict[str, Any]) -> None:
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))

    assert print_of(one) != print_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"amount": 1999}, {"amount": 1998}),
        ({"amount": 1999}, {"amount": "1999"}),
        ({"confirm": True}, {"confirm": 1}),
        ({"confirm": True}, {}),
        ({"metadata": {"a": "b"}}, {"metadata": {"b": "a"}}),
        ({"list": [1, 2]}, {"list": [2, 1]}),
        ({"reference": None}, {}),
    ],
)
def test_what_looks_alike_is_another_request(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert print_of(one) != print_of(other)


def test_the_same_body_for_another_route_or_payment_is_another_request() -> None:
    body: dict[str, Any] = {}
    prints = {
        print_of(body, route="POST /v1/payments/{id}/cancel", path_id="pay_1"),
        print_of(body, route="POST /v1/payments/{id}/capture", path_id="pay_1"),
        print_of(body, route="POST /v1/payments/{id}/cancel", path_id="pay_2"),
        print_of(body),
    }

    assert len(prints) == 4


def test_a_fingerprint_is_keyed_so_that_it_is_no_hash_of_a_card_number() -> None:
    body = {"number": "4242424242424242"}

    assert print_of(body) != print_of(body, secret=b"t" * 32)
    assert len(print_of(body)) == 32
