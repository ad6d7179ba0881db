"""What may never be broken, checked mechanically: after every simulated run, after every kill, and on a system that is charging.

:func:`check_invariants` reads a database, and compares it with the providers' own books where they are given. The promises stand in
:data:`INVARIANTS`, each by its name and one sentence; each is judged by pure functions over rows as they stand.
"""

from gateway.invariants.facts import Arrival, Entry, Outside, Report, Violation
from gateway.invariants.queries import Fetches
from gateway.invariants.sources import file_entries, horizons, named, sandbox_arrivals, sandbox_entries
from gateway.invariants.table import INVARIANTS, Invariant
from gateway.invariants.walk import GRACE_S, Progress, check_invariants

__all__ = [
    "GRACE_S",
    "INVARIANTS",
    "Arrival",
    "Entry",
    "Fetches",
    "Invariant",
    "Outside",
    "Progress",
    "Report",
    "Violation",
    "check_invariants",
    "file_entries",
    "horizons",
    "named",
    "sandbox_arrivals",
    "sandbox_entries",
]
