//! New versions of all projections, built beside the live ones while commands and reads go on: a rebuild that is killed leaves
//! nothing, the next one comes to the same tables, and the live ones are not touched.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::judge::{audit_up, check};
use modelfaucet_integration_tests::process::{Up, has_postgres, url};
use modelfaucet_integration_tests::traffic::{Dice, PATIENCE, Plan, Traffic};
use modelfaucet_projector::Projector;
use modelfaucet_projector::changes::Changes;
use modelfaucet_projector::projection::{ApplyError, Projection, all};
use modelfaucet_projector::rebuild::rebuild;
use modelfaucet_projector::store::digest;
use modelfaucet_projector::table::{Table, TableDigest, Value};
use modelfaucet_schema::event::Recorded;
use modelfaucet_schema::ids::{Position, ShardId};
use serde_json::json;
use tokio::sync::watch;
use tokio_postgres::{Client, Config, NoTls};

const SHARD: ShardId = ShardId(0);
/// Which database the rebuild that is going to be killed works on.
const DATABASE: &str = "MODELFAUCET_REBUILD_DATABASE";

/// The next version of a projection; it folds as the present one does.
struct Next(Box<dyn Projection>);

impl Projection for Next {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn version(&self) -> i32 {
        self.0.version() + 1
    }

    fn tables(&self) -> &'static [Table] {
        self.0.tables()
    }

    fn is_money(&self) -> bool {
        self.0.is_money()
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        self.0.apply(event, changes)
    }

    fn flush(&mut self, changes: &mut Changes) {
        self.0.flush(changes);
    }

    fn remembers(&self) -> &'static [usize] {
        self.0.remembers()
    }

    fn remember(&mut self, table: usize, row: &[Value]) -> Result<(), ApplyError> {
        self.0.remember(table, row)
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self(self.0.fresh()))
    }
}

fn next() -> impl Iterator<Item = Next> {
    all().into_iter().map(Next)
}

fn journal() -> Next {
    next().find(|projection| projection.name() == "journal").unwrap()
}

/// Ten thousand calls, in ten requests.
async fn history(up: &Up) {
    let (_, wallet) = up.wallet_with("much", "100.00").await;
    for request in 0..10 {
        let call = |number: i32| {
            json!({ "request_id": format!("much-{request}-{number}"), "wallet_id": wallet, "model": "gpt-4o-mini",
                    "usage": { "input_uncached": number, "output_text": 9 } })
        };
        let calls = (0..1_000).map(call).collect::<Vec<_>>().into();
        let answer = up.as_admin("POST", "/v1/usage/batch", "", &calls).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Not a test: what is killed in the middle of a rebuild.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that another test starts and kills"]
async fn a_process_that_rebuilds_the_journal() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    rebuild(&database.parse().unwrap(), &journal(), &[SHARD], None).await.unwrap();
}

fn rebuilding(database: &Config) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_process_that_rebuilds_the_journal", "--ignored"]);
    command.env(DATABASE, url(database)).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// Is anything left of a new version of the journal?
async fn trace_of_rebuild(client: &Client) -> bool {
    let sql = "SELECT to_regnamespace('p_journal_v2') IS NOT NULL
               OR EXISTS (SELECT FROM projection.registry WHERE name = 'journal' AND version = 2)";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Kills a rebuild while it writes.
async fn kill_a_rebuild(database: &Config) {
    let client = connect(database).await;
    let (mut process, began) = (rebuilding(database), Instant::now());
    let writing = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'COPY p_journal_v2%')";
    while !client.query_one(writing, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < PATIENCE && process.try_wait().unwrap().is_none(), "the rebuild was over too soon");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    process.kill().unwrap();
    assert_eq!(process.wait().unwrap().signal(), Some(9));
    let began = Instant::now();
    while client.query_one(writing, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < PATIENCE, "the server does not notice");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!trace_of_rebuild(&client).await, "a killed rebuild left something");
}

/// How far a version has read, and the content of its tables then.
async fn content(client: &Client, projection: &dyn Projection) -> (i64, Vec<TableDigest>) {
    let sql = "SELECT position FROM projection.checkpoint WHERE name = $1 AND version = $2 AND shard = 0";
    let row = client.query_one(sql, &[&projection.name(), &projection.version()]).await.unwrap();
    let mut digests = Vec::new();
    for table in projection.tables() {
        digests.push(digest(client, &projection.schema(), table).await.unwrap());
    }
    (row.get(0), digests)
}

/// Compares two versions at one moment at which both have read the log up to the same place; the log may still grow, for holds
/// expire.
async fn compare(client: &Client, live: &dyn Projection, next: &dyn Projection, at_least: i64) {
    let began = Instant::now();
    loop {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        let (live, next) = (content(client, live).await, content(client, next).await);
        client.batch_execute("COMMIT").await.unwrap();
        if live.0 == next.0 && live.0 >= at_least {
            assert_eq!(live, next, "I6: the versions of a projection differ");
            return;
        }
        assert!(began.elapsed() < PATIENCE, "I16: a projection lags: {} and {}", live.0, next.0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_beside_live_traffic_survives_its_death_and_comes_to_the_same() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    history(&up).await;
    let plan = Plan { clients: 4, ..Plan::of("rebuild", &up, &Dice::of_run()).await };
    let mut traffic = Traffic::start(plan);
    let database = up.database("ledger_projector");
    traffic.fault("F16", "rebuild of the journal", "kill");
    kill_a_rebuild(&database).await;

    let (mut events, mut elapsed) = (0, BTreeMap::new());
    for projection in next() {
        let before = traffic.acknowledged();
        let rebuilt = rebuild(&database, &projection, &[SHARD], None).await.unwrap();
        assert!(i64::try_from(rebuilt.events).unwrap() >= before, "the rebuild ends where the log did when it began");
        events = rebuilt.events;
        elapsed.insert(projection.name(), rebuilt.elapsed);
    }
    traffic.more(20).await;
    // A projector that knows both versions follows beside the one of `up`, which knows the live ones.
    let (wake, shutdown) = (watch::channel(Position::START), watch::channel(false));
    let both = || all().into_iter().chain(next().map(|next| Box::new(next) as Box<dyn Projection>)).collect();
    let projector = Projector::connect(database.clone(), vec![SHARD]).await.unwrap().with_projections(Arc::new(both));
    let running = tokio::spawn(projector.run(wake.1, shutdown.1));
    traffic.more(100).await;
    let acknowledged = traffic.acknowledged();
    let (tally, histories) = traffic.stop().await;
    let client = connect(&database).await;
    for (live, next) in all().into_iter().zip(next()) {
        compare(&client, live.as_ref(), &next, acknowledged).await;
    }
    shutdown.0.send_replace(true);
    running.await.unwrap();
    check(&up.database("ledger_audit"), &histories).await;
    assert!(tally.odd.is_empty() && tally.reads > 0, "{tally:#?}");
    audit_up(&up).await;
    println!("about {events} events each: {elapsed:.2?}; {tally:.2?}");
}
