"""The top-level parameters each Stripe endpoint knows; any other is refused, as by Stripe."""

import math
from collections.abc import Mapping
from typing import Any

from providers.sandbox.stripe_errors import invalid_request, one_of

# One endpoint a block: its name, then its parameters (from the API version we simulate).
_TABLE = """
create_intent: amount amount_details application_fee_amount automatic_payment_methods
    capture_method confirm confirmation_method confirmation_token currency customer
    customer_account description error_on_requires_action excluded_payment_method_types
    expand hooks mandate mandate_data metadata off_session on_behalf_of payment_details
    payment_method payment_method_configuration payment_method_data payment_method_options
    payment_method_types radar_options receipt_email return_url setup_future_usage shipping
    statement_descriptor statement_descriptor_suffix transfer_data transfer_group
    use_stripe_sdk

confirm: amount_details amount_to_confirm capture_method client_secret confirmation_token
    error_on_requires_action excluded_payment_method_types expand hooks mandate mandate_data
    off_session payment_details payment_method payment_method_data payment_method_options
    payment_method_types radar_options receipt_email return_url setup_future_usage shipping
    use_stripe_sdk

capture: amount_details amount_to_capture application_fee_amount expand final_capture hooks
    metadata payment_details statement_descriptor statement_descriptor_suffix transfer_data

cancel: cancellation_reason expand

increment: amount amount_details application_fee_amount description expand hooks metadata
    payment_details statement_descriptor transfer_data

create_refund: amount charge currency customer expand instructions_email metadata origin
    payment_intent reason refund_application_fee reverse_transfer

create_customer: address balance business_name cash_balance description email expand
    individual_name invoice_prefix invoice_settings metadata name next_invoice_sequence
    payment_method phone preferred_locales shipping source tax tax_exempt tax_id_data
    test_clock

update_customer: address balance business_name description email expand individual_name
    invoice_prefix invoice_settings metadata name next_invoice_sequence phone preferred_locales
    shipping source tax tax_exempt

attach: customer customer_account expand

create_setup: attach_to_self automatic_payment_methods confirm confirmation_token customer
    customer_account description excluded_payment_method_types expand flow_directions
    mandate_data metadata on_behalf_of payment_method payment_method_configuration
    payment_method_data payment_method_options payment_method_types return_url single_use usage
    use_stripe_sdk

confirm_setup: client_secret confirmation_token expand mandate_data payment_method
    payment_method_data payment_method_options return_url use_stripe_sdk

cancel_setup: cancellation_reason expand

update_dispute: evidence expand metadata submit

close_dispute: expand

detach: expand
"""
LIST_MAX = 100
METADATA_MAX, METADATA_NAME_MAX, METADATA_VALUE_MAX = 50, 40, 500

KNOWN: dict[str, frozenset[str]] = {
    endpoint.strip(): frozenset(names.split())
    for endpoint, _, names in (block.partition(":") for block in _TABLE.split("\n\n"))
}


def refuse_unknown(endpoint: str, params: Mapping[str, Any]) -> None:
    """Raise for the first parameter the endpoint does not know."""
    for name in params:
        if name not in KNOWN[endpoint]:
            raise invalid_request(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def read_limit(params: Mapping[str, Any]) -> int:
    """The page size of a list: 10 unless told, 1 to 100."""
    text = str(params.get("limit", 10))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= LIST_MAX:
        raise invalid_request(
            f"This value must be between 1 and {LIST_MAX}.",
            code="parameter_invalid_integer",
            param="limit",
        )
    return int(text)


def read_metadata(params: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a request, within Stripe's bounds; an empty value removes its name."""
    given = params.get("metadata") or {}
    if not isinstance(given, dict) or not all(isinstance(each, str) for each in given.values()):
        raise invalid_request("Invalid object", code="parameter_invalid_empty", param="metadata")
    if len(given) > METADATA_MAX:
        raise invalid_request(f"Metadata can have up to {METADATA_MAX} keys.", param="metadata")
    for name, value in given.items():
        if len(name) > METADATA_NAME_MAX or len(value) > METADATA_VALUE_MAX:
            raise invalid_request(
                f"Metadata keys can be up to {METADATA_NAME_MAX} characters long and values up "
                f"to {METADATA_VALUE_MAX}.",
                param=f"metadata[{name}]",
            )
    return {name: value for name, value in given.items() if value}


_REQUESTS = {
    "request_three_d_secure": ("any", "automatic", "challenge"),
    "request_multicapture": ("if_available", "never"),
    "request_incremental_authorization": ("if_available", "never"),
    "request_extended_authorization": ("if_available", "never"),
    "request_overcapture": ("if_available", "never"),
}


def read_card_options(params: Mapping[str, Any]) -> dict[str, str]:
    """What ``payment_method_options[card]`` requests."""
    options = params.get("payment_method_options") or {}
    card = options.get("card") or {} if isinstance(options, dict) else {}
    found = {name: str(card[name]) for name in _REQUESTS if name in card}
    for name, value in found.items():
        one_of(f"payment_method_options[card][{name}]", value, _REQUESTS[name])
    return found


def page_of(found: list[Any], params: Mapping[str, Any], kind: str) -> tuple[list[Any], bool]:
    """One page of the objects found, newest first: those after the cursor, and whether there are more."""
    limit = read_limit(params)
    if after := params.get("starting_after"):
        names = [each.id for each in found]
        if after not in names:
            raise invalid_request(f"No such {kind}: '{after}'", code="resource_missing", param="starting_after")
        found = found[names.index(str(after)) + 1 :]
    return found[:limit], len(found) > limit


def read_window(params: Mapping[str, Any]) -> tuple[int, float]:
    """The ``created`` filter, bounds in seconds or one exact second: the first and the last second that it lets through."""
    window = params.get("created", {})
    if not isinstance(window, dict):
        window = {"gte": window, "lte": window}
    try:
        bounds = {name: int(bound) for name, bound in window.items()}
    except ValueError:
        raise invalid_request(
            "Invalid timestamp: must be an integer Unix timestamp in seconds.", param="created"
        ) from None
    first = max(bounds.get("gte", 0), bounds.get("gt", -1) + 1)
    return first, min(bounds.get("lte", math.inf), bounds.get("lt", math.inf) - 1)
