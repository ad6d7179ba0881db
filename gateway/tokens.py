"""What an account says of a token that it has handed out, and what of it is news for a stored method. Pure.

It is told in any order and more than once. A token that was told dead never comes back: what is told late was true before. Of what is
told of a card the newest telling by the provider's own clock wins, and of two that bear the same time the one that sorts last. A token
that was handed out is taken where the account has none yet. So whatever order the tellings of one token come in, the same method is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from gateway.queries import StoredMethod
from gateway.rows import card_json
from providers.contract import CardFacts, TokenNews

_CHANGES: Final = ("brand", "last4", "exp_month", "exp_year", "funding", "country")
"""What a bank that replaces a card may change of it."""


def token_told(method: StoredMethod, account: str, news: TokenNews, at: datetime, now: datetime) -> StoredMethod | None:
    """The method after ``news`` of a token of ``account`` that the provider dates ``at``; ``None`` where that says nothing new.

    Of a method that is more than a token (a card is sealed in it) the card is what its holder brought: that changes nothing of it.
    There may be nothing to show afterwards, and what is older must not win later all the same: :func:`shows_more`.
    """
    known, dead, names = method.tokens.get(account), set(method.dead_tokens or ()), set(news.names)
    after = method
    if not news.alive:
        kept = {name: token for name, token in method.tokens.items() if name != account or token not in names}
        after = replace(method, tokens=kept, dead_tokens=sorted(dead | names))
    elif known is None and not dead & names:
        after = replace(method, tokens={**method.tokens, account: news.names[0]})
    elif known not in names and not dead & names:
        return None  # of another token than the method's
    if news.card is not None and method.sealed_card is None:
        after = _with_card(after, news.card, at)
    if after == method:
        return None
    return replace(after, updated_at=now) if shows_more(method, after) else after


def shows_more(before: StoredMethod, after: StoredMethod) -> bool:
    """Whether a merchant would see a difference."""
    return (before.tokens, before.card) != (after.tokens, after.card)


def _with_card(method: StoredMethod, facts: CardFacts, at: datetime) -> StoredMethod:
    told = {name: value for name, value in (card_json(facts) or {}).items() if value is not None}
    known: dict[str, Any] = dict(method.card or card_json(facts) or {})
    if told.get("last4") not in {None, known.get("last4")}:
        known |= {"bin": None}  # another number: how it began is not known any more
    card = known | {name: told[name] for name in _CHANGES if name in told}
    before = method.card_told_at
    if before is not None and (at, _sorts(card)) <= (before, _sorts(method.card or {})):
        return method
    return replace(method, card=card, card_told_at=at)


def _sorts(card: Mapping[str, Any]) -> list[str]:
    return [str(card.get(name)) for name in ("exp_year", *_CHANGES)]
