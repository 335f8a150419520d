//! A proxy for TCP that does what networks do: it can be slow, hold bytes back, lose them, cut connections and refuse new ones, in each
//! direction by itself. It counts what it did, so that a test can show that its fault was real.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What lies behind a proxy.
#[derive(Clone, Debug)]
pub enum Target {
    /// A port on loopback.
    Port(u16),
    /// A socket in the file system.
    Socket(PathBuf),
}

/// What becomes of bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They go on.
    #[default]
    Free,
    /// So many a second.
    Trickle(u32),
    /// They wait until there is another flow: a partition that heals before anybody gives up.
    Held,
    /// They are gone, and the connection with them although nobody is told: what was lost does not come back with another flow.
    Lost,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Away from who connects, and towards them.
    flows: [Flow; 2],
    delay: Duration,
    refuses: bool,
    cuts: u64,
}

#[derive(Debug, Default)]
struct Counts {
    passed: AtomicU64,
    lost: AtomicU64,
    held: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
}

/// A proxy on loopback. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    counts: Arc<Counts>,
    listening: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Before a port on loopback.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn before(target: u16) -> Self {
        Self::before_target(Target::Port(target)).await
    }

    /// Before anything.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn before_target(target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let (weather, seen) = watch::channel(Weather::default());
        let counts = Arc::<Counts>::default();
        let count = Arc::clone(&counts);
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                if seen.borrow().refuses {
                    count.refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let (target, seen, count) = (target.clone(), seen.clone(), Arc::clone(&count));
                connections.spawn(async move {
                    let _unsupported = near.set_nodelay(true);
                    match target {
                        Target::Port(port) => {
                            let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                            let _unsupported = far.set_nodelay(true);
                            join(near, far.into_split(), seen, &count).await;
                        }
                        Target::Socket(path) => {
                            let Ok(far) = UnixStream::connect(path).await else { return };
                            join(near, far.into_split(), seen, &count).await;
                        }
                    }
                });
            }
        });
        Self { port, weather, counts, listening }
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on every piece takes so much longer, in each direction.
    pub fn slow_down(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// From now on bytes flow like this in both directions.
    pub fn flow(&self, flow: Flow) {
        self.flow_each(flow, flow);
    }

    /// The same for bytes away from who connects, and towards them.
    pub fn flow_each(&self, away: Flow, towards: Flow) {
        self.weather.send_modify(|weather| weather.flows = [away, towards]);
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// From now on nobody may connect, or everybody again.
    pub fn refuse(&self, on: bool) {
        self.weather.send_modify(|weather| weather.refuses = on);
    }

    /// Bytes that have passed so far.
    pub fn passed(&self) -> u64 {
        self.counts.passed.load(Ordering::SeqCst)
    }

    /// Bytes that were lost so far.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::SeqCst)
    }

    /// Pieces that were held back or slowed to a trickle so far.
    pub fn held(&self) -> u64 {
        self.counts.held.load(Ordering::SeqCst)
    }

    /// Connections that were cut so far.
    pub fn cut_so_far(&self) -> u64 {
        self.counts.cut.load(Ordering::SeqCst)
    }

    /// Connections that were refused so far.
    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Joins both ends until one of them ends, or the weather cuts them off.
async fn join<R, W>(near: TcpStream, (far_read, far_write): (R, W), weather: watch::Receiver<Weather>, counts: &Counts)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (near_read, near_write) = near.into_split();
    let mut cut = weather.clone();
    let cuts = cut.borrow().cuts;
    // Whichever side ends first ends the other.
    tokio::select! {
        () = pass(near_read, far_write, weather.clone(), 0, counts) => {}
        () = pass(far_read, near_write, weather, 1, counts) => {}
        _ = cut.wait_for(|now| now.cuts != cuts) => { counts.cut.fetch_add(1, Ordering::SeqCst); }
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    direction: usize,
    counts: &Counts,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut is_lost = false;
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read @ 1..) => read,
            // Nobody is told of the end either.
            _ if is_lost || weather.borrow().flows[direction] == Flow::Lost => std::future::pending().await,
            _ => return,
        };
        let mut left = &buffer[..read];
        let delay = weather.borrow().delay;
        tokio::time::sleep(delay).await;
        while !left.is_empty() {
            let Weather { flows, .. } = *weather.borrow_and_update();
            is_lost |= flows[direction] == Flow::Lost;
            if is_lost {
                counts.lost.fetch_add(count(left), Ordering::SeqCst);
                break;
            }
            let size = match flows[direction] {
                Flow::Free | Flow::Lost => left.len(),
                Flow::Held => {
                    counts.held.fetch_add(1, Ordering::SeqCst);
                    if weather.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Flow::Trickle(bytes) => {
                    counts.held.fetch_add(1, Ordering::SeqCst);
                    // A tenth of a second at a time, or until there is another flow.
                    let _other_weather = tokio::time::timeout(Duration::from_millis(100), weather.changed()).await;
                    left.len().min((bytes as usize / 10).max(1))
                }
            };
            if to.write_all(&left[..size]).await.is_err() {
                return;
            }
            counts.passed.fetch_add(count(&left[..size]), Ordering::SeqCst);
            left = &left[size..];
        }
    }
}

fn count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
