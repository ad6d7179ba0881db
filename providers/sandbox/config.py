"""What a sandbox is told when it starts; everything has a default that suits a laptop."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """Ports, credentials and webhook targets of the simulators.

    A port of 0 lets the system choose; ``serve`` reports the choice. A webhook URL of None means
    that PSP sends no webhooks. The Adyen HMAC key is hexadecimal, as Adyen issues it.
    """

    stripe_port: int = 8081
    adyen_port: int = 8082
    neutral_port: int | None = None
    """None leaves the third simulator out: it plays no real PSP."""

    stripe_api_key: str = "sk_test_sandbox"
    stripe_webhook_url: str | None = None
    stripe_webhook_secret: str = "whsec_sandbox"  # noqa: S105 - a sandbox has no secrets

    stripe_multicapture: bool = True
    """On, for those who ask for it; Stripe switches it on for an account on request."""
    stripe_incremental_authorization: bool = True
    """The same."""

    adyen_api_key: str = "adyen_test_sandbox"
    adyen_merchant_account: str = "SandboxECOM"
    adyen_webhook_url: str | None = None
    adyen_hmac_key: str = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
    adyen_multiple_partial_captures: bool = False
    """Off, as at Adyen: the first partial capture cancels the rest of the authorisation."""

    neutral_token: str = "neutral_test_sandbox"  # noqa: S105 - a sandbox has no secrets
    neutral_webhook_url: str | None = None
    neutral_webhook_secret: str = "neutral_sandbox"  # noqa: S105 - the same

    webhook_delay_s: float = 0.2
    webhook_attempts_max: int = 10
    """With the doubling pause of ``webhook_pause_s`` the last try comes after four minutes. Real providers go on for days."""
    webhook_pause_s: float = 0.5

    refund_settles_after_s: float = 1.0
    """How long Stripe's test refunds that settle later take, and its test disputes to be opened and decided."""

    wire_log_max: int = 200_000
    keys_max: int = 100_000
    """Idempotency keys remembered per PSP; the oldest is forgotten first."""
