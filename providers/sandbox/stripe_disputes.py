"""Stripe's disputes: test cards open them, evidence in two magic words wins or loses them, as in Stripe's test mode."""

from functools import partial

from providers.sandbox import stripe_errors as errors
from providers.sandbox.answers import Answer
from providers.sandbox.desk import Call, RefusedError, json_answer
from providers.sandbox.stripe_account import StripeAccount, list_answer
from providers.sandbox.stripe_dispute_objects import (
    EVIDENCE,
    Dispute,
    dispute_json,
    dispute_transaction_json,
    fraud_warning_json,
)
from providers.sandbox.stripe_objects import Charge
from providers.sandbox.stripe_parameters import page_of, read_metadata, refuse_unknown
from providers.sandbox.triggers import stripe_trigger

OPEN = ("needs_response", "warning_needs_response")

# https://docs.stripe.com/testing#evidence: what the bank decides when this stands in `uncategorized_text`, for a dispute
# and for an inquiry. Any other evidence is under review for ever.
VERDICTS = {
    "winning_evidence": ("won", "warning_closed"),
    "losing_evidence": ("lost", "warning_closed"),
    "escalate_inquiry_evidence": (None, "needs_response"),
}


class Disputes:
    """The verbs of disputes, and what the shopper's bank does by itself."""

    def __init__(self, account: StripeAccount, *, settles_after_s: float) -> None:
        self._account = account
        self._settles_after_s = settles_after_s

    def expect(self, charge: Charge) -> None:
        """A charge was captured: its card may mean that it is disputed a little later."""
        trigger = stripe_trigger(charge.method.card.number)
        if trigger.outcome.startswith("succeeded_then_"):
            reason = trigger.code or "general"
            self._account.later(self._settles_after_s, partial(self._strike, charge, trigger.outcome, reason))

    def retrieve(self, call: Call) -> Answer:
        """GET /v1/disputes/{id}."""
        return json_answer(200, dispute_json(self._in_path(call)))

    def list(self, call: Call) -> Answer:
        """GET /v1/disputes: newest first, of all, of one charge or of one intent."""
        found = [
            each
            for each in reversed(self._account.disputes.values())
            if call.params.get("charge", each.charge) == each.charge
            and call.params.get("payment_intent", each.intent) == each.intent
        ]
        page, more = page_of(found, call.params, "dispute")
        return list_answer([dispute_json(each) for each in page], url="/v1/disputes", more=more)

    def update(self, call: Call) -> Answer:
        """POST /v1/disputes/{id}: adds evidence, and submits it unless told not to."""
        params = call.params
        refuse_unknown("update_dispute", params)
        dispute, evidence = self._in_path(call), params.get("evidence") or {}
        if not isinstance(evidence, dict):
            raise errors.invalid_request("Invalid object", param="evidence")
        for name in evidence:
            if name not in EVIDENCE:
                message = f"Received unknown parameter: evidence[{name}]"
                raise errors.invalid_request(message, code="parameter_unknown", param=f"evidence[{name}]")
        metadata = read_metadata(params)
        if dispute.status not in OPEN:
            raise self._over(dispute)
        dispute.evidence |= {name: str(text) for name, text in evidence.items()}
        dispute.metadata |= metadata
        if params.get("submit", "true") == "true":
            dispute.submissions += 1
            dispute.status = "warning_under_review" if dispute.inquiry else "under_review"
            self._account.later(self._settles_after_s, partial(self._decide, dispute))
        self._account.event(call, "charge.dispute.updated", dispute_json(dispute))
        return json_answer(200, dispute_json(dispute))

    def close(self, call: Call) -> Answer:
        """POST /v1/disputes/{id}/close: the merchant gives it up."""
        refuse_unknown("close_dispute", call.params)
        dispute = self._in_path(call)
        if dispute.status not in OPEN:
            raise self._over(dispute)
        dispute.status = "warning_closed" if dispute.inquiry else "lost"
        self._account.event(call, "charge.dispute.closed", dispute_json(dispute))
        return json_answer(200, dispute_json(dispute))

    def _in_path(self, call: Call) -> Dispute:
        dispute = self._account.disputes.get(call.path_id)
        if dispute is None:
            raise errors.no_such("dispute", call.path_id, "dispute")
        return dispute

    def _over(self, dispute: Dispute) -> RefusedError:
        return errors.invalid_request(f"This dispute has a status of {dispute.status}.", kept=True)

    def _strike(self, charge: Charge, outcome: str, reason: str) -> None:
        if outcome == "succeeded_then_early_fraud_warning":
            self._account.event(
                None, "radar.early_fraud_warning.created", fraud_warning_json(charge, self._account.now())
            )
            return
        dispute = Dispute(
            created=self._account.now(),
            charge=charge.id,
            intent=charge.intent,
            amount=charge.amount_captured,
            currency=charge.currency,
            brand=charge.method.card.brand,
            reason=reason,
            status="warning_needs_response" if outcome == "succeeded_then_inquiry" else "needs_response",
        )
        self._account.disputes[dispute.id] = dispute
        charge.disputed = True
        self._account.event(None, "charge.dispute.created", dispute_json(dispute))
        if not dispute.inquiry:
            self._withdraw(dispute)

    def _withdraw(self, dispute: Dispute) -> None:
        self._account.charges[dispute.charge].charged_back = True
        dispute.transactions.append(dispute_transaction_json(dispute, withdrawn=True, at=self._account.now()))
        self._account.event(None, "charge.dispute.funds_withdrawn", dispute_json(dispute))

    def _decide(self, dispute: Dispute) -> None:
        verdicts = VERDICTS.get(dispute.evidence.get("uncategorized_text", ""), (None, None))
        verdict = verdicts[dispute.inquiry]
        if verdict is None:
            return
        dispute.status = verdict
        if verdict == "needs_response":
            self._account.event(None, "charge.dispute.updated", dispute_json(dispute))
            self._withdraw(dispute)
            return
        if verdict == "won":
            self._account.charges[dispute.charge].charged_back = False
            dispute.transactions.append(dispute_transaction_json(dispute, withdrawn=False, at=self._account.now()))
        self._account.event(None, "charge.dispute.closed", dispute_json(dispute))
        if verdict == "won":
            self._account.event(None, "charge.dispute.funds_reinstated", dispute_json(dispute))
