"""Adyen: one merchant account, on the official SDK.

Read in this order: :mod:`~providers.adyen.tables` (what it can do and what its codes mean), :mod:`~providers.adyen.asks`
(what we send), :mod:`~providers.adyen.answers` (what comes of it), :mod:`~providers.adyen.events` (what it tells later) and
:mod:`~providers.adyen.adapter`, which puts them together.
"""

from providers.adyen.adapter import API_VERSION, DISPUTES_PATH, AdyenProvider
from providers.adyen.tables import (
    CANCEL_OR_REFUND,
    CAPABILITIES,
    CARD_ERRORS,
    DECLINES,
    DISPUTES,
    EVENTS,
    IGNORED,
    NOTICES,
    REASONS,
    TOKENS,
    UNITS,
)

__all__ = [
    "API_VERSION",
    "CANCEL_OR_REFUND",
    "CAPABILITIES",
    "CARD_ERRORS",
    "DECLINES",
    "DISPUTES",
    "DISPUTES_PATH",
    "EVENTS",
    "IGNORED",
    "NOTICES",
    "REASONS",
    "TOKENS",
    "UNITS",
    "AdyenProvider",
]
