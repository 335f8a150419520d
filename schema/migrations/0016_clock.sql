-- The log's time goes forward with the database's clock. A writer whose machine is ahead would take everybody's time with it: nobody
-- records earlier than the newest append, and holds and sessions would end before they should.
SET LOCAL ROLE ledger_owner;

CREATE FUNCTION ledger.refuse_future() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    -- What is no later than the append before it moves no time: so a database whose clock was set back goes on.
    IF NEW.committed_at > clock_timestamp() + interval '60 seconds' THEN
        IF NEW.committed_at > coalesce((SELECT b.committed_at FROM ledger.batch b
                                        WHERE b.shard = NEW.shard AND b.last_pos = NEW.first_pos - 1), '-infinity') THEN
            RAISE EXCEPTION 'the clock of the writer is ahead of the database''s by %', NEW.committed_at - clock_timestamp()
                USING ERRCODE = 'ML006', HINT = 'Set the clock of the machine that the writer runs on.';
        END IF;
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION ledger.refuse_future() FROM PUBLIC;

CREATE TRIGGER not_from_the_future BEFORE INSERT ON ledger.batch FOR EACH ROW EXECUTE FUNCTION ledger.refuse_future();
