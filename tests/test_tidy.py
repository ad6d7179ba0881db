"""The house rules that no linter knows, read from the syntax tree. A rule that is broken for cause says so here."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
ROOMS: Final = ("gateway", "providers", "routing", "webhooks", "idempotency")
LINES_MAX: Final = 70
PURE: Final = frozenset(
    f"{name}.py"
    for name in (
        "providers/money",
        "providers/contract",
        "providers/declines",
        "routing/plan",
        "routing/retries",
        "routing/strategies/policy",
        "routing/strategies/breaker",
        "routing/strategies/beliefs",
        "routing/strategies/preferences",  # guarded.py draws, from dice that it is handed
        "routing/decision",
        "routing/faults",
        "routing/values",
        "routing/conditions",
        "routing/reading",
        "routing/document",
        "routing/schema",
        "routing/boxes",
        "routing/lint",
        "routing/diff",
        "routing/rules",
        "routing/estimate",
        "routing/backtest",
        "idempotency/key",
        "gateway/lifecycle",
        "gateway/payment",
        "gateway/answers",
        "gateway/rows",
        "gateway/errors",
        "gateway/policies",
        "gateway/rates",
        "gateway/monitors/segments",
        "gateway/monitors/chances",
        "gateway/monitors/monitor",
        "gateway/monitors/expecting",
        "gateway/monitors/incident",
        "gateway/monitors/windows",
        "gateway/monitors/slow",
        "gateway/monitors/causes",
        "gateway/monitors/detection",
    )
)
MONEY: Final = frozenset(
    {"providers/money.py", "gateway/lifecycle.py", "gateway/payment.py", "gateway/books.py", "gateway/answers.py"}
)

EXCEPTIONS: Final[dict[tuple[str, str], str]] = {
    (
        "only_the_books_write_payments",
        "gateway/migrate.py",
    ): "as a migration: it adopts what the version before has left",
    (
        "only_the_books_write_payments",
        "gateway/routing_books.py",
    ): "the mark of what a shadow has watched is taken away with the commit that counts it; nothing of a payment depends on it",
    ("provider_names", "gateway/dev.py"): "`gateway dev` starts both sandboxes and their two accounts",
    ("provider_names", "gateway/demo/shoppers.py"): "how often each of a provider's own codes comes",
    ("provider_names", "gateway/demo/lives.py"): "whose codes they are, and whose ends come by webhook",
    ("provider_names", "gateway/demo/stream.py"): "what mood each sandbox is in",
    ("provider_names", "gateway/cli.py"): "`gateway sandbox` has a port and an environment variable for each simulator",
    ("provider_names", "gateway/api/described_payments.py"): "examples in the OpenAPI document",
    ("provider_names", "gateway/api/described_events.py"): "examples in the OpenAPI document",
    ("provider_names", "gateway/api/described_routing.py"): "examples in the OpenAPI document",
    ("provider_names", "gateway/api/schemas.py"): "an example in the OpenAPI document",
}
"""(rule, file) → why the rule does not hold there."""


@dataclass(frozen=True)
class Module:
    """One file, parsed once. ``path`` is relative to the repository, with slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree)


Rule = Callable[[Module], list[str]]


def names_say_what_is_in_it(module: Module) -> list[str]:
    vague = r"(utils?|helpers?|commons?|managers?|bases?|misc|services?)"
    return [part for part in Path(module.path).with_suffix("").parts if re.fullmatch(rf"{vague}|\w+_{vague}", part)]


def every_module_says_what_it_is(module: Module) -> list[str]:
    return [] if ast.get_docstring(module.tree) else ["no docstring"]


def functions_fit_on_a_screen(module: Module) -> list[str]:
    functions = [node for node in module.nodes() if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    return [f"{name} has {lines} lines" for name, lines in lengths if lines > LINES_MAX]


def money_is_never_a_float(module: Module) -> list[str]:
    """Seconds may be: what ends in ``_s`` is measured, not owed."""
    if module.path not in MONEY:
        return []
    seconds: set[ast.AST] = set()
    for node in module.nodes():
        if isinstance(node, ast.arg) and node.arg.endswith("_s") and node.annotation:
            seconds |= set(ast.walk(node.annotation))
        if isinstance(node, ast.Call) and [
            n.id for n in node.args if isinstance(n, ast.Name) and n.id.lower().endswith("_s")
        ]:
            seconds.add(node.func)
        if isinstance(node, ast.ListComp) and all(
            ast.unparse(loop.iter).lower().endswith("_s") for loop in node.generators
        ):
            seconds |= set(ast.walk(node))
    return [
        f"line {getattr(node, 'lineno', 0)}"
        for node in module.nodes()
        if (isinstance(node, ast.Name) and node.id == "float" and node not in seconds)
        or (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or isinstance(node, ast.Div)
    ]


def provider_names(module: Module) -> list[str]:
    """A provider's name stands in the adapters, in configuration, docs and tests; nowhere else."""
    if module.path.startswith("providers/"):
        return []
    words = [node.value for node in module.nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    described = docstrings(module)
    words = [word for word in words if word not in described]
    words += [node.id for node in module.nodes() if isinstance(node, ast.Name)]
    words += [node.attr for node in module.nodes() if isinstance(node, ast.Attribute)]
    words += [node.arg for node in module.nodes() if isinstance(node, ast.arg | ast.keyword) and node.arg]
    words += [
        node.name for node in module.nodes() if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    words += [
        alias.name for node in module.nodes() if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    ]
    return [word[:60] for word in words if re.search(r"stripe|adyen", word, re.IGNORECASE)]


def docstrings(module: Module) -> set[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in module.nodes() if isinstance(node, documented)]
    return {node.body[0].value.value for node in nodes if ast.get_docstring(node)}  # type: ignore[attr-defined]


def only_the_books_write_payments(module: Module) -> list[str]:
    if module.path == "gateway/books.py" or module.path.startswith("gateway/migrations/"):
        return []
    writes = (
        r"\b(INSERT\s+INTO|UPDATE|DELETE\s+FROM|TRUNCATE|MERGE\s+INTO)\s+(payment|operation|change|idempotency_key)\b"
    )
    return [found[0] for found in re.finditer(writes, module.text, re.IGNORECASE)]


def the_pure_core_reads_no_clock_and_draws_no_number(module: Module) -> list[str]:
    if module.path not in PURE:
        return []
    impure = {"now", "utcnow", "today", "time", "monotonic", "perf_counter", "uuid1", "uuid4", "urandom", "random"}
    called = [node.func for node in module.nodes() if isinstance(node, ast.Call)]
    names = [
        f.attr if isinstance(f, ast.Attribute) else f.id for f in called if isinstance(f, ast.Attribute | ast.Name)
    ]
    return [name for name in names if name in impure]


def no_middleware_and_no_dependency_that_costs_a_thread(module: Module) -> list[str]:
    named = [node.id for node in module.nodes() if isinstance(node, ast.Name)]
    named += [node.attr for node in module.nodes() if isinstance(node, ast.Attribute)]
    named += [alias.name for node in module.nodes() if isinstance(node, ast.ImportFrom) for alias in node.names]
    return [name for name in named if name in {"BaseHTTPMiddleware", "Depends", "run_in_threadpool"}]


def nothing_is_left_to_do(module: Module) -> list[str]:
    return re.findall(r"\b(?:TO" r"DO|FIX" r"ME|HA" r"CK)\b", module.text)


RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        names_say_what_is_in_it,
        every_module_says_what_it_is,
        functions_fit_on_a_screen,
        money_is_never_a_float,
        provider_names,
        only_the_books_write_payments,
        the_pure_core_reads_no_clock_and_draws_no_number,
        no_middleware_and_no_dependency_that_costs_a_thread,
        nothing_is_left_to_do,
    )
}
MODULES: Final = [
    Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
]


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_its_rules(rule: str) -> None:
    offences = {module.path: RULES[rule](module) for module in MODULES if (rule, module.path) not in EXCEPTIONS}

    assert {path: found for path, found in offences.items() if found} == {}


@pytest.mark.parametrize(("rule", "path"), EXCEPTIONS)
def test_an_exception_is_still_needed(rule: str, path: str) -> None:
    (module,) = (module for module in MODULES if module.path == path)

    assert RULES[rule](module)


@pytest.mark.parametrize("path", sorted(PURE | MONEY))
def test_the_rules_name_files_that_exist(path: str) -> None:
    assert path in {module.path for module in MODULES}


@pytest.mark.parametrize("package", ROOMS)
def test_nobody_else_owns_the_names_of_our_packages(package: str) -> None:
    owners = set(
        packages_distributions().get(package, [])
    )  # an editable install owns its packages by a path, not by name

    assert owners <= {"interlock"}
    assert Path(import_module(package).__file__ or "").parent.parent == ROOT


def test_tests_are_no_package_so_that_no_module_of_theirs_shadows_ours() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


# --- The rules themselves ---------------------------------------------------------------------------------------------

LONG: Final = "def long():\n" + "    x = 1\n" * LINES_MAX
PLANTED: Final[list[tuple[str, str, str]]] = [
    ("names_say_what_is_in_it", "gateway/utils.py", ""),
    ("names_say_what_is_in_it", "gateway/services/charge.py", ""),
    ("names_say_what_is_in_it", "routing/plan_manager.py", ""),
    ("every_module_says_what_it_is", "gateway/x.py", "x = 1\n"),
    ("functions_fit_on_a_screen", "gateway/x.py", LONG),
    ("functions_fit_on_a_screen", "gateway/x.py", "async " + LONG),
    ("money_is_never_a_float", "gateway/books.py", "def pay(amount: float) -> None: ...\n"),
    ("money_is_never_a_float", "gateway/books.py", "paid = float(amount)\n"),
    ("money_is_never_a_float", "gateway/answers.py", "shown = amount / 100\n"),
    ("money_is_never_a_float", "providers/money.py", "fee = 0.3\n"),
    ("provider_names", "gateway/x.py", 'if account.provider == "stripe": ...\n'),
    ("provider_names", "gateway/x.py", "import stripe\n"),
    ("provider_names", "routing/x.py", "def ask_adyen(): ...\n"),
    ("provider_names", "webhooks/x.py", "adyen_key = 1\n"),
    ("provider_names", "webhooks/x.py", "send(stripe_account=1)\n"),
    ("only_the_books_write_payments", "gateway/x.py", 'SQL = "UPDATE payment SET status = 1"\n'),
    ("only_the_books_write_payments", "webhooks/x.py", 'SQL = """insert  into\n operation (id)"""\n'),
    ("only_the_books_write_payments", "gateway/x.py", 'SQL = "DELETE FROM idempotency_key"\n'),
    ("the_pure_core_reads_no_clock_and_draws_no_number", "gateway/lifecycle.py", "at = datetime.now(UTC)\n"),
    ("the_pure_core_reads_no_clock_and_draws_no_number", "routing/plan.py", "draw = random()\n"),
    ("the_pure_core_reads_no_clock_and_draws_no_number", "gateway/answers.py", "id = uuid.uuid4()\n"),
    ("no_middleware_and_no_dependency_that_costs_a_thread", "gateway/x.py", "from fastapi import Depends\n"),
    ("no_middleware_and_no_dependency_that_costs_a_thread", "gateway/x.py", "class M(BaseHTTPMiddleware): ...\n"),
    ("nothing_is_left_to_do", "gateway/x.py", "# TODO later\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_offence_is_found(rule: str, path: str, text: str) -> None:
    assert RULES[rule](Module(path, text))


def test_every_rule_has_a_planted_offence() -> None:
    assert {rule for rule, _, _ in PLANTED} == RULES.keys()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("gateway/books.py", '"""Seconds."""\ndef take(due_s: float | None) -> None:\n    wait(float(LEASE_S))\n'),
        ("gateway/x.py", '"""What Stripe calls an intent."""\n# Adyen says so too\nUPDATES = "payment"\n'),
        ("gateway/lifecycle.py", '"""Time is handed in."""\ndef decide(now): return now\n'),
        ("providers/stripe.py", '"""The adapter."""\nname = "stripe"\nPAUSE_S = 0.5\n'),
    ],
)
def test_what_is_allowed_is_no_offence(path: str, text: str) -> None:
    assert {rule: found for rule, check in RULES.items() if (found := check(Module(path, text)))} == {}
