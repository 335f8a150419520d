//! Backups of a living ledger: random moments are restored and proved, what a restore has lost is counted and named, no writer goes
//! on over it, a mirror brings it back to the same hashes, and without one the log forks where everybody can see it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::process::{Setting, Up, fork_words, has_postgres, url};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_schema::log::boot::ServiceRole;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// How long something may take that takes a second.
const LIMIT: Duration = Duration::from_secs(60);
/// How many clients write at once.
const CLIENTS: usize = 4;

/// A command that was acknowledged: its key and the position that it was told.
#[derive(Clone, Debug, PartialEq)]
struct Acknowledged {
    key: String,
    position: i64,
}

/// Clients that grant credit, one command after the other, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Acknowledged>>>,
}

impl Load {
    fn start(up: &Up, wallet: &str, name: &str) -> Self {
        Self::at(&up.address(), &up.admin(), wallet, name)
    }

    fn at(address: &str, admin: &str, wallet: &str, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: usize| {
            let (stop, address, admin) = (Arc::clone(&stop), address.to_owned(), admin.to_owned());
            let (wallet, prefix) = (wallet.to_owned(), format!("{name}-{number}"));
            tokio::spawn(async move {
                let mut connection = Connection::open(&address, &admin).await.unwrap();
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{prefix}-{}", acknowledged.len());
                    // The server may be killed; what has no answer was not acknowledged.
                    let Some((position, replayed)) = try_credit(&mut connection, &wallet, &key).await else { break };
                    assert!(!replayed);
                    acknowledged.push(Acknowledged { key, position });
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                acknowledged
            })
        };
        Self { clients: (0..CLIENTS).map(client).collect(), stop }
    }

    /// Everything that was acknowledged, by position.
    async fn stop(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        self.killed().await
    }

    /// The same, where the server is gone.
    async fn killed(self) -> Vec<Acknowledged> {
        let mut all = Vec::new();
        for client in self.clients {
            all.extend(client.await.unwrap());
        }
        all.sort_by_key(|one| one.position);
        all
    }
}

/// One command: its position, and whether it had been there before.
async fn credit(connection: &mut Connection, wallet: &str, key: &str) -> (i64, bool) {
    try_credit(connection, wallet, key).await.unwrap()
}

/// The same; nothing if the connection breaks.
async fn try_credit(connection: &mut Connection, wallet: &str, key: &str) -> Option<(i64, bool)> {
    let path = format!("/v1/admin/wallets/{wallet}/credit-test-balance");
    let headers = format!("idempotency-key: {key}\r\n");
    let answer = connection.json("POST", &path, &headers, &json!({ "amount_usd": "0.01" })).await.ok()?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let position = answer.header("ledger-position").unwrap().parse().unwrap();
    Some((position, answer.header("idempotent-replayed") == Some("true")))
}

/// A ledger with a repository beside it.
struct Ledger {
    up: Up,
    repository: tempfile::TempDir,
}

impl Ledger {
    async fn start() -> Self {
        let repository = tempfile::Builder::new().prefix("modelfaucet-backup-").tempdir().unwrap();
        let up = Up::start_with_variables(&[("BACKUP_DIR", repository.path().to_str().unwrap())]).await;
        Self { up, repository }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.repository.path().join(name)
    }

    /// Runs a verb on this ledger and repository.
    fn run(&self, arguments: &[&str]) -> Output {
        self.up.run_with(arguments, &[("BACKUP_DIR", self.repository.path().display().to_string())])
    }

    /// The same, and the JSON that it prints; it must end with `exit`.
    fn ends_with(&self, exit: i32, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {out}{err}");
        out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What it says when it refuses.
    fn refuses(&self, exit: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {text}");
        text
    }

    /// Waits until so many more heads were witnessed.
    async fn until_heads(&self, more: usize) {
        let count = || std::fs::read_to_string(self.path("heads/s00.heads")).unwrap_or_default().lines().count();
        let (began, before) = (Instant::now(), count());
        while count() < before + more {
            assert!(began.elapsed() < LIMIT, "heads are not witnessed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The highest position that was witnessed, once it is this one.
    async fn until_witnessed(&self, position: i64) {
        let began = Instant::now();
        loop {
            let book = std::fs::read_to_string(self.path("heads/s00.heads")).unwrap_or_default();
            let last = book.lines().last().and_then(|line| line.split(' ').nth(2)?.parse().ok());
            if last == Some(position) {
                return;
            }
            assert!(began.elapsed() < LIMIT, "position {position} is not witnessed: {last:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Puts another data directory in the place of the present one, with its secrets.
    fn change_to(&self, restored: &Path) {
        let data = self.up.data_dir();
        let old = data.with_extension(format!("before-{}", restored.file_name().unwrap().display()));
        std::fs::rename(&data, &old).unwrap();
        std::fs::rename(restored, &data).unwrap();
        std::fs::create_dir(data.join("secrets")).unwrap();
        for file in std::fs::read_dir(old.join("secrets")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), data.join("secrets").join(file.file_name())).unwrap();
        }
    }

    /// Starts it and waits for the end, which must be exit 6 and say this.
    fn does_not_start(&mut self, saying: &str) {
        self.up.start_again();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.up.ended() {
                break status;
            }
            assert!(began.elapsed() < LIMIT, "it starts over a log that has lost its end: {}", self.up.log());
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(status.code(), Some(6), "{}", self.up.log());
        assert!(self.up.log().contains(saying), "{saying}: {}", self.up.log());
    }

    async fn starts(&mut self) {
        self.up.start_again();
        self.up.wait_until_ready(LIMIT).await;
    }

    async fn client(&self) -> Client {
        let (client, connection) = self.up.database("postgres").connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn head(&self) -> (String, i64, String) {
        head(&self.client().await).await
    }
}

/// How long a restore took until the ledger could serve.
fn to_serve(report: &Value) -> Duration {
    Duration::from_secs_f64(report["seconds_to_serve"].as_f64().unwrap())
}

fn drills() -> u32 {
    std::env::var("MODELFAUCET_DRILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(2)
}

/// Somewhere in the middle half, another place each time.
fn random_of(acknowledged: &[Acknowledged]) -> i64 {
    let random = usize::try_from(uuid::Uuid::new_v4().as_u128() % 1_000).unwrap();
    acknowledged[acknowledged.len() / 4 + random * acknowledged.len() / 2_000].position
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restore_loses_is_counted_refused_and_recovered_or_forked() {
    if !has_postgres() {
        return;
    }
    let mut ledger = Ledger::start().await;
    let (_, wallet) = ledger.up.wallet_with("backup", "1.00").await;
    let issued = ledger.up.as_admin("POST", "/v1/admin/tokens", "", &json!({ "name": "Ada", "role": "admin" })).await;
    let second = ledger.path("second-token");
    std::fs::write(&second, issued.json()["token"].as_str().unwrap()).unwrap();

    // A base backup under load, and drills while it goes on.
    let load = Load::start(&ledger.up, &wallet, "one");
    ledger.ends_with(0, &["backup", "run"]);
    // As many moments as there are drills, so that they are not all the same one.
    ledger.until_heads(usize::try_from(drills()).unwrap() + 1).await;
    let count = drills().to_string();
    let mut recoveries = Vec::new();
    for drill in ledger.ends_with(0, &["drill", "--count", &count, "--json", "--quiet"]) {
        println!("{drill}");
        assert_eq!((&drill["passed"], &drill["events_lost"]), (&json!(true), &json!(0)), "{drill}");
        assert!(drill["restored"].as_i64() >= drill["expected"].as_i64(), "{drill}");
        recoveries.push(to_serve(&drill));
    }
    let acknowledged = load.stop().await;
    let last = acknowledged.last().unwrap().position;
    ledger.until_witnessed(last).await;
    let metrics = ledger.path("backup.prom");
    let checked = ledger.ends_with(0, &["backup", "check", "--json", "--metrics", metrics.to_str().unwrap()]);
    assert_eq!(checked[0]["ok"], true, "{checked:?}");
    let shown = std::fs::read_to_string(&metrics).unwrap();
    for name in [
        "backup_last_success_timestamp_seconds",
        "wal_archive_age_seconds",
        "restore_drill_last_success_timestamp_seconds",
    ] {
        assert!(shown.contains(&format!("\nmodelfaucet_{name} ")), "{name}: {shown}");
    }
    let head = ledger.head().await;
    assert_eq!(head.1, last);

    // A restore to an earlier position: the loss is what was acknowledged behind it.
    let wanted = random_of(&acknowledged);
    let into = ledger.path("restored");
    let place = into.to_str().unwrap().to_owned();
    let to_position = format!("s00:{wanted}");
    let restore = ["restore", "run", "--to-position", &to_position, "--into", &place, "--json", "--quiet"];
    let restored = ledger.ends_with(6, &restore).remove(0);
    println!("{restored}");
    let position = restored["position"].as_i64().unwrap();
    let lost = acknowledged.iter().filter(|one| one.position > position).count();
    assert!(position >= wanted && lost > 0, "restored {position}, wanted {wanted}");
    assert_eq!(restored["events_lost"], json!(lost));
    assert_eq!((&restored["lost_first"], &restored["lost_last"]), (&json!(position + 1), &json!(last)));
    assert_eq!((&restored["verified"]["ok"], &restored["trial_balance"]), (&json!(true), &json!("0")), "{restored}");
    assert!(ledger.refuses(78, &restore).contains("holds something"), "never over another");

    // No writer goes on over the loss; the mirror brings it back to the same hash.
    ledger.up.stop();
    ledger.change_to(&into);
    ledger.does_not_start(&format!("positions {}..{last} are lost", position + 1));
    let mirror = ledger.path("mirror").display().to_string();
    let output = ledger.run(&["log", "recover", "--from", &mirror, "--quiet"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(&format!("positions {}..{last} are in the log again", position + 1)), "{text}");
    ledger.starts().await;
    assert_eq!(ledger.head().await, head, "byte for byte the same log");
    let mut connection = Connection::open(&ledger.up.address(), &ledger.up.admin()).await.unwrap();
    for one in acknowledged.iter().rev().take(lost + 10).step_by(20) {
        assert_eq!(credit(&mut connection, &wallet, &one.key).await, (one.position, true), "{one:?}");
    }
    ledger.ends_with(0, &["verify", "--quiet"]);

    // On the new timeline it takes a new base backup; then a loss that nothing can bring back.
    ledger.ends_with(0, &["backup", "run"]);
    let load = Load::start(&ledger.up, &wallet, "two");
    ledger.until_heads(3).await;
    let acknowledged = load.stop().await;
    let last = acknowledged.last().unwrap().position;
    ledger.until_witnessed(last).await;
    let note = ledger.path("note");
    std::fs::write(&note, ledger.run(&["log", "head"]).stdout).unwrap();
    ledger.ends_with(0, &["verify", "--quiet", "--no-projections", "--against", note.to_str().unwrap()]);
    let old = ledger.head().await;
    ledger.up.stop();
    let into = ledger.path("again");
    let to_position = format!("s00:{}", random_of(&acknowledged));
    let place = into.to_str().unwrap().to_owned();
    let restored = ledger
        .ends_with(6, &["restore", "run", "--to-position", &to_position, "--into", &place, "--json", "--quiet"])
        .remove(0);
    let common = restored["position"].as_i64().unwrap();
    assert_eq!(restored["events_lost"], json!(acknowledged.iter().filter(|one| one.position > common).count()));
    std::fs::remove_dir_all(ledger.path("mirror")).unwrap();
    ledger.change_to(&into);
    ledger.does_not_start(&format!("positions {}..{last} are lost", common + 1));

    // A fork takes two people, and names the whole loss.
    let (first, second) = (ledger.up.data_dir().join("secrets/admin_token"), second.display().to_string());
    let first = first.display().to_string();
    let fork = |lost: String, second: &str| {
        [
            "log",
            "fork",
            "--lost",
            &lost,
            "--reason",
            "the disk and the mirror are gone",
            "--first-token-file",
            &first,
            "--second-token-file",
            second,
        ]
        .map(str::to_owned)
    };
    let whole = format!("{}..{last}", common + 1);
    for (arguments, saying) in [
        (fork(whole.clone(), &first), "takes two people"),
        (fork(format!("{common}..{last}"), &second), "what is lost begins at"),
        (fork(format!("{0}..{0}", common + 1), &second), "name everything up to it"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = ledger.refuses(3, &arguments);
        assert!(said.contains(saying), "{saying}: {said}");
    }
    let arguments = fork(whole, &second);
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = ledger.run(&arguments);
    assert_eq!(said.status.code(), Some(0));
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("would go on under another log id") && said.contains("repeat with --yes"), "{said}");
    ledger.does_not_start(&format!("positions {}..{last} are lost", common + 1));
    arguments.push("--yes");
    ledger.ends_with(0, &arguments);

    // What has read the lost positions halts and says so; what stands before the fork goes on.
    ledger.starts().await;
    let (log_id, position, _) = ledger.head().await;
    assert_ne!(log_id, old.0, "it goes on under another id");
    assert!(position > common, "with the fork as its first event");
    let load = Load::start(&ledger.up, &wallet, "three");
    ledger.until_heads(1).await;
    let acknowledged = load.stop().await;
    assert!(acknowledged.first().unwrap().position > common + 1);
    ledger.ends_with(0, &["verify", "--quiet"]);
    let cut = ledger.run(&["verify", "--quiet", "--no-projections", "--against", note.to_str().unwrap()]);
    assert_eq!(cut.status.code(), Some(6), "a note of what is lost is not forgotten");
    let client = ledger.client().await;
    let event: String = client
        .query_one(
            "SELECT convert_from(payload, 'UTF8') FROM ledger.event WHERE position = $1 AND type = 'LogForked'",
            &[&(common + 1)],
        )
        .await
        .unwrap()
        .get(0);
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!((&event["lost_from"], &event["lost_until"]), (&json!(common + 1), &json!(last)), "{event}");
    assert_eq!(
        (&event["common"], &event["previous_log_id"], &event["log_id"]),
        (&json!(common), &json!(old.0), &json!(log_id))
    );

    // A projection that had read the lost positions, as one in another database would have.
    let (_, _, lost_hash) = old;
    let moved = "UPDATE projection.checkpoint SET log_id = $1::text::uuid, position = $2, hash = decode($3, 'hex') WHERE name = 'freezes'";
    assert_eq!(
        client.execute(moved, &[&event["previous_log_id"].as_str().unwrap(), &last, &lost_hash]).await.unwrap(),
        1
    );
    client
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ledger_projector'")
        .await
        .unwrap();
    let halted = halted(&client).await;
    assert!(
        halted.contains(&format!("positions {}..{last} were read", common + 1)) && halted.contains("rebuild it"),
        "{halted}"
    );
    drop(client);

    // Rebuilt, it goes on.
    rebuild(&mut ledger).await;
    ledger.ends_with(0, &["verify", "--quiet"]);
    ledger.up.stop();

    // A damaged backup does not pass.
    damage(&ledger);
    let checked = ledger.ends_with(1, &["backup", "check", "--json"]);
    let findings = checked[0]["findings"].to_string();
    assert!(findings.contains("pg_verifybackup") && findings.contains("checksum mismatch"), "{findings}");
    let demanded =
        "restores to random places, each proved by chain, trial balance and read tables; a damaged backup is found";
    let injected = recoveries.len() as u64;
    report::fault(
        "F24",
        &Figures { injected, recoveries: &recoveries, demanded, invariants: &["I1", "I4", "I6", "I7"] },
    );
    let demanded = "no writer goes on over lost events; their range is named, a mirror brings them back to the same hash, or two \
                    people fork the log";
    report::fault("F25", &Figures { injected: 2, recoveries: &[], demanded, invariants: &["I1", "I7"] });
}

/// `kill -9` anywhere in a recovery or a fork, a writer in the middle of it, a writer before it: the same command goes on or tells that it is
/// done, nothing is lost, nothing is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_and_fork_are_safe_to_repeat_and_to_race() {
    let Some(whole) = TestDatabase::durable().await else { return };
    let over = async |database: &TestDatabase| {
        Up::start_with(Setting { database: Some(database.superuser()), ..Setting::default() }).await
    };
    let folder = tempfile::tempdir().unwrap();
    let mirror = folder.path().join("mirror").display().to_string();
    let mut up = over(&whole).await;
    let (_, wallet) = up.wallet_with("repeat", "1.00").await;
    let issued = up.as_admin("POST", "/v1/admin/tokens", "", &json!({ "name": "Ada", "role": "admin" })).await;
    let second = issued.json()["token"].as_str().unwrap().to_owned();
    up.stop();
    // As three restores to this moment are; what is acknowledged after it only the mirror has.
    let (raced, written, forked) = (whole.copy().await, whole.copy().await, whole.copy().await);
    up.start_again();
    up.wait_until_ready(LIMIT).await;
    let load = Load::start(&up, &wallet, "whole");
    let began = Instant::now();
    while head(&whole.connect().await).await.1 < 60 {
        assert!(began.elapsed() < LIMIT, "nothing is written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let acknowledged = load.stop().await;
    up.stop();
    let verb = |database: &TestDatabase, words: &[&str], faults: &str| {
        let settings = [
            ("DATABASE_URL", url(&database.superuser())),
            ("ADMIN_TOKEN", up.admin()),
            ("MODELFAUCET_TEST_FAULTS", faults.to_owned()),
        ];
        let output = up.run_with(words, &settings);
        (output.status, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (status, said) = verb(&whole, &["log", "mirror", &mirror], "");
    assert!(status.success(), "{said}");
    let end = head(&whole.connect().await).await;

    // Killed after the first batch, twice; then it waits for the log's lock, a writer with commands waits behind it, and all of it goes in.
    let recover = ["log", "recover", "--from", &mirror, "--quiet"];
    let client = raced.connect().await;
    let before = head(&client).await.1;
    for _ in 0..2 {
        let (status, said) = verb(&raced, &recover, "recover_appended=abort");
        assert_eq!(status.code(), None, "killed: {said}");
    }
    assert!((before + 1..end.1).contains(&head(&client).await.1), "a part of it is there");
    // A writer alone: `up` on a new data directory would write what it sets up.
    let place = raced.url(ServiceRole::Command);
    let racing = up.role_with(&["command"], "ledger_command", &[("DATABASE_URL", place.as_str())]);
    racing.wait_until_ready().await;
    client.batch_execute("SELECT pg_advisory_lock(7304, 0)").await.unwrap();
    let waits = async |what: &str| {
        let began = Instant::now();
        let sql = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.classid = 7304 AND NOT l.granted AND a.datname = current_database() AND a.query LIKE $1";
        while client.query_one(sql, &[&what]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(began.elapsed() < LIMIT, "{what} does not wait for the log");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (meanwhile, (status, said)) = std::thread::scope(|scope| {
        let recovering = scope.spawn(|| verb(&raced, &recover, ""));
        let meanwhile = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                waits("%pg_advisory_lock(%").await;
                let meanwhile = Load::at(&racing.address(), &up.admin(), &wallet, "meanwhile");
                waits("%ledger.append(%").await;
                client.batch_execute("SELECT pg_advisory_unlock(7304, 0)").await.unwrap();
                let began = Instant::now();
                while head(&client).await.1 < end.1 + 20 {
                    assert!(began.elapsed() < LIMIT, "the writer does not go on");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                meanwhile.stop().await
            })
        });
        (meanwhile, recovering.join().unwrap())
    });
    assert!(status.success() && said.contains(&format!("..{} are in the log again", end.1)), "{said}");
    assert!(meanwhile.iter().all(|one| one.position > end.1), "behind what was recovered: {:?}", meanwhile.first());
    let mut connection = Connection::open(&racing.address(), &up.admin()).await.unwrap();
    for one in meanwhile.iter().chain(&acknowledged).step_by(7) {
        assert_eq!(credit(&mut connection, &wallet, &one.key).await, (one.position, true), "{one:?}");
    }
    let (status, said) = verb(&raced, &recover, "");
    assert!(status.success() && said.contains("has nothing behind"), "{said}");
    drop(racing);
    let (status, said) = verb(&raced, &["verify", "--quiet", "--no-projections"], "");
    assert!(status.success(), "{said}");

    // A writer that came before the recovery has the places of what was lost: a refusal with its name, and nothing is changed.
    let mut early = over(&written).await;
    let mut connection = Connection::open(&early.address(), &early.admin()).await.unwrap();
    credit(&mut connection, &wallet, "too-early").await;
    early.stop();
    let client = written.connect().await;
    let before = head(&client).await;
    for _ in 0..2 {
        let (status, said) = verb(&written, &recover, "");
        assert_eq!(status.code(), Some(6), "{said}");
        assert!(said.contains("somebody has written since the restore"), "{said}");
        assert_eq!(head(&client).await, before);
    }

    // A fork is there as a whole or not at all, and once.
    let client = forked.connect().await;
    let before = head(&client).await;
    let asleep = folder.path().join("asleep").display().to_string();
    let (status, said) = verb(&forked, &["log", "mirror", &asleep], "");
    assert!(status.success(), "{said}");
    let lost = format!("{}..{}", before.1 + 1, end.1);
    let fork = fork_words(folder.path(), &lost, [&up.admin(), &second]);
    let fork: Vec<&str> = fork.iter().map(String::as_str).collect();
    for point in ["fork_recorded", "fork_appended"] {
        let (status, said) = verb(&forked, &fork, &format!("{point}=abort"));
        assert_eq!(status.code(), None, "killed: {said}");
        // Its session may still be ending.
        client.batch_execute("SELECT pg_advisory_lock(7304, 0), pg_advisory_unlock(7304, 0)").await.unwrap();
        assert_eq!(head(&client).await, before, "{point}");
    }
    let (status, said) = verb(&forked, &fork, "fork_committed=abort");
    assert_eq!((status.code(), said.as_str()), (None, ""), "killed before it says so");
    let after = head(&client).await;
    assert!(after.0 != before.0 && after.1 == before.1 + 1, "{after:?}");
    for _ in 0..2 {
        let (status, said) = verb(&forked, &fork, "");
        assert!(status.success() && said.contains("was forked there before") && said.contains(&after.0), "{said}");
    }
    assert_eq!(head(&client).await, after);

    // A mirror that has slept through forks goes on line by line: what is left of each of them is in it.
    for lost in [after.1 + 1, after.1 + 2] {
        let fork = fork_words(folder.path(), &format!("{lost}..{lost}"), [&up.admin(), &second]);
        let (status, said) = verb(&forked, &fork.iter().map(String::as_str).collect::<Vec<_>>(), "");
        assert!(status.success(), "{said}");
    }
    let (status, said) = verb(&forked, &["log", "mirror", &asleep], "");
    assert!(status.success() && said.contains(&format!("position {}", after.1 + 2)), "{said}");
    assert_eq!(mirrored(Path::new(&asleep)), linked(&client).await);
}

/// The positions before the batches of a mirror, in order; each in the folder of the log's id that it says.
fn mirrored(mirror: &Path) -> Vec<i64> {
    let mut after = Vec::new();
    for log in std::fs::read_dir(mirror.join("s00")).unwrap() {
        let log = log.unwrap();
        for file in std::fs::read_dir(log.path()).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            after.extend(lines.map(|line| {
                assert_eq!(line["log_id"].as_str(), log.file_name().to_str());
                line["after"].as_i64().unwrap()
            }));
        }
    }
    after.sort_unstable();
    after
}

/// The same of the log.
async fn linked(client: &Client) -> Vec<i64> {
    let sql = "SELECT first_pos - 1 FROM ledger.batch WHERE shard = 0 ORDER BY first_pos";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The log's id, its last position and the hash there.
async fn head(client: &Client) -> (String, i64, String) {
    let sql = "SELECT log_id::text, position, encode(hash, 'hex') FROM ledger.head WHERE shard = 0";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// The server and its disk go at once, in the middle of everything: what the repository has is restored and what the mirror has is
/// recovered. What is left out is the recovery point; it is printed, and nothing that was acknowledged before it is missing.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_disk_that_is_lost_under_load_everything_that_was_copied_comes_back() {
    if !has_postgres() {
        return;
    }
    let mut ledger = Ledger::start().await;
    let (_, wallet) = ledger.up.wallet_with("disk", "1.00").await;
    ledger.ends_with(0, &["backup", "run"]);
    let load = Load::start(&ledger.up, &wallet, "disk");
    ledger.until_heads(3).await;
    ledger.up.kill();
    let acknowledged = load.killed().await;
    let last = acknowledged.last().unwrap();
    let into = ledger.path("restored");
    let output = ledger.run(&["restore", "run", "--into", into.to_str().unwrap(), "--json", "--quiet"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let restored: Value = serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&restored["verified"]["ok"], &restored["trial_balance"]), (&json!(true), &json!("0")), "{restored}");
    assert_eq!(restored["events_missed"], 0, "{restored}");
    ledger.change_to(&into);
    let mirror = ledger.path("mirror").display().to_string();
    ledger.ends_with(0, &["log", "recover", "--from", &mirror, "--quiet"]);
    ledger.starts().await;
    let (_, recovered, _) = ledger.head().await;
    println!(
        "disk lost under load: {} acknowledged behind the restored WAL, {} behind the mirror; {} s to serve",
        acknowledged.iter().filter(|one| one.position > restored["position"].as_i64().unwrap()).count(),
        acknowledged.iter().filter(|one| one.position > recovered).count(),
        restored["seconds_to_serve"]
    );
    let mut connection = Connection::open(&ledger.up.address(), &ledger.up.admin()).await.unwrap();
    for one in acknowledged.iter().filter(|one| one.position <= recovered).step_by(20) {
        assert_eq!(credit(&mut connection, &wallet, &one.key).await, (one.position, true), "{one:?}");
    }
    // And what was lost is done again with its key, once.
    let (again, _) = credit(&mut connection, &wallet, &last.key).await;
    assert_eq!(credit(&mut connection, &wallet, &last.key).await, (again, true));
    ledger.ends_with(0, &["verify", "--quiet"]);
    let demanded = "the server and its disk go under load: what was copied and mirrored comes back, and nothing acknowledged before \
                    that is missing";
    let recoveries = [to_serve(&restored)];
    report::fault("F24", &Figures { injected: 1, recoveries: &recoveries, demanded, invariants: &["I1", "I2"] });
}

/// Why the projection of freezes has halted, once it has.
async fn halted(client: &Client) -> String {
    let began = Instant::now();
    loop {
        let row =
            client.query_one("SELECT halted FROM projection.checkpoint WHERE name = 'freezes'", &[]).await.unwrap();
        if let Some(reason) = row.get(0) {
            return reason;
        }
        assert!(began.elapsed() < LIMIT, "it does not halt");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Forgets a projection; the next start folds it from the beginning.
async fn rebuild(ledger: &mut Ledger) {
    let client = ledger.client().await;
    let version: i32 =
        client.query_one("SELECT version FROM projection.registry WHERE name = 'freezes'", &[]).await.unwrap().get(0);
    client
        .batch_execute(&format!(
            "DROP SCHEMA p_freezes_v{version} CASCADE; DELETE FROM projection.checkpoint WHERE name = 'freezes';
             DELETE FROM projection.registry WHERE name = 'freezes'"
        ))
        .await
        .unwrap();
    drop(client);
    ledger.up.stop();
    ledger.starts().await;
    let (_, head, _) = ledger.head().await;
    let client = ledger.client().await;
    let began = Instant::now();
    loop {
        let sql = "SELECT position, halted IS NULL FROM projection.checkpoint WHERE name = 'freezes'";
        // Ready does not wait for the projector to begin it.
        let row = client.query_opt(sql, &[]).await.unwrap();
        if row.is_some_and(|row| (row.get::<_, i64>(0), row.get::<_, bool>(1)) == (head, true)) {
            return;
        }
        assert!(began.elapsed() < LIMIT, "it does not go on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Turns one byte of the newest base backup around.
fn damage(ledger: &Ledger) {
    let mut bases: Vec<PathBuf> = std::fs::read_dir(ledger.path("base"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    bases.sort();
    let path = bases.last().unwrap().join("PG_VERSION");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}
