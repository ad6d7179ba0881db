"""The whole gateway for tests: a real Postgres and Valkey, the real sandbox PSPs, and the application beside or inside the test.

Everything starts on free ports, from the main thread, and dies with the test process (PR_SET_PDEATHSIG), however that ends.

* ``open_gateway`` runs the application inside the test, behind its ASGI door: quick, and the worker's functions are at hand.
* ``processes`` starts real `gateway serve` and `gateway worker` processes, to be killed on any line: forked from one that has
  imported everything. `gateway dev` and all that it starts start as they do for everybody.

Both work on ``database``, a fresh copy of a migrated one. Each subject is a module of ``fixtures/``; here is what holds for every run.
"""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.fixtures.configuration import Configuration
    from tests.fixtures.forging import Process
    from tests.fixtures.inside import Inside, Open
    from tests.fixtures.kit import Kit
    from tests.fixtures.merchant import Merchant
    from tests.fixtures.processes import Commands, Processes, Server
    from tests.fixtures.promises import Checked
    from tests.fixtures.psps import Psps
    from tests.fixtures.stores import Database, Databases

    __all__ = (
        "Checked",
        "Commands",
        "Configuration",
        "Database",
        "Databases",
        "Inside",
        "Kit",
        "Merchant",
        "Open",
        "Process",
        "Processes",
        "Psps",
        "Server",
    )

# Our own parts import each other by their full names, also where this tree is not installed.
ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:
    sys.path.append(ROOT)

# From the bottom up: pytest explains the assertions of a module only if nobody has imported it before.
pytest_plugins = (
    "tests.fixtures.agreed",
    "tests.fixtures.collecting",
    "tests.fixtures.proofs",
    "tests.fixtures.forging",
    "tests.fixtures.stores",
    "tests.fixtures.psps",
    "tests.fixtures.published",
    "tests.fixtures.configuration",
    "tests.fixtures.merchant",
    "tests.fixtures.inside",
    "tests.fixtures.processes",
    "tests.fixtures.promises",
    "tests.fixtures.kit",
)

# How fast an example is made says nothing about the code; on a busy machine it would fail the test.
hypothesis.settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_machine")


# A shell ignores Ctrl-C for what it runs in the background, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The suite is a module of ours and not a test file: without this its assertions would say nothing when they fail.
pytest.register_assert_rewrite("providers.conformance")


connect_anywhere: Any = socket.socket.connect


def connect_here(self: socket.socket, address: Any) -> None:
    """Connect within this machine; anywhere else fails the test, and no adapter can take that for an answer."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("localhost", "127.0.0.1", "::1"):
        self.close()
        pytest.fail(f"a test tried to reach {address[0]}: only tests marked live may leave this machine")
    connect_anywhere(self, address)


def pytest_runtest_setup(item: pytest.Item) -> None:
    live = item.get_closest_marker("live") is not None
    socket.socket.connect = connect_anywhere if live else connect_here  # type: ignore[method-assign, assignment]
