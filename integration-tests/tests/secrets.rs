//! One service with every kind of secret, used rightly and wrongly with its log at `trace`: afterwards none of them is found in the
//! database, the log, the traces, any answer, the metrics, any export, or any file beside those of the secrets themselves.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use modelfaucet_integration_tests::calls::{chat, streamed};
use modelfaucet_integration_tests::collector::Collector;
use modelfaucet_integration_tests::connection::Answer;
use modelfaucet_integration_tests::fake_stripe::{
    FakeStripe, SECRET_KEY, WEBHOOK_SECRET, deliver, now, post, signature,
};
use modelfaucet_integration_tests::process::{Setting, Up, has_postgres};
use modelfaucet_integration_tests::provider::Provider;
use serde_json::{Value, json};

/// The middle of the provider keys: neither the shown beginning nor the shown end.
const USER_KEY: &str = "uSeRkEyCaNaRy0123456789";
const DEVELOPER_KEY: &str = "dEvElOpErKeYcAnArY0123456789";
/// Who an app's user is to the app. No secret, but nothing that we keep.
const EXTERNAL_USER: &str = "pRiVaTe.PeRsOn@canary.test";

async fn ask(up: &Up, token: &str, method: &str, path: &str, headers: &str, body: &Value) -> Answer {
    up.connect(token).await.unwrap().json(method, path, headers, body).await.unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What to look for: by name, the secret and what it looks like in other clothes.
#[derive(Default)]
struct Secrets(BTreeMap<String, Vec<String>>);

impl Secrets {
    fn add(&mut self, name: &str, text: &str) {
        assert!(text.len() >= 16, "{name} is too short to be looked for");
        let bytes = text.as_bytes();
        let mut forms = vec![text.to_owned(), hex(bytes)];
        // Within other text, base64 begins at any of three places.
        for start in 0..3 {
            let whole = (bytes.len() - start) / 3 * 3;
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                forms.push(engine.encode(&bytes[start..start + whole]));
            }
        }
        self.0.insert(name.to_owned(), forms);
    }

    /// A token: its first characters are shown so that people know which it is.
    fn add_token(&mut self, name: &str, token: &str) {
        let random = &token[token.len() - 43..];
        self.add(name, &random[8..]);
        // The random bytes themselves.
        let raw = URL_SAFE_NO_PAD.decode(random).unwrap();
        self.0.get_mut(name).unwrap().push(hex(&raw));
    }

    /// Every hit in a text: the secret's name, where, and what stands around it.
    fn look(&self, place: &str, text: &str, hits: &mut Vec<String>) {
        for (name, forms) in &self.0 {
            for form in forms {
                if let Some(at) = text.find(form.as_str()) {
                    let around: String =
                        text[..at].chars().rev().take(80).collect::<Vec<_>>().into_iter().rev().collect();
                    hits.push(format!("{name} in {place} behind {around:?}"));
                }
            }
        }
    }
}

/// The files of the secrets, and what is in them.
fn kept(up: &Up, secrets: &mut Secrets) {
    let mut files = 0;
    for file in std::fs::read_dir(up.data_dir().join("secrets")).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        for (at, word) in text.split_whitespace().enumerate() {
            // A line of the key file is `ID:KEY`.
            let word = word.split_once(':').map_or(word, |(_, key)| key);
            secrets.add(&format!("{name} {at}"), &word[word.len().saturating_sub(35)..]);
            files += 1;
        }
    }
    assert!(files >= 5, "{files} secrets of its own");
}

/// Reads every file under a folder but those of the secrets. PostgreSQL removes some meanwhile.
fn files(folder: &Path, read: &mut impl FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && entry.file_name() != "secrets" {
            files(&entry.path(), read);
        } else if kind.is_file()
            && let Ok(content) = std::fs::read(entry.path())
        {
            read(&entry.path(), &content);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_found_anywhere() {
    if !has_postgres() {
        return;
    }
    let (stripe, provider) = (FakeStripe::start().await, Provider::start().await);
    let collector = Collector::default();
    let mut variables = stripe.variables();
    variables.push(("LOG_LEVEL", "trace".to_owned()));
    variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector.listen().await));
    variables.push(("PROVIDER_URL_LOOPBACK", provider.url().trim_start_matches("http://").to_owned()));
    let mut up = Up::start_with(Setting { variables, ..Setting::default() }).await;
    let (mut secrets, mut shown) = (Secrets::default(), Vec::new());
    secrets.add("Stripe's key", SECRET_KEY);
    secrets.add("Stripe's webhook secret", WEBHOOK_SECRET);
    secrets.add("a user's provider key", USER_KEY);
    secrets.add("a developer's provider key", DEVELOPER_KEY);
    secrets.add("a user's name at the app", EXTERNAL_USER);

    // Tokens of every kind. The answers that issue them show them once, and are the only ones.
    let root = up.admin();
    let (session, wallet) = up.wallet_with(EXTERNAL_USER, "5.00").await;
    secrets.add_token("session", &session);
    let mut tokens = BTreeMap::from([("root", root.clone()), ("session", session.clone())]);
    for (name, path, body) in [
        ("developer", "/v1/developer/tokens", json!({ "name": "canary" })),
        ("revoked", "/v1/developer/tokens", json!({ "name": "revoked" })),
        ("auditor", "/v1/admin/tokens", json!({ "name": "a", "role": "auditor" })),
        ("operator", "/v1/admin/tokens", json!({ "name": "o", "role": "operator" })),
        ("administrator", "/v1/admin/tokens", json!({ "name": "m", "role": "admin" })),
    ] {
        let headers = format!("idempotency-key: {name}\r\n");
        let issued = ask(&up, &root, "POST", path, &headers, &body).await;
        assert_eq!(issued.status, 201, "{issued:?}");
        let token = issued.json()["token"].as_str().unwrap().to_owned();
        secrets.add_token(name, &token);
        if name == "revoked" {
            let path = format!("{path}/{}", issued.json()["item"]["id"].as_str().unwrap());
            shown.push(("a revocation".to_owned(), ask(&up, &root, "DELETE", &path, "", &Value::Null).await));
        }
        tokens.insert(name, token);
    }
    use_rightly(&up, &provider, &stripe, &tokens, &mut shown).await;
    use_wrongly(&up, &tokens, &wallet, &mut shown).await;
    // A second key, a snapshot, a second start.
    let mut said = String::new();
    let mut run = |up: &Up, words: &[&str]| {
        let output = up.run(&[words, &["--data-dir", "data"]].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        said += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
    };
    run(&up, &["keys", "add"]);
    up.stop();
    up.start_again();
    up.wait_until_ready(Duration::from_secs(60)).await;
    kept(&up, &mut secrets);
    run(&up, &["keys", "rotate"]);
    run(&up, &["keys", "list"]);
    run(&up, &["verify"]);
    let reads = read_everything(&up, &tokens, &mut shown).await;
    for format in ["csv", "jsonl", "hledger", "beancount"] {
        run(&up, &["export", "journal", "--format", format]);
    }

    let mut hits = Vec::new();
    for (name, answer) in &shown {
        let text = format!("{:?}\n{}", answer.headers, String::from_utf8_lossy(&answer.body));
        secrets.look(name, &text, &mut hits);
    }
    secrets.look("what the tools say", &said, &mut hits);
    let log = up.log();
    assert_eq!(log.matches("the writer's state is folded").count(), 2, "both starts are in the log");
    // The first start shows two tokens to who has typed `up`: exactly there, once.
    let (welcome, log): (Vec<&str>, Vec<&str>) =
        log.lines().partition(|line| line.starts_with("  admin      ") || line.starts_with("  developer  "));
    assert_eq!(welcome.len(), 2, "{welcome:?}");
    secrets.look("the log", &log.join("\n"), &mut hits);
    let traces = collector.sent();
    assert!(collector.has(b"POST /v1/user/provider-keys"), "the first start's requests were traced");
    secrets.look("the traces", &String::from_utf8_lossy(&traces), &mut hits);
    let dump = up.dump();
    for table in ["secret.credential", "ledger.event", "ledger.idempotency", "ledger.snapshot"] {
        assert!(dump.contains(&format!("COPY {table}")), "a whole dump: {table}");
    }
    secrets.look("the database", &dump, &mut hits);
    let (mut count, mut bytes) = (0, 0);
    files(&up.data_dir(), &mut |path, content| {
        (count, bytes) = (count + 1, bytes + content.len());
        secrets.look(&path.display().to_string(), &String::from_utf8_lossy(content), &mut hits);
    });
    assert!(count > 100, "PostgreSQL's files among them");

    // What is looked for would be found.
    for (name, forms) in &secrets.0 {
        let mut found = Vec::new();
        secrets.look("here", &format!("x{}y", forms[0]), &mut found);
        assert!(found.iter().any(|hit| hit.starts_with(name.as_str())), "{name}");
    }
    assert!(hits.is_empty(), "{} hits:\n{}", hits.len(), hits.join("\n"));
    println!(
        "{} secrets in {} forms: 0 hits in {} answers ({reads} reads), {} bytes of log, {} bytes of traces, {} bytes of dump, {count} files of {bytes} bytes",
        secrets.0.len(),
        secrets.0.values().map(Vec::len).sum::<usize>(),
        shown.len(),
        log.iter().map(|line| line.len()).sum::<usize>(),
        traces.len(),
        dump.len(),
    );
}

/// Provider keys, calls with them, a payment.
async fn use_rightly(
    up: &Up,
    provider: &Provider,
    stripe: &FakeStripe,
    tokens: &BTreeMap<&str, String>,
    shown: &mut Vec<(String, Answer)>,
) {
    let (session, developer) = (&tokens["session"], &tokens["developer"]);
    let url = format!("{}/v1", provider.url());
    let user = json!({ "provider": "openai", "api_key": format!("sk-{USER_KEY}-end1"), "base_url": url });
    let of_app = json!({ "provider": "openai", "api_key": format!("sk-{DEVELOPER_KEY}-end2"), "base_url": url,
                         "public_app_id": "app_pub_demo" });
    let mut call = chat("tokens=7");
    call["metadata"] = json!({ "route_mode": "byok" });
    let mut with_developers = streamed("tokens=7");
    with_developers["metadata"] = json!({ "route_mode": "developer_key" });
    let pay =
        json!({ "amount_usd": "20", "success_url": "https://app.example/ok", "cancel_url": "https://app.example/no" });
    for (token, path, body, status) in [
        (session, "/v1/user/provider-keys", &user, 201),
        // A repeat is answered from what was kept.
        (session, "/v1/user/provider-keys", &user, 201),
        (developer, "/v1/developer/provider-keys", &of_app, 201),
        (session, "/v1/chat/completions", &call, 200),
        (session, "/v1/chat/completions", &with_developers, 200),
        (session, "/v1/user/stripe/checkout-sessions", &pay, 201),
    ] {
        let key =
            format!("idempotency-key: {path}-{}\r\n", body["metadata"]["route_mode"].as_str().unwrap_or_default());
        let answer = ask(up, token, "POST", path, &key, body).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        shown.push((format!("POST {path}"), answer));
    }
    let checkout = shown.last().unwrap().1.json()["checkout_session_id"].as_str().unwrap().to_owned();
    stripe.book(|book| {
        book.pay(&checkout);
    });
    for event in stripe.take_events() {
        shown.push(("the webhook".to_owned(), deliver(&up.address(), &event, 1).await.unwrap()));
    }
}

/// Secrets where they do not belong, and secrets that are almost right.
async fn use_wrongly(up: &Up, tokens: &BTreeMap<&str, String>, wallet: &str, shown: &mut Vec<(String, Answer)>) {
    let session = &tokens["session"];
    let key = format!("sk-{USER_KEY}-end1");
    for (token, path, body) in [
        (session, "/v1/user/provider-keys", json!({ "provider": "openai", "api_key": format!(" {key}") })),
        (session, "/v1/user/provider-keys", json!({ "provider": "anthropic", "api_key": key })),
        (session, "/v1/user/provider-keys", json!({ "provider": "openai", "api_key": [key] })),
        (session, "/v1/user/provider-keys", json!({ "provider": "openai", "api_key": key, "priority": key })),
        (&tokens["developer"], "/v1/developer/provider-keys", json!({ "provider": "openai", "api_key": key })),
        (&tokens["revoked"], "/v1/developer/apps", json!({ "public_app_id": "x", "name": "x" })),
        (&tokens["developer"], "/v1/admin/developers", json!({ "name": "x", "email": "x@x.test" })),
        (&String::new(), "/v1/sessions", json!({ "public_app_id": "none", "external_user_id": EXTERNAL_USER })),
        (&String::new(), "/v1/sessions", json!({ "public_app_id": 1, "external_user_id": EXTERNAL_USER })),
    ] {
        let answer = ask(up, token, "POST", path, "", &body).await;
        assert!((400..500).contains(&answer.status), "{path} {body}: {answer:?}");
        shown.push((format!("POST {path}, refused"), answer));
    }
    // In every member that is not its own.
    let root = &tokens["root"];
    for (token, path, members) in [
        (
            session,
            "/v1/user/provider-keys",
            &["provider", "base_url", "models_allowed", "budget_limit_usd", "priority", "fallback_to_platform", "no"][..],
        ),
        (root, "/v1/developer/tokens", &["developer_id", "developer_email", "scopes", "expires_at"]),
        (root, "/v1/admin/tokens", &["role", "expires_at"]),
        (root, "/v1/admin/freezes", &["scope"]),
        (session, "/v1/user/stripe/checkout-sessions", &["amount_usd", "success_url", "cancel_url"]),
        (session, "/v1/chat/completions", &["messages", "max_tokens", "stream"]),
    ] {
        for member in members {
            for value in [json!(key), json!([key]), json!({ "kind": key })] {
                let mut body = json!({ "name": "x" });
                body[*member] = value;
                let answer = ask(up, token, "POST", path, "", &body).await;
                assert!((400..500).contains(&answer.status), "{path} {body}: {answer:?}");
                shown.push((format!("POST {path} with a key as {member}"), answer));
            }
        }
    }
    let mut user = up.connect(session).await.unwrap();
    let broken = format!("{{\"provider\": \"openai\", \"api_key\": \"{key}\"");
    let answer = user.send("POST", "/v1/user/provider-keys", "", "application/json", broken.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    shown.push(("POST /v1/user/provider-keys, broken".to_owned(), answer));
    let path = format!("/v1/admin/wallets/{wallet}/credit-test-balance");
    let answer = ask(up, session, "POST", &path, "", &json!({ "amount_usd": "1" })).await;
    assert_eq!(answer.status, 401);
    shown.push((format!("POST {path}, refused"), answer));
    let forged = signature("whsec_of_somebody_else", now(), b"{}");
    let answer = post(&up.address(), &forged, b"{}").await.unwrap();
    assert_eq!(answer.status, 400);
    shown.push(("the webhook, forged".to_owned(), answer));
}

/// Every read that the API document has, by everybody, and what is beside it.
async fn read_everything(up: &Up, tokens: &BTreeMap<&str, String>, shown: &mut Vec<(String, Answer)>) -> usize {
    let document = ask(up, "", "GET", "/openapi.json", "", &Value::Null).await.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let wallet = text(&ask(up, &tokens["session"], "GET", "/v1/user/wallet", "", &Value::Null).await.json()["id"]);
    let mut paths: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, item)| item["get"].is_object())
        .map(|(path, _)| path.replace("{wallet_id}", &wallet).replace("{public_app_id}", "app_pub_demo"))
        .collect();
    assert!(paths.len() > 30, "{paths:?}");
    paths.extend(["/metrics", "/openapi.json", "/docs", "/ready", "/health"].map(str::to_owned));
    paths.push("/v1/developer/provider-keys?public_app_id=app_pub_demo".to_owned());
    let mut read = 0;
    for (who, token) in tokens {
        for path in &paths {
            let answer = ask(up, token, "GET", path, "", &Value::Null).await;
            read += usize::from(answer.status == 200);
            shown.push((format!("GET {path} as {who}"), answer));
        }
    }
    for path in ["/v1/admin/reports/audit.jsonl", "/v1/admin/journal", "/metrics", "/v1/log"] {
        let found = |(name, answer): &(String, Answer)| {
            *name == format!("GET {path} as root") && answer.status == 200 && !answer.body.is_empty()
        };
        assert!(shown.iter().any(found), "{path} was read");
    }
    read
}
