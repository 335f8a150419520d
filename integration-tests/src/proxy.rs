//! A proxy for TCP that can be told to be slow, or to be away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A proxy on loopback before a port on loopback. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    delay: Arc<AtomicU64>,
    passed: Arc<AtomicU64>,
    listening: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Before `target`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let (delay, passed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&delay), Arc::clone(&passed));
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (told, count) = (Arc::clone(&told), Arc::clone(&count));
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                    // Whichever side ends first ends the other.
                    tokio::select! {
                        () = pass(near_read, far_write, &told, &count) => {}
                        () = pass(far_read, near_write, &told, &count) => {}
                    }
                });
            }
        });
        Self { port, delay, passed, listening }
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on every piece takes so much longer, in each direction.
    pub fn slow_down(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Bytes that have passed so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: &AtomicU64, passed: &AtomicU64) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        tokio::time::sleep(Duration::from_millis(delay.load(Ordering::SeqCst))).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        passed.fetch_add(u64::try_from(read).unwrap_or(0), Ordering::SeqCst);
    }
}
