-- How many secrets are sealed under each key-encryption key, and how often it has sealed. No parameters.
SELECT coalesce(u.kek_id, c.kek_id) AS kek_id, coalesce(c.secrets, 0) AS secrets, coalesce(u.seals, 0) AS seals
FROM secret.kek_use u
FULL JOIN (SELECT kek_id, count(*) AS secrets FROM secret.credential GROUP BY kek_id) c ON c.kek_id = u.kek_id
ORDER BY 1
