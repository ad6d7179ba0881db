"""Settings: everything that cannot be used is refused before anything starts, by name and with the fix."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.policies import WORKER_GRACE_S, Standing
from gateway.settings import Settings, load_account_configs, load_settings
from gateway.watch import COUNTED_MAX
from idempotency.once import GatePolicy
from providers.registry import ConfigError

KEY: Final = base64.b64encode(b"k" * 32).decode()
ENOUGH: Final = {
    "GATEWAY_DATABASE_URL": "postgresql://app:hunter2@db/interlock",
    "GATEWAY_REDIS_URL": "redis://:hunter2@cache:6379/0",
    "GATEWAY_SECRET_KEY": KEY,
}
SECRETS: Final = {
    "STRIPE_API_KEY": "sk_test_4eC39HqLyjWDarjtT1zdp7dc",
    "STRIPE_LIVE_KEY": "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "STRIPE_WEBHOOK_SECRET": "whsec_new,whsec_old",
    "ADYEN_API_KEY": "AQEyhmfxKY",
    "ADYEN_HMAC_KEY": "44782DEF",
}
STRIPE: Final = """
[accounts.stripe_eu]
merchant = "mer_acme"
provider = "stripe"
api_key_env = "STRIPE_API_KEY"
webhook_secret_env = "STRIPE_WEBHOOK_SECRET"
currencies = ["EUR", "USD"]
"""
ADYEN: Final = """
[accounts.adyen_eu]
merchant = "mer_acme"
provider = "adyen"
api_key_env = "ADYEN_API_KEY"
merchant_account = "AcmeECOM"
hmac_key_env = "ADYEN_HMAC_KEY"
environment = "test"
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which everything that has to be set is set."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GATEWAY_{name.upper()}", raising=False)
    for name, value in ENOUGH.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def settings(config: Path | None = None, *, dev: bool = False, **changes: str) -> Settings:
    told = {name.removeprefix("GATEWAY_").lower(): value for name, value in ENOUGH.items()}
    return Settings.model_validate(told | {"config": config, "dev": dev} | changes)


def accounts(tmp_path: Path, toml: str, environ: Mapping[str, str] = SECRETS, **changes: Any) -> Any:
    path = tmp_path / "accounts.toml"
    path.write_text(toml, encoding="utf-8")
    return load_account_configs(settings(path, **changes), environ)


def refusal(tmp_path: Path, toml: str, environ: Mapping[str, str] = SECRETS, **changes: Any) -> str:
    """Why these accounts are refused: one sentence, without any secret in it."""
    with pytest.raises(ConfigError) as refused:
        accounts(tmp_path, toml, environ, **changes)
    reason = str(refused.value)
    assert not [secret for secret in environ.values() if secret in reason]
    return reason


# --- The environment --------------------------------------------------------------------------------------------------


def test_three_variables_are_enough_and_the_rest_has_careful_defaults(environment: pytest.MonkeyPatch) -> None:
    loaded = load_settings()

    assert loaded.secret_key.get_secret_value() == b"k" * 32
    assert (loaded.vault_key, loaded.config, loaded.dev) == (None, None, False)
    assert loaded.on_redis_loss is GatePolicy.FAIL_OPEN


def test_every_missing_variable_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    for name in ENOUGH:
        environment.delenv(name)

    with pytest.raises(ConfigError) as refused:
        load_settings()

    assert str(refused.value).splitlines() == [f"{name}: is not set" for name in ENOUGH]


@pytest.mark.parametrize("name", ["GATEWAY_SECRET_KEY", "GATEWAY_VAULT_KEY"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("not base64!", "must be base64"),
        (KEY[:-4], "must be 32 bytes"),
        (base64.b64encode(b"k" * 33).decode(), "must be 32 bytes"),
        ("", "must be 32 bytes"),
    ],
)
def test_a_key_that_is_no_key_is_refused_with_how_to_make_one_and_is_not_shown(
    environment: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    environment.setenv(name, value)

    with pytest.raises(ConfigError, match=f"{name}: {reason}.*openssl rand -base64 32") as refused:
        load_settings()

    assert not value or value not in str(refused.value)


def test_several_vault_keys_are_read_in_their_order_and_one_secret_key(environment: pytest.MonkeyPatch) -> None:
    other = base64.b64encode(b"o" * 32).decode()
    environment.setenv("GATEWAY_VAULT_KEY", f"{KEY}, {other}")

    assert load_settings().vault_keys == (b"k" * 32, b"o" * 32)
    environment.setenv("GATEWAY_SECRET_KEY", f"{KEY},{other}")
    with pytest.raises(ConfigError, match="GATEWAY_SECRET_KEY: must be"):
        load_settings()


@pytest.mark.parametrize("value", [f"{KEY},", f"{KEY},short", f",{KEY}"])
def test_one_key_of_several_that_is_no_key_is_refused(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("GATEWAY_VAULT_KEY", value)

    with pytest.raises(ConfigError, match=r"GATEWAY_VAULT_KEY: must be .*openssl rand -base64 32") as refused:
        load_settings()

    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"), [("GATEWAY_ON_REDIS_LOSS", "panic"), ("GATEWAY_DEV", "perhaps"), ("GATEWAY_ON_REDIS_LOSS", "")]
)
def test_a_setting_outside_its_words_is_refused_by_name(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)

    with pytest.raises(ConfigError, match=f"^{name}: "):
        load_settings()


def test_settings_do_not_show_their_secrets(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GATEWAY_VAULT_KEY", KEY)

    shown = repr(load_settings()) + str(load_settings())

    assert not [secret for secret in ("hunter2", KEY, repr(b"k" * 32)) if secret in shown]


def test_settings_do_not_change_after_they_were_read(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().dev = True  # type: ignore[misc]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained(name: str) -> None:
    assert (Settings.model_fields[name].description or "").endswith(".")


# --- The accounts file ------------------------------------------------------------------------------------------------


def test_the_accounts_of_the_contract_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    stripe, adyen = accounts(tmp_path, STRIPE + ADYEN)

    assert (stripe.name, stripe.provider, stripe.livemode) == ("stripe_eu", "stripe", False)
    assert (adyen.name, adyen.merchant_account, adyen.environment) == ("adyen_eu", "AcmeECOM", "test")
    assert stripe.api_key.get_secret_value() == SECRETS["STRIPE_API_KEY"]


def test_two_webhook_secrets_are_valid_while_they_are_rotated(tmp_path: Path) -> None:
    (stripe,) = accounts(tmp_path, STRIPE)

    assert [secret.get_secret_value() for secret in stripe.webhook_secrets] == ["whsec_new", "whsec_old"]


def test_without_an_accounts_file_there_are_no_accounts() -> None:
    assert load_account_configs(settings()) == []


def test_an_account_does_not_show_its_secrets(tmp_path: Path) -> None:
    shown = repr(accounts(tmp_path, STRIPE + ADYEN))

    assert not [secret for secret in (*SECRETS.values(), "whsec_new") if secret in shown]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"GATEWAY_CONFIG: there is no file .*nowhere\.toml"):
        load_account_configs(settings(tmp_path / "nowhere.toml"))


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    assert "is not TOML" in refusal(tmp_path, "[accounts")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["a folder", "not UTF-8"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "accounts.toml"
    path.mkdir() if content is None else path.write_bytes(content)

    with pytest.raises(ConfigError, match="GATEWAY_CONFIG"):
        load_account_configs(settings(path))


def test_an_unknown_section_is_named_with_where_accounts_stand(tmp_path: Path) -> None:
    reason = refusal(tmp_path, "[acounts.stripe_eu]\n")

    assert "unknown section acounts" in reason
    assert "[accounts.NAME]" in reason


@pytest.mark.parametrize("toml", ["accounts = 1\n", '[accounts]\nstripe_eu = "sk_test"\n'])
def test_an_account_that_is_no_table_is_refused(tmp_path: Path, toml: str) -> None:
    assert "[accounts.NAME]" in refusal(tmp_path, toml)


def test_an_unknown_field_is_named_with_the_known_ones(tmp_path: Path) -> None:
    reason = refusal(tmp_path, STRIPE + 'api_key = "sk_test_4eC39HqLyjWDarjtT1zdp7dc"\n')

    assert "account stripe_eu: unknown field api_key;" in reason
    assert "api_key_env" in reason


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    reason = refusal(tmp_path, STRIPE, {})

    assert reason == "account stripe_eu: the variable in api_key_env (STRIPE_API_KEY) is not set"


def test_an_account_without_the_name_of_its_key_is_refused(tmp_path: Path) -> None:
    toml = STRIPE.replace('api_key_env = "STRIPE_API_KEY"\n', "")

    assert "account stripe_eu: the variable in api_key_env" in refusal(tmp_path, toml)


def test_a_key_in_the_place_of_its_variables_name_is_not_repeated(tmp_path: Path) -> None:
    reason = refusal(tmp_path, STRIPE.replace("STRIPE_API_KEY", "sk_test_4eC39HqLyjWDarjtT1zdp7dc"))

    assert reason == "account stripe_eu: the variable in api_key_env is not set"


@pytest.mark.parametrize("field", ["merchant", "provider"])
def test_an_account_without_a_field_it_needs_is_refused_by_the_field(tmp_path: Path, field: str) -> None:
    toml = "\n".join(line for line in STRIPE.splitlines() if not line.startswith(f"{field} ="))

    assert refusal(tmp_path, toml) == f"account stripe_eu: {field}: Field required"


def test_an_environment_that_is_neither_test_nor_live_is_refused(tmp_path: Path) -> None:
    assert "account adyen_eu: environment" in refusal(tmp_path, ADYEN.replace('"test"', '"staging"'))


# --- Real money -------------------------------------------------------------------------------------------------------

LIVE_STRIPE: Final = STRIPE.replace("STRIPE_API_KEY", "STRIPE_LIVE_KEY")
LIVE_ADYEN: Final = ADYEN.replace('"test"', '"live"') + 'live_prefix = "1797a841fbb37ca7-Acme"\n'


def test_a_live_key_makes_a_live_account(tmp_path: Path) -> None:
    (stripe,) = accounts(tmp_path, LIVE_STRIPE, public_url="https://pay.acme.test")

    assert stripe.livemode


def test_a_live_account_needs_an_address_that_shoppers_reach(tmp_path: Path) -> None:
    assert "needs GATEWAY_PUBLIC_URL" in refusal(tmp_path, LIVE_STRIPE)


@pytest.mark.parametrize("toml", [LIVE_STRIPE, LIVE_ADYEN], ids=["stripe", "adyen"])
def test_live_credentials_are_refused_in_development(tmp_path: Path, toml: str) -> None:
    assert "live credentials are refused in `gateway dev`" in refusal(tmp_path, toml, dev=True)


@pytest.mark.parametrize("toml", [LIVE_STRIPE, LIVE_ADYEN], ids=["stripe", "adyen"])
def test_live_credentials_are_refused_where_a_merchants_webhook_may_reach_this_machine(
    tmp_path: Path, toml: str
) -> None:
    assert "GATEWAY_WEBHOOKS_ALLOW_LOOPBACK is for development" in refusal(tmp_path, toml, webhooks_allow_loopback=True)


@pytest.mark.parametrize("toml", [LIVE_STRIPE, LIVE_ADYEN], ids=["stripe", "adyen"])
@pytest.mark.parametrize("secret", ["", ",", None])
def test_a_live_account_without_its_webhook_secret_is_refused(tmp_path: Path, toml: str, secret: str | None) -> None:
    kept = {name: value for name, value in SECRETS.items() if name.endswith("_KEY") and "HMAC" not in name}
    if secret is not None:
        kept |= {"STRIPE_WEBHOOK_SECRET": secret, "ADYEN_HMAC_KEY": secret}
    path = tmp_path / "accounts.toml"
    path.write_text(toml)

    with pytest.raises(ConfigError, match="a live account needs its webhook secret"):
        load_account_configs(settings(path), kept)


def test_a_test_account_may_wait_for_its_webhook_secret(tmp_path: Path) -> None:
    (stripe,) = accounts(tmp_path, STRIPE, {"STRIPE_API_KEY": "sk_test_1"})

    assert stripe.webhook_secrets == ()


@pytest.mark.parametrize("key", ["sk_test_1", "rk_test_1"])
def test_a_test_key_in_a_live_account_is_refused(tmp_path: Path, key: str) -> None:
    reason = refusal(tmp_path, STRIPE + 'environment = "live"\n', SECRETS | {"STRIPE_API_KEY": key})

    assert "its API key and its environment (live) do not match" in reason


@pytest.mark.parametrize("key", ["sk_live_1", "rk_live_1"])
def test_a_live_key_in_a_test_account_is_refused(tmp_path: Path, key: str) -> None:
    reason = refusal(tmp_path, STRIPE + 'environment = "test"\n', SECRETS | {"STRIPE_API_KEY": key})

    assert "its API key and its environment (test) do not match" in reason


def test_no_backlog_may_be_set_that_is_not_counted(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GATEWAY_WORKER_BACKLOG_MAX", str(COUNTED_MAX))
    with pytest.raises(ConfigError, match="GATEWAY_WORKER_BACKLOG_MAX"):
        load_settings()

    environment.setenv("GATEWAY_WORKER_BACKLOG_MAX", str(COUNTED_MAX - 1))
    lost = Standing(worker_silent_s=math.inf, overdue=COUNTED_MAX, overdue_s=WORKER_GRACE_S)
    assert lost.stalled(load_settings().worker_backlog_max)
