//! Provider keys on a real process: taken in, listed, disabled, sealed, rotated, removed; and nowhere to be found in clear.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use modelfaucet_integration_tests::connection::Answer;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_schema::event::CredentialOwner;
use modelfaucet_schema::ids::{CredentialId, DeveloperId};
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_secrets::store::{ProviderKey, STATEMENTS};
use modelfaucet_secrets::{Keyring, OpenError, Store, StoreError};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use uuid::Uuid;

/// Part of every key of these tests; it must not be found anywhere.
const CANARY: &str = "cAnArY0123456789";

const USER_KEYS: &str = "/v1/user/provider-keys";
const DEVELOPER_KEYS: &str = "/v1/developer/provider-keys";

async fn ask(up: &Up, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    up.connect(token).await.unwrap().json(method, path, "", body).await.unwrap()
}

fn openai(end: &str) -> Value {
    json!({ "provider": "openai", "api_key": format!("sk-{CANARY}-{end}") })
}

fn merged(body: Value, more: Value) -> Value {
    let (Value::Object(mut body), Value::Object(more)) = (body, more) else { panic!("two objects") };
    body.extend(more);
    body.into()
}

/// The list as of an answer's position.
async fn listed(up: &Up, token: &str, path: &str, after: &Answer) -> Value {
    let sign = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{sign}min_position={}", after.header("ledger-position").unwrap());
    let answer = ask(up, token, "GET", &path, &Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn sql(up: &Up, role: &str, statement: &str) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
    let (client, connection) = up.database(role).connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query(statement, &[]).await
}

async fn count(up: &Up) -> i64 {
    sql(up, "ledger_secrets", "SELECT count(*) FROM secret.credential").await.unwrap()[0].get(0)
}

#[tokio::test]
async fn a_user_stores_lists_and_disables_keys_as_1_2_clients_do() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (session, _) = up.open_session("keys-1").await;
    let (other, _) = up.open_session("keys-2").await;
    let first = ask(&up, &session, "POST", USER_KEYS, &openai("first1")).await;
    assert_eq!(first.status, 201, "{first:?}");
    let id = first.json()["id"].as_str().unwrap().to_owned();
    let expected = json!({
        "id": id, "provider": "openai", "masked": "sk-...rst1", "status": "active", "models_allowed": [], "priority": 100,
        "fallback_to_platform": false
    });
    assert_eq!(first.json(), expected, "absent members are left out");
    let full = merged(
        openai("second"),
        json!({
            "provider": "OpenRouter", "models_allowed": ["gpt-4o-mini"], "budget_limit_usd": "2.5", "priority": 1,
            "fallback_to_platform": true
        }),
    );
    let second = ask(&up, &session, "POST", USER_KEYS, &full).await;
    assert_eq!(second.status, 201, "{second:?}");
    assert_eq!(second.json()["budget_limit_usd"], "2.50000000");
    assert_eq!(second.json()["provider"], "openrouter");
    let list = listed(&up, &session, USER_KEYS, &second).await;
    assert_eq!(list, json!({ "items": [second.json(), first.json()] }), "newest first");
    let page = listed(&up, &session, &format!("{USER_KEYS}?limit=1"), &second).await;
    assert_eq!(page["items"], json!([second.json()]));
    let path = format!("{USER_KEYS}?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(listed(&up, &session, &path, &second).await, json!({ "items": [first.json()] }));

    // Another user has none of it.
    assert_eq!(listed(&up, &other, USER_KEYS, &second).await, json!({ "items": [] }));
    let path = format!("{USER_KEYS}/{id}");
    let missing = ask(&up, &other, "DELETE", &path, &Value::Null).await;
    let unknown =
        ask(&up, &session, "DELETE", &format!("{USER_KEYS}/01900000-0000-7000-8000-000000000000"), &Value::Null).await;
    for answer in [missing, unknown] {
        assert_eq!((answer.status, answer.code()), (404, "invalid_request".to_owned()));
        assert_eq!(answer.json()["error"]["message"], "Provider key was not found.");
    }
    assert_eq!(ask(&up, &session, "DELETE", &format!("{USER_KEYS}/nonsense"), &Value::Null).await.status, 400);

    assert_eq!(count(&up).await, 2);
    let disabled = ask(&up, &session, "DELETE", &path, &Value::Null).await;
    assert_eq!((disabled.status, disabled.json()), (200, json!({ "ok": true })));
    let again = ask(&up, &session, "DELETE", &path, &Value::Null).await;
    assert_eq!((again.status, again.json()), (200, json!({ "ok": true })), "a repeat changes nothing");
    assert_eq!(count(&up).await, 1, "a disabled key's ciphertext is gone");
    let list = listed(&up, &session, USER_KEYS, &disabled).await;
    assert_eq!(list["items"][1]["status"], "disabled", "and still listed: {list}");
    let audit = up
        .as_admin(
            "GET",
            &format!("/v1/admin/audit-log?min_position={}", disabled.header("ledger-position").unwrap()),
            "",
            &Value::Null,
        )
        .await;
    let text = String::from_utf8(audit.body.clone()).unwrap();
    assert!(
        text.contains("CredentialAdded") && text.contains("CredentialDisabled") && !text.contains(CANARY),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_said_with_stable_codes() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (session, _) = up.open_session("keys-1").await;
    let validation = |key: &str, provider: &str| json!({ "provider": provider, "api_key": key });
    let with = |more: Value| merged(openai("x"), more);
    for (body, code, message, param) in [
        (validation("sk-12345678", "mystery"), "secret_validation_failed", "Unsupported BYOK provider.", "provider"),
        (
            validation(" sk-12345678", "openai"),
            "secret_validation_failed",
            "Provider key failed basic validation.",
            "api_key",
        ),
        (validation("sk-1", "openai"), "secret_validation_failed", "Provider key failed basic validation.", "api_key"),
        (
            validation("AIza12345678", "openai"),
            "secret_validation_failed",
            "Provider key prefix does not match the selected provider.",
            "api_key",
        ),
        (with(json!({ "priority": 0 })), "invalid_request", "The priority must be 1 to 1000.", "priority"),
        (with(json!({ "priority": 1001 })), "invalid_request", "The priority must be 1 to 1000.", "priority"),
        (
            with(json!({ "base_url": "http://api.example.com/v1" })),
            "invalid_request",
            "base_url must begin with https://.",
            "base_url",
        ),
        (
            with(json!({ "base_url": "https://169.254.169.254/v1" })),
            "invalid_request",
            "base_url must name a host, not an address.",
            "base_url",
        ),
        (
            with(json!({ "base_url": "https://metadata.google.internal" })),
            "invalid_request",
            "base_url must name a public host.",
            "base_url",
        ),
        (
            with(json!({ "base_url": "https://no-such-host.invalid" })),
            "invalid_request",
            "base_url must lead to public addresses only.",
            "base_url",
        ),
    ] {
        let answer = ask(&up, &session, "POST", USER_KEYS, &body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["code"].as_str()), (400, Some(code)), "{body}: {answer:?}");
        assert_eq!((error["message"].as_str(), error["param"].as_str()), (Some(message), Some(param)), "{body}");
    }
    for body in [
        json!({ "provider": "openai" }),
        json!({ "provider": "openai", "api_key": "" }),
        with(json!({ "surprise": 1 })),
        with(json!({ "budget_limit_usd": "-1" })),
        with(json!({ "budget_limit_usd": 1.5 })),
        with(json!({ "models_allowed": [""] })),
        with(json!({ "models_allowed": vec!["m"; 201] })),
        with(json!({ "fallback_to_platform": "yes" })),
    ] {
        let answer = ask(&up, &session, "POST", USER_KEYS, &body).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request".to_owned()), "{body}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY));
    }
    let nobody = ask(&up, "", "POST", USER_KEYS, &openai("x")).await;
    assert_eq!(
        (nobody.status, nobody.json()["error"]["message"].as_str()),
        (401, Some("Missing bearer session token."))
    );
    assert_eq!(ask(&up, &up.admin(), "POST", USER_KEYS, &openai("x")).await.status, 401, "not a session");
    assert_eq!(count(&up).await, 0, "nothing refused is kept");
}

#[tokio::test]
async fn a_developers_keys_are_the_developers_and_need_their_scopes() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let developer = up.secret("developer_token");
    let body = merged(openai("dev123"), json!({ "public_app_id": "app_pub_demo" }));
    let added = ask(&up, &developer, "POST", DEVELOPER_KEYS, &body).await;
    assert_eq!(added.status, 201, "{added:?}");
    let list = format!("{DEVELOPER_KEYS}?public_app_id=app_pub_demo");
    assert_eq!(listed(&up, &developer, &list, &added).await, json!({ "items": [added.json()] }));
    assert_eq!(listed(&up, &up.admin(), &list, &added).await["items"].as_array().unwrap().len(), 1);

    let unknown = merged(openai("x"), json!({ "public_app_id": "nothing" }));
    let answer = ask(&up, &developer, "POST", DEVELOPER_KEYS, &unknown).await;
    assert_eq!((answer.status, answer.code()), (404, "invalid_app".to_owned()));
    let answer = ask(&up, &developer, "GET", &format!("{DEVELOPER_KEYS}?public_app_id=nothing"), &Value::Null).await;
    assert_eq!((answer.status, answer.code()), (404, "invalid_app".to_owned()));
    let answer = ask(&up, &developer, "GET", DEVELOPER_KEYS, &Value::Null).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["message"].as_str()),
        (400, Some("Missing or invalid public_app_id."))
    );

    // Another developer, and a token without the scopes.
    let other =
        up.as_admin("POST", "/v1/admin/developers", "", &json!({ "name": "Eve", "email": "eve@example.org" })).await;
    let of = |scopes: Value| json!({ "name": "t", "developer_id": other.json()["developer_id"], "scopes": scopes });
    let eve = up
        .as_admin(
            "POST",
            "/v1/developer/tokens",
            "",
            &of(json!(["developer:provider_keys:read", "developer:provider_keys:write"])),
        )
        .await
        .json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let bare =
        up.as_admin("POST", "/v1/developer/tokens", "", &of(json!(["developer:apps:read"]))).await.json()["token"]
            .as_str()
            .unwrap()
            .to_owned();
    let path = format!("{DEVELOPER_KEYS}/{}", added.json()["id"].as_str().unwrap());
    for (method, path, body) in
        [("POST", DEVELOPER_KEYS, &body), ("GET", &list, &Value::Null), ("DELETE", &path, &Value::Null)]
    {
        assert_eq!(ask(&up, &eve, method, path, body).await.status, 404, "{method}");
        assert_eq!(ask(&up, &bare, method, path, body).await.status, 403, "{method}");
        assert_eq!(ask(&up, "", method, path, body).await.status, 401, "{method}");
    }
    let missing = ask(&up, &eve, "DELETE", &path, &Value::Null).await;
    assert_eq!(missing.json()["error"]["message"], "Developer provider key was not found.");
    assert_eq!(ask(&up, &developer, "DELETE", &path, &Value::Null).await.status, 200);
    assert_eq!(ask(&up, &developer, "DELETE", &path, &Value::Null).await.status, 200);
}

#[tokio::test]
async fn a_repeat_with_the_same_idempotency_key_stores_one_key() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (session, _) = up.open_session("keys-1").await;
    let mut user = up.connect(&session).await.unwrap();
    let mut send = async |body: &Value| user.json("POST", USER_KEYS, "idempotency-key: k1\r\n", body).await.unwrap();
    let first = send(&openai("once12")).await;
    let again = send(&openai("once12")).await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = send(&merged(openai("once12"), json!({ "priority": 7 }))).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused".to_owned()));
    assert_eq!(count(&up).await, 1);
}

#[tokio::test]
async fn a_key_is_nowhere_in_clear() {
    if !has_postgres() {
        return;
    }
    let up = Up::start_with_variables(&[("LOG_LEVEL", "trace")]).await;
    let (session, _) = up.open_session("keys-1").await;
    let answer = ask(&up, &session, "POST", USER_KEYS, &openai("hidden")).await;
    assert_eq!(answer.status, 201);
    let body = merged(openai("hidden"), json!({ "public_app_id": "app_pub_demo" }));
    let developers = ask(&up, &up.secret("developer_token"), "POST", DEVELOPER_KEYS, &body).await;
    assert_eq!(developers.status, 201);
    let list = listed(&up, &session, USER_KEYS, &answer).await;
    for shown in [answer.body, developers.body, list.to_string().into_bytes(), up.log().into_bytes()] {
        assert!(!String::from_utf8_lossy(&shown).contains(CANARY));
    }
    let dump = up.dump();
    assert!(dump.contains("COPY secret.credential") && dump.contains("COPY ledger.event"), "a whole dump");
    let hex = CANARY.bytes().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert!(!dump.contains(CANARY) && !dump.contains(&hex));
    for role in ["ledger_command", "ledger_projector", "ledger_query", "ledger_audit"] {
        let error = sql(&up, role, "SELECT sealed FROM secret.credential").await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code().to_owned()).as_deref(), Some("42501"), "{role}");
    }
    for table in ["ledger.event", "ledger.snapshot", "ledger.idempotency"] {
        let error = sql(&up, "ledger_secrets", &format!("SELECT * FROM {table}")).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code().to_owned()).as_deref(), Some("42501"), "{table}");
    }
}

#[tokio::test]
async fn statements_are_right_and_a_rotation_can_be_broken_off() {
    let Some(database) = TestDatabase::create().await else { return };
    let client = database.connect_as(ServiceRole::Secrets).await;
    for (name, sql) in STATEMENTS {
        assert!(client.prepare(sql).await.is_ok(), "{name}");
    }
    let keys = |text: String| Keyring::parse(&SecretString::from(text)).unwrap();
    let (old, new) = (format!("1:{}", "o".repeat(32)), format!("2:{}", "n".repeat(32)));
    let store = |text: &str| Store::new(database.role(ServiceRole::Secrets), Arc::new(keys(text.to_owned())));
    let owner = CredentialOwner::Developer { developer_id: DeveloperId(Uuid::from_u128(1)) };
    let id = |number: u128| CredentialId(Uuid::from_u128(number));
    let of = |number| ProviderKey { credential_id: id(number), owner, origin: "https://api.openai.com" };
    let before = store(&old);
    for number in 1..=250 {
        before.put(of(number), &SecretString::from(format!("sk-{number}"))).await.unwrap();
    }
    let after = store(&format!("{new} {old}"));
    // One step, then broken off; two go on at once, while a key is disabled and another one comes under the new key.
    let step = after.reseal_next(id(0)).await.unwrap();
    assert_eq!((step.done, step.failed.len(), step.next), (100, 0, Some(id(100))));
    after.remove(&[id(250)]).await.unwrap();
    after.put(of(251), &SecretString::from("sk-251")).await.unwrap();
    let second = store(&format!("{new} {old}"));
    let (one, two) = tokio::join!(after.reseal_next(id(0)), second.reseal_next(id(0)));
    let (one, two) = (one.unwrap(), two.unwrap());
    let mut done = one.done + two.done;
    loop {
        let step = after.reseal_next(id(0)).await.unwrap();
        done += step.done;
        if step.next.is_none() {
            break;
        }
    }
    assert_eq!(done, 149, "each row is changed once");
    let census = after.census().await.unwrap();
    let secrets: Vec<_> = census.iter().map(|census| (census.kek.0, census.secrets)).collect();
    assert_eq!((secrets, census[0].seals), (vec![(1, 0), (2, 250)], 250));

    // The old key is not needed any more, and those without the new one cannot open.
    let only_new = store(&new);
    assert_eq!(only_new.get(of(7)).await.unwrap().expose_secret(), "sk-7");
    assert!(matches!(before.get(of(7)).await, Err(StoreError::Open(OpenError::UnknownKek(kek))) if kek.0 == 2));
    let elsewhere = ProviderKey { origin: "https://evil.example", ..of(7) };
    assert!(matches!(only_new.get(elsewhere).await, Err(StoreError::Open(OpenError::Damaged))));
    assert!(matches!(only_new.get(of(999)).await, Err(StoreError::Missing)));

    // Rows that were swapped by somebody with rights to the table.
    let superuser = database.connect().await;
    let swap = "UPDATE secret.credential a SET sealed = b.sealed FROM secret.credential b
                WHERE (a.credential_id, b.credential_id) IN (($1, $2), ($2, $1))";
    superuser.execute(swap, &[&id(8).0, &id(9).0]).await.unwrap();
    for number in [8, 9] {
        assert!(matches!(only_new.get(of(number)).await, Err(StoreError::Open(OpenError::Damaged))));
    }
    let newest = store(&format!("3:{} {new}", "z".repeat(32)));
    let step = newest.reseal_next(id(0)).await.unwrap();
    assert_eq!((step.done, step.failed.iter().map(|(id, _)| *id).collect::<Vec<_>>()), (98, vec![id(8), id(9)]));
}

#[tokio::test]
async fn keys_are_rotated_while_it_runs_and_strays_are_removed() {
    if !has_postgres() {
        return;
    }
    let mut up = Up::start().await;
    let (session, _) = up.open_session("keys-1").await;
    for number in 0..5 {
        assert_eq!(ask(&up, &session, "POST", USER_KEYS, &openai(&format!("number{number}"))).await.status, 201);
    }
    let run = |up: &Up, verb: &str| {
        let output = up.run(&["keys", verb, "--data-dir", "data"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said, error) = run(&up, "list");
    assert_eq!(code, Some(0), "{error}");
    assert!(said.lines().any(|line| line.split_whitespace().eq(["1", "5", "5", "seals"])), "{said}");
    let (code, said, error) = run(&up, "add");
    assert!(code == Some(0) && said.contains("key 2"), "{said}{error}");

    // A ciphertext that lost its event long ago, and one that may yet get it.
    let stray = "INSERT INTO secret.credential (credential_id, owner, purpose, kek_id, sealed, stored_at)
                 SELECT gen_random_uuid(), 'user:x', 'provider_key x', 1, decode(repeat('00', 94), 'hex'), now() - age
                 FROM unnest(ARRAY[interval '25 hours', interval '1 hour']) AS age";
    sql(&up, "ledger_secrets", stray).await.unwrap();
    assert_eq!(count(&up).await, 7);
    up.stop();
    up.start_again();
    up.wait_until_ready(Duration::from_secs(60)).await;
    let began = std::time::Instant::now();
    while count(&up).await != 6 {
        assert!(began.elapsed() < Duration::from_secs(20), "the stray is removed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sql(&up, "ledger_secrets", "DELETE FROM secret.credential WHERE owner = 'user:x'").await.unwrap();
    assert_eq!(ask(&up, &session, "POST", USER_KEYS, &openai("after-it")).await.status, 201);
    let (code, said, error) = run(&up, "rotate");
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "5 provider keys are sealed under key 2 now; 0 cannot be opened\n"),
        "{error}"
    );
    let (_, said, _) = run(&up, "list");
    assert!(said.lines().any(|line| line.split_whitespace().eq(["2", "6", "6", "seals"])), "{said}");
    assert!(said.contains("not needed here"), "{said}");
    let (code, said, _) = run(&up, "rotate");
    assert_eq!((code, said.starts_with("0 provider keys")), (Some(0), true), "{said}");
}
