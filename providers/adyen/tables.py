"""What Adyen can do, and what its codes mean: every table that the rest of the adapter reads.

Nothing here decides; a table is checked against Adyen's pages, printed in the docs and enumerated in tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from providers.contract import Capabilities, Capability, DisputeStatus, Kind, NoticeKind
from providers.declines import Action, Decline, load, load_advice, look_up
from providers.money import Units

# --- Capabilities -------------------------------------------------------------------------------

CAPABILITIES: Final = Capabilities(
    supported=frozenset(
        {
            Capability.CARD_NUMBERS,
            Capability.MANUAL_CAPTURE,
            Capability.PARTIAL_CAPTURE,
            Capability.INCREMENT,
            Capability.DECREMENT,
            Capability.PARTIAL_REFUND,
            Capability.SEVERAL_REFUNDS,
            Capability.VERIFICATION,
            Capability.STORED_CREDENTIALS,
            Capability.MERCHANT_INITIATED,
            Capability.NETWORK_TRANSACTION_ID,
            Capability.REDIRECT,
            Capability.NATIVE,
            Capability.DISPUTE_DOCUMENTS,
            Capability.DISPUTE_ACCEPT,
        }
    ),
    # https://docs.adyen.com/online-payments/capture: "multiple partial captures"
    on_request=frozenset({Capability.SEVERAL_CAPTURES}),
    # "at least 7 days": https://docs.adyen.com/development-resources/api-idempotency
    replay_horizon_s=6 * 24 * 3600,
    notes={
        Capability.CARD_NUMBERS: "needs a merchant account that may send raw card data",
        Capability.PARTIAL_CAPTURE: "the rest is released, but not where several captures are switched on: there it lapses",
        Capability.SEVERAL_CAPTURES: "Adyen switches multiple partial captures on; without it the first capture releases the rest",
        Capability.INCREMENT: "as a pre-authorization; schemes, merchant category and issuer may refuse it; the answer comes by webhook",
        Capability.DECREMENT: "as a pre-authorization; the answer comes by webhook",
        Capability.STORED_CREDENTIALS: "the answer has to show the token: Customer Area, Developers, Additional data",
        Capability.NETWORK_TRANSACTION_ID: "with a card number only",
        Capability.NATIVE: "in a browser, where `shopper` brings `channel`, `origin` and `browser_info`",
        Capability.LOOKUP: "settled by sending the same request again, by webhook, or by a technical cancel",
        Capability.DISPUTE_TEXT: "takes documents and a defense reason code",
    },
)

# --- Money --------------------------------------------------------------------------------------

_NO_DECIMALS: Final = "CVE DJF GNF IDR JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DECIMALS: Final = "BHD IQD JOD KWD LYD OMR TND"

# https://docs.adyen.com/development-resources/currency-codes: where Adyen's decimals are not ISO's
# (CLP, CVE, IDR, ISK) theirs count.
UNITS: Final = Units(
    exponents={
        **dict.fromkeys(_NO_DECIMALS.split(), 0),
        **dict.fromkeys(_THREE_DECIMALS.split(), 3),
        "CLP": 2,
        "ISK": 2,
    },
    steps={},
)

# --- Decline and error tables -------------------------------------------------------------------

DECLINES: Final = load("adyen_refusals")

# A webhook names the refusal in words and without its code.
# https://docs.adyen.com/development-resources/refusal-reasons
REASONS: Final[Mapping[str, str]] = {
    "refused": "2",
    "referral": "3",
    "acquirer error": "4",
    "blocked card": "5",
    "expired card": "6",
    "invalid amount": "7",
    "invalid card number": "8",
    "issuer unavailable": "9",
    "not supported": "10",
    "3d not authenticated": "11",
    "not enough balance": "12",
    "acquirer fraud": "14",
    "cancelled": "15",
    "shopper cancelled": "16",
    "invalid pin": "17",
    "pin tries exceeded": "18",
    "pin validation not possible": "19",
    "fraud": "20",
    "not submitted": "21",
    "fraud-cancelled": "22",
    "transaction not permitted": "23",
    "cvc declined": "24",
    "restricted card": "25",
    "revocation of auth": "26",
    "declined non generic": "27",
    "withdrawal amount exceeded": "28",
    "withdrawal count exceeded": "29",
    "issuer suspected fraud": "31",
    "avs declined": "32",
    "card requires online pin": "33",
    "no checking account available on card": "34",
    "no savings account available on card": "35",
    "mobile pin required": "36",
    "contactless fallback": "37",
    "authentication required": "38",
    "rreq not received from ds": "39",
    "current aid is in penalty box": "40",
    "cvm required restart payment": "41",
    "3ds authentication error": "42",
    "online pin required": "43",
    "try another interface": "44",
    "chip downgrade mode": "45",
    "transaction blocked by adyen to prevent excessive retry fees": "46",
}

# What the networks advise, by the code that additionalData passes on.
# https://docs.adyen.com/development-resources/raw-acquirer-responses
ADVICE: Final = {"mastercard": load_advice("mastercard"), "visa": load_advice("visa")}

CANCELLED: Final = look_up(DECLINES, "15")

# The shopper never came back from a challenge: for cards an offer closes after 12 hours.
OFFER_CLOSED: Final = Decline("authentication_expired", "soft", Action.RETRY_LATER, "OFFER_CLOSED")

REFUSAL_CODES: Final = frozenset(
    # https://docs.adyen.com/development-resources/error-codes, those of errorType validation that a
    # card payment meets: refused before anything was done, because of what the request says.
    """
    100 102 104 107 109 117 119 120 121 122 124 125 128 130 131 132 133 134 135 137 138 139 152 154
    158 164 166 167 168 172 173 174 175 177 180 181 182 183 185 186 187 189 190 192 194 196 198 200
    201 702 800 801 802 803 805 806 807 14_004 14_005 14_006 14_007 14_012 14_018 14_030
    """.split()  # noqa: SIM905 - a line each would say no more
)

# The shopper mistyped the card: a decline, found by Adyen before it asked the issuer.
CARD_ERRORS: Final[Mapping[str, str]] = {
    "101": "8",  # card number
    "103": "24",  # length of the CVC
    "129": "8",  # expiry date
    "140": "6",  # expired
    "141": "8",  # expiry date
    "153": "24",  # CVC
}

Verdict = Literal["declined", "credentials", "rate_limited", "refused", "unknown"]
ANY: Final = "*"

# By HTTP status and errorCode, (status, ANY) where the code does not matter. What is not here is
# Unknown: 409 and 704 (our first request is still running), 703 (Adyen's key store is down), 5xx.
ERRORS: Final[Mapping[tuple[int, str], Verdict]] = {
    (401, ANY): "credentials",
    (403, ANY): "credentials",
    (429, ANY): "rate_limited",
    **{(status, code): "refused" for status in (400, 422) for code in REFUSAL_CODES},
    **{(422, code): "declined" for code in CARD_ERRORS},
}

# https://docs.adyen.com/online-payments/build-your-integration/payment-result-codes; a result code
# that is not here is Unknown: PartiallyAuthorised, authentication without payment, or a new word.
RESULTS: Final[Mapping[str, Literal["approved", "declined", "cancelled", "action", "pending"]]] = {
    "Authorised": "approved",
    "Refused": "declined",
    "Error": "declined",
    "Cancelled": "cancelled",
    "RedirectShopper": "action",
    "IdentifyShopper": "action",
    "ChallengeShopper": "action",
    "PresentToShopper": "action",
    "Pending": "pending",
    "Received": "pending",
}

# --- Event tables -------------------------------------------------------------------------------

# eventCode and success: what it is about, and whether it says that it happened. Codes that end in
# _FAILED, and REFUNDED_REVERSED, come with success=true and mean the failure.
EVENTS: Final[Mapping[tuple[str, bool], tuple[Kind, bool]]] = {
    ("AUTHORISATION", True): (Kind.AUTHORIZE, True),
    ("AUTHORISATION", False): (Kind.AUTHORIZE, False),
    ("OFFER_CLOSED", True): (Kind.AUTHORIZE, False),
    ("AUTHORISATION_ADJUSTMENT", True): (Kind.INCREMENT, True),
    ("AUTHORISATION_ADJUSTMENT", False): (Kind.INCREMENT, False),
    ("CAPTURE", True): (Kind.CAPTURE, True),
    ("CAPTURE", False): (Kind.CAPTURE, False),
    ("CAPTURE_FAILED", True): (Kind.CAPTURE, False),
    ("CANCELLATION", True): (Kind.VOID, True),
    ("CANCELLATION", False): (Kind.VOID, False),
    ("TECHNICAL_CANCEL", True): (Kind.VOID, True),
    ("TECHNICAL_CANCEL", False): (Kind.VOID, False),
    ("EXPIRE", True): (Kind.VOID, True),
    ("REFUND", True): (Kind.REFUND, True),
    ("REFUND", False): (Kind.REFUND, False),
    ("REFUND_WITH_DATA", True): (Kind.REFUND, True),
    ("REFUND_WITH_DATA", False): (Kind.REFUND, False),
    ("REFUND_FAILED", True): (Kind.REFUND, False),
    ("REFUNDED_REVERSED", True): (Kind.REFUND, False),
}
UNDONE: Final = frozenset({"CAPTURE_FAILED", "REFUND_FAILED", "REFUNDED_REVERSED"})
"""What was told as a success, or will be, and failed after all."""
CANCEL_OR_REFUND: Final = "CANCEL_OR_REFUND"
ACTIONS: Final[Mapping[str, Kind]] = {"cancel": Kind.VOID, "refund": Kind.REFUND}
"""What a CANCEL_OR_REFUND did, by ``modification.action``. We never ask for one, so it was asked for in the Customer Area.

The word is not signed, and can do no harm: a cancel ends an authorization that nothing was captured of, which nothing but a cancel
could release, and what was captured stays captured; a refund that is not ours changes nothing.
"""

# How our operation ids begin. A reference of another form is a payment that we did not make.
PREFIXES: Final[Mapping[Kind, str]] = {
    Kind.AUTHORIZE: "att_",
    Kind.CAPTURE: "cap_",
    Kind.VOID: "vd_",
    Kind.REFUND: "re_",
    Kind.INCREMENT: "inc_",
}

# https://docs.adyen.com/risk-management/disputes-api/dispute-notifications. What is not here (fraud alerts, the issuer's
# comments) says nothing of where the dispute stands.
DISPUTES: Final[Mapping[str, DisputeStatus]] = {
    "REQUEST_FOR_INFORMATION": DisputeStatus.INQUIRY,
    "NOTIFICATION_OF_CHARGEBACK": DisputeStatus.NEEDS_RESPONSE,
    "CHARGEBACK": DisputeStatus.NEEDS_RESPONSE,
    "INFORMATION_SUPPLIED": DisputeStatus.UNDER_REVIEW,
    "PREARBITRATION_OPEN": DisputeStatus.UNDER_REVIEW,
    "PREARBITRATION_ACCEPTED": DisputeStatus.UNDER_REVIEW,  # the SECOND_CHARGEBACK that follows says that it is lost
    "PREARBITRATION_DECLINED": DisputeStatus.UNDER_REVIEW,
    "SCHEME_ARBITRATION": DisputeStatus.UNDER_REVIEW,
    "CHARGEBACK_REVERSED": DisputeStatus.WON,  # not final: the issuer may go on, and then it is a SECOND_CHARGEBACK
    "ISSUER_RESPONSE_TIMEFRAME_EXPIRED": DisputeStatus.WON,
    "PREARBITRATION_WON": DisputeStatus.WON,
    "PREARBITRATION_ISSUER_WITHDRAWN": DisputeStatus.WON,
    "SCHEME_ARBITRATION_WON": DisputeStatus.WON,
    "SECOND_CHARGEBACK": DisputeStatus.LOST,
    "PREARBITRATION_LOST": DisputeStatus.LOST,
    "SCHEME_ARBITRATION_LOST": DisputeStatus.LOST,
    "DISPUTE_DEFENSE_PERIOD_ENDED": DisputeStatus.LOST,
}

NOTICES: Final[Mapping[str, NoticeKind]] = {
    "NOTIFICATION_OF_FRAUD": NoticeKind.FRAUD_WARNING,
    "MANUAL_REVIEW_ACCEPT": NoticeKind.REVIEW_CLOSED,
    "MANUAL_REVIEW_REJECT": NoticeKind.REVIEW_CLOSED,
    "REPORT_AVAILABLE": NoticeKind.REPORT,
}
VERDICTS: Final[Mapping[str, str]] = {"MANUAL_REVIEW_ACCEPT": "accepted", "MANUAL_REVIEW_REJECT": "rejected"}
"""How a review ended."""

TOKENS: Final[Mapping[str, bool]] = {
    "recurring.token.created": True,
    "recurring.token.alreadyExisting": True,
    "recurring.token.updated": True,
    "recurring.token.disabled": False,
}
"""By the type of a tokenization webhook, whether the token may be charged."""

_BANK_DEBITS: Final = "bank debits: we make none"
_PAYOUTS: Final = "payouts to third parties: we make none, and the code is deprecated"
_ORDERS: Final = "partial payments of an order: we make none"
IGNORED: Final[Mapping[str, str]] = {
    "ACH_NOTIFICATION_OF_CHANGE": _BANK_DEBITS,
    "DIRECT_DEBIT_NOTICE_OF_CHANGE_NOTIFICATION": _BANK_DEBITS,
    "ach.notificationOfChange": _BANK_DEBITS,
    "eft.notificationOfChange": _BANK_DEBITS,
    "AUTORESCUE": "retries that Adyen makes by itself: we ask for none",
    "CANCEL_AUTORESCUE": "retries that Adyen makes by itself: we ask for none",
    "ISSUER_COMMENTS": "what the issuer writes says nothing of where the dispute stands",
    "ORDER_OPENED": _ORDERS,
    "ORDER_CLOSED": _ORDERS,
    "PAIDOUT_REVERSED": _PAYOUTS,
    "PAYOUT_DECLINE": _PAYOUTS,
    "PAYOUT_EXPIRE": _PAYOUTS,
    "PAYOUT_THIRDPARTY": _PAYOUTS,
    "POSTPONED_REFUND": "the refund waits for the capture: the REFUND that follows tells its end",
    "RECURRING_CONTRACT": "names a token in fields that are not signed; recurring.token.created says it signed",
    "VOID_PENDING_REFUND": "refunds at a terminal: we make none",
}
"""Codes that mean nothing to us, and why: they are kept and acknowledged."""

# additionalData.disputeStatus of a chargeback that waits for an answer no more. It is not signed, so it never says "won".
NO_RESPONSE_NEEDED: Final[Mapping[str, DisputeStatus]] = {
    "Pending": DisputeStatus.UNDER_REVIEW,
    "Responded": DisputeStatus.UNDER_REVIEW,
    "Accepted": DisputeStatus.LOST,
    "Expired": DisputeStatus.LOST,
    "Lost": DisputeStatus.LOST,
}


def _coded(**words: str) -> Mapping[str, str]:
    return {code: word for word, codes in words.items() for code in codes.split()}


# The networks' reason codes (no two networks share one) in the words that both PSPs' disputes have here; another is "general".
# https://docs.adyen.com/risk-management/understanding-disputes/dispute-reason-codes, grouped as
# https://docs.stripe.com/disputes/categories groups them, so that one reason reads the same at both.
DISPUTE_REASONS: Final[Mapping[str, str]] = _coded(
    fraudulent="10.1 10.2 10.3 10.4 10.5 4837 4840 4849 4870 4871 F10 F14 F24 F29 F30 F31 UA01 UA02 UA05 UA06 7010 7030",
    unrecognized="4863 127 177 AA",
    duplicate="12.6 12.6.1 12.6.2 4834 C14 P08 DP 4534",
    product_not_received="13.1 13.9 4855 C08 RG 4755",
    product_unacceptable="13.3 13.4 13.5 C31 C32 RM 4553",
    subscription_canceled="13.2 4841 C28 AP 4541",
    credit_not_processed="13.6 13.7 4860 C02 C04 C05 C18 RN2 8002",
)
OTHER_DISPUTE: Final = "general"
