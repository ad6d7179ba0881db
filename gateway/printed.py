"""Prints the pages of ``docs/`` that the code knows best: ``python -m gateway.printed``, or ``--check`` to compare.

``lifecycle.md`` comes from the transitions and from walking through everything that may happen to a payment, ``providers.md``
from what the adapters say they can do, ``problems.md`` from the table of problems, ``settings.md`` from the settings,
``invariants.md`` from the promises that are checked, ``events.md`` from the catalogue of events, ``routing.schema.json`` from the
models of a routing document. In ``operations.md`` the tables of policies and of instruments, and in ``metrics.md`` those of the rates, are
printed between marks; the rest of them is written by hand.
A test holds the pages to the code.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import orjson
from pydantic_core import PydanticUndefined

from gateway import crash, lifecycle
from gateway.answers import NEEDS_REVIEW
from gateway.api.described_monitors import EVENT
from gateway.errors import PROBLEMS, TYPE_BASE
from gateway.invariants import INVARIANTS, Entry
from gateway.lifecycle import TRANSITIONS, Change, Refused
from gateway.metrics.catalog import instruments
from gateway.payment import Operation, OperationStatus, Payment, Reason, Status, Terms
from gateway.policies import POLICIES, Policy, variable_of
from gateway.rates import CLASSES, CUBOIDS, DIMENSIONS, METRICS
from gateway.settings import Settings
from gateway.tracing import ATTRIBUTES, SPANS, VARIABLES
from providers.contract import (
    MEANINGS,
    ActionRequired,
    Approved,
    Capabilities,
    Capability,
    Declined,
    Kind,
    NotProcessed,
    Outcome,
    Pending,
    Unknown,
)
from providers.declines import Action, Decline
from providers.money import Money
from providers.registry import ENTRY_POINTS
from routing.schema import schema
from webhooks.catalog import EVENTS, family_of

DOCS: Final = Path(__file__).parent.parent / "docs"
HEAD: Final = "<!-- Printed by `python -m gateway.printed`. Change the code, not this page. -->\n"

STATUSES: Final[Mapping[Status, tuple[str, str]]] = {
    Status.REQUIRES_PAYMENT_METHOD: (
        "It has no payment method, or the last one was declined.",
        "Confirm it with another one.",
    ),
    Status.REQUIRES_CONFIRMATION: ("It is complete and nothing was sent.", "Confirm it."),
    Status.REQUIRES_ACTION: ("The shopper has to do something, such as 3-D Secure.", "Follow `next_action`."),
    Status.PROCESSING: (
        "A provider has it or may have it; `processing_reason` says more.",
        "Wait, or send the same key again.",
    ),
    Status.REQUIRES_CAPTURE: ("The amount is authorized.", "Capture or cancel it."),
    Status.SUCCEEDED: ("The amount is captured.", "Ship. Refund it where needed."),
    Status.CANCELED: ("It was canceled and no money is held.", "Nothing; it is final."),
    Status.FAILED: ("It was declined for good, or nobody processed it.", "Nothing; it is final. Make a new payment."),
}
"""What each status of a payment means, and what to do next."""

REASONS: Final[Mapping[Reason, str]] = {
    Reason.PENDING_AT_PROVIDER: "The provider has accepted it and answers later.",
    Reason.OUTCOME_UNKNOWN: "It may have happened. Nobody else is asked until it is settled.",
    Reason.RETRY_SCHEDULED: "Declined for now, and nothing is open anywhere: it is tried again by itself at `next_retry_at`.",
    Reason.AWAITING_RETRY: "Nothing is open anywhere: the same key drives it on, else it ends after 15 minutes.",
}

IN_REVIEW: Final = "Nobody could tell for a day: a person finds out, and resolves it."

OPERATIONS: Final[Mapping[OperationStatus, str]] = {
    OperationStatus.CREATED: "Committed, and it has reached nobody: it is sent again under the same key.",
    OperationStatus.SENT: "Committed, and on its way.",
    OperationStatus.REQUIRES_ACTION: "The shopper has to do something first.",
    OperationStatus.PENDING: "Accepted by the provider; the result follows.",
    OperationStatus.UNKNOWN: "It may have happened. It is settled by the same key, a look-up, a webhook or a person.",
    OperationStatus.AUTHORIZED: "The amount is held.",
    OperationStatus.CAPTURED: "The amount is taken.",
    OperationStatus.DECLINED: "The provider or the issuer said no.",
    OperationStatus.NOT_PROCESSED: "Certainly nothing happened there.",
    OperationStatus.VOIDED: "The hold is released.",
    OperationStatus.EXPIRED: "The hold has run out.",
    OperationStatus.SUCCEEDED: "It is done.",
    OperationStatus.FAILED: "The provider refused it, or took it back.",
}


def lifecycle_page() -> str:
    """The statuses of payments and operations, and the steps between them."""
    statuses = [(f"`{status}`", *STATUSES[status]) for status in Status]
    reasons = [(f"`{reason}`", text) for reason, text in (*REASONS.items(), (NEEDS_REVIEW, IN_REVIEW))]
    operations = [(f"`{status}`", OPERATIONS[status]) for status in OperationStatus]
    parts = [
        f"{HEAD}# The life of a payment\n",
        (
            "Everything that changes a payment is decided in `gateway/lifecycle.py`. Late, repeated and contradicting news change\n"
            "nothing. Partial captures and refunds are amounts, not statuses.\n"
        ),
        _table(("status", "means", "what now"), statuses),
        "While it is `processing`, `processing_reason` says why:\n",
        _table(("reason", "means"), reasons),
        (
            "These are the steps between statuses, found by walking through everything that may happen. A step is named after what\n"
            "happened: an outcome of an operation (`capture Declined`), or what somebody asked for (`Confirmed`).\n"
        ),
        _diagram(payment_steps()),
        "## Operations\n",
        "An operation is one thing asked of one provider account. It is committed before it is sent.\n",
        _table(("status", "means"), operations),
        "A step that is not drawn here is no news: it changes nothing.\n",
    ]
    for kind, steps in TRANSITIONS.items():
        edges: Edges = {
            (str(before), str(after)): () for before in steps for after in OperationStatus if after in steps[before]
        }
        parts += [f"### {kind}\n", _diagram(edges)]
    return "\n".join(parts)


def providers_page() -> str:
    """What each installed provider is able to do."""
    installed = {
        point.name: point.load() for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda each: each.name)
    }
    rows = [
        (f"`{capability}`", meaning, *(_able(provider.capabilities, capability) for provider in installed.values()))
        for capability, meaning in MEANINGS.items()
    ]
    horizon = tuple(f"{provider.capabilities.replay_horizon_s // 3600} h" for provider in installed.values())
    parts = [
        f"{HEAD}# Providers\n",
        (
            "What each provider's adapter is able to do. An account that cannot do what is asked is not asked: the API answers 422\n"
            "`capability_missing` (or `no_eligible_account`) with the account and the capability. `GET /v1/accounts` shows the same\n"
            "for the accounts that are configured. *On request* means that the provider has to switch it on for your account; then\n"
            'say so in its configuration: `enabled = ["several_captures"]`.\n'
        ),
        _table(
            ("capability", "the account …", *installed),
            [*rows, ("idempotency horizon", "how long it certainly remembers a key", *horizon)],
        ),
    ]
    for name, provider in installed.items():
        if provider.capabilities.notes:
            notes = [(f"`{capability}`", note) for capability, note in provider.capabilities.notes.items()]
            parts += [f"## {name}\n", _table(("capability", "note"), notes)]
    return "\n".join(parts)


def _able(capabilities: Capabilities, capability: Capability) -> str:
    if capability in capabilities.supported:
        return "yes"
    return "on request" if capability in capabilities.on_request else "no"


def problems_page() -> str:
    """Every problem the API answers."""
    rows = [
        (f"`{code}`", str(sort.status), sort.title, _again(retryable=sort.retryable, after_s=sort.retry_after_s))
        for code, sort in PROBLEMS.items()
    ]
    return "\n".join(
        [
            f"{HEAD}# Problems\n",
            (
                "Every error is `application/problem+json` (RFC 9457): `type, title, status, detail, code, param, retryable,\n"
                f"request_id` and, where there is one, `payment`. `type` is `{TYPE_BASE}` and the code. A problem never repeats\n"
                "what was sent. `retryable` says whether the same request may be sent again, unchanged, under the same key.\n"
            ),
            _table(("code", "status", "title", "send it again"), rows),
        ]
    )


def settings_page() -> str:
    """Every setting with its default and its reason."""
    rows = [
        (f"`GATEWAY_{name.upper()}`", _default(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            f"{HEAD}# Settings\n",
            (
                "Settings come from the environment and are read once, at start. What cannot be used is refused with the reason.\n"
                "Accounts stand in the TOML file that `GATEWAY_CONFIG` names; their secrets stay in the environment, under the names\n"
                "given there (`api_key_env`, `webhook_secret_env`, `hmac_key_env`, `webhook_basic_auth_env`). What is done without a lost part is chosen by the\n"
                "variables that begin with `GATEWAY_ON_`: [the policy table](operations.md#what-happens-when-something-is-lost). Traces are set by OpenTelemetry's\n"
                "own variables, `OTEL_…`: [Traces](operations.md#traces).\n"
            ),
            _table(("variable", "default", "what it is"), rows),
        ]
    )


def crash_points_page() -> str:
    """Every crash point with what a process leaves behind that dies there."""
    parts = [
        f"{HEAD}# Crash points\n",
        (
            "A process can be killed on any line. A *crash point* is where a test makes it happen: before and after everything that\n"
            "leaves the process, that is every commit, every word with the gate and every request to a PSP. With\n"
            "`GATEWAY_CRASH_AT=charge.open.after:1` a process kills itself (`SIGKILL`) at the first passage of that point; `:2` is the\n"
            "second one. It is refused without `GATEWAY_DEV=1` and with a live account, and without it there are no crash points.\n"
            "The kill matrix (`tests/kill`) kills a real process at these points, starts another one and compares what the PSPs, the\n"
            "database and the client know.\n"
        ),
    ]
    for name, path in crash.PATHS.items():
        begun = (
            ", ".join(f"`{method} {pattern}`" for method, pattern in path.routes) or f"the worker's job `{path.job}`"
        )
        rows = [
            (f"`{name}.{step}.{side}`", f"{crash.STEPS[step].what}", crash.points()[f"{name}.{step}.{side}"])
            for step in path.steps
            for side in ("before", "after")
        ]
        parts += [f"## {name}: {path.what}\n", f"Begun by {begun}.\n", _table(("point", "step", "killed there"), rows)]
    return "\n".join(parts)


def invariants_page() -> str:
    """Every promise that ``gateway verify`` checks, and how to run it."""
    promises = [(f"`{each.name}`", each.says, each.needs) for each in INVARIANTS]
    fields = [(f"`{name}`", ENTRY[name]) for name in Entry._fields]
    return "\n".join(
        [
            f"{HEAD}# Invariants\n",
            (
                "What may never be broken, whatever is lost or killed. `gateway verify` checks it on a running system, reading only: it\n"
                "reads pages of payments, each of one moment, in bounded memory, and looks once more at whatever seems broken before it\n"
                "says so. It exits with 0 where every promise holds, with 1 where one is broken, naming it, the payment and what is wrong\n"
                "in a sentence, and with 2 where it could not read. The same checks end the tests that kill something while payments are\n"
                "made.\n"
            ),
            _table(("name", "promise", "judged on"), promises),
            "## Books\n",
            (
                "Some promises need the providers' own books. Without `--books` the sandboxes among the test accounts are asked for theirs;\n"
                "`--books http://…` asks one sandbox. `--books FILE`, which may be given several times, reads one entry a line, a JSON object:\n"
            ),
            _table(("field", "what it is"), fields),
            (
                "A file holds all entries of the time it covers, and none of other merchants: what belongs to nobody here is reported as\n"
                "lost. What succeeded here is looked for only in the books of accounts that there are: those that a file names, those of\n"
                "`--account NAME` (which may be given several times), and those whose sandbox answers; the last lines say which. A sandbox keeps\n"
                "its books in memory: what succeeded before it was started is not looked for there.\n\n"
                "The books of a file count as taken when the file was written, or at `--books-as-of INSTANT` (`2h` ago, or a time). Say it where a\n"
                "file was copied, or took long to export: the time at which the export began. Payments and entries that are not\n"
                "`--grace` seconds (120) older than that are not compared, since a database and a provider are never read at one instant.\n"
                "`--since 24h` leaves older payments out. `--at-rest` says that nothing is at work, and then nothing may be open without a\n"
                "cause. `--json` prints one line for a program. Progress goes to stderr.\n"
            ),
        ]
    )


def events_page() -> str:
    """Every type of event that merchants are told of, by family."""
    families: dict[str, list[tuple[str, str]]] = {}
    for type_, says in EVENTS.items():
        families.setdefault(family_of(type_), []).append((f"`{type_}`", says))
    parts = [
        f"{HEAD}# Events\n",
        (
            "What merchants are told of, by webhook and in `GET /v1/events`. An endpoint asks for types, for families such as `payment.*`,\n"
            "or for all of them with `*`. What you have just asked for is no event: you have its answer.\n"
        ),
        (
            "`data` is the whole object as it stood then; of a payment method without `billing_details` and `metadata`, which may be\n"
            "erased. `payment` names the payment it is about and `sequence` that payment's version:\n"
            "events may arrive in any order and more than once, so keep the one with the highest `sequence`, and drop an `id` that you\n"
            "have had. Events of one change share their `sequence`; an incident or a provider's notice about a payment has none.\n"
            "What is published of routing is told when it is recorded: `starts_at` says from when it decides, and its start tells nothing more.\n"
        ),
    ]
    for family, rows in families.items():
        parts += [f"## `{family}`\n", _table(("type", "when"), rows)]
        if family == "monitor.*":
            told = orjson.loads(EVENT.body)
            parts += ["For example:\n", f"```json\n{json.dumps(told, indent=2)}\n```\n"]
    return "\n".join(parts)


def routing_schema() -> str:
    """The JSON Schema of routing documents, for editors."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def policies_section() -> str:
    """The policy table, and what may be chosen instead."""
    rows = [
        (f"`{name}`", row.lost, row.choices[row.default].does, row.choices[row.default].caller_sees, _counted(row))
        for name, row in POLICIES.items()
    ]
    chosen = [
        (
            f"`{variable_of(name)}`",
            f"`{word}`" + (" (default)" if word == row.default else ""),
            choice.does,
            choice.caller_sees,
        )
        for name, row in POLICIES.items()
        if row.configurable
        for word, choice in row.choices.items()
    ]
    fixed = [
        (f"`{name}`", f"`{row.default}`", row.fixed or "") for name, row in POLICIES.items() if not row.configurable
    ]
    return "\n".join(
        [
            _table(("policy", "lost", "what the gateway does", "the caller sees", "counted as `dep,op,policy`"), rows),
            "These may be chosen:\n",
            _table(("variable", "value", "what the gateway does", "the caller sees"), chosen),
            (
                "The others hold one value, because any other would be unsafe. Their variables (`GATEWAY_ON_` and the name) are refused\n"
                "with anything else:\n"
            ),
            _table(("policy", "value", "why no other"), fixed),
        ]
    )


ENTRY: Final[Mapping[str, str]] = {
    "account": "The account by its name here; may be left out where `--account` says it.",
    "book": "`authorisations`, `captures`, `refunds`, `voids`, `declines` or `rejections`.",
    "payment": "The provider's id of the payment.",
    "reference": "The operation of ours that caused it (`att_…`, `cap_…`, `re_…`), as the provider was told; may be null.",
    "payment_reference": "The attempt (`att_…`) that the payment came with; may be null.",
    "amount": "In ISO 4217 minor units. Of an authorization that was changed: its total now.",
    "currency": "ISO 4217, upper case.",
    "status": "Authorizations: `authorised`, `captured`, `voided`, `expired`. Others: `pending`, `succeeded`, `failed`.",
    "key": "The idempotency key it came under, which names the operation where `reference` is null; may be left out.",
    "at": "Seconds since 1970, UTC.",
}
"""What the fields of an entry are."""


def _counted(row: Policy) -> str:
    return ", ".join(f"`{row.dep},{row.op},{policy}`" for policy in row.counted(row.default))


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "crash-points.md": crash_points_page,
    "events.md": events_page,
    "invariants.md": invariants_page,
    "lifecycle.md": lifecycle_page,
    "problems.md": problems_page,
    "providers.md": providers_page,
    "routing.schema.json": routing_schema,
    "settings.md": settings_page,
}


def instruments_section() -> str:
    """Every instrument, with its labels and who tells it."""
    rows = [
        (f"`{each.name}{'_total' if each.sort == 'counter' else ''}`", each.sort, ", ".join(f"`{label}`" for label in each.labels), each.says, each.told_by)
        for each in instruments()
    ]  # fmt: skip
    return _table(("metric", "sort", "labels", "says", "told by"), rows)


def rates_section() -> str:
    """Every rate with its formula."""
    rows = [
        (f"`{each.name}`", each.unit, each.numerator, each.denominator, each.leaves_out) for each in METRICS.values()
    ]
    return _table(("rate", "counts", "numerator", "denominator", "and"), rows)


def classes_section() -> str:
    """Every class of an attempt."""
    return _table(("class", "means"), [(f"`{name}`", text) for name, text in CLASSES.items()])


def dimensions_section() -> str:
    """Every dimension, and where it is counted ahead."""
    rows = [
        (f"`{name}`", text, ", ".join(cuboid.name for cuboid in CUBOIDS if name in cuboid.dimensions))
        for name, text in DIMENSIONS.items()
    ]
    return _table(("dimension", "is", "kept in"), rows)


def spans_section() -> str:
    """Every sort of span, with what is told of it; and the variables that traces are set by."""
    rows = [
        (f"`{sort.name}`", sort.kind, sort.says, ", ".join(f"`{ATTRIBUTES[word]}`" for word in sort.told))
        for sort in SPANS.values()
    ]
    variables = [(f"`{name}`", default, says) for name, (default, says) in VARIABLES.items()]
    return "\n".join(
        [_table(("variable", "default", "what it is"), variables), _table(("span", "kind", "covers", "tells"), rows)]
    )


SECTIONS: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "operations.md": {"policies": policies_section, "instruments": instruments_section, "spans": spans_section},
    "metrics.md": {"rates": rates_section, "classes": classes_section, "dimensions": dimensions_section},
}
"""What is printed within pages that are written by hand, between ``<!-- printed: NAME … -->`` and ``<!-- end of NAME -->``."""
_SECTION: Final = re.compile(r"(<!-- printed: (\w+)[^>]*-->\n\n)(.*?)(\n<!-- end of \2 -->)", re.DOTALL)


def current(path: Path) -> str | None:
    """What a page should say; ``None`` where it is not there, or a mark is, that its section needs."""
    if path.name in PAGES:
        return PAGES[path.name]()
    sections = SECTIONS[path.name]
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if sorted(found[1] for found in _SECTION.findall(text)) != sorted(sections):
        return None
    return _SECTION.sub(lambda found: found[1] + sections[found[2]]() + found[4], text)


def stale(folder: Path | None = None) -> list[str]:
    """The pages in ``folder``, or else in ``docs/``, that are missing or do not say what the code says."""
    pages = [(folder or DOCS) / name for name in (*PAGES, *SECTIONS)]
    return [path.name for path in pages if not path.exists() or path.read_text(encoding="utf-8") != current(path)]


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which are stale. The exit code: 1 where one is."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m gateway.printed [--check]\n")
        return 2
    found = stale()
    if arguments:
        for name in found:
            sys.stderr.write(f"docs/{name} does not say what the code says; run: python -m gateway.printed\n")
        return 1 if found else 0
    texts = {name: current(DOCS / name) for name in found}
    for name, text in texts.items():
        if text is None:
            sys.stderr.write(f"docs/{name} has lost the marks of its printed sections: {', '.join(SECTIONS[name])}\n")
        else:
            (DOCS / name).write_text(text, encoding="utf-8")
            sys.stderr.write(f"docs/{name} written\n")
    return 1 if None in texts.values() else 0


# --- Walking through the life of a payment ----------------------------------------------------------------------------

Edges = Mapping[tuple[str, str], tuple[str, ...]]
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_AMOUNT: Final = 2
_OPERATIONS_MAX: Final = 3
_MONEY: Final = Money(_AMOUNT, "EUR")
_NEWS: Final[tuple[Outcome, ...]] = (
    Approved("psp", _MONEY),
    Approved("psp", _MONEY, captured=True),
    Declined(Decline("do_not_honor", "soft", Action.ASK_NEW_METHOD)),
    Declined(Decline("issuer_unavailable", "soft", Action.RETRY_OTHER_NOW)),
    Declined(Decline("authentication_required", "soft", Action.STEP_UP_3DS)),
    ActionRequired("psp", {}),
    Pending("psp"),
    NotProcessed("not_sent"),
    Unknown("timeout"),
)


@cache
def payment_steps() -> Edges:
    """Every step between two statuses that a payment can take, with what happened; three operations reach them all."""
    steps: dict[tuple[str, str], set[str]] = {}
    todo = [
        Payment(_terms(off_session=off_session), status, updated_at=_NOW)
        for off_session in (False, True)
        for status in (Status.REQUIRES_PAYMENT_METHOD, Status.REQUIRES_CONFIRMATION)
    ]
    seen: set[tuple[object, ...]] = set()
    while todo:
        payment = todo.pop()
        for change, happened in _changes(payment):
            after = replace(change.payment, version=1)  # versions only count
            if after.status is not payment.status:
                steps.setdefault((payment.status, after.status), set()).add(happened)
            if (situation := _situation(after)) not in seen:
                seen.add(situation)
                todo.append(after)
    order = list(Status)
    return {
        edge: tuple(sorted(steps[edge]))
        for edge in sorted(steps, key=lambda edge: [order.index(Status(s)) for s in edge])
    }


def _situation(payment: Payment) -> tuple[object, ...]:
    """What decides about the steps of a payment from here on."""
    amounts = payment.amount_captured, payment.amount_capturing, payment.amount_refunded, payment.amount_refunding
    operations = tuple((op.kind, op.status, op.round, op.challenged) for op in payment.operations)
    action = payment.decline and payment.decline.action
    asked = payment.cancel_requested, action, payment.terms.off_session, payment.terms.amount
    return payment.status, payment.processing_reason, payment.round, asked, amounts, operations


def _changes(payment: Payment) -> Iterator[tuple[Change, str]]:
    """Everything that may happen to ``payment`` next."""
    for operation in payment.operations:
        for outcome in _NEWS:
            plan = payment.plan({operation.id: outcome})
            change = lifecycle.decide(payment, operation.id, outcome, plan, driven=False, now=_NOW)
            if isinstance(change, Change):
                yield change, f"{operation.kind} {change.news}"
    ended = [lifecycle.given_up(payment, _NOW)]
    for attempt in payment.attempts:
        ended.append(lifecycle.lapsed(payment, attempt, _NOW))
        ended.append(lifecycle.released(payment, attempt, lapsed=True, now=_NOW))
    yield from ((change, change.news) for change in ended if isinstance(change, Change))
    for verb in _verbs(payment):
        try:
            change = verb()
        except Refused:
            continue
        yield change, change.news


def _verbs(payment: Payment) -> Iterator[Callable[[], Change]]:
    """What may be asked of ``payment``, allowed or not."""
    if payment.status not in {Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION} or payment.steps_up:
        yield lambda: lifecycle.cancel_opened(payment, None, None, _NOW)
    if payment.open_attempt is not None:
        waiting = payment.open_attempt
        yield lambda: lifecycle.returned(payment, waiting, _NOW)
    if len(payment.operations) == _OPERATIONS_MAX:
        return
    attempt = _operation(payment, Kind.AUTHORIZE)
    too_often = Decline("retry_limit_reached", "soft", Action.ASK_NEW_METHOD)
    yield lambda: lifecycle.limited(payment, too_often, "card_limit_visa", _NOW)
    yield lambda: lifecycle.confirmed(payment, replace(attempt, round=payment.round + 1), ("account",), _NOW)
    yield lambda: lifecycle.capture_opened(payment, _operation(payment, Kind.CAPTURE), _NOW)
    yield lambda: lifecycle.refund_opened(payment, _operation(payment, Kind.REFUND), _NOW)
    another = replace(_operation(payment, Kind.INCREMENT), amount=_AMOUNT + 1)
    yield lambda: lifecycle.increment_opened(payment, another, _NOW)
    yield lambda: lifecycle.abandoned(payment, _operation(payment, Kind.VOID), _NOW)
    if payment.status in {Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION} and not payment.steps_up:
        yield lambda: lifecycle.cancel_opened(payment, _operation(payment, Kind.VOID), None, _NOW)


def _operation(payment: Payment, kind: Kind) -> Operation:
    seq = len(payment.operations) + 1
    return Operation(str(seq), kind, seq, payment.round, "account", "provider", _AMOUNT, OperationStatus.SENT, str(seq))


def _terms(*, off_session: bool) -> Terms:
    return Terms(
        id="pay",
        merchant_id="mer",
        livemode=False,
        amount=_AMOUNT,
        currency="EUR",
        capture_method="manual",
        off_session=off_session,
        created_at=_NOW,
    )


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _diagram(edges: Edges) -> str:
    lines = [
        f"    {before} --> {after}" + (f": {', '.join(why)}" if why else "") for (before, after), why in edges.items()
    ]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


def _again(*, retryable: bool, after_s: int | None) -> str:
    if not retryable:
        return "no"
    return "yes" if after_s is None else f"after {after_s} s"


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    return "not set" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
