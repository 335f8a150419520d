//! Tenants are apart and scopes hold (S1, S2): every operation of the API document × another tenant's ids, missing scopes, tokens that
//! were revoked or have ended, and roles that may not. The document says who may; the table below only says what a good body is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};

use modelfaucet_integration_tests::connection::{Answer, Connection};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::report;
use serde_json::{Value, json};

/// Those who run the ledger, by power.
const ROLES: [&str; 4] = ["auditor", "operator", "admin", "root"];
/// Who may, where it is not a role or a developer's scope.
const OTHERS: [&str; 3] = ["session", "self", "public"];

/// An operation as the document has it.
struct Operation {
    method: String,
    path: String,
    /// Who may: a role, a scope, `session`; the alternatives.
    allowed: Vec<String>,
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The developer's scope, if one opens it.
    fn scope(&self) -> Option<&str> {
        self.allowed.iter().find(|who| who.starts_with("developer:")).map(String::as_str)
    }

    /// The least role that may.
    fn role(&self) -> Option<usize> {
        self.allowed.iter().find_map(|who| ROLES.iter().position(|role| role == who))
    }

    fn allows(&self, who: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == who)
    }
}

async fn operations(up: &Up) -> Vec<Operation> {
    let mut visitor = up.connect("").await.unwrap();
    let document = visitor.json("GET", "/openapi.json", "", &Value::Null).await.unwrap().json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(security) = operation["security"].as_array() else {
                panic!("{method} {path} does not say who may use it");
            };
            let allowed: Vec<String> = security
                .iter()
                .map(|requirement| match &requirement["bearer"][0] {
                    Value::String(who) => who.clone(),
                    _ => "public".to_owned(),
                })
                .collect();
            assert!(!allowed.is_empty(), "{method} {path} does not say who may use it");
            let known = |who: &&String| {
                ROLES.contains(&who.as_str()) || OTHERS.contains(&who.as_str()) || who.starts_with("developer:")
            };
            assert!(allowed.iter().all(|who| known(&who)), "{method} {path}: {allowed:?}");
            operations.push(Operation { method: method.to_uppercase(), path: path.clone(), allowed });
        }
    }
    operations
}

/// A body that is right, so that who asks is all that can be wrong.
fn body(operation: &Operation, things: &BTreeMap<&str, String>) -> Value {
    let thing = |name: &str| things.get(name).cloned().unwrap_or_default();
    match operation.name().as_str() {
        "POST /v1/sessions" => json!({ "public_app_id": thing("public_app_id"), "external_user_id": "somebody" }),
        "POST /v1/usage" => {
            json!({ "wallet_id": thing("wallet_id"), "model": "gpt-4o-mini", "usage": { "output_text": 1 } })
        }
        "POST /v1/usage/batch" => {
            json!([{ "request_id": "1", "wallet_id": thing("wallet_id"), "model": "gpt-4o-mini", "usage": { "output_text": 1 } }])
        }
        "POST /v1/usage/holds" => {
            json!({ "wallet_id": thing("wallet_id"), "model": "gpt-4o-mini", "amount_usd": "0.01" })
        }
        "POST /v1/usage/holds/{hold_id}/capture" => json!({ "usage": { "output_text": 1 } }),
        "POST /v1/chat/completions" => {
            json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "hello" }] })
        }
        "POST /v1/responses" | "POST /v1/embeddings" => json!({ "model": "gpt-4o-mini", "input": "hello" }),
        "POST /v1/usage/report" => {
            json!({ "request_id": "local-1", "provider": "ollama", "model": "llama", "input_tokens": 1, "output_tokens": 1 })
        }
        "POST /v1/developer/tokens" => json!({ "name": "x", "developer_id": thing("developer_id") }),
        "POST /v1/developer/apps" => {
            json!({ "public_app_id": "isolated", "name": "x", "developer_id": thing("developer_id") })
        }
        "PATCH /v1/developer/apps/{public_app_id}" => json!({ "name": "taken" }),
        "POST /v1/developer/apps/{public_app_id}/features" => json!({ "feature_key": "new", "display_name": "x" }),
        "PATCH /v1/developer/apps/{public_app_id}/features/{feature_key}" => json!({ "display_name": "taken" }),
        _ if operation.method == "GET" || operation.method == "DELETE" => Value::Null,
        _ => json!({}),
    }
}

/// The path with the things of a tenant; others' things where there are none.
fn fill(path: &str, things: &BTreeMap<&str, String>) -> String {
    let mut filled = path.to_owned();
    for (name, value) in things {
        filled = filled.replace(&format!("{{{name}}}"), value);
    }
    while let (Some(start), Some(end)) = (filled.find('{'), filled.find('}')) {
        filled.replace_range(start..=end, "01900000-0000-7000-8000-000000000000");
    }
    filled
}

async fn ask(address: &str, token: &str, operation: &Operation, path: &str, body: &Value, key: &str) -> Answer {
    let mut connection = Connection::open(address, token).await.unwrap();
    let headers = format!("idempotency-key: {key}\r\n");
    connection.json(&operation.method, path, &headers, body).await.unwrap()
}

/// What a developer has, and its token.
struct Tenant {
    token: String,
    session: String,
    things: BTreeMap<&'static str, String>,
    /// Texts that nobody else may see.
    canaries: Vec<String>,
}

async fn tenant(up: &Up, name: &str) -> Tenant {
    let said = async |answer: Answer| {
        assert!(answer.status < 300, "{answer:?}");
        answer.json()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let developer = json!({ "name": format!("Developer {name}"), "email": format!("{name}@canary.test") });
    let developer = said(up.as_admin("POST", "/v1/admin/developers", "", &developer).await).await;
    let developer_id = text(&developer["developer_id"]);
    let every_scope: Vec<Value> = scopes().into_iter().map(Value::from).collect();
    let token = json!({ "name": format!("token of {name}"), "developer_id": developer_id, "scopes": every_scope });
    let token = said(up.as_admin("POST", "/v1/developer/tokens", "", &token).await).await;
    let (token, token_id) = (text(&token["token"]), text(&token["item"]["id"]));
    let mut own = up.connect(&token).await.unwrap();
    let public_app_id = format!("app-{name}");
    let app = json!({ "public_app_id": public_app_id, "name": format!("App {name}") });
    said(own.json("POST", "/v1/developer/apps", "", &app).await.unwrap()).await;
    let feature = json!({ "feature_key": "answer", "display_name": format!("Feature {name}") });
    let path = format!("/v1/developer/apps/{public_app_id}/features");
    said(own.json("POST", &path, "", &feature).await.unwrap()).await;
    let opened = json!({ "public_app_id": public_app_id, "external_user_id": "somebody" });
    let opened = own.json("POST", "/v1/sessions", "", &opened).await.unwrap();
    let position = opened.header("ledger-position").unwrap().to_owned();
    let session = text(&opened.json()["session_token"]);
    let mut user = up.connect(&session).await.unwrap();
    let wallet = user.json("GET", &format!("/v1/user/wallet?min_position={position}"), "", &Value::Null).await.unwrap();
    let (wallet_id, user_id) = (text(&wallet.json()["id"]), text(&wallet.json()["owner_id"]));
    let credit = format!("/v1/admin/wallets/{wallet_id}/credit-test-balance");
    said(up.as_admin("POST", &credit, "", &json!({ "amount_usd": "5" })).await).await;
    let top_up = json!({ "amount_usd": "1", "reference": format!("cs_{name}") });
    let top_ups = format!("/v1/admin/wallets/{wallet_id}/top-ups");
    let top_up =
        said(up.as_admin("POST", &top_ups, &format!("idempotency-key: top-up-{name}\r\n"), &top_up).await).await;
    let hold = json!({ "model": "gpt-4o-mini", "amount_usd": "0.10" });
    let hold = user.json("POST", "/v1/usage/holds", &format!("idempotency-key: {name}\r\n"), &hold).await.unwrap();
    let hold = said(hold).await;
    let sessions = own.json("GET", "/v1/developer/sessions", "", &Value::Null).await.unwrap();
    let position = opened.header("ledger-position").unwrap();
    assert!(sessions.status == 200, "{sessions:?} at {position}");
    let session_id = text(&sessions.json()["items"][0]["id"]);
    let canaries = vec![
        developer_id.clone(),
        wallet_id.clone(),
        user_id,
        session_id.clone(),
        format!("Developer {name}"),
        format!("{name}@canary.test"),
        format!("App {name}"),
        format!("Feature {name}"),
        format!("token of {name}"),
        format!("cs_{name}"),
    ];
    let things = BTreeMap::from([
        ("developer_id", developer_id),
        ("public_app_id", public_app_id),
        ("feature_key", "answer".to_owned()),
        ("wallet_id", wallet_id),
        ("session_id", session_id),
        ("hold_id", text(&hold["hold_id"])),
        ("top_up_id", text(&top_up["top_up_id"])),
        ("token_id", token_id),
    ]);
    Tenant { token, session, things, canaries }
}

fn scopes() -> Vec<&'static str> {
    modelfaucet_schema::token::Scope::ALL.iter().map(|scope| scope.text()).collect()
}

async fn developer_token(up: &Up, developer_id: &str, more: Value) -> (String, String) {
    let mut body = json!({ "name": "isolation", "developer_id": developer_id });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let issued = up.as_admin("POST", "/v1/developer/tokens", "", &body).await;
    assert_eq!(issued.status, 201, "{issued:?}");
    let issued = issued.json();
    (issued["token"].as_str().unwrap().to_owned(), issued["item"]["id"].as_str().unwrap().to_owned())
}

/// The read tables have what was written last.
async fn wait_for_reads(up: &Up) {
    let written = up.as_admin("POST", "/v1/admin/developers", "", &json!({ "name": "x", "email": "x@x" })).await;
    let path = format!("/v1/developer/operations?min_position={}", written.header("ledger-position").unwrap());
    assert_eq!(up.as_admin("GET", &path, "", &Value::Null).await.status, 200);
}

#[tokio::test]
async fn another_tenants_things_look_like_nothing() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (alpha, beta) = (tenant(&up, "alpha").await, tenant(&up, "beta").await);
    wait_for_reads(&up).await;
    let unknown: BTreeMap<&str, String> = alpha
        .things
        .keys()
        .map(|name| match *name {
            "public_app_id" | "feature_key" => (*name, "no-such-thing".to_owned()),
            _ => (*name, "01900000-0000-7000-8000-00000000dead".to_owned()),
        })
        .collect();
    let (mut tried, mut same, mut lists, mut leaks) = (0_u64, 0, 0, BTreeSet::new());
    for operation in operations(&up).await {
        // Developers and users of one tenant with the things of the other.
        for token in [&beta.token, &beta.session] {
            let theirs = fill(&operation.path, &alpha.things);
            let answer = ask(&up.address(), token, &operation, &theirs, &body(&operation, &alpha.things), "i-1").await;
            tried += 1;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let in_request = format!("{theirs} {}", body(&operation, &alpha.things));
            for canary in alpha.canaries.iter().filter(|canary| !in_request.contains(*canary)) {
                if text.contains(canary) {
                    leaks.insert(format!("{} shows {canary}", operation.name()));
                }
            }
            let concerns_a_thing =
                theirs != operation.path || body(&operation, &alpha.things) != body(&operation, &unknown);
            let may = operation.scope().is_some() && token == &beta.token;
            if !may || !concerns_a_thing {
                lists += 1;
                continue;
            }
            let path = fill(&operation.path, &unknown);
            let nothing = ask(&up.address(), token, &operation, &path, &body(&operation, &unknown), "i-2").await;
            let told = |answer: &Answer| (answer.status, answer.code(), answer.json()["error"]["message"].clone());
            assert_eq!(told(&answer), told(&nothing), "{} tells what exists: {text}", operation.name());
            same += 1;
        }
    }
    report::judged("isolation", &[("I14", tried, leaks.len() as u64)]);
    assert_eq!(leaks, BTreeSet::new());
    // Nothing of alpha's was changed.
    let mut own = up.connect(&alpha.token).await.unwrap();
    let apps = own.json("GET", "/v1/developer/apps", "", &Value::Null).await.unwrap().json();
    assert_eq!((&apps["items"][0]["name"], &apps["items"][0]["status"]), (&json!("App alpha"), &json!("active")));
    println!(
        "{tried} requests with another tenant's ids: {same} as unknown ids, {lists} without an id of another, 0 leaks"
    );
    assert!(same >= 16, "{same}");
}

#[tokio::test]
async fn a_missing_scope_a_dead_token_and_a_low_role_open_nothing() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let alpha = tenant(&up, "alpha").await;
    let developer = &alpha.things["developer_id"];
    let (revoked, revoked_id) = developer_token(&up, developer, json!({ "scopes": scopes() })).await;
    let past = json!({ "scopes": scopes(), "expires_at": "2020-01-01T00:00:00Z" });
    let (expired, _) = developer_token(&up, developer, past).await;
    let path = format!("/v1/developer/tokens/{revoked_id}");
    assert_eq!(up.as_admin("DELETE", &path, "", &Value::Null).await.status, 200);
    // A session that was ended, and one whose second is over.
    let short = up.role_with(&["command"], "ledger_command", &[("SESSION_TOKEN_TTL_SECONDS", "1")]);
    short.wait_until_ready().await;
    let open = json!({ "public_app_id": "app-alpha", "external_user_id": "other" });
    let mut visitor = Connection::open(&short.address(), "").await.unwrap();
    let over = visitor.json("POST", "/v1/sessions", "", &open).await.unwrap();
    let over = over.json()["session_token"].as_str().unwrap().to_owned();
    let mut staff = Vec::new();
    for role in ["auditor", "operator", "admin"] {
        let issued = json!({ "name": role, "role": role });
        let issued = up.as_admin("POST", "/v1/admin/tokens", "", &issued).await.json();
        staff.push(issued["token"].as_str().unwrap().to_owned());
    }
    let ended = json!({ "name": "ended", "role": "admin", "expires_at": "2020-01-01T00:00:00Z" });
    let ended = up.as_admin("POST", "/v1/admin/tokens", "", &ended).await.json()["token"].as_str().unwrap().to_owned();
    wait_for_reads(&up).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let address = up.address();
    for operation in operations(&up).await {
        if operation.allowed == ["public"] {
            // Nobody is asked who they are.
            *counts.entry("open to everybody").or_default() += 1;
            continue;
        }
        let (path, body) = (fill(&operation.path, &alpha.things), body(&operation, &alpha.things));
        let mut refused = async |what: &'static str, token: &str, statuses: &[u16]| {
            let answer = ask(&address, token, &operation, &path, &body, "never").await;
            assert!(statuses.contains(&answer.status), "{} with {what}: {answer:?}", operation.name());
            *counts.entry(what).or_default() += 1;
        };
        if !operation.allows("public") {
            refused("no token", "", &[401]).await;
        }
        refused("a revoked token", &revoked, &[401]).await;
        refused("a token that has ended", &expired, &[401]).await;
        refused("a staff token that has ended", &ended, &[401]).await;
        refused("a session that has ended", &over, &[401]).await;
        refused("nonsense", "mf_dev_nonsense", &[401]).await;
        match operation.scope() {
            Some(scope) => {
                let others: Vec<_> = scopes().into_iter().filter(|other| *other != scope).collect();
                let (without, _) = developer_token(&up, developer, json!({ "scopes": others })).await;
                refused("every scope but the one", &without, &[403]).await;
            }
            None => refused("a developer's token", &alpha.token, &[401]).await,
        }
        if !operation.allows("session") {
            refused("a user's session", &alpha.session, &[401]).await;
        }
        let least = operation.role().unwrap_or(ROLES.len());
        for (power, token) in staff.iter().enumerate().filter(|(power, _)| *power < least) {
            // Where no role may at all, a staff token is no token.
            let statuses: &[u16] = if least == ROLES.len() { &[401] } else { &[403] };
            if !operation.allows("self") {
                refused(ROLES[power], token, statuses).await;
            }
        }
    }
    let all: u32 = counts.values().sum();
    println!("{all} requests, 0 let in: {counts:?}");
    assert!(all > 300, "{all}");
}
