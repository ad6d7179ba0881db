"""`python -m bench.routing`: strategies through the environment, and the table of what they gained."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.routing import page
from bench.routing.entrants import ENTRANTS, entrant, present
from bench.routing.play import Figures, figures, record
from bench.routing.runs import Job, run
from bench.routing.world import PAYMENTS, POOLED, SCENARIOS

EPILOGUE: Final = """
What is measured:
  captured      (approvals - static's) / (clairvoyant's - static's), true probabilities, summed over seeds, in percent.
                "pooled": over all published scenarios that were run, but for `equal`. ± is one standard error over seeds.
  uplift        approval rate - static's, points, mean over the same scenarios.
  lost, dead    outage: approvals lost to the clairvoyant in its 2,000 payments; payments sent to the dead account until its
                share of the last 40 falls under 10 %.
  switch        equal: share of consecutive 200-payment blocks of a segment whose most used account changes.
  openings      breakers opened per 20,000 payments where no account fails (stationary, low_traffic, decline_burst, equal).
                Read from the attribute `openings` of a policy where it has one: how often a breaker of it has opened so far, at
                any level. Else its explain(context, account, now).breaker is asked after every outcome.
  regret        stationary: approvals lost to the clairvoyant per 10,000 payments.

A strategy of your own: --only package.module:Class, made as Class(accounts, settings, prior) for every lane, with
  rank(context, candidates, rng, now) -> [(account, score, propensity)], update(context, account, outcome, now).
  accounts are in the static order; prior is {account: approval rate} of a stale report, wrong by 1.5 points, without
  the declines that name the customer. Attempts made by --cascade are told by update as the first ones are.
  Seeds 1-8 are for tuning, 201-208 for reporting.
"""


def seeds_of(text: str) -> list[int]:
    """`1-4,9` → 1, 2, 3, 4, 9."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def names_of(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def change_of(text: str) -> tuple[str, str, Any]:
    """`adaptive.memory=3000` → (adaptive, memory, 3000)."""
    path, _, value = text.partition("=")
    name, _, key = path.rpartition(".")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text}: write NAME.SETTING=JSON")
    return name, key, json.loads(value)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.routing", description=__doc__, epilog=EPILOGUE, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=seeds_of, help="as 1-4,9 (default 1-4; with --page 201-208)")
    parser.add_argument("--only", type=names_of, default=present(), help=f"of {', '.join(ENTRANTS)};\nor module:Class")
    parser.add_argument(
        "--scenarios",
        type=names_of,
        help=f"of {', '.join(SCENARIOS)}\n(default: the nine published ones; with --page all)",
    )
    parser.add_argument("--payments", type=int, default=PAYMENTS, help="per lane (default 20,000)")
    parser.add_argument("--cascade", action="store_true", help="a second account is asked after a retryable decline")
    parser.add_argument(
        "--set", dest="changes", type=change_of, action="append", default=[], metavar="NAME.SETTING=JSON"
    )
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--keep", type=Path, help="a file of results: what is there of the same code is not played again"
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="write docs/routing-benchmark.md and .svg: all rows and scenarios on the reporting seeds, unless said otherwise",
    )
    parser.add_argument("--docs", type=Path, default=page.DOCS, help="where --page writes (default docs)")
    parser.add_argument("--json", type=Path, help="write every lane's result there")
    chosen = parser.parse_args(argv)
    chosen.seeds = chosen.seeds or (list(page.SEEDS) if chosen.page else seeds_of("1-4"))
    chosen.scenarios = chosen.scenarios or [name for name, row in SCENARIOS.items() if chosen.page or row.published]
    if unknown := set(chosen.scenarios) - SCENARIOS.keys():
        parser.error(f"--scenarios: unknown {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    try:
        for name in chosen.only:
            entrant(name)
    except (LookupError, ImportError, AttributeError) as error:
        parser.error(f"--only: {error}")
    return chosen


def lines(found: Mapping[str, Figures], scenarios: Sequence[str]) -> Iterator[str]:
    """The table, for a terminal."""
    short = [name for name in scenarios if name != "equal"]
    width = max(len(name) for name in found)
    heads = ["pooled", *(name[:13] for name in short), "uplift", "lost", "dead", "switch", "openings", "regret", "us"]
    yield " " * width + "".join(f"{head:>14}" for head in heads)
    for name, f in found.items():
        cells = [
            str(f.pooled or "-"),
            *(str(f.captured.get(scenario) or "-") for scenario in short),
            *(
                "-" if value is None else f"{value:.{digits}f}"
                for value, digits in (
                    (f.uplift_pp, 2),
                    (f.lost, 1),
                    (f.dead, 1),
                    (f.false_switch, 3),
                    (f.false_openings, 2),
                    (f.regret, 1),
                    (f.us, 0),
                )
            ),
        ]
        yield f"{name:<{width}}" + "".join(f"{cell:>14}" for cell in cells)
    for name, f in found.items():
        if any(f.openings.values()):
            yield f"{name}: breakers opened per 20,000: " + ", ".join(f"{k} {v:.2f}" for k, v in f.openings.items())
        if f.retries_per_recovered:
            yield f"{name}: {f.retries_per_recovered:.2f} second attempts per recovered approval"


def main(argv: Sequence[str] | None = None) -> int:
    chosen = arguments(argv)
    changes: dict[str, dict[str, Any]] = {}
    for name, key, value in chosen.changes:
        changes.setdefault(name, {})[key] = value
    few = set(chosen.seeds[: page.FEWER]) if chosen.page else set(chosen.seeds)
    lanes = [
        (scenario, seed)
        for seed in chosen.seeds
        for scenario in chosen.scenarios
        if SCENARIOS[scenario].published or seed in few
    ]
    jobs = [Job(name, name, changes.get(name, {})) for name in chosen.only]
    play = partial(run, payments=chosen.payments, processes=chosen.processes, keep=chosen.keep)
    found = play(lanes, jobs, cascade=chosen.cascade)
    if chosen.page:
        fewest = chosen.seeds[: page.FEWER // 2]
        some = [(scenario, seed) for scenario, seed in lanes if scenario in POOLED and seed in fewest]
        cascade = play(some, [job for job in jobs if job.name in page.CASCADES], cascade=True)
        longer = run(
            some,
            [job for job in jobs if job.name in page.LONGER],
            payments=3 * chosen.payments,
            processes=chosen.processes,
            keep=chosen.keep,
        )
        day = f"{datetime.now(UTC):%-d %B %Y}"
        done = page.Run(found, cascade, longer, chosen.seeds, chosen.payments, day)
        print("wrote", *page.write(done, docs=chosen.docs))
    for line in lines({name: figures(results) for name, results in found.items()}, chosen.scenarios):
        print(line)
    if chosen.json:
        rows = {name: [record(result) for result in results] for name, results in found.items()}
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
