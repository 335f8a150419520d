//! The tools of an incident against a running ledger: what they show is what happened, what they do is done once, and all of them keep
//! the same rules of the command line.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::BufRead as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::process::{Up, binary, has_postgres};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long something that has to happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn exit(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a tool on the data directory and reads the JSON that it prints, one value per line.
fn values(up: &Up, arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = up.run(arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let read = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{arguments:?}: {}", told(&output)));
    (exit(&output), text.lines().map(read).collect())
}

fn value(up: &Up, arguments: &[&str]) -> (i32, Value) {
    let output = up.run(arguments);
    let read = serde_json::from_slice(&output.stdout);
    (exit(&output), read.unwrap_or_else(|_| panic!("{arguments:?}: {}", told(&output))))
}

fn explained(up: &Up, id: &str) -> Value {
    let (exit, story) = value(up, &["explain", id, "--json"]);
    assert_eq!((exit, &story["ok"]), (0, &json!(true)), "{id}: {story:#}");
    story
}

fn types(story: &Value) -> Vec<&str> {
    story["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// Until the read tables have everything.
async fn caught_up(up: &Up) -> Value {
    let began = Instant::now();
    loop {
        let (_, status) = value(up, &["status", "--json"]);
        if status["projections"].as_array().unwrap().iter().all(|projection| projection["lag_events"] == 0) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A user with a session, a wallet, and everything that may happen to a call.
struct Shop {
    wallet: String,
    /// Request and hold of the worked example of docs/ACCOUNTING.md.
    example: (String, String),
    /// The request of a call through the gateway.
    call: String,
    /// A hold that expired and was charged later.
    late: String,
    /// A hold that nobody ends.
    open: String,
    top_up: String,
}

impl Shop {
    async fn open(up: &Up) -> Self {
        let (token, wallet) = up.wallet_with("grace", "10").await;
        let mut user = up.connect(&token).await.unwrap();
        let hold = json!({ "model": "gpt-4o-mini", "usage_bound": { "input_uncached": 2_000, "output_text": 500 } });
        let placed = user.json("POST", "/v1/usage/holds", "idempotency-key: call-1\r\n", &hold).await.unwrap();
        assert_eq!(placed.status, 201, "{placed:?}");
        let request = placed.header("x-request-id").unwrap().to_owned();
        let example = placed.json()["hold_id"].as_str().unwrap().to_owned();
        let usage = json!({ "usage": { "input_uncached": 178, "cache_read": 1_025, "output_text": 212 } });
        let captured = user.json("POST", &format!("/v1/usage/holds/{example}/capture"), "", &usage).await.unwrap();
        assert_eq!(captured.status, 200, "{captured:?}");
        let asked = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello" }] });
        let answer = user.json("POST", "/v1/chat/completions", "", &asked).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let call = answer.header("x-request-id").unwrap().to_owned();
        let short = json!({ "model": "gpt-4o-mini", "amount_usd": "0.01", "expires_in": 1 });
        let mut place = async |key: &str, body: &Value| {
            let key = format!("idempotency-key: {key}\r\n");
            let placed = user.json("POST", "/v1/usage/holds", &key, body).await.unwrap();
            assert_eq!(placed.status, 201, "{placed:?}");
            placed.json()["hold_id"].as_str().unwrap().to_owned()
        };
        let late = place("late", &short).await;
        let open = place("open", &json!({ "model": "gpt-4o-mini", "amount_usd": "0.02" })).await;
        wait_for_event(up, "HoldExpired", &late).await;
        let used = user.json("POST", &format!("/v1/usage/holds/{late}/capture"), "", &usage).await.unwrap();
        assert_eq!(used.status, 200, "{used:?}");
        let asked = json!({ "amount_usd": "5.00" });
        let key = "idempotency-key: top-up-1\r\n";
        let top_up = up.as_admin("POST", &format!("/v1/admin/wallets/{wallet}/top-ups"), key, &asked).await;
        let top_up = top_up.json()["top_up_id"].as_str().unwrap_or_else(|| panic!("{top_up:?}")).to_owned();
        let paid = json!({ "payment": "pi_tools_1" });
        let credited = up.as_admin("POST", &format!("/v1/admin/top-ups/{top_up}/credit"), "", &paid).await;
        assert_eq!(credited.status, 200, "{credited:?}");
        Self { wallet, example: (request, example), call, late, open, top_up }
    }
}

/// Until an event of this type mentions an id; its position.
async fn wait_for_event(up: &Up, kind: &str, id: &str) -> i64 {
    let began = Instant::now();
    loop {
        let (_, found) = values(up, &["events", "grep", "--type", kind, "--text", id, "--json", "--quiet"]);
        if let Some(event) = found.first() {
            return event["position"].as_i64().unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "no {kind} of {id}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tool_tells_what_happened() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let shop = Shop::open(&up).await;
    let status = caught_up(&up).await;
    assert_eq!((&status["ok"], &status["holds"]["open"]), (&json!(true), &json!(1)), "{status:#}");
    assert_eq!((&status["books"]["mismatches"], &status["outside"]["redis"]), (&json!(0), &json!("not configured")));

    stories(&up, &shop);
    as_of(&up, &shop.wallet);
    events(&up, &shop).await;
    holds(&up, &shop.open);
    doctor(&up);
    rules(&up);
    damage(&up, &shop).await;
}

fn stories(up: &Up, shop: &Shop) {
    let (request, hold) = &shop.example;
    for id in [request.as_str(), hold.as_str()] {
        let story = explained(up, id);
        assert_eq!(types(&story), ["HoldPlaced", "HoldCaptured"], "{story:#}");
        let price = &story["prices"][0];
        assert_eq!((&price["rating"]["charge"], &price["equal"]), (&json!("0.00030001"), &json!(true)));
        assert_eq!(
            price["lines"][1],
            json!({"component": "cache_read", "count": 1_025, "rate": "0.000000075", "cost": "0.000076875"})
        );
        assert!(story["proofs"].as_array().unwrap().iter().all(|proof| proof["holds"] == true), "{story:#}");
        let place = format!("s00:{}", story["events"][1]["position"]);
        assert_eq!(types(&explained(up, &place)), ["HoldPlaced", "HoldCaptured"]);
    }
    let call = explained(up, &shop.call);
    assert_eq!(types(&call), ["HoldPlaced", "HoldCaptured"], "{call:#}");
    assert!(call["events"].as_array().unwrap().iter().all(|event| event["request_id"] == shop.call.as_str()));
    assert_eq!(types(&explained(up, &shop.late)), ["HoldPlaced", "HoldExpired", "LateUsageCaptured"]);
    assert_eq!(types(&explained(up, &shop.open)), ["HoldPlaced"]);
    for id in [shop.top_up.as_str(), "pi_tools_1"] {
        assert_eq!(types(&explained(up, id)), ["TopUpRequested", "TopUpCredited"], "{id}");
    }
    let wallet = explained(up, &shop.wallet);
    assert_eq!(wallet["kind"], "wallet");
    assert!(types(&wallet).contains(&"WalletOpened") && types(&wallet).contains(&"TopUpCredited"), "{wallet:#}");
    let opened = &wallet["events"].as_array().unwrap().iter().find(|event| event["type"] == "WalletOpened").unwrap();
    // A user and an app are known by the events that name them; nothing shows the hash of a user.
    let user = opened["payload"]["user_id"].as_str().unwrap();
    assert!(types(&explained(up, user)).contains(&"WalletOpened"));
    assert!(opened["payload"]["user_hash"].is_null());
    let app = opened["payload"]["app_id"].as_str().unwrap();
    assert!(types(&explained(up, app)).contains(&"AppRegistered"));
    let text = up.run(&["explain", hold]);
    assert!(
        told(&text).contains("rated again: the same to the last digit") && told(&text).contains("Σ 0"),
        "{}",
        told(&text)
    );
    // What is found in no quick way is found by reading everything, and what is not there is not.
    for id in ["0199c6f2-0000-7000-8000-000000000001", "nothing", "pi_unknown", "s00:999999"] {
        assert_eq!(exit(&up.run(&["explain", id])), 1, "{id}");
        assert_eq!(exit(&up.run(&["explain", id, "--scan", "--quiet"])), 1, "{id}");
    }
}

/// Each event of the wallet states the figures behind it; the wallet as of that place and that time has them.
fn as_of(up: &Up, wallet: &str) {
    let stream = format!("wallet:{wallet}");
    let (_, events) = values(up, &["events", "grep", "--stream", &stream, "--json", "--quiet"]);
    assert!(events.len() >= 10, "{events:?}");
    let mut checked = 0;
    for event in &events {
        let balance = &event["payload"]["balance"];
        if balance.is_null() {
            continue;
        }
        let place = format!("s00:{}", event["position"]);
        let (exit, figures) = value(up, &["wallet", "show", wallet, "--as-of", &place, "--json", "--quiet"]);
        assert_eq!((exit, &figures["agrees"]), (0, &json!(true)), "{figures:#}");
        assert_eq!((&figures["posted_usd"], &figures["held_usd"]), (&balance["posted"], &balance["held"]), "{place}");
        checked += 1;
    }
    assert!(checked >= 8);
    let last = events.last().unwrap();
    let (_, now) = value(up, &["wallet", "show", wallet, "--json"]);
    assert_eq!(now["position"], last["position"]);
    let at = last["recorded_at"].as_str().unwrap();
    assert_eq!(value(up, &["wallet", "show", wallet, "--as-of", at, "--json"]).1["posted_usd"], now["posted_usd"]);
    assert_eq!(exit(&up.run(&["wallet", "show", wallet, "--as-of", "s00:1"])), 1);
    let (_, history) = values(up, &["wallet", "history", wallet, "--json"]);
    assert_eq!(history.last().unwrap()["posted_usd"], now["posted_usd"]);
    assert_eq!(history.len(), usize::try_from(now["entries"].as_i64().unwrap()).unwrap());
    assert_eq!(values(up, &["wallet", "history", wallet, "--limit", "2", "--json"]).1, history[history.len() - 2..]);
}

async fn events(up: &Up, shop: &Shop) {
    let (_, one) = value(up, &["events", "get", "1", "--json"]);
    assert_eq!(one["position"], 1);
    assert_eq!(values(up, &["events", "get", "s00:2..4", "--json"]).1.len(), 3);
    let (_, newest) = values(up, &["events", "tail", "-n", "3", "--json"]);
    let positions: Vec<i64> = newest.iter().map(|event| event["position"].as_i64().unwrap()).collect();
    assert!(positions.len() == 3 && positions[2] == positions[0] + 2, "{positions:?}");
    // Bounds by time are bounds by position.
    let at = newest[0]["recorded_at"].as_str().unwrap();
    let (_, since) = values(up, &["events", "grep", "--since", at, "--json", "--quiet"]);
    assert!(since.iter().all(|event| event["recorded_at"].as_str() >= Some(at)) && since.contains(&newest[0]));
    let (_, before) = values(up, &["events", "grep", "--until", at, "--json", "--quiet"]);
    assert!(before.iter().all(|event| event["recorded_at"].as_str() < Some(at)));
    assert_eq!(before.len() + since.len(), usize::try_from(positions[2]).unwrap());
    assert_eq!(values(up, &["events", "grep", "--request", &shop.call, "--json", "--quiet"]).1.len(), 2);
    assert_eq!(exit(&up.run(&["events", "grep", "--text", "no such text", "--quiet"])), 1);

    let mut tail = Command::new(binary());
    tail.args(["events", "tail", "-n", "0", "-f", "--type", "UsageRecorded", "--json", "--data-dir"])
        .arg(up.data_dir());
    let mut tail = tail.env_clear().stdout(Stdio::piped()).spawn().unwrap();
    let (seen, lines) = std::sync::mpsc::channel();
    let out = tail.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(out).lines().map_while(Result::ok) {
            let _gone = seen.send(line);
        }
    });
    let mut user = Connection::open(&up.address(), "").await.unwrap();
    assert_eq!(user.send("GET", "/health", "", "", b"").await.unwrap().status, 200);
    let used = json!({ "wallet_id": shop.wallet, "model": "gpt-4o-mini", "usage": { "output_text": 1 } });
    // The tail may not have begun when the first ones are recorded.
    let (began, mut line) = (Instant::now(), None);
    while line.is_none() {
        let key = format!("idempotency-key: followed-{}\r\n", began.elapsed().as_micros());
        let recorded = up.as_admin("POST", "/v1/usage", &key, &used).await;
        assert_eq!(recorded.status, 201, "{recorded:?}");
        line = lines.recv_timeout(Duration::from_millis(500)).ok();
        assert!(began.elapsed() < PATIENCE, "the tail shows nothing");
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line.unwrap()).unwrap()["type"], "UsageRecorded");
}

fn holds(up: &Up, open: &str) {
    let (exit, holds) = values(up, &["holds", "list", "--json"]);
    assert_eq!((exit, holds.len()), (0, 1), "{holds:?}");
    assert_eq!((&holds[0]["hold_id"], &holds[0]["overdue"]), (&json!(open), &json!(false)));
    assert!(values(up, &["holds", "list", "--older-than", "1h", "--json"]).1.is_empty());
    assert!(values(up, &["holds", "list", "--overdue", "--json"]).1.is_empty());
}

fn doctor(up: &Up) {
    let (code, report) = value(up, &["doctor", "--json"]);
    let failed: Vec<_> = report["lines"].as_array().unwrap().iter().filter(|line| line["level"] == "fail").collect();
    assert!(code == 0 && failed.is_empty(), "{failed:?}");
    for topic in ["durability", "checksums", "clock", "grants", "row security", "migrations", "keys", "connections"] {
        let is = |line: &&Value| line["topic"] == topic && line["level"] == "ok";
        assert!(report["lines"].as_array().unwrap().iter().find(is).is_some(), "{topic}: {report:#}");
    }
    for (variables, topic) in [
        (vec![("ADMIN_TOKEN", "changeme".repeat(5))], "secrets"),
        (vec![("API_CORS_ORIGINS", "*".to_owned()), ("LISTEN", "0.0.0.0:8080".to_owned())], "origins"),
        (vec![("LISTEN", "nowhere".to_owned())], "settings"),
    ] {
        let output = up.run_with(&["doctor", "--json"], &variables);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let failed = |line: &&Value| line["topic"] == topic && line["level"] == "fail";
        assert!(report["lines"].as_array().unwrap().iter().find(failed).is_some(), "{topic}: {report:#}");
        assert_eq!(exit(&output), 78);
    }
}

/// Help, usage errors, things that are not there, and a database that is not there: the same for all.
fn rules(up: &Up) {
    let id = "0199c6f2-0000-7000-8000-000000000001";
    let verbs: [&[&str]; 15] = [
        &["status"],
        &["doctor"],
        &["explain"],
        &["events", "tail"],
        &["events", "get"],
        &["events", "grep"],
        &["wallet", "show"],
        &["wallet", "history"],
        &["holds", "list"],
        &["freeze"],
        &["freeze", "list"],
        &["thaw"],
        &["repair", "plan"],
        &["repair", "approve"],
        &["repair", "apply"],
    ];
    for verb in verbs {
        let with = |more: &[&str]| up.run(&[verb, more].concat());
        let help = with(&["--help"]);
        assert!(exit(&help) == 0 && told(&help).contains("--json"), "{verb:?}: {}", told(&help));
        let wrong = with(&["--no-such-flag"]);
        assert!(exit(&wrong) == 2 && wrong.stdout.is_empty(), "{verb:?}: {}", told(&wrong));
    }
    let absent: [(&[&str], i32); 12] = [
        (&["explain", id], 1),
        (&["events", "get", "s00:999999"], 1),
        (&["events", "get", "nowhere"], 2),
        (&["events", "tail", "--type", "Nothing"], 2),
        (&["wallet", "show", id], 1),
        (&["wallet", "history", id], 1),
        (&["wallet", "show", "nobody"], 2),
        (&["holds", "list", "--older-than", "soon"], 2),
        (&["freeze", "planet", "--reason", "x"], 2),
        (&["freeze", "wallet", "--reason", "x"], 2),
        (&["freeze", "payouts"], 2),
        (&["repair", "approve", "no-such-file.json"], 78),
    ];
    for (arguments, expected) in absent {
        let output = up.run(arguments);
        assert_eq!(exit(&output), expected, "{arguments:?}: {}", told(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {}", told(&output));
    }
    let reading: [&[&str]; 5] =
        [&["status"], &["explain", id], &["events", "tail"], &["wallet", "show", id], &["holds", "list"]];
    for verb in reading {
        let nowhere = up.run(&[verb, &["--data-dir", "nothing-here"]].concat());
        assert_eq!(exit(&nowhere), 78, "{verb:?}: {}", told(&nowhere));
        let away = up.run(&[verb, &["--database-url", "host=127.0.0.1 port=1 user=ledger_audit"]].concat());
        assert_eq!(exit(&away), 4, "{verb:?}: {}", told(&away));
    }
    let unheard = up.run(&["freeze", "payouts", "--reason", "x", "--yes", "--url", "http://127.0.0.1:1"]);
    assert_eq!(exit(&unheard), 4, "{}", told(&unheard));
    one_rule(up);
}

/// Everything that changes something says what it would do, and does it with --yes only.
fn one_rule(up: &Up) {
    let verbs: [&[&str]; 14] = [
        &["freeze"],
        &["thaw"],
        &["repair", "plan"],
        &["repair", "approve"],
        &["repair", "apply"],
        &["projection", "switch"],
        &["projection", "rollback"],
        &["projection", "pause"],
        &["projection", "resume"],
        &["projection", "drop"],
        &["dead", "retry"],
        &["dead", "resolve"],
        &["relay", "resend"],
        &["relay", "rewind"],
    ];
    for verb in verbs {
        let help = told(&up.run(&[verb, &["--help"]].concat()));
        for flag in ["--yes", "--dry-run", "without this only say what would be done", "--json"] {
            assert!(help.contains(flag), "{verb:?} lacks {flag}: {help}");
        }
        let both = up.run(&[verb, &["x", "1", "--reason", "x", "--yes", "--dry-run"]].concat());
        assert!(exit(&both) == 2 && both.stdout.is_empty(), "{verb:?}: {}", told(&both));
    }
}

/// Somebody who owns the server makes a charge smaller: the story does not hold any more, and says where.
async fn damage(up: &Up, shop: &Shop) {
    let position = wait_for_event(up, "HoldCaptured", &shop.example.1).await;
    let (client, connection) = up.database("postgres").connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let tables = ["event", "event_s00", "event_s00_00000"];
    let each = |verb: &str| -> String {
        let set = |table: &&str| format!("ALTER TABLE ledger.{table} {verb} TRIGGER append_only;");
        tables.iter().map(set).collect()
    };
    let change = format!(
        "UPDATE ledger.event SET payload = convert_to(replace(convert_from(payload, 'UTF8'), '0.00030001', '0.00030000'), 'UTF8')
         WHERE position = {position};"
    );
    let sql = format!("BEGIN; {} {change} {} COMMIT", each("DISABLE"), each("ENABLE ALWAYS"));
    client.batch_execute(&sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    let (exit, story) = value(up, &["explain", &shop.example.1, "--json"]);
    // The entry does not sum to zero now, so the event is none that this program reads; the link tells in any case.
    assert_eq!((exit, &story["ok"]), (1, &json!(false)), "{story:#}");
    assert!(story["proofs"].as_array().unwrap().iter().any(|proof| proof["holds"] == false), "{story:#}");
}

/// Passes everything on, until it has passed on the `swallow`-th adjustment: its answer never comes back.
struct Swallower {
    port: u16,
    swallowed: Arc<AtomicBool>,
}

impl Swallower {
    async fn before(target: String, swallow: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallowed = Arc::new(AtomicBool::new(false));
        let (flag, count) = (Arc::clone(&swallowed), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (target, flag, count) = (target.clone(), Arc::clone(&flag), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(&target).await else { return };
                    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
                    let mut silent = false;
                    loop {
                        tokio::select! {
                            read = near.read(&mut asked) => {
                                let Ok(read @ 1..) = read else { return };
                                if asked[..read].windows(12).any(|bytes| bytes == b"/adjustments") {
                                    silent = count.fetch_add(1, Ordering::SeqCst) + 1 == swallow;
                                }
                                if far.write_all(&asked[..read]).await.is_err() { return }
                            }
                            read = far.read(&mut answered) => {
                                let Ok(read @ 1..) = read else { return };
                                if silent {
                                    flag.store(true, Ordering::SeqCst);
                                } else if near.write_all(&answered[..read]).await.is_err() {
                                    return;
                                }
                            }
                        }
                    }
                });
            }
        });
        Self { port, swallowed }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_takes_two_people_and_is_done_once_however_often_it_is_killed() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, wallet) = up.wallet_with("ada", "10").await;
    let mut user = up.connect(&token).await.unwrap();
    let body = json!({ "model": "gpt-4o-mini", "amount_usd": "0.5" });
    let hold = user.json("POST", "/v1/usage/holds", "idempotency-key: held\r\n", &body).await.unwrap();
    let hold = hold.json()["hold_id"].as_str().unwrap().to_owned();
    let url = format!("http://{}", up.address());
    let issued = up.run(&["staff", "issue", "Bob", "--role", "admin", "--url", &url]);
    assert_eq!(exit(&issued), 0, "{}", told(&issued));
    let dir = tempfile::tempdir().unwrap();
    let bob = dir.path().join("bob");
    std::fs::write(&bob, &issued.stdout).unwrap();
    let (bob, plan) = (bob.display().to_string(), dir.path().join("plan.json").display().to_string());
    let ledger = ["--url", &url];
    let as_bob = ["--url", &url, "--token-file", &bob];
    let (minus, plus) = (format!("{wallet}=-1.5"), format!("{wallet}=0.25"));

    // The plan: stop refunds, give the hold back, correct the wallet, go on.
    let wishes =
        ["repair", "plan", &plan, "--freeze", "refunds", "--release", &hold, "--adjust", &minus, "--adjust", &plus];
    let rest =
        ["--to-balance", &format!("{wallet}=8"), "--thaw", "refunds", "--reason", "INC-7: charged twice", "--json"];
    let (code, thought) = value(&up, &[&wishes[..], &rest[..], &ledger[..]].concat());
    assert_eq!(
        (code, &thought["done"], std::path::Path::new(&plan).exists()),
        (0, &json!(false), false),
        "{thought:#}"
    );
    let (code, planned) = value(&up, &[&wishes[..], &rest[..], &ledger[..], &["--yes"]].concat());
    assert_eq!((code, planned["plan"]["steps"].as_array().unwrap().len()), (0, 6), "{planned:#}");
    assert_eq!(planned["plan"]["steps"][4]["after"]["wallet"]["posted_usd"], "8.00000000");
    let apply = [&["repair", "apply", &plan, "--yes", "--json", "--quiet"][..], &ledger[..]].concat();

    // Nothing goes without somebody else.
    assert_eq!(exit(&up.run(&apply)), 3);
    let look = up.run(&[&["repair", "approve", &plan][..], &ledger[..]].concat());
    assert!(exit(&look) == 0 && told(&look).contains("nothing was done; repeat with --yes"), "{}", told(&look));
    let own = up.run(&[&["repair", "approve", &plan, "--yes"][..], &ledger[..]].concat());
    assert!(exit(&own) == 3 && told(&own).contains("same_actor"), "{}", told(&own));
    let forged = dir.path().join("forged.json").display().to_string();
    std::fs::write(&forged, std::fs::read_to_string(&plan).unwrap().replace("INC-7", "INC-8")).unwrap();
    let unknown = up.run(&[&["repair", "approve", &forged, "--yes"][..], &as_bob[..]].concat());
    assert!(exit(&unknown) == 3 && told(&unknown).contains("repair_not_found"), "{}", told(&unknown));
    let agreed = up.run(&[&["repair", "approve", &plan, "--yes", "--json"][..], &as_bob[..]].concat());
    assert_eq!(exit(&agreed), 0, "{}", told(&agreed));
    assert_eq!(exit(&up.run(&[&["repair", "apply", &forged, "--yes"][..], &ledger[..]].concat())), 3);

    // Killed when the ledger has made the second adjustment and its answer is on the way.
    let swallower = Swallower::before(up.address(), 2).await;
    let mut killed = Command::new(binary());
    killed.args(["repair", "apply", &plan, "--yes", "--url", &format!("http://127.0.0.1:{}", swallower.port)]);
    let mut killed = killed.arg("--data-dir").arg(up.data_dir()).env_clear().spawn().unwrap();
    let began = Instant::now();
    while !swallower.swallowed.load(Ordering::SeqCst) {
        assert!(began.elapsed() < PATIENCE, "the second adjustment is not made");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    // The one who froze may not thaw: it stops before the last step; Bob's run does only that.
    let stopped = up.run(&apply);
    assert!(exit(&stopped) == 3 && told(&stopped).contains("somebody else"), "{}", told(&stopped));
    let bobs = [&["repair", "apply", &plan, "--yes", "--json", "--quiet"][..], &as_bob[..]].concat();
    let (code, done) = value(&up, &bobs);
    assert_eq!((code, &done["applied"], &done["applied_now"]), (0, &json!(6), &json!(1)), "{done:#}");
    let (code, again) = value(&up, &bobs);
    assert_eq!((code, &again["applied_now"]), (0, &json!(0)), "{again:#}");

    caught_up(&up).await;
    let (_, figures) = value(&up, &["wallet", "show", &wallet, "--json"]);
    assert_eq!((&figures["posted_usd"], &figures["held_usd"]), (&json!("8.00000000"), &json!("0.00000000")));
    let (_, acts) = values(
        &up,
        &[
            "events",
            "grep",
            "--from",
            "1",
            "--type",
            "WalletAdjusted,HoldReleased,Frozen,Thawed,RepairProposed,RepairApproved",
            "--json",
            "--quiet",
        ],
    );
    let names: Vec<&str> = acts.iter().map(|act| act["type"].as_str().unwrap()).collect();
    let adjusted = ["WalletAdjusted"; 3];
    let expected =
        [&["RepairProposed", "RepairApproved", "Frozen", "HoldReleased"][..], &adjusted[..], &["Thawed"][..]].concat();
    assert_eq!(names, expected, "each step once");
    let repair = acts[0]["payload"]["repair_id"].as_str().unwrap();
    assert!(acts[4]["payload"]["reason"].as_str().unwrap().starts_with(&format!("repair {repair} step 3: INC-7")));
    assert_eq!(types(&explained(&up, repair)), ["RepairProposed", "RepairApproved"]);
    let verified = up.run(&["verify", "--json"]);
    assert_eq!(exit(&verified), 0, "{}", told(&verified));
    // Progress of long work is JSON too, beside the result.
    let last = String::from_utf8_lossy(&verified.stderr).lines().last().map(serde_json::from_str::<Value>);
    let last = last.unwrap_or_else(|| panic!("{}", told(&verified))).unwrap();
    assert_eq!(
        (&last["task"], &last["ended"], &last["done"]),
        (&json!("verify"), &json!(true), &last["total"]),
        "{last}"
    );
    assert!(up.run(&["verify", "--json", "--quiet"]).stderr.is_empty());

    a_plan_stops_where_the_world_has_moved_on(&up, &wallet, dir.path(), &as_bob).await;
    kill_switches(&up, &ledger, &as_bob);
    incidents(&up, dir.path(), &verified.stdout, &as_bob).await;
}

/// Between plan and apply the wallet is used: the step that expects other figures is not made, nor what follows.
async fn a_plan_stops_where_the_world_has_moved_on(up: &Up, wallet: &str, dir: &std::path::Path, bob: &[&str]) {
    let plan = dir.join("stale.json").display().to_string();
    let url = format!("http://{}", up.address());
    let adjust = format!("{wallet}=-1");
    let more = [
        "repair", "plan", &plan, "--adjust", &adjust, "--freeze", "top-ups", "--reason", "INC-9", "--yes", "--json",
        "--url", &url,
    ];
    assert_eq!(value(up, &more).0, 0);
    assert_eq!(exit(&up.run(&[&["repair", "approve", &plan, "--yes"][..], bob].concat())), 0);
    let path = format!("/v1/admin/wallets/{wallet}/adjustments");
    let body = json!({ "direction": "credit", "amount_usd": "0.00000001" });
    assert_eq!(up.as_admin("POST", &path, "", &body).await.status, 201);
    let stopped = up.run(&["repair", "apply", &plan, "--yes", "--url", &url]);
    assert!(exit(&stopped) == 3 && told(&stopped).contains("balance_changed"), "{}", told(&stopped));
    assert!(told(&stopped).contains("step 2 of 2") && told(&stopped).contains("The 1 steps before it are done"));
    caught_up(up).await;
    assert_eq!(value(up, &["wallet", "show", wallet, "--json"]).1["posted_usd"], "8.00000001");
    // What is not there, or would be refused, is not even planned.
    let file = dir.join("none.json").display().to_string();
    for wish in
        [["--adjust", &format!("{wallet}=-100")], ["--release", wallet], ["--thaw", "usage"], ["--freeze", "top-ups"]]
    {
        let arguments = [&["repair", "plan", &file, "--reason", "x", "--yes", "--url", &url][..], &wish[..]].concat();
        assert_eq!(exit(&up.run(&arguments)), 3, "{wish:?}");
    }
    assert!(!std::path::Path::new(&file).exists());
}

fn kill_switches(up: &Up, ledger: &[&str], bob: &[&str]) {
    let run = |words: &[&str], whom: &[&str]| up.run(&[words, whom].concat());
    for rest in [&[][..], &["--dry-run"]] {
        let tried = run(&[&["freeze", "payouts", "--reason", "INC-12"], rest].concat(), ledger);
        assert!(exit(&tried) == 0 && told(&tried).contains("would freeze payouts"), "{}", told(&tried));
    }
    let frozen = run(&["freeze", "payouts", "--reason", "INC-12", "--yes", "--json"], ledger);
    let frozen: Value = serde_json::from_slice(&frozen.stdout).unwrap_or_else(|_| panic!("{}", told(&frozen)));
    let cut = frozen["cut"][0].as_str().unwrap();
    let (_, at_cut) = value(up, &["events", "get", cut, "--json"]);
    assert_eq!((&at_cut["type"], &at_cut["payload"]["reason"]), (&json!("Frozen"), &json!("INC-12")));
    assert_eq!(exit(&run(&["freeze", "payouts", "--reason", "INC-12", "--yes"], ledger)), 3);
    let began = Instant::now();
    loop {
        let listed = run(&["freeze", "list", "--json"], ledger);
        let is = |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|item| item["kind"] == "payouts");
        if String::from_utf8_lossy(&listed.stdout).lines().any(is) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", told(&listed));
    }
    let own = run(&["thaw", "payouts", "--reason", "over", "--yes"], ledger);
    assert!(exit(&own) == 3 && told(&own).contains("same_actor"), "{}", told(&own));
    let thawed = run(&["thaw", "payouts", "--reason", "over", "--yes"], bob);
    assert!(exit(&thawed) == 0 && told(&thawed).contains("thawed: payouts"), "{}", told(&thawed));
}

/// An incident is closed with what `verify` has printed; later the file is, or is not, what it was closed with.
async fn incidents(up: &Up, dir: &std::path::Path, verified: &[u8], bob: &[&str]) {
    let url = format!("http://{}", up.address());
    let mut people = Vec::new();
    for role in ["operator", "auditor"] {
        let issued = up.run(&["staff", "issue", role, "--role", role, "--url", &url]);
        assert_eq!(exit(&issued), 0, "{}", told(&issued));
        let file = dir.join(role);
        std::fs::write(&file, &issued.stdout).unwrap();
        people.push(file.display().to_string());
    }
    let [operator, auditor] = [0, 1].map(|who| ["--url", url.as_str(), "--token-file", people[who].as_str()]);
    let file = |name: &str, content: &[u8]| {
        std::fs::write(dir.join(name), content).unwrap();
        dir.join(name).display().to_string()
    };
    let (report, later) = (file("verify.json", verified), file("later.json", b"{}"));
    let close = |name: &str, range: &str, report: &str, rest: &[&str], whom: &[&str]| {
        let words = ["incident", "close", name, "--range", range, "--report", report, "--reason", "INC-7: repaired"];
        up.run(&[&words[..], rest, whom].concat())
    };
    let ends = |output: &Output, code: i32, says: &str| {
        assert!(exit(output) == code && told(output).contains(says), "{code} {says}: {}", told(output));
    };

    // Only said; what is wrong is said before it.
    for rest in [&[][..], &["--dry-run"]] {
        let tried = close("INC-7", "1..9", &report, rest, &operator);
        ends(&tried, 0, "would close INC-7 over s00:1..9");
        ends(&tried, 0, "nothing was done; repeat with --yes");
    }
    ends(&close("INC-7", "1..9", &report, &["--yes", "--dry-run"], &operator), 2, "--dry-run");
    ends(&close("INC 7", "1..9", &report, &["--yes"], &operator), 2, "must be 1 to 128");
    ends(&close("INC-7", "9..1", &report, &["--yes"], &operator), 2, "ends before it begins");
    ends(&close("INC-7", "s01:1..9", &report, &["--yes"], &operator), 2, "no shard but s00");
    ends(&close("INC-7", "1..9", &report, &["--reason", " ", "--yes"], &operator), 2, "--reason says nothing");
    ends(&close("INC-7", "1..9", &file("empty", b""), &["--yes"], &operator), 78, "is empty");
    ends(&close("INC-7", "1..9", "/none", &["--yes"], &operator), 78, "/none");
    ends(&close("INC-7", "1..999999", &report, &["--yes"], &operator), 3, "range_beyond_log");
    ends(&close("INC-7", "1..9", &report, &["--supersedes", "s00:2", "--yes"], &operator), 3, "incident_not_found");
    ends(&close("INC-7", "1..9", &report, &["--yes"], &auditor), 3, "forbidden");
    let listed = |whom: &[&str]| values(up, &[&["incident", "list", "--json"][..], whom].concat());
    assert_eq!(listed(&auditor), (0, Vec::new()), "nothing was done so far");

    // Once, however often it is said and by whom.
    let closed = |output: &Output| -> Value {
        assert_eq!(exit(output), 0, "{}", told(output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(output)))
    };
    let first = closed(&close("INC-7", "1..9", &report, &["--yes", "--json"], &operator));
    let place = format!("s00:{}", first["closed_at"]);
    assert_eq!((&first["done"], &first["bytes"]), (&json!(true), &json!(verified.len())), "{first}");
    let again = close("INC-7", "1..9", &report, &["--yes"], bob);
    ends(&again, 0, &format!("closed already: INC-7 over s00:1..9, at {place}"));
    ends(&close("INC-7", "1..9", &later, &["--yes"], &operator), 3, "incident_closed");

    // The file is the report, until one byte of it is another one.
    let check =
        |name: &str, report: &str| up.run(&[&["incident", "check", name, "--report", report][..], &auditor].concat());
    ends(&check("INC-7", &report), 0, "is the report of INC-7");
    let changed = file("changed.json", &[verified, b" "].concat());
    ends(&check("INC-7", &changed), 6, "IS NOT the report of INC-7");
    ends(&check("INC-8", &report), 1, "no incident INC-8 was closed");

    // Another report counts instead, by name of the place.
    let second = closed(&close("INC-7", "1..12", &later, &["--supersedes", &place, "--yes", "--json"], bob));
    ends(&close("INC-7", "1..12", &report, &["--supersedes", &place, "--yes"], bob), 3, "incident_closed");
    caught_up(up).await;
    ends(&check("INC-7", &report), 1, "counts instead");
    ends(&check("INC-7", &later), 0, "is the report of INC-7");
    let (code, closings) = listed(&auditor);
    let seen: Vec<_> = closings.iter().map(|closing| (&closing["closed_at"], &closing["superseded_by"])).collect();
    assert_eq!(
        (code, seen),
        (0, vec![(&second["closed_at"], &Value::Null), (&first["closed_at"], &second["closed_at"])])
    );
    ends(&up.run(&[&["incident", "list"][..], &auditor].concat()), 0, "INC-7  s00:1..12  sha256 ");

    // Every other tool knows it.
    let story = explained(up, "INC-7");
    assert_eq!((&story["kind"], types(&story)), (&json!("incident"), vec!["IncidentClosed"; 2]));
    let grep = ["events", "grep", "--type", "IncidentClosed", "--quiet"];
    ends(&up.run(&grep), 0, &format!("instead of the closing at {}: INC-7: repaired", first["closed_at"]));
    assert_eq!(exit(&up.run(&["verify", "--quiet"])), 0);
}
