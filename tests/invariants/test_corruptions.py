"""Whatever is broken by hand is named: each corruption by exactly the promises that it breaks, and by no other.

They are planted by a superuser with triggers and foreign keys off, into a database that the real gateway has filled; or into what the
PSPs' books and wire logs say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.invariants import INVARIANTS, Arrival, Entry, Outside, check_invariants, walk
from gateway.verify import reading

if TYPE_CHECKING:
    from tests.conftest import Database, Kit
    from tests.invariants.conftest import Mixed

OFF: Final = "SET session_replication_role = replica; "

PAID: Final = "(SELECT p.id FROM payment p WHERE status = 'succeeded' AND amount_refunded = 0 AND round = 1 AND capture_method = 'automatic' AND EXISTS (SELECT FROM idempotency_key k WHERE k.payment_id = p.id AND k.status = 201 AND amount > 0) AND NOT EXISTS (SELECT FROM operation o WHERE o.payment_id = p.id AND seq = 2) ORDER BY id LIMIT 1)"
REFUNDED: Final = "(SELECT id FROM payment WHERE amount_refunded > 0 AND account = 'stripe' ORDER BY id LIMIT 1)"
IN_PARTS: Final = "(SELECT id FROM payment WHERE reference = 'parts-adyen')"
HELD: Final = "(SELECT id FROM payment WHERE reference = 'held-stripe')"
DECLINED: Final = "(SELECT id FROM payment WHERE status = 'requires_payment_method' AND account = 'stripe' AND decline->>'code' <> 'authentication_failed' ORDER BY id LIMIT 1)"
CANCELED: Final = (
    "(SELECT id FROM payment WHERE status = 'canceled' AND round = 1 AND account = 'stripe' ORDER BY id LIMIT 1)"
)
CASCADED: Final = "(SELECT payment_id FROM operation WHERE kind = 'authorize' AND round = 1 AND seq = 2)"
CHALLENGED: Final = "(SELECT id FROM payment WHERE status = 'requires_action' ORDER BY id LIMIT 1)"
DISPUTED: Final = "(SELECT payment_id FROM dispute)"
FIRST: Final = "kind = 'authorize' AND seq = 1"
KEY_OF_PAID: Final = f"payment_id = {PAID}"
KEY_OF_CAPTURE: Final = (
    f"operation_id = (SELECT id FROM operation WHERE kind = 'capture' AND payment_id = {IN_PARTS} ORDER BY seq LIMIT 1)"
)
"""Which rows are broken, in SQL."""


def last_change(payment: str, status: str) -> str:
    """The payment's history ends with another status, as the payment does."""
    return (
        f"UPDATE change SET to_status = '{status}' WHERE payment_id = {payment} "
        f"AND seq = (SELECT max(seq) FROM change WHERE payment_id = {payment}); "
        f"UPDATE payment SET status = '{status}' WHERE id = {payment}"
    )


def declined(network: str, days: list[float], **changes: str) -> str:
    """A live card's attempts of a payment of nobody's, one for each of ``days`` ago, opened a second before they were declined."""
    row = {"amount": "1999", "currency": "'EUR'", "merchant_initiated": "false", "livemode": "true"} | changes
    return f"""INSERT INTO operation SELECT (o).* FROM (SELECT jsonb_populate_record(o, jsonb_build_object('id', 'att_card_' || n,
        'payment_id', 'pay_card', 'seq', n, 'provider_key', 'card_' || n, 'status', 'declined',
        'created_at', now() - make_interval(secs => 86400 * days + 1))) AS o
        FROM operation o, unnest(ARRAY{days}::float8[]) WITH ORDINALITY AS a (days, n)
        WHERE o.id = (SELECT id FROM operation ORDER BY id LIMIT 1)) AS copied;
        INSERT INTO declined_card SELECT 'att_card_' || n, 'mer_dev', {row["livemode"]}, 'card', now() - make_interval(secs => 86400 * days),
        {row["amount"]}, {row["currency"]}, '{network}', {row["merchant_initiated"]}, false, NULL
        FROM unnest(ARRAY{days}::float8[]) WITH ORDINALITY AS a (days, n)"""


IN_ROWS: Final[dict[str, tuple[str, set[str]]]] = {
    "a second live success": (
        f"DROP INDEX operation_one_live_success; UPDATE operation SET status = 'authorized' WHERE payment_id = {CASCADED} AND {FIRST}",
        {"one_live_attempt", "history_is_whole", "no_phantom"},
    ),
    "a second open attempt": (
        f"""DROP INDEX operation_one_open_authorize; INSERT INTO operation SELECT (o).* FROM (SELECT jsonb_populate_record(o,
        '{{"id": "att_second", "seq": 2, "provider_key": "second"}}') AS o FROM operation o WHERE payment_id = {CHALLENGED}) AS copied""",
        {"one_live_attempt", "nobody_else_while_open"},
    ),
    "an earlier attempt that is open still": (
        f"UPDATE operation SET status = 'unknown', due_at = now() WHERE payment_id = {CASCADED} AND {FIRST}",
        {"nobody_else_while_open", "status_agrees", "nothing_forgotten"},
    ),
    "an attempt at another account than its decision's": (
        f"""UPDATE operation SET decision = jsonb_set(decision, '{{route,0}}', '"elsewhere"') WHERE payment_id = {PAID} AND {FIRST}""",
        {"decisions_are_followed"},
    ),
    "an attempt that a stranger's version has decided": (
        f"""UPDATE operation SET decision = decision || '{{"version": "rt_elsewhere"}}' WHERE payment_id = {PAID} AND {FIRST}""",
        {"decisions_are_followed"},
    ),
    "a further attempt that follows another payment's": (
        f"""UPDATE operation SET decision = decision || '{{"after": "att_elsewhere"}}' WHERE payment_id = {CASCADED} AND seq = 2""",
        {"decisions_are_followed"},
    ),
    "a further attempt by another decision": (
        f"""UPDATE operation SET decision = decision || '{{"decided_by": "att_elsewhere"}}' WHERE payment_id = {CASCADED} AND seq = 2""",
        {"decisions_are_followed"},
    ),
    "a further attempt after a decline that forbids it": (
        f"""UPDATE operation SET decline = decline || '{{"action": "do_not_retry"}}' WHERE payment_id = {CASCADED} AND {FIRST}""",
        {"retries_are_allowed"},
    ),
    "a scheduled retry after a decline that forbids it": (
        f"""UPDATE operation SET round = 0, decline = decline || '{{"action": "ask_new_method"}}' WHERE payment_id = {CASCADED} AND {FIRST};
        UPDATE operation SET metadata = '{{"allowed_by": "scheduled"}}', decision = NULL WHERE payment_id = {CASCADED} AND seq = 2""",
        {"retries_are_allowed"},
    ),
    "a Mastercard that was declined ten times in a day": (
        declined("mastercard", [1.5, *(0.9 - 0.05 * n for n in range(11))]),
        {"cards_within_limits"},
    ),
    "a Mastercard that was declined 35 times in a month": (
        declined("maestro", [29 - 0.7 * n for n in range(36)]),
        {"cards_within_limits"},
    ),
    "a Visa that was declined twenty times in a month": (
        declined("visa", [28 - n for n in range(21)]),
        {"cards_within_limits"},
    ),
    "an approval that says nothing of its account": (
        f"UPDATE operation SET evidence_word = NULL, evidence_at = NULL, evidence_xid = NULL WHERE payment_id = {HELD} AND {FIRST}",
        {"evidence_is_kept"},
    ),
    "a decline that says nothing of its account": (
        f"UPDATE operation SET evidence_word = NULL, evidence_at = NULL, evidence_xid = NULL WHERE payment_id = {CASCADED} AND {FIRST}",
        {"evidence_is_kept"},
    ),
    "a word that nobody can fold": (
        f"UPDATE operation SET evidence_xid = NULL WHERE payment_id = {HELD} AND {FIRST}",
        {"evidence_is_kept"},
    ),
    "a refund that says something of its account": (
        f"""UPDATE operation SET evidence_word = 'approved', evidence_at = now(), evidence_xid = pg_current_xact_id()
        WHERE payment_id = {REFUNDED} AND kind = 'refund'""",
        {"evidence_is_kept"},
    ),
    "a challenge that says something before its end": (
        f"""UPDATE operation SET evidence_word = 'declined_customer', evidence_at = now(), evidence_xid = pg_current_xact_id()
        WHERE payment_id = {CHALLENGED}""",
        {"evidence_is_kept"},
    ),
    "more captured than authorized": (
        f"ALTER TABLE payment DROP CONSTRAINT payment_captured; UPDATE payment SET amount_captured = amount_captured + 1 WHERE id = {PAID}",
        {"captured_within_authorized", "amounts_are_sums"},
    ),
    "more authorized than asked for": (
        f"ALTER TABLE payment DROP CONSTRAINT payment_authorized; UPDATE payment SET amount_authorized = amount + 1 WHERE id = {HELD}",
        {"captured_within_authorized", "no_phantom"},
    ),
    "more refunded than captured": (
        f"ALTER TABLE payment DROP CONSTRAINT payment_refunded; UPDATE payment SET amount_refunded = amount_captured + 1 WHERE id = {REFUNDED}",
        {"refunded_within_captured", "amounts_are_sums"},
    ),
    "a refund that is counted twice": (
        f"UPDATE payment SET amount_refunded = amount_refunded + 300 WHERE id = {REFUNDED}",
        {"amounts_are_sums"},
    ),
    "a capture that is not counted": (
        f"UPDATE payment SET amount_captured = amount_captured - 700 WHERE id = {IN_PARTS}",
        {"amounts_are_sums"},
    ),
    "a reservation that nobody holds": (
        f"UPDATE payment SET amount_capturing = 5 WHERE id = {HELD}",
        {"reservations_are_sums"},
    ),
    "a reservation for a refund that nobody holds": (
        f"UPDATE payment SET amount_refunding = 5 WHERE id = {REFUNDED}",
        {"reservations_are_sums"},
    ),
    "a success without money": (last_change(HELD, "succeeded"), {"merchants_are_told", "status_agrees"}),
    "a payment that processes nothing": (last_change(DECLINED, "processing"), {"status_agrees"}),
    "a payment that was paid and says that it failed": (
        last_change(HELD, "failed"),
        {"merchants_are_told", "status_agrees", "told_failed_is_unpaid", "history_is_whole", "answers_are_final"},
    ),
    "a merchant who was not told": (
        f"DELETE FROM event WHERE type = 'payment.succeeded' AND payment_id = {PAID}",
        {"merchants_are_told"},
    ),
    "a merchant who was told twice": (
        f"""INSERT INTO event SELECT (e).* FROM (SELECT jsonb_populate_record(e, '{{"id": "evt_second"}}') AS e FROM event e
        WHERE type = 'payment.succeeded' AND payment_id = {PAID}) AS copied""",
        {"merchants_are_told"},
    ),
    "a merchant who was told what never was": (
        f"UPDATE event SET sequence = 99 WHERE type = 'refund.succeeded' AND payment_id = {REFUNDED}",
        {"merchants_are_told"},
    ),
    "a history whose first step is gone": (
        f"DELETE FROM change WHERE seq = 1 AND payment_id = {PAID}",
        {"history_is_whole"},
    ),
    "a history with a hole": (
        f"DELETE FROM change WHERE seq = 2 AND payment_id = {REFUNDED}",
        {"merchants_are_told", "history_is_whole"},
    ),
    "no history": (f"DELETE FROM change WHERE payment_id = {CANCELED}", {"merchants_are_told", "history_is_whole"}),
    "a version that no change explains": (
        f"UPDATE payment SET version = version + 1 WHERE id = {PAID}",
        {"history_is_whole"},
    ),
    "a payment that was changed past its history": (
        f"UPDATE payment SET updated_at = updated_at + interval '1 second' WHERE id = {PAID}",
        {"history_is_whole"},
    ),
    "a status that the history does not end with": (
        f"UPDATE payment SET status = 'requires_confirmation' WHERE id = {DECLINED}",
        {"history_is_whole"},
    ),
    "a success that the history does not tell": (
        f"UPDATE change SET operation_id = NULL WHERE payment_id = {PAID} AND operation_id IS NOT NULL",
        {"history_is_whole"},
    ),
    "a change about an operation of another payment": (
        f"UPDATE change SET operation_id = 'att_elsewhere' WHERE payment_id = {DISPUTED} AND news = 'Dispute'",
        {"history_is_whole"},
    ),
    "a step that does not exist": (
        f"""UPDATE change SET to_status = 'processing' WHERE payment_id = {REFUNDED} AND seq = 3;
        UPDATE change SET from_status = 'processing', source = 'api' WHERE payment_id = {REFUNDED} AND seq = 4""",
        {"merchants_are_told", "steps_are_legal"},
    ),
    "a webhook that takes a payment back": (
        f"""UPDATE change SET to_status = 'processing', source = 'webhook' WHERE payment_id = {REFUNDED} AND seq = 3;
        UPDATE change SET from_status = 'processing' WHERE payment_id = {REFUNDED} AND seq = 4""",
        {"merchants_are_told", "steps_are_legal", "news_moves_forward"},
    ),
    "an operation that is what it cannot be": (
        f"UPDATE operation SET status = 'expired' WHERE kind = 'void' AND payment_id = {CANCELED}",
        {"steps_are_legal", "answers_are_final"},
    ),
    "an operation of a round to come": (
        f"UPDATE operation SET round = 7 WHERE payment_id = {HELD}",
        {"steps_are_legal"},
    ),
    "operations with a gap": (f"UPDATE operation SET seq = 9 WHERE payment_id = {PAID}", {"steps_are_legal"}),
    "a success that was refused here": (
        f"UPDATE operation SET status = 'failed' WHERE kind = 'capture' AND payment_id = {IN_PARTS} AND amount = 700",
        {"amounts_are_sums", "nothing_lost"},
    ),
    "a provider key of two operations": (
        f"""ALTER TABLE operation DROP CONSTRAINT operation_provider_key; UPDATE operation SET provider_key =
        (SELECT provider_key FROM operation WHERE payment_id = {PAID}) WHERE payment_id = {CASCADED} AND seq = 2""",
        {"one_key_per_operation"},
    ),
    "a request that was not wiped": (
        f"UPDATE operation SET sealed_request = '\\x00' WHERE payment_id = {PAID}",
        {"nothing_left_sealed"},
    ),
    "a challenge that nobody will end": (
        f"UPDATE operation SET due_at = NULL WHERE payment_id = {CHALLENGED}",
        {"nothing_forgotten"},
    ),
    "a challenge that should have ended": (
        f"UPDATE operation SET due_at = now() - interval '1 hour' WHERE payment_id = {CHALLENGED}",
        {"nothing_forgotten"},
    ),
    "a payment that waits for its key for ever": (
        f"""{last_change(DECLINED, "processing")}; UPDATE payment SET processing_reason = 'awaiting_retry',
        updated_at = updated_at - interval '1 hour' WHERE status = 'processing';
        UPDATE change SET at = at - interval '1 hour' WHERE to_status = 'processing' AND (payment_id, seq) IN
        (SELECT id, version FROM payment WHERE status = 'processing')""",
        {"nothing_forgotten"},
    ),
    "an event that nobody will apply": (
        "UPDATE webhook_inbox SET applied_at = NULL, due_at = NULL WHERE id = (SELECT max(id) FROM webhook_inbox)",
        {"news_moves_forward"},
    ),
    "an answer that is not final": (
        f"UPDATE idempotency_key SET status = 202 WHERE {KEY_OF_PAID}",
        {"answers_are_final"},
    ),
    "half an answer": (f"UPDATE idempotency_key SET answer = NULL WHERE {KEY_OF_PAID}", {"answers_are_final"}),
    "an answer that was changed": (
        f"UPDATE idempotency_key SET answer = set_byte(answer, length(answer) - 1, get_byte(answer, length(answer) - 1) # 1) WHERE {KEY_OF_PAID}",
        {"answers_are_final"},
    ),
    "an answer of another key": (
        f"""UPDATE idempotency_key SET answer = (SELECT answer FROM idempotency_key WHERE answer IS NOT NULL AND status = 201
        AND payment_id <> {PAID} ORDER BY created_at LIMIT 1) WHERE {KEY_OF_PAID}""",
        {"answers_are_final"},
    ),
    "a refusal of what was done": (
        f"UPDATE idempotency_key SET status = 422 WHERE {KEY_OF_CAPTURE}",
        {"answers_are_final"},
    ),
    "an approval of what was declined": (
        f"UPDATE idempotency_key SET status = 201 WHERE payment_id = {DECLINED}",
        {"answers_are_final"},
    ),
    "a success that was answered as a decline": (
        f"UPDATE idempotency_key SET status = 402 WHERE {KEY_OF_PAID}",
        {"told_failed_is_unpaid"},
    ),
    "a key that stands twice": (
        f"""ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_pkey; INSERT INTO idempotency_key
        SELECT (k).* FROM (SELECT jsonb_populate_record(k, '{{"fingerprint": "\\\\x00"}}') AS k FROM idempotency_key k WHERE {KEY_OF_PAID}) AS copied""",
        {"keys_stand_once"},
    ),
    "a payment whose key is gone": (f"DELETE FROM idempotency_key WHERE {KEY_OF_PAID}", {"keys_are_kept"}),
    "a key that opens nothing": (
        f"UPDATE idempotency_key SET payment_id = 'pay_nowhere' WHERE {KEY_OF_PAID}",
        {"keys_are_kept"},
    ),
    "a key that drives another payment's operation": (
        f"UPDATE idempotency_key SET operation_id = (SELECT id FROM operation WHERE payment_id = {CASCADED} AND seq = 2) WHERE {KEY_OF_PAID}",
        {"keys_are_kept"},
    ),
    "a key of another merchant": (
        f"UPDATE idempotency_key SET merchant_id = 'mer_other' WHERE {KEY_OF_PAID}",
        {"tenants_apart", "answers_are_final"},  # an answer opens under its own merchant alone
    ),
    "a key of the other mode": (
        f"UPDATE idempotency_key SET livemode = true WHERE {KEY_OF_PAID}",
        {"tenants_apart", "answers_are_final"},
    ),
    "a dispute of another merchant": ("UPDATE dispute SET merchant_id = 'mer_other'", {"tenants_apart"}),
    "a payment that is gone with all of its rows": (
        f"""CREATE TEMP TABLE gone AS SELECT {PAID} AS id; DELETE FROM operation WHERE payment_id IN (SELECT id FROM gone);
        DELETE FROM change WHERE payment_id IN (SELECT id FROM gone); DELETE FROM payment WHERE id IN (SELECT id FROM gone);
        DELETE FROM idempotency_key WHERE payment_id IN (SELECT id FROM gone)""",
        {"nothing_lost", "written_before_sent"},
    ),
    "an attempt that is gone": (
        f"DELETE FROM operation WHERE payment_id = {CASCADED} AND seq = 2",
        {
            "status_agrees",
            "amounts_are_sums",
            "history_is_whole",
            "nothing_lost",
            "written_before_sent",
            "answers_are_final",
        },
    ),
}
"""What is done to the rows, and the promises that it breaks."""


@dataclass(frozen=True)
class Told:
    """What the PSPs say, to be falsified, and the payments by name."""

    entries: list[Entry]
    arrivals: list[Arrival]
    database: Database

    def attempt(self, payment: str) -> str:
        """The newest authorization of a payment."""
        attempt: str = self.database.value(
            f"SELECT id FROM operation WHERE kind = 'authorize' AND payment_id = {payment} ORDER BY seq DESC LIMIT 1"
        )
        return attempt

    def entry(self, book: str, payment: str, nth: int = 0) -> Entry:
        """An entry of a payment in a book."""
        attempt = self.attempt(payment)
        return [each for each in self.entries if each.book == book and each.payment_reference == attempt][nth]

    def instead(self, old: Entry, **changes: Any) -> Outside:
        return self.saying([each._replace(**changes) if each is old else each for each in self.entries])

    def also(self, entry: Entry) -> Outside:
        return self.saying([*self.entries, entry])

    def without(self, entry: Entry) -> Outside:
        return self.saying([each for each in self.entries if each is not entry])

    def saying(self, entries: Iterable[Entry] | None = None, arrivals: Iterable[Arrival] | None = None) -> Outside:
        return Outside(
            entries=self.entries if entries is None else entries,
            arrivals=self.arrivals if arrivals is None else arrivals,
            horizons={"stripe": 20 * 3600.0, "adyen": 6 * 24 * 3600.0, "neutral": 3600.0},
        )

    def request(self, payment: str) -> Arrival:
        """The request of a payment's newest authorization."""
        attempt = self.attempt(payment)
        return next(each for each in self.arrivals if each.reference == attempt and each.operation == "authorize")

    def requested(self, old: Arrival, **changes: Any) -> Outside:
        return self.saying(arrivals=[each._replace(**changes) if each is old else each for each in self.arrivals])

    def sent_again(self, old: Arrival, **changes: Any) -> Outside:
        return self.saying(arrivals=[*self.arrivals, old._replace(**changes)])


def second_before_first(told: Told) -> Outside:
    """The second account of a cascade was asked while the first had not answered yet."""
    second = told.request(CASCADED)
    attempt = told.database.value(f"SELECT id FROM operation WHERE payment_id = {CASCADED} AND {FIRST}")
    first = next(each for each in told.arrivals if each.reference == attempt and each.operation == "authorize")
    return told.requested(first, answered=second.at + 1)


OUTSIDE: Final[dict[str, tuple[Callable[[Told], Outside], set[str]]]] = {
    "a payment that is charged twice": (
        lambda told: told.also(told.entry("authorisations", PAID)._replace(payment="second")),
        {"no_double_charge"},
    ),
    "a payment that another account has charged, too": (
        lambda told: told.also(told.entry("authorisations", PAID)._replace(payment="second", account="elsewhere")),
        {"no_double_charge", "nothing_lost"},
    ),
    "a first attempt that was charged although it was declined": (
        lambda told: told.also(
            told.entry("authorisations", CASCADED)._replace(
                payment="first",
                account="stripe",
                reference=told.database.value(f"SELECT id FROM operation WHERE payment_id = {CASCADED} AND {FIRST}"),
            )
        ),
        {"no_double_charge", "nothing_lost"},
    ),
    "a capture that is done twice": (
        lambda told: told.also(told.entry("captures", IN_PARTS)),
        {"no_double_charge"},
    ),
    "a refund that is done twice": (
        lambda told: told.also(told.entry("refunds", REFUNDED)),
        {"no_double_charge"},
    ),
    "a charge that nobody here has heard of": (
        lambda told: told.also(
            Entry("stripe", "authorisations", "pi_lost", "att_lost", "att_lost", 1999, "EUR", "captured", None, 1.0)
        ),
        {"nothing_lost"},
    ),
    "a charge that names nobody": (
        lambda told: told.also(
            Entry("stripe", "authorisations", "pi_lost", None, None, 1999, "EUR", "authorised", None, 1.0)
        ),
        {"nothing_lost"},
    ),
    "a refund that nobody here has asked for": (
        lambda told: told.also(told.entry("refunds", REFUNDED)._replace(reference="re_lost", key=None, amount=1)),
        {"nothing_lost"},
    ),
    "a charge at another account than its attempt's": (
        lambda told: told.instead(told.entry("authorisations", PAID), account="elsewhere"),
        {"nothing_lost"},
    ),
    "a decline that was charged": (
        lambda told: told.also(
            Entry(
                "stripe",
                "authorisations",
                "pi_x",
                told.attempt(DECLINED),
                told.attempt(DECLINED),
                1999,
                "EUR",
                "authorised",
                None,
                1.0,
            )
        ),
        {"told_failed_is_unpaid"},
    ),
    "a cancel that released nothing": (
        lambda told: told.instead(told.entry("authorisations", CANCELED), status="authorised"),
        {"told_failed_is_unpaid"},
    ),
    "an authorization that is not there": (
        lambda told: told.without(told.entry("authorisations", HELD)),
        {"no_phantom"},
    ),
    "an authorization that was released there": (
        lambda told: told.instead(told.entry("authorisations", HELD), status="voided"),
        {"no_phantom"},
    ),
    "a capture that is not there": (lambda told: told.without(told.entry("captures", PAID)), {"no_phantom"}),
    "a capture that failed there": (
        lambda told: told.instead(told.entry("captures", IN_PARTS), status="failed"),
        {"no_phantom"},
    ),
    "a refund that is not there": (lambda told: told.without(told.entry("refunds", REFUNDED)), {"no_phantom"}),
    "a capture of another amount": (
        lambda told: told.instead(told.entry("captures", IN_PARTS), amount=701),
        {"no_phantom"},
    ),
    "an authorization of a lower amount": (
        lambda told: told.instead(told.entry("authorisations", HELD), amount=1998),
        {"no_phantom"},
    ),
    "an authorization of a higher amount": (
        lambda told: told.instead(told.entry("authorisations", HELD), amount=2000),
        {"no_phantom", "captured_within_authorized"},
    ),
    "another currency": (
        lambda told: told.instead(told.entry("authorisations", HELD), currency="USD"),
        {"no_phantom"},
    ),
    "more captured there than authorized": (
        lambda told: told.instead(told.entry("captures", PAID), amount=2000),
        {"no_phantom", "captured_within_authorized"},
    ),
    "more refunded there than captured": (
        lambda told: told.instead(told.entry("refunds", REFUNDED), amount=9999),
        {"no_phantom", "refunded_within_captured"},
    ),
    "a key with two requests": (
        lambda told: told.sent_again(told.request(PAID), body="other"),
        {"one_key_per_operation"},
    ),
    "a request under two keys": (
        lambda told: told.sent_again(told.request(PAID), key="other"),
        {"one_key_per_operation"},
    ),
    "a key of two operations on the wire": (
        lambda told: told.requested(told.request(PAID), key=told.request(HELD).key),
        {"one_key_per_operation"},
    ),
    "a request before its operation": (
        lambda told: told.requested(told.request(HELD), at=1.0, answered=1.1),
        {"written_before_sent"},
    ),
    "a request for an operation that was never written": (
        lambda told: told.sent_again(told.request(PAID), reference="att_never", key="never", body="never"),
        {"written_before_sent"},
    ),
    "a second account that was asked too early": (second_before_first, {"nobody_else_while_open"}),
    "a key that was sent after its horizon": (
        lambda told: told.sent_again(told.request(PAID), at=told.request(PAID).at + 30 * 24 * 3600),
        {"within_horizon"},
    ),
}
"""What the PSPs say instead, and the promises that it breaks."""


def test_every_promise_is_broken_by_something() -> None:
    broken = {name for _, names in (*IN_ROWS.values(), *OUTSIDE.values()) for name in names}

    assert broken == {each.name for each in INVARIANTS}


@pytest.mark.parametrize("corruption", IN_ROWS)
async def test_what_is_broken_in_the_rows_is_named(corruption: str, mixed: Mixed, flow: type[Kit]) -> None:
    planted, names = IN_ROWS[corruption]
    before = _contents(mixed.database)
    mixed.database.rows(OFF + planted)
    assert _contents(mixed.database) != before, "nothing was planted"

    async with reading(mixed.database.url) as db:
        for at_rest in (True, False):
            report = await check_invariants(db, mixed.outside, at_rest=at_rest, grace_s=0, keyring=flow.keyring())
            assert set(report.broken) == names, report.violations


@pytest.mark.parametrize("corruption", OUTSIDE)
async def test_what_the_providers_say_otherwise_is_named(corruption: str, mixed: Mixed, flow: type[Kit]) -> None:
    plant, names = OUTSIDE[corruption]
    told = Told(list(mixed.outside.entries), list(mixed.outside.arrivals or ()), mixed.database)

    async with reading(mixed.database.url) as db:
        report = await check_invariants(db, plant(told), at_rest=True, grace_s=5, keyring=flow.keyring())

    assert set(report.broken) == names, report.violations


RELEASED: Final = f"""UPDATE operation SET status = 'unknown', due_at = now() + interval '5 minutes' WHERE payment_id = {DECLINED};
    INSERT INTO operation SELECT (o).* FROM (SELECT jsonb_populate_record(o, jsonb_build_object('id', 'vd_failover', 'kind', 'void',
    'seq', 2, 'provider_key', 'void', 'review_at', now(), 'metadata', jsonb_build_object('purpose', 'failover'))) AS o
    FROM operation o WHERE payment_id = {DECLINED}) AS copied"""
"""An attempt of unknown outcome, which waits for its void, which a person looks at."""


async def test_an_attempt_whose_void_is_with_a_person_is_not_forgotten(mixed: Mixed) -> None:
    mixed.database.rows(OFF + RELEASED)
    async with reading(mixed.database.url) as db:
        with_a_person = await check_invariants(db, at_rest=True, grace_s=0)
        mixed.database.rows("UPDATE operation SET review_at = NULL WHERE id = 'vd_failover'")
        with_nobody = await check_invariants(db, at_rest=True, grace_s=0)
        mixed.database.rows("UPDATE operation SET review_at = now(), metadata = NULL WHERE id = 'vd_failover'")
        another_void = await check_invariants(db, at_rest=True, grace_s=0)

    assert "nothing_forgotten" not in with_a_person.broken
    assert with_nobody.broken["nothing_forgotten"] == 2
    assert another_void.broken["nothing_forgotten"] == 1


KEPT: Final = {
    "just as many as may be": declined("visa", [28 - n for n in range(20)]),
    "the first of them too old": declined("mastercard", [1.5, *(0.9 - 0.05 * n for n in range(10))]),
    "test cards": declined("visa", [28 - n for n in range(30)], livemode="false"),
    "of different amounts": declined("visa", [28 - n for n in range(25)], amount="1000 + n % 2"),
    "the shopper's and the merchant's apart": declined(
        "visa", [28 - n for n in range(30)], merchant_initiated="n % 2 = 0"
    ),
    "all at once, which none could know of": declined("mastercard", [0.9 - n / 2e5 for n in range(12)]),
    "of a network without a limit": declined("amex", [0.9 - 0.05 * n for n in range(12)]),
}


@pytest.mark.parametrize("card", KEPT)
async def test_a_card_within_its_limits_breaks_nothing(card: str, mixed: Mixed) -> None:
    mixed.database.rows(OFF + KEPT[card])
    async with reading(mixed.database.url) as db:
        report = await check_invariants(db, at_rest=True)

    assert "cards_within_limits" not in report.broken, report.violations


async def test_cards_are_read_a_page_at_a_time_and_only_since_what_is_asked_for(mixed: Mixed) -> None:
    mixed.database.rows(OFF + declined("visa", [28 - n for n in range(22)]))
    for card in ("second", "third"):
        mixed.database.rows(
            f"""{OFF}INSERT INTO operation SELECT (o).* FROM (SELECT jsonb_populate_record(o, jsonb_build_object('id', '{card}' || o.id,
            'provider_key', '{card}' || provider_key, 'seq', seq + 100 * length('{card}'))) AS o
            FROM operation o WHERE id LIKE 'att_card_%') AS copied;
            INSERT INTO declined_card SELECT (d).* FROM (SELECT jsonb_populate_record(d, jsonb_build_object('operation_id',
            '{card}' || operation_id, 'card', '{card}')) AS d FROM declined_card d WHERE card = 'card') AS copied"""
        )
    async with reading(mixed.database.url) as db:
        every = await check_invariants(db, at_rest=True, page=1)
        recent, nothing = [
            await check_invariants(db, at_rest=True, since=datetime.now(UTC) - timedelta(days=days), page=1)
            for days in (7.5, 1)
        ]

    # The last two of each card were too many: those of eight days ago and of seven.
    assert every.broken["cards_within_limits"] == 6
    assert every.rows["declined_card"] == recent.rows["declined_card"] == 66
    assert recent.broken["cards_within_limits"] == 3
    assert "cards_within_limits" not in nothing.broken
    assert nothing.rows.get("declined_card", 0) == 0


async def test_keys_that_are_not_looked_for_again_are_reported_as_such(
    mixed: Mixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "CONFIRMED_MAX", 2)
    mixed.database.rows(f"{OFF}DELETE FROM idempotency_key")

    async with reading(mixed.database.url) as db:
        report = await check_invariants(db, at_rest=True)

    details = [each.detail for each in report.violations if each.invariant == "keys_are_kept"]
    assert len(details) == mixed.payments
    assert [detail.endswith("(not looked up again)") for detail in details] == [False] * 2 + [True] * (len(details) - 2)


def test_corruptions_are_counted(proved: Callable[[str], None]) -> None:
    proved(
        f"corruptions: {len(IN_ROWS)} in rows and {len(OUTSIDE)} outside, each named by exactly the promises it breaks"
    )


def _contents(database: Database) -> list[Any]:
    tables = ("payment", "operation", "change", "event", "idempotency_key", "dispute", "webhook_inbox", "declined_card")
    return [
        database.value(f"SELECT coalesce(md5(string_agg(t::text, '' ORDER BY t::text)), '') FROM {table} t")
        for table in tables
    ]
