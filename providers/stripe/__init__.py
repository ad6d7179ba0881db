"""Stripe: what we ask of it (``asks``), what its answers mean (``answers``), how its webhooks are read (``events``).

The rule of this package: money moves in one request only, the one that creates and confirms the PaymentIntent under the
operation's own key. A card number becomes a PaymentMethod first, and a card that is to be remembered gets a Customer, in
requests that move nothing; so what is kept of the operation afterwards names a ``pm_…`` and no card. Whatever comes back is
read by tables; an answer that is in none of them is ``Unknown``.
"""

from providers.stripe.adapter import StripeProvider
from providers.stripe.answers import DECLINES, ERRORS
from providers.stripe.asks import CAPABILITIES, UNITS
from providers.stripe.events import IGNORED, TOLD, why_ignored

__all__ = ["CAPABILITIES", "DECLINES", "ERRORS", "IGNORED", "TOLD", "UNITS", "StripeProvider", "why_ignored"]
