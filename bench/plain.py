"""The plain endpoint: FastAPI and Stripe's official SDK, as its README shows them.

What a merchant writes in an afternoon. It keeps no record, so a lost answer is a lost payment, a
double click is two charges, and an outage at Stripe is an outage of the shop. It is the price of
a payment without safety, not a straw man: SDK defaults, uvloop, httptools, no access log.
"""

import argparse
import os

import stripe
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
client = stripe.StripeClient(
    os.environ.get("STRIPE_API_KEY", "sk_test_bench"),
    base_addresses={"api": os.environ.get("STRIPE_API_BASE", "https://api.stripe.com")},
)


class NewPayment(BaseModel):
    amount: int
    currency: str
    payment_method: str
    reference: str


class Payment(BaseModel):
    id: str
    status: str
    amount: int
    currency: str
    reference: str


@app.post("/payments", status_code=201)
async def pay(new: NewPayment) -> Payment:
    """Create and confirm a PaymentIntent."""
    intent = await client.v1.payment_intents.create_async(
        {
            "amount": new.amount,
            "currency": new.currency.lower(),
            "payment_method": new.payment_method,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            "confirm": True,
            "metadata": {"reference": new.reference},
        }
    )
    return Payment(
        id=intent.id,
        status=intent.status,
        amount=intent.amount,
        currency=intent.currency.upper(),
        reference=new.reference,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,  # as the gateway's: else a reconnect lands in the latencies
    )


if __name__ == "__main__":
    main()
