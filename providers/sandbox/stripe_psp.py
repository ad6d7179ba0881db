"""The simulated Stripe as a whole: its verbs, and what a request is about."""

from collections.abc import Callable, Mapping
from typing import Any

from providers.sandbox.books import Books
from providers.sandbox.cards import Card, luhn_valid
from providers.sandbox.faults import Subject
from providers.sandbox.postman import Postman
from providers.sandbox.stripe_account import StripeAccount
from providers.sandbox.stripe_disputes import Disputes
from providers.sandbox.stripe_intents import Features, Intents
from providers.sandbox.stripe_methods import Methods
from providers.sandbox.stripe_refunds import Refunds
from providers.sandbox.stripe_setups import Setups
from providers.sandbox.triggers import stripe_numbers_by_token


class StripePsp:
    """One Stripe account with everything that can be asked of it."""

    def __init__(
        self,
        books: Books,
        postman: Postman,
        *,
        settles_after_s: float,
        features: Features,
        time: Callable[[], float],
    ) -> None:
        self._account = StripeAccount(books, postman, time)
        self.methods = Methods(self._account)
        self.disputes = Disputes(self._account, settles_after_s=settles_after_s)
        self.intents = Intents(self._account, self.methods, self.disputes, features)
        self.setups = Setups(self._account, self.methods)
        self.refunds = Refunds(self._account, settles_after_s=settles_after_s)

    def clear(self) -> None:
        """Forget every object."""
        self._account.clear()

    def complete_challenge(self, psp_id: str, *, succeeded: bool) -> str | None:
        """Finish a shopper's challenge; gives the address to return to, if there is one."""
        if psp_id.startswith("seti_"):
            return self.setups.complete_challenge(psp_id, succeeded=succeeded)
        return self.intents.complete_challenge(psp_id, succeeded=succeeded)

    def lapse(self) -> None:
        """Cancel the authorizations that are too old by now, as Stripe does in the night."""
        self._account.lapse()

    def subject(self, operation: str, params: Mapping[str, Any], path_id: str) -> tuple[Subject, str | None]:
        """Currency, card and reference of a request, as far as it names or implies them."""
        dispute, setup = self._account.disputes.get(path_id), self._account.setups.get(path_id)
        named = dispute.intent if dispute else str(params.get("payment_intent", ""))
        intent = self._account.intents.get(path_id) or self._account.intents.get(named)
        method = intent.method if intent else setup.method if setup else None
        card = self._card_looked_at(params) or (method.card if method else None)
        metadata = params.get("metadata")
        reference = metadata.get("operation") if isinstance(metadata, dict) else None
        if reference is None and operation == "authorize" and intent is not None:
            reference = intent.reference  # confirm takes no metadata; the intent's own is meant
        currency = params.get("currency") or (intent.currency if intent else None)
        subject = Subject(
            operation=operation,
            currency=str(currency) if currency else None,
            bin=card.number if card else None,
            reference=reference,
        )
        return subject, card.masked if card else None

    def create_subject(self, params: Mapping[str, Any], path_id: str) -> tuple[Subject, str | None]:
        """Creating is only asking for money when it confirms as well."""
        confirms = params.get("confirm") == "true"
        return self.subject("authorize" if confirms else "create", params, path_id)

    def _card_looked_at(self, params: Mapping[str, Any]) -> Card | None:
        method_id = str(params.get("payment_method", ""))
        if method_id in self._account.methods:
            return self._account.methods[method_id].card
        number = stripe_numbers_by_token().get(method_id)
        for holder in (params, params.get("payment_method_data")):
            card = holder.get("card") if isinstance(holder, Mapping) else None
            if isinstance(card, Mapping) and luhn_valid(str(card.get("number", ""))):
                number = str(card["number"])
        return None if number is None else Card(number, 12, 2034)
