-- A sealed secret. $1 credential uuid
SELECT sealed FROM secret.credential WHERE credential_id = $1
