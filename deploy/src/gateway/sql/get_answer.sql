-- The sealed answer of a call. $1 uuid: the call.
SELECT sealed FROM gateway.answer WHERE hold_id = $1
