"""Who spent how much CPU, read from /proc.

Nanoseconds on a CPU per thread come from `schedstat`: the clock ticks of `stat` are 10 ms, too
coarse for a run of seconds. Processes that ended live on in their parent's `stat`.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
KERNEL_THREADS = 2  # the parent of all kernel threads; they work for us as much as for others


def process_tree(*roots: int) -> set[int]:
    """The processes and all their living descendants."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with suppress(OSError):
            children.setdefault(_stat(pid)[1], []).append(pid)
    found: set[int] = set()
    unseen = list(roots)
    while unseen:
        pid = unseen.pop()
        if pid not in found:
            found.add(pid)
            unseen += children.get(pid, [])
    return found


def cpu_s(*roots: int) -> float:
    """CPU seconds spent so far by these processes, their threads and their descendants.

    Grows monotonically as long as no thread ends: take the difference of two calls.
    """
    total = 0.0
    for pid in process_tree(*roots):
        with suppress(OSError):  # it may end under our eyes; its parent's `stat` then has it
            for task in (PROC / str(pid) / "task").iterdir():
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
            total += sum(_stat(pid)[4:6]) / TICKS_PER_S
    return total


def others_cpu_s(ours: Iterable[int]) -> float:
    """CPU seconds spent so far by everybody else on this machine, and stolen by its host."""
    total = _stolen_s()
    spared = set(ours) | {KERNEL_THREADS}
    for pid in _pids():
        with suppress(OSError):
            stat = _stat(pid)
            if pid not in spared and stat[1] != KERNEL_THREADS:
                total += sum(stat[2:6]) / TICKS_PER_S
    return total


def resident_mb(root: int) -> float:
    """Memory in RAM of a process and its descendants, shared pages counted once for each."""
    total_kb = 0
    for pid in process_tree(root):
        with suppress(OSError):
            for line in (PROC / str(pid) / "status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total_kb += int(line.split()[1])
    return total_kb / 1024


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> tuple[int, int, int, int, int, int]:
    """Pid, parent, own user and system ticks, ended children's user and system ticks."""
    after_name = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (pid, int(after_name[1]), *_four(after_name[11:15]))


def _four(texts: list[str]) -> tuple[int, int, int, int]:
    a, b, c, d = (int(text) for text in texts)
    return a, b, c, d


def _stolen_s() -> float:
    """What the machine's host gave to other machines (`steal`)."""
    first = (PROC / "stat").read_text().split("\n", 1)[0].split()
    return int(first[8]) / TICKS_PER_S
