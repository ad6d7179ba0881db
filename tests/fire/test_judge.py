"""The judge finds what it is there for: a proof that cannot fail proves nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fire.conftest import Books, Fire, Told

FEW = 60

Plant = Callable[["Books", list["Told"], dict[str, Any]], None]


def _a_second_charge(books: Books, told: list[Told], first: dict[str, Any]) -> None:
    books.charges[first["payment_reference"]].append(dict(first))


def _a_charge_that_is_gone(books: Books, told: list[Told], first: dict[str, Any]) -> None:
    books.charges[first["payment_reference"]].remove(first)


def _a_charge_of_nobody(books: Books, told: list[Told], first: dict[str, Any]) -> None:
    books.charges["att_of_nobody"] = [first]  # type: ignore[index]  # the reader's view is narrower


def _another_amount(books: Books, told: list[Told], first: dict[str, Any]) -> None:
    first["amount"] += 1


def _captured_twice(books: Books, told: list[Told], first: dict[str, Any]) -> None:
    entries = books.moved["captures"][first["payment_reference"]]
    entries.append(dict(entries[0]))


def _told_failure(books: Books, told: list[Told], first: dict[str, Any]) -> None:
    charged = next(each for each in told if each.order.kind.name == "charge")
    assert charged.charge is not None
    charged.charge = dataclasses.replace(charged.charge, status=402)


def _another_body_under_the_key(books: Books, told: list[Told], first: dict[str, Any]) -> None:
    sent = next(entry for entry in books.requests if entry["operation"] == "authorize")
    books.requests.append({**sent, "body_sha256": "another"})  # type: ignore[attr-defined]  # the reader's view is narrower


PLANTED: dict[Plant, str] = {
    _a_second_charge: "double",
    _a_charge_that_is_gone: "lost",
    _a_charge_of_nobody: "lost",
    _another_amount: "wrong",
    _captured_twice: "double",
    _told_failure: "wrong",
    _another_body_under_the_key: "wrong",
}


async def test_the_judge_finds_what_is_planted_into_a_clean_run(fire: Fire) -> None:
    fire.size = dataclasses.replace(fire.size, payments=FEW)
    await fire.open()

    async def nothing(fire: Fire) -> None:
        """All is well."""

    await fire.burn("nothing is lost", nothing, fire.ALWAYS)
    books, told = fire.books(), fire.merchants.told

    assert fire.judge(told, books).clean()
    for plant, where in PLANTED.items():
        spoiled, heard = copy.deepcopy((books, told))
        plain = next(each for each in heard if each.order.kind.name == "charge" and each.charge is not None)
        attempt = fire.attempt_of(plain.order.key)
        (first,) = spoiled.charges[attempt]
        plant(spoiled, heard, first)
        found = fire.judge(heard, spoiled)
        assert getattr(found, where), f"{plant.__name__}: {found}"
