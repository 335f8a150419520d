//! Single changes of a log by somebody who may do everything: any column of any row, rows deleted, swapped, added, cut off.

use tokio_postgres::Client;

use crate::business::Dice;

/// What can be damaged.
pub struct Rows {
    /// Last position of the log.
    end: i64,
    /// First and last position of each append.
    batches: Vec<(i64, i64)>,
    /// Positions of events with a key.
    keyed: Vec<i64>,
}

impl Rows {
    pub async fn read(client: &Client) -> Self {
        let batches =
            client.query("SELECT first_pos, last_pos FROM ledger.batch ORDER BY last_pos", &[]).await.unwrap();
        let batches: Vec<_> = batches.iter().map(|row| (row.get(0), row.get(1))).collect();
        let keyed = client.query("SELECT position FROM ledger.idempotency", &[]).await.unwrap();
        Self { end: batches.last().unwrap().1, batches, keyed: keyed.iter().map(|row| row.get(0)).collect() }
    }
}

/// One change.
#[derive(Debug)]
pub struct Damage {
    pub sql: String,
    /// Ranges of positions; of each a finding must speak.
    pub places: Vec<(i64, i64)>,
}

/// Guards that are taken down before and put up again after a change, so that only the change itself is left to be found.
const GUARDED: [&str; 7] =
    ["event", "event_s00", "event_s00_00000", "batch", "batch_s00", "idempotency", "idempotency_s00"];

/// Changes of one event; `{p}` is its position.
const EVENT: [&str; 17] = [
    "SET position = {p} + 1000000",
    "SET stream = 'wallet:' || gen_random_uuid()",
    "SET stream = upper(stream)",
    "SET stream_seq = stream_seq + 1",
    "SET type = CASE type WHEN 'HoldReleased' THEN 'HoldExpired' ELSE 'HoldReleased' END",
    "SET version = version + 1",
    "SET recorded_at = recorded_at + interval '1 microsecond'",
    "SET recorded_at = recorded_at - interval '1 day'",
    "SET recorded_at = 'infinity'",
    "SET actor = CASE actor WHEN 'admin' THEN 'clock' ELSE 'admin' END",
    "SET request_id = request_id || ' '",
    "SET key = gen_random_uuid(), fingerprint = gen_random_uuid()",
    "SET fingerprint = CASE WHEN key IS NULL THEN NULL ELSE gen_random_uuid() END, request_id = CASE WHEN key IS NULL THEN '' ELSE request_id END",
    "SET payload = payload || ' '",
    "SET payload = convert_to(regexp_replace(convert_from(payload, 'UTF8'), '[0-9](\\D*)$', 'x\\1'), 'UTF8')",
    "SET payload = '{}'",
    "SET payload = ''",
];

/// Changes of one append's row.
const BATCH: [&str; 10] = [
    "SET first_pos = first_pos - 1",
    "SET first_pos = 1, last_pos = last_pos + 100000",
    "SET last_pos = last_pos + 1000000",
    "SET batch_id = gen_random_uuid()",
    "SET prev_hash = sha256(prev_hash)",
    "SET prev_hash = set_byte(prev_hash, 31, get_byte(prev_hash, 31) # 1)",
    "SET hash = sha256(hash)",
    "SET hash = set_byte(hash, 0, get_byte(hash, 0) # 128)",
    "SET committed_at = committed_at + interval '1 microsecond'",
    "SET committed_at = '-infinity'",
];

impl Damage {
    /// The `at`-th change; kinds take turns, rows are drawn.
    pub fn draw(at: usize, rows: &Rows, dice: &mut Dice) -> Self {
        let position = 1 + i64::try_from(dice.roll(rows.end.unsigned_abs())).unwrap();
        let turn = at / 8;
        match at % 8 {
            0 | 1 => Self::event(EVENT[(at / 8 * 2 + at % 8) % EVENT.len()], position),
            2 => Self::payload(position, dice),
            3 => Self::batch(BATCH[turn % BATCH.len()], rows, dice),
            4 => Self::key(turn, rows, dice),
            5 => Self::deletion(turn, position, rows, dice),
            6 => Self::swap(turn, position, rows, dice),
            _ => Self::insertion(turn, position, rows, dice),
        }
    }

    fn event(change: &str, position: i64) -> Self {
        let sql =
            format!("UPDATE ledger.event {} WHERE position = {position}", change.replace("{p}", &position.to_string()));
        Self { sql, places: vec![(position, position)] }
    }

    /// One bit of a payload.
    fn payload(position: i64, dice: &mut Dice) -> Self {
        let bit = dice.roll(1 << 20);
        let sql = format!(
            "UPDATE ledger.event SET payload = set_bit(payload, {bit} % (8 * length(payload)), 1 - get_bit(payload, {bit} % (8 * length(payload)))) WHERE position = {position}"
        );
        Self { sql, places: vec![(position, position)] }
    }

    fn batch(change: &str, rows: &Rows, dice: &mut Dice) -> Self {
        let (first, last) = *dice.pick(&rows.batches);
        Self { sql: format!("UPDATE ledger.batch {change} WHERE last_pos = {last}"), places: vec![(first, last)] }
    }

    fn key(turn: usize, rows: &Rows, dice: &mut Dice) -> Self {
        let at = *dice.pick(&rows.keyed);
        let other = *dice.pick(&rows.keyed);
        let one = vec![(at, at)];
        match turn % 4 {
            0 => Self {
                sql: format!("UPDATE ledger.idempotency SET key = gen_random_uuid() WHERE position = {at}"),
                places: one,
            },
            1 => Self {
                sql: format!("UPDATE ledger.idempotency SET position = position + 1 WHERE position = {at}"),
                places: one,
            },
            2 => Self { sql: format!("DELETE FROM ledger.idempotency WHERE position = {at}"), places: one },
            _ if other == at => Self {
                sql: "INSERT INTO ledger.idempotency VALUES (0, gen_random_uuid(), 1)".into(),
                places: vec![(1, 1)],
            },
            _ => Self {
                sql: format!(
                    "UPDATE ledger.idempotency SET position = {at} + {other} - position WHERE position IN ({at}, {other})"
                ),
                places: vec![(at, at), (other, other)],
            },
        }
    }

    fn deletion(turn: usize, position: i64, rows: &Rows, dice: &mut Dice) -> Self {
        let (first, last) = *dice.pick(&rows.batches);
        let end = rows.end;
        match turn % 5 {
            0 => Self {
                sql: format!("DELETE FROM ledger.event WHERE position = {position}"),
                places: vec![(position, position)],
            },
            1 => Self { sql: format!("DELETE FROM ledger.batch WHERE last_pos = {last}"), places: vec![(first, last)] },
            2 => Self {
                sql: format!("DELETE FROM ledger.event WHERE position BETWEEN {first} AND {last}"),
                places: vec![(first, first), (last, last)],
            },
            // The end, cut off cleanly: only those who have seen it can tell.
            3 => Self {
                sql: format!(
                    "DELETE FROM ledger.event WHERE position >= {first}; DELETE FROM ledger.batch WHERE first_pos >= {first}; DELETE FROM ledger.idempotency WHERE position >= {first}"
                ),
                places: vec![(first, end)],
            },
            // A whole append, out of the middle.
            _ => Self {
                sql: format!(
                    "DELETE FROM ledger.event WHERE position BETWEEN {first} AND {last}; DELETE FROM ledger.batch WHERE last_pos = {last}; DELETE FROM ledger.idempotency WHERE position BETWEEN {first} AND {last}"
                ),
                places: vec![(first, last)],
            },
        }
    }

    fn swap(turn: usize, position: i64, rows: &Rows, dice: &mut Dice) -> Self {
        let other = 1 + (position - 1 + 1 + i64::try_from(dice.roll(rows.end.unsigned_abs() - 1)).unwrap()) % rows.end;
        let places = vec![(position, position), (other, other)];
        let columns = match turn % 3 {
            0 => "payload",
            1 => "stream, stream_seq, type, payload",
            _ => "stream, stream_seq, type, version, recorded_at, actor, request_id, key, fingerprint, payload",
        };
        let theirs = columns.split(", ").map(|column| format!("o.{column}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "UPDATE ledger.event e SET ({columns}) = ROW({theirs}) FROM ledger.event o
             WHERE e.position IN ({position}, {other}) AND o.position = {position} + {other} - e.position"
        );
        Self { sql, places }
    }

    fn insertion(turn: usize, position: i64, rows: &Rows, dice: &mut Dice) -> Self {
        let next = rows.end + 1;
        let columns = "shard, stream, stream_seq, type, version, recorded_at, actor, request_id, payload";
        let copied = format!(
            "INSERT INTO ledger.event (position, {columns}) SELECT {next}, {columns} FROM ledger.event WHERE position = {position}"
        );
        match turn % 5 {
            0 => Self { sql: copied, places: vec![(next, next)] },
            1 => Self {
                sql: format!(
                    "{copied}; INSERT INTO ledger.batch SELECT shard, {next}, {next}, gen_random_uuid(), hash, sha256(hash), committed_at FROM ledger.batch WHERE last_pos = {}",
                    rows.end
                ),
                places: vec![(next, next)],
            },
            2 => Self {
                sql: format!("INSERT INTO ledger.idempotency VALUES (0, gen_random_uuid(), {position})"),
                places: vec![(position, position)],
            },
            3 => {
                // An append between two others; the last positions of both are taken.
                let (first, last) = *dice.pick(&rows.batches);
                let at = if first < last { first } else { next };
                let sql = format!(
                    "INSERT INTO ledger.batch SELECT shard, {at}, {at}, gen_random_uuid(), prev_hash, hash, committed_at FROM ledger.batch WHERE last_pos = {last}"
                );
                Self { sql, places: vec![(at, at)] }
            }
            // A second row of the same position, which the primary key would refuse.
            _ => Self {
                sql: format!(
                    "ALTER TABLE ledger.event DROP CONSTRAINT event_pkey; INSERT INTO ledger.event SELECT * FROM ledger.event WHERE position = {position}"
                ),
                places: vec![(position, position)],
            },
        }
    }

    /// Makes the change.
    pub async fn apply(&self, client: &Client) {
        unguarded(client, &self.sql).await;
    }
}

/// Runs statements as one transaction in which the guards are down.
pub async fn unguarded(client: &Client, sql: &str) {
    let each = |verb: &str| -> String {
        let set = |table| {
            format!(
                "ALTER TABLE ledger.{table} {verb} TRIGGER append_only; ALTER TABLE ledger.{table} {verb} TRIGGER no_truncate;"
            )
        };
        GUARDED.iter().map(set).collect()
    };
    let all = format!("BEGIN; {} {sql}; {} COMMIT", each("DISABLE"), each("ENABLE ALWAYS"));
    client.batch_execute(&all).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Sets the log aside, as it is now, and takes away what would only slow down somebody who may do everything.
pub async fn keep(client: &Client) {
    client.batch_execute("ALTER TABLE ledger.batch DROP CONSTRAINT batch_size").await.unwrap();
    for table in ["event", "batch", "idempotency"] {
        client.batch_execute(&format!("CREATE TABLE public.{table} AS TABLE ledger.{table}")).await.unwrap();
    }
}

/// Makes the log again what it was when it was set aside.
pub async fn restore(client: &Client) {
    let keyless = client.query_one(
        "SELECT NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'ledger.event'::regclass AND contype = 'p')",
        &[],
    );
    let add_key = if keyless.await.unwrap().get(0) {
        "ALTER TABLE ledger.event ADD CONSTRAINT event_pkey PRIMARY KEY (shard, position);"
    } else {
        ""
    };
    let refill = |table| format!("TRUNCATE ledger.{table}; INSERT INTO ledger.{table} SELECT * FROM public.{table};");
    unguarded(client, &(["event", "batch", "idempotency"].map(refill).concat() + add_key)).await;
}
