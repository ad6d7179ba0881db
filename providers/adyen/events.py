"""How Adyen's webhooks are proved and read. There are two envelopes.

Of an item of a standard notification only what moves money is signed: references, merchant account, amount, event code and
success. The rest (reason, card, dispute details) is information, and no token is taken from it. Tokenization webhooks are one
object each, and the whole body is signed, in a header:
https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from Adyen.util import generate_notification_sig, generate_payload_sig

from providers.adyen.answers import Amount, approved, card_facts, decline, refused, text
from providers.adyen.tables import (
    ACTIONS,
    CANCEL_OR_REFUND,
    DISPUTE_REASONS,
    DISPUTES,
    EVENTS,
    NO_RESPONSE_NEEDED,
    NOTICES,
    OFFER_CLOSED,
    OTHER_DISPUTE,
    PREFIXES,
    REASONS,
    TOKENS,
    UNDONE,
    UNITS,
    VERDICTS,
)
from providers.contract import (
    Approved,
    Declined,
    DisputeNews,
    DisputeStatus,
    Event,
    Kind,
    Notice,
    NoticeKind,
    TokenNews,
    WebhookRefused,
)
from providers.declines import failed_after_all
from providers.money import Money, MoneyError, from_provider


class _Entry(msgspec.Struct):
    item: msgspec.Raw = msgspec.field(name="NotificationRequestItem")


class _Webhook(msgspec.Struct, rename="camel"):
    notification_items: list[_Entry]
    live: Literal["true", "false"] | bool | None = None


class Item(msgspec.Struct, rename="camel"):
    """A NotificationRequestItem after :func:`_normal`: every signed field is there."""

    psp_reference: str
    original_reference: str
    merchant_account_code: str
    merchant_reference: str
    event_code: str
    success: str
    amount: dict[str, Any]
    event_date: str = ""
    reason: str | None = None
    additional_data: dict[str, Any] = {}


class _Stored(msgspec.Struct, rename="camel"):
    merchant_account: str | None = None
    stored_payment_method_id: str | None = None
    shopper_reference: str | None = None


class Message(msgspec.Struct, rename="camel"):
    """A webhook of the other envelope: one event, signed as a whole."""

    type: str
    environment: str
    created_at: str
    data: _Stored
    event_id: str | None = None


def message(body: bytes) -> Message | None:
    """The one event of the other envelope, or ``None`` for a standard notification, and for what is neither."""
    try:
        return msgspec.json.decode(body, type=Message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def signed_whole(headers: Mapping[str, str], body: bytes, key: str) -> bool:
    """Whether the header's signature of these very bytes is that of ``key``. Whatever cannot be checked is not."""
    sent = next((value for name, value in headers.items() if name.lower() == "hmacsignature"), "")
    try:
        return hmac.compare_digest(generate_payload_sig(body, key), sent.encode("ascii"))
    except (ValueError, TypeError):
        return False


@dataclass(frozen=True, slots=True)
class Batch:
    """What came in one webhook: every item as it is signed and as it is read."""

    items: Sequence[tuple[Mapping[str, Any], Item]]
    bodies: Sequence[bytes | None]
    """Of each item, a webhook that brings it alone; nothing where it is alone."""
    live: bool | None
    """Whether it says of itself that it is of real money. Nobody signs that."""


def batch(body: bytes) -> Batch:
    """The items of a body. Raises :class:`WebhookRefused` for what is no Adyen webhook."""
    try:
        webhook = msgspec.json.decode(body, type=_Webhook)
        raw = [entry.item for entry in webhook.notification_items]
        found = [_normal(msgspec.json.decode(item, type=dict[str, Any])) for item in raw]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WebhookRefused("the body is not an Adyen webhook", "unreadable") from error
    if not found:
        raise WebhookRefused("the webhook is empty", "unreadable")
    live = webhook.live if webhook.live is None else webhook.live in {"true", True}
    several = len(raw) > 1
    return Batch(found, [_alone(item, live=bool(live)) if several else None for item in raw], live)


def _alone(item: msgspec.Raw, *, live: bool) -> bytes:
    live_word = b"true" if live else b"false"
    return b'{"live":"%s","notificationItems":[{"NotificationRequestItem":%s}]}' % (live_word, bytes(item))


def _normal(item: Mapping[str, Any]) -> tuple[Mapping[str, Any], Item]:
    """The item as Adyen signs it: an absent field is empty, `true` is in small letters.

    The SDK would sign ``None`` and ``True`` as Python writes them, and break without an amount.
    """
    amount = msgspec.convert(item.get("amount") or {}, dict[str, Any])
    success = item.get("success")
    normal = {
        **item,
        "originalReference": item.get("originalReference") or "",
        "merchantReference": item.get("merchantReference") or "",
        "amount": {"value": amount.get("value", ""), "currency": amount.get("currency", "")},
        "success": str(success).lower() if isinstance(success, bool) else success,
        "additionalData": item.get("additionalData") or {},
    }
    return normal, msgspec.convert(normal, Item)


def signed(item: Mapping[str, Any], key: str) -> bool:
    """Whether the item bears the signature of ``key``. Whatever cannot be checked does not."""
    try:
        sent = str(item["additionalData"]["hmacSignature"]).encode("ascii")
        unsigned = {name: value for name, value in item.items() if name != "additionalData"}
        return hmac.compare_digest(generate_notification_sig(unsigned, key), sent)
    except (ValueError, TypeError, KeyError):
        return False


def translated(item: Item, alone: bytes | None = None) -> Event:
    """The item in our words. One without use for us, or unreadable, is kept as it is. ``alone`` as in :class:`Batch`."""
    kind, happened = _means(item)
    outcome = dispute = notice = None
    try:
        if kind is not None:
            outcome = _told(item, kind) if happened else _told_no(item, kind)
        else:
            dispute, notice = _dispute(item), _notice(item)
    except (MoneyError, msgspec.ValidationError):
        kind = None
    ours = kind is not None and item.merchant_reference.startswith(PREFIXES[kind])
    return Event(
        event_id=_event_id(item),
        type=item.event_code,
        kind=kind,
        operation_id=item.merchant_reference if ours else None,
        provider_id=item.psp_reference,
        provider_payment_id=item.original_reference or item.psp_reference,
        outcome=outcome,
        occurred_at=_moment(item.event_date),
        lapsed=item.event_code == "EXPIRE",
        dispute=dispute,
        alone=alone,
        notice=notice,
    )


def translated_message(told: Message) -> Event:
    """The event of the other envelope in our words. ``eventId`` is the payment that the token was made with."""
    data, alive = told.data, TOKENS.get(told.type)
    token = None
    if alive is not None and data.stored_payment_method_id and data.shopper_reference:
        named = f"{data.shopper_reference}/{data.stored_payment_method_id}"
        token = TokenNews((named, data.stored_payment_method_id), alive)
    parts = (told.type, told.event_id or "", data.stored_payment_method_id or "", told.created_at)
    return Event(
        event_id=_digest(parts),
        type=told.type,
        provider_payment_id=told.event_id,
        occurred_at=_moment(told.created_at),
        token=token,
    )


def _means(item: Item) -> tuple[Kind | None, bool]:
    """What an item is about, and whether it says that it happened."""
    if item.event_code == CANCEL_OR_REFUND and item.success == "true":
        return ACTIONS.get(text(item.additional_data, "modification.action") or ""), True
    return EVENTS.get((item.event_code, item.success == "true"), (None, False))


def _notice(item: Item) -> Notice | None:
    """What is told and changes nothing. A report is named by its ``pspReference`` and lies where ``reason`` says."""
    kind = NOTICES.get(item.event_code)
    if kind is None or item.success != "true":
        return None
    if kind is NoticeKind.REPORT:
        return Notice(kind, item.psp_reference, report_url=_of_adyen(item.reason or ""))
    reason = VERDICTS.get(item.event_code) or item.reason or None
    return Notice(kind, item.psp_reference, reason, _money(item))


_ADDRESS: Final = re.compile(r"https://([a-z0-9-]+\.)+adyen\.com/[!-~]*")


def _of_adyen(address: str) -> str | None:
    """The address, if it is one of Adyen's: nobody signs it, and whoever is told of the report sends an API key there."""
    return address if _ADDRESS.fullmatch(address) else None


def _told(item: Item, kind: Kind) -> Approved:
    return approved(item.psp_reference, _money(item), item.additional_data, captured=kind is Kind.CAPTURE)


def _told_no(item: Item, kind: Kind) -> Declined:
    if item.event_code == "OFFER_CLOSED":
        return Declined(OFFER_CLOSED, item.psp_reference)
    words = (item.reason or "").partition(":")[0].strip()
    code = REASONS.get(words.lower())
    if kind is Kind.AUTHORIZE or (kind is Kind.INCREMENT and code):
        found = decline(code or words or None, item.additional_data)
        return Declined(found, item.psp_reference, card_facts(item.additional_data))
    after_all = item.event_code in UNDONE
    return Declined(failed_after_all(item.reason) if after_all else refused(item.reason), item.psp_reference)


def _dispute(item: Item) -> DisputeNews | None:
    """Where a dispute stands. ``pspReference`` is the dispute's own where the webhook is set to show it, else the payment's.

    https://docs.adyen.com/risk-management/disputes-api/dispute-notifications
    """
    status = DISPUTES.get(item.event_code)
    if status is None or item.success != "true":
        return None
    data = item.additional_data
    if status is DisputeStatus.NEEDS_RESPONSE:
        status = NO_RESPONSE_NEEDED.get(text(data, "disputeStatus") or "", status)
    code = (text(data, "chargebackReasonCode") or text(data, "rfiReasonCode") or "").strip() or None
    return DisputeNews(
        dispute_id=item.psp_reference,
        status=status,
        amount=_money(item),
        reason=DISPUTE_REASONS.get(code, OTHER_DISPUTE) if code else None,
        network_reason_code=code,
        respond_by=_moment(text(data, "defensePeriodEndsAt") or ""),
    )


def _money(item: Item) -> Money:
    amount = msgspec.convert(item.amount, Amount, strict=False)
    return from_provider(amount.value, amount.currency, UNITS)


def _moment(written: str) -> datetime | None:
    """A moment, or ``None`` where it cannot be read or names no time zone."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _event_id(item: Item) -> str:
    """Adyen gives none. Newer details of one event are new news, a repetition is not."""
    parts = (
        item.merchant_account_code,
        item.event_code,
        item.psp_reference,
        item.success,
        item.event_date,
        str(item.amount["value"]),
        str(item.amount["currency"]),
    )
    return _digest(parts)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
