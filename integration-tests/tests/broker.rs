//! The log over a real RabbitMQ: it is stopped, wiped, full, it repeats and reorders, confirms and acknowledgements get lost, the relay
//! and the projector that it feeds are killed. Nothing is missing afterwards, nothing is there twice, and commands go on meanwhile
//! (F6, F7, F3 of docs/RELIABILITY.md).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::amqp_proxy::AmqpProxy;
use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::judge::{audit, check, level};
use modelfaucet_integration_tests::process::{Role, Setting, Up, fork_words, skip, url};
use modelfaucet_integration_tests::rabbitmq::{RabbitMq, Stranger};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, PATIENCE, Plan, Tally, Traffic, until};
use modelfaucet_projector::broker::DEAD;
use modelfaucet_schema::log::boot::ServiceRole;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// How long the broker is away, in seconds, unless `MODELFAUCET_BROKER_AWAY` says otherwise.
const AWAY: u64 = 2;
/// Commands that must be answered during a fault.
const MEANWHILE: u64 = 20;
/// Which of the processes that have a relay projects as well.
const PROJECTOR: usize = 2;
/// Where the projector is fed from.
const QUEUE: &str = "modelfaucet.projector";

/// How long each fault was felt, in the order in which they were made: by the number.
#[derive(Default)]
struct Healed(BTreeMap<&'static str, Vec<Duration>>);

impl Healed {
    /// The fault's cause is gone since `since`, and the broker feeds the projector again.
    fn push(&mut self, number: &'static str, since: Instant) {
        self.0.entry(number).or_default().push(since.elapsed());
    }

    /// Everything held: the lines of the run's report.
    fn report(&self, tally: &Tally) {
        let demanded = "commands are answered meanwhile; afterwards the broker feeds the projector, which ends at what the log says";
        for (number, recoveries) in &self.0 {
            report::fault(number, &Figures { injected: tally.made(number), recoveries, demanded, invariants: &[] });
        }
    }
}

/// A series of a process, summed over its labels; those that begin so.
async fn metric(address: &str, series: &str) -> f64 {
    let Ok(mut connection) = Connection::open(address, "").await else { return 0.0 };
    let Ok(answer) = connection.send("GET", "/metrics", "", "", b"").await else { return 0.0 };
    let text = String::from_utf8(answer.body).unwrap();
    let values = text.lines().filter(|line| line.starts_with(series)).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// The same, summed over processes.
async fn all(roles: &[Role; 3], series: &str) -> f64 {
    let mut sum = 0.0;
    for role in roles {
        sum += metric(&role.address(), series).await;
    }
    sum
}

/// Which relay works.
async fn working(roles: &[Role; 3]) -> usize {
    let mut found = None;
    until("a relay works", async || {
        for (number, role) in roles.iter().enumerate() {
            if metric(&role.address(), "modelfaucet_relay_working").await > 0.0 {
                found = Some(number);
            }
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn outcome(outcome: &str) -> String {
    format!("modelfaucet_broker_messages_total{{outcome=\"{outcome}\"")
}

/// Events that the broker has not confirmed.
async fn pending(client: &Client) -> i64 {
    let sql = "SELECT h.position - m.position FROM ledger.head h JOIN relay.mark m USING (shard)";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until the broker has confirmed everything that was in the log when this began.
async fn published(client: &Client) {
    let head: i64 = client.query_one("SELECT position FROM ledger.head", &[]).await.unwrap().get(0);
    until("everything is published", async || {
        client.query_one("SELECT position FROM relay.mark", &[]).await.unwrap().get::<_, i64>(0) >= head
    })
    .await;
}

/// Waits until the broker feeds the projector again. On a machine that is busy enough the projector reads everything from the log before
/// it comes by the broker, so the load slows down meanwhile.
async fn fed(projector: &Role, traffic: &Traffic, rabbit: &RabbitMq) {
    let series = "modelfaucet_projector_events_total{source=\"broker\"";
    let (address, began) = (projector.address(), Instant::now());
    let before = metric(&address, series).await;
    traffic.slow_down(true);
    while metric(&address, series).await <= before {
        if began.elapsed() > PATIENCE {
            let known = metric(&address, &outcome("known")).await + metric(&address, &outcome("taken")).await;
            let queues = rabbit.ask(&["list_queues", "name", "messages", "consumers"]);
            panic!("nothing comes by the broker; {known} messages so far; {queues}\n{}", projector.log());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    traffic.slow_down(false);
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What operators do with the relay: they look, publish again, set the mark back, and lift a halt.
async fn operators(up: &Up, database: &TestDatabase, stranger: &Stranger, amqp: &str) {
    let client = database.connect().await;
    let relay = |words: &[&str]| {
        let settings = [("DATABASE_URL", url(&database.role(ServiceRole::Projector))), ("AMQP_URL", amqp.to_owned())];
        up.run_with(&[&["relay"], words].concat(), &settings)
    };
    published(&client).await;
    let shown = relay(&["status"]);
    assert!(shown.status.success() && printed(&shown).contains("nothing waits"), "{}", printed(&shown));
    let object: Value = serde_json::from_slice(&relay(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&object["pending"], &object["halted"], &object["blocked"]), (&json!(0), &Value::Null, &json!(false)));
    assert_eq!((&object["worked_on"], &object["state"]), (&json!(true), &json!("publishing")));

    // A range is published again as the whole batches that have it, if somebody says why and means it.
    stranger.listen("again").await;
    let said = relay(&["resend", "2..4", "--reason", "INC-1"]);
    assert!(
        said.status.success() && printed(&said).contains("nothing was done; repeat with --yes"),
        "{}",
        printed(&said)
    );
    assert_eq!(stranger.count("again").await, Some(0));
    assert_eq!(relay(&["resend", "2..4", "--yes"]).status.code(), Some(2), "no reason");
    assert_eq!(relay(&["resend", "4..2", "--reason", "x"]).status.code(), Some(2));
    assert_eq!(relay(&["resend", "900000..900001", "--reason", "x"]).status.code(), Some(78));
    let done = relay(&["resend", "2..4", "--reason", "INC-1", "--yes", "--json"]);
    let done: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", printed(&done)));
    assert!(done["done"] == true && done["first_position"].as_i64() <= Some(2), "{done}");
    assert_eq!(stranger.count("again").await.map(u64::from), done["messages"].as_u64());
    let record = "SELECT target FROM ledger.access WHERE operation = 'modelfaucet relay resend' AND reason = 'INC-1' AND actor = 'operator'";
    assert_eq!(client.query(record, &[]).await.unwrap().len(), 1, "one act, one record");

    // A mark that is not of this log is a loud halt; whoever knows where to go on says so.
    client.execute("UPDATE relay.mark SET hash = sha256('another story')", &[]).await.unwrap();
    until("the relay halts", async || relay(&["status"]).status.code() == Some(6)).await;
    let said = printed(&relay(&["status"]));
    assert!(said.contains("HALTED") && said.contains("another hash"), "{said}");
    let said = relay(&["rewind", "3", "--reason", "INC-2"]);
    assert!(said.status.success() && relay(&["status"]).status.code() == Some(6), "{}", printed(&said));
    let before = stranger.count("again").await;
    let done = relay(&["rewind", "3", "--reason", "INC-2", "--yes"]);
    assert!(done.status.success(), "{}", printed(&done));
    published(&client).await;
    until("what lies behind the mark comes again", async || stranger.count("again").await > before).await;
    assert!(relay(&["status"]).status.success());
}

/// Messages that no queue takes do not move the mark, and commands do not notice.
async fn unroutable(up: &Up, client: &Client, rabbit: &RabbitMq, stranger: &Stranger) {
    stranger.unbind(QUEUE).await;
    rabbit.ask(&["delete_queue", "again"]);
    let returned = "modelfaucet_publish_total{outcome=\"returned\"";
    let before = stranger.count(QUEUE).await;
    up.open_session("nobody-listens").await;
    until("messages are returned", async || metric(&up.address(), returned).await > 0.0).await;
    // Its next connection declares what is missing, and the message comes again: the mark had not passed it.
    published(client).await;
    assert!(stranger.count(QUEUE).await > before);
}

/// The example of docs/BROKER.md, with an auditor's token: by messages and, where they lack something, by `GET /v1/log`.
async fn subscriber(up: &Up, client: &Client, amqp: &str) {
    let Ok(python) = std::env::var("MODELFAUCET_TEST_PIKA_PYTHON") else {
        skip("pika", "pika for Python is not installed");
        return;
    };
    let issued = up.as_admin("POST", "/v1/admin/tokens", "", &json!({ "name": "subscriber", "role": "auditor" })).await;
    let token = issued.json()["token"].as_str().unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/subscriber.py");
    let run = |until: i64| {
        let mut command = Command::new(&python);
        command.arg(&script).args(["--amqp", amqp, "--ledger", &format!("http://{}", up.address())]);
        command
            .args(["--queue", "example", "--until", &until.to_string()])
            .arg("--state")
            .arg(dir.path().join("state"));
        command.env("LEDGER_TOKEN", &token);
        command
    };
    let head = async || {
        let row = client.query_one("SELECT position, encode(hash, 'hex') FROM ledger.head", &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, String>(1))
    };
    // The first time everything comes from the log; the queue is bound from then on.
    let output = run(head().await.0).output().unwrap();
    assert!(output.status.success() && printed(&output).contains("log to"), "{}", printed(&output));
    up.open_session("heard-of").await;
    published(client).await;
    let (position, hash) = head().await;
    let output = run(position).output().unwrap();
    let said = printed(&output);
    assert!(output.status.success() && said.contains("log to") | said.contains("message"), "{said}");
    // Now it runs while things happen: those come as messages.
    let looks = async || {
        let sql = "SELECT count(*) FROM ledger.access WHERE operation = 'GET /v1/log' AND kind = 'read' AND actor LIKE 'auditor:%'";
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    let before = looks().await;
    assert!(before > 0, "reads of the log are on record");
    let waiting = position + 1;
    let mut running = run(waiting).stdout(std::process::Stdio::piped()).spawn().unwrap();
    until("it has filled up", async || looks().await > before).await;
    up.open_session("told-of").await;
    until("it has heard", async || running.try_wait().unwrap().is_some()).await;
    let output = running.wait_with_output().unwrap();
    let said = printed(&output);
    assert!(output.status.success() && said.contains("message "), "{said}");
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let counted: i64 = last["counts"].as_object().unwrap().values().map(|count| count.as_i64().unwrap()).sum();
    assert_eq!(last["position"].as_i64(), Some(counted), "nothing is missing and nothing came twice: {last}");
    let sql = "SELECT encode(hash, 'hex') FROM ledger.batch WHERE last_pos = $1";
    let linked: String = client.query_one(sql, &[&counted]).await.unwrap().get(0);
    assert_eq!((last["hash"].as_str(), hash.len()), (Some(linked.as_str()), 64));
}

/// Between relay and projector sits somebody who doubles, reorders, loses and forges messages.
async fn hostile(traffic: &Traffic, projector: &Role, stranger: &Stranger, dice: &mut Dice) {
    stranger.listen("hostile").await;
    stranger.unbind(QUEUE).await;
    let (mut hand, mut done) = (Vec::new(), 0);
    let began = Instant::now();
    while done < 300 {
        assert!(began.elapsed() < PATIENCE, "too few messages: {done}");
        match stranger.take("hostile").await {
            Some(copy) => hand.push(copy),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        if hand.len() < 50 {
            continue;
        }
        dice.shuffle(&mut hand);
        for mut copy in hand.drain(..) {
            done += 1;
            let times = match dice.between(0, 100) {
                0..10 => 2,
                10..15 => 0,
                _ => 1,
            };
            for _ in 0..times {
                stranger.put(QUEUE, &copy).await;
            }
            if dice.percent(5) {
                // Another story under the same headers.
                copy.body = String::from_utf8_lossy(&copy.body)
                    .replacen("clock", "admin", 1)
                    .replacen('1', "2", 1)
                    .into_bytes()
                    .into();
                stranger.put(QUEUE, &copy).await;
            }
        }
    }
    traffic.more(MEANWHILE).await;
    for what in ["known", "early", "refused"] {
        until(what, async || metric(&projector.address(), &outcome(what)).await > 0.0).await;
    }
    until("forged messages are dead", async || stranger.count(DEAD).await > Some(0)).await;
}

/// A log that forks under a relay and a projector that run: where both lines have all that they have read, they go on under its new id.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_goes_on_where_the_log_forks() {
    let Some(database) = TestDatabase::durable().await else { return };
    let Some(rabbit) = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap() else { return };
    let mut up = Up::start_with(Setting { database: Some(database.superuser()), ..Setting::default() }).await;
    let client = database.connect().await;
    let second = up.as_admin("POST", "/v1/admin/tokens", "", &json!({ "name": "Grace", "role": "admin" })).await;
    let second = second.json()["token"].as_str().unwrap().to_owned();
    up.stop();
    let amqp = rabbit.url();
    let _projector = up.role_with(&["projector"], "ledger_projector", &[("AMQP_URL", amqp.as_str())]);
    until("the relay has a mark", async || client.query_opt("SELECT FROM relay.mark", &[]).await.unwrap().is_some())
        .await;
    published(&client).await;
    let stranger = rabbit.connect().await;
    stranger.listen("after").await;
    let folder = tempfile::tempdir().unwrap();
    let settings = [("DATABASE_URL", url(&database.superuser())), ("ADMIN_TOKEN", up.admin())];
    let next: i64 = client.query_one("SELECT position + 1 FROM ledger.head", &[]).await.unwrap().get(0);
    let lost = format!("{next}..{next}");
    let words = fork_words(folder.path(), &lost, [&up.admin(), &second]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = up.run_with(&words, &settings);
    assert!(output.status.success(), "{}", printed(&output));
    let log_id: String = client.query_one("SELECT log_id::text FROM ledger.head", &[]).await.unwrap().get(0);
    assert!(printed(&output).contains(&log_id), "{}", printed(&output));
    let mark = async || -> (String, i64, String) {
        let sql = "SELECT log_id::text, position, coalesce(halted, '') FROM relay.mark";
        let row = client.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    until("the relay goes on under the new id", async || mark().await == (log_id.clone(), next, String::new())).await;
    level(&database).await;
    let message = stranger.take("after").await.unwrap();
    let headers = message.properties.headers().as_ref().unwrap().inner();
    let named = headers.iter().find(|(name, _)| name.as_str() == "log_id").unwrap().1.as_long_string().unwrap();
    assert_eq!(named.to_string(), log_id, "what the fork appended");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_broker_does_nothing_is_missing_and_nothing_is_there_twice() {
    let Some(database) = TestDatabase::durable().await else { return };
    let Some(rabbit) = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap() else { return };
    let away = std::env::var("MODELFAUCET_BROKER_AWAY").ok().and_then(|away| away.parse().ok()).unwrap_or(AWAY);
    let began = Instant::now();
    let proxy = AmqpProxy::before(rabbit.port()).await;
    let amqp = rabbit.url().replace(&rabbit.port().to_string(), &proxy.port().to_string());
    let mut dice = Dice::of_run();
    let setting = Setting {
        database: Some(database.superuser()),
        variables: vec![("AMQP_URL", amqp.clone())],
        ..Setting::default()
    };
    let mut up = Up::start_with(setting).await;
    let (client, stranger) = (database.connect().await, rabbit.connect().await);
    operators(&up, &database, &stranger, &amqp).await;
    unroutable(&up, &client, &rabbit, &stranger).await;
    subscriber(&up, &client, &amqp).await;
    let plan = Plan::of("broker", &up, &dice).await;
    up.stop();

    // Each process on its own; the projector gets its events from the broker, and has a relay beside it.
    let command = up.role("command", "ledger_command");
    let query = up.role("query", "ledger_query");
    let relay = || up.role_with(&["relay"], "ledger_projector", &[("AMQP_URL", amqp.as_str())]);
    let settings = [("AMQP_URL", amqp.as_str()), ("PROJECTOR_FEED", "amqp")];
    let mut roles = [relay(), relay(), up.role_with(&["projector"], "ledger_projector", &settings)];
    for role in roles.iter().chain([&command, &query]) {
        role.wait_until_ready().await;
    }
    let (reads, token) = (query.address(), plan.token.clone());
    let mut traffic =
        Traffic::start(Plan { clients: 4, commands: vec![command.address()], reads: reads.clone(), ..plan });
    fed(&roles[PROJECTOR], &traffic, &rabbit).await;

    let mut healed = Healed::default();
    println!("{:.1?} until the broker feeds the projector", began.elapsed());
    traffic.fault("F6", "broker", "stop");
    rabbit.stop();
    let longest = traffic.more(MEANWHILE).await;
    tokio::time::sleep(Duration::from_secs(away)).await;
    assert!(pending(&client).await > 0, "a broker that is away confirms nothing");
    traffic.fault("F6", "broker", "wipe");
    rabbit.wipe();
    let since = Instant::now();
    rabbit.start_again();
    traffic.more(MEANWHILE).await;
    published(&client).await;
    fed(&roles[PROJECTOR], &traffic, &rabbit).await;
    healed.push("F6", since);

    println!("{:.1?}", began.elapsed());
    traffic.fault("F6", "broker", "memory alarm");
    rabbit.alarm(true);
    until("the relay knows that it is blocked", async || all(&roles, "modelfaucet_amqp_blocked").await > 0.0).await;
    traffic.more(MEANWHILE).await;
    assert!(pending(&client).await > 0, "a broker that is blocked confirms nothing");
    let state: String = client.query_one("SELECT state FROM relay.mark", &[]).await.unwrap().get(0);
    assert!(state.starts_with("blocked: "), "{state}");
    let since = Instant::now();
    rabbit.alarm(false);
    published(&client).await;
    fed(&roles[PROJECTOR], &traffic, &rabbit).await;
    healed.push("F6", since);

    println!("{:.1?}", began.elapsed());
    traffic.fault("F3", "relay", "kill");
    let works = working(&roles).await;
    let since = Instant::now();
    roles[works].kill().unwrap();
    traffic.more(MEANWHILE).await;
    published(&client).await;
    healed.push("F3", since);
    roles[works].start_again();
    traffic.fault("F3", "projector", "kill");
    let since = Instant::now();
    roles[PROJECTOR].kill().unwrap();
    traffic.more(MEANWHILE).await;
    roles[PROJECTOR].start_again();
    roles[PROJECTOR].wait_until_ready().await;
    fed(&roles[PROJECTOR], &traffic, &rabbit).await;
    healed.push("F3", since);

    println!("{:.1?}", began.elapsed());
    // What the relay sends again the projector knows already.
    traffic.fault("F7", "broker", "confirms lost");
    let known = all(&roles, &outcome("known")).await;
    let lost = "modelfaucet_publish_total{outcome=\"lost\"";
    let before = all(&roles, lost).await;
    proxy.lose_confirms(true);
    until("the relay misses its confirms", async || all(&roles, lost).await > before).await;
    let since = Instant::now();
    proxy.lose_confirms(false);
    published(&client).await;
    until("doubles are dropped", async || all(&roles, &outcome("known")).await > known).await;
    healed.push("F7", since);
    println!("{:.1?}", began.elapsed());
    traffic.fault("F7", "broker", "acknowledgements lost");
    proxy.lose_acks(true);
    traffic.more(MEANWHILE).await;
    until("acknowledgements get lost", async || proxy.lost().1 > 0).await;
    let since = Instant::now();
    proxy.cut();
    proxy.lose_acks(false);
    published(&client).await;
    fed(&roles[PROJECTOR], &traffic, &rabbit).await;
    healed.push("F7", since);
    assert!(proxy.lost().0 > 0);

    println!("{:.1?}", began.elapsed());
    traffic.fault("F7", "broker", "doubled, reordered, lost, forged");
    hostile(&traffic, &roles[PROJECTOR], &rabbit.connect().await, &mut dice).await;

    println!("{:.1?}", began.elapsed());
    let since = Instant::now();
    let (tally, histories) = traffic.stop().await;
    published(&client).await;
    level(&database).await;
    healed.push("F7", since);
    println!("{:.1?} until all is level", began.elapsed());
    let auditor = database.role(ServiceRole::Audit);
    let events = check(&auditor, &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    // The end state is that of the log: every table is what folding the log gives.
    audit(&auditor, &reads, &token).await;
    let halted: i64 = client
        .query_one("SELECT count(*) FROM projection.checkpoint WHERE halted IS NOT NULL", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(halted, 0);
    healed.report(&tally);
    println!("{MEANWHILE} commands without a broker took {longest:.2?}, {events} events, {tally:.2?}");
}

/// Not a test: how fast the relay is, with large batches and with small ones (docs/BENCHMARKS.md says how to run it).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, run by hand as docs/BENCHMARKS.md says"]
async fn how_fast_the_relay_is() {
    let Some(database) = TestDatabase::durable().await else { return };
    let Some(rabbit) = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap() else { return };
    let requests: u64 =
        std::env::var("MODELFAUCET_RELAY_REQUESTS").ok().and_then(|requests| requests.parse().ok()).unwrap_or(100);
    let up = Up::start_with(Setting { database: Some(database.superuser()), ..Setting::default() }).await;
    let client = database.connect().await;
    let counted = async || {
        let row = client.query_one("SELECT max(last_pos), count(*) FROM ledger.batch", &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let (_, wallet) = up.wallet_with("much", "1000.00").await;
    let mut before = (0, 0);
    for what in ["large batches", "small batches"] {
        if what == "large batches" {
            for request in 0..requests {
                let call = |number: i32| {
                    json!({ "request_id": format!("much-{request}-{number}"), "wallet_id": wallet, "model": "gpt-4o-mini",
                            "usage": { "input_uncached": number, "output_text": 9 } })
                };
                let calls = (0..1_000).map(call).collect::<Vec<_>>().into();
                assert_eq!(up.as_admin("POST", "/v1/usage/batch", "", &calls).await.status, 200);
            }
        } else {
            let traffic = Traffic::start(Plan::of("relay", &up, &Dice::of_run()).await);
            traffic.more(requests * 50).await;
            traffic.stop().await;
        }
        let after = counted().await;
        let relay = up.role_with(&["relay"], "ledger_projector", &[("AMQP_URL", rabbit.url().as_str())]);
        // From the moment it publishes, not from its start.
        until("a relay works", async || metric(&relay.address(), "modelfaucet_relay_working").await > 0.0).await;
        let began = Instant::now();
        let sql = "SELECT position FROM relay.mark";
        let first: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        until("everything is published", async || {
            client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) >= after.0
        })
        .await;
        let seconds = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let (events, messages) = ((after.0 - first.max(before.0)) as f64, (after.1 - before.1) as f64);
        println!(
            "relay, {what}: {events} events in {messages} messages in {seconds:.2} s: {:.0} events/s, {:.0} messages/s",
            events / seconds,
            messages / seconds
        );
        before = after;
    }
}
