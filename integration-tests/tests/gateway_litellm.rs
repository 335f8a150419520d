//! The real LiteLLM proxy behind the gateway, with answers that it makes up itself. Its made-up usage is no truth to compare money with;
//! routing, streams and errors are. Needs the program (`MODELFAUCET_TEST_LITELLM`); `deploy/test` sets it up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::calls::booked_when_ended;
use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::process::{Up, free_port, has_postgres};
use modelfaucet_schema::event::{Event, UsageSource};
use serde_json::{Value, json};

const KEY: &str = "sk-made-up-master-key";
const CONFIG: &str = r#"
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {model: openai/gpt-4o-mini, api_key: none, mock_response: "Hello from LiteLLM"}
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: "litellm.RateLimitError"}
  - model_name: gpt-4.1
    litellm_params: {model: openai/gpt-4.1, api_key: none, mock_response: "litellm.InternalServerError"}
litellm_settings: {num_retries: 0}
"#;

struct LiteLlm {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl LiteLlm {
    async fn start() -> Option<Self> {
        let required =
            std::env::var("MODELFAUCET_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "litellm"));
        let program = std::env::var("MODELFAUCET_TEST_LITELLM").ok();
        assert!(program.is_some() || !required, "LiteLLM is required and not installed");
        let Some(program) = program else {
            eprintln!("skipped: MODELFAUCET_TEST_LITELLM is not set");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.yaml"), CONFIG).unwrap();
        let port = free_port();
        let child = Command::new(program)
            .args(["--config", "config.yaml", "--host", "127.0.0.1", "--port", &port.to_string()])
            .env("LITELLM_MASTER_KEY", KEY)
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let proxy = Self { child, port, _dir: dir };
        let began = Instant::now();
        loop {
            if let Ok(mut connection) = Connection::open(&format!("127.0.0.1:{port}"), "").await
                && connection
                    .send("GET", "/health/readiness", "", "", b"")
                    .await
                    .is_ok_and(|answer| answer.status == 200)
            {
                return Some(proxy);
            }
            assert!(began.elapsed() < Duration::from_secs(120), "LiteLLM does not start");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for LiteLlm {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[tokio::test]
async fn calls_streams_and_errors_pass_through_litellm() {
    if !has_postgres() {
        return;
    }
    let Some(proxy) = LiteLlm::start().await else { return };
    let url = format!("http://127.0.0.1:{}/v1", proxy.port);
    let settings = [("LITELLM_BASE_URL", url.as_str()), ("LITELLM_MASTER_KEY", KEY), ("PROVIDER_MAX_RETRIES", "0")];
    let up = Up::start_with_variables(&settings).await;
    let (token, _) = up.wallet_with("litellm", "1.00").await;
    let mut client = up.connect(&token).await.unwrap();
    let body = |model: &str| json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }] });
    let mut call = async |body: &Value| client.json("POST", "/v1/chat/completions", "", body).await.unwrap();

    let whole = call(&body("gpt-4o-mini")).await;
    assert_eq!((whole.status, &whole.json()["choices"][0]["message"]["content"]), (200, &json!("Hello from LiteLLM")));
    let mut streaming = body("gpt-4o-mini");
    streaming["stream"] = json!(true);
    let text = String::from_utf8(call(&streaming).await.body).unwrap();
    let chunks = text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: {"));
    let chunks: Vec<Value> = chunks.map(|rest| serde_json::from_str(&format!("{{{rest}")).unwrap()).collect();
    let content: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(content, "Hello from LiteLLM");
    assert!(!text.contains("\"usage\":") && text.ends_with("data: [DONE]\n\n"), "{text}");
    streaming["stream_options"] = json!({ "include_usage": true });
    let text = String::from_utf8(call(&streaming).await.body).unwrap();
    assert!(text.contains("\"usage\":{") && text.contains("\"modelfaucet\":{"), "{text}");

    let limited = call(&body("gpt-4o")).await;
    assert_eq!((limited.status, limited.code().as_str()), (503, "provider_overloaded"));
    let failed = call(&body("gpt-4.1")).await;
    assert_eq!((failed.status, failed.code().as_str()), (502, "provider_error"));
    let unknown = call(&body("gpt-5")).await;
    assert!((400..500).contains(&unknown.status), "{unknown:?}");

    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let charged = books.values().filter(|call| call.rating().is_some()).count();
    assert_eq!((charged, books.len()), (3, 6));
    for call in books.values() {
        match call.ending() {
            Event::HoldCaptured(captured) => {
                let outcome = captured.outcome.as_ref().unwrap();
                assert_eq!((outcome.source, outcome.anomalies.len()), (Some(UsageSource::Provider), 0));
                assert!(captured.rating.charge.is_positive());
            }
            ending => assert!(matches!(ending, Event::HoldReleased(_)), "{ending:?}"),
        }
    }
    let health = up.connect("").await.unwrap().json("GET", "/health/providers", "", &Value::Null).await.unwrap();
    assert_eq!(health.json()["ok"], true);
}
