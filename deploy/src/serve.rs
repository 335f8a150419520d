//! The accept loop: HTTP/1.1 with limits on headers, time and connections, and an end that lets running requests finish.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use modelfaucet_schema::http::Peer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// How long a client may take to send its request line and headers, and how long a connection may idle.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long running requests may take to finish when we stop.
const GRACE: Duration = Duration::from_secs(15);

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// In all.
    pub(crate) connections: usize,
    /// Of one address, except loopback.
    pub(crate) per_address: usize,
    /// Until the headers have come.
    pub(crate) header_time: Duration,
}

impl Limits {
    pub(crate) fn new(connections: usize, per_address: usize) -> Self {
        Self { connections, per_address, header_time: HEADER_TIME.min(Duration::from_secs(5)) }
    }
}

/// Serves until `stop` becomes true; then lets running requests finish.
pub(crate) async fn serve(listener: TcpListener, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come back.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            metrics::counter!("modelfaucet_connections_refused_total", "reason" => "all").increment(1);
            continue;
        };
        let Some(visit) = addresses.enter(peer, limits.per_address) else {
            metrics::counter!("modelfaucet_connections_refused_total", "reason" => "address").increment(1);
            continue;
        };
        let connection = graceful.watch(connection(stream, peer, &router, limits));
        tokio::spawn(async move {
            // A client that breaks off is its own affair.
            let _broken = connection.await;
            drop((place, visit));
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
}

/// The routes, told who is at the other end.
#[derive(Clone)]
struct WithPeer {
    router: TowerToHyperService<Router>,
    peer: Peer,
}

impl Service<Request<Incoming>> for WithPeer {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

type Connection = http1::Connection<TokioIo<TcpStream>, WithPeer>;

fn connection(stream: TcpStream, peer: SocketAddr, router: &Router, limits: Limits) -> Connection {
    let _unsupported = stream.set_nodelay(true);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_headers(64)
        .max_buf_size(16 * 1_024)
        .serve_connection(
            TokioIo::new(stream),
            WithPeer { router: TowerToHyperService::new(router.clone()), peer: Peer(peer.ip()) },
        )
}

/// How many connections each address has open.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address, counted until it is dropped.
struct Visit(Addresses, IpAddr);

impl Addresses {
    fn enter(&self, peer: SocketAddr, limit: usize) -> Option<Visit> {
        let address = peer.ip();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= limit && !address.is_loopback() {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Visit(self.clone(), address))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_connections_and_loopback_any_number() {
        let addresses = Addresses::default();
        let peer: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let first = addresses.enter(peer, 1);
        assert!(first.is_some() && addresses.enter(peer, 1).is_none());
        drop(first);
        assert!(addresses.enter(peer, 1).is_some());
        let near: SocketAddr = "127.0.0.1:1000".parse().unwrap();
        let open: Vec<_> = (0..3).map(|_| addresses.enter(near, 1)).collect();
        assert!(open.iter().all(Option::is_some));
    }

    /// What a client may not do: be slow with its headers, or send too many of them.
    #[tokio::test]
    async fn slow_and_oversized_headers_are_cut_off() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", axum::routing::get(async || "ok"));
        let limits = Limits { header_time: Duration::from_millis(200), ..Limits::new(8, 8) };
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, router, limits, stopped));
        for (sent, answer) in [
            (String::new(), ""),
            ("PR".to_owned(), ""),
            ("GET / HTTP/1.1\r\nhost: x\r\nhalf".to_owned(), ""),
            (format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(70)), "HTTP/1.1 431"),
            (format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(20_000)), "HTTP/1.1 431"),
            ("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), "HTTP/1.1 200"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent.as_bytes()).await.unwrap();
            let mut got = Vec::new();
            let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut got)).await;
            assert!(closed.is_ok(), "the connection stays open after {sent:.40}");
            let got = String::from_utf8_lossy(&got);
            assert!(got.starts_with(answer), "{sent:.40}: {got}");
        }
        stop.send(true).unwrap();
        server.await.unwrap();
    }
}
