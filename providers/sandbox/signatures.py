"""How both PSPs sign the webhooks they send."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any


def stripe_signature(body: bytes, secret: str, timestamp: int) -> str:
    """The ``Stripe-Signature`` header: the whole secret is the key, prefix and all."""
    signed = f"{timestamp}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def adyen_signing_string(item: Mapping[str, Any]) -> str:
    """The eight fields Adyen signs, in its order; absent ones are empty and nothing is escaped."""
    amount = item.get("amount") or {}
    fields = (
        item.get("pspReference"),
        item.get("originalReference"),
        item.get("merchantAccountCode"),
        item.get("merchantReference"),
        amount.get("value"),
        amount.get("currency"),
        item.get("eventCode"),
        item.get("success"),
    )
    return ":".join("" if value is None else str(value) for value in fields)


def adyen_signature(item: Mapping[str, Any], hmac_key_hex: str) -> str:
    """The ``hmacSignature`` of one notification item; the key is given in hexadecimal."""
    key = binascii.unhexlify(hmac_key_hex)
    digest = hmac.new(key, adyen_signing_string(item).encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()
