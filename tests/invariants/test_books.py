"""Whose books there are, and when they were taken: what they cannot tell of is not held against anybody."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from gateway.invariants import Entry, Outside, check_invariants
from gateway.verify import reading
from providers.registry import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Configuration, Psps
    from tests.invariants.conftest import Mixed

Verified = Callable[..., tuple[int, str, str]]

SECOND = """SELECT payment_id FROM operation WHERE kind = 'authorize' AND round = 1 AND seq = 2"""


def written(path: Path, entries: Iterable[Entry], *, nameless: bool = False) -> str:
    """The entries as a file of books."""
    lines = [entry._asdict() | ({"account": ""} if nameless else {}) for entry in entries]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def of(mixed: Mixed, account: str) -> list[Entry]:
    return [entry for entry in mixed.outside.entries if entry.account == account]


# --- Whose --------------------------------------------------------------------------------------------------------------


def test_books_of_one_psp_say_nothing_of_the_other(mixed: Mixed, verified: Verified, tmp_path: Path) -> None:
    stripes = of(mixed, "stripe")
    code, said, _ = verified(books=(written(tmp_path / "all", stripes),), grace_s=0.0)
    missing, named, _ = verified(books=(written(tmp_path / "some", stripes[1:]),), grace_s=0.0, shown_max=1)

    assert code == 0, said
    assert f"{len(stripes)} book entries of stripe," in said
    assert missing == 1
    assert named.startswith("no_phantom"), "what is missing in the books there are is seen"


def test_an_account_with_empty_books_is_compared_where_it_is_named(
    mixed: Mixed, verified: Verified, tmp_path: Path
) -> None:
    books = (written(tmp_path / "books", of(mixed, "stripe")),)

    code, said, _ = verified(books=books, accounts=("adyen",), grace_s=0.0)

    assert code == 1
    assert all("at adyen" in line for line in said.split("\n\n")[0].splitlines())
    assert "book entries of adyen, stripe," in said


def test_books_that_name_no_account_are_refused_until_it_is_said_whose_they_are(
    mixed: Mixed, verified: Verified, tmp_path: Path
) -> None:
    nameless = (written(tmp_path / "nameless", mixed.outside.entries, nameless=True),)
    stripes = (written(tmp_path / "stripes", of(mixed, "stripe"), nameless=True),)

    with pytest.raises(ConfigError, match="names no account; say which it is with --account"):
        verified(books=nameless, grace_s=0.0)
    of_both, said, _ = verified(books=nameless, accounts=("stripe", "adyen"), grace_s=0.0)
    of_one, also_said, _ = verified(books=stripes, accounts=("stripe",), grace_s=0.0)
    wrong, _, _ = verified(books=stripes, accounts=("adyen",), grace_s=0.0)

    assert of_both == 0, said
    assert of_one == 0, also_said
    assert wrong == 1


def test_a_sandbox_that_does_not_answer_has_lost_nothing(
    mixed: Mixed, verified: Verified, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that answers has been reset since: all of its own are phantoms, and none of the other's."""
    monkeypatch.setenv("GATEWAY_CONFIG", str(configuration.accounts(unreachable=("adyen",))))

    code, said, hinted = verified(at_rest=True, grace_s=0.0)

    assert code == 1
    assert "adyen not compared" in hinted
    found = said.split("\n\n")[0].splitlines()
    assert {line.split()[0] for line in found} == {"no_phantom"}
    assert all("at stripe" in line for line in found)


# --- When ---------------------------------------------------------------------------------------------------------------


def test_a_file_counts_as_taken_when_it_was_written(mixed: Mixed, verified: Verified, tmp_path: Path) -> None:
    """Yesterday's books cannot know today's payments."""
    path = tmp_path / "books"
    books = (written(path, list(mixed.outside.entries)[:1]),)
    now, _, _ = verified(books=books, accounts=("stripe", "adyen"), grace_s=0.0)
    os.utime(path, (time.time() - 86_400,) * 2)

    of_yesterday, said, _ = verified(books=books, accounts=("stripe", "adyen"), grace_s=0.0)
    told, _, _ = verified(books=books, accounts=("stripe", "adyen"), grace_s=0.0, books_as_of="0s")

    assert (now, of_yesterday, told) == (1, 0, 1), said


def test_an_operator_may_say_when_a_file_was_taken(mixed: Mixed, verified: Verified, tmp_path: Path) -> None:
    """It was written just now, and is of yesterday."""
    books = (written(tmp_path / "books", list(mixed.outside.entries)[:1]),)

    code, said, _ = verified(books=books, accounts=("stripe", "adyen"), grace_s=0.0, books_as_of="1d")

    assert code == 0, said


async def test_two_holds_are_no_double_charge_before_the_books_can_tell(mixed: Mixed) -> None:
    """The books of two accounts are read one after the other: one of the holds may be released by now."""
    payment = mixed.database.value(SECOND)
    attempts = mixed.database.rows(
        f"SELECT id, account FROM operation WHERE payment_id = '{payment}' AND round = 1 ORDER BY seq"
    )
    first = attempts[0]["id"]
    held = next(e for e in mixed.outside.entries if e.reference == attempts[1]["id"] and e.book == "authorisations")
    also = held._replace(payment="first", account=attempts[0]["account"], reference=first, payment_reference=first)
    entries = [*mixed.outside.entries, also]
    changed = mixed.database.value(f"SELECT extract(epoch FROM updated_at)::float8 FROM payment WHERE id = '{payment}'")

    async with reading(mixed.database.url) as db:
        early = await check_invariants(db, Outside(entries, taken_at=changed + 10), at_rest=False, grace_s=60)
        late = await check_invariants(db, Outside(entries, taken_at=changed + 70), at_rest=False, grace_s=60)

    assert "no_double_charge" not in early.broken
    assert late.broken["no_double_charge"] == 1


# --- Strange books ------------------------------------------------------------------------------------------------------


@contextmanager
def answering(books: Any) -> Iterator[str]:
    """Somebody who answers every question with the same JSON: its address."""
    body = json.dumps(books).encode()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


BOOKED = {
    "payment": "pi_1",
    "reference": None,
    "payment_reference": None,
    "currency": "EUR",
    "status": "succeeded",
    "key": None,
    "time": 1.0,
}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"hello": "world"}, "nobody keeps books at"),
        ([], "nobody keeps books at"),
        ({"requests": [{}]}, "nobody keeps books at"),
        ({"requests": [], "captures": [{}]}, "nobody keeps books at"),
        ({"requests": [], "captures": 7}, "nobody keeps books at"),
        ({"requests": [], "captures": [BOOKED | {"amount": 2**64 - 1}]}, "could not be kept"),
        ({"requests": [], "captures": [BOOKED | {"amount": {}}]}, "nobody keeps books at|could not be kept"),
    ],
)
def test_what_is_no_sandbox_is_named_as_such(mixed: Mixed, verified: Verified, answer: Any, says: str) -> None:
    with answering(answer) as url, pytest.raises(ConfigError, match=says):
        verified(books=(url,), accounts=("stripe",))


def test_a_sandbox_of_no_account_needs_one(mixed: Mixed, verified: Verified, psps: Psps) -> None:
    with answering({"requests": []}) as url:
        with pytest.raises(ConfigError, match="say whose books they are with --account"):
            verified(books=(url,))
        code, said, _ = verified(books=(url,), accounts=("elsewhere",), grace_s=0.0)

    assert code == 0, said
    assert "0 book entries of elsewhere," in said


# --- Answers ------------------------------------------------------------------------------------------------------------


def test_with_another_secret_key_it_is_said_first_that_no_answer_opens(
    mixed: Mixed, verified: Verified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET_KEY", "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGVyb3Q=")
    answers = mixed.database.value("SELECT count(*) FROM idempotency_key WHERE answer IS NOT NULL")
    books = (written(tmp_path / "books", mixed.outside.entries),)

    code, said, _ = verified(books=books, grace_s=0.0, shown_max=1)
    _, told, _ = verified(books=books, grace_s=0.0, as_json=True)

    assert code == 1
    assert said.startswith(f"None of the {answers} stored answers opens: this GATEWAY_SECRET_KEY is not the one")
    assert f"{answers} broken  answers_are_final" in said
    report = json.loads(told)
    assert report["answers"] == {"stored": answers, "unreadable": answers}
    assert {each["name"]: each["broken"] for each in report["invariants"] if each["broken"]} == {
        "answers_are_final": answers
    }
