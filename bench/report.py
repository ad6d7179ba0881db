"""The findings of a run: what was measured, the tables people read, the JSON programs read."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.hooks import Figures as WebhookFigures

NOISY = 0.10  # of a core, used by others: above it a sample is doubtful
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg", "hiredis", "stripe", "aiohttp", "httpx")
REFERENCES = ("floor", "plain")
COMPARABLE_MIN = 0.01  # below: the reference does not do this at all (Postgres, for one)


@dataclass(frozen=True)
class Sample:
    """One variant under one load; CPU is microseconds of a core per payment."""

    delay_ms: int  # the PSP's
    connections: int
    cpu_us: float
    postgres_us: float
    per_second: float
    busy: float  # share of a core the server used
    p50_ms: float  # at half of `per_second`, from the moment a payment was due
    p99_ms: float
    resident_mb: float
    others: float  # share of a core that processes not of this run used meanwhile

    def __str__(self) -> str:
        return (
            f"PSP {self.delay_ms:3} ms  c={self.connections:<3} {self.cpu_us:6.0f} us CPU  "
            f"{self.per_second:6.0f}/s  core {self.busy:4.0%} busy  half load "
            f"{self.p50_ms:6.1f}/{self.p99_ms:6.1f} ms  others {self.others:4.0%}"
        )


@dataclass
class Findings:
    """Everything a run found."""

    seconds: float
    psp_ms: dict[int, float]
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    payments: dict[str, int] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    webhooks: dict[str, WebhookFigures] = field(default_factory=dict)

    def valid(self) -> bool:
        return not any(self.faults.values())

    def rows(self, delay_ms: int) -> dict[str, dict[str, float]]:
        """The best of the repetitions per variant: what noise adds is not the variant's."""
        found = {}
        for name, samples in self.samples.items():
            taken = [sample for sample in samples if sample.delay_ms == delay_ms]
            cpu_us = min(sample.cpu_us for sample in taken)
            found[name] = {
                "cpu_ms_per_payment": cpu_us / 1000,
                "payments_per_second_per_core": 1e6 / cpu_us,
                "payments_per_second_measured": max(sample.per_second for sample in taken),
                "core_busy": max(sample.busy for sample in taken),
                "postgres_cpu_ms_per_payment": min(s.postgres_us for s in taken) / 1000,
                "added_p50_ms": min(s.p50_ms for s in taken) - self.psp_ms[delay_ms],
                # The PSP's median, not its 99th percentile: its rare hiccups stay in.
                "added_p99_ms": min(s.p99_ms for s in taken) - self.psp_ms[delay_ms],
                "memory_mb_per_worker": max(sample.resident_mb for sample in taken),
            }
        return found

    def ratios(self, delay_ms: int) -> dict[str, dict[str, dict[str, float]]]:
        """Each variant's figures over those of the floor and of the plain endpoint."""
        rows = self.rows(delay_ms)
        return {
            name: {
                reference: {
                    column: row[column] / rows[reference][column]
                    for column in row
                    if rows[reference][column] >= COMPARABLE_MIN
                }
                for reference in REFERENCES
                if reference in rows and reference != name
            }
            for name, row in rows.items()
        }

    def noisy(self) -> list[str]:
        """The samples during which others used more of the machine than they should."""
        return [
            f"{name}, PSP {sample.delay_ms} ms: others used {sample.others:.0%} of a core"
            for name, samples in self.samples.items()
            for sample in samples
            if sample.others > NOISY
        ]


# Heading, key, format.
COLUMNS = (
    ("CPU ms/payment", "cpu_ms_per_payment", "{:.3f}"),
    ("payments/s/core", "payments_per_second_per_core", "{:.0f}"),
    ("measured/s", "payments_per_second_measured", "{:.0f}"),
    ("core busy", "core_busy", "{:.0%}"),
    ("Postgres ms", "postgres_cpu_ms_per_payment", "{:.3f}"),
    ("added p50 ms", "added_p50_ms", "{:.2f}"),
    ("added p99 ms", "added_p99_ms", "{:.2f}"),
    ("MB/worker", "memory_mb_per_worker", "{:.0f}"),
)


def print_tables(findings: Findings) -> None:
    """Print one Markdown table for each delay of the PSP, then the ratios, then the doubts."""
    print(f"\n{_machine_line()}")
    print("CPU at the highest load; added latency at half of each one's own measured peak.")
    print("A core that is not busy was waiting: for Postgres, the PSP or the load generator.")
    for delay_ms, psp_ms in findings.psp_ms.items() if findings.samples else ():
        rows = findings.rows(delay_ms)
        promise = f"after {delay_ms} ms" if delay_ms else "at once"
        print(f"\nPSP answers {promise} (its own p50, asked directly: {psp_ms:.2f} ms)\n")
        table = [["", *(heading for heading, _, _ in COLUMNS)]]
        for name, row in rows.items():
            table.append([name, *(shape.format(row[key]) for _, key, shape in COLUMNS)])
        for name, references in findings.ratios(delay_ms).items():
            if name in REFERENCES and "gateway" in rows:
                continue
            for reference, ratio in references.items():
                cells = (f"{ratio[key]:.2f}x" if key in ratio else "-" for _, key, _ in COLUMNS)
                table.append([f"{name} / {reference}", *cells])
        _print_table(table)
    if findings.webhooks:
        _print_webhooks(findings.webhooks)
    _print_doubts(findings)


def _print_doubts(findings: Findings) -> None:
    print()
    for line in findings.noisy():
        print(f"NOISY: {line}")
    for name, faults in findings.faults.items():
        for fault in faults:
            print(f"INVALID: {name}: {fault}")
        if not faults and name in findings.payments:
            print(f"{name}: {findings.payments[name]} payments told, all in the books, none open")


def _print_webhooks(found: dict[str, WebhookFigures]) -> None:
    print(
        "\nWebhooks, accepted and applied: CPU of server and worker; the time to the acknowledgement at half of webhooks/s/core\n"
    )
    heading = ["", "bytes", "CPU ms/webhook", "webhooks/s/core", "accepted/s", "Postgres ms", "p50 ms", "p99 ms"]
    table = [heading]
    for name, it in found.items():
        figures = [f"{it.cpu_us / 1000:.3f}", f"{1e6 / it.cpu_us:.0f}", f"{it.per_second:.0f}"]
        times = [f"{it.postgres_us / 1000:.3f}", f"{it.p50_ms:.1f}", f"{it.p99_ms:.1f}"]
        table.append([name, str(it.bytes_each), *figures, *times])
    _print_table(table)
    for name, it in found.items():
        print(f"{name}: {it.webhooks} webhooks acknowledged, all applied")


def write_json(findings: Findings, path: Path) -> None:
    """Write every figure, the repetitions too."""
    document: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine_line(),
        "versions": {name: version(name) for name in PACKAGES},
        "seconds_per_measurement": findings.seconds,
        "valid": findings.valid(),
        "faults": findings.faults,
        "noisy": findings.noisy(),
        "payments": findings.payments,
        "webhooks": {name: asdict(figures) for name, figures in findings.webhooks.items()},
        "results": {
            f"psp_{delay_ms}_ms": {
                "psp_p50_ms": psp_ms,
                "variants": findings.rows(delay_ms),
                "ratios": findings.ratios(delay_ms),
            }
            for delay_ms, psp_ms in findings.psp_ms.items()
        },
        "samples": {name: [asdict(sample) for sample in samples] for name, samples in findings.samples.items()},
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _machine_line() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("| " + " | ".join([row[0].ljust(widths[0]), *cells]) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 1) + ":" for width in widths).replace(":", "-", 1) + "|")
