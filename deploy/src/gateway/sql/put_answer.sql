-- Keeps an answer; the first stays. $1 uuid: the call. $2 bytea: the sealed answer.
INSERT INTO gateway.answer (hold_id, sealed) VALUES ($1, $2) ON CONFLICT (hold_id) DO NOTHING
