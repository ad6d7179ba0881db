"""People who may look at the console: their passwords, sessions and one-time links, and the record of who came in.

A session is 256 random bits in one browser's cookie; here is only their hash, so that a copy of the database lets nobody in. Every time is
the database's, the same for all processes. What ends a session ends it everywhere at once: signing out, a new password, a user disabled,
an hour without a look (:data:`IDLE_S`) and half a day in all (:data:`ENDS_S`).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from secrets import token_urlsafe
from typing import Any, Final

from gateway.console.passwords import LONGEST, SHORTEST, Passwords, is_weak
from gateway.ids import CONSOLE_EVENT, CONSOLE_USER, new_id
from gateway.sql import Pool, Row, Statement, columns
from gateway.tables import ConsoleUserRow
from providers.registry import ConfigError

IDLE_S: Final = 3600
ENDS_S: Final = 12 * 3600
SEEN_EVERY_S: Final = 60
"""How often it is noted that a session is in use: not with every page."""
TRIES_MAX: Final = 10
"""Passwords that may be tried for one email within :data:`TRIES_S` since it last came in."""
TRIES_FROM_MAX: Final = 100
"""Passwords that may be tried from one address within :data:`TRIES_S`: many people may sit behind one proxy."""
TRIES_S: Final = 900
LINK_S: Final = 15 * 60
EMAIL: Final = re.compile(r"[^\s@\x00-\x1f<>\"',;:\\()\[\]]{1,64}@[a-z0-9.-]{1,190}")

_USER: Final = columns(ConsoleUserRow)
_RECENT: Final = "at > now() - make_interval(secs => :tries_s::float8)"
_CREATE = Statement(
    """WITH made AS (INSERT INTO console_user (id, email, merchant_id, password_hash, created_at, password_at)
        SELECT :id, :email, m.id, :password_hash::text, now(), CASE WHEN :password_hash IS NOT NULL THEN now() END
        FROM merchant m WHERE m.id = :merchant_id ON CONFLICT (email) DO NOTHING RETURNING id),
    noted AS (INSERT INTO console_event (id, at, kind, user_id) SELECT :event_id, now(), 'user_created', id FROM made)
    SELECT id FROM made""",
    writes="user_create",
)
_SET_PASSWORD = Statement(
    """WITH changed AS (UPDATE console_user SET password_hash = :password_hash, password_at = now(), disabled_at = NULL
        WHERE email = :email RETURNING id),
    ended AS (DELETE FROM console_session USING changed WHERE user_id = changed.id),
    unlinked AS (DELETE FROM console_link USING changed WHERE user_id = changed.id),
    noted AS (INSERT INTO console_event (id, at, kind, user_id) SELECT :event_id, now(), 'password_set', id FROM changed)
    SELECT id FROM changed""",
    writes="user_password",
)
_DISABLE = Statement(
    """WITH changed AS (UPDATE console_user SET disabled_at = coalesce(disabled_at, now()) WHERE email = :email RETURNING id),
    ended AS (DELETE FROM console_session USING changed WHERE user_id = changed.id),
    unlinked AS (DELETE FROM console_link USING changed WHERE user_id = changed.id),
    noted AS (INSERT INTO console_event (id, at, kind, user_id) SELECT :event_id, now(), 'user_disabled', id FROM changed)
    SELECT id FROM changed""",
    writes="user_disable",
)
_LIST = Statement(
    f"""SELECT {_USER}, (SELECT max(seen_at) FROM console_session WHERE user_id = console_user.id) AS seen_at
    FROM console_user ORDER BY email"""
)
_LINK = Statement(
    """WITH found AS (SELECT id FROM console_user WHERE email = :email AND disabled_at IS NULL),
    made AS (INSERT INTO console_link (token_hash, user_id, ends_at)
        SELECT :token_hash, id, now() + make_interval(secs => :link_s::float8) FROM found RETURNING user_id),
    noted AS (INSERT INTO console_event (id, at, kind, user_id) SELECT :event_id, now(), 'link_made', user_id FROM made)
    SELECT user_id FROM made""",
    writes="link_make",
)
_TRY = Statement(
    f"""WITH last AS (SELECT coalesce(max(at), '-infinity') AS at FROM console_event
        WHERE subject = :subject AND kind = 'login_succeeded' AND {_RECENT}),
    tried AS (SELECT
        (SELECT count(*) FROM console_event e, last WHERE subject = :subject AND kind = 'login_tried' AND e.{_RECENT} AND e.at > last.at)
        AS of_subject,
        (SELECT count(*) FROM console_event WHERE address = :address AND kind = 'login_tried' AND {_RECENT}) AS of_address),
    noted AS (INSERT INTO console_event (id, at, kind, user_id, subject, address)
        SELECT :event_id, clock_timestamp(), 'login_tried', (SELECT id FROM console_user WHERE email = :email), :subject, :address FROM tried
        WHERE of_subject < :tries_max::int AND of_address < :tries_from_max::int RETURNING user_id)
    SELECT (SELECT count(*) FROM noted) = 1 AS allowed, {_USER}
    FROM tried LEFT JOIN console_user ON email = :email""",
    writes="login_try",
)
_BEGIN = """begun AS (INSERT INTO console_session (token_hash, user_id, created_at, seen_at, ends_at)
        SELECT :token_hash, id, now(), now(), now() + make_interval(secs => :ends_s::float8) FROM who RETURNING user_id),
    swept AS (DELETE FROM console_session WHERE ends_at < now() OR (token_hash = :before_hash AND EXISTS (SELECT FROM begun))),
    unlinked AS (DELETE FROM console_link WHERE ends_at < now()),
    noted AS (INSERT INTO console_event (id, at, kind, user_id, subject, address)
        SELECT :event_id, clock_timestamp(), :kind, user_id, :subject::bytea, :address FROM begun)
    SELECT user_id FROM begun"""
_LOGIN = Statement(
    f"""WITH who AS (UPDATE console_user SET password_hash = coalesce(:rehashed::text, password_hash)
        WHERE id = :id AND disabled_at IS NULL AND password_hash = :password_hash RETURNING id), {_BEGIN}""",
    writes="session_begin",
)
_CHANGE_PASSWORD = Statement(
    f"""WITH who AS (UPDATE console_user SET password_hash = :changed::text, password_at = now()
        WHERE id = :id AND disabled_at IS NULL AND password_hash = :password_hash RETURNING id),
    ended AS (DELETE FROM console_session USING who WHERE user_id = who.id),
    dropped AS (DELETE FROM console_link USING who WHERE user_id = who.id), {_BEGIN}""",
    writes="user_password_change",
)
"""Once, for the password that was compared: of two changes at the same time the second has the wrong password."""
_USE_LINK = Statement(
    f"""WITH used AS (DELETE FROM console_link WHERE token_hash = :link_hash RETURNING user_id, ends_at),
    who AS (SELECT u.id FROM used JOIN console_user u ON u.id = used.user_id
        WHERE used.ends_at > now() AND u.disabled_at IS NULL), {_BEGIN}""",
    writes="session_begin_by_link",
)
_SESSION = Statement(
    """SELECT u.id, u.email, u.merchant_id, s.seen_at < now() - make_interval(secs => :seen_every_s::float8) AS stale
    FROM console_session s JOIN console_user u ON u.id = s.user_id
    WHERE s.token_hash = :token_hash AND s.ends_at > now() AND s.seen_at > now() - make_interval(secs => :idle_s::float8)
    AND u.disabled_at IS NULL"""
)
_SEEN = Statement("UPDATE console_session SET seen_at = now() WHERE token_hash = :token_hash", writes="session_seen")
_LOGOUT = Statement(
    """WITH ended AS (DELETE FROM console_session WHERE token_hash = :token_hash RETURNING user_id)
    INSERT INTO console_event (id, at, kind, user_id, address) SELECT :event_id, now(), 'logout', user_id, :address FROM ended""",
    writes="session_end",
)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is signed in. ``csrf`` is what their forms bear: it follows from the session's token, and the token not from it."""

    user_id: str
    email: str
    merchant_id: str
    csrf: str = field(repr=False)


class TooManyTries(Exception):
    """No more passwords are tried for this email, or from this address, for a while."""


class Users:
    """The console's users and their sessions, in the database behind ``pool``. ``subject_key`` keys the hashes of typed emails."""

    def __init__(self, pool: Pool, subject_key: bytes) -> None:
        self._pool = pool
        self._subject_key = subject_key
        self._passwords = Passwords()

    async def create(self, email: str, merchant_id: str, password: str | None) -> None:
        """Make a user who may look at one merchant. Raises :class:`ConfigError` where that cannot be, or one is there already."""
        email = checked_email(email)
        if password is not None:
            checked_password(password)
        values = {
            "id": new_id(CONSOLE_USER),
            "email": email,
            "merchant_id": merchant_id,
            "password_hash": None if password is None else await self._passwords.hashed(password),
            "event_id": new_id(CONSOLE_EVENT),
        }
        if await _CREATE.row(self._pool, values) is not None:
            return
        if any(user["email"] == email for user in await self.all()):
            raise ConfigError(f"there is a user {email} already; a new password: gateway users reset {email}")
        raise ConfigError(f"there is no merchant {merchant_id}; make it with: gateway merchants create {merchant_id}")

    async def set_password(self, email: str, password: str) -> None:
        """Give a user another password, and let them in again if they were disabled. Whoever is signed in as them is signed out.

        Raises :class:`ConfigError` for a user who is not there, and a password that is too short.
        """
        checked_password(password)
        values = {
            "email": email.lower(),
            "password_hash": await self._passwords.hashed(password),
            "event_id": new_id(CONSOLE_EVENT),
        }
        if await _SET_PASSWORD.row(self._pool, values) is None:
            raise no_such(email)

    async def disable(self, email: str) -> None:
        """Let a user in no more, and sign them out everywhere. Again changes nothing. Raises :class:`ConfigError` for nobody."""
        if await _DISABLE.row(self._pool, {"email": email.lower(), "event_id": new_id(CONSOLE_EVENT)}) is None:
            raise no_such(email)

    async def all(self) -> list[Mapping[str, Any]]:
        """Every user, by email; ``seen_at`` is when they last looked, while a session of theirs is open."""
        return await _LIST.rows(self._pool, {})

    async def link(self, email: str) -> str:
        """The token of a link that signs a user in once within 15 minutes. Raises :class:`ConfigError` for nobody."""
        token = token_urlsafe(32)
        values = {
            "email": email.lower(),
            "token_hash": digest(token),
            "link_s": LINK_S,
            "event_id": new_id(CONSOLE_EVENT),
        }
        if await _LINK.row(self._pool, values) is None:
            raise no_such(email)
        return token

    async def login(self, email: str, password: str, *, address: str, before: str | None) -> str | None:
        """The token of a new session, or ``None`` alike for a wrong password and for nobody; it takes the same time.

        ``before`` is the token that the browser came with: it ends. Raises :class:`TooManyTries`, and :class:`Busy <gateway.console.passwords.Busy>`.
        """
        subject, tried = await self._tried(email, address)
        matched = await self._passwords.match(tried["password_hash"], password)
        if not matched or tried["disabled_at"] is not None:
            return None
        rehashed = await self._passwords.hashed(password) if is_weak(tried["password_hash"]) else None
        values = {
            "id": tried["id"],
            "password_hash": tried["password_hash"],
            "rehashed": rehashed,
            "kind": "login_succeeded",
        }
        return await self._begin(_LOGIN, values | {"subject": subject}, address, before)

    async def change_password(
        self, visitor: Visitor, password: str, changed: str, *, address: str, before: str
    ) -> str | None:
        """Give ``visitor`` the password ``changed``, and the token of a new session: every other one ends, with every link.

        ``None`` where ``password`` is not theirs; the try counts as one at the door. Raises :class:`ConfigError` for a new password that
        is too short, too long or the old one, :class:`TooManyTries`, and :class:`Busy <gateway.console.passwords.Busy>`.
        """
        checked_password(changed)
        if changed == password:
            raise ConfigError("the new password is the old one")
        _, tried = await self._tried(visitor.email, address)
        if not await self._passwords.match(tried["password_hash"], password):
            return None
        values = {
            "id": visitor.user_id,
            "password_hash": tried["password_hash"],
            "changed": await self._passwords.hashed(changed),
            "kind": "password_set",
            "subject": None,
        }
        return await self._begin(_CHANGE_PASSWORD, values, address, before)

    async def _tried(self, email: str, address: str) -> tuple[bytes, Row]:
        """Count a try before its password is looked at: whose it is, and the user, all ``None`` where there is none."""
        email = email.strip().lower()[:320]
        subject = hmac.digest(self._subject_key, email.encode(), "sha256")
        tried = await _TRY.row(
            self._pool,
            {
                "subject": subject,
                "address": address,
                "email": email,
                "tries_s": TRIES_S,
                "tries_max": TRIES_MAX,
                "tries_from_max": TRIES_FROM_MAX,
                "event_id": new_id(CONSOLE_EVENT),
            },
        )
        if tried is None or not tried["allowed"]:
            raise TooManyTries
        return subject, tried

    async def use_link(self, token: str, *, address: str, before: str | None) -> str | None:
        """The token of a new session, or ``None`` for a link that was used, has run out or never was."""
        values = {"link_hash": digest(token), "kind": "link_used", "subject": None}
        return await self._begin(_USE_LINK, values, address, before)

    async def _begin(
        self, statement: Statement, values: Mapping[str, Any], address: str, before: str | None
    ) -> str | None:
        """Always a new token: one that somebody has planted in a browser never becomes a session."""
        token = token_urlsafe(32)
        shared = {
            "token_hash": digest(token),
            "before_hash": digest(before or ""),
            "ends_s": ENDS_S,
            "event_id": new_id(CONSOLE_EVENT),
            "address": address,
        }
        return None if await statement.row(self._pool, {**values, **shared}) is None else token

    async def visitor(self, token: str, *, looks: bool = True) -> Visitor | None:
        """Who is signed in with a token, or ``None``. A page that refreshes itself is not a look (``looks``): it keeps nobody signed in."""
        values = {"token_hash": digest(token), "seen_every_s": SEEN_EVERY_S, "idle_s": IDLE_S}
        row = await _SESSION.row(self._pool, values)
        if row is None:
            return None
        if row["stale"] and looks:
            await _SEEN.row(self._pool, {"token_hash": digest(token)})
        return Visitor(row["id"], row["email"], row["merchant_id"], csrf_of(token))

    async def logout(self, token: str, *, address: str) -> None:
        """End a session. Again changes nothing."""
        await _LOGOUT.row(
            self._pool, {"token_hash": digest(token), "event_id": new_id(CONSOLE_EVENT), "address": address}
        )


def digest(token: str) -> bytes:
    """What is stored of a token. It has 256 random bits, so a plain hash tells nothing of it."""
    return sha256(token.encode()).digest()


def csrf_of(token: str) -> str:
    """What the forms of a session bear."""
    return blake2b(token.encode(), digest_size=16, person=b"console csrf").hexdigest()


def checked_email(text: str) -> str:
    """The email in small letters. Raises :class:`ConfigError` for what is none."""
    email = text.strip().lower()
    if EMAIL.fullmatch(email) is None:
        raise ConfigError("the email is none: it has one @, and no spaces, quotes or brackets")
    return email


def checked_password(password: str) -> None:
    """Raises :class:`ConfigError` for one that is too short to be safe, or too long to be one."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise ConfigError(f"a password has {SHORTEST} to {LONGEST} characters; a few words are a good one")


def no_such(email: str) -> ConfigError:
    """That a user is not there, with the way to see who is."""
    return ConfigError(f"there is no user {email.lower()} who may sign in; see: gateway users list")
