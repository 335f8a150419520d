//! The API over HTTP on a real process: what callers see, and what no input may do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use modelfaucet_integration_tests::connection::Answer;
use modelfaucet_integration_tests::process::{Up, has_postgres};
use serde_json::{Value, json};

fn key(text: &str) -> String {
    format!("idempotency-key: {text}\r\n")
}

async fn head(up: &Up) -> i64 {
    let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let position = client.query_one("SELECT position FROM ledger.head WHERE shard = 0", &[]).await.unwrap().get(0);
    drop(client);
    connection.await.unwrap().unwrap();
    position
}

/// One request: who, method, path, headers, content type, body; and the status and code that it must get.
struct Case {
    who: Who,
    method: &'static str,
    path: String,
    headers: String,
    kind: &'static str,
    body: String,
    status: u16,
    code: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Who {
    Nobody,
    Admin,
    Session,
    Developer,
    /// Another developer's token.
    Stranger,
    Garbage,
}

fn case(
    who: Who,
    method: &'static str,
    path: impl Into<String>,
    body: impl std::fmt::Display,
    status: u16,
    code: &'static str,
) -> Case {
    let headers = if path_needs_key(method) { key("bad-input-1") } else { String::new() };
    Case { who, method, path: path.into(), headers, kind: "application/json", body: body.to_string(), status, code }
}

fn path_needs_key(method: &str) -> bool {
    method == "POST"
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn bad_input_gets_its_status_and_code_and_leaves_no_event() {
    use Who::{Admin, Developer, Garbage, Nobody, Session, Stranger};
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (session, wallet) = up.wallet_with("bad-input", "1.00").await;
    let stranger = stranger(&up).await;
    let hold_body = json!({ "model": "gpt-4o-mini", "amount_usd": "0.10" });
    let hold = {
        let mut user = up.connect(&session).await.unwrap();
        user.json("POST", "/v1/usage/holds", &key("hold-1"), &hold_body).await.unwrap().json()["hold_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let unknown = "01900000-0000-7000-8000-000000000000";
    let digest = "5f".repeat(32);
    let incident = |name: &str, first: i64, last: i64, digest: &str, bytes: u64| json!({ "name": name, "first": first, "last": last, "digest": digest, "bytes": bytes, "reason": "x" });
    let digits = "9".repeat(10_000);
    let deep = format!("{}{}", r#"{"a":"#.repeat(40), "1".to_owned() + &"}".repeat(40));
    let usage = |value: &str| format!(r#"{{"model":"gpt-4o-mini","usage":{{"input_uncached":{value}}}}}"#);
    let credit = format!("/v1/admin/wallets/{wallet}/credit-test-balance");
    let adjust = format!("/v1/admin/wallets/{wallet}/adjustments");
    let top_up = format!("/v1/admin/wallets/{wallet}/top-ups");
    let mut cases = vec![
        // Who is it?
        case(Nobody, "POST", "/v1/usage", usage("1"), 401, "invalid_session"),
        case(Garbage, "POST", "/v1/usage", usage("1"), 401, "invalid_session"),
        case(Nobody, "POST", credit.clone(), r#"{"amount_usd":"1"}"#, 401, "invalid_session"),
        case(Session, "POST", credit.clone(), r#"{"amount_usd":"1"}"#, 401, "invalid_session"),
        case(Developer, "POST", credit.clone(), r#"{"amount_usd":"1"}"#, 401, "invalid_session"),
        case(Garbage, "GET", "/v1/admin/trial-balance", "", 401, "invalid_session"),
        // Another tenant's things look like things that do not exist.
        case(
            Stranger,
            "POST",
            "/v1/usage",
            format!(r#"{{"wallet_id":"{wallet}","model":"gpt-4o-mini","usage":{{"output_text":1}}}}"#),
            404,
            "wallet_not_found",
        ),
        case(
            Stranger,
            "POST",
            "/v1/usage",
            format!(r#"{{"wallet_id":"{unknown}","model":"gpt-4o-mini","usage":{{"output_text":1}}}}"#),
            404,
            "wallet_not_found",
        ),
        case(
            Stranger,
            "POST",
            format!("/v1/usage/holds/{hold}/capture"),
            r#"{"usage":{"output_text":1}}"#,
            404,
            "hold_not_found",
        ),
        case(Stranger, "POST", format!("/v1/usage/holds/{unknown}/release"), "{}", 404, "hold_not_found"),
        case(Stranger, "PATCH", "/v1/developer/apps/app_pub_demo", r#"{"name":"mine"}"#, 404, "invalid_app"),
        case(
            Session,
            "POST",
            "/v1/usage",
            format!(r#"{{"wallet_id":"{unknown}","model":"gpt-4o-mini","usage":{{"output_text":1}}}}"#),
            400,
            "invalid_request",
        ),
        // What is it?
        case(Session, "POST", "/v1/usage/holds", "", 400, "invalid_request"),
        case(Session, "POST", "/v1/usage/holds", "{", 400, "invalid_request"),
        case(Session, "POST", "/v1/usage/holds", "[]", 400, "invalid_request"),
        case(Session, "POST", "/v1/usage/holds", "null", 400, "invalid_request"),
        case(Session, "POST", "/v1/usage/holds", r#"{"model":"gpt-4o-mini"}"#, 400, "invalid_request"),
        case(
            Session,
            "POST",
            "/v1/usage/holds",
            r#"{"model":"gpt-4o-mini","amount_usd":"0.01","surprise":1}"#,
            400,
            "invalid_request",
        ),
        case(Session, "POST", "/v1/usage/holds", r#"{"model":"","amount_usd":"0.01"}"#, 400, "invalid_request"),
        case(
            Session,
            "POST",
            "/v1/usage/holds",
            format!(r#"{{"model":"{}","amount_usd":"0.01"}}"#, "m".repeat(300)),
            400,
            "invalid_request",
        ),
        case(
            Session,
            "POST",
            "/v1/usage/holds",
            r#"{"model":"no-such-model","amount_usd":"0.01"}"#,
            404,
            "model_not_found",
        ),
        case(
            Session,
            "POST",
            "/v1/usage/holds",
            r#"{"model":"gpt-4o-mini","amount_usd":"0.01","feature_key":"no-such"}"#,
            404,
            "feature_not_found",
        ),
        case(
            Session,
            "POST",
            "/v1/usage/holds",
            r#"{"model":"gpt-4o-mini","amount_usd":"0.01","expires_in":0}"#,
            400,
            "invalid_request",
        ),
        case(
            Session,
            "POST",
            "/v1/usage/holds",
            r#"{"model":"gpt-4o-mini","amount_usd":"0.01","expires_in":99999999}"#,
            400,
            "invalid_request",
        ),
        case(
            Session,
            "POST",
            "/v1/usage/holds",
            r#"{"model":"gpt-4o-mini","amount_usd":"5.00"}"#,
            402,
            "insufficient_balance",
        ),
        case(
            Session,
            "POST",
            "/v1/usage/holds",
            r#"{"model":"gpt-4o-mini","amount_usd":"0.95"}"#,
            402,
            "in_flight_holds",
        ),
        case(Session, "POST", "/v1/usage/holds", deep, 400, "invalid_request"),
        case(Session, "POST", "/v1/usage", usage("-1"), 400, "invalid_request"),
        case(Session, "POST", "/v1/usage", usage("1.5"), 400, "invalid_request"),
        case(Session, "POST", "/v1/usage", usage("\"1\""), 400, "invalid_request"),
        case(Session, "POST", "/v1/usage", usage("1000000001"), 400, "invalid_request"),
        case(Session, "POST", "/v1/usage", usage(&digits), 400, "invalid_request"),
        case(
            Session,
            "POST",
            "/v1/usage",
            r#"{"model":"gpt-4o-mini","usage":{"input_audio":1}}"#,
            404,
            "model_not_priced",
        ),
        case(
            Session,
            "POST",
            "/v1/usage",
            r#"{"model":"gpt-4o-mini","usage":{},"occurred_at":"2999-01-01T00:00:00Z"}"#,
            400,
            "invalid_request",
        ),
        case(
            Session,
            "POST",
            "/v1/usage",
            r#"{"model":"gpt-4o-mini","usage":{},"occurred_at":"yesterday"}"#,
            400,
            "invalid_request",
        ),
        case(Session, "POST", "/v1/usage/holds/not-an-id/capture", r#"{"usage":{}}"#, 400, "invalid_request"),
        case(Session, "POST", format!("/v1/usage/holds/{unknown}/capture"), r#"{"usage":{}}"#, 404, "hold_not_found"),
        case(
            Admin,
            "POST",
            "/v1/admin/wallets/not-an-id/credit-test-balance",
            r#"{"amount_usd":"1"}"#,
            400,
            "invalid_request",
        ),
        case(
            Admin,
            "POST",
            format!("/v1/admin/wallets/{unknown}/credit-test-balance"),
            r#"{"amount_usd":"1"}"#,
            404,
            "invalid_request",
        ),
        case(Admin, "POST", adjust.clone(), r#"{"direction":"debit","amount_usd":"100"}"#, 402, "insufficient_balance"),
        case(Admin, "POST", adjust, r#"{"direction":"sideways","amount_usd":"1"}"#, 400, "invalid_request"),
        case(Admin, "POST", top_up, r#"{"amount_usd":"0.001"}"#, 400, "invalid_request"),
        // Tokens, features, staff.
        case(Developer, "POST", "/v1/developer/tokens", r#"{"name":"x","scopes":[]}"#, 400, "invalid_request"),
        case(
            Developer,
            "POST",
            "/v1/developer/tokens",
            format!(r#"{{"name":"x","developer_id":"{unknown}"}}"#),
            403,
            "forbidden",
        ),
        case(
            Developer,
            "POST",
            "/v1/developer/tokens",
            r#"{"name":"x","developer_email":"stranger@example.com"}"#,
            403,
            "forbidden",
        ),
        case(
            Admin,
            "POST",
            "/v1/developer/tokens",
            r#"{"name":"x","developer_email":"no@body.test"}"#,
            404,
            "invalid_request",
        ),
        case(Admin, "DELETE", format!("/v1/developer/tokens/{unknown}"), "", 404, "invalid_request"),
        case(
            Developer,
            "POST",
            "/v1/developer/apps/app_pub_demo/features",
            r#"{"feature_key":"x","display_name":"x","pricing":{"markup_percent":0.001}}"#,
            400,
            "invalid_request",
        ),
        case(
            Developer,
            "POST",
            "/v1/developer/apps/app_pub_demo/features",
            r#"{"feature_key":"x","display_name":"x","pricing":{"markup_percent":1,"markup_bps":1}}"#,
            400,
            "invalid_request",
        ),
        case(Developer, "PATCH", "/v1/developer/apps/app_pub_demo/features/none", "{}", 404, "invalid_request"),
        case(Admin, "POST", "/v1/admin/tokens", r#"{"name":"x","role":"root"}"#, 400, "invalid_request"),
        case(Developer, "POST", "/v1/admin/tokens", r#"{"name":"x","role":"admin"}"#, 401, "invalid_session"),
        case(Admin, "DELETE", format!("/v1/admin/tokens/{unknown}"), "", 404, "token_not_found"),
        // Who asks comes before what is asked.
        case(Nobody, "POST", "/v1/admin/developers", "nonsense", 401, "invalid_session"),
        case(
            Admin,
            "POST",
            format!("/v1/admin/top-ups/{unknown}/credit"),
            r#"{"payment":"pi_1"}"#,
            404,
            "top_up_not_found",
        ),
        case(Admin, "POST", "/v1/admin/freezes/thaw", r#"{"scope":{"kind":"usage"},"reason":"x"}"#, 409, "not_frozen"),
        case(
            Admin,
            "POST",
            "/v1/admin/freezes",
            r#"{"scope":{"kind":"nonsense"},"reason":"x"}"#,
            400,
            "invalid_request",
        ),
        case(Admin, "POST", "/v1/admin/incidents", incident("INC 1", 1, 1, &digest, 1), 400, "invalid_request"),
        case(Admin, "POST", "/v1/admin/incidents", incident("INC-1", 2, 1, &digest, 1), 400, "invalid_request"),
        case(
            Admin,
            "POST",
            "/v1/admin/incidents",
            incident("INC-1", 1, 1, &digest.to_uppercase(), 1),
            400,
            "invalid_request",
        ),
        case(Admin, "POST", "/v1/admin/incidents", incident("INC-1", 1, 1, &digest, 0), 400, "invalid_request"),
        case(Admin, "POST", "/v1/admin/incidents", incident("INC-1", 1, 99_999, &digest, 1), 409, "range_beyond_log"),
        case(Developer, "POST", "/v1/admin/incidents", incident("INC-1", 1, 1, &digest, 1), 401, "invalid_session"),
        case(Admin, "POST", "/v1/admin/rate-cards", r#"{"source":"x","models":[]}"#, 400, "invalid_rate_card"),
        case(
            Admin,
            "POST",
            "/v1/admin/rate-cards",
            r#"{"source":"x","models":[{"provider":"openai","model":"m","rates":{"input_uncached":"1e-7"}}]}"#,
            400,
            "invalid_request",
        ),
        case(
            Admin,
            "POST",
            "/v1/admin/rate-cards",
            r#"{"source":"x","models":[{"provider":"openai","model":"m","rates":{"input_uncached":"0.0000000000000001"}}]}"#,
            400,
            "invalid_request",
        ),
        case(
            Admin,
            "POST",
            "/v1/developer/apps",
            r#"{"public_app_id":"has blank","name":"x"}"#,
            400,
            "invalid_request",
        ),
        case(
            Developer,
            "POST",
            "/v1/developer/apps",
            r#"{"public_app_id":"app_pub_demo","name":"x"}"#,
            409,
            "already_exists",
        ),
        case(
            Nobody,
            "POST",
            "/v1/sessions",
            r#"{"public_app_id":"no_such_app","external_user_id":"x"}"#,
            404,
            "invalid_app",
        ),
        case(
            Nobody,
            "POST",
            "/v1/sessions",
            r#"{"public_app_id":"app_pub_demo","external_user_id":""}"#,
            400,
            "invalid_request",
        ),
        case(
            Nobody,
            "POST",
            "/v1/sessions",
            format!(r#"{{"public_app_id":"app_pub_demo","external_user_id":"{}"}}"#, "x".repeat(513)),
            400,
            "invalid_request",
        ),
        case(Nobody, "GET", "/v1/no/such/path", "", 404, "not_found"),
        case(Nobody, "PUT", "/v1/usage", "{}", 405, "method_not_allowed"),
        case(Admin, "GET", "/v1/admin/journal?limit=100000", "", 400, "invalid_request"),
        case(Admin, "GET", "/v1/admin/journal?what=ever", "", 400, "invalid_request"),
    ];
    for amount in
        ["-1", "+1", "1e3", "NaN", "0x1", "01", "1.123456789", " 1", "1,0", "99999999999999999999", digits.as_str()]
    {
        cases.push(case(Admin, "POST", credit.clone(), json!({ "amount_usd": amount }), 400, "invalid_request"));
    }
    for amount in ["1", "1.5", "true", "[]", "{}", "null"] {
        cases.push(case(
            Admin,
            "POST",
            credit.clone(),
            format!(r#"{{"amount_usd":{amount}}}"#),
            400,
            "invalid_request",
        ));
    }
    cases.push(case(Admin, "POST", credit.clone(), r#"{"amount_usd":"0"}"#, 400, "invalid_request"));
    let same = |kind, headers: &str, body: String, status, code| Case {
        who: Session,
        method: "POST",
        path: "/v1/usage/holds".to_owned(),
        headers: headers.to_owned(),
        kind,
        body,
        status,
        code,
    };
    cases.extend([
        same("application/json", "", hold_body.to_string(), 400, "idempotency_key_required"),
        same("application/json", &key("has blank"), hold_body.to_string(), 400, "invalid_request"),
        same("application/json", &key(&"k".repeat(300)), hold_body.to_string(), 400, "invalid_request"),
        same(
            "application/json",
            &key("hold-1"),
            json!({ "model": "gpt-4o-mini", "amount_usd": "0.11" }).to_string(),
            422,
            "idempotency_key_reused",
        ),
        same("text/plain", &key("k"), hold_body.to_string(), 415, "unsupported_media_type"),
        same(
            "application/json",
            &(key("k") + "content-encoding: gzip\r\n"),
            hold_body.to_string(),
            415,
            "unsupported_media_type",
        ),
        same(
            "application/json",
            &key("k"),
            format!("{{\"model\":\"{}\"}}", "x".repeat(2 << 20)),
            413,
            "request_too_large",
        ),
    ]);
    let before = head(&up).await;
    let (admin, developer) = (up.admin(), up.secret("developer_token"));
    let total = cases.len();
    for case in cases {
        let token = match case.who {
            Nobody => "",
            Admin => &admin,
            Session => &session,
            Developer => &developer,
            Stranger => &stranger.0,
            Garbage => "mf_sess_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        };
        let mut connection = up.connect(token).await.unwrap();
        let answer = connection.send(case.method, &case.path, &case.headers, case.kind, case.body.as_bytes()).await;
        let shown = format!("{} {} {:.200}", case.method, case.path, case.body);
        let answer: Answer = answer.unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (case.status, case.code),
            "{shown}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        let error = &answer.json()["error"];
        assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"), "{shown}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty() && message.len() < 600), "{shown}");
        assert!(error["type"].is_string() && error.get("param").is_some(), "{shown}");
    }
    assert_eq!(head(&up).await, before, "a refused request left an event");
    println!("{total} bad requests, 0 events");
}

/// A developer with all scopes and no apps: its token and id.
async fn stranger(up: &Up) -> (String, String) {
    let body = json!({ "name": "Stranger", "email": "stranger@example.com" });
    let developer = up.as_admin("POST", "/v1/admin/developers", "", &body).await.json();
    let id = developer["developer_id"].as_str().unwrap().to_owned();
    let scopes: Vec<_> = modelfaucet_schema::token::Scope::ALL.iter().map(|scope| scope.text()).collect();
    let body = json!({ "name": "all", "developer_id": id, "scopes": scopes });
    let issued = up.as_admin("POST", "/v1/developer/tokens", "", &body).await;
    assert_eq!(issued.status, 201, "{issued:?}");
    (issued.json()["token"].as_str().unwrap().to_owned(), id)
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_has_no_second_effect() {
    if !has_postgres() {
        return;
    }
    let mut up = Up::start().await;
    let (session, wallet) = up.wallet_with("repeat", "5.00").await;
    let mut user = up.connect(&session).await.unwrap();
    let hold = json!({ "model": "gpt-4o-mini", "usage_bound": { "input_uncached": 2000, "output_text": 500 } });
    let first = user.json("POST", "/v1/usage/holds", &key("call-1"), &hold).await.unwrap();
    assert_eq!(first.status, 201, "{first:?}");
    let again = user.json("POST", "/v1/usage/holds", &key("call-1"), &hold).await.unwrap();
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), (None, Some("true")));
    // White space and the order of members do not make another request.
    let reordered = br#"{ "usage_bound" : {"output_text":500,"input_uncached":2000}, "model":"gpt-4o-mini" }"#;
    let again = user.send("POST", "/v1/usage/holds", &key("call-1"), "application/json", reordered).await.unwrap();
    assert_eq!(again.body, first.body);

    // The worked example of docs/ACCOUNTING.md: 23,077.5 units of cost, markup 30 %.
    let path = format!("/v1/usage/holds/{}/capture", first.json()["hold_id"].as_str().unwrap());
    let used = json!({ "usage": { "input_uncached": 178, "cache_read": 1025, "output_text": 212 } });
    let captured = user.json("POST", &path, "", &used).await.unwrap();
    assert_eq!(captured.json()["charged_usd"], "0.00030001", "{captured:?}");
    assert_eq!(user.json("POST", &path, "", &used).await.unwrap().body, captured.body);
    let other = user.json("POST", &path, "", &json!({ "usage": { "output_text": 1 } })).await.unwrap();
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));

    // A payment is credited once, whoever repeats it.
    let requested = up
        .as_admin(
            "POST",
            &format!("/v1/admin/wallets/{wallet}/top-ups"),
            &key("t-1"),
            &json!({ "amount_usd": "10.00" }),
        )
        .await;
    let credit = format!("/v1/admin/top-ups/{}/credit", requested.json()["top_up_id"].as_str().unwrap());
    let credited = up.as_admin("POST", &credit, "", &json!({ "payment": "pi_1" })).await;
    assert_eq!(credited.json()["wallet"]["balance_usd"], "14.99969999");
    assert_eq!(up.as_admin("POST", &credit, "", &json!({ "payment": "pi_1" })).await.body, credited.body);
    let second = up.as_admin("POST", &credit, "", &json!({ "payment": "pi_2" })).await;
    assert_eq!((second.status, second.code().as_str()), (404, "top_up_not_found"));

    // After a restart the same keys get the same bytes.
    up.kill();
    up.start_again();
    up.wait_until_ready(std::time::Duration::from_secs(60)).await;
    let mut user = up.connect(&session).await.unwrap();
    assert_eq!(user.json("POST", "/v1/usage/holds", &key("call-1"), &hold).await.unwrap().body, first.body);
    assert_eq!(user.json("POST", &path, "", &used).await.unwrap().body, captured.body);
    assert_eq!(up.as_admin("POST", &credit, "", &json!({ "payment": "pi_1" })).await.body, credited.body);

    // The books agree.
    let position = credited.header("ledger-position").unwrap().to_owned();
    let books =
        up.as_admin("GET", &format!("/v1/admin/trial-balance?min_position={position}"), "", &Value::Null).await.json();
    assert_eq!(books["balanced"], true, "{books}");
    let compared = up
        .as_admin("GET", &format!("/v1/admin/reconciliation/ledger?min_position={position}"), "", &Value::Null)
        .await
        .json();
    assert_eq!(compared["summary"]["mismatch_count"], 0, "{compared}");
    assert!(compared["summary"]["wallet_count"].as_i64().unwrap() >= 1);
}

#[tokio::test]
async fn one_bad_item_never_fails_the_others() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (session, wallet) = up.wallet_with("batch", "0.01").await;
    let item = |id: &str, tokens: i64| json!({ "request_id": id, "wallet_id": wallet, "model": "gpt-4o-mini", "usage": { "output_text": tokens } });
    let items = json!([
        item("a", 100),
        item("a", 100),
        item("a", 101),
        item("b", -1),
        item("c", 1_000_000),
        { "wallet_id": wallet, "model": "gpt-4o-mini", "usage": {} },
        { "request_id": "d", "wallet_id": wallet, "model": "gpt-4o-mini", "usage": { "output_text": 1_000_000 }, "on_shortfall": "receivable" },
        "nonsense",
    ]);
    let mut admin = up.connect(&up.admin()).await.unwrap();
    let answer = admin.json("POST", "/v1/usage/batch", "", &items).await.unwrap();
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let seen: Vec<(i64, String)> = body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["status"].as_i64().unwrap(), item["error"]["code"].as_str().unwrap_or("ok").to_owned()))
        .collect();
    let expected = [
        (201, "ok"),
        (201, "ok"),
        (422, "idempotency_key_reused"),
        (400, "invalid_request"),
        (402, "insufficient_balance"),
        (400, "idempotency_key_required"),
        (201, "ok"),
        (400, "invalid_request"),
    ];
    assert_eq!(seen, expected.map(|(status, code)| (status, code.to_owned())), "{body}");
    assert_eq!(body["items"][1]["replayed"], true);
    // 100 tokens cost 6,000 units, with markup 7,800; the rest of the million is owed.
    assert_eq!(body["items"][0]["usage"]["charged_usd"], "0.00007800");
    assert_eq!(body["items"][6]["usage"]["charged_usd"], "0.78000000");
    assert_eq!(body["items"][6]["usage"]["receivable_usd"], "0.77007800");
    assert_eq!(body["items"][6]["usage"]["wallet"]["available_usd"], "0.00000000");

    // As lines, the answers come as lines; the same ids are repeats. A session token pays for itself only.
    let lines = "{\"request_id\":\"e\",\"model\":\"gpt-4o-mini\",\"usage\":{}}\nnot json\n\n";
    let mut user = up.connect(&session).await.unwrap();
    let answer = user.send("POST", "/v1/usage/batch", "", "application/x-ndjson", lines.as_bytes()).await.unwrap();
    let lines: Vec<Value> = answer
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines.iter().map(|line| line["status"].as_i64().unwrap()).collect::<Vec<_>>(), [201, 400]);
    let many = Value::from(vec![json!({}); 10_001]);
    let answer = admin.json("POST", "/v1/usage/batch", "", &many).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "request_too_large"));
}

#[tokio::test]
async fn a_revoked_token_a_disabled_app_and_a_freeze_stop_at_once() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (session, wallet) = up.wallet_with("stop", "1.00").await;
    let body = json!({ "request_id": "1", "model": "gpt-4o-mini", "usage": { "output_text": 10 } });
    let spend = async |id: &str| {
        let mut user = up.connect(&session).await.unwrap();
        let answer = user.json("POST", "/v1/usage", &key(id), &body).await.unwrap();
        (answer.status, answer.code())
    };
    assert_eq!(spend("1").await, (201, String::new()));
    let second = json!({ "name": "second person", "role": "operator" });
    let second =
        up.as_admin("POST", "/v1/admin/tokens", "", &second).await.json()["token"].as_str().unwrap().to_owned();
    for scope in
        [json!({ "kind": "usage" }), json!({ "kind": "wallet", "id": wallet }), json!({ "kind": "everything" })]
    {
        let freeze = json!({ "scope": scope, "reason": "test" });
        assert_eq!(up.as_admin("POST", "/v1/admin/freezes", "", &freeze).await.status, 201);
        assert_eq!(spend("2").await, (503, "frozen".to_owned()));
        assert_eq!(up.as_admin("POST", "/v1/admin/freezes", "", &freeze).await.code(), "already_frozen");
        assert_eq!(up.as_admin("POST", "/v1/admin/freezes/thaw", "", &freeze).await.code(), "same_actor");
        let mut other = up.connect(&second).await.unwrap();
        assert_eq!(other.json("POST", "/v1/admin/freezes/thaw", "", &freeze).await.unwrap().status, 200);
    }
    assert_eq!(spend("2").await, (201, String::new()));
    assert_eq!(up.as_admin("DELETE", "/v1/developer/apps/app_pub_demo", "", &Value::Null).await.status, 200);
    assert_eq!(spend("3").await, (401, "invalid_session".to_owned()));
    let active = json!({ "status": "active" });
    assert_eq!(up.as_admin("PATCH", "/v1/developer/apps/app_pub_demo", "", &active).await.status, 200);
    assert_eq!(spend("3").await, (201, String::new()));

    let (token, id) = stranger(&up).await;
    let mut developer = up.connect(&token).await.unwrap();
    let app = json!({ "public_app_id": "strange", "name": "Strange", "session_opening": "server" });
    assert_eq!(developer.json("POST", "/v1/developer/apps", "", &app).await.unwrap().status, 201);
    let opening = json!({ "public_app_id": "strange", "external_user_id": "x" });
    let mut nobody = up.connect("").await.unwrap();
    assert_eq!(nobody.json("POST", "/v1/sessions", "", &opening).await.unwrap().code(), "forbidden");
    assert_eq!(developer.json("POST", "/v1/sessions", "", &opening).await.unwrap().status, 200);
    // A token hands out at most what it has.
    let narrow = json!({ "name": "narrow", "developer_id": id, "scopes": ["developer:tokens:write"] });
    let narrow = up.as_admin("POST", "/v1/developer/tokens", "", &narrow).await.json();
    let mut narrow_token = up.connect(narrow["token"].as_str().unwrap()).await.unwrap();
    assert_eq!(
        narrow_token
            .json("POST", "/v1/developer/tokens", "", &json!({ "name": "wide", "scopes": ["developer:apps:read"] }))
            .await
            .unwrap()
            .code(),
        "forbidden"
    );
    let same = narrow_token.json("POST", "/v1/developer/tokens", "", &json!({ "name": "as narrow" })).await.unwrap();
    assert_eq!(same.json()["item"]["scopes"], json!(["developer:tokens:write"]));
    assert_eq!(narrow_token.json("POST", "/v1/sessions", "", &opening).await.unwrap().code(), "forbidden");
    let path = format!("/v1/developer/tokens/{}", narrow["item"]["id"].as_str().unwrap());
    assert_eq!(developer.json("DELETE", &path, "", &Value::Null).await.unwrap().status, 200);
    let refused = narrow_token.json("POST", "/v1/developer/tokens", "", &json!({ "name": "x" })).await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (401, "invalid_session"));
}
