"""Accounts at the PSPs' own test environments, for whoever has keys of one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from providers.conformance import Situation, UnderTest
from providers.contract import Instrument
from providers.registry import ENTRY_POINTS, Account, AccountConfig
from providers.transport import Transport


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[Transport]:
    pool = Transport()
    yield pool
    await pool.aclose()


@pytest.fixture
def live_account(transport: Transport) -> Callable[..., UnderTest]:
    """``live_account(provider, instruments, **config)``: what ``INTERLOCK_LIVE_<PROVIDER>_…`` says of an account.

    ``BASE_URL`` is another address than the PSP's own, such as a proxy's; ``CURRENCIES`` are those the account may charge.
    It is always a test account: the adapters refuse a live key for one. Nothing can be scripted there, no books can be read,
    no webhook reaches this machine and nobody answers a challenge, so those cases are skipped.
    """

    def opened(provider: str, instruments: Mapping[Situation, Instrument], **config: Any) -> UnderTest:
        def told(name: str, default: str = "") -> str:
            return os.environ.get(f"INTERLOCK_LIVE_{provider.upper()}_{name}", default)

        def reopen(**changes: Any) -> Account:
            given: dict[str, Any] = {
                "name": "live",
                "merchant": "mer_live",
                "provider": provider,
                "api_key": SecretStr(told("API_KEY")),
                "environment": "test",
                "base_url": told("BASE_URL") or None,
                "currencies": tuple(told("CURRENCIES", "EUR").split(",")),
                "enabled": tuple(filter(None, told("ENABLED").split(","))),
            }
            settings = AccountConfig(**(given | config | changes))
            (adapter,) = (point for point in entry_points(group=ENTRY_POINTS) if point.name == provider)
            return Account(settings, adapter.load()(settings, transport))

        return UnderTest(account=reopen(), instruments=instruments, reopen=reopen, api_key=told("API_KEY"))

    return opened
