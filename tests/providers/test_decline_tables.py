"""Every documented code has our word, an unknown one keeps its own, and the shopper learns little."""

import csv
import itertools
from importlib.resources import files
from typing import Any

import pytest

from providers import adyen, stripe
from providers.declines import MESSAGES, OTHER, Action, Advice, NetworkAdvice, load_advice, look_up

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


NEVER, DATA, WAIT, LATER = (
    NetworkAdvice("mastercard", "03", Advice.NEVER),
    NetworkAdvice("mastercard", "01", Advice.DATA),
    NetworkAdvice("mastercard", "24", Advice.WAIT, 3600),
    NetworkAdvice("stripe", "try_again_later", Advice.LATER),
)


@pytest.mark.parametrize(
    ("code", "advice", "type_", "action", "wait_s"),
    [
        ("generic_decline", NEVER, "hard", Action.DO_NOT_RETRY, None),
        ("generic_decline", DATA, "soft", Action.ASK_NEW_METHOD, None),
        ("generic_decline", WAIT, "soft", Action.RETRY_LATER, 3600),
        ("generic_decline", LATER, "soft", Action.RETRY_OTHER_NOW, None),
        ("generic_decline", None, "soft", Action.RETRY_OTHER_NOW, None),
        ("expired_card", NEVER, "hard", Action.DO_NOT_RETRY, None),
        ("expired_card", LATER, "hard", Action.ASK_NEW_METHOD, None),
        ("stolen_card", LATER, "hard", Action.DO_NOT_RETRY, None),
        ("lost_card", WAIT, "hard", Action.DO_NOT_RETRY, None),
        ("expired_card", WAIT, "hard", Action.ASK_NEW_METHOD, None),
    ],
)
def test_the_networks_advice_stands_above_the_providers_code(
    code: Any, advice: Any, type_: Any, action: Any, wait_s: Any
) -> None:
    advised = look_up(stripe.DECLINES, code).advised(advice)

    assert (advised.type, advised.action, advised.wait_s) == (type_, action, wait_s)
    assert advised.provider_code == code
    assert advised.network_advice == (None if advice is None else advice.advice)


def test_of_several_advices_the_strictest_counts_in_any_order() -> None:
    plain = look_up(stripe.DECLINES, "generic_decline")

    for one, other in itertools.permutations((NEVER, DATA, WAIT, LATER), 2):
        both, swapped = plain.advised(one).advised(other), plain.advised(other).advised(one)
        assert both == swapped
    assert plain.advised(DATA).advised(LATER).action is Action.ASK_NEW_METHOD


@pytest.mark.parametrize("network", ["stripe", "mastercard", "visa"])
def test_every_code_of_a_network_has_one_advice(network: Any) -> None:
    table = load_advice(network)

    assert table
    for code, advice in table.items():
        assert (advice.network, advice.code) == (network, code)
        assert (advice.wait_s is not None) == (advice.advice is Advice.WAIT)
