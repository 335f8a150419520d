-- Lets the service roles log in, with passwords from files. Run by psql as the owner, after `modelfaucet migrate`; may run again.
-- `secrets` is the directory of deploy/secrets/make:  psql -v secrets=/run/secrets -f logins.sql
\set ON_ERROR_STOP on
\set command_file :secrets /database_command_password
\set projector_file :secrets /database_projector_password
\set query_file :secrets /database_query_password
\set audit_file :secrets /database_audit_password
\set keys_file :secrets /database_secrets_password
\set backup_file :secrets /database_backup_password
\set command `cat :command_file`
\set projector `cat :projector_file`
\set query `cat :query_file`
\set audit `cat :audit_file`
\set keys `cat :keys_file`
\set backup `cat :backup_file`
-- The statements hold passwords: they do not belong in the server's log.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
BEGIN;
ALTER ROLE ledger_command LOGIN PASSWORD :'command';
ALTER ROLE ledger_projector LOGIN PASSWORD :'projector';
ALTER ROLE ledger_query LOGIN PASSWORD :'query';
ALTER ROLE ledger_audit LOGIN PASSWORD :'audit';
ALTER ROLE ledger_secrets LOGIN PASSWORD :'keys';
ALTER ROLE ledger_backup LOGIN PASSWORD :'backup';
COMMIT;
