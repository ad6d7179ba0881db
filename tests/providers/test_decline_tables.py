"""Every documented code has our word, an unknown one keeps its own, and the shopper learns little."""

import csv
from importlib.resources import files
from typing import Any

import pytest

from providers import adyen, stripe
from providers.declines import MESSAGES, OTHER, Action, load_advice, look_up

TABLES = {"stripe_declines": stripe.DECLINES, "adyen_refusals": adyen.DECLINES}


def rows(name: Any) -> Any:
    text = (files("providers") / "data" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize("name", TABLES)
def test_every_documented_code_maps(name: Any) -> None:
    for row in rows(name):
        decline = look_up(TABLES[name], row["code"])

        assert decline.code == row["normalized"]
        assert decline.provider_code == row["code"]
        assert decline.type in ("soft", "hard")
        assert isinstance(decline.action, Action)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("code", ["a_new_code", "", None])
def test_an_unknown_code_is_other_and_keeps_its_word(name: Any, code: Any) -> None:
    decline = look_up(TABLES[name], code)

    assert (decline.code, decline.type, decline.action) == (OTHER, "soft", Action.RETRY_LATER)
    assert decline.provider_code == code


@pytest.mark.parametrize("name", TABLES)
def test_no_message_tells_a_thief_what_was_noticed(name: Any) -> None:
    messages = {decline.message for decline in TABLES[name].values()} | set(MESSAGES.values())

    for message in messages:
        assert not {"stolen", "lost", "fraud"} & set(message.lower().replace(".", "").split())


def test_every_reason_in_words_is_a_documented_code() -> None:
    assert set(adyen.REASONS.values()) <= set(adyen.DECLINES)
    assert set(adyen.CARD_ERRORS.values()) <= set(adyen.DECLINES)


@pytest.mark.parametrize("row", rows("adyen_refusals"), ids=lambda row: row["code"])
def test_the_words_of_a_refusal_lead_to_its_code(row: Any) -> None:
    if row["code"] in ("0", "50"):
        return  # no refusal of its own, and one that is only sent as a code
    words = row["meaning"].partition(":")[0].partition("(")[0].lower().strip()
    found = {code for reason, code in adyen.REASONS.items() if words.startswith(reason)}

    assert row["code"] in found


def test_advice_never_to_try_again_wins_over_the_table() -> None:
    soft, advice = look_up(stripe.DECLINES, "generic_decline"), load_advice("stripe")

    assert soft.advised(advice["do_not_try_again"]).action is Action.DO_NOT_RETRY
    assert soft.advised(advice["try_again_later"]).action is soft.action
    assert soft.advised(None) == soft
