-- What Stripe told of one payment is found by the payment: support asks for it by the id that the customer's receipt shows.
SET LOCAL ROLE ledger_owner;

CREATE INDEX ON payment.received (provider, payment) WHERE payment IS NOT NULL;
