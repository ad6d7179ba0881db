"""What the use cases are handed: wired once in ``gateway.app``, passed as one argument."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog

from gateway.books import Books
from gateway.endpoint_books import EndpointBooks
from gateway.evidence import Learned
from gateway.in_force import InForce
from gateway.method_books import MethodBooks
from gateway.metrics.instruments import Instruments
from gateway.news_books import NewsBooks
from gateway.payment import Operation, Terms
from gateway.policies import DEFAULTS, Standing
from gateway.queries import Queries
from gateway.routing_books import RoutingBooks
from gateway.tracing import OFF, Traces
from gateway.vault import Keyring
from idempotency.once import Once
from providers.registry import Account
from routing.plan import OnUnknown
from routing.retries import Budget, Limits

RENEW_S: Final = 2.0
"""A lease of 6 s is renewed every 2 s, so one lost renewal costs nothing; a call under 2 s writes nothing."""

log = structlog.get_logger()


class Hold:
    """A lease being renewed by a timer while a call lasts."""

    def __init__(self, books: Books, operation: Operation) -> None:
        self._books = books
        self._operation = operation
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer = asyncio.get_running_loop().call_later(RENEW_S, self._tick)

    def let_go(self) -> None:
        """Stop renewing. The lease itself ends with the next write, or by itself."""
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._renew())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._timer = loop.call_later(RENEW_S, self._tick)

    async def _renew(self) -> None:
        try:
            await self._books.renew(self._operation)
        except Exception as error:  # a lost renewal must not end the call: the lease then simply runs out
            log.warning("lease_not_renewed", operation=self._operation.id, error=type(error).__name__)


@dataclass(frozen=True, slots=True)
class Deps:
    """The house: its books, its accounts, its keys and its clock."""

    books: Books
    method_books: MethodBooks
    news_books: NewsBooks
    endpoint_books: EndpointBooks
    routing_books: RoutingBooks
    queries: Queries
    once: Once
    in_force: InForce
    accounts: Mapping[str, Account]
    keys: Keyring
    instruments: Instruments
    clock: Callable[[], datetime]
    public_url: str
    on_unknown: OnUnknown = OnUnknown.HOLD
    policies: Mapping[str, str] = field(default_factory=lambda: DEFAULTS)
    """What is done without a lost part: the choice in force of each row of ``gateway.policies``."""
    standing: Standing = field(default_factory=Standing)
    learned: Learned = field(default_factory=Learned)
    """What strategies have learned. One that has not is not asked: its accounts are, in the order in which the document lists them."""
    worker_backlog_max: int = 100
    limits: Limits = field(default_factory=Limits)
    """How often a charge, and a card, may be tried."""
    webhooks_allow_loopback: bool = False
    """Whether merchants may be told on this machine, without TLS: for development."""
    routing_second_person: bool = False
    """Whether what one key publishes of routing waits until another key approves it."""
    traces: Traces = OFF
    """Where spans are begun."""
    _owned: Mapping[tuple[str, bool], Sequence[Account]] = field(init=False)

    def __post_init__(self) -> None:
        owned: dict[tuple[str, bool], list[Account]] = {}
        for account in self.accounts.values():
            owned.setdefault((account.merchant, account.livemode), []).append(account)
        object.__setattr__(self, "_owned", owned)  # looked up by every decision

    def hold(self, operation: Operation) -> Hold:
        """Keep the operation's lease until the hold is let go of. It costs nothing where the call is quick."""
        return Hold(self.books, operation)

    def budget(self, terms: Terms) -> Budget:
        """What one charge on these terms may use."""
        return self.limits.budget(off_session=terms.off_session)

    def accounts_of(self, merchant_id: str, *, livemode: bool) -> Sequence[Account]:
        """A merchant's accounts of one mode, in the order of the configuration."""
        return self._owned.get((merchant_id, livemode), ())
