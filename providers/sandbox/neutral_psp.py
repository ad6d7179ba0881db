"""The neutral PSP: charges are made, settled, released and given back, and its books say what really happened."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from providers.sandbox.answers import Answer
from providers.sandbox.books import Book, Books, Entry
from providers.sandbox.cards import Card, luhn_valid
from providers.sandbox.desk import Call, RefusedError, json_answer
from providers.sandbox.faults import Subject
from providers.sandbox.neutral_objects import (
    ASKS_SHOPPER,
    BANK_SAYS_NO,
    REFUSALS,
    TOKENS,
    Charge,
    Move,
    as_units,
    new_id,
)

REFERENCE_MAX = 60
_BOOKS: Mapping[str, Book] = {"settle": "captures", "release": "voids", "give_back": "refunds"}


def refusal(status: int, code: str, detail: str, *, kept: bool = False) -> RefusedError:
    """An error in this PSP's words. Nothing was done; ``kept`` is whether its request id remembers that."""
    return RefusedError(json_answer(status, {"error": {"code": code, "detail": detail}}), kept=kept)


class NeutralPsp:
    """All charges of one account."""

    def __init__(self, books: Books, now: Callable[[], float]) -> None:
        self._books = books
        self._now = now
        self.clear()

    def lapse(self) -> None:
        """Nothing runs out at this PSP: a charge is held until it is settled or released."""

    def clear(self) -> None:
        """Forget every object."""
        self._charges: dict[str, Charge] = {}
        self._by_reference: dict[str, Charge] = {}
        self._closed: set[str] = set()
        self._proofs: dict[str, tuple[str, bool]] = {}

    # -- what a request is about, for faults and the log

    def charge_subject(self, params: Mapping[str, Any], path_id: str) -> tuple[Subject, str | None]:
        """A new charge: everything is in the request."""
        card = _card(params.get("source"))
        money = params.get("money")
        currency = money.get("currency") if isinstance(money, dict) else None
        subject = Subject("authorize", _text(currency), card.number if card else None, _text(params.get("reference")))
        return subject, card.masked if card else None

    def subject(self, operation: str) -> Callable[[Mapping[str, Any], str], tuple[Subject, str | None]]:
        """What follows a charge: the reference is its own, the rest is the charge's."""

        def about(params: Mapping[str, Any], path_id: str) -> tuple[Subject, str | None]:
            charge = self._charges.get(path_id) or self._by_reference.get(str(params.get("charge_reference")))
            own = _text(params.get("reference"))
            if charge is None:
                return Subject(operation, reference=own), None
            return Subject(operation, charge.currency, charge.card.number, own or charge.reference), charge.card.masked

        return about

    # -- charges

    def charge(self, call: Call) -> Answer:
        """POST /charges: held, or settled at once; refused; or waiting for the shopper."""
        params = call.params
        reference = _reference(params, "reference")
        money = params.get("money")
        units, currency = _money(money if isinstance(money, dict) else {})
        card = _card(params.get("source"))
        if card is None:
            raise refusal(422, "bad_source", "source is a card number or a card token that is known here")
        if params.get("settle") not in ("now", "later"):
            raise refusal(422, "bad_settle", "settle is now or later")
        if not _text(params.get("return_to")):
            raise refusal(422, "bad_return_to", "return_to is where the shopper comes back to")
        if reference in self._closed:
            raise refusal(422, "reference_closed", "this reference was released before its charge came")
        charge = Charge(
            reference=reference,
            units=units,
            currency=currency,
            card=card,
            settle_now=params["settle"] == "now",
            return_to=str(params["return_to"]),
            request_id=call.key or "",
        )
        self._charges[charge.charge_id] = self._by_reference[reference] = charge
        if card.number in ASKS_SHOPPER or params.get("ask_shopper") is True:
            charge.state = "asking_shopper"
            self._tell(call, charge, "charge.asking_shopper", reference)
        else:
            self._decide(call, charge)
        return json_answer(200, charge.as_json(call.base_url))

    def finish(self, call: Call) -> Answer:
        """POST /charges/{id}/finish with the proof that the shopper brought back."""
        charge = self._charge(call)
        charge_id, succeeded = self._proofs.get(str(call.params.get("proof")), ("", False))
        if charge_id != charge.charge_id:
            raise refusal(422, "bad_proof", "this proof does not belong to this charge")
        if charge.state == "asking_shopper":
            self._decide(call, charge, refused=None if succeeded else "shopper_not_confirmed")
        return json_answer(200, charge.as_json(call.base_url))

    def complete_challenge(self, charge_id: str, *, succeeded: bool) -> str | None:
        """The shopper's answer on the challenge page; gives the address to return to. KeyError for a strange charge."""
        charge = self._charges[charge_id]
        proof = new_id("pf")
        self._proofs[proof] = (charge_id, succeeded)
        return f"{charge.return_to}{'&' if '?' in charge.return_to else '?'}proof={proof}"

    def get(self, call: Call) -> Answer:
        """GET /charges/{id}."""
        return json_answer(200, self._charge(call).as_json(call.base_url))

    def find(self, call: Call) -> Answer:
        """GET /charges?reference=…: the charge of that reference, or none."""
        found = self._by_reference.get(str(call.params.get("reference")))
        return json_answer(200, {"charges": [found.as_json(call.base_url)] if found else []})

    def _decide(self, call: Call, charge: Charge, *, refused: str | None = None) -> None:
        """The issuer's answer, in the books and by webhook."""
        charge.why = refused or REFUSALS.get(charge.card.number) or self._scripted(call)
        if charge.why is None and charge.card.expired():
            charge.why = "card_expired"
        if charge.why is not None:
            charge.state = "refused"
            self._book("declines", charge, charge.charge_id, charge.reference, charge.units, "declined", charge.why)
        else:
            charge.state, charge.held = "held", charge.units
            self._book("authorisations", charge, charge.charge_id, charge.reference, charge.units, "authorised")
            if charge.settle_now:
                charge.state, charge.settled = "settled", charge.units
                self._book("captures", charge, charge.charge_id, charge.reference, charge.units, "succeeded")
                self._books.mark_authorisation(charge.charge_id, "captured")
        self._tell(call, charge, f"charge.{charge.state}", charge.reference)

    def _scripted(self, call: Call) -> str | None:
        rule = call.take_decision()
        return None if rule is None else str(rule.parameters["code"] or BANK_SAYS_NO)

    # -- moves

    def settle(self, call: Call) -> Answer:
        """POST /charges/{id}/settle: all or a part of what is held; ``last`` lets the rest go."""
        charge = self._charge(call)
        units = self._part(call, charge)
        if charge.state != "held":
            raise self._refused_move(call, charge, units, "nothing_held", "no money of this charge is held")
        if units > charge.held - charge.settled:
            raise self._refused_move(call, charge, units, "too_much", "that is more than is held")
        charge.settled += units
        if call.params.get("last") is True or charge.settled == charge.held:
            charge.state = "settled"
        self._books.mark_authorisation(charge.charge_id, "captured")
        return self._moved(call, charge, "settle", units)

    def give_back(self, call: Call) -> Answer:
        """POST /charges/{id}/give_back: all or a part of what was settled."""
        charge = self._charge(call)
        units = self._part(call, charge)
        if units > charge.settled - charge.given_back:
            raise self._refused_move(
                call, charge, units, "too_much", "that is more than was settled and not given back"
            )
        charge.given_back += units
        return self._moved(call, charge, "give_back", units)

    def release(self, call: Call) -> Answer:
        """POST /charges/{id}/release: what is held, or a charge that waits for its shopper."""
        return self._release(call, self._charge(call))

    def release_by_reference(self, call: Call) -> Answer:
        """POST /releases by ``charge_reference``: also closes it, so a charge still on its way is refused."""
        reference = _reference(call.params, "charge_reference")
        found = self._by_reference.get(reference)
        if found is not None:
            return self._release(call, found)
        self._closed.add(reference)
        return json_answer(200, {"closed": reference, "reference": _reference(call.params, "reference")})

    def _release(self, call: Call, charge: Charge) -> Answer:
        units = charge.held
        if not (charge.state == "asking_shopper" or (charge.state == "held" and not charge.settled)):
            raise self._refused_move(call, charge, units, "nothing_held", "no money of this charge is held")
        charge.state = "released"
        self._books.mark_authorisation(charge.charge_id, "voided")
        return self._moved(call, charge, "release", units)

    def _moved(self, call: Call, charge: Charge, kind: str, units: int) -> Answer:
        move = Move(kind, _reference(call.params, "reference"), units)
        charge.moves.append(move)
        self._book(_BOOKS[kind], charge, move.move_id, move.reference, units, "succeeded", key=call.key)
        self._tell(call, charge, f"move.{kind}", move.reference, move)
        return json_answer(200, charge.move_json(move))

    def _refused_move(self, call: Call, charge: Charge, units: int, code: str, detail: str) -> RefusedError:
        reference = _text(call.params.get("reference")) or ""
        self._book("rejections", charge, new_id("no"), reference, units, "failed", code, key=call.key)
        return refusal(422, code, detail, kept=True)

    # -- shared by the verbs

    def _charge(self, call: Call) -> Charge:
        charge = self._charges.get(call.path_id)
        if charge is None:
            raise refusal(404, "no_such_charge", "there is no charge of this id")
        return charge

    def _part(self, call: Call, charge: Charge) -> int:
        _reference(call.params, "reference")
        units, currency = _money(call.params)
        if currency != charge.currency:
            raise refusal(422, "bad_currency", "the charge is in another currency")
        return units

    def _book(
        self,
        book: Book,
        charge: Charge,
        entry_id: str,
        reference: str,
        units: int,
        status: str,
        reason: str | None = None,
        *,
        key: str | None = None,
    ) -> None:
        entry = Entry(
            id=entry_id,
            payment=charge.charge_id,
            reference=reference,
            payment_reference=charge.reference,
            amount=units,
            currency=charge.currency,
            key=key or charge.request_id,
            status=status,
            reason=reason,
        )
        self._books.write(book, entry)

    def _tell(self, call: Call, charge: Charge, kind: str, reference: str, move: Move | None = None) -> None:
        event = {
            "event_id": new_id("ev"),
            "event": kind,
            "at": datetime.fromtimestamp(self._now(), UTC).isoformat(),
            "reference": reference,
            "charge": charge.as_json(call.base_url),
            "move": None if move is None else charge.move_json(move),
        }
        call.events.append((str(event["event_id"]), kind, orjson.dumps(event)))


def _card(source: object) -> Card | None:
    """The card of a source, by its number or by a token that is known here."""
    match source:
        case {"token": str(token)} if token in TOKENS:
            return Card(TOKENS[token], 12, 2034)
        case {"number": str(number), "expires": str(expires), **rest} if luhn_valid(number):
            found = re.fullmatch("(0[1-9]|1[0-2])/(20[0-9]{2})", expires)
            return Card(number, int(found[1]), int(found[2]), _text(rest.get("code"))) if found else None
        case _:
            return None


def _money(given: Mapping[str, Any]) -> tuple[int, str]:
    units = as_units(given.get("value"), given.get("currency"))
    if units is None:
        raise refusal(422, "bad_value", "value is a text with exactly the currency's decimals, above zero")
    return units, str(given["currency"])


def _reference(params: Mapping[str, Any], name: str) -> str:
    reference = params.get(name)
    if not isinstance(reference, str) or not 0 < len(reference) <= REFERENCE_MAX:
        raise refusal(422, "bad_reference", f"{name} is a text of at most {REFERENCE_MAX} characters")
    return reference


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
