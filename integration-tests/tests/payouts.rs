//! Payouts: more than was earned is never paid, whoever asks how often at once, also if the service dies amid it; and who asked for
//! one does not approve it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use modelfaucet_integration_tests::connection::{Answer, Connection};
use modelfaucet_integration_tests::history::export_log;
use modelfaucet_integration_tests::judge::judge;
use modelfaucet_integration_tests::process::{Up, has_postgres};
use serde_json::{Value, json};

const CLIENTS: u32 = 64;

/// Units of 1e-8 USD of a decimal text.
fn units(amount: &Value) -> i128 {
    amount.as_str().unwrap().replace('.', "").parse().unwrap()
}

/// A staff token of an administrator.
async fn administrator(up: &Up, name: &str) -> String {
    let body = json!({ "name": name, "role": "admin" });
    let issued = up.as_admin("POST", "/v1/admin/tokens", "", &body).await;
    assert_eq!(issued.status, 201, "{issued:?}");
    issued.json()["token"].as_str().unwrap().to_owned()
}

/// One request; again if nobody answers, or not yet.
async fn ask(address: &str, token: &str, method: &str, path: &str, headers: &str, body: &Value) -> Answer {
    loop {
        if let Ok(mut connection) = Connection::open(address, token).await
            && let Ok(answer) = connection.json(method, path, headers, body).await
            && answer.status < 500
        {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// The balance of each code of the chart, debits positive, in units of 1e-8 USD, as of the end of the log.
async fn balances(up: &Up) -> BTreeMap<String, i128> {
    let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = "SELECT coalesce(max(last_pos), 0) FROM ledger.batch";
    let head: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    let path = format!("/v1/admin/trial-balance?min_position={head}");
    let trial = ask(&up.address(), &up.admin(), "GET", &path, "", &Value::Null).await.json();
    assert_eq!(trial["balanced"], true, "{trial}");
    let items = trial["items"].as_array().unwrap().iter();
    items.map(|row| (row["code"].as_str().unwrap().to_owned(), units(&row["balance_usd"]))).collect()
}

/// The sandbox's developer earns: many calls of one of its users.
async fn earn(up: &Up) -> String {
    let (token, _) = up.wallet_with("spender", "100000").await;
    let mut user = up.connect(&token).await.unwrap();
    for call in 0..5 {
        let body =
            json!({ "model": "gpt-4o-mini", "usage": { "input_uncached": 90_000_000, "output_text": 10_000_000 } });
        let key = format!("idempotency-key: call-{call}\r\n");
        let used = user.json("POST", "/v1/usage", &key, &body).await.unwrap();
        assert_eq!(used.status, 201, "{used:?}");
    }
    let apps = up.as_admin("GET", "/v1/developer/apps", "", &Value::Null).await.json();
    apps["items"][0]["developer_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn payouts_race() {
    if !has_postgres() {
        return;
    }
    let mut up = Up::start().await;
    let developer = earn(&up).await;
    let earned = -balances(&up).await["2210"];
    assert!(earned > 100_000_000, "{earned}");
    let (maker, checker) = (administrator(&up, "maker").await, administrator(&up, "checker").await);
    let (address, kills) = (up.address(), AtomicU32::new(0));
    let answered = Arc::new(AtomicU32::new(0));
    let mut rounds = 0;

    // Ask for more rounds than the money lasts: by threshold and by hand, approve and pay, all of it 64 times at once.
    loop {
        let mut asking = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let (address, maker, developer) = (address.clone(), maker.clone(), developer.clone());
            let answered = Arc::clone(&answered);
            asking.spawn(async move {
                let answer = if client % 2 == 0 {
                    let body = json!({ "developer_id": developer, "amount_usd": "0.60" });
                    let key = format!("idempotency-key: round-{rounds}-{client}\r\n");
                    ask(&address, &maker, "POST", "/v1/admin/payouts", &key, &body).await
                } else {
                    // A run that finds everything would end the race in the first round.
                    let threshold = if rounds > 2 { "0.01" } else { "1000000.00" };
                    let body = json!({ "threshold_usd": threshold });
                    ask(&address, &maker, "POST", "/v1/admin/payouts/run-mock", "", &body).await
                };
                answered.fetch_add(1, Ordering::Relaxed);
                answer
            });
        }
        if rounds % 2 == 1 {
            // Amid the answers.
            while answered.load(Ordering::Relaxed) < CLIENTS * rounds + CLIENTS / 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            up.kill();
            kills.fetch_add(1, Ordering::Relaxed);
            up.start_again();
            up.wait_until_ready(Duration::from_secs(60)).await;
        }
        let answers: Vec<Answer> = asking.join_all().await;
        let created: Vec<Value> = answers
            .iter()
            .flat_map(|answer| match answer.status {
                201 => vec![answer.json()],
                200 => answer.json()["items"].as_array().cloned().unwrap_or_default(),
                402 | 409 => Vec::new(),
                _ => panic!("{answer:?}"),
            })
            .collect();
        let mut ids: Vec<&str> = created.iter().map(|item| item["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        // A killed service may have answered nobody; its payout is in the list.
        let pending =
            ask(&address, &checker, "GET", "/v1/admin/payouts?status=pending&stale=allow", "", &Value::Null).await;
        assert!(ids.len() <= 1, "one payout at a time: {created:?}");
        let open = balances(&up).await;
        let reserved = -open.get("2220").copied().unwrap_or_default();
        if reserved == 0 {
            break;
        }
        let listed = ask(&address, &checker, "GET", "/v1/admin/payouts?status=pending", "", &Value::Null).await.json();
        let id = listed["items"][0]["id"].as_str().unwrap_or_else(|| panic!("{pending:?} {listed}")).to_owned();
        assert_eq!(units(&listed["items"][0]["amount_usd"]), reserved, "the reserved amount is the payout's");

        // Who asked does not approve.
        let own = ask(&address, &maker, "POST", &format!("/v1/admin/payouts/{id}/approve"), "", &json!({})).await;
        assert_eq!((own.status, own.code().as_str()), (403, "same_actor"), "{own:?}");
        for (verb, token) in [("approve", &checker), ("mark-paid", &maker)] {
            let mut doing = tokio::task::JoinSet::new();
            for _ in 0..CLIENTS {
                let (address, token, path) = (address.clone(), token.clone(), format!("/v1/admin/payouts/{id}/{verb}"));
                doing.spawn(async move { ask(&address, &token, "POST", &path, "", &json!({})).await });
            }
            if rounds % 3 == 2 {
                up.kill();
                kills.fetch_add(1, Ordering::Relaxed);
                up.start_again();
                up.wait_until_ready(Duration::from_secs(60)).await;
            }
            let answers = doing.join_all().await;
            let first = answers[0].json();
            assert!(answers.iter().all(|answer| answer.status == 200 && answer.json() == first), "{answers:?}");
            let status = if verb == "approve" { "processing" } else { "paid" };
            assert_eq!(first["status"], status);
            if verb == "mark-paid" {
                let expected = format!("po_mock_{}", &id.replace('-', "")[..18]);
                assert_eq!(first["provider_payout_id"], expected);
            }
        }
        rounds += 1;
        assert!(rounds < 20, "the money does not end");
    }

    // What was paid, what is owed and what was earned.
    let end = balances(&up).await;
    let owed = -end.get("2210").copied().unwrap_or_default();
    let paid = -end.get("1020").copied().unwrap_or_default();
    assert_eq!(paid + owed, earned, "never more paid than earned");
    assert!((0..1_000_000).contains(&owed), "less than a cent waits: {owed}");
    let list = ask(&address, &checker, "GET", "/v1/admin/payouts?limit=200", "", &Value::Null).await.json();
    let items = list["items"].as_array().unwrap();
    let total: i128 = items.iter().map(|item| units(&item["amount_usd"])).sum();
    assert!(items.iter().all(|item| item["status"] == "paid" && item["requested_by"] != item["approved_by"]), "{list}");
    assert_eq!(total, paid);
    let verified = up.run(&["verify", "--data-dir", "data"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    export_log(&up.database("ledger_audit"), &log).await.unwrap();
    if let Some(output) = judge(&log, std::iter::empty()) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    println!(
        "{rounds} payouts of {total} units, earned {earned}, {owed} wait; {} requests, {} approvals, {} captures, {} kills",
        answered.load(Ordering::Relaxed),
        CLIENTS * rounds,
        CLIENTS * rounds,
        kills.load(Ordering::Relaxed),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payout_goes_to_the_bank_as_a_file_and_may_come_back() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let developer = earn(&up).await;
    let earned = -balances(&up).await["2210"];
    let (maker, checker) = (administrator(&up, "maker").await, administrator(&up, "checker").await);
    let post = async |token: &str, path: &str, key: &str, body: Value| {
        let headers = if key.is_empty() { String::new() } else { format!("idempotency-key: {key}\r\n") };
        ask(&up.address(), token, "POST", path, &headers, &body).await
    };
    let refused = |answer: &Answer, status: u16, code: &str| {
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    };
    let all = json!({ "developer_id": developer, "provider": "bank" });
    refused(&post(&maker, "/v1/admin/payouts", "", all.clone()).await, 400, "idempotency_key_required");
    let too_much = json!({ "developer_id": developer, "amount_usd": "1000000.00" });
    refused(&post(&maker, "/v1/admin/payouts", "a", too_much).await, 402, "insufficient_balance");
    let unknown = json!({ "developer_id": developer, "provider": "cheque" });
    refused(&post(&maker, "/v1/admin/payouts", "b", unknown).await, 400, "invalid_request");
    let requested = post(&maker, "/v1/admin/payouts", "c", all.clone()).await;
    assert_eq!((requested.status, &requested.json()["provider"]), (201, &json!("bank")), "{requested:?}");
    let id = requested.json()["id"].as_str().unwrap().to_owned();
    let step = |verb: &str| format!("/v1/admin/payouts/{id}/{verb}");
    assert_eq!(post(&maker, "/v1/admin/payouts", "c", all.clone()).await.json()["id"], id.as_str(), "the same again");
    refused(&post(&maker, "/v1/admin/payouts", "d", all).await, 409, "payout_open");
    let paid = post(&checker, &step("mark-paid"), "", json!({ "provider_payout_id": "bank-1" })).await;
    refused(&paid, 400, "invalid_request");
    assert_eq!(paid.json()["error"]["message"], "Payout must be approved before it can be marked paid.");
    refused(&post(&checker, &step("fail"), "", json!({ "reason": "x" })).await, 400, "invalid_request");
    let approved = post(&checker, &step("approve"), "", json!({ "operator_note": "checked" })).await;
    assert_eq!((approved.status, &approved.json()["status"]), (200, &json!("processing")));

    // The file has whole cents and one line.
    balances(&up).await;
    let file = ask(&up.address(), &checker, "GET", "/v1/admin/reports/payout-handover.csv", "", &Value::Null).await;
    let text = String::from_utf8(file.body).unwrap();
    let amount = requested.json()["amount_usd"].as_str().unwrap().strip_suffix("000000").unwrap().to_owned();
    assert!(
        text.starts_with("payout_id,") && text.contains(&id) && text.contains(&format!(",{amount},USD,")),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2);

    refused(&post(&maker, &step("mark-paid"), "", json!({})).await, 400, "invalid_request");
    let body = json!({ "provider_payout_id": "bank-2026-1", "fee_usd": "0.25" });
    let paid = post(&maker, &step("mark-paid"), "", body).await.json();
    assert_eq!((&paid["status"], &paid["provider_payout_id"]), (&json!("paid"), &json!("bank-2026-1")));
    refused(&post(&maker, &step("cancel"), "", json!({ "reason": "x" })).await, 400, "invalid_request");
    let back = json!({ "reason": "account closed", "reference": "bank-2026-2" });
    assert_eq!(post(&maker, &step("return"), "", back).await.json()["status"], "returned");
    let balances = balances(&up).await;
    let balance = |code: &str| balances.get(code).copied().unwrap_or_default();
    assert_eq!((-balance("2210"), balance("2220"), balance("1020")), (earned, 0, -25_000_000), "{balances:?}");
    assert_eq!(balance("5130"), 25_000_000);
    let csv = ask(&up.address(), &checker, "GET", "/v1/admin/reports/payouts.csv", "", &Value::Null).await;
    let csv = String::from_utf8(csv.body).unwrap();
    assert!(csv.contains(&format!(",{amount}000000,returned,bank,bank-2026-1")), "{csv}");
}
