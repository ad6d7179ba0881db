"""The PSP of the benchmark: answers every charge with success, at once or after a set delay.

It speaks as much of Stripe (`POST /v1/payment_intents`) and of Adyen (`POST /v72/payments`) as the
measured programs ask for, in the providers' own shapes and sizes, and must stay far cheaper than
anything it serves. It honours no idempotency keys and checks nothing: the sandbox PSPs do that.

`POST /_bench/delay/{ms}` sets the delay of all charges from now on; `GET /_bench/books` says how
many charges there were, for the check after a run.
"""

import argparse
import asyncio
import itertools
import re
from urllib.parse import unquote_plus

import orjson
import uvloop

from bench.wire import ServerConnection, answer

FIELD = re.compile(rb"(?:^|&)(amount|currency|payment_method|metadata(?:\[|%5B)(\w+)(?:\]|%5D))=([^&]*)")

# A charge of a Visa test card, in the field order and with the nulls of Stripe's API reference.
# Raw text: the SDKs' decoding cost depends on it, ours must not.
CHARGE = (
    b'{"id":"ch_bench%(n)019d","object":"charge","amount":%(amount)s,"amount_captured":%(amount)s,'
    b'"amount_refunded":0,"application":null,"application_fee":null,"balance_transaction":'
    b'"txn_bench%(n)019d","billing_details":{"address":{"city":null,"country":"DE","line1":null,'
    b'"line2":null,"postal_code":"10115","state":null},"email":null,"name":null,"phone":null},'
    b'"calculated_statement_descriptor":"BENCH SHOP","captured":true,"created":1793000000,'
    b'"currency":"%(currency)s","customer":null,"description":null,"disputed":false,'
    b'"failure_code":null,"failure_message":null,"fraud_details":{},"livemode":false,'
    b'"metadata":%(metadata)s,"outcome":{"advice_code":null,"network_advice_code":null,'
    b'"network_decline_code":null,"network_status":"approved_by_network","reason":null,'
    b'"risk_level":"normal","risk_score":12,"seller_message":"Payment complete.",'
    b'"type":"authorized"},"paid":true,"payment_intent":"pi_bench%(n)019d","payment_method":'
    b'"%(method)s","payment_method_details":{"card":{"amount_authorized":%(amount)s,'
    b'"authorization_code":"217314","brand":"visa","checks":{"address_line1_check":null,'
    b'"address_postal_code_check":"pass","cvc_check":"pass"},"country":"US","exp_month":12,'
    b'"exp_year":2030,"fingerprint":"bench4242fingerp","funding":"credit","installments":null,'
    b'"last4":"4242","mandate":null,"network":"visa","network_token":{"used":false},'
    b'"network_transaction_id":"104101001234567","three_d_secure":null,"wallet":null},'
    b'"type":"card"},"receipt_email":null,"receipt_url":null,"refunded":false,'
    b'"statement_descriptor":null,"status":"succeeded","transfer_data":null}'
)
PAYMENT_INTENT = (
    b'{"id":"pi_bench%(n)019d","object":"payment_intent","amount":%(amount)s,"amount_capturable":0,'
    b'"amount_details":{"tip":{}},"amount_received":%(amount)s,"application":null,'
    b'"application_fee_amount":null,"automatic_payment_methods":null,"canceled_at":null,'
    b'"cancellation_reason":null,"capture_method":"automatic","client_secret":'
    b'"pi_bench%(n)019d_secret_bench0123456789","confirmation_method":"automatic",'
    b'"created":1793000000,"currency":"%(currency)s","customer":null,"description":null,'
    b'"last_payment_error":null,"latest_charge":%(charge)s,"livemode":false,"metadata":%(metadata)s,'
    b'"next_action":null,"on_behalf_of":null,"payment_method":"%(method)s",'
    b'"payment_method_options":{"card":{"installments":null,"mandate_options":null,"network":null,'
    b'"request_three_d_secure":"automatic"}},"payment_method_types":["card"],"processing":null,'
    b'"receipt_email":null,"setup_future_usage":null,"shipping":null,"statement_descriptor":null,'
    b'"statement_descriptor_suffix":null,"status":"succeeded","transfer_data":null,'
    b'"transfer_group":null}'
)
ADYEN_PAYMENT = (
    b'{"additionalData":{"authCode":"082913","avsResult":"4 AVS not supported for this card type",'
    b'"cvcResult":"1 Matches","cardBin":"424242","cardSummary":"4242","networkTxReference":'
    b'"104101001234567","paymentMethodVariant":"visa"},"pspReference":"BENCH%(n)011d",'
    b'"resultCode":"Authorised","amount":%(amount)s,"merchantReference":%(reference)s,'
    b'"paymentMethod":{"brand":"visa","type":"scheme"}}'
)
NOT_FOUND = answer(404, b'{"error":{"type":"invalid_request_error","message":"Unrecognized request URL"}}')


def payment_intent(n: int, form: bytes) -> bytes:
    """A succeeded PaymentIntent with the form's amount, currency, payment method and metadata.

    The charge is the whole object when the form asks to expand something, else its id: as Stripe.
    """
    fields: dict[bytes, object] = {b"n": n, b"currency": b"usd", b"method": b"pm_card_visa"}
    metadata: dict[str, str] = {}
    for name, entry, value in FIELD.findall(form):
        if entry:
            metadata[entry.decode()] = unquote_plus(value.decode())
        elif name == b"payment_method":
            fields[b"method"] = value
        else:
            fields[name] = value
    fields[b"metadata"] = orjson.dumps(metadata)
    fields[b"charge"] = CHARGE % fields if b"expand" in form else b'"ch_bench%019d"' % n
    return PAYMENT_INTENT % fields


def adyen_payment(n: int, request: bytes) -> bytes:
    """An authorised payment with the request's amount and reference."""
    asked = orjson.loads(request)
    return ADYEN_PAYMENT % {
        b"n": n,
        b"amount": orjson.dumps(asked["amount"]),
        b"reference": orjson.dumps(asked["reference"]),
    }


class Books:
    """What the connections share: the delay, and how many charges were made."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.charges = 0
        self.serial = itertools.count(1)


class PspConnection(ServerConnection):
    """One connection of a client of the PSP."""

    def __init__(self, books: Books) -> None:
        super().__init__()
        self.books = books

    def handle(self) -> None:
        """Answer charges after the delay, everything else at once."""
        books = self.books
        if self.url == b"/v1/payment_intents":
            n = next(books.serial)
            # Stripe's SDK reports the latency of the request named here with the next call.
            named = b"Request-Id: req_bench%d\r\n" % n
            response = answer(200, payment_intent(n, self.body), named)
        elif self.url.endswith(b"/v72/payments"):
            response = answer(200, adyen_payment(next(books.serial), self.body))
        else:
            self.respond(self.control())
            return
        books.charges += 1
        if books.delay_s:
            asyncio.get_running_loop().call_later(books.delay_s, self.respond, response)
        else:
            self.respond(response)

    def control(self) -> bytes:
        if self.url.startswith(b"/_bench/delay/"):
            self.books.delay_s = int(self.url.rpartition(b"/")[2]) / 1000
        elif self.url == b"/v1/traces":  # it is the collector, too
            return answer(200, b"")
        elif self.url != b"/_bench/books":
            return NOT_FOUND
        return answer(200, orjson.dumps({"charges": self.books.charges}))


async def serve(port: int, delay_s: float) -> None:
    """Serve until the process is ended."""
    books = Books(delay_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: PspConnection(books), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-ms", type=int, default=0)
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.delay_ms / 1000))


if __name__ == "__main__":
    main()
