//! Requests of apps: what we read of them, what we refuse, what goes upstream. Pure. The body is a list of raw members; all that
//! we do not know passes as it came.

use modelfaucet_schema::event::{Endpoint, Route, ServiceTier};
use modelfaucet_schema::http::depth_within;
use serde::Deserialize;
use serde_json::Value;

use crate::bound::{Ask, IMAGE_TOKENS};
use crate::error::CallError;
use crate::members::Members;

/// How deep a body may nest.
const MAX_DEPTH: usize = 128;
/// The most answers that one request may ask for.
const MAX_ANSWERS: u64 = 128;
/// The largest output cap that a request may name.
const MAX_CAP: u64 = 10_000_000;
/// Tokens that a provider adds around each message, and around all of them.
const PER_MESSAGE: u64 = 16;
const PER_REQUEST: u64 = 64;

/// Members by which a router can be turned to other endpoints, keys, prices or calls.
const ROUTER_CONTROLS: &[&str] = &[
    "api_base",
    "api_key",
    "api_type",
    "api_version",
    "base_url",
    "caching",
    "cache",
    "client",
    "client_id",
    "client_secret",
    "configurable_clientside_auth_params",
    "context_window_fallback_dict",
    "context_window_fallbacks",
    "custom_llm_provider",
    "default_fallbacks",
    "deployment_id",
    "disable_fallbacks",
    "extra_body",
    "extra_headers",
    "fallbacks",
    "guardrails",
    "headers",
    "hosted_vllm",
    "max_retries",
    "mock_delay",
    "mock_response",
    "mock_timeout",
    "mock_tool_calls",
    "model_info",
    "model_list",
    "models",
    "no-log",
    "num_retries",
    "organization",
    "plugins",
    "prompt_id",
    "prompt_label",
    "prompt_variables",
    "prompt_version",
    "provider",
    "proxy_server_request",
    "region_name",
    "request_timeout",
    "route",
    "router",
    "secret_fields",
    "ssl_verify",
    "tags",
    "tenant_id",
    "timeout",
    "tpm",
    "rpm",
    "transforms",
    "use_in_pass_through",
    "user_config",
];
/// The same by their beginning.
const ROUTER_PREFIXES: &[&str] = &["aws_", "azure_", "litellm_", "vertex_", "watsonx_", "cost_per_"];
/// Members that change what a call costs in a way that the rate card has no price for.
const COST_CHANGERS: &[&str] =
    &["audio", "background", "best_of", "inference_geo", "modalities", "prediction", "speed", "web_search_options"];
/// Members that put input before the model that we cannot see.
const HIDDEN_INPUT: &[&str] = &["conversation", "context_management", "previous_response_id", "prompt"];

/// A request that was read.
#[derive(Clone, Debug)]
pub(crate) struct CallRequest {
    /// What was called.
    pub(crate) endpoint: Endpoint,
    /// The model as the client named it.
    pub(crate) model: String,
    /// Does the client want a stream?
    pub(crate) stream: bool,
    /// Does the client want the usage in its stream?
    pub(crate) usage_wanted: bool,
    /// The feature that the request names.
    pub(crate) feature_key: Option<String>,
    /// The route that the request names; absent: whichever the feature prefers.
    pub(crate) route: Option<Route>,
    /// What the request would rather have, where there is a choice: `metadata.route_preference`.
    pub(crate) route_preference: Option<String>,
    /// The most input tokens that it can come to.
    pub(crate) input_bound: u64,
    /// What the input probably comes to: for estimates.
    pub(crate) input_estimate: u64,
    /// The service tier that it asks for.
    pub(crate) service_tier: AskedTier,
    answers: u64,
    cap: Option<u64>,
}

/// What a request says about how fast it is to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedTier {
    /// Nothing, or `default`: as everybody is served.
    Standard,
    /// `auto`: as the provider likes.
    Auto,
    /// `flex`.
    Flex,
    /// `priority`.
    Priority,
}

impl AskedTier {
    /// The tiers that may serve it. A provider may serve another tier than it was asked for, so the standard one is always among them.
    pub(crate) const fn open(self) -> &'static [ServiceTier] {
        match self {
            Self::Standard => &[ServiceTier::Standard],
            Self::Auto => &[ServiceTier::Standard, ServiceTier::Flex, ServiceTier::Priority],
            Self::Flex => &[ServiceTier::Flex, ServiceTier::Standard],
            Self::Priority => &[ServiceTier::Priority, ServiceTier::Standard],
        }
    }

    /// The tier that it names and that must have a price; and the one of an answer that names none.
    pub(crate) const fn named(self) -> ServiceTier {
        match self {
            Self::Standard | Self::Auto => ServiceTier::Standard,
            Self::Flex => ServiceTier::Flex,
            Self::Priority => ServiceTier::Priority,
        }
    }
}

#[derive(Deserialize)]
struct Metadata {
    feature_key: Option<Value>,
    route_mode: Option<Value>,
    route_preference: Option<Value>,
}

/// Reads a request.
///
/// # Errors
/// 400 with the member that is wrong, not supported, or of unbounded cost.
pub(crate) fn read(endpoint: Endpoint, body: &[u8]) -> Result<CallRequest, CallError> {
    if !depth_within(body, MAX_DEPTH) {
        return Err(CallError::invalid(
            400,
            "invalid_request",
            format!("The JSON nests deeper than {MAX_DEPTH} levels."),
        ));
    }
    let members = Members::parse(body)
        .map_err(|_| CallError::invalid(400, "invalid_request", "The request body is not a JSON object."))?;
    refuse_controls(endpoint, &members)?;
    let model: String = required(&members, "model")?;
    if model.is_empty() || model.len() > 256 || model.chars().any(char::is_control) {
        return Err(CallError::malformed("model", "`model` must have 1 to 256 characters and no control characters."));
    }
    let Ours { feature_key, route, route_preference } = ours(&members)?;
    let input = Input::of(endpoint, &members)?;
    let stream = endpoint != Endpoint::Embeddings && optional::<bool>(&members, "stream")?.unwrap_or(false);
    Ok(CallRequest {
        endpoint,
        model,
        stream,
        usage_wanted: usage_wanted(endpoint, &members)?,
        feature_key,
        route,
        route_preference,
        input_bound: input.bound(),
        input_estimate: input.estimate(),
        service_tier: service_tier(&members)?,
        answers: answers(endpoint, &members)?,
        cap: cap(endpoint, &members)?,
    })
}

fn refuse_controls(endpoint: Endpoint, members: &Members<'_>) -> Result<(), CallError> {
    for name in members.names() {
        let lower = name.to_ascii_lowercase();
        // `prompt` is a stored prompt in the Responses API only.
        let control = ROUTER_CONTROLS.contains(&lower.as_str())
            || ROUTER_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
            || lower.contains("_cost_per_");
        if control {
            return Err(CallError::unsupported(name));
        }
    }
    for name in COST_CHANGERS {
        let Some(text) = members.present(name) else { continue };
        let harmless = match *name {
            "background" => text == "false",
            "modalities" => text.split_whitespace().collect::<String>() == r#"["text"]"#,
            "best_of" => text == "1",
            _ => false,
        };
        if !harmless {
            return Err(CallError::unsupported(*name));
        }
    }
    if endpoint == Endpoint::Responses
        && let Some(name) = HIDDEN_INPUT.iter().find(|name| members.present(name).is_some())
    {
        let message = format!("`{name}` adds input of unknown length, so its cost has no bound.");
        return Err(CallError::unbounded(*name, message));
    }
    hosted_tools(endpoint, members)
}

/// Tools that the provider runs cost extra, in ways that no rate card of ours has.
fn hosted_tools(endpoint: Endpoint, members: &Members<'_>) -> Result<(), CallError> {
    #[derive(Deserialize)]
    struct Tool {
        r#type: Option<String>,
    }
    if endpoint == Endpoint::Embeddings {
        return Ok(());
    }
    let tools: Vec<Tool> = optional(members, "tools")?.unwrap_or_default();
    let own = |tool: &Tool| matches!(tool.r#type.as_deref(), None | Some("function" | "custom"));
    match tools.iter().position(|tool| !own(tool)) {
        None => Ok(()),
        Some(index) => Err(CallError::unsupported(format!("tools[{index}].type"))),
    }
}

/// The members of `metadata` that are for us.
#[derive(Default)]
struct Ours {
    feature_key: Option<String>,
    route: Option<Route>,
    route_preference: Option<String>,
}

fn ours(members: &Members<'_>) -> Result<Ours, CallError> {
    let Some(metadata) = optional::<Metadata>(members, "metadata")? else { return Ok(Ours::default()) };
    let route = match metadata.route_mode {
        None | Some(Value::Null) => None,
        Some(mode) => Some(serde_json::from_value(mode).map_err(|_| {
            CallError::malformed("metadata.route_mode", "`metadata.route_mode` names no route that there is.")
        })?),
    };
    Ok(Ours {
        feature_key: text_of("metadata.feature_key", metadata.feature_key)?,
        route,
        route_preference: text_of("metadata.route_preference", metadata.route_preference)?,
    })
}

/// A text that is not empty, if it is there.
fn text_of(name: &str, value: Option<Value>) -> Result<Option<String>, CallError> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        None | Some(Value::Null | Value::String(_)) => Ok(None),
        Some(_) => Err(CallError::malformed(name, format!("`{name}` must be a text."))),
    }
}

fn service_tier(members: &Members<'_>) -> Result<AskedTier, CallError> {
    let asked: Option<String> = optional(members, "service_tier")?;
    match asked.as_deref() {
        None | Some("default") => Ok(AskedTier::Standard),
        Some("auto") => Ok(AskedTier::Auto),
        Some("flex") => Ok(AskedTier::Flex),
        Some("priority") => Ok(AskedTier::Priority),
        Some(_) => Err(CallError::unsupported("service_tier")),
    }
}

fn usage_wanted(endpoint: Endpoint, members: &Members<'_>) -> Result<bool, CallError> {
    #[derive(Deserialize)]
    struct StreamOptions {
        include_usage: Option<bool>,
    }
    if endpoint != Endpoint::ChatCompletions {
        return Ok(true);
    }
    let options = optional::<StreamOptions>(members, "stream_options")?;
    Ok(options.and_then(|options| options.include_usage).unwrap_or(false))
}

fn answers(endpoint: Endpoint, members: &Members<'_>) -> Result<u64, CallError> {
    if endpoint != Endpoint::ChatCompletions {
        return Ok(1);
    }
    let answers = optional::<u64>(members, "n")?.unwrap_or(1);
    if (1..=MAX_ANSWERS).contains(&answers) {
        Ok(answers)
    } else {
        Err(CallError::malformed("n", format!("`n` must be 1 to {MAX_ANSWERS}.")))
    }
}

/// The members that hold the output cap, the preferred one first.
const fn cap_members(endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::ChatCompletions => &["max_completion_tokens", "max_tokens"],
        Endpoint::Responses => &["max_output_tokens"],
        Endpoint::Embeddings => &[],
    }
}

fn cap(endpoint: Endpoint, members: &Members<'_>) -> Result<Option<u64>, CallError> {
    let mut smallest = None;
    for name in cap_members(endpoint) {
        let Some(cap) = optional::<u64>(members, name)? else { continue };
        if !(1..=MAX_CAP).contains(&cap) {
            return Err(CallError::malformed(*name, format!("`{name}` must be 1 to {MAX_CAP}.")));
        }
        smallest = Some(smallest.map_or(cap, |other: u64| other.min(cap)));
    }
    Ok(smallest)
}

fn required<T: for<'de> Deserialize<'de>>(members: &Members<'_>, name: &str) -> Result<T, CallError> {
    optional(members, name)?.ok_or_else(|| CallError::malformed(name, format!("`{name}` is missing.")))
}

fn optional<T: for<'de> Deserialize<'de>>(members: &Members<'_>, name: &str) -> Result<Option<T>, CallError> {
    members.read(name).map_err(|_| CallError::malformed(name, format!("`{name}` is not of the kind that it must be.")))
}

/// What becomes input.
#[derive(Clone, Copy, Debug, Default)]
struct Input {
    bytes: u64,
    messages: u64,
    images: u64,
}

/// Members that never become input. Every other text or structure of a request may, also those that we do not know.
const NEVER_INPUT: &[&str] = &["metadata", "model", "service_tier", "stream_options"];

impl Input {
    fn of(endpoint: Endpoint, members: &Members<'_>) -> Result<Self, CallError> {
        let main = match endpoint {
            Endpoint::ChatCompletions => "messages",
            Endpoint::Responses | Endpoint::Embeddings => "input",
        };
        let text = members.present(main);
        let text = text.ok_or_else(|| CallError::malformed(main, format!("`{main}` is missing.")))?;
        let mut input = Self { bytes: length(text), messages: 1, images: 0 };
        for name in members.names().filter(|name| *name != main && !NEVER_INPUT.contains(name)) {
            input.bytes += members.get(name).filter(|text| text.starts_with(['"', '{', '['])).map_or(0, length);
        }
        if endpoint == Endpoint::Embeddings {
            return Ok(input);
        }
        let value: Value = required(members, main)?;
        let list = match &value {
            Value::Array(list) if !list.is_empty() => list.as_slice(),
            Value::String(text) if endpoint == Endpoint::Responses && !text.is_empty() => &[],
            _ => return Err(CallError::malformed(main, format!("`{main}` must be a list that is not empty."))),
        };
        input.messages = length_of(list).max(1);
        list.iter().try_for_each(|item| input.look_for_media(item, main))?;
        Ok(input)
    }

    /// Counts images; audio, files and video have no bound that we know.
    fn look_for_media(&mut self, value: &Value, main: &str) -> Result<(), CallError> {
        match value {
            Value::Array(list) => list.iter().try_for_each(|item| self.look_for_media(item, main)),
            Value::Object(object) => {
                let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
                if ["audio", "file", "document", "video"].iter().any(|word| kind.contains(word)) {
                    let message = format!("Content of the kind `{kind}` has no bound on its cost.");
                    return Err(CallError::unbounded(main, message));
                }
                if kind == "item_reference" {
                    return Err(CallError::unbounded(main, "A reference to an item adds input of unknown length."));
                }
                if kind.contains("image") || kind.contains("screenshot") {
                    self.images += 1;
                }
                object.values().try_for_each(|member| self.look_for_media(member, main))
            }
            _ => Ok(()),
        }
    }

    /// Tokenizers never make more tokens than bytes, and JSON never has fewer bytes than its texts.
    fn bound(self) -> u64 {
        self.bytes + self.messages * PER_MESSAGE + self.images * IMAGE_TOKENS + PER_REQUEST
    }

    fn estimate(self) -> u64 {
        self.bytes.div_ceil(4).max(1)
    }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn length_of<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}

impl CallRequest {
    /// The most that it can use, if `default_cap` bounds requests that name no cap.
    pub(crate) fn ask(&self, default_cap: u64) -> Ask {
        let cap = if self.endpoint == Endpoint::Embeddings { 0 } else { self.cap.unwrap_or(default_cap) };
        Ask { input: self.input_bound, answers: self.answers, cap }
    }

    /// The body that goes upstream, made of the one that came: the model that it resolves to, the cap always there, the usage
    /// always asked for; what is ours stays here. `None` for a body that is not the one that was read.
    pub(crate) fn upstream_body(&self, body: &[u8], model: &str, cap: u64) -> Option<Vec<u8>> {
        let mut members = Members::parse(body).ok()?;
        members.set("model", &model);
        members.remove("metadata");
        let named: Vec<_> = cap_members(self.endpoint).iter().filter(|name| members.present(name).is_some()).collect();
        match (named.is_empty(), cap_members(self.endpoint)) {
            (_, []) => {}
            (true, [.., plain]) => members.set(plain, &cap),
            (false, _) => named.into_iter().for_each(|name| members.set(name, &cap)),
        }
        if self.stream && !self.usage_wanted {
            let options = members.present("stream_options").unwrap_or("{}").to_owned();
            if let Ok(mut options) = Members::parse(options.as_bytes()) {
                options.set("include_usage", &true);
                members.set_raw("stream_options", String::from_utf8(options.to_bytes()).unwrap_or_default());
            }
        }
        Some(members.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(body: &Value) -> Result<String, String> {
        let text = body.to_string();
        let result = read(Endpoint::ChatCompletions, text.as_bytes());
        result.map(|request| request.model).map_err(|error| {
            let detail = error.body("").error;
            format!("{} {}", detail.code, detail.param.unwrap_or_default())
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hi" }] });
        body[name] = value;
        body
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value, expected) in [
            ("model", json!(""), "invalid_request model"),
            ("model", json!(7), "invalid_request model"),
            ("model", Value::Null, "invalid_request model"),
            ("messages", json!([]), "invalid_request messages"),
            ("messages", json!("Hi"), "invalid_request messages"),
            ("messages", Value::Null, "invalid_request messages"),
            ("stream", json!("yes"), "invalid_request stream"),
            ("n", json!(0), "invalid_request n"),
            ("n", json!(129), "invalid_request n"),
            ("max_tokens", json!(0), "invalid_request max_tokens"),
            ("max_tokens", json!(-1), "invalid_request max_tokens"),
            ("max_completion_tokens", json!(1.5), "invalid_request max_completion_tokens"),
            ("stream_options", json!([]), "invalid_request stream_options"),
            ("metadata", json!("x"), "invalid_request metadata"),
            ("metadata", json!({ "feature_key": 7 }), "invalid_request metadata.feature_key"),
            ("metadata", json!({ "route_mode": "moon" }), "invalid_request metadata.route_mode"),
            ("metadata", json!({ "route_preference": [] }), "invalid_request metadata.route_preference"),
            ("api_base", json!("http://169.254.169.254"), "unsupported_parameter api_base"),
            ("API_KEY", json!("x"), "unsupported_parameter API_KEY"),
            ("litellm_params", json!({}), "unsupported_parameter litellm_params"),
            ("input_cost_per_token", json!(0), "unsupported_parameter input_cost_per_token"),
            ("aws_access_key_id", json!("x"), "unsupported_parameter aws_access_key_id"),
            ("mock_response", json!("free"), "unsupported_parameter mock_response"),
            ("service_tier", json!("scale"), "unsupported_parameter service_tier"),
            ("service_tier", json!(1), "invalid_request service_tier"),
            ("modalities", json!(["text", "audio"]), "unsupported_parameter modalities"),
            ("web_search_options", json!({}), "unsupported_parameter web_search_options"),
            ("speed", json!("fast"), "unsupported_parameter speed"),
            ("inference_geo", json!("us"), "unsupported_parameter inference_geo"),
            ("tools", json!([{ "type": "web_search" }]), "unsupported_parameter tools[0].type"),
            (
                "messages",
                json!([{ "role": "user", "content": [{ "type": "input_audio" }] }]),
                "unbounded_cost messages",
            ),
            ("messages", json!([{ "role": "user", "content": [{ "type": "file" }] }]), "unbounded_cost messages"),
        ] {
            assert_eq!(chat(&with(name, value)), Err(expected.to_owned()), "{name}");
        }
    }

    #[test]
    fn what_we_do_not_know_passes() {
        for (name, value) in [
            ("temperature", json!(0.2)),
            ("tools", json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "file" } } }])),
            ("response_format", json!({ "type": "json_object" })),
            ("invented_next_year", json!({ "a": [1] })),
            ("service_tier", json!("default")),
            ("service_tier", json!("priority")),
            ("user", json!("u")),
            ("stream", Value::Null),
        ] {
            assert_eq!(chat(&with(name, value)), Ok("m".to_owned()), "{name}");
        }
    }

    #[test]
    fn the_bound_covers_every_byte_and_image() {
        let text = with("tools", json!([{ "type": "function" }])).to_string();
        let request = read(Endpoint::ChatCompletions, text.as_bytes()).unwrap();
        let bytes = r#"[{"content":"Hi","role":"user"}]"#.len() + r#"[{"type":"function"}]"#.len();
        assert_eq!(request.input_bound, u64::try_from(bytes).unwrap() + 16 + 64);
        let unknown = with("documents", json!(["x".repeat(1_000)])).to_string();
        assert!(read(Endpoint::ChatCompletions, unknown.as_bytes()).unwrap().input_bound > 1_000, "it may be input");
        let image =
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "https://x" } }] }]);
        let text = with("messages", image).to_string();
        assert!(read(Endpoint::ChatCompletions, text.as_bytes()).unwrap().input_bound > IMAGE_TOKENS);
    }

    #[test]
    fn the_cap_and_the_usage_always_go_upstream() {
        let upstream = |body: Value, cap: u64| -> Value {
            let text = body.to_string();
            let request = read(Endpoint::ChatCompletions, text.as_bytes()).unwrap();
            serde_json::from_slice(&request.upstream_body(text.as_bytes(), "other", cap).unwrap()).unwrap()
        };
        let body = upstream(with("metadata", json!({ "feature_key": "reply", "trace": "1" })), 9);
        assert_eq!(
            body,
            json!({ "model": "other", "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 9 })
        );
        let body = upstream(with("max_completion_tokens", json!(50)), 9);
        assert_eq!((&body["max_completion_tokens"], &body["max_tokens"]), (&json!(9), &Value::Null));
        let mut streamed = with("stream_options", json!({ "include_obfuscation": false }));
        streamed["stream"] = json!(true);
        let body = upstream(streamed, 9);
        assert_eq!(body["stream_options"], json!({ "include_obfuscation": false, "include_usage": true }));
    }

    #[test]
    fn responses_hide_no_input() {
        let refused = |body: Value| {
            let text = body.to_string();
            read(Endpoint::Responses, text.as_bytes()).unwrap_err().code()
        };
        assert_eq!(refused(json!({ "model": "m", "input": "Hi", "previous_response_id": "r" })), "unbounded_cost");
        assert_eq!(refused(json!({ "model": "m", "input": "Hi", "prompt": { "id": "p" } })), "unbounded_cost");
        assert_eq!(refused(json!({ "model": "m", "input": "Hi", "background": true })), "unsupported_parameter");
        assert_eq!(refused(json!({ "model": "m", "input": [{ "type": "item_reference" }] })), "unbounded_cost");
        let body = json!({ "model": "m", "input": "Hi", "max_output_tokens": 20, "background": false }).to_string();
        let request = read(Endpoint::Responses, body.as_bytes()).unwrap();
        assert_eq!(request.ask(4_096), Ask { input: request.input_bound, answers: 1, cap: 20 });
    }

    #[test]
    fn embeddings_have_no_output() {
        let body = br#"{"model":"m","input":[[1,2,3]],"encoding_format":"base64"}"#;
        let request = read(Endpoint::Embeddings, body).unwrap();
        assert_eq!((request.ask(4_096).cap, request.stream), (0, false));
        assert_eq!(request.upstream_body(body, "m", 0).unwrap(), body);
    }
}
