"""Settings: read once at start, refused with the reason where they cannot be used.

Everything comes from the environment (``GATEWAY_…``) but the accounts, which come from the TOML file that ``GATEWAY_CONFIG`` names;
their secrets are named there (``api_key_env``) and read from the environment.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field, SecretBytes, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.policies import POLICIES, Stance, field_of, refusals
from idempotency.once import GatePolicy
from providers.registry import AccountConfig, ConfigError
from routing.plan import OnUnknown
from routing.retries import DEFAULTS, Limits

VERSIONS: Final = ("2026-11-01",)
"""Dated API versions, newest first. A key is pinned to the newest of its day."""

_LIVE_KEY: Final = ("sk_live_", "rk_live_")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_ACCOUNT_FIELDS: Final = frozenset(
    {
        "merchant",
        "provider",
        "api_key_env",
        "webhook_secret_env",
        "hmac_key_env",
        "webhook_basic_auth_env",
        "base_url",
        "currencies",
        "merchant_account",
        "environment",
        "live_prefix",
        "enabled",
    }
)


def _decode_key(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        key = base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("must be base64 (make one with: openssl rand -base64 32)") from None
    if len(key) != 32:
        raise ValueError("must be 32 bytes in base64 (make one with: openssl rand -base64 32)")
    return key


def _decode_keys(value: object) -> object:
    return tuple(_decode_key(each.strip()) for each in value.split(",")) if isinstance(value, str) else value


Key = Annotated[SecretBytes, BeforeValidator(_decode_key)]
Keys = Annotated[tuple[SecretBytes, ...], NoDecode, BeforeValidator(_decode_keys)]


class DatabaseSettings(BaseSettings):
    """What has to be set for whatever looks at the database alone."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, extra="ignore")

    database_url: SecretStr = Field(
        description="PostgreSQL 15 or newer, as the application role: postgresql://user:password@host/database."
    )


class Settings(DatabaseSettings):
    """Everything that can be set. Each field's text is its documentation."""

    migrate_database_url: SecretStr | None = Field(
        default=None, description="The same database as the owner role, for `gateway migrate` only."
    )
    redis_url: SecretStr = Field(description="A Redis-protocol server: redis://host:6379/0 or unix:///path.")
    config: Path | None = Field(default=None, description="The TOML file with the accounts.")
    secret_key: Key = Field(
        description="32 random bytes in base64, from which every subkey is derived. Losing it loses the sealed records."
    )
    vault_key: Keys | None = Field(
        default=None,
        description="32 random bytes in base64. With it card numbers are accepted and sealed at rest; without it they are refused. "
        "Several, separated by commas, while it is rotated: the first seals, all open.",
    )
    on_redis_loss: GatePolicy = Field(
        default=GatePolicy.FAIL_OPEN,
        description="fail_open: go on with Postgres alone, slower and just as safe. fail_closed: answer 503.",
    )
    on_provider_not_reached: Literal[Stance.FAIL_OPEN, Stance.FAIL_CLOSED] = Field(
        default=Stance.FAIL_OPEN,
        description="fail_open: where an account certainly did nothing, ask the next one. fail_closed: ask nobody else, answer 503.",
    )
    on_unknown: OnUnknown = Field(
        default=OnUnknown.HOLD,
        description="An attempt whose outcome is not known. hold: ask nobody else until it is settled. void_then_failover: void it "
        "at its account, and ask another one once that void is confirmed.",
    )
    on_worker_loss: Literal[Stance.DEGRADE, Stance.FAIL_OPEN] = Field(
        default=Stance.DEGRADE,
        description="degrade: refuse new charges with 503 once the worker is lost, something has waited for 10 minutes and more than "
        "GATEWAY_WORKER_BACKLOG_MAX wait. fail_open: go on.",
    )
    worker_backlog_max: int = Field(
        default=100,
        ge=0,
        le=9_999,  # no more are counted
        description="Operations that may wait for a lost worker before new charges are refused (GATEWAY_ON_WORKER_LOSS).",
    )
    on_clock_skew: Literal[Stance.FAIL_CLOSED, Stance.FAIL_OPEN] = Field(
        default=Stance.FAIL_CLOSED,
        description="fail_closed: not ready while this clock is more than 2 s from the database's. fail_open: report it only.",
    )
    attempts_on_session: int = Field(
        default=DEFAULTS.on_session,
        ge=1,
        le=5,
        description="Accounts that may process one charge while the shopper waits: 2 is one cascade. More of them make the shopper wait "
        "and the networks charge; an account that certainly did nothing does not use it up, but three accounts, or as many as this, are called at all.",
    )
    attempts_off_session: int = Field(
        default=DEFAULTS.off_session,
        ge=1,
        le=15,
        description="Declined attempts without the shopper that a card may have in 14 days, over all accounts and payments. Networks charge for more "
        "than 15; the chance of an approval falls with each.",
    )
    off_session_gap_s: int = Field(
        default=DEFAULTS.off_session_gap_s,
        ge=0,
        le=14 * 24 * 3600,
        description="Seconds between two attempts of a card without the shopper, after a decline. Above 0 such a decline is not taken to another account at "
        "once: a day later the card may have money again. 0 lets it cascade as in a session.",
    )
    card_limit_visa: int = Field(
        default=DEFAULTS.visa,
        ge=1,
        le=20,
        description="Declines of one Visa card and amount in 30 days, over all accounts, after which it is not sent any more. Visa charges for each reattempt beyond "
        "20 since May 2025, and did beyond 15 before: the stricter figure holds wherever an acquirer has not moved.",
    )
    card_never_s: int = Field(
        default=DEFAULTS.never_s,
        ge=0,
        le=30 * 24 * 3600,
        description="Seconds that a card rests at a merchant once its network or issuer has said that it will never be approved: networks charge for every "
        "further try within 30 days.",
    )
    card_limits_in_test_mode: bool = Field(
        default=DEFAULTS.in_test_mode,
        description="Whether the limits of cards hold in test mode, too. There everybody shares the same few test cards, so they do not; switch it on to see them work.",
    )
    public_url: str = Field(
        default="http://127.0.0.1:8080",
        description="Where shoppers' browsers reach this gateway: they come back from a challenge to /v1/return/… there.",
    )
    webhooks_allow_loopback: bool = Field(
        default=False,
        description="Let merchants be told on this machine, by http and on any port: for development, and on in `gateway dev`. "
        "Refused together with live accounts.",
    )
    console: bool = Field(
        default=True,
        description="Serve the web console at /console, behind a login. Users are made by `gateway users create`.",
    )
    routing_second_person: bool = Field(
        default=False,
        description="Let what one API key publishes of routing wait until another key of the merchant approves it, for a day at most. "
        "A rollback never waits.",
    )
    monitors_every_s: int = Field(
        default=30,
        description="Seconds between two looks of the worker at the monitors: 10, 15, 20 or 30. Each minute is judged once.",
    )
    worker_metrics_port: int = Field(
        default=9464,
        ge=0,
        le=65_535,
        description="Where `gateway worker` serves its `/metrics` and `/healthz`, by plain HTTP; 0: nowhere. Several workers on one machine each need one of their own.",
    )
    worker_metrics_host: str = Field(
        default="127.0.0.1",
        description="The address it listens on there. It asks for no key: anything but this machine's own should be one that only Prometheus reaches.",
    )
    dev: bool = Field(
        default=False,
        description="Set by `gateway dev`: accepts the fixed development keys. Refused together with live accounts.",
    )
    crash_at: str | None = Field(
        default=None,
        description="For tests of recovery: the crash point (crash-points.md) at which this process kills itself, and at which "
        "passage: `charge.open.after:1`. Refused without GATEWAY_DEV=1 and together with live accounts.",
    )

    @field_validator("monitors_every_s")
    @classmethod
    def _divides_a_minute(cls, value: int) -> int:
        if value not in {10, 15, 20, 30}:
            raise ValueError("must be 10, 15, 20 or 30")
        return value

    @property
    def vault_keys(self) -> tuple[bytes, ...]:
        """The vault's keys in their order, none where cards are refused."""
        return tuple(key.get_secret_value() for key in self.vault_key or ())

    @property
    def limits(self) -> Limits:
        """The retry policy as it is set."""
        return Limits(
            on_session=self.attempts_on_session,
            off_session=self.attempts_off_session,
            off_session_gap_s=self.off_session_gap_s,
            visa=self.card_limit_visa,
            never_s=self.card_never_s,
            in_test_mode=self.card_limits_in_test_mode,
        )

    @property
    def policies(self) -> Mapping[str, str]:
        """The policy in force of every row of ``gateway.policies``."""
        return {name: str(getattr(self, field_of(name), row.default)) for name, row in POLICIES.items()}


def load_settings() -> Settings:
    """The settings in the environment. Raises :class:`ConfigError` naming each variable that is missing or wrong."""
    return _read(Settings, refusals(os.environ))


def load_database_url() -> str:
    """Where the database is, and nothing else that a gateway needs. Raises :class:`ConfigError` where it is not set."""
    return _read(DatabaseSettings, []).database_url.get_secret_value()


_Read = TypeVar("_Read", bound=DatabaseSettings)


def _read(kind: type[_Read], wrong: list[str]) -> _Read:
    try:
        settings = kind()  # the environment fills the fields
    except ValidationError as error:
        wrong += [
            f"GATEWAY_{str(item['loc'][0]).upper()}: {_sentence(item['msg'])}"
            for item in error.errors(include_input=False)
        ]
        raise ConfigError("\n".join(wrong)) from None
    if wrong:
        raise ConfigError("\n".join(wrong))
    return settings


def _sentence(message: str) -> str:
    return "is not set" if message == "Field required" else message.removeprefix("Value error, ")


def load_account_configs(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[AccountConfig]:
    """The accounts in the configuration file, in its order, with their secrets from ``environ``.

    Raises :class:`ConfigError` naming the account and the field. Live credentials with development settings, a missing webhook
    secret or a test key are refused here, before anything is started.
    """
    if settings.config is None:
        return []
    try:
        document = tomllib.loads(settings.config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"GATEWAY_CONFIG: there is no file {settings.config}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"GATEWAY_CONFIG: {settings.config} is not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"GATEWAY_CONFIG: {settings.config} cannot be read ({type(error).__name__})") from None
    unknown = document.keys() - {"accounts"}
    if unknown:
        raise ConfigError(
            f"{settings.config}: unknown section {', '.join(sorted(unknown))}; accounts stand in [accounts.NAME]"
        )
    tables = document.get("accounts", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{settings.config}: each account stands in a table of its own, [accounts.NAME]")
    return [_account(name, table, settings, environ) for name, table in tables.items()]


def _account(name: str, table: Mapping[str, Any], settings: Settings, environ: Mapping[str, str]) -> AccountConfig:
    unknown = table.keys() - _ACCOUNT_FIELDS
    if unknown:
        raise ConfigError(
            f"account {name}: unknown field {', '.join(sorted(unknown))}; known are {', '.join(sorted(_ACCOUNT_FIELDS))}"
        )
    fields = {field: value for field, value in table.items() if not field.endswith("_env")}
    secrets = _several(environ, table.get("webhook_secret_env") or table.get("hmac_key_env"))
    api_key = environ.get(table.get("api_key_env", ""), "")
    if not api_key:
        named = str(table.get("api_key_env"))
        shown = f" ({named})" if _VARIABLE.fullmatch(named) else ""  # anything else could be the key itself
        raise ConfigError(f"account {name}: the variable in api_key_env{shown} is not set")
    if "environment" not in fields and api_key.startswith(_LIVE_KEY):
        fields["environment"] = "live"
    try:
        config = AccountConfig(
            name=name,
            api_key=SecretStr(api_key),
            webhook_secrets=tuple(map(SecretStr, secrets)),
            webhook_basic_auth=_basic_auth(name, table, environ),
            **fields,
        )
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)
        )
        raise ConfigError(f"account {name}: {wrong}") from None
    _check_mode(config, api_key, settings)
    return config


def _several(environ: Mapping[str, str], variable: str | None) -> tuple[str, ...]:
    """The values in a variable, separated by commas: several while a secret is rotated."""
    written = environ.get(variable, "") if variable else ""
    return tuple(filter(None, (each.strip() for each in written.split(","))))


def _basic_auth(name: str, table: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[SecretStr, ...]:
    """What webhooks have to bear. A variable that is named and empty is refused: without it everybody would be let in."""
    variable = table.get("webhook_basic_auth_env")
    if variable is None:
        return ()
    found = _several(environ, variable)
    if not found or not all(":" in each.strip(":") for each in found):
        shown = f" ({variable})" if _VARIABLE.fullmatch(str(variable)) else ""
        raise ConfigError(f"account {name}: the variable in webhook_basic_auth_env{shown} does not hold user:password")
    return tuple(map(SecretStr, found))


def _check_mode(config: AccountConfig, api_key: str, settings: Settings) -> None:
    """Refuse a live account that is not ready for real money, and a key of the other mode."""
    looks_live = api_key.startswith(_LIVE_KEY)
    looks_test = api_key.startswith(("sk_test_", "rk_test_"))
    if (looks_live and not config.livemode) or (looks_test and config.livemode):
        raise ConfigError(f"account {config.name}: its API key and its environment ({config.environment}) do not match")
    if config.livemode and settings.dev:
        raise ConfigError(f"account {config.name}: live credentials are refused in `gateway dev`")
    if config.livemode and settings.webhooks_allow_loopback:
        raise ConfigError(
            f"account {config.name}: GATEWAY_WEBHOOKS_ALLOW_LOOPBACK is for development; it is refused with a live account"
        )
    if config.livemode and not config.webhook_secrets:
        raise ConfigError(
            f"account {config.name}: a live account needs its webhook secret (webhook_secret_env or hmac_key_env)"
        )
    if config.livemode and not settings.public_url.startswith("https://"):
        raise ConfigError(f"account {config.name}: a live account needs GATEWAY_PUBLIC_URL, an https:// address")
