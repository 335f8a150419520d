-- Readers take in whole batches: one that is larger than what they read at once (MAX_BATCH_EVENTS) would stop all of them for ever.
SET LOCAL ROLE ledger_owner;

ALTER TABLE ledger.batch ADD CONSTRAINT batch_size CHECK (last_pos - first_pos < 4096);
