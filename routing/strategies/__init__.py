"""Strategies: which account a payment goes to first, learned from what became of earlier ones. Pure, and of use by themselves.

    policy = AdaptivePolicy(["acme_us", "acme_eu"], {})
    for account, score, propensity in policy.rank({"currency": "EUR", "brand": "visa"}, ["acme_us", "acme_eu"], rng, now): ...
    policy.update({"currency": "EUR", "brand": "visa"}, "acme_us", "approved", now)

A context is a mapping of text to text. The keys that count are those of :data:`CONTEXT_KEYS`: ``currency``, ``brand``, ``funding``,
``issuer_country``, ``bin``, ``initiator``, ``amount_band`` and ``amount``, each of them optional; ``segment_by`` says which of them make
a segment. Outcomes are the words of :data:`OUTCOMES`: ``approved``, ``declined_provider``, ``declined_customer``,
``declined_ambiguous``, ``technical``. ``now`` is seconds. ``candidates`` are the accounts that can take this payment.

Nothing here does IO, starts a thread, reads a clock or draws from a global random: the caller hands in ``random.Random`` and ``now``,
and the same calls give the same answers in every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from routing.strategies.guarded import Guarded
from routing.strategies.policy import (
    CONSTRAINTS,
    CONTEXT_KEYS,
    OUTCOMES,
    SEGMENT_BY,
    STRATEGIES,
    Chosen,
    Explained,
    Fault,
    Policy,
    Ranked,
    Setting,
    checked,
    faults,
)
from routing.strategies.preferences import PREFERENCES, AdaptivePolicy

__all__ = [
    "CONSTRAINTS",
    "CONTEXT_KEYS",
    "OUTCOMES",
    "SEGMENT_BY",
    "STRATEGIES",
    "AdaptivePolicy",
    "Chosen",
    "Explained",
    "Fault",
    "Policy",
    "Ranked",
    "Setting",
    "faults",
    "make",
]


def make(
    name: str,
    accounts: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
) -> Policy:
    """The strategy ``name`` over ``accounts``, named in the order of preference that holds while nothing is known.

    ``settings`` are those of :data:`STRATEGIES`, and a document's constraints under ``"constraints"``. ``prior`` is a report of the past:
    account → approval rate (0..1), or account → ``{"approved": count, "attempts": count}``, the customers' declines left out where
    possible. Raises ``ValueError`` with every fault that :func:`faults` finds.
    """
    settings = checked(name, accounts, settings)
    return Guarded(PREFERENCES[name](accounts, settings), accounts, settings, prior)
