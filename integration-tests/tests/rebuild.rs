//! What operators do with read tables, through the command line: a version built beside live traffic and killed amid it, compared,
//! switched to while everybody reads, rolled back, dropped; dead letters; an incident looked at in a sandbox.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::judge::{audit_up, check};
use modelfaucet_integration_tests::process::{Up, binary, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, PATIENCE, Plan, Traffic};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// What is rebuilt and switched: money and usage, tables that only grow and tables that change.
const NAMES: [&str; 3] = ["journal", "wallets", "usage"];

async fn connect(up: &Up, role: &str) -> Client {
    let (client, connection) = up.database(role).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Twenty thousand calls, in twenty requests.
async fn history(up: &Up) -> String {
    let (_, wallet) = up.wallet_with("much", "100.00").await;
    for request in 0..20 {
        let call = |number: i32| {
            json!({ "request_id": format!("much-{request}-{number}"), "wallet_id": wallet, "model": "gpt-4o-mini",
                    "usage": { "input_uncached": number, "output_text": 9 } })
        };
        let calls = (0..1_000).map(call).collect::<Vec<_>>().into();
        let answer = up.as_admin("POST", "/v1/usage/batch", "", &calls).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    wallet
}

/// Runs a verb off the threads of the clients.
async fn run(up: &Arc<Up>, line: &str, variables: &[(&'static str, String)]) -> Output {
    let (up, line, variables) = (Arc::clone(up), line.to_owned(), variables.to_vec());
    tokio::task::spawn_blocking(move || {
        let words: Vec<&str> = line.split(' ').collect();
        up.run_with(&words, &variables)
    })
    .await
    .unwrap()
}

/// Runs a verb that has to end with this code; what it prints.
async fn run_to(up: &Arc<Up>, line: &str, code: i32) -> String {
    run_as(up, line, code, &[]).await
}

async fn run_as(up: &Arc<Up>, line: &str, code: i32, variables: &[(&'static str, String)]) -> String {
    let output = run(up, line, variables).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{line}\n{out}\n{err}");
    format!("{out}{err}")
}

async fn json_of(up: &Arc<Up>, line: &str, code: i32) -> Value {
    let output = run(up, line, &[]).await;
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}\n{}\n{err}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A version and where it stands; `None` if there is none.
async fn version(client: &Client, name: &str, version: i32) -> Option<(String, i64, Option<String>)> {
    let sql = "SELECT r.state, coalesce(c.position, 0), c.halted FROM projection.registry r
               LEFT JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version
               WHERE r.name = $1 AND r.version = $2";
    let row = client.query_opt(sql, &[&name, &version]).await.unwrap();
    row.map(|row| (row.get(0), row.get(1), row.get(2)))
}

fn rebuilding(up: &Up) -> Child {
    let mut command = Command::new(binary());
    command.args(["projection", "rebuild", "journal", "--max-rate", "3000", "--quiet"]);
    command.current_dir(up.data_dir().parent().unwrap()).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A rebuild of the journal that has committed more than so much, or, for 0, has begun.
async fn rebuilding_behind(up: &Up, client: &Client, reached: i64) -> Child {
    let (mut process, began) = (rebuilding(up), Instant::now());
    loop {
        let now = version(client, "journal", 2).await;
        if now.is_some_and(|(state, position, _)| state == "building" && (reached == 0 || position > reached)) {
            return process;
        }
        assert!(began.elapsed() < PATIENCE && process.try_wait().unwrap().is_none(), "the rebuild was over too soon");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Ctrl-C: it commits what it has and says that it was interrupted. Where it stands.
async fn interrupt_a_rebuild(up: &Up, client: &Client) -> i64 {
    let mut process = rebuilding_behind(up, client, 0).await;
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(130));
    version(client, "journal", 2).await.unwrap().1
}

/// Kills a rebuild amid its work, when it has committed something. Where it stood.
async fn kill_a_rebuild(up: &Up, client: &Client, reached: i64) -> i64 {
    let mut process = rebuilding_behind(up, client, reached.max(1)).await;
    process.kill().unwrap();
    assert_eq!(process.wait().unwrap().signal(), Some(9));
    let (state, position, _) = version(client, "journal", 2).await.unwrap();
    assert_eq!(state, "building", "it is not finished");
    position
}

/// Readers that never pause; what went wrong, and how many reads there were.
struct Readers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(u64, Vec<String>)>>,
}

impl Readers {
    fn start(up: &Up, wallet: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let paths = [
            format!("/v1/wallets/{wallet}/statement?limit=20"),
            "/v1/admin/trial-balance".to_owned(),
            format!("/v1/wallets/{wallet}"),
            "/v1/admin/journal?limit=20".to_owned(),
        ];
        let tasks = (0..paths.len())
            .map(|first| {
                let (address, token, paths, stop) = (up.address(), up.admin(), paths.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut connection =
                        modelfaucet_integration_tests::connection::Connection::open(&address, &token).await.unwrap();
                    let (mut reads, mut failed) = (0, Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        let path = &paths[(first + usize::try_from(reads).unwrap()) % paths.len()];
                        match connection.send("GET", path, "", "", b"").await {
                            Ok(answer) if answer.status == 200 => {}
                            other => failed.push(format!("{path}: {other:?}")),
                        }
                        reads += 1;
                    }
                    (reads, failed)
                })
            })
            .collect();
        Self { stop, tasks }
    }

    async fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut reads, mut failed) = (0, Vec::new());
        for task in self.tasks {
            let (more, wrong) = task.await.unwrap();
            reads += more;
            failed.extend(wrong);
        }
        (reads, failed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_survives_its_death_comes_to_the_same_and_takes_the_place_of_the_live_one() {
    if !has_postgres() {
        return;
    }
    let up = Arc::new(Up::start().await);
    let wallet = history(&up).await;
    let client = connect(&up, "ledger_projector").await;
    let plan = Plan { clients: 4, ..Plan::of("rebuild", &up, &Dice::of_run()).await };
    let mut traffic = Traffic::start(plan);
    traffic.fault("F16", "rebuild of the journal", "kill");
    let reached = interrupt_a_rebuild(&up, &client).await;
    let reached = kill_a_rebuild(&up, &client, reached).await;
    let second = run_to(&up, "projection switch journal v2 --reason test --yes", 3).await;
    assert!(second.contains("is building"), "{second}");

    // The same command goes on where the dead one stood.
    let said = run_to(&up, "projection rebuild journal", 0).await;
    assert!(said.contains(&format!("goes on at s00:{reached}")), "{said}");
    for name in &NAMES[1..] {
        run_to(&up, &format!("projection rebuild {name}"), 0).await;
    }
    let refused = run_to(&up, "projection switch wallets v2 --reason test --yes", 3).await;
    assert!(refused.contains("was not compared"), "{refused}");
    for name in NAMES {
        let output = run(&up, &format!("projection diff {name} v1 v2 --json"), &[]).await;
        let diff: Value = serde_json::from_slice(&output.stdout).unwrap();
        let is_equal = output.status.code() == Some(0) && diff["equal"] == true;
        assert!(is_equal, "I6: the versions of a projection differ: {diff}");
        assert!(diff["tables"][0]["first"]["rows"].as_i64() > Some(0), "{diff}");
    }

    // Everybody reads on while the tables change places, there, back, and there again.
    let readers = Readers::start(&up, &wallet);
    for name in NAMES {
        run_to(&up, &format!("projection switch {name} v2 --reason test"), 0).await;
        assert_eq!(version(&client, name, 1).await.unwrap().0, "live", "without --yes nothing is done");
        for line in ["switch NAME v2", "rollback NAME", "switch NAME v2"] {
            let line = line.replace("NAME", name);
            let done = json_of(&up, &format!("projection {line} --reason test --yes --json"), 0).await;
            assert!(done["switched"]["milliseconds"].is_u64(), "{done}");
        }
        assert_eq!(version(&client, name, 2).await.unwrap().0, "live");
        assert_eq!(version(&client, name, 1).await.unwrap().0, "standby");
    }
    traffic.more(100).await;
    let (reads, failed) = readers.stop().await;
    assert!(reads > 50 && failed.is_empty(), "{reads} reads; {failed:#?}");

    let live = run_to(&up, "projection drop journal v2 --reason test --yes", 3).await;
    assert!(live.contains("is live"), "{live}");
    a_planted_difference_is_named(&up, &client, &wallet).await;
    run_to(&up, "projection drop wallets v1 --reason test --yes", 0).await;
    assert_eq!(version(&client, "wallets", 1).await, None);
    run_to(&up, "projection rollback wallets --reason test --yes", 3).await;

    traffic.more(50).await;
    let (tally, histories) = traffic.stop().await;
    check(&up.database("ledger_audit"), &histories).await;
    assert!(tally.odd.is_empty() && tally.reads > 0, "{tally:#?}");
    audit_up(&up).await;
    let demanded = "a rebuild that was killed beside live traffic goes on where it stood and comes to the same rows; switched there, \
                    back and there again without a failed read";
    report::fault("F16", &Figures { injected: tally.made("F16"), recoveries: &[], demanded, invariants: &["I6"] });
}

/// Somebody changes a row of the tables that were live: the diff names its key, its column and the event that wrote it, and whoever
/// made the diff cannot approve of it.
async fn a_planted_difference_is_named(up: &Arc<Up>, client: &Client, wallet: &str) {
    run_to(up, "projection pause wallets v1 --reason look --yes", 0).await;
    let halted = version(client, "wallets", 1).await.unwrap().2;
    assert!(halted.is_some_and(|halted| halted.starts_with("paused by os:")), "it stands still");
    let superuser = connect(up, "postgres").await;
    let plant = format!("UPDATE p_wallets_v1.wallet SET posted = posted + 7 WHERE wallet_id = '{wallet}'");
    assert_eq!(superuser.execute(&plant, &[]).await.unwrap(), 1);
    run_to(up, "projection resume wallets v1 --reason look --yes", 0).await;

    let diff = json_of(up, "projection diff wallets v2 v1 --json", 1).await;
    assert_eq!(diff["equal"], false);
    let rows = diff["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{diff}");
    let line = rows[0]["line"].as_str().unwrap();
    assert!(line.contains(&format!("wallet_id={wallet}")) && line.contains("posted "), "{line}");
    // The last event that wrote the row, as the log has it.
    let last = "SELECT max(position) FROM ledger.event
                WHERE position <= $1 AND convert_from(payload, 'UTF8')::jsonb ->> 'wallet_id' = $2";
    let at: i64 = diff["at"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let last: i64 = client.query_one(last, &[&at, &wallet]).await.unwrap().get(0);
    let why = &rows[0]["why"]["not_from_the_log"];
    assert_eq!((&why["of"], &why["last"]["position"]), (&json!("second"), &json!(last)), "{diff}");

    let id = &diff["diff"];
    let refused = run_to(up, "projection switch wallets v1 --reason test --yes", 3).await;
    assert!(refused.contains("found differences"), "{refused}");
    let mine = run_to(up, &format!("projection switch wallets v1 --approve {id} --reason test --yes"), 3).await;
    assert!(mine.contains("somebody else has to approve"), "{mine}");
    let body = json!({ "name": "Grace", "role": "operator" });
    let issued = up.as_admin("POST", "/v1/admin/tokens", "", &body).await.json();
    let grace = [("STAFF_TOKEN", issued["token"].as_str().unwrap().to_owned())];
    let line = format!("projection switch wallets v1 --approve {id} --reason test");
    let began = Instant::now();
    // Known here as soon as the read tables have it.
    let mut plan = run(up, &line, &grace).await;
    while plan.status.code() == Some(3) && began.elapsed() < PATIENCE {
        plan = run(up, &line, &grace).await;
    }
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("v1 becomes live instead of v2"), "another person may: {plan}");
    let nobody = [("STAFF_TOKEN", "mf_staff_nobody_knows_this_token_at_all".to_owned())];
    run_as(up, "projection pause wallets v1 --reason test --yes", 3, &nobody).await;
}

/// Puts events aside as a projector would: the rows that they made are gone, and letters stand in their place.
async fn put_aside(superuser: &Client, stream: &str) -> Vec<i64> {
    let letters = "WITH gone AS (DELETE FROM p_audit_log_v1.audit_log WHERE stream = $1 RETURNING shard, position)
        INSERT INTO projection.dead_letter (projection, version, shard, stream, position, cause)
        SELECT 'audit_log', 1, shard, $1, position, 'a test' FROM gone RETURNING position";
    let rows = superuser.query(letters, &[&stream]).await.unwrap();
    let mut positions: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    positions.sort_unstable();
    positions
}

async fn letters(up: &Arc<Up>, all: bool, code: i32) -> Vec<Value> {
    let line = if all { "dead list --all --json" } else { "dead list --json" };
    json_of(up, line, code).await["letters"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_tried_again_in_order_and_an_incident_is_looked_at_in_a_sandbox() {
    if !has_postgres() {
        return;
    }
    let up = Arc::new(Up::start().await);
    let (_, wallet) = up.wallet_with("somebody", "10.00").await;
    for amount in ["1.00", "2.00"] {
        let body = json!({ "direction": "credit", "amount_usd": amount, "reason": "test" });
        let key = format!("idempotency-key: {amount}\r\n");
        let answer = up.as_admin("POST", &format!("/v1/admin/wallets/{wallet}/adjustments"), &key, &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let superuser = connect(&up, "postgres").await;
    let stream = "SELECT stream FROM p_audit_log_v1.audit_log GROUP BY stream HAVING count(*) > 1 ORDER BY max(position) DESC LIMIT 1";
    let began = Instant::now();
    let stream: String = loop {
        if let Some(row) = superuser.query_opt(stream, &[]).await.unwrap() {
            break row.get(0);
        }
        assert!(began.elapsed() < PATIENCE, "no stream has two acts");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(run_to(&up, "dead list", 0).await.trim(), "no dead letters");
    let positions = put_aside(&superuser, &stream).await;
    assert!(positions.len() > 1, "{positions:?}");
    retried(&up, &superuser, &positions).await;
    resolved(&up, &superuser, &stream).await;
    looked_at(&up, &superuser, &wallet).await;
}

async fn retried(up: &Arc<Up>, superuser: &Client, positions: &[i64]) {
    let first = letters(up, false, 1).await;
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!((&first[0]["position"], &first[0]["attempts"]), (&json!(positions[0]), &json!(1)));
    assert_eq!(first[0]["waiting"], json!(positions.len() - 1));
    let id = &first[0]["id"];
    let behind = letters(up, true, 1).await.last().unwrap()["id"].clone();
    let shown = run_to(up, &format!("dead show {id}"), 0).await;
    assert!(shown.contains("\"text\"") && !shown.contains("somebody"), "values are masked: {shown}");
    run_to(up, &format!("dead show {id} --show-payload"), 2).await;
    run_to(up, &format!("dead show {id} --show-payload --reason INC-12"), 0).await;
    let looked = "SELECT count(*) FROM projection.act WHERE act = 'show payload' AND reason = 'INC-12'";
    assert_eq!(superuser.query_one(looked, &[]).await.unwrap().get::<_, i64>(0), 1, "a look is on record");

    let waits = run_to(up, &format!("dead retry {behind} --reason test --yes"), 3).await;
    assert!(waits.contains("waits behind"), "{waits}");
    // A row is in the way of the last one: nothing of the attempt stays but its count.
    let last = positions.last().unwrap();
    let plant = "INSERT INTO p_audit_log_v1.audit_log VALUES (0, $1, now(), 'x', 'x', 'x', 'x', '{}')";
    superuser.execute(plant, &[last]).await.unwrap();
    let again = run_to(up, &format!("dead retry {id} --from-here --reason test --yes"), 1).await;
    assert!(again.contains("failed again"), "{again}");
    let letters_now = letters(up, true, 1).await;
    assert_eq!((letters_now.len(), &letters_now[0]["attempts"]), (positions.len(), &json!(2)));
    superuser.execute("DELETE FROM p_audit_log_v1.audit_log WHERE position = $1", &[last]).await.unwrap();
    let done = run_to(up, &format!("dead retry {id} --from-here --reason test --yes"), 0).await;
    assert!(done.contains(&format!("{} applied", positions.len())), "{done}");
    letters(up, true, 0).await;
    audit_up(up).await;
    // The projection has gone on by itself.
    let halted = "SELECT count(*) FROM projection.checkpoint WHERE halted IS NOT NULL";
    assert_eq!(superuser.query_one(halted, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Two people take a letter off the list; what waited behind it is applied, and `verify` knows that this one is not.
async fn resolved(up: &Arc<Up>, superuser: &Client, stream: &str) {
    let positions = put_aside(superuser, stream).await;
    let id = letters(up, false, 1).await[0]["id"].clone();
    let head: i64 = superuser.query_one("SELECT max(position) FROM ledger.event", &[]).await.unwrap().get(0);
    let line = format!("dead resolve {id} --with-event {head} --reason test --yes");
    let early = run_to(up, &format!("dead resolve {id} --with-event {} --reason test --yes", positions[0]), 3).await;
    assert!(early.contains("is not behind"), "{early}");
    for _ in 0..2 {
        let alone = run_to(up, &line, 3).await;
        assert!(alone.contains("somebody else"), "{alone}");
    }
    let body = json!({ "name": "Grace", "role": "operator" });
    let issued = up.as_admin("POST", "/v1/admin/tokens", "", &body).await.json();
    let grace = [("STAFF_TOKEN", issued["token"].as_str().unwrap().to_owned())];
    let began = Instant::now();
    loop {
        let output = run(up, &line, &grace).await;
        if output.status.success() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", String::from_utf8_lossy(&output.stderr));
    }
    let next = letters(up, false, 1).await[0].clone();
    assert_eq!(next["position"], json!(positions[1]));
    run_to(up, &format!("dead retry {} --from-here --reason test --yes", next["id"]), 0).await;
    letters(up, true, 0).await;
    audit_up(up).await;
    // Back to what the log says, for what follows.
    superuser.batch_execute("DELETE FROM projection.resolved_letter").await.unwrap();
    let row = "INSERT INTO projection.dead_letter (projection, version, shard, stream, position, cause) VALUES ('audit_log', 1, 0, $1, $2, 'a test')";
    superuser.execute(row, &[&stream, &positions[0]]).await.unwrap();
    let id = letters(up, false, 1).await[0]["id"].clone();
    run_to(up, &format!("dead retry {id} --reason test --yes"), 0).await;
}

/// What the live database holds, as far as a replay could change it.
async fn live(superuser: &Client) -> String {
    let sql = "SELECT format('%s %s %s %s', (SELECT count(*) FROM projection.act), (SELECT max(position) FROM ledger.event),
                   (SELECT string_agg(format('%s%s%s%s', name, version, state, code), ',' ORDER BY name) FROM projection.registry),
                   (SELECT sum(hashtext(w::text)) FROM p_wallets_v1.wallet w))";
    superuser.query_one(sql, &[]).await.unwrap().get(0)
}

async fn looked_at(up: &Arc<Up>, superuser: &Client, wallet: &str) {
    let before = live(superuser).await;
    let plan = run_to(up, "replay plan --from 3 --into sandbox", 0).await;
    assert!(plan.contains("nothing is sent anywhere"), "{plan}");
    let said = json_of(up, "replay run --from 3 --into sandbox --json", 0).await;
    let projections = said["projections"].as_array().unwrap();
    assert!(projections.len() > 10, "{said}");
    for projection in projections {
        assert_eq!(projection["live"]["equal"], true, "{projection}");
    }
    let there = run_to(up, "replay run --from 3 --into sandbox", 3).await;
    assert!(there.contains("is there already"), "{there}");
    // The copy is a log like any other: its chain holds.
    run_to(up, "verify --quiet --data-dir sandbox", 0).await;

    // An earlier end: said, and not compared.
    let line = "replay run --to 5 --into sandbox --sandbox-dir early --projection wallets --version v1 --json";
    let early = json_of(up, line, 0).await;
    assert!(early["projections"][0]["live"]["not_compared"].is_string(), "{early}");
    run_to(up, "replay plan --into sandbox --projection wallets --version v9", 3).await;

    // Somebody changes a live row: the replay says otherwise.
    let plant = format!("UPDATE p_wallets_v1.wallet SET posted = posted + 7 WHERE wallet_id = '{wallet}'");
    superuser.execute(&plant, &[]).await.unwrap();
    let line = "replay run --into sandbox --sandbox-dir planted --projection wallets --json";
    let planted = json_of(up, line, 1).await;
    assert!(planted["projections"][0]["live"]["tables"].to_string().contains(wallet), "{planted}");
    superuser.batch_execute(&plant.replace("+ 7", "- 7")).await.unwrap();
    assert_eq!(live(superuser).await, before, "live is only read");
}
