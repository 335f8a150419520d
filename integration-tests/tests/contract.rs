//! The calls that a client of ModelFaucet 1.2 makes, with what it reads: session → chat → wallet → usage → reconciliation, and the
//! dashboard's, member by member.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::fake_stripe::FakeStripe;
use modelfaucet_integration_tests::process::{Setting, Up, has_postgres};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The reply as the published client parses it: nothing missing, nothing more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    session_token: String,
    expires_in: u64,
    gateway_base_url: String,
    available_modes: Vec<String>,
    wallet_balance_usd: String,
}

/// A client with a token, as small as can be.
struct Client {
    connection: Connection,
}

impl Client {
    async fn new(up: &Up, token: &str) -> Self {
        Self { connection: up.connect(token).await.unwrap() }
    }

    async fn call(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let answer = self.connection.json(method, path, "", &body).await.unwrap();
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{path}");
        assert!(answer.header("x-request-id").is_some());
        (answer.status, answer.json())
    }

    /// A success whose members are these; those with a question mark may be missing, others may be there.
    async fn expect(&mut self, status: u16, method: &str, path: &str, body: Value, members: &str) -> Value {
        let (got, answer) = self.call(method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        check(&answer, members, path);
        answer
    }

    async fn refused(&mut self, method: &str, path: &str, body: Value, refusal: (u16, &str, &str)) {
        let (status, answer) = self.call(method, path, body).await;
        let error = &answer["error"];
        let told = (status, error["code"].as_str().unwrap(), error["message"].as_str().unwrap());
        assert_eq!(told, refusal, "{method} {path}");
    }
}

fn check(value: &Value, members: &str, what: &str) {
    for member in members.split_whitespace() {
        match member.strip_suffix('?') {
            Some(optional) => assert_ne!(value.get(optional), Some(&Value::Null), "{what}: {optional} is null"),
            None => assert!(value.get(member).is_some(), "{what}: {member} is missing in {value}"),
        }
    }
}

fn money(value: &Value) -> &str {
    let text = value.as_str().unwrap();
    let (whole, decimals) = text.split_once('.').unwrap_or_else(|| panic!("{text} has no decimals"));
    assert!(decimals.len() == 8 && !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit()), "{text}");
    text
}

/// ISO 8601 in UTC with milliseconds.
fn time(value: &Value) {
    let text = value.as_str().unwrap();
    assert!(text.len() == 24 && text.ends_with('Z') && text.as_bytes()[19] == b'.', "{text}");
}

#[tokio::test]
async fn the_sdks_calls_work_from_session_to_reconciliation() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let mut visitor = Client::new(&up, "").await;
    visitor.expect(200, "GET", "/health", Value::Null, "ok service").await;
    visitor.expect(200, "GET", "/ready", Value::Null, "ok service checks").await;

    let open = json!({ "public_app_id": "app_pub_demo", "external_user_id": "crm-demo-user", "feature_key": "customer_reply", "metadata": { "plan": "pro" } });
    let (status, reply) = visitor.call("POST", "/v1/sessions", open.clone()).await;
    assert_eq!(status, 200);
    let session: Session = serde_json::from_value(reply).unwrap();
    assert!(session.session_token.starts_with("mf_sess_") && session.session_token.len() == 51);
    assert_eq!((session.expires_in, session.available_modes.join(" ").as_str()), (3_600, "platform byok local"));
    assert!(session.gateway_base_url.starts_with("http://") && session.gateway_base_url.ends_with("/v1"));
    assert_eq!(session.wallet_balance_usd, "10.00000000", "the demo user has 10 USD from the first start");

    // The gateway is where the reply says.
    let gateway = session.gateway_base_url.strip_prefix("http://").and_then(|url| url.strip_suffix("/v1")).unwrap();
    let mut chat = Client { connection: Connection::open(gateway, &session.session_token).await.unwrap() };
    let ask = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello" }], "metadata": { "feature_key": "customer_reply" } });
    let answered = chat
        .expect(200, "POST", "/v1/chat/completions", ask, "id object created model choices usage modelfaucet")
        .await;
    check(&answered["modelfaucet"], "request_id route_mode feature_key? estimated_price_usd", "modelfaucet");
    check(&answered["usage"], "prompt_tokens completion_tokens total_tokens", "usage");
    assert!(answered["choices"][0]["message"]["content"].is_string());

    let admin = up.admin();
    let mut admin = Client::new(&up, &admin).await;
    let mut user = Client::new(&up, &session.session_token).await;
    let wallet = loop {
        let wallet =
            user.expect(200, "GET", "/v1/user/wallet", Value::Null, "id owner_scope owner_id balance_usd").await;
        if money(&wallet["balance_usd"]) != "10.00000000" {
            break wallet;
        }
    };
    assert_eq!(wallet["owner_scope"], "end_user");
    let id = wallet["id"].as_str().unwrap();

    let developer = up.secret("developer_token");
    let mut developer = Client::new(&up, &developer).await;
    let totals = "public_app_id app_name total_calls total_input_tokens total_output_tokens total_retail_price_usd total_developer_revenue_usd usage";
    let usage = developer.expect(200, "GET", "/v1/apps/app_pub_demo/usage", Value::Null, totals).await;
    assert_eq!(usage["total_calls"], 1);
    let call = &usage["usage"][0];
    check(
        call,
        "request_id feature_key route_mode provider model input_tokens output_tokens retail_price_usd channel_revenue_usd created_at",
        "usage",
    );
    time(&call["created_at"]);
    money(&call["retail_price_usd"]);

    let books =
        admin.expect(200, "GET", "/v1/admin/reconciliation/ledger", Value::Null, "generated_at summary items").await;
    check(&books["summary"], "wallet_count balanced_count mismatch_count", "summary");
    assert_eq!(books["summary"]["mismatch_count"], 0);
    check(
        &books["items"][0],
        "wallet_id owner_scope owner_id wallet_balance_usd ledger_balance_usd delta_usd status",
        "reconciliation",
    );
    assert_eq!(books["items"][0]["status"], "balanced");

    // Money by hand.
    let credit = format!("/v1/admin/wallets/{id}/credit-test-balance");
    let credited =
        admin.expect(200, "POST", &credit, json!({ "amount_usd": "1.5" }), "id owner_scope owner_id balance_usd").await;
    assert_eq!((&credited["id"], &credited["owner_id"]), (&wallet["id"], &wallet["owner_id"]));
    let adjust = format!("/v1/admin/wallets/{id}/adjustments");
    let members = "id wallet_id kind direction amount_usd status reason? idempotency_key? wallet_balance_usd";
    let keyed = json!({ "kind": "refund", "direction": "debit", "amount_usd": "0.5", "reason": "asked for", "idempotency_key": "adjust-0001" });
    let first = admin.expect(201, "POST", &adjust, keyed.clone(), members).await;
    assert_eq!((&first["idempotency_key"], &first["status"]), (&json!("adjust-0001"), &json!("applied")));
    assert_eq!(admin.expect(201, "POST", &adjust, keyed, members).await, first);
    let plain =
        admin.expect(201, "POST", &adjust, json!({ "direction": "credit", "amount_usd": "0.25" }), members).await;
    assert_eq!((&plain["kind"], plain.get("idempotency_key")), (&json!("adjustment"), None));

    refusals(&mut visitor, &mut user, &mut admin, &credit).await;
    heads(&up).await;
}

async fn refusals(visitor: &mut Client, user: &mut Client, admin: &mut Client, credit: &str) {
    let missing = "/v1/admin/wallets/01900000-0000-7000-8000-000000000000/credit-test-balance";
    let one = || json!({ "amount_usd": "1" });
    visitor.refused("POST", "/v1/sessions", json!({}), (400, "invalid_request", "Invalid session request.")).await;
    let unknown = json!({ "public_app_id": "no_app", "external_user_id": "x" });
    visitor
        .refused("POST", "/v1/sessions", unknown, (404, "invalid_app", "The public app id is invalid or inactive."))
        .await;
    visitor
        .refused("GET", "/v1/user/wallet", Value::Null, (401, "invalid_session", "Missing bearer session token."))
        .await;
    user.refused("POST", credit, one(), (401, "invalid_session", "Missing or invalid admin token.")).await;
    admin.refused("POST", missing, one(), (404, "invalid_request", "Wallet was not found.")).await;
    let nonsense = "/v1/admin/wallets/nonsense/credit-test-balance";
    admin.refused("POST", nonsense, one(), (400, "invalid_request", "Missing or invalid wallet id.")).await;
    let (status, answer) = admin.call("POST", credit, json!({ "amount_usd": "1", "surprise": 1 })).await;
    assert_eq!(status, 400);
    let details = json!({ "formErrors": ["Unrecognized key: \"surprise\""], "fieldErrors": {} });
    assert_eq!(answer["error"]["details"], details);
}

/// HEAD works where GET does.
async fn heads(up: &Up) {
    let mut visitor = up.connect("").await.unwrap();
    let head = visitor.send_raw(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(head.status, 200);
    let mut visitor = tokio::net::TcpStream::connect(up.address()).await.unwrap();
    visitor.write_all(b"HEAD /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn the_dashboards_calls_have_their_members() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let admin = up.admin();
    // With the admin token and nobody named, the oldest developer is meant.
    let mut admin = Client::new(&up, &admin).await;
    let token = "id developer_id developer_name developer_email name token_prefix scopes status last_used_at? expires_at? revoked_at? created_at updated_at";
    let issued = admin.expect(201, "POST", "/v1/developer/tokens", json!({ "name": "dashboard" }), "token item").await;
    check(&issued["item"], token, "token");
    let text = issued["token"].as_str().unwrap();
    assert!(text.starts_with("mf_dev_") && text.len() == 50 && issued["item"]["token_prefix"] == text[..15]);
    assert_eq!(issued["item"]["scopes"].as_array().unwrap().len(), 9);
    let mail = issued["item"]["developer_email"].as_str().unwrap().to_owned();
    admin
        .expect(
            201,
            "POST",
            "/v1/developer/tokens",
            json!({ "name": "by mail", "developer_email": mail }),
            "token item",
        )
        .await;

    let mut own = Client::new(&up, text).await;
    let app = "public_app_id name vertical? default_revenue_share_bps status developer_id developer_name developer_email created_at updated_at";
    let apps = own.expect(200, "GET", "/v1/developer/apps", Value::Null, "items").await;
    check(&apps["items"][0], app, "app");
    let body = json!({ "public_app_id": "shop", "name": "Shop" });
    let made = own.expect(201, "POST", "/v1/developer/apps", body.clone(), app).await;
    assert_eq!((&made["default_revenue_share_bps"], &made["status"]), (&json!(4000), &json!("active")));
    own.refused("POST", "/v1/developer/apps", body, (409, "already_exists", "It exists already.")).await;
    let changed = own.expect(200, "PATCH", "/v1/developer/apps/shop", json!({ "vertical": "retail" }), app).await;
    assert_eq!((&changed["vertical"], &changed["created_at"]), (&json!("retail"), &made["created_at"]));
    own.expect(200, "PATCH", "/v1/developer/apps/shop", Value::Null, app).await;
    own.refused("PATCH", "/v1/developer/apps/none", json!({}), (404, "invalid_app", "The app could not be found."))
        .await;

    let feature = "id public_app_id feature_key display_name policy pricing created_at updated_at";
    let features = "/v1/developer/apps/shop/features";
    let body = json!({ "feature_key": "reply", "display_name": "Reply", "pricing": { "markup_percent": 12.5 }, "policy": { "byok": "byok_first" } });
    let made = own.expect(201, "POST", features, body, feature).await;
    assert_eq!(made["pricing"]["markup_bps"], 1_250);
    time(&made["created_at"]);
    let plain =
        own.expect(201, "POST", features, json!({ "feature_key": "plain", "display_name": "Plain" }), feature).await;
    assert_eq!(plain["policy"], json!({}));
    let none = "/v1/developer/apps/none/features";
    let defined = json!({ "feature_key": "x", "display_name": "x" });
    own.refused("POST", none, defined, (404, "invalid_app", "The public app id is invalid.")).await;
    let changed = own
        .expect(200, "PATCH", "/v1/developer/apps/shop/features/reply", json!({ "display_name": "Answer" }), feature)
        .await;
    assert_eq!((&changed["display_name"], &changed["pricing"]), (&json!("Answer"), &made["pricing"]));
    let gone = (404, "invalid_request", "Feature could not be found.");
    own.refused("PATCH", "/v1/developer/apps/shop/features/none", json!({}), gone).await;
    own.refused("DELETE", "/v1/developer/apps/shop/features/none", Value::Null, gone).await;
    own.expect(200, "DELETE", "/v1/developer/apps/shop/features/plain", Value::Null, "ok").await;

    let position = loop {
        let (_, listed) = own.call("GET", features, Value::Null).await;
        if listed["items"].as_array().unwrap().len() == 1 {
            break listed;
        }
    };
    check(&position["items"][0], feature, "feature");
    assert_eq!(own.expect(200, "GET", none, Value::Null, "items").await["items"], json!([]));

    let operations =
        own.expect(200, "GET", "/v1/developer/operations", Value::Null, "wallets topups payouts audit_logs").await;
    let wallets = operations["wallets"].as_array().unwrap();
    check(&wallets[0], "id owner_scope owner_id owner_name? balance_usd updated_at", "wallet");
    let scopes: BTreeSet<_> = wallets.iter().map(|wallet| wallet["owner_scope"].as_str().unwrap()).collect();
    assert_eq!(scopes, BTreeSet::from(["developer", "end_user"]));
    let act = &operations["audit_logs"][0];
    check(act, "id actor_scope actor_id? action resource_type resource_id? metadata created_at", "act");
    assert_eq!((&act["actor_scope"], &act["actor_id"]), (&json!("developer"), &issued["item"]["developer_id"]));

    let path = format!("/v1/developer/tokens/{}", issued["item"]["id"].as_str().unwrap());
    let tokens = own.expect(200, "GET", "/v1/developer/tokens", Value::Null, "items").await;
    check(&tokens["items"][0], token, "token");
    admin.expect(200, "DELETE", &path, Value::Null, "ok").await;
    admin.refused("DELETE", &path, Value::Null, (404, "invalid_request", "Developer token was not found.")).await;
    let dead = (401, "invalid_session", "Missing or invalid developer token.");
    own.refused("POST", "/v1/developer/apps", json!({}), dead).await;
}

/// The overview and the report of an administrator have the same payout and the page where a user pays.
#[tokio::test]
async fn the_overview_shows_checkouts_and_payouts_and_the_report_has_every_field() {
    if !has_postgres() {
        return;
    }
    let stripe = FakeStripe::start().await;
    let up = Up::start_with(Setting { variables: stripe.variables(), ..Setting::default() }).await;
    let (session, _) = up.wallet_with("spender", "100").await;
    let mut user = up.connect(&session).await.unwrap();
    let mut post = async |path: &str, key: &str, body: Value| {
        let answer = user.json("POST", path, &format!("idempotency-key: {key}\r\n"), &body).await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    };
    let usage = json!({ "model": "gpt-4o-mini", "usage": { "input_uncached": 90_000_000, "output_text": 10_000_000 } });
    post("/v1/usage", "earn", usage).await;
    let pay = json!({ "amount_usd": "12.34", "success_url": "https://app.example/ok", "cancel_url": "https://app.example/no" });
    let checkout = post("/v1/user/stripe/checkout-sessions", "pay", pay).await;

    let payout = "id developer_id amount_usd status provider? provider_payout_id?";
    let (root, other) = (up.admin(), json!({ "name": "checker", "role": "admin" }));
    let mut root = Client::new(&up, &root).await;
    let run = root.expect(200, "POST", "/v1/admin/payouts/run-mock", json!({ "threshold_usd": "0.01" }), "items").await;
    check(&run["items"][0], payout, "payout");
    let id = run["items"][0]["id"].as_str().unwrap();
    let step = |verb: &str| format!("/v1/admin/payouts/{id}/{verb}");
    let checker = root.expect(201, "POST", "/v1/admin/tokens", other, "token").await;
    let mut checker = Client::new(&up, checker["token"].as_str().unwrap()).await;
    checker.expect(200, "POST", &step("approve"), json!({ "operator_note": "checked" }), payout).await;
    let mut root = up.connect(&up.admin()).await.unwrap();
    let paid = root.json("POST", &step("mark-paid"), "", &json!({})).await.unwrap();
    assert_eq!(paid.status, 200, "{paid:?}");
    let position = paid.header("ledger-position").unwrap();

    let developer = up.secret("developer_token");
    let mut developer = Client::new(&up, &developer).await;
    let path = format!("/v1/developer/operations?min_position={position}");
    let shown = developer.expect(200, "GET", &path, Value::Null, "wallets topups payouts audit_logs").await;
    let members = "id wallet_id owner_scope owner_id provider provider_checkout_session_id amount_usd status checkout_url created_at updated_at";
    let top_ups = shown["topups"].as_array().unwrap();
    let top_up = top_ups.iter().find(|top_up| top_up["id"] == checkout["top_up_id"]).unwrap();
    check(top_up, members, "top-up");
    for (member, of_checkout) in [
        ("checkout_url", "checkout_url"),
        ("provider_checkout_session_id", "checkout_session_id"),
        ("wallet_id", "wallet_id"),
        ("amount_usd", "amount_usd"),
        ("status", "status"),
    ] {
        assert_eq!(top_up[member], checkout[of_checkout], "{member}");
    }
    assert!(top_ups.iter().all(|other| other["id"] == top_up["id"] || other.get("checkout_url").is_none()), "{shown}");
    let [listed] = shown["payouts"].as_array().unwrap().as_slice() else { panic!("one payout: {shown}") };
    check(
        listed,
        "id developer_id developer_name amount_usd status provider provider_payout_id created_at updated_at",
        path.as_str(),
    );
    let paid = paid.json();
    for member in ["id", "developer_id", "amount_usd", "status", "provider", "provider_payout_id"] {
        assert_eq!(listed[member], paid[member], "{member}");
    }
    assert_eq!((&listed["status"], listed["developer_name"].is_string()), (&json!("paid"), true));
    assert!(money(&listed["amount_usd"]).ends_with("000000"), "whole cents: {listed}");
    time(&listed["created_at"]);
    time(&listed["updated_at"]);

    // Another developer sees neither.
    let eve = json!({ "name": "Eve", "email": "eve@example.org" });
    let eve = up.as_admin("POST", "/v1/admin/developers", "", &eve).await.json();
    let token = json!({ "name": "eve", "developer_id": eve["developer_id"] });
    let token = up.as_admin("POST", "/v1/developer/tokens", "", &token).await;
    let mut eve = Client::new(&up, token.json()["token"].as_str().unwrap()).await;
    let path = format!("/v1/developer/operations?min_position={}", token.header("ledger-position").unwrap());
    let others = eve.expect(200, "GET", &path, Value::Null, "wallets").await;
    assert_eq!((&others["payouts"], &others["topups"]), (&json!([]), &json!([])));

    // The report, field by field.
    let apps = up.as_admin("GET", "/v1/developer/apps", "", &Value::Null).await.json();
    let report = root.json("GET", "/v1/admin/reports/payouts.csv", "", &Value::Null).await.unwrap();
    assert_eq!((report.status, report.header("content-type")), (200, Some("text/csv; charset=utf-8")));
    let text = String::from_utf8(report.body).unwrap();
    assert!(text.ends_with('\n') && !text.contains('\r'), "{text:?}");
    let mut report = csv::ReaderBuilder::new().from_reader(text.as_bytes());
    let expected = [
        ("created_at", &listed["created_at"]),
        ("updated_at", &listed["updated_at"]),
        ("payout_id", &listed["id"]),
        ("developer_id", &listed["developer_id"]),
        ("developer_email", &apps["items"][0]["developer_email"]),
        ("amount_usd", &listed["amount_usd"]),
        ("status", &listed["status"]),
        ("provider", &listed["provider"]),
        ("provider_payout_id", &listed["provider_payout_id"]),
    ];
    assert_eq!(report.headers().unwrap(), expected.map(|(name, _)| name).as_slice());
    let rows: Vec<csv::StringRecord> = report.records().collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.len(), 1, "{text}");
    assert_eq!(rows[0], expected.map(|(_, value)| value.as_str().unwrap()).to_vec());
}
