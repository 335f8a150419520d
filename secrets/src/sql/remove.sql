-- Removes sealed secrets. $1 credentials uuid[]
DELETE FROM secret.credential WHERE credential_id = ANY ($1)
