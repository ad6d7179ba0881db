"""Worlds in processes of their own, so that every core runs one: ``python -m tests.simulation.apart URL ADMIN_URL PAYMENTS``.

Such a process reads seeds from its standard input, one a line, and writes the pickled verdict of each to its standard output.
It ends with its input, and at once with the process that started it: a world whose Postgres is gone would wait for it for ever.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from tests.simulation.postgres import Stage
from tests.simulation.simulation import Verdict, simulate

ROOT: Final = Path(__file__).parents[2]
PR_SET_PDEATHSIG: Final = 1


class Apart:
    """A process for each database (its URL and an administrator's). A world is run by whichever is free."""

    def __init__(self, databases: Sequence[tuple[str, str]], payments: int, log: Path) -> None:
        self._log = log
        self._threads = ThreadPoolExecutor(len(databases))
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
        with log.open("ab") as errors:
            self._processes = [
                subprocess.Popen(
                    [sys.executable, "-m", "tests.simulation.apart", url, admin_url, str(payments)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                    start_new_session=True,
                )
                for url, admin_url in databases
            ]
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in self._processes:
            self._free.put(process)

    def simulate(self, seed: int) -> Future[Verdict]:
        """Run the world of a seed once a process is free. The future raises ``AssertionError`` where there is no verdict."""
        return self._threads.submit(self._simulate, seed)

    def _simulate(self, seed: int) -> Verdict:
        process = self._free.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"%d\n" % seed)
            process.stdin.flush()
            verdict: Verdict = pickle.load(process.stdout)
        except (EOFError, OSError) as error:
            raise AssertionError(f"the world of seed {seed} has no verdict: {self._log.read_text()}") from error
        finally:
            self._free.put(process)
        return verdict

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()


def main(url: str, admin_url: str, payments: str) -> None:
    """Simulate what is asked for. What a test may not do, none of these worlds may: warn, or leave something unclosed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    warnings.simplefilter("error")
    ignored: list[Any] = []
    sys.unraisablehook = ignored.append
    verdicts = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no verdict
    stage = Stage(url, admin_url)
    for line in sys.stdin:
        verdict = simulate(int(line), stage, int(payments))
        if ignored:
            raise ignored[0].exc_value
        pickle.dump(verdict, verdicts)
        verdicts.flush()
    stage.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
