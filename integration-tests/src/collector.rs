//! A collector of traces: it takes everything and understands nothing.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use parking_lot::Mutex;

/// What it was sent, one delivery after the other.
#[derive(Clone, Debug, Default)]
pub struct Collector(Arc<Mutex<Vec<u8>>>);

impl Collector {
    /// Listens on loopback; its address, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let deliveries = Arc::clone(&self.0);
        let take = move |body: Bytes| async move { deliveries.lock().extend_from_slice(&body) };
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// Is this in what it was sent?
    pub fn has(&self, wanted: &[u8]) -> bool {
        self.0.lock().windows(wanted.len()).any(|part| part == wanted)
    }

    /// All that it was sent.
    pub fn sent(&self) -> Vec<u8> {
        self.0.lock().clone()
    }
}
