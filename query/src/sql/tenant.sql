-- Whose rows the transaction may see, for row security. $1 id of a developer or wallet, or the nil id for the house, as text
SELECT set_config('app.tenant', $1, true)
