"""The embedded Postgres and Valkey: what survives, what ends with us, and what is refused how."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import asyncpg
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.embedded import (
    DATABASE,
    OWNER_ROLE,
    POSTGRES_MAJOR,
    DirectoryLock,
    EmbeddedError,
    Postgres,
    Valkey,
    _explained,
)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres.start(tmp_path_factory.mktemp("postgres"), fsync=False) as server:
        yield server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey.start(tmp_path / "valkey") as server:
        yield server


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=0.3, retry=Retry(NoBackoff(), 0))


def _runs(pid: int) -> bool:
    """Whether the process runs. A zombie does not: its reaper is late, that is all."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _ends(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while _runs(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _starter(code: str, data_dir: Path) -> subprocess.Popen[str]:
    """Another process that starts a server, prints its pid and then only waits."""
    script = f"import sys, time\nfrom pathlib import Path\nimport gateway.embedded as e\n{code}\n"
    script += "print(server.pid, flush=True)\ntime.sleep(60)\n"
    return subprocess.Popen([sys.executable, "-P", "-c", script, str(data_dir)], stdout=subprocess.PIPE, text=True)


def _killed_after_start(code: str, data_dir: Path) -> int:
    """Run a starter, kill -9 it, and return the pid of the server it had started."""
    with _starter(code, data_dir) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
    return pid


class TestPostgres:
    @pytest.mark.parametrize("tcp", [False, True])
    async def test_both_drivers_log_in_over_socket_and_tcp(self, postgres: Postgres, *, tcp: bool) -> None:
        url = postgres.url(DATABASE, tcp=tcp)

        connection = await asyncpg.connect(url)
        over_tcp = await connection.fetchval("SELECT inet_server_addr() IS NOT NULL")
        await connection.close()
        with psycopg.connect(url) as session:
            role = session.execute("SELECT current_user").fetchone()

        assert over_tcp is tcp
        assert role == ("interlock_app",)

    def test_a_wrong_password_is_refused(self, postgres: Postgres) -> None:
        url = postgres.url(DATABASE, tcp=True).replace("interlock_app:", "interlock_app:not")

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)

    def test_the_owner_makes_tables_and_the_application_does_not(self, postgres: Postgres) -> None:
        with psycopg.connect(postgres.owner_url) as session:
            session.execute("CREATE TABLE owned (id int)")

        with psycopg.connect(postgres.app_url) as session:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("CREATE TABLE mine (id int)")
            session.rollback()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("SELECT * FROM owned")
            session.rollback()
            roles = session.execute(
                "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname LIKE 'interlock_%'"
            ).fetchall()
        assert roles == [(False,), (False,)]

    def test_a_database_is_copied_from_a_template_and_dropped(self, postgres: Postgres) -> None:
        postgres.create_database("template_of_tests")
        with psycopg.connect(postgres.url("template_of_tests", role=OWNER_ROLE)) as session:
            session.execute("CREATE TABLE copied AS SELECT 42 AS answer")

        postgres.create_database("copy", template="template_of_tests")
        # Left open on purpose: a forgotten session must not keep the database.
        session = psycopg.connect(postgres.url("copy", role=OWNER_ROLE))
        assert session.execute("SELECT answer FROM copied").fetchone() == (42,)
        postgres.drop_database("copy")
        session.close()

        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(postgres.url("copy"))

    def test_passwords_are_for_their_owner_only(self, postgres: Postgres) -> None:
        assert (postgres.data_dir / "passwords.json").stat().st_mode & 0o777 == 0o600
        assert postgres.cluster.stat().st_mode & 0o077 == 0

    def test_a_second_start_on_the_same_directory_is_refused(self, postgres: Postgres) -> None:
        with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}") as refused:
            Postgres.start(postgres.data_dir)

        assert str(postgres.data_dir) in str(refused.value)
        assert postgres.is_alive()

    def test_a_committed_row_survives_stop_and_kill(self, tmp_path: Path) -> None:
        with Postgres.start(tmp_path / "data") as server:
            with psycopg.connect(server.owner_url) as session:
                session.execute("CREATE TABLE kept AS SELECT 1 AS answer")
            server.kill()
            assert not server.is_alive()
            server.restart()
            with psycopg.connect(server.owner_url) as session:
                session.execute("UPDATE kept SET answer = answer + 1")

        with Postgres.start(tmp_path / "data") as server, psycopg.connect(server.owner_url) as session:
            assert session.execute("SELECT answer FROM kept").fetchone() == (2,)

    def test_a_killed_server_answers_nobody_any_more(self, tmp_path: Path) -> None:
        """A session that is at work would not notice that its server has gone, and would end its statement."""
        with (
            Postgres.start(tmp_path, fsync=False) as server,
            closing(psycopg.connect(server.app_url)) as session,
            ThreadPoolExecutor() as executor,
        ):
            at_work = executor.submit(session.execute, "SELECT count(*) FROM generate_series(1, 20000000)")
            with psycopg.connect(server.app_url, autocommit=True) as other:
                seen = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
                while other.execute(seen, [session.info.backend_pid]).fetchone() != (1,):
                    time.sleep(0.01)
            server.kill()

            with pytest.raises(psycopg.OperationalError, match="closed"):
                at_work.result()

    def test_a_pid_file_left_behind_does_not_stop_the_next_start(self, tmp_path: Path) -> None:
        with Postgres.start(tmp_path, fsync=False) as server:
            pid_file = server.cluster / "postmaster.pid"
            written = pid_file.read_text()
        # The number now belongs to a process that has nothing to do with Postgres: this one.
        first, rest = written.split("\n", 1)
        assert first != str(os.getpid())
        pid_file.write_text(f"{os.getpid()}\n{rest}")

        with Postgres.start(tmp_path, fsync=False) as server:
            assert server.is_alive()

    def test_an_initialisation_cut_short_is_begun_again(self, tmp_path: Path) -> None:
        code = "server = e.Postgres.start(Path(sys.argv[1]), fsync=False)"
        with _starter(code, tmp_path) as starter:
            while not list(tmp_path.glob("cluster.new-*/base")):
                time.sleep(0.002)
            starter.kill()
        assert not (tmp_path / "cluster").exists()

        with Postgres.start(tmp_path, fsync=False) as server:
            assert server.is_alive()
            assert not (tmp_path / "password.new").exists()

    def test_a_deep_directory_still_has_a_unix_socket(self, tmp_path: Path) -> None:
        deep = tmp_path / ("a" * 60) / ("b" * 60)

        with Postgres.start(deep, fsync=False) as server:
            with psycopg.connect(server.app_url) as session:
                assert session.execute("SELECT inet_server_addr()").fetchone() == (None,)
            elsewhere = server.socket_dir
            assert elsewhere.stat().st_mode & 0o777 == 0o700

        assert not elsewhere.exists()

    def test_killing_the_starter_ends_postgres(self, tmp_path: Path) -> None:
        code = "server = e.Postgres.start(Path(sys.argv[1]), fsync=False)"

        pid = _killed_after_start(code, tmp_path)

        assert _ends(pid)

    def test_a_postgres_that_outlived_its_starter_is_replaced(self, tmp_path: Path) -> None:
        # 29 is PR_SET_TIMERSLACK: a harmless prctl in the place of the one that ties lives.
        code = "e._PR_SET_PDEATHSIG = 29\n"
        code += "server = e.Postgres.start(Path(sys.argv[1]), fsync=False)"
        orphan = _killed_after_start(code, tmp_path)
        assert _runs(orphan)

        with Postgres.start(tmp_path, fsync=False) as server:
            assert server.pid != orphan
            assert not _runs(orphan)

    def test_data_of_another_major_version_is_named_with_the_way_out(self, tmp_path: Path) -> None:
        (tmp_path / "cluster").mkdir(mode=0o700)
        (tmp_path / "cluster" / "PG_VERSION").write_text("17\n")

        with pytest.raises(EmbeddedError, match=r"PostgreSQL 17.*pg_dump") as refused:
            Postgres.start(tmp_path)

        assert str(tmp_path) in str(refused.value)
        assert POSTGRES_MAJOR in str(refused.value)

    def test_lost_passwords_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "cluster").mkdir(mode=0o700)
        (tmp_path / "cluster" / "PG_VERSION").write_text(f"{POSTGRES_MAJOR}\n")

        with pytest.raises(EmbeddedError, match=r"passwords\.json is missing"):
            Postgres.start(tmp_path)

    def test_a_server_that_does_not_start_shows_its_last_words(self, tmp_path: Path) -> None:
        with Postgres.start(tmp_path, fsync=False) as server:
            (server.cluster / "postgresql.conf").write_text("no_such_setting = 1\n")

        with pytest.raises(EmbeddedError, match="no_such_setting"):
            Postgres.start(tmp_path, fsync=False)


class TestValkey:
    def test_it_answers_on_tcp_and_on_its_unix_socket(self, valkey: Valkey) -> None:
        with _client(valkey.url) as over_tcp, _client(valkey.unix_url) as over_socket:
            over_tcp.set("key", "value")

            assert over_socket.get("key") == b"value"
            assert over_tcp.config_get("appendfsync") == {"appendfsync": "everysec"}

    @pytest.mark.parametrize("how", ["restart", "kill"])
    def test_what_was_written_is_there_after(self, valkey: Valkey, how: str) -> None:
        url = valkey.url
        with _client(url) as client:
            client.set("key", "value")

        if how == "kill":
            valkey.kill()
            assert not valkey.is_alive()
        valkey.restart()

        assert valkey.url == url
        with _client(url) as client:
            assert client.get("key") == b"value"

    def test_paused_it_is_silent_and_resumed_it_answers(self, valkey: Valkey) -> None:
        valkey.pause()
        with _client(valkey.url) as client, pytest.raises(redis.TimeoutError):
            client.ping()
        assert valkey.is_alive()

        valkey.resume()
        with _client(valkey.url) as client:
            assert client.ping()

    def test_a_paused_server_stops_too(self, valkey: Valkey) -> None:
        pid = valkey.pid
        valkey.pause()

        valkey.stop()

        assert not _runs(pid)

    def test_a_taken_port_is_named(self, valkey: Valkey, tmp_path: Path) -> None:
        with pytest.raises(EmbeddedError, match=f"port {valkey.port}"):
            Valkey.start(tmp_path / "another", port=valkey.port)

    def test_killing_the_starter_ends_valkey(self, tmp_path: Path) -> None:
        pid = _killed_after_start("server = e.Valkey.start(Path(sys.argv[1]))", tmp_path)

        assert _ends(pid)

    def test_a_valkey_that_outlived_its_starter_is_replaced(self, tmp_path: Path) -> None:
        code = "e._PR_SET_PDEATHSIG = 29\nserver = e.Valkey.start(Path(sys.argv[1]))"
        orphan = _killed_after_start(code, tmp_path)
        assert _runs(orphan)

        with Valkey.start(tmp_path) as server:
            assert server.pid != orphan
            assert not _runs(orphan)

    def test_a_deep_directory_still_has_a_unix_socket(self, tmp_path: Path) -> None:
        with (
            Valkey.start(tmp_path / ("a" * 60) / ("b" * 60)) as server,
            _client(server.unix_url) as client,
        ):
            assert client.ping()


def test_a_lock_is_free_again_after_release_and_after_a_kill(tmp_path: Path) -> None:
    code = "e.DirectoryLock.take(Path(sys.argv[1]))\nclass server: pid = 0"
    with _starter(code, tmp_path) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(EmbeddedError, match=f"in use by process {holder.pid}"):
            DirectoryLock.take(tmp_path)
        holder.send_signal(signal.SIGKILL)

    DirectoryLock.take(tmp_path).release()
    DirectoryLock.take(tmp_path).release()


def test_a_missing_wheel_names_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    for start in (Postgres.start, Valkey.start):
        with pytest.raises(EmbeddedError, match=r"interlock\[embedded\].*GATEWAY_DATABASE_URL"):
            start(tmp_path)


def test_a_file_where_the_directory_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")

    for start in (Postgres.start, Valkey.start):
        with pytest.raises(EmbeddedError, match="a file is in the way") as refused:
            start(tmp_path / "data")
        assert str(tmp_path / "data") in str(refused.value)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("PANIC:  could not write to file: No space left on device", "free some space"),
        ("FATAL:  could not extend file\nHINT:  Check free disk space.", "free some space"),
        ("FATAL:  could not open file: Permission denied", "change its owner or mode"),
        ("could not create directory: Read-only file system", "remount it"),
    ],
)
def test_what_a_server_wrote_becomes_a_sentence_with_the_fix(words: str, fix: str, tmp_path: Path) -> None:
    error = _explained("Postgres", tmp_path, f"LOG:  starting\n{words}\n")

    assert fix in str(error)
    assert str(tmp_path) in str(error)
