//! Traces: where a collector is named, each request of the API becomes a span of its caller's trace, log lines name it, and nothing
//! secret goes along. Where none is named, nothing of it is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use modelfaucet_integration_tests::collector::Collector;
use modelfaucet_integration_tests::process::{Up, has_postgres};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const PROMPT: &str = "what nobody else may read [[status=500]]";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// A call that fails at the provider, as part of a trace. Returns the log and what must not be seen anywhere.
async fn failing_call(mut up: Up) -> (String, Vec<String>) {
    let (token, _) = up.wallet_with("traced", "1.00").await;
    let body = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": PROMPT }] });
    let headers = format!("traceparent: 00-{TRACE}-{PARENT}-00\r\nx-request-id: traced-1\r\n");
    let answer = up.connect(&token).await.unwrap().json("POST", "/v1/chat/completions", &headers, &body).await.unwrap();
    assert_eq!(answer.status, 502, "{answer:?}");
    let ready = up.connect("").await.unwrap().send("GET", "/ready", "", "", b"").await.unwrap();
    assert_eq!(ready.status, 200);
    let secrets = vec![token, up.admin(), "what nobody else may read".to_owned()];
    // What is under way is delivered before the end.
    up.stop();
    // Beside its log, `up` greets whoever started it, tokens included.
    let log = up.log().lines().filter(|line| line.starts_with('{')).collect::<Vec<_>>().join("\n");
    (log, secrets)
}

fn line(log: &str, message: &str) -> Value {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut wanted = lines.filter(|line| line["fields"]["message"] == message);
    wanted.next().unwrap_or_else(|| panic!("no line {message:?} in {log}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_of_its_callers_trace() {
    if !has_postgres() {
        return;
    }
    let collector = Collector::default();
    let endpoint = collector.listen().await;
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("LOG_FORMAT", "json")];
    let (log, secrets) = failing_call(Up::start_with_variables(&variables).await).await;

    for (what, wanted) in [
        ("the caller's trace, though it asked for no sample", bytes(TRACE)),
        ("the caller's span as the parent", bytes(PARENT)),
        ("method and route", b"POST /v1/chat/completions".to_vec()),
        ("the route alone", b"http.route".to_vec()),
        ("the request's id", b"traced-1".to_vec()),
        ("the service", b"service.name".to_vec()),
        ("what failed in the call", attribute("error.type", &json!("status"))),
        ("other requests in traces of their own", b"POST /v1/sessions".to_vec()),
    ] {
        assert!(collector.has(&wanted), "missing: {what}");
    }
    assert!(!collector.has(b"/ready"), "probes are not traced");
    let failed = line(&log, "an attempt failed");
    assert_eq!((&failed["span"]["trace_id"], &failed["span"]["request_id"]), (&json!(TRACE), &json!("traced-1")));
    let answered = line(&log, "a request failed");
    assert_eq!((&answered["fields"]["request_id"], &answered["fields"]["status"]), (&json!("traced-1"), &json!(502)));
    for secret in secrets {
        assert!(!collector.has(secret.as_bytes()) && !log.contains(&secret), "a secret is shown: {log}");
    }
}

/// A number as protocol buffers write it.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

/// A field of protocol buffers with a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(content.len() as u64), content].concat()
}

/// An attribute as a collector gets it: texts, whole numbers and lists of texts.
fn attribute(key: &str, value: &Value) -> Vec<u8> {
    let text = |text: &str| field(1, text.as_bytes());
    let value = match value {
        Value::String(value) => text(value),
        Value::Array(values) => {
            field(5, &values.iter().flat_map(|value| field(1, &text(value.as_str().unwrap()))).collect::<Vec<u8>>())
        }
        number => [vec![3 << 3], varint(number.as_u64().unwrap())].concat(),
    };
    [field(1, key.as_bytes()), field(2, &value)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_span_as_the_conventions_for_models_name_it() {
    if !has_postgres() {
        return;
    }
    let collector = Collector::default();
    let endpoint = collector.listen().await;
    let mut up = Up::start_with_variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())]).await;
    let (token, _) = up.wallet_with("traced", "1.00").await;
    let headers = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n");
    let mut connection = up.connect(&token).await.unwrap();
    let prompt = "what nobody else may read";
    let mut body = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": prompt }] });
    let answer = connection.json("POST", "/v1/chat/completions", &headers, &body).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let whole: Value = serde_json::from_slice(&answer.body).unwrap();
    body["stream"] = json!(true);
    body["max_tokens"] = json!(3);
    let streamed = connection.json("POST", "/v1/chat/completions", &headers, &body).await.unwrap();
    assert_eq!(streamed.status, 200, "{streamed:?}");
    up.stop();

    for (key, value) in [
        ("gen_ai.operation.name", json!("chat")),
        ("gen_ai.provider.name", json!("openai")),
        ("gen_ai.request.model", json!("gpt-4o-mini")),
        ("gen_ai.response.model", whole["model"].clone()),
        ("gen_ai.response.id", whole["id"].clone()),
        ("gen_ai.response.finish_reasons", json!([whole["choices"][0]["finish_reason"]])),
        ("gen_ai.usage.input_tokens", whole["usage"]["prompt_tokens"].clone()),
        ("gen_ai.usage.output_tokens", whole["usage"]["completion_tokens"].clone()),
        ("gen_ai.response.finish_reasons", json!(["length"])),
        ("gen_ai.usage.output_tokens", json!(3)),
    ] {
        assert!(collector.has(&attribute(key, &value)), "missing: {key} {value}");
    }
    assert!(collector.has(b"chat gpt-4o-mini"), "the span's name");
    for secret in [token, up.admin(), prompt.to_owned()] {
        assert!(!collector.has(secret.as_bytes()), "a secret is shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_there_are_no_spans() {
    if !has_postgres() {
        return;
    }
    let (log, _) = failing_call(Up::start_with_variables(&[("LOG_FORMAT", "json")]).await).await;
    let failed = line(&log, "an attempt failed");
    assert_eq!((&failed["span"], &failed["fields"]["request_id"]), (&Value::Null, &json!("traced-1")));
    assert!(!log.contains(TRACE), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_stops_nothing() {
    if !has_postgres() {
        return;
    }
    // A port that was just free: nobody answers there.
    let nobody = format!("http://127.0.0.1:{}", modelfaucet_integration_tests::process::free_port());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", nobody.as_str()), ("LOG_FORMAT", "json")];
    let (log, _) = failing_call(Up::start_with_variables(&variables).await).await;
    assert_eq!(line(&log, "an attempt failed")["span"]["trace_id"], json!(TRACE));
}
