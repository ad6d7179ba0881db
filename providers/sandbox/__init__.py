"""Stateful simulators of Stripe, Adyen and a PSP that does not exist, over real HTTP, with their own books.

The official SDKs run against them unchanged. They speak the PSPs' wire formats, take the
documented test cards and triggers, honour idempotency keys as each PSP does, send signed webhooks
and note every movement of money and every request. Faults can be scripted for the next answers.

This room shares no code with the gateway or its adapters and imports neither SDK: a mistake made
on one side must not be repeated, and so hidden, on the other.

Reading order: ``desk`` (the way of every request), ``stripe_psp``, ``adyen_psp`` and ``neutral_psp``
(what the PSPs do), ``clock`` (when they do it), ``faults`` (what can go wrong), ``books`` (the truth), ``control`` (the paths under
``/_sandbox``), ``server``.
"""

from providers.sandbox.adyen_app import adyen_app
from providers.sandbox.config import SandboxConfig
from providers.sandbox.neutral_app import neutral_app
from providers.sandbox.server import run, serve
from providers.sandbox.stripe_app import stripe_app

__all__ = ["SandboxConfig", "adyen_app", "neutral_app", "run", "serve", "stripe_app"]
