//! Traces of requests, for an OpenTelemetry collector. Where none is named nothing of this exists: no layer, no span, no thread.

use std::fmt;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use modelfaucet_gateway::trace::{FINISH_REASONS, TARGET};
use modelfaucet_schema::http::RequestId;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Array, StringValue, Value};
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter as Export};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt as logs, registry};

use crate::exit::{Exit, Failure};

/// How long one delivery to the collector may take.
const DELIVERY: Duration = Duration::from_secs(10);

/// Where traces go.
pub(crate) struct Options {
    /// The collector, without a path.
    pub(crate) endpoint: url::Url,
    /// What the process is called there, if not by its role.
    pub(crate) service: Option<String>,
    /// Which share of requests is traced. What a client's `traceparent` says about that is not asked.
    pub(crate) share: f64,
}

static ON: OnceLock<()> = OnceLock::new();

/// Does this process trace?
pub(crate) fn is_on() -> bool {
    ON.get().is_some()
}

/// Running traces. Dropped, it delivers what is left.
pub(crate) struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            eprintln!("modelfaucet: the last traces could not be delivered: {error}");
        }
    }
}

/// Starts logs as ever and traces beside them; then log lines carry the ids of request and trace.
pub(crate) fn start(options: Options, service: &'static str, filter: EnvFilter, json: bool) -> Result<Traces, Failure> {
    let failed = |what: &dyn fmt::Display| Failure::new(Exit::Config, format!("traces cannot be set up: {what}"));
    let endpoint = format!("{}/v1/traces", options.endpoint.as_str().trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Courier::new()?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(DELIVERY)
        .build()
        .map_err(|error| failed(&error))?;
    let name = options.service.unwrap_or_else(|| service.to_owned());
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(WithLists(exporter))
        .with_sampler(Sampler::TraceIdRatioBased(options.share))
        .with_resource(Resource::builder().with_service_name(name).build())
        .build();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("modelfaucet"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(TARGET, tracing::Level::INFO));
    let shown = format!("{TARGET}=info").parse().map_err(|error| failed(&error))?;
    let filter = filter.add_directive(shown);
    let lines = logs::layer().with_ansi(false).with_writer(std::io::stderr);
    let lines = if json { lines.json().with_filter(filter).boxed() } else { lines.with_filter(filter).boxed() };
    registry().with(lines).with(spans).init();
    let _once = ON.set(());
    Ok(Traces(provider))
}

/// Makes a list of what could not be recorded as one.
#[derive(Debug)]
struct WithLists(SpanExporter);

impl Export for WithLists {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        for attribute in batch.iter_mut().flat_map(|span| &mut span.attributes) {
            if attribute.key.as_str() == FINISH_REASONS {
                attribute.value = listed(&attribute.value);
            }
        }
        self.0.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// `["stop"]`, a text, as a list of texts.
fn listed(value: &Value) -> Value {
    let texts: Vec<String> = serde_json::from_str(&value.as_str()).unwrap_or_default();
    Value::Array(Array::String(texts.into_iter().map(StringValue::from).collect()))
}

/// Carries spans to the collector, from the exporter's own thread.
struct Courier {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl fmt::Debug for Courier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Courier")
    }
}

impl Courier {
    fn new() -> Result<Self, Failure> {
        // Another client of this process may have done so.
        let _set_already = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(DELIVERY).build();
        let client = client.map_err(|error| Failure::new(Exit::Config, format!("traces cannot be sent: {error}")))?;
        Ok(Self { client, runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()? })
    }
}

impl HttpClient for Courier {
    fn send_bytes<'client, 'sent>(
        &'client self,
        request: http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'client: 'sent,
        Self: 'sent,
    {
        // The exporter's thread waits for nothing else.
        let answer = self.runtime.block_on(async {
            let answer = self.client.execute(request.try_into()?).await?;
            let mut response = http::Response::new(Bytes::new());
            *response.status_mut() = answer.status();
            *response.body_mut() = answer.bytes().await?;
            Ok(response)
        });
        Box::pin(std::future::ready(answer))
    }
}

/// A span around a request of the API, until the last byte of its answer is out. A client's `traceparent` becomes its parent.
pub(crate) async fn request(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    if !route.starts_with("/v1/") {
        return next.run(request).await;
    }
    let method = request.method().as_str();
    let request_id = request.extensions().get::<RequestId>().map_or("", RequestId::as_str);
    let span = tracing::info_span!(
        target: TARGET, "request",
        otel.name = format!("{method} {route}"), otel.kind = "server", otel.status_code = Empty,
        http.request.method = method, http.route = route, http.response.status_code = Empty,
        request_id, trace_id = Empty,
    );
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    let _joined = span.set_parent(parent);
    span.record("trace_id", tracing::field::display(span.context().span().span_context().trace_id()));
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response.map(|body| Body::new(Traced { body, _span: span }))
}

/// A body that keeps its request's span open.
struct Traced {
    body: Body,
    _span: Span,
}

impl http_body::Body for Traced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
