"""Stripe's refunds and the charges they are taken from."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from providers.sandbox import stripe_errors as errors
from providers.sandbox.answers import Answer
from providers.sandbox.books import Entry
from providers.sandbox.desk import Call, json_answer
from providers.sandbox.stripe_account import StripeAccount, list_answer
from providers.sandbox.stripe_amounts import check_step, money, parse_amount
from providers.sandbox.stripe_objects import Charge, Intent, Refund, charge_json, refund_json
from providers.sandbox.stripe_parameters import read_limit, read_metadata, refuse_unknown
from providers.sandbox.triggers import stripe_trigger

REFUND_REASONS = ("duplicate", "fraudulent", "requested_by_customer")


class Refunds:
    """The verbs of refunds and charges."""

    def __init__(self, account: StripeAccount, *, settles_after_s: float) -> None:
        self._account = account
        self._settles_after_s = settles_after_s

    def retrieve_charge(self, call: Call) -> Answer:
        """GET /v1/charges/{id}."""
        charge = self._account.charges.get(call.path_id)
        if charge is None:
            raise errors.no_such("charge", call.path_id, "id")
        return json_answer(200, charge_json(charge, self._account.intents[charge.intent]))

    def create_refund(self, call: Call) -> Answer:
        """POST /v1/refunds: by payment_intent or charge; never more than was captured."""
        params = call.params
        refuse_unknown("create_refund", params)
        charge, intent = self._refundable(params)
        left = charge.amount_captured - charge.amount_refunded
        amount = parse_amount(params["amount"], "amount") if "amount" in params else left
        check_step(amount, charge.currency)
        reason = params.get("reason")
        if reason is not None:
            errors.one_of("reason", str(reason), REFUND_REASONS)
        if charge.charged_back:
            raise errors.invalid_request(
                f"Charge {charge.id} has been charged back; cannot issue a refund.", code="charge_disputed", kept=True
            )
        if left == 0:
            raise errors.invalid_request(
                f"Charge {charge.id} has already been refunded.",
                code="charge_already_refunded",
                kept=True,
            )
        if amount > left:
            raise errors.invalid_request(
                f"Refund amount ({money(amount, charge.currency)}) is greater than unrefunded "
                f"amount on charge ({money(left, charge.currency)})",
                param="amount",
                kept=True,
            )
        refund = Refund(
            created=self._account.now(),
            intent=intent.id,
            charge=charge.id,
            amount=amount,
            currency=charge.currency,
            metadata=read_metadata(params),
            reason=reason,
        )
        charge.amount_refunded += amount
        self._account.refunds[refund.id] = refund
        self._account.refunds_by_intent.setdefault(intent.id, []).append(refund)
        entry = self._account.book(
            "refunds",
            intent,
            refund.id,
            amount=amount,
            reference=refund.metadata.get("operation"),
            key=call.key,
        )
        self._plan_refund(refund, entry, call)
        self._account.event(call, "refund.created", refund_json(refund))
        self._account.event(call, "charge.refunded", charge_json(charge, intent))
        return json_answer(200, refund_json(refund))

    def _refundable(self, params: Mapping[str, Any]) -> tuple[Charge, Intent]:
        intent_id, charge_id = params.get("payment_intent"), params.get("charge")
        if not intent_id and not charge_id:
            raise errors.invalid_request(
                "One of the following params should be provided for this request: payment_intent or charge.",
                code="parameter_missing",
            )
        charge = self._account.charges.get(str(charge_id))
        if charge_id and charge is None:
            raise errors.missing_object("charge", str(charge_id), "charge")
        intent = self._account.intents.get(str(intent_id) if charge is None else charge.intent)
        if intent is None:
            raise errors.missing_object("payment_intent", str(intent_id), "payment_intent")
        charge = charge or self._account.charges.get(intent.latest_charge or "")
        if charge is None or charge.amount_captured == 0:
            raise errors.unexpected_state(
                f"This PaymentIntent ({intent.id}) does not have a successful charge to refund.",
                self._account.intent_body(intent),
            )
        return charge, intent

    def _plan_refund(self, refund: Refund, entry: Entry, call: Call) -> None:
        """Most refunds succeed at once; test cards and ``fail_later`` take another way."""
        outcome = stripe_trigger(self._account.charges[refund.charge].method.card.number).outcome
        scripted = call.take_decision()
        fails = outcome == "refund_succeeded_then_failed" or scripted is not None
        waits = outcome == "refund_pending_then_succeeded" or scripted is not None
        if waits:
            refund.status = entry.status = "pending"
        if fails or waits:
            self._account.later(self._settles_after_s, partial(self._settle_refund, refund, entry, fails=fails))

    def _settle_refund(self, refund: Refund, entry: Entry, *, fails: bool) -> None:
        refund.status = entry.status = "failed" if fails else "succeeded"
        if fails:
            refund.failure_reason = "expired_or_canceled_card"
            self._account.charges[refund.charge].amount_refunded -= refund.amount
            self._account.event(None, "refund.failed", refund_json(refund))
        for kind in ("refund.updated", "charge.refund.updated"):
            self._account.event(None, kind, refund_json(refund))

    def retrieve_refund(self, call: Call) -> Answer:
        """GET /v1/refunds/{id}."""
        refund = self._account.refunds.get(call.path_id)
        if refund is None:
            raise errors.no_such("refund", call.path_id, "id")
        return json_answer(200, refund_json(refund))

    def list_refunds(self, call: Call) -> Answer:
        """GET /v1/refunds: of one intent or charge, or the newest of all."""
        params = call.params
        limit = read_limit(params)
        if "payment_intent" in params or "charge" in params:
            charge = self._account.charges.get(str(params.get("charge", "")))
            intent_id = charge.intent if charge else str(params.get("payment_intent", ""))
            found = list(reversed(self._account.refunds_by_intent.get(intent_id, [])))
        else:
            found = list(reversed(self._account.refunds.values()))
        if after := params.get("starting_after"):
            ids = [refund.id for refund in found]
            found = found[ids.index(str(after)) + 1 :] if after in ids else []
        data = [refund_json(refund) for refund in found[:limit]]
        return list_answer(data, url="/v1/refunds", more=len(found) > limit)
