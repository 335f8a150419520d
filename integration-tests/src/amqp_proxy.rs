//! A proxy before a broker that understands the frames of AMQP 0-9-1 as far as it needs: it can lose acknowledgements in either
//! direction, and cut every connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Class and method of `basic.ack`.
const ACK: [u8; 4] = [0, 60, 0, 80];

/// What is lost, in one direction.
#[derive(Debug, Default)]
struct Loss {
    on: AtomicBool,
    lost: AtomicU64,
}

/// A proxy on loopback before a broker on loopback. It ends when it is dropped.
#[derive(Debug)]
pub struct AmqpProxy {
    port: u16,
    confirms: Arc<Loss>,
    acks: Arc<Loss>,
    cuts: watch::Sender<u64>,
    listening: tokio::task::JoinHandle<()>,
}

impl AmqpProxy {
    /// Before `target`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let (confirms, acks) = (Arc::<Loss>::default(), Arc::<Loss>::default());
        let (cuts, cut) = watch::channel(0);
        let (towards_client, towards_broker) = (Arc::clone(&confirms), Arc::clone(&acks));
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (towards_client, towards_broker) = (Arc::clone(&towards_client), Arc::clone(&towards_broker));
                let mut cut = cut.clone();
                cut.mark_unchanged();
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                    // Whichever side ends first ends the other.
                    tokio::select! {
                        () = pass(near_read, far_write, &towards_broker, true) => {}
                        () = pass(far_read, near_write, &towards_client, false) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, confirms, acks, cuts, listening }
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on what the broker confirms to publishers gets lost, or not any more.
    pub fn lose_confirms(&self, on: bool) {
        self.confirms.on.store(on, Ordering::SeqCst);
    }

    /// From now on what consumers acknowledge gets lost, or not any more.
    pub fn lose_acks(&self, on: bool) {
        self.acks.on.store(on, Ordering::SeqCst);
    }

    /// Confirms and acknowledgements that were lost so far.
    pub fn lost(&self) -> (u64, u64) {
        (self.confirms.lost.load(Ordering::SeqCst), self.acks.lost.load(Ordering::SeqCst))
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for AmqpProxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A client begins with eight bytes that are no frame.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, loss: &Loss, is_client: bool) {
    let mut greeting = [0; 8];
    if is_client && (from.read_exact(&mut greeting).await.is_err() || to.write_all(&greeting).await.is_err()) {
        return;
    }
    loop {
        // Kind, channel (2 bytes), size (4 bytes), the content, and one byte for the end.
        let mut frame = vec![0; 7];
        if from.read_exact(&mut frame).await.is_err() {
            return;
        }
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
        frame.resize(7 + usize::try_from(size).expect("a size") + 1, 0);
        if from.read_exact(&mut frame[7..]).await.is_err() {
            return;
        }
        if frame[0] == 1 && frame[7..].starts_with(&ACK) && loss.on.load(Ordering::SeqCst) {
            loss.lost.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}
