-- How often a key-encryption key has sealed. $1 key-encryption key int8
SELECT seals FROM secret.kek_use WHERE kek_id = $1
