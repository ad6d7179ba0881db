"""What stands around every strategy: breakers, limits on exploration, shares, and the beliefs they all explain themselves with.

A strategy proper is a :class:`Preference`: the probability with which each account is to come first, and the order of the rest.
:class:`Guarded` makes a policy of it in the same way for all: accounts with an open breaker get probes alone, exploration is capped,
shares and commitments are held, and one draw decides. The probability it is drawn with is the one that is told.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from routing.strategies import breaker
from routing.strategies.beliefs import Beliefs, Outlook, sigmoid
from routing.strategies.policy import (
    APPROVED,
    DECLINED_CUSTOMER,
    OUTCOMES,
    STRATEGIES,
    TECHNICAL,
    Chosen,
    Constraints,
    Explained,
    Ranked,
)

FORM: Final = 3
"""Of the snapshots. One of another form is refused: its owner starts from the evidence again."""
COMMON_MEMORY: Final = 80
"""Outcomes over which the other accounts are compared with what was expected of them."""
SHARE_SLACK: Final = 20.0
"""Attempts by which a share may be off before the account gets nothing, or everything, until it is right again."""
PACE_S: Final = 7 * 86_400.0
"""Memory of how many attempts come in a second: a week, so that nights and weekends are in it."""
WEIGHED_MAX: Final = 1_000
"""Kinds of payments whose ranking is kept at a time."""
Z95: Final = 1.96


@dataclass(slots=True)
class View:
    """What a preference decides on: one payment, the accounts whose breakers are closed, and an outlook that begins with these."""

    context: Mapping[str, str]
    segment: str
    accounts: Sequence[str]
    outlook: Outlook


@dataclass(slots=True)
class Weighed:
    """What payments of one kind are worth at some accounts, and which of these is preferred."""

    closed: Sequence[str]
    opened: Sequence[str]
    """The accounts whose breakers are open, if others can be asked. Of the outlook they are the last."""
    outlook: Outlook
    wanted: list[float]
    order: list[int]
    known: Mapping[str, Explained] = field(default_factory=dict)
    """Of each account, once somebody has asked."""


class Preference(Protocol):
    """A strategy proper."""

    name: str
    explores: bool
    """Whether probability on another than the first of the order is exploration, which is capped."""
    alike: bool
    """Whether it decides alike on all payments of a segment until it learns again."""

    def prefer(self, view: View) -> tuple[list[float], list[int]]:
        """Each account's probability of coming first (sum 1), and the order (indexes, best first)."""
        ...

    def learn(self, segment: str, account: str, *, approved: bool) -> None:
        """Take in one outcome that counts."""
        ...

    def forget(self, segment: str) -> None:
        """Give up what is known of a segment alone."""
        ...

    def detail(self, context: Mapping[str, str], account: str, rate: float) -> str | None:
        """A sentence for :class:`~routing.strategies.policy.Explained`."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """What it has learned beside the beliefs."""
        ...

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take it back."""
        ...


@dataclass(slots=True)
class Pace:
    """How many attempts come in a second, with a memory of :data:`PACE_S`; of the time since the first one while that is shorter."""

    attempts: float = 0.0
    at: float = 0.0
    since: float | None = None

    def count(self, now: float) -> None:
        """Count one attempt at ``now``. A time that goes back is taken for the latest."""
        if self.since is None:
            self.at = self.since = now
        passed = max(0.0, now - self.at)
        self.attempts = self.attempts * math.exp(-passed / PACE_S) + 1
        self.at += passed

    def rate(self, now: float) -> float:
        """Attempts in a second; 0 where none was counted."""
        if self.since is None:
            return 0.0
        seen_s = max(1.0, now - self.since)
        faded = self.attempts * math.exp(-max(0.0, now - self.at) / PACE_S)
        return faded / (PACE_S * -math.expm1(-seen_s / PACE_S))


_NO_EVIDENCE: Final = frozenset({TECHNICAL, DECLINED_CUSTOMER})
"""Outcomes that say nothing of how much an account approves."""


class Guarded:
    """A policy made of a preference. See :class:`~routing.strategies.policy.Policy` for the contract of each method."""

    def __init__(
        self,
        preference: Preference,
        accounts: Sequence[str],
        settings: Mapping[str, Any],
        prior: Mapping[str, Any] | None = None,
    ) -> None:
        value = {setting.name: setting.default for setting in STRATEGIES[preference.name]} | dict(settings)
        self.preference = preference
        self.accounts = tuple(accounts)
        self.constraints = Constraints.read(settings.get("constraints", {}))
        self.beliefs = Beliefs(accounts, prior)
        self._segments_max = max(1, int(value["cells_max"]) // max(len(self.accounts), 1))
        self._keys: tuple[str, ...] = tuple(value["segment_by"])
        self._blanks = ("",) * len(self._keys)
        self._trip = breaker.Trip(
            threshold=value["breaker_threshold"],
            drop=value["breaker_drop"],
            close=value["breaker_close"],
            technical=value["technical_threshold"],
        )
        self._probe = value["probe_share"] / 100
        self._hint_s = float(value["hint_s"])
        self._share_keep = 1 - 1 / value["share_window"]
        self._breakers: dict[str, list[float]] = {}
        self._segments: dict[str, dict[str, list[float]]] = {}  # least lately used first; of each, its cells' breakers
        self._opened: dict[tuple[str, str | None], list[float]] = {}
        """The breakers among them that are open, by account and segment (``None``: the account's own)."""
        self._common: dict[str, list[float]] = {}
        self._sent: dict[str, float] = {}
        self._delivered: dict[str, int] = {}
        """Attempts that count for the commitment of an account, as far as this policy has heard of them."""
        self._pace = Pace()
        self.openings = 0
        """How often a breaker has opened, at any level, since this policy was made."""
        self._weighed: dict[tuple[str, tuple[str, ...]], Weighed] = {}
        """By segment and candidates, with every breaker closed: what holds until something is learned."""
        self._hints: list[tuple[str, str, str, float]] = []  # account, segment, outcome, when; oldest first
        self._overlay: dict[tuple[str, str | None], list[float]] | None = None
        """Breakers as hints have moved them, found in the same way; ``None`` when to be made anew."""

    def segment(self, context: Mapping[str, str]) -> str:
        """The name of a payment's segment."""
        return "|".join(map(context.get, self._keys, self._blanks))

    def rank(
        self, context: Mapping[str, str], candidates: Sequence[str], rng: random.Random, now: float
    ) -> list[tuple[str, float, float]]:
        """See :meth:`Policy.rank <routing.strategies.policy.Policy.rank>`."""
        return list(self.choose(context, candidates, rng.random(), now).ranking)

    def choose(
        self,
        context: Mapping[str, str],
        candidates: Sequence[str],
        draw: float,
        now: float,
        *,
        explain: bool = False,
    ) -> Chosen:
        """See :meth:`Policy.choose <routing.strategies.policy.Policy.choose>`."""
        names = tuple(dict.fromkeys(candidates))
        if not names:
            return Chosen([], "exploit")
        segment = self.segment(context)
        tripped = self._open(segment, names, now)
        weighed = None if tripped else self._weighed.get((segment, names))
        if weighed is None:
            weighed = self._weigh(context, segment, names, tripped)
        if explain and not weighed.known:
            weighed.known = self._believed(weighed.outlook, tripped)
        closed, opened, order, rates = weighed.closed, weighed.opened, weighed.order, weighed.outlook.rates
        may_explore = self.constraints.may_explore(context)
        wanted = self._capped(weighed.wanted, order[0], may_explore=may_explore)
        chances, constraint = self._held(closed, wanted, order, now)
        probe = min(self._probe, 0.5 / len(opened)) if opened and may_explore else 0.0
        rest = 1 - probe * len(opened)
        ranking = [Ranked(closed[index], rates[index], chances[index] * rest) for index in order]
        ranking += [Ranked(name, rates[place], probe) for place, name in enumerate(opened, len(closed))]
        taken = _drawn(ranking, draw)
        if taken:
            ranking.insert(0, ranking.pop(taken))
        return Chosen(ranking, self._mode(taken, order, wanted, chances), constraint, weighed.known if explain else {})

    def _weigh(
        self, context: Mapping[str, str], segment: str, names: tuple[str, ...], tripped: Mapping[str, list[float]]
    ) -> Weighed:
        """What a payment is worth where, and what is preferred. It is kept for those like it until something is learned.

        That pays where it is needed, under load: of 400 payments a second that are of 200 kinds, half come a second time between two folds.
        """
        # with every breaker open, there is nothing to prefer: they are ignored
        opened = list(tripped) if len(tripped) < len(names) else []
        closed = [name for name in names if name not in tripped] if opened else names
        outlook = self.beliefs.outlook(segment, (*closed, *opened))
        wanted, order = self.preference.prefer(View(context, segment, closed, outlook))
        weighed = Weighed(closed, opened, outlook, wanted, order)
        if self.preference.alike and not tripped:
            if len(self._weighed) >= WEIGHED_MAX:
                self._weighed.clear()
            self._weighed[segment, names] = weighed
        return weighed

    def _mode(self, taken: int, order: list[int], wanted: list[float], chances: list[float]) -> str:
        if taken >= len(order):
            return "probe"
        index = order[taken]
        if chances[index] > wanted[index] and taken:
            return "forced"
        if not self.preference.explores and max(wanted) < 1:
            return "split"
        return "explore" if taken else "exploit"

    def _capped(self, wanted: list[float], first: int, *, may_explore: bool) -> list[float]:
        """The probabilities with exploration held under its cap."""
        if not self.preference.explores:
            return wanted
        most = self.constraints.explore_max if may_explore else 0.0
        exploring = 1 - wanted[first]
        if most is None or exploring <= most:
            return wanted
        keep = most / exploring
        capped = [chance * keep for chance in wanted]
        capped[first] = 1 - most
        return capped

    def _held(
        self, names: Sequence[str], wanted: list[float], order: list[int], now: float
    ) -> tuple[list[float], str | None]:
        """The probabilities moved into the shares and commitments, and what moved them. What none has room for goes by preference."""
        least, most = self.constraints.least, self.constraints.most
        owed = {name: part for name in self.constraints.commitments if (part := self._owed(name, now)) > 0}
        if not least and not most and not owed:
            return wanted, None
        total = sum(self._sent.values())
        floors, roofs = [], []
        for name in names:
            off = self._sent.get(name, 0.0)
            low, high = least.get(name, 0.0), most.get(name, 1.0)
            floor = _clip(low + (low * total - off) / SHARE_SLACK, 0.0, 1.0) if low else 0.0
            roof = _clip(high - (off - high * total) / SHARE_SLACK, 0.0, 1.0) if high < 1 else 1.0
            floors.append(max(floor, min(owed.get(name, 0.0), roof)))
            roofs.append(roof)
        held = [_clip(chance, low, max(low, high)) for chance, low, high in zip(wanted, floors, roofs, strict=True)]
        missing = 1 - sum(held)
        for index in order if missing > 0 else reversed(order):
            room = max(0.0, roofs[index] - held[index]) if missing > 0 else floors[index] - held[index]
            step = min(missing, room) if missing > 0 else max(missing, room)
            held[index] += step
            missing -= step
        if missing > 1e-12:
            held[order[0]] += missing
        elif missing < -1e-12:
            total_held = sum(held)
            held = [chance / total_held for chance in held]
        moved = [name for new, old, name in zip(held, wanted, names, strict=True) if abs(new - old) > 1e-9]
        promised = sorted(name for name in moved if name in owed)
        shared = sorted(name for name in moved if name in least or name in most)
        if moved and not promised and not shared:
            shared = sorted(moved)
        told = [f"{what} of {', '.join(of)}" for what, of in (("shares", shared), ("commitment", promised)) if of]
        return held, "; ".join(told) or None

    def _owed(self, account: str, now: float) -> float:
        """The part of the payments to come that an account has to get for its commitment, if it is spread evenly over them."""
        commitment = self.constraints.commitments[account]
        missing = commitment.attempts - self._delivered.get(account, 0)
        if missing <= 0 or not commitment.starts_at <= now < commitment.ends_at:
            return 0.0
        to_come = self._pace.rate(now) * (commitment.ends_at - now)
        return 1.0 if to_come <= missing else missing / to_come

    def _deliver(self, account: str, now: float, attempts: int) -> None:
        """Count attempts into the commitment of an account, if it has one for this moment."""
        commitment = self.constraints.commitments.get(account)
        if commitment is not None and commitment.starts_at <= now < commitment.ends_at:
            self._delivered[account] = self._delivered.get(account, 0) + attempts

    def update(self, context: Mapping[str, str], account: str, outcome: str, now: float) -> None:
        """See :meth:`Policy.update <routing.strategies.policy.Policy.update>`."""
        if outcome not in OUTCOMES:
            raise ValueError(f"{outcome!r} is not an outcome: use one of {', '.join(OUTCOMES)}")
        segment = self.segment(context)
        keep, sent = self._share_keep, self._sent
        for name in sent:
            sent[name] *= keep
        sent[account] = sent.get(account, 0.0) + 1
        self._deliver(account, now, 1)
        self._pace.count(now)
        of_account, of_cell = _breaker_of(self._breakers, account), _breaker_of(self._used(segment), account)
        self._overlay = None
        self._weighed.clear()
        self.beliefs.pass_by()
        if outcome in _NO_EVIDENCE:
            self._move(account, segment, outcome, 1.0)
            return
        approved = outcome == APPROVED
        seen = self.beliefs.outlook(segment, (account,))
        expected = seen.rates[0]
        was_open = breaker.is_open(of_account) or breaker.is_open(of_cell)
        if not (approved and breaker.at_rest(of_account) and breaker.at_rest(of_cell)):
            self._move(account, segment, outcome, expected * self._common_factor(account))
        common = self._common.get(account)
        if common is None:
            common = self._common[account] = [0.0, 0.0]
        common[0] += approved - common[0] / COMMON_MEMORY
        common[1] += expected - common[1] / COMMON_MEMORY
        if not was_open:  # what comes of an outage is no evidence of an ordinary day
            self.beliefs.learn(segment, account, seen, approved=approved)
            self.preference.learn(segment, account, approved=approved)

    def _move(self, account: str, segment: str, outcome: str, expected: float) -> None:
        """Move the two breakers that an outcome is evidence for, and count openings."""
        of_both = {(account, None): self._breakers[account], (account, segment): self._segments[segment][account]}
        for at, state in of_both.items():
            self._trip.move(state, outcome, expected)
            if not breaker.is_open(state):
                self._opened.pop(at, None)
            elif at not in self._opened:
                self._opened[at] = state
                self.openings += 1

    def instead(self, asked: str | None, chosen: str | None) -> None:
        """See :meth:`Policy.instead <routing.strategies.policy.Policy.instead>`."""
        if asked is not None:
            self._sent[asked] = max(0.0, self._sent.get(asked, 0.0) - 1)
            self._deliver(asked, self._pace.at, -1)
        if chosen is not None:
            self._sent[chosen] = self._sent.get(chosen, 0.0) + 1
            self._deliver(chosen, self._pace.at, 1)

    def _used(self, segment: str) -> dict[str, list[float]]:
        """The breakers of a segment's cells. Makes room for a new one by forgetting the one that was used longest ago."""
        cells = self._segments.pop(segment, None)
        if cells is None:
            cells = {}
            while len(self._segments) >= self._segments_max:
                oldest = next(iter(self._segments))
                for name in self._segments.pop(oldest):
                    self._opened.pop((name, oldest), None)
                self.beliefs.forget(oldest)
                self.preference.forget(oldest)
        self._segments[segment] = cells
        return cells

    def _common_factor(self, account: str) -> float:
        """How the other accounts do against what was expected of them; 1 where too little is known."""
        seen = hoped = 20.0  # as much as this is taken for ordinary, so that a few outcomes do not decide it
        for name, (approved, expected) in self._common.items():
            if name != account and not breaker.is_open(self._breakers[name]):
                seen += approved
                hoped += expected
        return min(1.0, seen / hoped)

    def _open(self, segment: str, names: Sequence[str], now: float) -> dict[str, list[float]]:
        """The breakers that are open, with the hints that have not been taken back: of each account its own before its cell's."""
        if self._hints and now - self._hints[0][3] > self._hint_s:
            self._hints = [hint for hint in self._hints if now - hint[3] <= self._hint_s]
            self._overlay = None
        overlay = self._overlay
        if overlay is None:
            overlay = self._overlay = {}
            for hinted, where, outcome, _ in self._hints:
                self._lay(overlay, hinted, where, outcome)
        opened = self._opened
        if not overlay and not opened:
            return {}
        found = {}
        for name in names:
            for at in ((name, None), (name, segment)):
                state = overlay.get(at) or opened.get(at)
                if state is not None and breaker.is_open(state):
                    found[name] = state
                    break
        return found

    def _lay(
        self, overlay: dict[tuple[str, str | None], list[float]], account: str, segment: str, outcome: str
    ) -> None:
        """Move the overlaid breakers by one hint."""
        cells = self._segments.get(segment)
        of_account = overlay.get((account, None)) or self._breakers.get(account)
        of_cell = overlay.get((account, segment)) or (None if cells is None else cells.get(account))
        if outcome == APPROVED and breaker.at_rest(of_account) and breaker.at_rest(of_cell):
            return  # most hints, and what is expected need not be asked for them
        usual = self.beliefs.outlook(segment, (account,)).rates[0] * self._common_factor(account)
        for at, state in (((account, None), of_account), ((account, segment), of_cell)):
            moved = overlay[at] = list(state or breaker.fresh())
            self._trip.move(moved, outcome, usual)

    def hint(self, account: str, context: Mapping[str, str], outcome: str, now: float) -> None:
        """See :meth:`Policy.hint <routing.strategies.policy.Policy.hint>`."""
        if outcome not in OUTCOMES:
            raise ValueError(f"{outcome!r} is not an outcome: use one of {', '.join(OUTCOMES)}")
        segment = self.segment(context)
        self._hints.append((account, segment, outcome, now))
        if self._overlay is not None:
            self._lay(self._overlay, account, segment, outcome)

    def unhint(self, account: str, context: Mapping[str, str], outcome: str, now: float) -> None:
        """See :meth:`Policy.unhint <routing.strategies.policy.Policy.unhint>`."""
        wanted = (account, self.segment(context), outcome)
        for index, hint in enumerate(self._hints):
            if hint[:3] == wanted:
                del self._hints[index]
                self._overlay = None
                return

    def explain(self, context: Mapping[str, str], account: str, now: float) -> Explained:
        """See :meth:`Policy.explain <routing.strategies.policy.Policy.explain>`."""
        segment = self.segment(context)
        outlook, tripped = self.beliefs.outlook(segment, (account,)), self._open(segment, (account,), now)
        believed = self._believed(outlook, tripped)[account]
        attempts = self.beliefs.evidence(segment, account, believed.score)
        return believed._replace(attempts=attempts, detail=self.preference.detail(context, account, believed.score))

    def _believed(self, outlook: Outlook, tripped: Mapping[str, list[float]]) -> dict[str, Explained]:
        """What is expected of the accounts of an outlook, with the breakers that are open."""
        known = {}
        spreads = self.beliefs.spreads(outlook)
        for account, mean, rate, spread in zip(outlook.names, outlook.means, outlook.rates, spreads, strict=True):
            log_odds, word = outlook.base + mean, breaker.word(tripped[account]) if account in tripped else "closed"
            known[account] = Explained(rate, sigmoid(log_odds - Z95 * spread), sigmoid(log_odds + Z95 * spread), word)
        return known

    def opened(self, account: str) -> list[str]:
        """See :meth:`Policy.opened <routing.strategies.policy.Policy.opened>`."""
        return [segment for name, segment in self._opened if name == account and segment is not None]

    def snapshot(self) -> dict[str, Any]:
        """See :meth:`Policy.snapshot <routing.strategies.policy.Policy.snapshot>`."""
        return {
            "form": FORM,
            "strategy": self.preference.name,
            "beliefs": self.beliefs.snapshot(),
            "breakers": {name: list(state) for name, state in self._breakers.items()},
            "segments": [
                [segment, {name: list(state) for name, state in cells.items()}]
                for segment, cells in self._segments.items()
            ],
            "common": [
                [name, *state] for name, state in self._common.items()
            ],  # lists, as their order is that of the sums
            "sent": [[name, sent] for name, sent in self._sent.items()],
            "delivered": dict(self._delivered),
            "pace": [self._pace.attempts, self._pace.at, self._pace.since],
            "preference": self.preference.snapshot(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """See :meth:`Policy.restore <routing.strategies.policy.Policy.restore>`."""
        if snapshot.get("form") != FORM or snapshot.get("strategy") != self.preference.name:
            raise ValueError(
                f"not a snapshot of form {FORM} of {self.preference.name}: fold the evidence again from its start"
            )
        self.beliefs.restore(snapshot["beliefs"])
        self._breakers = {name: list(state) for name, state in snapshot["breakers"].items()}
        self._segments = {
            segment: {name: list(state) for name, state in cells.items()} for segment, cells in snapshot["segments"]
        }
        cells = (
            ((name, segment), state) for segment, states in self._segments.items() for name, state in states.items()
        )
        accounts = (((name, None), state) for name, state in self._breakers.items())
        self._opened = {at: state for at, state in (*accounts, *cells) if breaker.is_open(state)}
        self._common = {name: [approved, expected] for name, approved, expected in snapshot["common"]}
        self._sent = dict(snapshot["sent"])
        self._delivered = dict(snapshot["delivered"])
        self._pace = Pace(*snapshot["pace"])
        self._hints, self._overlay, self._weighed = [], None, {}
        self.preference.restore(snapshot["preference"])


def _breaker_of(breakers: dict[str, list[float]], account: str) -> list[float]:
    """The breaker of an account among these. A new one where there was none."""
    found = breakers.get(account)
    if found is None:
        found = breakers[account] = breaker.fresh()
    return found


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _drawn(ranking: list[Ranked], draw: float) -> int:
    """The place that ``draw`` (0..1) falls on; the last with any chance where rounding leaves it beyond all."""
    last = 0
    for place, (_, _, chance) in enumerate(ranking):
        if chance > 0:
            last = place
            draw -= chance
            if draw < 0:
                return place
    return last
