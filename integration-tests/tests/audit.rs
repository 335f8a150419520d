//! The audit log: every act of those who run the ledger, and every read of exports and audit data, with who, from where, what, why.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;

use modelfaucet_integration_tests::connection::{Answer, Connection};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use serde_json::{Value, json};

/// A member of staff with a token.
struct Person {
    token: String,
    actor: String,
    id: String,
}

async fn person(up: &Up, role: &str) -> Person {
    let issued = up.as_admin("POST", "/v1/admin/tokens", "", &json!({ "name": role, "role": role })).await.json();
    let id = issued["item"]["id"].as_str().unwrap().to_owned();
    Person { token: issued["token"].as_str().unwrap().to_owned(), actor: format!("{role}:{id}"), id }
}

impl Person {
    async fn does(&self, up: &Up, method: &str, path: &str, request: &str, reason: &str, body: &Value) -> Answer {
        let mut connection = Connection::open(&up.address(), &self.token).await.unwrap();
        let mut headers = format!("x-request-id: {request}\r\nidempotency-key: {request}\r\n");
        if !reason.is_empty() {
            write!(headers, "x-audit-reason: {reason}\r\n").unwrap();
        }
        connection.json(method, path, &headers, body).await.unwrap()
    }
}

/// What the audit log shows of a request, as of a position.
async fn shown(up: &Up, filter: &str, position: &str) -> Vec<Value> {
    let path = format!("/v1/admin/audit?{filter}&min_position={position}");
    let answer = up.as_admin("GET", &path, "", &Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn acts_and_reads_are_there_with_who_where_what_and_why() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (_, wallet) = up.wallet_with("audit", "1.00").await;
    let (admin, auditor) = (person(&up, "admin").await, person(&up, "auditor").await);
    let adjust = format!("/v1/admin/wallets/{wallet}/adjustments");
    let freeze = json!({ "scope": { "kind": "wallet", "id": wallet }, "reason": "fraud, case 7" });
    // Acts: one event each, its own reason first, else the header's.
    let acts = [
        (
            "POST",
            adjust.as_str(),
            "act-1",
            "ticket 812",
            json!({ "direction": "credit", "amount_usd": "1" }),
            "WalletAdjusted",
            "ticket 812",
        ),
        ("POST", "/v1/admin/freezes", "act-2", "", freeze, "Frozen", "fraud, case 7"),
        (
            "PATCH",
            "/v1/developer/apps/app_pub_demo",
            "act-3",
            "wish of the developer",
            json!({ "name": "New" }),
            "AppChanged",
            "wish of the developer",
        ),
    ];
    for (method, path, request, reason, body, event, why) in acts {
        let answer = admin.does(&up, method, path, request, reason, &body).await;
        assert!(answer.status < 300, "{answer:?}");
        let items = shown(&up, &format!("request_id={request}"), answer.header("ledger-position").unwrap()).await;
        assert_eq!(items.len(), 1, "{path}: exactly one act: {items:?}");
        let item = &items[0];
        let said = |member: &str| item[member].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            ["kind", "actor", "role", "token_id", "address", "action", "reason"].map(said),
            ["act", &admin.actor, "admin", &admin.id, "127.0.0.1", event, why].map(str::to_owned),
        );
    }
    // Whatever JSON a developer writes, the audit log shows it.
    let odd = json!({ "feature_key": "odd", "display_name": "Odd", "policy": { "x": "a\u{0}b" } });
    let answer = admin.does(&up, "POST", "/v1/developer/apps/app_pub_demo/features", "act-4", "", &odd).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let items = shown(&up, "request_id=act-4", answer.header("ledger-position").unwrap()).await;
    assert_eq!(items[0]["detail"]["policy"]["x"], "a\u{0}b");
    // What was only tried is there too, for who asks for it.
    let refused =
        auditor.does(&up, "POST", &adjust, "try-1", "", &json!({ "direction": "credit", "amount_usd": "1" })).await;
    assert_eq!(refused.status, 403);
    let tried =
        admin.does(&up, "POST", &adjust, "try-2", "", &json!({ "direction": "debit", "amount_usd": "1000" })).await;
    assert_eq!(tried.status, 503, "the wallet is frozen: {tried:?}");
    let tries = shown(&up, "request_id=try-2&kind=attempt", "0").await;
    assert_eq!(
        (tries.len(), &tries[0]["actor"], &tries[0]["action"]),
        (1, &json!(admin.actor), &json!("POST /v1/admin/wallets/{wallet_id}/adjustments"))
    );
    assert!(shown(&up, "request_id=try-2", "0").await.is_empty(), "nothing was done");
    // Also what may become many events, or none.
    for (path, body) in [
        ("/v1/admin/payouts/run-mock", json!({})),
        ("/v1/admin/stripe/unfinished/rework", Value::Null),
        ("/v1/admin/stripe/sweep", json!({ "events_until": 1 })),
        (
            "/v1/admin/stripe/objects",
            json!({ "object": "event", "id": "evt_1", "type": "odd", "created": 1, "livemode": false, "data": { "object": {} } }),
        ),
    ] {
        let answer = admin.does(&up, "POST", path, path, "monthly", &body).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let tries = shown(&up, &format!("request_id={path}&kind=attempt"), "0").await;
        let said = |member: &str| tries[0][member].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (tries.len(), ["actor", "address", "reason"].map(said)),
            (1, [&admin.actor, "127.0.0.1", "monthly"].map(str::to_owned)),
            "{path}"
        );
    }

    // Reads of exports and audit data.
    for (number, path) in [
        "/v1/admin/reports/usage.csv?from=2026-01-01T00:00:00Z",
        "/v1/admin/reports/journal.csv",
        "/v1/admin/audit-log",
        "/v1/admin/audit",
    ]
    .iter()
    .enumerate()
    {
        let request = format!("read-{number}");
        assert_eq!(auditor.does(&up, "GET", path, &request, "yearly audit", &Value::Null).await.status, 200, "{path}");
        let items = shown(&up, &format!("request_id={request}"), "0").await;
        assert_eq!(items.len(), 1, "{path}: {items:?}");
        let item = &items[0];
        assert_eq!(
            (&item["kind"], &item["actor"], &item["role"], &item["resource"], &item["reason"], &item["address"]),
            (
                &json!("read"),
                &json!(auditor.actor),
                &json!("auditor"),
                &json!(path),
                &json!("yearly audit"),
                &json!("127.0.0.1")
            ),
        );
    }
    // Other reads are not looks at exports.
    assert_eq!(auditor.does(&up, "GET", "/v1/admin/freezes", "look-1", "", &Value::Null).await.status, 200);
    assert!(shown(&up, "request_id=look-1", "0").await.is_empty());

    pages_and_exports(&up, &admin, &auditor).await;
}

/// Pages show everything once; the exports show the same; nothing of it is a secret.
async fn pages_and_exports(up: &Up, admin: &Person, auditor: &Person) {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    let until = shown(up, "limit=1", "0").await[0]["at"].as_str().unwrap().to_owned();
    loop {
        let page =
            up.as_admin("GET", &format!("/v1/admin/audit?limit=3&to={until}{cursor}"), "", &Value::Null).await.json();
        ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let lines = up.as_admin("GET", &format!("/v1/admin/reports/audit.jsonl?to={until}"), "", &Value::Null).await;
    let text = String::from_utf8(lines.body.clone()).unwrap();
    let exported: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let in_lines: Vec<_> = exported.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, in_lines);
    assert!(ids.len() > 15, "{ids:?}");
    let sheet = up.as_admin("GET", &format!("/v1/admin/reports/audit.csv?to={until}"), "", &Value::Null).await;
    let mut reader = csv::Reader::from_reader(&sheet.body[..]);
    let in_sheet: Vec<_> = reader.records().map(|row| row.unwrap()[0].to_owned()).collect();
    assert_eq!(ids, in_sheet);
    for secret in [&admin.token, &auditor.token, &up.admin(), &"sha256:".to_owned(), &"hmac:".to_owned()] {
        assert!(!text.contains(secret.as_str()), "a secret is in the audit log");
    }
    let of_auditor = shown(up, &format!("actor={}", auditor.actor), "0").await;
    assert!(of_auditor.len() >= 4 && of_auditor.iter().all(|item| item["actor"] == json!(auditor.actor)));
}

/// Whether its answer is lost or late: it is refused, and what was announced is on record once.
#[tokio::test]
async fn an_attempt_without_an_answer_is_on_record_once() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    // Puts an attempt on record, too: from here on there is a connection to lose.
    let admin = person(&up, "admin").await;
    let (client, connection) = up.database("postgres").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE ledger.access IN SHARE MODE").await.unwrap();
    let freeze = json!({ "scope": { "kind": "usage" }, "reason": "a test" });
    let answer = admin.does(&up, "POST", "/v1/admin/freezes", "late-1", "", &freeze).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "ledger_unavailable"), "{answer:?}");
    client.batch_execute("COMMIT").await.unwrap();
    let working = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%record_access(%' AND state = 'active' AND pid <> pg_backend_pid()";
    let began = std::time::Instant::now();
    while client.query_one(working, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "what was sent is not written");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let recorded = "SELECT count(*) FROM ledger.access WHERE request_id = 'late-1'";
    assert_eq!(client.query_one(recorded, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_eq!(admin.does(&up, "POST", "/v1/admin/freezes", "late-2", "", &freeze).await.status, 201, "it goes on");
}

#[tokio::test]
async fn nobody_edits_the_access_log() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    assert_eq!(up.as_admin("GET", "/v1/admin/audit", "", &Value::Null).await.status, 200);
    for role in ["ledger_command", "ledger_query", "ledger_projector", "ledger_audit", "postgres"] {
        let Ok((client, connection)) = up.database(role).connect(tokio_postgres::NoTls).await else { continue };
        let connection = tokio::spawn(connection);
        for attack in [
            "UPDATE ledger.access SET actor = 'nobody'",
            "DELETE FROM ledger.access",
            "TRUNCATE ledger.access",
            "SET session_replication_role = replica; DELETE FROM ledger.access",
        ] {
            assert!(client.batch_execute(attack).await.is_err(), "{role}: {attack}");
        }
        drop(client);
        connection.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn tokens_show_when_they_were_last_used() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let auditor = person(&up, "auditor").await;
    assert_eq!(auditor.does(&up, "GET", "/v1/admin/freezes", "used-1", "", &Value::Null).await.status, 200);
    let developer = up.secret("developer_token");
    let mut own = up.connect(&developer).await.unwrap();
    assert_eq!(own.json("GET", "/v1/developer/apps", "", &Value::Null).await.unwrap().status, 200);
    let began = std::time::Instant::now();
    loop {
        let staff = up.as_admin("GET", "/v1/admin/tokens", "", &Value::Null).await.json();
        let tokens = own.json("GET", "/v1/developer/tokens", "", &Value::Null).await.unwrap().json();
        if [&staff, &tokens].iter().all(|list| list["items"][0]["last_used_at"].is_string()) {
            break;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{staff} {tokens}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
