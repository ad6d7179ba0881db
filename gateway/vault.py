"""Secrets at rest: subkeys of the one secret key, and the envelope in which cards, requests and answers are sealed.

The secret key never encrypts or signs anything itself; every purpose gets a subkey by HKDF (RFC 5869), so that a leak of one
says nothing about another. Sealing is AES-256-GCM with a fresh data key per record, wrapped by the key-encryption key, and the
associated data binds a record to its merchant, its id and its purpose: a ciphertext moved to another row does not open.

The vault may have several key-encryption keys: the first seals, all of them open, and ``gateway vault rotate`` wraps what older ones
sealed anew (docs/adr/0013). The subkeys of the secret key are never rotated that way: what is derived from it must stay the same.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, cast
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from gateway.ids import ATTEMPT
from providers.contract import Card, Instrument, Token

_VERSION: Final = b"\x01"
_KEY_ID: Final = 4
_NONCE: Final = 12
_WRAPPED: Final = 32 + 16
_HEAD: Final = len(_VERSION) + _KEY_ID + _NONCE + _WRAPPED


_NOT_THIS: Final = "the record does not belong to this context, or was changed"


class SealBroken(Exception):
    """A sealed record does not open: another key, another row, or changed bytes. Nothing of it is in the message."""


class Sealer:
    """Seals records under a key-encryption key, and opens those that ``older`` keys have sealed, too.

    A sealed record is ``version ‖ key id ‖ nonce ‖ wrapped data key ‖ nonce ‖ ciphertext``. The data key is used for this one
    record, so its nonce is fixed at zero; the wrapping nonce is random. The key id says which key has wrapped it.
    """

    def __init__(self, key: bytes, *older: bytes) -> None:
        if any(len(each) != 32 for each in (key, *older)):
            raise ValueError("a key-encryption key is 32 bytes")
        self.key_id = _key_id(key)
        """What every record sealed from now on is marked with. It says nothing about the key."""
        self._keks = {_key_id(each): AESGCM(each) for each in (key, *older)}

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The ids of all keys that open records, the sealing one first."""
        return tuple(self._keks)

    def seal(self, plain: bytes, *context: str) -> bytes:
        """Seal ``plain`` for ``context`` (merchant, record id, purpose); only the same context opens it again."""
        aad, data_key = _associated(context), os.urandom(32)
        return self._head(data_key, aad) + AESGCM(data_key).encrypt(bytes(_NONCE), plain, aad)

    def open(self, sealed: bytes, *context: str) -> bytes:
        """The plain bytes. Raises :class:`SealBroken`; may be called any number of times."""
        aad = _associated(context)
        data_key = self._data_key(sealed, aad)
        try:
            return AESGCM(data_key).decrypt(bytes(_NONCE), sealed[_HEAD:], aad)
        except InvalidTag:
            raise SealBroken(_NOT_THIS) from None

    def rewrap(self, sealed: bytes, *context: str) -> bytes:
        """The same record under the sealing key: its data key is wrapped anew, its body stays as it is, unread.

        Raises :class:`SealBroken`. Safe to repeat: what it gives opens to the same bytes as ``sealed``.
        """
        aad = _associated(context)
        return self._head(self._data_key(sealed, aad), aad) + sealed[_HEAD:]

    def _head(self, data_key: bytes, aad: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return b"".join((_VERSION, self.key_id, nonce, self._keks[self.key_id].encrypt(nonce, data_key, aad)))

    def _data_key(self, sealed: bytes, aad: bytes) -> bytes:
        kek = self._keks.get(key_id_of(sealed))
        if sealed[:1] != _VERSION or kek is None:
            raise SealBroken("sealed under a key that is not configured")
        try:
            return kek.decrypt(sealed[1 + _KEY_ID : 1 + _KEY_ID + _NONCE], sealed[_HEAD - _WRAPPED : _HEAD], aad)
        except (InvalidTag, ValueError):  # cut short, it has no nonce to speak of
            raise SealBroken(_NOT_THIS) from None

    def seal_json(self, value: Any, *context: str) -> bytes:
        """Seal a JSON-able value."""
        return self.seal(orjson.dumps(value), *context)

    def open_json(self, sealed: bytes, *context: str) -> dict[str, Any]:
        """The JSON object that :meth:`seal_json` sealed."""
        return cast("dict[str, Any]", orjson.loads(self.open(sealed, *context)))


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that a record was sealed under. It is not proved before the record is opened."""
    return sealed[len(_VERSION) : len(_VERSION) + _KEY_ID]


def _key_id(key: bytes) -> bytes:
    return sha256(b"key id" + key).digest()[:_KEY_ID]


def _associated(context: tuple[str, ...]) -> bytes:
    return "\x1f".join(context).encode()


@dataclass(frozen=True, slots=True)
class Keyring:
    """The subkeys of the secret key, by purpose, and the vault's keys where one is configured."""

    fingerprint: bytes = field(repr=False)
    provider: bytes = field(repr=False)
    api_key: bytes = field(repr=False)
    client_secret: bytes = field(repr=False)
    card: bytes = field(repr=False)
    console: bytes = field(repr=False)
    """Keys the hashes of what is typed as an email at the console's door."""
    sealer: Sealer
    vault: Sealer | None

    @classmethod
    def derive(cls, secret_key: bytes, vault_keys: Sequence[bytes] = ()) -> Keyring:
        """Derive every subkey; of ``vault_keys`` the first seals and all open.

        Raises ``ValueError`` for a secret key shorter than 32 bytes, or a vault key that is not 32 bytes.
        """
        if len(secret_key) < 32:
            raise ValueError("the secret key is at least 32 bytes")

        def subkey(purpose: str) -> bytes:
            return HKDFExpand(algorithm=SHA256(), length=32, info=b"interlock " + purpose.encode()).derive(secret_key)

        return cls(
            fingerprint=subkey("fingerprint"),
            provider=subkey("provider idempotency key"),
            api_key=subkey("api key"),
            client_secret=subkey("client secret"),
            card=subkey("card fingerprint"),
            console=subkey("console"),
            sealer=Sealer(subkey("seal")),
            vault=Sealer(*vault_keys) if vault_keys else None,
        )

    def seal_request(
        self, request: Mapping[str, Any], merchant_id: str, operation_id: str, *, holds_card: bool
    ) -> bytes:
        """Seal what will be sent to a PSP. What holds a card goes under the vault's key; the rest under a subkey."""
        return self._sealer(holds_card=holds_card).seal_json(request, merchant_id, operation_id, "request")

    def open_request(self, sealed: bytes, merchant_id: str, operation_id: str, *, holds_card: bool) -> dict[str, Any]:
        """The request as it was sealed. Raises :class:`SealBroken`."""
        return self._sealer(holds_card=holds_card).open_json(sealed, merchant_id, operation_id, "request")

    def _sealer(self, *, holds_card: bool) -> Sealer:
        if not holds_card:
            return self.sealer
        if self.vault is None:
            raise SealBroken("a card is sealed only under a vault key, and none is configured")
        return self.vault

    def provider_key(self, operation_id: str) -> str:
        """The idempotency key an operation travels under: UUID-shaped, unguessable, the same whenever it is derived."""
        return str(UUID(bytes=hmac.digest(self.provider, operation_id.encode(), "sha256")[:16], version=4))

    def secret_of(self, payment_id: str) -> str:
        """A payment's client secret. Derived, so it is never stored."""
        return f"{payment_id}_secret_{hmac.digest(self.client_secret, payment_id.encode(), 'sha256')[:16].hex()}"

    def return_token(self, operation_id: str) -> str:
        """The last part of the address at which a shopper comes back from a challenge of this attempt: signed, never stored."""
        body = bytes.fromhex(operation_id.rpartition("_")[2])
        mac = hmac.digest(self.client_secret, b"return" + body, "sha256")[:16]
        return urlsafe_b64encode(body + mac).rstrip(b"=").decode()

    def returning(self, token: str) -> str | None:
        """The attempt's id in a :meth:`return_token`, or ``None`` for what is none of ours."""
        try:
            raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:  # also for what is not ASCII
            return None
        attempt_id = f"{ATTEMPT}_{raw[:16].hex()}"
        # The text is compared, not what it decodes to: base64 knows several texts for the same bytes.
        return attempt_id if hmac.compare_digest(self.return_token(attempt_id), token) else None

    def hash_api_key(self, secret: str) -> bytes:
        """What is stored of an API key's secret part."""
        return hmac.digest(self.api_key, secret.encode(), "sha256")

    def card_fingerprint(self, number: str, merchant_id: str) -> str:
        """What tells that two cards of one merchant are the same card, and nothing else about it.

        Keyed, since an unkeyed hash of a card number can be counted back (PCI DSS 4.0.1, 3.5.1.1), and under a subkey of the
        secret key: the vault's keys are rotated, and a card must be recognised after that as it was before.
        """
        message = f"{merchant_id}\x1f{number}".encode()
        return hmac.digest(self.card, message, "sha256")[:16].hex()


@dataclass(frozen=True, slots=True)
class Wallet:
    """What a shopper pays with, as far as this house knows it: a card, tokens by account, or both."""

    tokens: Mapping[str, str] = field(default_factory=dict)
    card: Card | None = None
    network_transaction_id: str | None = None
    """The card network's id of an earlier payment with this card, which an issuer wants to see when the shopper is away."""

    def instrument(self, account: str) -> Instrument | None:
        """What to hand to ``account``: its own token first, then the card."""
        token = self.tokens.get(account)
        return Token(token) if token is not None else self.card


def seal_card(card: Card, vault: Sealer, merchant_id: str, method_id: str) -> tuple[bytes, bytes | None]:
    """The card and, apart from it, its security code: the code goes first, and the two are wiped at different times."""
    plain = {
        "number": card.number,
        "exp_month": card.exp_month,
        "exp_year": card.exp_year,
        "holder_name": card.holder_name,
    }
    sealed_cvc = None if card.cvc is None else vault.seal(card.cvc.encode(), merchant_id, method_id, "cvc")
    return vault.seal_json(plain, merchant_id, method_id, "card"), sealed_cvc


def open_card(sealed_card: bytes, sealed_cvc: bytes | None, vault: Sealer, merchant_id: str, method_id: str) -> Card:
    """The card as it was sealed; without a security code once that is wiped. Raises :class:`SealBroken`."""
    plain = vault.open_json(sealed_card, merchant_id, method_id, "card")
    cvc = None if sealed_cvc is None else vault.open(sealed_cvc, merchant_id, method_id, "cvc").decode()
    return Card(**plain, cvc=cvc)
