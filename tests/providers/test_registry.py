"""The one way to send through an account: deadline, resends, and what a bug may look like."""

import asyncio
from typing import Any

import pytest
import structlog
from pydantic import SecretStr, ValidationError
from tenacity import RetryCallState, wait_random_exponential

from providers import registry
from providers.contract import Approved, Call, Capabilities, Capability, Kind, NotProcessed, Unknown
from providers.money import Money
from providers.registry import Account, AccountConfig, ConfigError, load_accounts

EUR = Money(1999, "EUR")
LOST = Unknown("connection_lost", resend=True)
DONE = Approved("pi_1", EUR)
TRANSPORT: Any = object()
CONFIG = AccountConfig(name="acme_eu", merchant="mer_acme", provider="scripted", api_key=SecretStr("sk"))


class Scripted:
    """A provider that gives what it is told to; an exception is raised, a callable called."""

    name = "scripted"
    capabilities = Capabilities(
        frozenset({Capability.CARD_NUMBERS}), 3600, on_request=frozenset({Capability.SEVERAL_CAPTURES})
    )

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls: list[Call] = []

    async def send(self, call: Any, keep: Any) -> Any:
        self.calls.append(call)
        step = self.script.pop(0)
        if callable(step):
            step = await step(call, keep)
        if isinstance(step, Exception):
            raise step
        return step

    async def lookup(self, call: Any) -> Any:
        return await self.send(call, None)

    def refuses(self, money: Any) -> Any:
        return "no" if money.amount_minor == 13 else None


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: Any) -> None:
    """Resends without the pause between them; the pause has a test of its own."""
    instant = registry._RESENDS.copy(wait=lambda _state: 0)
    monkeypatch.setattr(registry, "_RESENDS", instant)


CALL = Call("att_1", Kind.AUTHORIZE, {"path": "/", "params": {"a": 1}}, "key", EUR)


async def keep_nothing(_request: Any) -> None:
    pass


async def send(*script: Any, first_send: Any = True, keep: Any = keep_nothing, timeout_s: Any = 1.0) -> Any:
    provider: Any = Scripted(*script)
    account = Account(CONFIG, provider)
    outcome = await account.send(CALL, keep, first_send=first_send, timeout_s=timeout_s)
    return outcome, provider


async def test_a_clear_answer_is_passed_on() -> None:
    assert (await send(DONE))[0] == DONE
    assert (await send(NotProcessed("not_sent")))[0] == NotProcessed("not_sent")
    assert (await send(Unknown("http_500")))[0] == Unknown("http_500")


async def test_only_what_may_be_sent_again_is_sent_again_and_with_the_same_call() -> None:
    outcome, provider = await send(LOST, LOST, DONE)

    assert outcome == DONE
    assert provider.calls == [CALL] * 3


async def test_three_sends_are_the_end() -> None:
    outcome, provider = await send(LOST, LOST, LOST, DONE)

    assert outcome == LOST
    assert len(provider.calls) == 3


async def test_nothing_is_certain_once_a_send_may_have_left() -> None:
    resent, _ = await send(LOST, NotProcessed("credentials", "901"))
    later, _ = await send(NotProcessed("not_sent"), first_send=False)

    assert resent == Unknown("earlier_send", provider_code="901")
    assert later == Unknown("earlier_send")


async def test_the_deadline_covers_all_sends() -> None:
    async def slow(_call: Any, _keep: Any) -> None:
        await asyncio.sleep(5)

    assert (await send(slow, timeout_s=0.02))[0] == Unknown("timeout")
    assert (await send(LOST, slow, timeout_s=0.02))[0] == Unknown("timeout")


async def test_a_cancellation_is_not_an_outcome() -> None:
    async def slow(_call: Any, _keep: Any) -> None:
        await asyncio.sleep(5)

    task = asyncio.create_task(send(slow))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_bug_is_unknown_and_its_message_is_not_logged() -> None:
    secret = "4242424242424242"
    with structlog.testing.capture_logs() as logs:
        outcome, _ = await send(ValueError(secret))

    assert outcome == Unknown("adapter_error")
    assert logs[0]["error"] == "ValueError"
    assert logs[0]["where"].startswith("test_registry.py:")
    assert secret not in str(logs)


async def test_a_lookup_never_raises() -> None:
    async def slow(_call: Any, _keep: Any) -> None:
        await asyncio.sleep(5)

    scripted: Any = Scripted(ValueError("x"), slow, DONE)
    account = Account(CONFIG, scripted)

    with structlog.testing.capture_logs():
        assert await account.lookup(CALL) == Unknown("adapter_error")
    assert await account.lookup(CALL, timeout_s=0.01) == Unknown("timeout")
    assert await account.lookup(CALL) == DONE


async def test_what_was_kept_is_what_is_sent_again() -> None:
    async def two_steps(_call: Any, keep: Any) -> Any:
        await keep({"rest": True})
        return LOST

    kept = []

    async def keep(request: Any) -> None:
        kept.append(request)

    outcome, provider = await send(two_steps, DONE, keep=keep)

    assert outcome == DONE
    assert kept == [{"rest": True}]
    assert provider.calls[1].request == {"rest": True}
    assert provider.calls[1].key == CALL.key


@pytest.mark.parametrize("error", [TimeoutError("lease"), RuntimeError("lease")])
async def test_the_callers_own_exception_comes_back_to_the_caller(error: Any) -> None:
    async def two_steps(_call: Any, keep: Any) -> Any:
        await keep({"rest": True})
        return DONE

    async def fails(_request: Any) -> None:
        raise error

    with pytest.raises(type(error), match="lease"):
        await send(two_steps, keep=fails)


async def test_the_pause_is_jittered_and_bounded() -> None:
    state = RetryCallState(registry._RESENDS, None, (), {})
    wait = wait_random_exponential(
        multiplier=2 * registry.RESEND_PAUSE_MIN_S,
        min=registry.RESEND_PAUSE_MIN_S,
        max=registry.RESEND_PAUSE_MAX_S,
    )
    pauses = set()
    for attempt in (1, 2, 9):
        state.attempt_number = attempt
        pauses |= {wait(state) for _ in range(50)}

    assert len(pauses) > 100
    assert registry.RESEND_PAUSE_MIN_S <= min(pauses) <= max(pauses) <= registry.RESEND_PAUSE_MAX_S


def test_who_may_be_asked() -> None:
    scripted: Any = Scripted()
    account = Account(CONFIG.model_copy(update={"currencies": ("EUR",)}), scripted)

    def asked(money: Any, *, has_token: Any = True, has_card: Any = False) -> Any:
        return account.eligible(money, has_token=has_token, has_card=has_card)

    assert asked(EUR) is None
    assert asked(EUR, has_token=False, has_card=True) is None
    assert asked(EUR, has_token=False) == "no_token"
    assert asked(Money(1, "USD")) == "currency_not_configured"
    assert asked(Money(13, "EUR")) == "amount_not_representable"


def test_an_account_that_cannot_do_what_is_needed_is_not_asked() -> None:
    scripted: Any = Scripted()
    plain = Account(CONFIG, scripted)
    enabled = Account(CONFIG.model_copy(update={"enabled": (Capability.SEVERAL_CAPTURES,)}), scripted)
    needs = frozenset({Capability.SEVERAL_CAPTURES})

    assert plain.eligible(EUR, has_token=True, has_card=False, needs=needs) == "no_several_captures"
    assert enabled.eligible(EUR, has_token=True, has_card=False, needs=needs) is None
    assert (plain.can(Capability.SEVERAL_CAPTURES), enabled.can(Capability.SEVERAL_CAPTURES)) == (False, True)


def test_an_account_is_not_told_to_do_what_its_provider_never_does() -> None:
    scripted: Any = Scripted()

    with pytest.raises(ConfigError, match="scripted never has dispute_text, verification"):
        Account(CONFIG.model_copy(update={"enabled": (Capability.VERIFICATION, Capability.DISPUTE_TEXT)}), scripted)


class Point:
    def __init__(self, name: Any, make: Any) -> None:
        self.name = name
        self.load = lambda: make


def test_accounts_are_made_by_the_installed_providers(monkeypatch: Any) -> None:
    made = []

    def make(config: Any, transport: Any) -> Any:
        made.append((config, transport))
        return Scripted()

    point = Point("scripted", make)
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point])
    live = CONFIG.model_copy(update={"name": "acme_us", "environment": "live"})

    accounts = load_accounts([CONFIG, live], TRANSPORT)

    assert list(accounts) == ["acme_eu", "acme_us"]
    assert [account.livemode for account in accounts.values()] == [False, True]
    assert made == [(CONFIG, TRANSPORT), (live, TRANSPORT)]


def test_a_configuration_that_cannot_be_used_says_why(monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [Point("stripe", None)])

    with pytest.raises(ConfigError, match=r"'scripted' is not installed \(installed: stripe\)"):
        load_accounts([CONFIG], TRANSPORT)


def test_a_name_is_used_once(monkeypatch: Any) -> None:
    point = Point("scripted", lambda config, transport: Scripted())
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point])

    with pytest.raises(ConfigError, match="twice"):
        load_accounts([CONFIG, CONFIG], TRANSPORT)


def test_a_secret_does_not_show_and_a_word_that_is_not_known_is_refused() -> None:
    config = CONFIG.model_copy(update={"webhook_secrets": (SecretStr("whsec_x"),)})

    assert "whsec_x" not in repr(config)
    with pytest.raises(ValidationError):
        AccountConfig.model_validate(CONFIG.model_dump() | {"colour": "red"})
