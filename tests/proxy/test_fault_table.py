"""Every fault of the line, at both PSPs, for every verb: what is recorded, what the PSP's books say, and what becomes of it.

Real accounts speak through a proxy to the real sandbox PSPs. The table of faults beside the proxy is the outcome table of the architecture,
section 3; :data:`MERCHANT` is what a merchant is told of it. Each cell goes its whole way: the fault, the books, a lookup, the replay under
the same key, and the books again.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr

from gateway.sweep import sweep
from providers.adyen import AdyenProvider
from providers.contract import (
    Approved,
    Ask,
    Authorize,
    Call,
    Capture,
    Card,
    Declined,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    Refund,
    Token,
    Unknown,
    Void,
)
from providers.money import Money
from providers.registry import Account, AccountConfig
from providers.stripe import StripeProvider
from providers.transport import Transport

if TYPE_CHECKING:
    from tests.conftest import Checked, Database, Inside, Kit, Open, Psps
    from tests.proxy.conftest import Faults, Proxies, Proxy, Row

TRUTH: Final = "the truth"

VERBS: Final = (Kind.AUTHORIZE, Kind.CAPTURE, Kind.REFUND, Kind.VOID)
PSPS: Final = ("stripe", "adyen")
EUR: Final = Money(1999, "EUR")
CARD: Final = Card("4242424242424242", 12, 2030, "737")
TOKENS: Final = {"stripe": "pm_card_visa", "adyen": "test_4111111111111111"}
SECRETS: Final = {"stripe": "FLOWS_STRIPE", "adyen": "FLOWS_ADYEN"}
BOOKS: Final = {Kind.CAPTURE: "captures", Kind.REFUND: "refunds", Kind.VOID: "voids"}
PREFIXES: Final = {Kind.AUTHORIZE: "att", Kind.CAPTURE: "cap", Kind.REFUND: "re", Kind.VOID: "vd"}
AT_ONCE: Final = 8
"""Cells on their way at the same time, but for those that only wait for silence to end."""
OPEN_MAX: Final = 100
"""Cells begun and not ended: each has a port of its own."""


# --- The adapters -----------------------------------------------------------------------------------------------------

DEADLINES_S: Final = (1.0, 4.0, 16.0, 60.0)
"""Of a call that meets silence. Where a slow machine has not even sent by then, no fault was met: once more, with more time."""
PATIENCE_S: Final = 60.0
"""Of a call that is to end by itself."""
CONNECT_S: Final = 0.5
SILENT: Final = frozenset({"timeout", "late", "too_late", "drip"})


def said(outcome: Outcome, psp: str, kind: Kind) -> str:
    """An outcome in the words of the table."""
    match outcome:
        case Approved(amount=amount) if psp == "stripe" or kind is Kind.AUTHORIZE:
            return TRUTH if amount == EUR else f"Approved {amount}"
        case Pending(provider_id=provider_id) if psp == "adyen" and kind is not Kind.AUTHORIZE:
            return TRUTH if provider_id else "Pending without an id"
        case NotProcessed(reason=reason) | Unknown(reason=reason):
            return f"{type(outcome).__name__} {reason}"
        case Declined(decline=decline):
            return f"Declined {decline.code}"
        case _:
            return type(outcome).__name__


async def keep_nothing(request: Mapping[str, Any]) -> None:
    raise AssertionError("there is one step only")


@dataclass
class Bench:
    """What all cells share."""

    psps: Psps
    proxies: Proxies
    transport: Transport
    hasty: Transport
    """One that does not wait long for a connection."""
    http: httpx.AsyncClient
    careless: Callable[[Account], Any] = lambda account: account
    """What stands in the place of an account: for the proof that a mistake would be found."""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPEN_MAX))

    def account(self, psp: str, url: str, *, hasty: bool = False) -> Any:
        secret = {"stripe": "sk_test_sandbox", "adyen": "adyen_test_sandbox"}[psp]
        config = AccountConfig(
            name=psp,
            merchant="mer_dev",
            provider=psp,
            api_key=SecretStr(secret),
            base_url=url,
            merchant_account="FlowsECOM" if psp == "adyen" else None,
        )
        transport = self.hasty if hasty else self.transport
        provider: Any = StripeProvider if psp == "stripe" else AdyenProvider
        return self.careless(Account(config, provider(config, transport)))

    async def effects(self, psp: str, kind: Kind, name: str) -> int:
        """How often the PSP's books say that it was done: by our reference of an authorization, else by its payment.

        A second one under whatever key counts, and so does one that was tried and did not fit any more.
        """
        by = "reference" if kind is Kind.AUTHORIZE else "payment"
        answer = await self.http.get(f"{self.psps.urls[psp]}/_sandbox/books", params={by: name})
        books = answer.json()
        book = BOOKS.get(kind, "authorisations")
        return len(books[book]) + len(books["rejections"])


@dataclass(frozen=True)
class Cell:
    """One fault at one PSP for one verb, or for the lookup of one."""

    row: Row
    psp: str
    kind: Kind
    lookup: bool = False
    card: bool = False
    """Whether a card number is charged, which Stripe has to be told in a request before."""

    def __str__(self) -> str:
        how = "lookup of " if self.lookup else "card, " if self.card else ""
        return f"{self.row.fault} / {self.psp} / {how}{self.kind}"

    @property
    def outcome(self) -> str:
        return self.row.card if self.card else self.row.expected(self.kind)

    @property
    def effect(self) -> int:
        return int(self.outcome == TRUTH or self.row.toxic == "lie") if self.card else self.row.effect


@dataclass(frozen=True)
class Prepared:
    """A call that can be sent, and by what name the books know its effect."""

    call: Call
    name: str


async def prepared(bench: Bench, cell: Cell, healthy: Any) -> Prepared:
    """The call of a cell, with the payment that it follows."""
    operation = _new(PREFIXES[cell.kind])
    if cell.kind is Kind.AUTHORIZE:
        ask = _authorization(cell.psp, operation)
        return Prepared(_call(healthy, replace(ask, instrument=CARD) if cell.card else ask), operation)
    method = "automatic" if cell.kind is Kind.REFUND else "manual"
    attempt = _new("att")
    call = _call(healthy, _authorization(cell.psp, attempt, method))
    approved = await healthy.send(call, keep_nothing, first_send=True, timeout_s=PATIENCE_S)
    assert isinstance(approved, Approved), approved
    at = approved.provider_id
    asks: Mapping[Kind, Ask] = {
        Kind.CAPTURE: Capture(operation, "pay_1", EUR, at),
        Kind.REFUND: Refund(operation, "pay_1", EUR, at),
        Kind.VOID: Void(operation, "pay_1", EUR, attempt, at),
    }
    return Prepared(_call(healthy, asks[cell.kind]), at)


def _new(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _authorization(psp: str, operation: str, method: Any = "automatic") -> Authorize:
    return Authorize(operation, "pay_1", EUR, method, Token(TOKENS[psp]), "https://gateway.example/v1/return/t")


def _call(account: Any, ask: Ask) -> Call:
    kind = Kind(type(ask).__name__.lower())
    return Call(ask.operation_id, kind, account.provider.compose(ask), str(uuid.uuid4()), ask.amount)


async def judged(cell: Cell, bench: Bench) -> list[str]:
    """What differs from the table. A cell whose fault came too late for a slow machine is done once more."""
    way = _looked_up if cell.lookup else _sent
    async with bench.room:
        for deadline_s in DEADLINES_S:
            proxy = await bench.proxies(cell.psp, bench.psps.urls[cell.psp])
            found = await way(cell, bench, proxy, deadline_s if cell.row.toxic in SILENT else PATIENCE_S)
            await proxy.aclose()
            if found is not None:
                return [f"{cell}: {difference}" for difference in found]
    return [f"{cell}: the fault never struck"]


async def _through_the_fault(bench: Bench, proxy: Proxy, sending: Callable[[], Any]) -> Outcome:
    """Send while few others do; who only waits for silence to end makes room."""
    async with bench.slots:
        task, struck = asyncio.ensure_future(sending()), asyncio.ensure_future(proxy.struck.wait())
        await asyncio.wait({task, struck}, return_when=asyncio.FIRST_COMPLETED)
    struck.cancel()
    outcome: Outcome = await task
    return outcome


async def _warmed(bench: Bench, proxy: Proxy) -> None:
    """Leave a connection in the pool that has served a request."""
    proxy.keeps = True
    await bench.transport.request("GET", f"{proxy.url}/_sandbox/clock", {}, b"", PATIENCE_S)


async def _sent(cell: Cell, bench: Bench, proxy: Proxy, timeout_s: float) -> list[str] | None:
    """A verb: sent into the fault, looked up, replayed, and counted in the books at each step."""
    row, psp, kind = cell.row, cell.psp, cell.kind
    async with bench.slots:
        healthy = bench.account(psp, bench.psps.urls[psp])
        ready = await prepared(bench, cell, healthy)
        if row.kept:
            await _warmed(bench, proxy)
    differs, kept = Differences(), [ready.call.request]

    async def keep(request: Mapping[str, Any]) -> None:
        kept.append(request)

    def call() -> Call:
        return replace(ready.call, request=kept[-1])

    url = await proxy.break_down(row.toxic, **row.parameters)
    broken = bench.account(psp, url, hasty=row.toxic == "full_backlog")

    def send(*, first: bool) -> Callable[[], Any]:
        return lambda: broken.send(call(), keep, first_send=first, timeout_s=timeout_s)

    outcome = await _through_the_fault(bench, proxy, send(first=True))
    if not proxy.struck.is_set():
        return None
    differs.unless("first send", said(outcome, psp, kind), cell.outcome)
    if isinstance(outcome, NotProcessed):  # the same answer to a second send proves nothing any more
        again = await _through_the_fault(bench, proxy, send(first=False))
        differs.unless("second send", said(again, psp, kind), "Unknown earlier_send")
    if row.kept:
        differs.unless("new connections", proxy.connections, len(proxy.requests) - 1)
    if row.toxic == "drip":
        differs.unless("listened to the end of a drip", proxy.outlasted, False)
    if row.toxic != "too_late":
        await proxy.calm()
    differs.unless("effects", await bench.effects(psp, kind, ready.name), cell.effect)
    proxy.mend()
    async with bench.slots:
        found = await healthy.lookup(call(), timeout_s=PATIENCE_S)
        _judge_lookup(cell, found, cell.effect, differs)
        mended = bench.account(psp, proxy.url)
        replayed = await mended.send(call(), keep, first_send=False, timeout_s=PATIENCE_S)
    differs.unless("replay", said(replayed, psp, kind), TRUTH)
    differs.unless("effects after the replay", await bench.effects(psp, kind, ready.name), 1)
    proxy.released.set()
    await proxy.calm()
    differs.unless("effects in the end", await bench.effects(psp, kind, ready.name), 1)
    keys = Counter(key for _, key, _ in _sendings(proxy))
    differs.unless("keys, and requests under each", sorted(keys.values()), [1, 1] if cell.card else [1])
    return differs.found


def _judge_lookup(cell: Cell, found: Outcome, effect: int, differs: Differences) -> None:
    """After the fault: the truth where it was done, and never a no where it was not."""
    told = said(found, cell.psp, cell.kind)
    if cell.psp == "adyen":
        differs.unless("lookup", told, "Unknown no_lookup")
    elif effect:
        differs.unless("lookup", told, TRUTH)
    elif not isinstance(found, Unknown):
        differs.unless("lookup of what did not happen", told, "Unknown")


async def _looked_up(cell: Cell, bench: Bench, proxy: Proxy, timeout_s: float) -> list[str] | None:
    """A lookup of what was done: into the fault, and after it."""
    row, psp, kind = cell.row, cell.psp, cell.kind
    async with bench.slots:
        healthy = bench.account(psp, bench.psps.urls[psp])
        ready = await prepared(bench, cell, healthy)
        await healthy.send(ready.call, keep_nothing, first_send=True, timeout_s=PATIENCE_S)
        if row.kept and psp == "stripe":  # a lookup at Adyen uses no connection at all
            await _warmed(bench, proxy)
    differs = Differences()
    url = await proxy.break_down(row.toxic, **row.parameters)
    broken = bench.account(psp, url, hasty=row.toxic == "full_backlog")

    outcome = await _through_the_fault(bench, proxy, lambda: broken.lookup(ready.call, timeout_s=timeout_s))

    if psp == "adyen":
        differs.unless("lookup", said(outcome, psp, kind), "Unknown no_lookup")
        differs.unless("connections", proxy.connections, 0)
    elif not proxy.struck.is_set():
        return None
    else:
        expected = TRUTH if row.void == TRUTH and kind is Kind.VOID else row.lookup
        differs.unless("lookup", said(outcome, psp, kind), expected)
    proxy.released.set()
    proxy.mend()
    await proxy.calm()
    async with bench.slots:
        found = await bench.account(psp, proxy.url).lookup(ready.call, timeout_s=PATIENCE_S)
    _judge_lookup(cell, found, 1, differs)
    differs.unless("effects", await bench.effects(psp, kind, ready.name), 1)
    return differs.found


@dataclass
class Differences:
    """What is not as it should be."""

    found: list[str] = field(default_factory=list)

    def unless(self, what: str, is_: object, should: object) -> None:
        if is_ != should:
            self.found.append(f"{what}: {is_!r} and not {should!r}")


def _sendings(proxy: Proxy) -> set[tuple[bytes, ...]]:
    """The different requests among those that were to move money: path, key and body."""
    posts = [(head, body) for head, body in proxy.requests if head.startswith(b"POST")]
    return {
        (head.split(b"\r\n")[0], *re.findall(rb"(?im)^idempotency-key: *(.+?)\r$", head), body) for head, body in posts
    }


@pytest.fixture
async def bench(psps: Psps, proxies: Proxies) -> AsyncIterator[Bench]:
    transport, hasty = Transport(), Transport(connect_timeout_s=CONNECT_S)
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        yield Bench(psps, proxies, transport, hasty, http)
    await transport.aclose()
    await hasty.aclose()


async def test_each_fault_of_the_line_is_what_the_table_says_and_the_books_agree(
    bench: Bench, faults: type[Faults], proved: Callable[[str], None]
) -> None:
    verbs = [Cell(row, psp, kind) for row, psp in faults.pairs for kind in VERBS]
    verbs += [Cell(row, "stripe", Kind.AUTHORIZE, card=True) for row, psp in faults.pairs if psp == "stripe"]
    # Adyen cannot be asked, and says so of every kind alike.
    looked_up = {"stripe": VERBS, "adyen": (Kind.AUTHORIZE,)}
    lookups = [Cell(row, psp, kind, lookup=True) for row, psp in faults.pairs for kind in looked_up[psp]]

    differing = list(itertools.chain(*await asyncio.gather(*(judged(cell, bench) for cell in [*verbs, *lookups]))))

    assert not differing, "\n".join(differing)
    proved(
        f"fault proxy, adapters: {faults.COUNT} faults, {len(verbs)} cells of verbs and {len(lookups)} of lookups, 0 differing"
    )


# --- That a mistake would be found ------------------------------------------------------------------------------------


class Careless:
    """An account that makes no mistake. Those below make one each, of the kind that loses a payment or makes it twice."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.provider = account.provider

    async def send(self, call: Call, keep: Any, **how: Any) -> Outcome:
        return await self.account.send(call, keep, **how)

    async def lookup(self, call: Call, **how: Any) -> Outcome:
        return await self.account.lookup(call, **how)


class AnotherKeyForTheReplay(Careless):
    async def send(self, call: Call, keep: Any, **how: Any) -> Outcome:
        key = call.key if how["first_send"] else str(uuid.uuid4())
        return await super().send(replace(call, key=key), keep, **how)


class NoAnswerMeansNotSent(Careless):
    async def send(self, call: Call, keep: Any, **how: Any) -> Outcome:
        outcome = await super().send(call, keep, **how)
        return NotProcessed("not_sent") if isinstance(outcome, Unknown) else outcome


class EarlierSendsAreForgotten(Careless):
    async def send(self, call: Call, keep: Any, **how: Any) -> Outcome:
        return await super().send(call, keep, **how | {"first_send": True})


class AnyAmountIsTheAmount(Careless):
    async def send(self, call: Call, keep: Any, **how: Any) -> Outcome:
        outcome = await super().send(call, keep, **how)
        wrong = isinstance(outcome, Unknown) and outcome.reason == "mismatch_amount"
        return Approved("pi_1", EUR) if wrong else outcome


class NothingFoundIsANo(Careless):
    async def lookup(self, call: Call, **how: Any) -> Outcome:
        outcome = await super().lookup(call, **how)
        return NotProcessed("not_sent") if isinstance(outcome, Unknown) else outcome


@pytest.mark.parametrize(
    ("careless", "fault", "found"),
    [
        (AnotherKeyForTheReplay, "hung up without an answer", "effects after the replay: 2 and not 1"),
        (NoAnswerMeansNotSent, "truncated answer", "first send: 'NotProcessed not_sent' and not"),
        (EarlierSendsAreForgotten, "connection refused", "second send: 'NotProcessed not_sent' and not"),
        (AnyAmountIsTheAmount, "wrong amount", "first send: 'the truth' and not"),
        (NothingFoundIsANo, "reset before it is forwarded", "lookup of what did not happen: 'NotProcessed not_sent'"),
    ],
)
async def test_a_mistake_would_be_found(
    careless: type[Careless], fault: str, found: str, bench: Bench, faults: type[Faults]
) -> None:
    bench.careless = careless

    differing = await judged(Cell(faults.named(fault), "stripe", Kind.AUTHORIZE), bench)

    assert [difference for difference in differing if found in difference], differing


# --- Through the whole gateway ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a merchant is told of an outcome, by verb."""

    authorize: int
    alone: int
    """Of an authorization where no other account could be asked."""
    follow_up: int | None


# fmt: off
MERCHANT: Final = {
    #                            authorize  alone  follow-up   and then
    TRUTH:                   Told(201,       201,   None),  # the same for ever; at Adyen what follows a payment is 202 until its webhook
    "NotProcessed":          Told(201,       503,   202),   # another account has it; the same key again; the worker sends it again
    "NotProcessed rejected": Told(201,       402,   None),  # another account has it; alone it is final
    "Declined":              Told(402,       402,   422),   # final
    "Unknown":               Told(202,       202,   202),   # nobody else is asked; the worker finds the truth under the same key
}
# fmt: on
DONE: Final = {"authorize": 201, "alone": 201, "capture": 200, "refund": 201, "cancel": 200}
"""What each verb is answered in the end."""
KINDS: Final = {"authorize": Kind.AUTHORIZE, "alone": Kind.AUTHORIZE, "capture": Kind.CAPTURE, "refund": Kind.REFUND}
OTHER: Final = {"stripe": "adyen", "adyen": "stripe"}
ROUNDS_MAX: Final = 20
_OPERATION_ID: Final = re.compile(rb"(?:att|cap|re|vd)_[0-9a-f]{32}")


@dataclass
class Flow:
    """One request of a merchant, through its own line to its own account."""

    row: Row
    psp: str
    verb: str
    account: str
    proxy: Proxy
    payment: str | None = None
    """The payment that it follows."""
    answers: list[httpx.Response] = field(default_factory=list)
    terms: dict[str, Any] = field(default_factory=dict)
    """What else is asked of an authorization."""

    def __str__(self) -> str:
        return f"{self.row.fault} / {self.psp} / {self.verb}"

    @property
    def key(self) -> str:
        return f"{self.account}-{self.verb}"

    @property
    def outcome(self) -> str:
        """What the table says of the first send, as :data:`MERCHANT` names it."""
        outcome = self.row.expected(KINDS.get(self.verb, Kind.VOID))
        return outcome if outcome in MERCHANT else outcome.split()[0]

    @property
    def first(self) -> int:
        """The answer while the fault lasts."""
        told = MERCHANT[self.outcome]
        if self.verb in {"authorize", "alone"}:
            return told.authorize if self.verb == "authorize" else told.alone
        return told.follow_up or (DONE[self.verb] if self.psp == "stripe" else 202)

    @property
    def refused(self) -> bool:
        """Whether it never is done, because the first answer was a final no."""
        return self.first in {402, 422}

    @property
    def last(self) -> int:
        """The answer in the end."""
        return self.first if self.refused else DONE[self.verb]

    @property
    def untold(self) -> bool:
        """Whether nobody tells what came of a void: Adyen says nothing of a cancel for a payment that it never saw."""
        return self.psp == "adyen" and self.row.effect == 0

    @property
    def asked(self) -> list[str]:
        """The accounts that are asked for an authorization, one after the other."""
        if self.verb == "authorize" and self.outcome.startswith("NotProcessed"):
            return [self.account, f"spare_{OTHER[self.psp]}"]
        if self.verb == "alone" and self.outcome == "NotProcessed":
            return [self.account] * 3  # once more each time the merchant sent the same key again
        return [self.account]

    async def send(self, inside: Inside, flow: type[Kit]) -> httpx.Response:
        """The same request each time, under the same key."""
        match self.verb:
            case "authorize" | "alone":
                spare = {f"spare_{OTHER[self.psp]}": TOKENS[OTHER[self.psp]]} if self.verb == "authorize" else {}
                tokens = {"type": "token", "tokens": {self.account: TOKENS[self.psp], **spare}}
                return await inside.merchant.charge(key=self.key, payment_method_data=tokens, **self.terms)
            case "refund":
                return await inside.merchant.post("/v1/refunds", {"payment": self.payment}, key=self.key)
            case verb:
                return await inside.merchant.post(f"/v1/payments/{self.payment}/{verb}", {}, key=self.key)

    async def prepare(self, inside: Inside) -> None:
        """The payment that a follow-up follows, while the line is whole."""
        if self.verb in {"authorize", "alone"}:
            return
        method = "automatic" if self.verb == "refund" else "manual"
        tokens = {"type": "token", "tokens": {self.account: TOKENS[self.psp]}}
        self.payment = (await inside.merchant.charged(payment_method_data=tokens, capture_method=method))["id"]


@dataclass
class Stage:
    """All requests, the lines to the accounts that nothing is wrong with, and the webhooks that have come."""

    flows: list[Flow]
    spares: dict[str, Proxy]
    webhooks: list[tuple[dict[str, str], bytes]]
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def accounts(self, urls: Mapping[str, str], merchant_account: str) -> str:
        """The accounts file. A spare account stands last, so it is asked only where the first one did not."""
        lines = [(flow.account, flow.psp, urls.get(flow.account, flow.proxy.url)) for flow in self.flows]
        lines += [(f"spare_{psp}", psp, proxy.url) for psp, proxy in self.spares.items()]
        return "\n".join(_account_table(name, psp, url, merchant_account) for name, psp, url in lines)

    async def each(self, work: Callable[[Flow], Any]) -> None:
        async def one(flow: Flow) -> None:
            async with self.slots:
                await work(flow)

        await asyncio.gather(*map(one, self.flows))

    async def into_the_fault(self, send: Callable[[Flow], Any]) -> None:
        """Each request once. Who only waits for silence to end makes room for the next."""

        async def one(flow: Flow) -> None:
            async with self.slots:
                task, struck = asyncio.ensure_future(send(flow)), asyncio.ensure_future(flow.proxy.struck.wait())
                await asyncio.wait({task, struck}, return_when=asyncio.FIRST_COMPLETED)
            struck.cancel()
            await task

        await asyncio.gather(*map(one, self.flows))


def _account_table(name: str, psp: str, url: str, merchant_account: str) -> str:
    webhooks = "webhook_secret_env" if psp == "stripe" else "hmac_key_env"
    secret = "FLOWS_STRIPE_WEBHOOK_SECRET" if psp == "stripe" else "FLOWS_ADYEN_HMAC_KEY"
    own = f'merchant_account = "{merchant_account}"\n' if psp == "adyen" else ""
    return (
        f'[accounts.{name}]\nmerchant = "mer_dev"\nprovider = "{psp}"\nbase_url = "{url}"\n'
        f'api_key_env = "FLOWS_{psp.upper()}_API_KEY"\n{webhooks} = "{secret}"\n{own}'
    )


@pytest.fixture
async def stage(psps: Psps, proxies: Proxies, faults: type[Faults], api_port: int) -> AsyncIterator[Stage]:
    webhooks: list[tuple[dict[str, str], bytes]] = []

    async def hear(request: web.Request) -> web.Response:
        webhooks.append((dict(request.headers), await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/webhooks/{psp}", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", api_port).start()  # before a line is given that port
    flows = [
        Flow(row, psp, verb, f"a{number:03}_{verb}", await proxies(psp, psps.urls[psp]))
        for number, (row, psp) in enumerate(faults.pairs)
        for verb in DONE
        if not row.kept  # whether a connection was kept is nothing to a merchant
    ]
    yield Stage(flows, {psp: await proxies(psp, psps.urls[psp]) for psp in PSPS}, webhooks)
    await runner.cleanup()


async def test_a_merchant_is_told_what_the_table_says_and_each_payment_is_made_once(
    stage: Stage, open_gateway: Open, psps: Psps, flow: type[Kit], proved: Callable[[str], None], checked: Checked
) -> None:
    whole = stage.accounts({}, flow.MERCHANT_ACCOUNT)

    async def send(each: Flow) -> None:
        each.answers.append(await each.send(inside, flow))

    async with open_gateway((), more=whole) as inside:
        await stage.each(lambda each: each.prepare(inside))
    urls = {each.account: await each.proxy.break_down(each.row.toxic, **each.row.parameters) for each in stage.flows}
    for each in stage.flows:
        each.proxy.requests.clear()
    async with open_gateway((), more=stage.accounts(urls, flow.MERCHANT_ACCOUNT)) as inside:
        await stage.into_the_fault(send)
    # Before it is over, another one: nobody listens. A request that may have left before is no less unknown for that.
    nobody = await stage.spares["stripe"].break_down("refused")
    nowhere = stage.accounts({each.account: nobody for each in stage.flows}, flow.MERCHANT_ACCOUNT)
    async with open_gateway((), more=nowhere) as inside:
        _let_due(inside.database)
        for _ in range(ROUNDS_MAX):
            if not await sweep(inside.house.deps):
                break
        _let_due(inside.database)
        await stage.each(send)
    for each in stage.flows:
        each.proxy.mend()
    async with open_gateway((), more=whole) as inside:
        await _settle(stage, inside, flow)
        for _ in range(2):
            await stage.each(send)
        for each in stage.flows:
            each.proxy.released.set()
        for each in stage.flows:
            await each.proxy.calm()

    rows = Rows(inside.database)
    differing = [difference for each in stage.flows for difference in _judged_flow(each, rows)]
    differing += _judged_books(stage, rows, psps)
    assert not differing, "\n".join(differing)
    await checked(inside.database, psps, at_rest=True)
    proved(f"fault proxy, gateway: {len(stage.flows)} requests of merchants ({_counted(stage)}), 0 differing")


def _let_due(database: Database) -> int:
    """Some seconds pass: what is not known is due, and its holder's time is over. What is pending has more time."""
    due = database.rows(
        """UPDATE operation SET due_at = now(), lease_until = now() WHERE status IN ('created', 'sent', 'unknown')
        RETURNING id"""
    )
    return len(due)


async def _settle(stage: Stage, inside: Inside, flow: type[Kit]) -> None:
    """What the worker can settle, and then what the webhooks say."""
    for _ in range(ROUNDS_MAX):
        if not _let_due(inside.database):
            break
        await sweep(inside.house.deps)
    # A parked payment goes on when its merchant sends the same request again.
    for each in stage.flows:
        if each.answers[0].status_code == 503:
            answer = await each.send(inside, flow)
            assert answer.status_code == 201, f"{each}: {answer.text}"
    owners = {row["id"].encode(): row["account"] for row in inside.database.rows("SELECT id, account FROM operation")}
    # A void by the attempt's own name is told by that name, and of what was never there it is not told at all.
    pending = """SELECT id FROM operation WHERE status = 'pending' AND provider = 'adyen'
        AND metadata->>'purpose' IS DISTINCT FROM 'failover'"""
    promised = {row["id"].encode() for row in inside.database.rows(pending)}

    def come() -> set[bytes]:
        return {name for _, body in stage.webhooks for name in _OPERATION_ID.findall(body)}

    await flow.eventually(lambda: promised <= come(), "the webhooks of what is pending")

    async def deliver(headers: Mapping[str, str], body: bytes) -> None:
        owner = next((owners[name] for name in _OPERATION_ID.findall(body) if name in owners), None)
        if owner is None:  # of an object that does not carry our names
            return
        async with stage.slots:
            answer = await inside.merchant.http.post(f"/v1/webhooks/{owner}", content=body, headers=headers)
        assert answer.status_code == 200, answer.text

    await asyncio.gather(*(deliver(headers, body) for headers, body in list(stage.webhooks)))
    await inside.work()


class Rows:
    """What the gateway's database says, read once."""

    def __init__(self, database: Database) -> None:
        self.payments = {row["id"]: row for row in database.rows("SELECT * FROM payment")}
        self.operations: dict[str, list[dict[str, Any]]] = {name: [] for name in self.payments}
        for row in database.rows("SELECT * FROM operation ORDER BY seq"):
            self.operations[row["payment_id"]].append(row)

    def attempts(self, payment_id: str) -> list[dict[str, Any]]:
        return [row for row in self.operations[payment_id] if row["kind"] == "authorize"]


def _judged_flow(each: Flow, rows: Rows) -> list[str]:
    """The answers, the accounts that were asked, and the requests as they went over the line."""
    differs = Differences()
    first, meanwhile, *replays = each.answers
    differs.unless("first answer", first.status_code, each.first)
    differs.unless("answer while nobody listened", meanwhile.status_code, each.first)
    for replay in replays:
        differs.unless("replay", replay.status_code, each.last)
        differs.unless("the replay's bytes", replay.content, replays[0].content)
    differs.unless("marked as replayed", replays[-1].headers.get("Idempotent-Replayed"), "true")
    if first.status_code == each.last:
        differs.unless("the first answer's bytes", first.content, replays[0].content)
    operations, attempts = rows.operations[_payment_of(each)], rows.attempts(_payment_of(each))
    if each.payment is None:
        differs.unless("accounts asked", [attempt["account"] for attempt in attempts], each.asked)
    else:
        differs.unless("operations", len(operations), 2)
    keys = {operation["provider_key"].encode() for operation in operations}
    sendings = _sendings(each.proxy)
    differs.unless("keys of another", {sending[1] for sending in sendings} - keys, set())
    differs.unless("requests of an operation", max(Counter(key for _, key, _ in sendings).values(), default=1), 1)
    return [f"{each}: {difference}" for difference in differs.found]


def _payment_of(each: Flow) -> str:
    replayed: str = each.payment or each.answers[-1].json()["id"]
    return replayed


def _judged_books(stage: Stage, rows: Rows, psps: Psps) -> list[str]:
    """Each effect once, in the books of the PSP that says so; and nobody else was asked."""
    books = {
        book: [entry | {"psp": psp} for psp in PSPS for entry in psps.books(psp, book)]
        for book in ("authorisations", "captures", "refunds", "voids", "rejections")
    }
    by_reference = Counter((entry["psp"], entry["reference"]) for entry in books["authorisations"])
    by_payment = {
        book: Counter((entry["psp"], entry["payment"]) for entry in entries) for book, entries in books.items()
    }
    found, spared = [], set()
    for each in stage.flows:
        differs, payment = Differences(), rows.payments[_payment_of(each)]
        attempts = rows.attempts(payment["id"])
        spared |= {row["provider_key"].encode() for row in attempts if row["account"].startswith("spare_")}
        made = [sum(by_reference[psp, attempt["id"]] for psp in PSPS) for attempt in attempts]
        differs.unless("authorizations", made, [0] * (len(made) - 1) + [1 - (each.refused and each.verb == "alone")])
        at = (payment["provider"], payment["provider_payment_id"])
        status, *expected = _in_the_end(each)
        for book, count in zip(("captures", "refunds", "voids", "rejections"), [*expected, 0], strict=True):
            differs.unless(book, by_payment[book][at], count)
        differs.unless("status", payment["status"], status)
        money = [payment[f"amount_{name}"] for name in ("captured", "refunded", "capturing", "refunding")]
        captures, refunds, _ = (count * EUR.amount_minor for count in expected)
        differs.unless("captured, refunded, and still reserved", money, [captures, refunds, 0, 0])
        found += [f"{each}: {difference}" for difference in differs.found]
    strangers = {sending[1] for spare in stage.spares.values() for sending in _sendings(spare)} - spared
    if strangers:
        found.append(f"asked at a spare account without a reason: {strangers}")
    return found


def _in_the_end(each: Flow) -> tuple[str, int, int, int]:
    """The payment's status, and its captures, refunds and voids."""
    match each.verb, each.refused:
        case "alone", True:
            return "requires_payment_method", 0, 0, 0
        case "capture" | "cancel", True:
            return "requires_capture", 0, 0, 0
        case "cancel", _:
            return "canceled", 0, 0, 1
        case "refund", False:
            return "succeeded", 1, 1, 0
        case _:
            return "succeeded", 1, 0, 0


def _counted(stage: Stage) -> str:
    counts = Counter(each.verb for each in stage.flows)
    return ", ".join(f"{count} {verb}" for verb, count in counts.items())


@pytest.mark.parametrize("capture_method", ["manual", pytest.param("automatic", marks=pytest.mark.nightly)])
async def test_where_an_unknown_attempt_is_voided_and_another_account_asked_there_is_never_a_second_authorization(
    capture_method: str, stage: Stage, open_gateway: Open, psps: Psps, flow: type[Kit], proved: Callable[[str], None]
) -> None:
    stage.flows[:] = [each for each in stage.flows if each.verb == "authorize" and each.outcome == "Unknown"]
    policy = "void_then_failover"

    async def send(each: Flow) -> None:
        each.answers.append(await each.send(inside, flow))

    urls = {each.account: await each.proxy.break_down(each.row.toxic, **each.row.parameters) for each in stage.flows}
    for each in stage.flows:
        each.terms["capture_method"] = capture_method
    async with open_gateway((), more=stage.accounts(urls, flow.MERCHANT_ACCOUNT), on_unknown=policy) as inside:
        await stage.into_the_fault(send)
    for each in stage.flows:
        each.proxy.mend()
    async with open_gateway((), more=stage.accounts({}, flow.MERCHANT_ACCOUNT), on_unknown=policy) as inside:

        async def told() -> bool:
            """After the worker, the webhooks and the merchant have all tried again."""
            await _settle(stage, inside, flow)
            await stage.each(send)
            return all(each.answers[-1].status_code == 201 or each.untold for each in stage.flows)

        await flow.eventually(told, "the end of every payment that anybody tells of")
        for each in stage.flows:
            each.proxy.released.set()
        for each in stage.flows:
            await each.proxy.calm()
        await flow.eventually(told, "the same, once the last request has arrived")

    differing = _judged_failovers(stage.flows, Rows(inside.database), psps)
    assert not differing, "\n".join(differing)
    untold = sum(each.untold for each in stage.flows)
    proved(f"fault proxy, {policy}, {capture_method} capture: {len(stage.flows)} charges, {untold} untold, 0 twice")


def _judged_failovers(flows: list[Flow], rows: Rows, psps: Psps) -> list[str]:
    """One authorization that stands, at the account that the payment names; of what nobody tells, at most one."""
    books = [entry for psp in PSPS for entry in psps.books(psp, "authorisations")]
    standing = {entry["reference"] for entry in books if entry["status"] != "voided"}
    found = []
    for each in flows:
        payment, differs = rows.payments[each.answers[-1].json()["id"]], Differences()
        attempts = rows.attempts(payment["id"])
        stands = [attempt["account"] for attempt in attempts if attempt["id"] in standing]
        if each.untold:
            differs.unless("more than one stands", stands[1:], [])
            differs.unless("asked although nobody told", [attempt["account"] for attempt in attempts], [each.account])
        else:
            differs.unless("stands", stands, [payment["account"]])
        found += [f"{each}: {difference}" for difference in differs.found]
    return found
