"""Accounts: one set of credentials at one provider each, and the one way to send through them.

An adapter knows what a PSP's answers mean. What is true of every PSP is here, once: the deadline of
a call, the bounded resend of identical bytes, that nothing is certain any more once an earlier send
may have left, and that a bug in an adapter reads as ``Unknown``. A bug can therefore never look
like a decline, nor send a payment to a second account.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal, cast

import structlog
from pydantic import BaseModel, ConfigDict, SecretStr
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_result,
    stop_after_attempt,
    wait_random_exponential,
)

from providers.contract import Call, Capability, Keep, NotProcessed, Outcome, Provider, Unknown, WebhookRefused
from providers.money import Money
from providers.transport import Transport

ENTRY_POINTS: Final = "interlock.providers"

DEADLINE_S: Final = 10.0
"""Of one call, all resends included. A whole charge has 25 s, clients are told to wait 35 s."""

SENDS_MAX: Final = 3
BASIC_AUTH_MAX: Final = 1024
RESEND_PAUSE_MIN_S: Final = 0.2
RESEND_PAUSE_MAX_S: Final = 3.0

log = structlog.get_logger(__name__)


class ConfigError(Exception):
    """The configuration cannot be used. The message says where and why, never a secret."""


class AccountConfig(BaseModel):
    """What is configured of one account. Secrets do not show in its ``repr``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    merchant: str
    provider: str
    api_key: SecretStr
    webhook_secrets: tuple[SecretStr, ...] = ()
    """Every secret that is valid now, two during a rotation. Without any, webhooks are refused."""
    webhook_basic_auth: tuple[SecretStr, ...] = ()
    """``user:password`` that a webhook has to bear besides its signature, several during a rotation; none where it is empty."""
    base_url: str | None = None
    """Another address than the PSP's own: a simulator or a proxy."""
    currencies: tuple[str, ...] | None = None
    """The currencies this account may charge; ``None`` is every one the provider carries."""
    merchant_account: str | None = None
    environment: Literal["test", "live"] = "test"
    live_prefix: str | None = None
    enabled: tuple[Capability, ...] = ()
    """What the PSP has switched on for this account of the things it does on request only."""

    @property
    def livemode(self) -> bool:
        """Whether real money moves."""
        return self.environment == "live"


class Account:
    """One account, ready to be spoken to. Safe to use from many tasks at once."""

    def __init__(self, config: AccountConfig, provider: Provider) -> None:
        self.name = config.name
        self.merchant = config.merchant
        self.livemode = config.livemode
        self.provider = provider
        self.currencies = None if config.currencies is None else frozenset(config.currencies)
        able = provider.capabilities
        if unknown := set(config.enabled) - able.on_request - able.supported:
            raise ConfigError(f"account {config.name!r}: {provider.name} never has {', '.join(sorted(unknown))}")
        self.capabilities = able.supported | set(config.enabled)
        self._passwords = tuple(_digest(each.get_secret_value().encode()) for each in config.webhook_basic_auth)

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> str:
        """Prove a webhook: its password, where one is configured, then what the provider signs.

        Returns the fingerprint of the secret that proved it. Raises :class:`WebhookRefused`, and nothing else: what could not be
        checked is not authentic.
        """
        if self._passwords and not _bears(headers, self._passwords):
            raise WebhookRefused("the user and the password of the webhook are missing or wrong", "basic_auth")
        try:
            return self.provider.verify_webhook(headers, body)
        except WebhookRefused:
            raise
        except Exception as error:
            log.error("webhook_proof_failed", account=self.name, error=type(error).__name__, where=place(error))
            raise WebhookRefused("the proof could not be checked") from None

    def can(self, capability: Capability) -> bool:
        """Whether this account is able to do that."""
        return capability in self.capabilities

    def eligible(
        self, money: Money, *, has_token: bool, has_card: bool, needs: frozenset[Capability] = frozenset()
    ) -> str | None:
        """Why this account cannot be asked for ``money``, or ``None`` when it can.

        The words are ``currency_not_configured``, ``amount_not_representable``, ``no_token`` and, for one of the capabilities it
        ``needs`` and has not, ``no_`` with its name.
        """
        if self.currencies is not None and money.currency not in self.currencies:
            return "currency_not_configured"
        if self.provider.refuses(money) is not None:
            return "amount_not_representable"
        if not has_token and not (has_card and self.can(Capability.CARD_NUMBERS)):
            return "no_token"
        return next((f"no_{missing}" for missing in sorted(needs - self.capabilities)), None)

    async def send(self, call: Call, keep: Keep, *, first_send: bool, timeout_s: float = DEADLINE_S) -> Outcome:
        """Send ``call``, and the identical bytes again where the outcome allows it.

        ``first_send`` says that nobody sent this operation before; otherwise no answer proves that
        nothing happened, and ``NotProcessed`` becomes ``Unknown``. Raises only what ``keep``
        raised: then nothing was charged by this call.
        """
        sending = _Sending(self.provider, call, keep, maybe_left=not first_send)
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await sending.once()
                if _resendable(outcome):
                    # A copy, as tenacity keeps its state in the object; only here, as it costs 40
                    # µs.
                    outcome = await _RESENDS.copy()(sending.again, [outcome])
                return outcome
        except TimeoutError:
            return Unknown("timeout")
        except _NotKeptError as error:
            raise error.reason from None
        except Exception as error:
            return self._surprised("send", call, error)

    async def lookup(self, call: Call, *, timeout_s: float = DEADLINE_S) -> Outcome:
        """Ask what became of ``call``. Never raises; ``Unknown`` where it cannot be told."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.provider.lookup(call)
        except TimeoutError:
            return Unknown("timeout")
        except Exception as error:
            return self._surprised("lookup", call, error)

    def _surprised(self, act: str, call: Call, error: Exception) -> Unknown:
        # Class and place only: a message or a traceback with its values could hold a card number.
        log.error(
            "provider_adapter_failed",
            act=act,
            account=self.name,
            operation=call.operation_id,
            kind=call.kind,
            error=type(error).__name__,
            where=place(error),
        )
        return Unknown("adapter_error")


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _bears(headers: Mapping[str, str], passwords: Sequence[bytes]) -> bool:
    """Whether the request bears one of the passwords (RFC 7617). Digests are compared, all of them: no time tells anything."""
    sent = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
    scheme, _, written = sent.partition(" ")
    if scheme.lower() != "basic" or len(written) > BASIC_AUTH_MAX:
        return False
    try:
        shown = _digest(base64.b64decode(written.strip(), validate=True))
    except ValueError:
        return False
    return sum(hmac.compare_digest(shown, password) for password in passwords) > 0


class _NotKeptError(Exception):
    """``keep`` failed; it is the caller's own exception and goes back to the caller."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(type(reason).__name__)
        self.reason = reason


class _Sending:
    """The sends of one call: what was last kept is what is sent next."""

    def __init__(self, provider: Provider, call: Call, keep: Keep, *, maybe_left: bool) -> None:
        self._provider = provider
        self._call = call
        self._keep = keep
        self._maybe_left = maybe_left

    async def once(self) -> Outcome:
        """Send once. What may have happened before is never forgotten."""
        outcome = await self._provider.send(self._call, self._kept)
        if isinstance(outcome, NotProcessed) and self._maybe_left and not outcome.conclusive:
            outcome = Unknown("earlier_send", provider_code=outcome.provider_code)
        self._maybe_left = self._maybe_left or isinstance(outcome, Unknown)
        return outcome

    async def again(self, before: list[Outcome]) -> Outcome:
        """Another send; but first what came ``before``, which tenacity counts as its first try."""
        return before.pop() if before else await self.once()

    async def _kept(self, request: Mapping[str, Any]) -> None:
        try:
            await self._keep(request)
        except Exception as error:
            raise _NotKeptError(error) from error
        self._call = replace(self._call, request=request)


def _resendable(outcome: Outcome) -> bool:
    return isinstance(outcome, Unknown) and outcome.resend


def _last(state: RetryCallState) -> Outcome:
    if state.outcome is None:
        raise AssertionError("tenacity gives up only after a send")
    return cast("Outcome", state.outcome.result())


# Full jitter, so that a PSP that comes back is not met by everybody at once. An exception ends it:
# it is a bug.
_RESENDS: Final = AsyncRetrying(
    stop=stop_after_attempt(SENDS_MAX),
    wait=wait_random_exponential(multiplier=2 * RESEND_PAUSE_MIN_S, min=RESEND_PAUSE_MIN_S, max=RESEND_PAUSE_MAX_S),
    retry=retry_if_result(_resendable),
    retry_error_callback=_last,
)


def place(error: BaseException) -> str:
    """File and line that raised, without any value: what may be logged of an error that could hold a card number."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def load_accounts(configs: Iterable[AccountConfig], transport: Transport) -> Mapping[str, Account]:
    """The configured accounts by name, each with its provider's adapter over ``transport``.

    Raises :class:`ConfigError` for a provider that is not installed, a name used twice, or a
    configuration that the provider refuses.
    """
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    accounts: dict[str, Account] = {}
    for config in configs:
        if config.name in accounts:
            raise ConfigError(f"account {config.name!r} is configured twice")
        if config.provider not in installed:
            known = ", ".join(sorted(installed)) or "none"
            raise ConfigError(
                f"account {config.name!r}: provider {config.provider!r} is not installed (installed: {known})"
            )
        make = cast("Callable[[AccountConfig, Transport], Provider]", installed[config.provider].load())
        accounts[config.name] = Account(config, make(config, transport))
    return accounts
