"""What an account says of a token that it has handed out, and what of it is news for a stored method. Pure.

A token that was told dead never comes back by itself: what is told late was true before.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from gateway.queries import StoredMethod
from gateway.rows import card_json
from providers.contract import TokenNews

_CHANGES: Final = ("brand", "last4", "exp_month", "exp_year", "funding", "country")
"""What a bank that replaces a card may change of it."""


def token_told(method: StoredMethod, account: str, news: TokenNews, at: datetime) -> StoredMethod | None:
    """The method after ``news`` of its token of ``account``; ``None`` where that says nothing new.

    Of a method that is more than a token (a card is sealed in it) the card is what its holder brought: that changes nothing of it.
    """
    known, dead = method.tokens.get(account), set(method.dead_tokens or ())
    if not news.alive:
        tokens = {name: token for name, token in method.tokens.items() if name != account or token not in news.names}
        after = replace(method, tokens=tokens, dead_tokens=sorted(dead | {known} if known in news.names else dead))
    elif dead & set(news.names):
        return None
    else:
        token = known if known in news.names else news.names[0]
        after = replace(method, tokens={**method.tokens, account: token}, card=_card(method, news))
    if (after.tokens, after.card) == (method.tokens, method.card):
        return None
    return replace(after, updated_at=at)


def _card(method: StoredMethod, news: TokenNews) -> Any:
    if news.card is None or method.sealed_card is not None:
        return method.card
    told = {name: value for name, value in (card_json(news.card) or {}).items() if value is not None}
    known = dict(method.card or card_json(news.card) or {})
    if told.get("last4") not in {None, known.get("last4")}:
        known |= {"bin": None}  # another number: how it began is not known any more
    return {**known, **{name: told[name] for name in _CHANGES if name in told}}
