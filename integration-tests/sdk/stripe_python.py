"""Stripe's own Python library beside ours: usage stripe_python.py URL KEY SECRET, cases on standard input.

Cases are JSON: `{"signed": [[body, header], …], "to_sign": [[body, time], …]}`. Every signed one must be what the library takes.
Prints what the library signs, and what it sees of a checkout and a refund at the API under URL.
"""

import json
import sys

import stripe

url, key, secret = sys.argv[1:]
cases = json.load(sys.stdin)
for body, header in cases["signed"]:
    stripe.WebhookSignature.verify_header(body, header, secret, tolerance=300)
refused = 0
for body, header in cases["signed"]:
    try:
        stripe.WebhookSignature.verify_header(body + " ", header, secret, tolerance=300)
    except stripe.SignatureVerificationError:
        refused += 1
signatures = [
    f"t={time},v1={stripe.WebhookSignature._compute_signature(f'{time}.{body}', secret)}" for body, time in cases["to_sign"]
]
event = stripe.Webhook.construct_event(cases["signed"][0][0], cases["signed"][0][1], secret)

client = stripe.StripeClient(key, base_addresses={"api": url}, max_network_retries=0)
wanted = {
    "mode": "payment",
    "success_url": "https://app.example/ok",
    "cancel_url": "https://app.example/no",
    "client_reference_id": "top-up-1",
    "line_items": [{"price_data": {"currency": "usd", "product_data": {"name": "Credits"}, "unit_amount": 1234}, "quantity": 1}],
    "metadata": {"top_up_id": "top-up-1"},
}
pages = [client.v1.checkout.sessions.create(wanted, {"idempotency_key": "one"}) for _ in range(2)]
listed = client.v1.events.list({"limit": 3})
moved = client.v1.balance_transactions.list({"limit": 100, "expand": ["data.source"]})
payment = moved.data[-1].source.payment_intent
refund = client.v1.refunds.create({"payment_intent": payment, "amount": 100}, {"idempotency_key": "two"})
print(json.dumps({
    "version": stripe.VERSION,
    "refused": refused,
    "signatures": signatures,
    "event": event.id,
    "same_page": pages[0].id == pages[1].id,
    "amount": pages[0].amount_total,
    "metadata": pages[0].metadata["top_up_id"],
    "events": [event.type for event in listed.data],
    "categories": [one.reporting_category for one in moved.data],
    "refund": [refund.amount, refund.status],
}))
