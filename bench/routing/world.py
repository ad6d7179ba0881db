"""The world that strategies are measured in: payments, accounts with their true approval rates, and what goes wrong.

A :class:`Lane` is one drawn world: 20,000 payments of one scenario and one seed, with every die already thrown. The same
scenario and seed give the same lane on every machine, whatever is routed through it: two strategies meet the same payments,
and where they choose the same account, the same answers.

* A payment arrives in a segment (a BIN with its currency, brand, funding and issuer country), the first far more often than
  the last (Zipf).
* It is approved if its customer is good for it *and* the account gets it through: P = q_s * r_sk. q is the same wherever it
  is sent, so only r can be gained.
* logit r_sk = base_s + account_k + interaction_sk. So accounts differ by 1.5 to 2.5 points of approval within a segment.
* A decline of the account's side is always generic (`declined_ambiguous`). One of the customer's names its reason in 65 of
  100 cases (`declined_customer`), else it is generic too: nobody can tell those two apart.
* Outcomes are known later: 15 payments later, or minutes later. A technical failure is known at once.
* The static order comes from a stale report: each account's mean rate, wrong by 1.5 points (standard deviation).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

PAYMENTS: Final = 20_000
DAY_S: Final = 86_400.0
DELAY_PAYMENTS: Final = 15
"""The outcome of payment i is known when payment i + 15 is routed, not before."""
DELAY_MINUTES: Final = 3.0
"""The mean of an exponential delay, where outcomes come as webhooks do: 42 payments on average, in any order."""
NAMED: Final = 0.65
"""Share of the customers' declines whose code says that it was the customer."""
REPEATS: Final = 0.6
"""Share of an account's declines that any other account would repeat: what makes a second attempt fail."""
AMOUNT: Final = 3_500
"""Of every payment, in minor units: what is lost with an approval, where fees are counted too."""
REPORT_SD: Final = 0.015
CASH: Final = ("EUR", "GBP", "USD", "CHF", "SEK")
COUNTRIES: Final = ("DE", "FR", "GB", "US", "CH", "SE", "NL", "ES", "IT", "PL")
BRANDS: Final = ("visa", "mastercard")
FUNDINGS: Final = ("credit", "debit")

Rates = tuple[float, ...]
"""One number per account."""
Law = Callable[[int, int], Rates]
"""(payment, segment) → the accounts' true rates."""


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@dataclass(frozen=True, slots=True)
class Basis:
    """What a lane's world is made of before anything happens in it. Numbers are logits unless they say otherwise."""

    weights: tuple[float, ...]
    base: tuple[float, ...]
    account: tuple[float, ...]
    cell: tuple[Rates, ...]
    rng: Random

    def logits(self, segment: int) -> Rates:
        return tuple(self.base[segment] + g + e for g, e in zip(self.account, self.cell[segment], strict=True))

    def still(self) -> list[Rates]:
        """The rates where nothing ever changes, by segment."""
        return [tuple(expit(x) for x in self.logits(segment)) for segment in range(len(self.base))]

    def means(self) -> list[float]:
        """Each account's mean rate over all traffic."""
        still = self.still()
        return [sum(w * rates[k] for w, rates in zip(self.weights, still, strict=True)) for k in self.accounts]

    def ranked(self) -> list[int]:
        """Accounts by their true mean rate, best first."""
        means = self.means()
        return sorted(self.accounts, key=lambda k: -means[k])

    @property
    def accounts(self) -> range:
        return range(len(self.account))


@dataclass(frozen=True, slots=True)
class Incident:
    """``account``'s rate is replaced or multiplied for the payments in ``span``, in all segments or in some."""

    account: int
    span: range
    segments: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """What a scenario does to its world."""

    rates: Law
    reported: Sequence[Rates]
    """By segment, the rates that the stale report is of: those of ordinary days."""
    customers: Callable[[int], float] = lambda payment: 1.0
    """A factor on q, the same for every account."""
    technical: Law | None = None
    """The share of calls that fail technically."""
    incidents: tuple[Incident, ...] = ()
    from_payment: tuple[int, ...] = ()
    """Per account, the first payment that may be sent there; empty: all from the start."""


def stationary(basis: Basis) -> Happening:
    still = basis.still()
    return Happening(lambda payment, segment: still[segment], still)


def _sine(rng: Random, shortest: float, longest: float, amplitude: float) -> Callable[[int], float]:
    period, phase = rng.uniform(shortest, longest), rng.uniform(0, 2 * math.pi)
    return lambda payment: amplitude * math.sin(2 * math.pi * payment / period + phase)


def slow_drift(basis: Basis) -> Happening:
    tides = [_sine(basis.rng, 9_000, 16_000, 0.5) for _ in basis.accounts]
    swells = [[_sine(basis.rng, 12_000, 30_000, 0.6) for _ in basis.accounts] for _ in basis.base]
    logits = [basis.logits(segment) for segment in range(len(basis.base))]

    def rates(payment: int, segment: int) -> Rates:
        moved = zip(logits[segment], tides, swells[segment], strict=True)
        return tuple(expit(x + tide(payment) + swell(payment)) for x, tide, swell in moved)

    return Happening(rates, basis.still())


def _struck(still: list[Rates], struck: Sequence[tuple[Incident, Callable[[float], float]]]) -> Law:
    """``still`` with incidents: outside their spans a look-up, inside one changed entry."""

    def rates(payment: int, segment: int) -> Rates:
        found = still[segment]
        for incident, change in struck:
            if payment in incident.span and (incident.segments is None or segment in incident.segments):
                k = incident.account
                found = (*found[:k], change(found[k]), *found[k + 1 :])
        return found

    return rates


def outage(basis: Basis) -> Happening:
    best, second = basis.ranked()[:2]
    dead, halved = Incident(best, range(7_000, 9_000)), Incident(second, range(14_000, 15_500))
    law = _struck(basis.still(), [(dead, lambda rate: 0.05), (halved, lambda rate: 0.55 * rate)])
    return Happening(law, basis.still(), incidents=(dead, halved))


def partial_outage(basis: Basis) -> Happening:
    hurt = Incident(basis.ranked()[0], range(6_000, 13_000), frozenset({1, 3}))
    return Happening(_struck(basis.still(), [(hurt, lambda rate: 0.25 * rate)]), basis.still(), incidents=(hurt,))


def cyclical(basis: Basis) -> Happening:
    count = len(basis.account)
    logits = [basis.logits(segment) for segment in range(len(basis.base))]

    def rates(payment: int, segment: int) -> Rates:
        turn = 2 * math.pi * payment / 5_000
        return tuple(expit(x + 0.6 * math.sin(turn + 2 * math.pi * k / count)) for k, x in enumerate(logits[segment]))

    return Happening(rates, basis.still())


def cold_start(basis: Basis) -> Happening:
    """The last account is as good as the best of the others, and a step better or worse: in half of the segments each."""
    segments = list(range(len(basis.base)))
    basis.rng.shuffle(segments)
    better = set(segments[: len(segments) // 2])
    table = []
    for segment, rates in enumerate(basis.still()):
        known = rates[:-1]
        step = 0.6 if segment in better else -0.6
        table.append((*known, expit(logit(max(known)) + step)))
    return Happening(
        lambda payment, segment: table[segment], table, from_payment=(0,) * (len(basis.account) - 1) + (4_000,)
    )


def decline_burst(basis: Basis) -> Happening:
    still = basis.still()
    return Happening(
        lambda payment, segment: still[segment],
        still,
        customers=lambda payment: 0.55 if 8_000 <= payment < 10_000 else 1.0,
    )


def equal(basis: Basis) -> Happening:
    same = [(expit(base),) * len(basis.account) for base in basis.base]
    return Happening(lambda payment, segment: same[segment], same)


def non_additive(basis: Basis) -> Happening:
    """No account is good or bad as such: what counts is how it and the segment's group go together, with heavy tails."""
    groups = [[basis.rng.gauss(0, 0.6) for _ in basis.accounts] for _ in range(3)]

    def effect(segment: int, k: int) -> float:
        heavy = basis.rng.gauss(0, 0.35) / math.sqrt(basis.rng.gammavariate(1.5, 2 / 3))  # Student's t, three degrees
        return groups[segment % 3][k] + max(-2.0, min(2.0, heavy))

    table = [tuple(expit(base + effect(s, k)) for k in basis.accounts) for s, base in enumerate(basis.base)]
    return Happening(lambda payment, segment: table[segment], table)


def technical(basis: Basis) -> Happening:
    """The best account's calls fail: nearly all for a while, and one in eight for a longer one. Elsewhere 3 in 1,000."""
    still, best = basis.still(), basis.ranked()[0]
    down, brown = Incident(best, range(7_000, 8_000)), Incident(best, range(12_000, 15_000))
    usual = (0.003,) * len(basis.account)
    law = _struck([usual] * len(still), [(down, lambda rate: 0.9), (brown, lambda rate: 0.125)])
    return Happening(lambda payment, segment: still[segment], still, technical=law, incidents=(down, brown))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the environment. ``published``: one of the nine of the design; the first eight of them are pooled."""

    name: str
    happening: Callable[[Basis], Happening]
    says: str
    segments: int = 12
    zipf: float = 1.0
    accounts: int = 3
    delay: str = "payments"
    days: int = 1
    """Over how many days the payments are spread. More than one: with a daily curve, at night a tenth of the noon's."""
    published: bool = True


SCENARIOS: Final[Mapping[str, Scenario]] = {
    row.name: row
    for row in (
        Scenario("stationary", stationary, "rates never change"),
        Scenario(
            "slow_drift",
            slow_drift,
            "account effects are sinusoids (period 9-16k payments, amplitude 0.5 logit), cells too (12-30k, 0.6)",
        ),
        Scenario(
            "outage",
            outage,
            "the best account's r = 0.05 for payments 7,000-9,000; the second best's r x 0.55 for 14,000-15,500",
        ),
        Scenario("partial_outage", partial_outage, "the best account's r x 0.25 in segments 1 and 3, 6,000-13,000"),
        Scenario("cyclical", cyclical, "account effects rotate: period 5,000 payments, amplitude 0.6 logit"),
        Scenario(
            "cold_start",
            cold_start,
            "a fourth account from payment 4,000: 0.6 logit better than the best in half of the segments, worse in the other",
            accounts=4,
        ),
        Scenario("low_traffic", stationary, "200 segments, 100 payments each on average", segments=200, zipf=0.8),
        Scenario(
            "decline_burst", decline_burst, "q x 0.55 for everybody, 8,000-10,000: nothing is gained by switching"
        ),
        Scenario("equal", equal, "identical accounts: nothing can be gained, only switched"),
        Scenario(
            "non_additive",
            non_additive,
            "no account effect: three groups of segments x account (sd 0.6 logit) and heavy-tailed cells (t3, scale 0.35)",
            published=False,
        ),
        Scenario(
            "technical",
            technical,
            "the best account's calls fail technically: 90 % in 7,000-8,000, 12.5 % in 12,000-15,000; 0.3 % else",
            published=False,
        ),
        Scenario(
            "outage_minutes",
            outage,
            "as outage, but each outcome comes after an exponential delay of 3 minutes on average, in any order",
            delay="minutes",
            published=False,
        ),
        Scenario(
            "daily_curve",
            outage,
            "as outage, over three days with a daily curve, and outcomes 3 minutes late",
            delay="minutes",
            days=3,
            published=False,
        ),
    )
}
POOLED: Final = tuple(name for name, row in SCENARIOS.items() if row.published and name != "equal")
CALM: Final = ("stationary", "low_traffic", "decline_burst", "equal")
"""Where no account ever fails: every breaker that opens there is wrong."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One world, drawn. Lists have an entry per payment; what a strategy may see are ``contexts`` and outcomes."""

    scenario: Scenario
    seed: int
    accounts: tuple[str, ...]
    """In the static order: the first is what the stale report holds for the best."""
    report: Mapping[str, float]
    """The stale report: account → approval rate over all traffic, as the team would read it. None for a new account."""
    named_report: Mapping[str, float]
    """The same report with the declines left out that name the customer: a higher rate, wrong by the same error."""
    fees: tuple[int, ...]
    """What each account takes of an approved payment, in minor units. Every payment is over ``AMOUNT``."""
    contexts: tuple[Mapping[str, str], ...]
    segment: Sequence[int]
    at: Sequence[float]
    due: Sequence[float] | None
    """When each outcome is known, where that is a matter of time; ``None``: after ``DELAY_PAYMENTS`` payments."""
    customer: Sequence[float]
    rates: Sequence[Rates]
    technical: Sequence[Rates] | None
    dice: Sequence[tuple[float, float, float, float]]
    """Uniform numbers: the account's, the customer's, the code's, the technical one."""
    incidents: tuple[Incident, ...]
    opens: Mapping[int, tuple[str, ...]]
    """Payment → the accounts that may be chosen from there on."""

    def chance(self, payment: int, k: int) -> float:
        """The true probability that account ``k`` approves: what results are counted in, so that luck is left out."""
        rate = self.rates[payment][k] * self.customer[payment]
        return rate * (1 - self.technical[payment][k]) if self.technical else rate

    def outcome(self, payment: int, k: int, die: float | None = None) -> str:
        """What account ``k`` answers. ``die``: the account's own, for a second attempt."""
        account, customer, code, fault = self.dice[payment]
        if self.technical and fault < self.technical[payment][k]:
            return "technical"
        if (account if die is None else die) >= self.rates[payment][k]:
            return "declined_ambiguous"
        if customer < self.customer[payment]:
            return "approved"
        return "declined_customer" if code < NAMED else "declined_ambiguous"


def context_of(segment: int) -> dict[str, str]:
    """The context of a segment: no two have the same BIN, nor the same currency, brand, funding and issuer country."""
    rest, brand = divmod(segment, len(BRANDS))
    rest, funding = divmod(rest, len(FUNDINGS))
    currency, country = divmod(rest, len(COUNTRIES))
    return {
        "currency": CASH[(currency + country) % len(CASH)],
        "brand": BRANDS[brand],
        "funding": FUNDINGS[funding],
        "issuer_country": COUNTRIES[country],
        "bin": f"{(4, 5)[brand]}{10_000 + segment}",
        "initiator": "customer",
        "amount_band": "20-50",
        "amount": str(AMOUNT),
    }


def _moments(scenario: Scenario, payments: int, rng: Random) -> list[float]:
    """When payments arrive: evenly over a day, or by a daily curve over several. The n-th of them is never late."""
    length = scenario.days * DAY_S * payments / PAYMENTS
    even = [length * (i + 0.5) / payments for i in range(payments)]
    if scenario.days == 1:
        return even
    marks = range(int(length) // 60 + 2)  # one a minute
    curve = [1 - 0.82 * math.cos(2 * math.pi * 60 * m / DAY_S) for m in marks]
    filled = list(itertools.accumulate(curve))
    scale = filled[-1] / length
    return [60.0 * bisect_left(filled, moment * scale) + 59 * i / payments for i, moment in enumerate(even)]


def draw(scenario: Scenario, seed: int, payments: int = PAYMENTS) -> Lane:
    """The lane of ``scenario`` and ``seed``. Always the same one; of more payments, the first are the same only in law."""
    rng = Random(f"{scenario.name}/{seed}/{payments}")
    raw = [1 / (rank + 1) ** scenario.zipf for rank in range(scenario.segments)]
    weights = tuple(w / sum(raw) for w in raw)
    count = scenario.accounts
    basis = Basis(
        weights,
        tuple(logit(rng.uniform(0.90, 0.97)) for _ in weights),
        tuple(rng.gauss(0, 0.35) for _ in range(count)),
        tuple(tuple(rng.gauss(0, 0.45) for _ in range(count)) for _ in weights),
        rng,
    )
    funds = [rng.uniform(0.84, 0.95) for _ in weights]
    happening = scenario.happening(basis)
    names = tuple(f"acct_{k + 1}" for k in range(count))
    late = {names[k] for k, first in enumerate(happening.from_payment) if first}
    mean_funds = sum(w * q for w, q in zip(weights, funds, strict=True))
    seen = [sum(w * rates[k] for w, rates in zip(weights, happening.reported, strict=True)) for k in range(count)]
    read = [rate + rng.gauss(0, REPORT_SD) for rate in seen]
    order = sorted(range(count), key=lambda k: (names[k] in late, -read[k]))
    place = {k: position for position, k in enumerate(order)}  # accounts are numbered in the static order from here on
    segment = rng.choices(range(len(weights)), weights=weights, k=payments)
    at = _moments(scenario, payments, rng)
    due = [moment + rng.expovariate(1 / (60 * DELAY_MINUTES)) for moment in at] if scenario.delay == "minutes" else None
    accounts = tuple(names[k] for k in order)
    known = tuple(name for name in accounts if name not in late)
    reported = {name: min(0.99, read[k]) for k, name in enumerate(names) if name not in late}
    return Lane(
        scenario=scenario,
        seed=seed,
        accounts=accounts,
        report={name: mean_funds * reported[name] for name in known},
        named_report={
            name: mean_funds * reported[name] / (1 - NAMED * (1 - mean_funds) * reported[name]) for name in known
        },
        fees=tuple(rng.randrange(8, 40) for _ in order),
        contexts=tuple(context_of(s) for s in range(len(weights))),
        segment=segment,
        at=at,
        due=due,
        customer=[funds[s] * happening.customers(i) for i, s in enumerate(segment)],
        rates=_ordered(happening.rates, segment, order),
        technical=_ordered(happening.technical, segment, order) if happening.technical else None,
        dice=[(rng.random(), rng.random(), rng.random(), rng.random()) for _ in segment],
        incidents=tuple(Incident(place[i.account], i.span, i.segments) for i in happening.incidents),
        opens={0: known} | ({happening.from_payment[-1]: accounts} if late else {}),
    )


def _ordered(law: Law, segment: Sequence[int], order: Sequence[int]) -> list[Rates]:
    made: dict[Rates, Rates] = {}  # most payments share a handful of rows
    rows = []
    for i, s in enumerate(segment):
        row = law(i, s)
        found = made.get(row)
        if found is None:
            found = tuple(row[k] for k in order)
            if len(made) < 4_096:
                made[row] = found
        rows.append(found)
    return rows
