"""The page and the plot: `docs/routing-benchmark.md` and `docs/routing-benchmark.svg`, from the results of one run."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from bench.routing import tuning
from bench.routing.entrants import ENTRANTS, TUNED
from bench.routing.play import Figures, Result, Share, figures
from bench.routing.world import AMOUNT, POOLED, SCENARIOS

DOCS: Final = Path(__file__).parents[2] / "docs"
SEEDS: Final = tuple(range(201, 209))
"""Reported; those of tuning are others."""
CASCADES: Final = ("priority", "adaptive")
COSTS: Final = ("priority", "adaptive", "least_cost")
FEWER: Final = 4
"""Seeds of the further scenarios; second attempts and longer lanes have half as many. The first ones."""
LONGER: Final = ("priority", "adaptive", "sw_ucb_tuned")
FURTHER: Final = tuple(name for name, row in SCENARIOS.items() if not row.published)

Results = Mapping[str, Sequence[Result]]


@dataclass(frozen=True, slots=True)
class Run:
    """What the page is made of: results by the row's name, of one attempt each, with second attempts, and of longer lanes."""

    single: Results
    cascade: Results
    longer: Results
    seeds: Sequence[int]
    payments: int
    day: str

    def found(self) -> dict[str, Figures]:
        """The figures of every row."""
        return {name: figures(rows) for name, rows in self.single.items()}


@dataclass(frozen=True, slots=True)
class Aim:
    """One line of what `adaptive` is to reach."""

    says: str
    aim: str
    value: Callable[[Figures], float | None]
    reached: Callable[[float], bool]
    digits: int


def _worst(found: Figures) -> float | None:
    """The least captured of the pooled scenarios, each moved up by its own standard error."""
    shares = [found.captured[name] for name in POOLED if found.captured.get(name)]
    return min((share.percent + (share.error or 0) for share in shares if share), default=None)


AIMS: Final = (
    Aim("captured, pooled", "≥ 75 %", lambda f: f.pooled.percent if f.pooled else None, lambda v: v >= 75, 1),
    Aim("captured in the worst scenario, plus its standard error", "≥ 0 %", _worst, lambda v: v >= 0, 1),
    Aim("payments to the dead account", "≤ 20", lambda f: f.dead, lambda v: v <= 20, 1),
    Aim("approvals lost in the outage", "≤ 60", lambda f: f.lost, lambda v: v <= 60, 1),
    Aim("false switches", "≤ 0.10", lambda f: f.false_switch, lambda v: v <= 0.10, 3),
    Aim("false breaker openings per 20,000 payments", "≤ 0.5", lambda f: f.false_openings, lambda v: v <= 0.5, 2),
)


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of which the first column is text and the others are numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def ordered(found: Mapping[str, Figures]) -> list[str]:
    """Rows by what is captured, best first."""

    def captured(name: str) -> float:
        share = found[name].pooled
        return share.percent if share else -math.inf

    return sorted(found, key=captured, reverse=True)


def label(name: str) -> str:
    says = ENTRANTS[name].says if name in ENTRANTS else name
    return f"**{says}**" if says.startswith("ours") else says


def behind(single: Results, name: str, leader: str = "adaptive") -> Share | None:
    """How much less of the pooled gap ``name`` captures than ``leader``, in the same worlds: luck of the draw cancels."""
    if name == leader or leader not in single:
        return None
    pairs: dict[int, tuple[float, float]] = {}
    for a, b in zip(single[leader], single[name], strict=True):
        if a.scenario in POOLED:
            gain, gap = pairs.get(a.seed, (0.0, 0.0))
            pairs[a.seed] = (gain + a.got - b.got, gap + a.gap)
    return Share.of(list(pairs.values()))


def main_table(single: Results) -> str:
    found = {name: figures(rows) for name, rows in single.items()}
    heads = [
        "",
        "captured, %",
        "behind `adaptive`",
        "uplift, pp",
        "lost",
        "dead",
        "false switch",
        "false openings",
        "regret",
        "µs",
    ]
    rows = [
        [
            label(name),
            str(f.pooled or "–"),
            str(behind(single, name) or "–"),
            number(f.uplift_pp, 2),
            number(f.lost, 0),
            number(f.dead, 0),
            number(f.false_switch, 2),
            number(f.false_openings, 2),
            number(f.regret, 0),
            number(f.us, 0),
        ]
        for name in ordered(found)
        for f in [found[name]]
    ]
    return table(heads, rows)


def scenario_table(found: Mapping[str, Figures], scenarios: Sequence[str]) -> str:
    """Captured in each scenario: percent, and one standard error in parentheses."""

    def cell(share: Share | None) -> str:
        return "–" if share is None else f"{share.percent:.0f} ({share.error or 0:.0f})"

    rows = [[label(name), *(cell(found[name].captured.get(s)) for s in scenarios)] for name in ordered(found)]
    return table(["", *(name.replace("_", " ") for name in scenarios)], rows)


def definition_table(results: Sequence[Result]) -> str:
    rows = []
    for name, scenario in SCENARIOS.items():
        some = [r for r in results if r.scenario == name]
        gap = sum(100 * r.gap / r.payments for r in some) / len(some) if some else None
        rows.append([f"{name.replace('_', ' ')}: {scenario.says}", number(gap, 2)])
    return table(["scenario", "to be gained, pp"], rows)


def aim_table(found: Figures) -> str:
    rows = []
    for aim in AIMS:
        value = aim.value(found)
        verdict = "not measured" if value is None else "reached" if aim.reached(value) else "**missed**"
        rows.append([aim.says, aim.aim, number(value, aim.digits), verdict])
    return table(["`adaptive`", "aim", "measured", ""], rows)


def longer_table(longer: Results) -> str:
    found = {name: figures(rows) for name, rows in longer.items()}
    rows = [
        [label(name), str(f.pooled or "–"), str(f.captured.get("stationary") or "–"), number(f.uplift_pp, 2)]
        for name in ordered(found)
        for f in [found[name]]
    ]
    return table(["", "captured, %", "stationary, %", "uplift, pp"], rows)


def cascade_table(cascade: Results) -> str:
    rows = []
    for name, results in cascade.items():
        payments, attempts = sum(r.payments for r in results), sum(r.attempts for r in results)
        recovered = sum(r.recovered for r in results)
        rows.append(
            [
                label(name),
                number(100 * sum(r.got for r in results) / payments, 2),
                number(100 * recovered / payments, 2),
                number(attempts / recovered if recovered else None, 2),
            ]
        )
    return table(["", "approved at first, %", "recovered, pp", "second attempts per recovery"], rows)


def cost_table(single: Results) -> str:
    rows = []
    for name in (name for name in COSTS if name in single):
        some = [r for r in single[name] if r.scenario in POOLED]
        payments, got, fees = (sum(values) for values in zip(*((r.payments, r.got, r.fees) for r in some), strict=True))
        rows.append([label(name), number(100 * got / payments, 2), number(fees / got, 1), _net(payments, got, fees)])
    return table(["", "approved, %", "fee per approved payment", "kept per payment"], rows)


def _net(payments: float, got: float, fees: float) -> str:
    return number((got * AMOUNT - fees) / payments, 1)


def tuned_table() -> str:
    found = json.loads(TUNED.read_text(encoding="utf-8")) if TUNED.exists() else {}
    rows = [
        [
            f"`{name}`",
            ", ".join(f"{k}={v}" for k, v in sorted(best["settings"].items())),
            str(best["pooled_on_tuning_seeds"]),
        ]
        for name, best in found.items()
    ]
    return table(["family", "best settings", "captured on tuning seeds, %"], rows)


def machine() -> str:
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {platform.python_implementation()} {platform.python_version()}"
    )


# --- The page ---------------------------------------------------------------------------------------------------------

PAGE: Final = """\
# Routing benchmark

How much of what could be gained does a routing strategy gain? Drawn worlds with outages, drifts, new accounts and days on which nothing
happens; a clairvoyant that always asks the account most likely to approve (100 %); and the static order that the strategy replaces (0 %).
**Captured** is the share of the way between them. Negative: worse than not routing at all.

No text that we know of publishes code or data for such a comparison, so this environment is our own, after published parameters where there
are any. Everything is a simulation: it says which strategy is better at what, not what your approval rate will be.

![Captured, by strategy](routing-benchmark.svg)

## Result

{command} on {machine}, {day}: {minutes:.0f} minutes of one core. {seeds_count} seeds ({seeds}) of each scenario, {payments}
payments each, {lanes} lanes a row. ± is one standard error over seeds. The others' settings were chosen on seeds {tuning_seeds},
our constants in worlds of no reported seed.

{main}

* **captured**: over the eight scenarios with something to gain, gains and gaps summed before they are divided. True probabilities are counted,
  not drawn outcomes.
* **behind `adaptive`**: the difference in the same worlds, where the luck of the draw cancels: its error is the one to judge a difference by.
* **uplift**: approval rate over the static order's, mean over the eight scenarios.
* **lost**, **dead**: `outage`; approvals lost to the clairvoyant in its 2,000 payments (static order: {static_lost:.0f}), and payments still sent to
  the dead account until its share of the last 40 is under 10 %.
* **false switch**: `equal`; how often the most used account of a segment changes between blocks of 200 payments, although all are alike.
* **false openings**: breakers opened per 20,000 payments where no account ever fails ({calm}). A dash: it has no breakers.
* **regret**: `stationary`; approvals lost to the clairvoyant per 10,000 payments: what learning costs on ordinary days.
* **µs**: of one core, for a ranking and an update, in this program.

{aims}

### By scenario

Captured in percent, one standard error in parentheses. Where little can be gained (below), errors are large: a difference of less than two of
them means nothing.

{scenarios}

### Harder than the eight

Not used for choosing anything: effects that are not additive, technical failures, and outcomes that come minutes late; {fewer} seeds.

{further}

### With more time to learn

{long} payments a lane, incidents where they were, {long_seeds} seeds:

{longer}

## Second attempts

With `--cascade` a second account, the ranking's next, is asked after a decline that may be retried: all but those that name the customer. Six of
ten of an account's declines would be repeated anywhere. Over the eight scenarios, {long_seeds} seeds:

{cascade}

## Fees

Every payment is over 35.00, every account takes between 0.08 and 0.39 of an approved one, drawn independently of how well it approves. `least_cost`
is told the fees. Minor units:

{costs}

## The environment

`bench/routing/world.py`, in plain Python. {world}

{definitions}

* Payments arrive in 12 segments, each a BIN with its currency, brand, funding and issuer country; Zipf(1.0). `low_traffic` has 200, Zipf(0.8).
  A day has 20,000 payments.
* P(approved) = q × r. q in 0.84 to 0.95 is the customer's and the same everywhere. logit r = segment (0.90 to 0.97) + account (sd 0.35) + cell
  (sd 0.45).
* 65 % of the customers' declines name their reason; the rest, and all of the account's, are one generic decline.
* An outcome is known when 15 further payments have been routed. Technical failures are known at once.
* Three accounts (four in `cold_start`). The static order follows a report that is wrong by 1.5 points (sd).
* A strategy is handed context, candidates, a die, the time and outcomes. Who is told the report says so: it is the same for all that use it,
  without the declines that name the customer where the strategy leaves those out, too.

## The algorithms, and how they were tuned

`bench/routing/rivals.py` holds all of them in the shape of our own strategies, with one state per segment. First rows have published
settings; *tuned* rows the best of {settings} settings: the published ones and {drawn} drawn at random, all on seeds 1 and 2, the best {best} of them on
seeds 3 to 6 as well. Every family had the same number. Every family but SRv3, which has no place for it, could use the stale report as a prior
of drawn strength, and every one could leave out declines that name the customer (*aware*). `bench/routing/tuning.py` holds the grid and does it again.

{tuned}

SW-UCB and D-UCB are those of Garivier and Moulines (2008), with the window and the discount of Dream11 (2023); a discount of 0.6 per payment remembers
2.5 payments. Hyperswitch and decision-engine are our own readings of their documentation and source, not their programs: SRv3 with hedging, the reset
of stale losers and elimination; *GSM filter* is its option to leave out declines of the customer; Autopilot sets queue and hedging from volume.

## Limits

* Simulated, by the makers of one of the strategies. Effects are additive on the logit scale in the published scenarios, which favours a model that
  assumes it; `non_additive` is there for that reason.
* The effort was not equal for `adaptive`: its model and its constants were worked out over hundreds of settings in worlds of the same kind, the
  others' rows are the best of {settings}. It has more parts than they have (a hierarchy, drift, breakers on two levels), and what it assumes of rates is
  how these worlds draw them.
* The reported seeds were looked at more than once while `adaptive` was finished, though nothing was chosen by them. For a figure that nobody has seen,
  run others: `make bench-routing ARGS="--only adaptive --seeds 301-308"`.
* Segments are given. In production somebody chooses what a segment is.
* Amounts are all alike, nobody has a volume commitment, and the accounts do not react to what is sent to them.
* Each strategy learns in one process from all outcomes. How evidence comes from several processes is measured elsewhere.
* {seeds_count} seeds: where little can be gained a standard error is 10 points and more, and other {seeds_count} seeds may differ by several points pooled.

## A strategy of your own

```
make bench-routing ARGS="--only yours.module:Strategy,adaptive --seeds 1-8"   # tune on these
make bench-routing ARGS="--only yours.module:Strategy,adaptive --seeds 201-208 --processes 2"
make bench-routing                                                          # this page again
```

`Strategy(accounts, settings, prior)` is made for every lane and needs two methods:

```python
def rank(self, context, candidates, rng, now):  # -> [(account, score, propensity)], best first
def update(self, context, account, outcome, now):  # approved, declined_provider, declined_customer, declined_ambiguous, technical
```

A method `explain(context, account, now)` whose answer has a `breaker`, or an attribute `openings`, fills that column. `--set adaptive.probe_share=2` changes a setting,
`--payments 60000` makes lanes longer, `--scenarios technical,daily_curve` chooses, `--json FILE` writes every lane, `--keep FILE` goes on where a run
was stopped; `--help` says the rest.
"""


def page(run: Run) -> str:
    """The page of ``run``."""
    found = run.found()
    best = found.get("adaptive")
    static = figures(list(run.single.get("priority", ())))
    some = next(iter(run.single.values()), ())
    return PAGE.format(
        command="`make bench-routing`",
        machine=machine(),
        day=run.day,
        minutes=sum(r.spent_s for part in (run.single, run.cascade, run.longer) for rows in part.values() for r in rows)
        / 60,
        lanes=len(some),
        seeds_count=len(run.seeds),
        seeds=f"{min(run.seeds)} to {max(run.seeds)}",
        payments=f"{run.payments:,}",
        tuning_seeds=f"{tuning.FIRST_SEEDS[0]} to {tuning.OTHER_SEEDS[-1]}",
        main=main_table(run.single),
        static_lost=static.lost or 0.0,
        calm="`stationary`, `low_traffic`, `decline_burst`, `equal`",
        aims=aim_table(best) if best else "",
        scenarios=scenario_table(found, POOLED),
        further=scenario_table(found, FURTHER),
        long=f"{3 * run.payments:,}",
        long_seeds=len(run.seeds[: FEWER // 2]),
        fewer=len(run.seeds[:FEWER]),
        longer=longer_table(run.longer),
        cascade=cascade_table(run.cascade),
        costs=cost_table(run.single),
        world="One scenario and one seed are one world, on every machine. To be gained: the clairvoyant over the static order.",
        definitions=definition_table(run.single.get("priority", ())),
        settings=tuning.SETTINGS,
        drawn=tuning.SETTINGS - 1,
        best=tuning.BEST,
        tuned=tuned_table(),
    )


# --- The plot -----------------------------------------------------------------------------------------------------------

BAR: Final = 20
LEFT: Final = 330
WIDTH: Final = 900
OURS: Final = "#0b6e4f"
THEIRS: Final = "#8795a1"


def plot(found: Mapping[str, Figures]) -> str:
    """Bars of what is captured, pooled, with one standard error to each side."""
    rows = [(name, share) for name in ordered(found) if (share := found[name].pooled) is not None]
    least = min([0.0, *(share.percent - (share.error or 0) for _, share in rows)])
    low, high = 20 * (least // 20), 100.0
    height = 60 + BAR * len(rows)

    def x(percent: float) -> float:
        return LEFT + (WIDTH - LEFT - 30) * (percent - low) / (high - low)

    def bars() -> Iterator[str]:
        for step in range(int(low), int(high) + 1, 20):
            yield f'<line x1="{x(step):.1f}" y1="30" x2="{x(step):.1f}" y2="{height - 25}" stroke="#d8dee4"/>'
            yield f'<text x="{x(step):.1f}" y="{height - 8}" text-anchor="middle">{step}</text>'
        for place, (name, share) in enumerate(rows):
            says = ENTRANTS[name].says if name in ENTRANTS else name
            top, colour = 34 + place * BAR, OURS if says.startswith("ours") else THEIRS
            left, right = sorted((x(0), x(share.percent)))
            yield f'<text x="{LEFT - 10}" y="{top + 12}" text-anchor="end">{escape(says)}</text>'
            yield f'<rect x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{BAR - 6}" fill="{colour}"/>'
            error = share.error or 0.0
            yield (
                f'<path d="M{x(share.percent - error):.1f} {top + 7}H{x(share.percent + error):.1f}" stroke="#111" '
                'stroke-width="1.5"/>'
            )
        yield f'<line x1="{x(0):.1f}" y1="30" x2="{x(0):.1f}" y2="{height - 25}" stroke="#111"/>'

    title = "Captured, % of what a clairvoyant gains over the static order (eight scenarios, one standard error)"
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
                'font-family="system-ui, sans-serif" font-size="12">'
            ),
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            f'<text x="10" y="18" font-size="13" font-weight="600">{escape(title)}</text>',
            *bars(),
            "</svg>\n",
        ]
    )


def write(run: Run, *, docs: Path = DOCS) -> list[Path]:
    """Writes both files, and says which."""
    texts = {"routing-benchmark.md": page(run), "routing-benchmark.svg": plot(run.found())}
    for name, text in texts.items():
        (docs / name).write_text(text, encoding="utf-8")
    return [docs / name for name in texts]
