//! Connections to PostgreSQL: plain over loopback and Unix sockets, with TLS once the process has been told whom to trust.
//!
//! A process has one database, so whom it trusts is set once, at its start, and holds for every connection it opens. There is no
//! TLS without verification: chain and host name are checked on every handshake.
//!
//! A server that is gone without a word must not hold anybody up for ever. Over TCP both ends notice a silent machine within about
//! 10 s; a machine that acknowledges and a server on it that says nothing are noticed by whoever asks, with [`within`].

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, RecyclingMethod};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long each server may take from the first byte to being ready for statements.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long bytes may stay unacknowledged, and how long a connection may be idle before it is looked after.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// Between two looks after an idle connection.
const PROBE: Duration = Duration::from_secs(2);
/// Looks without an answer after which it is given up.
const PROBES: u32 = 3;
/// The same for the server, which keeps what belongs to a session (locks, transactions) until it notices that the other machine is
/// gone. It ignores them over a Unix socket.
const SESSION: &str =
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=5000";

static TRUSTED: OnceLock<MakeRustlsConnect> = OnceLock::new();

/// Why certificates cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not PEM, or no certificate in it.
    #[error("holds no certificate in PEM form")]
    NoCertificate,
    /// A certificate that nothing can be verified with.
    #[error("holds a certificate that cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// From now on the process speaks TLS to a server that offers it, and only if one of these authorities (PEM) vouches for the
/// server's name. The first call counts.
///
/// # Errors
/// [`TrustError`].
pub fn trust(authorities: &[u8]) -> Result<(), TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        roots.add(certificate.map_err(|_| TrustError::NoCertificate)?)?;
    }
    if roots.is_empty() {
        return Err(TrustError::NoCertificate);
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let _first_counts = TRUSTED.set(MakeRustlsConnect::new(tls));
    Ok(())
}

/// What carries a connection; it is polled until the connection ends.
pub type Carrier = BoxFuture<'static, Result<(), Error>>;

/// Opens a connection. The caller runs the [`Carrier`].
///
/// # Errors
/// The driver's, among them a certificate that is not trusted; as [`within`] if a server says nothing for 5 s.
pub async fn connect(config: &Config) -> Result<(Client, Carrier), Error> {
    let config = watchful(config);
    let servers = u32::try_from(config.get_hosts().len().max(config.get_hostaddrs().len())).unwrap_or(1).max(1);
    let connecting = async {
        Ok(match TRUSTED.get() {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                (client, connection.boxed())
            }
            Some(tls) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                (client, connection.boxed())
            }
        })
    };
    within(HANDSHAKE * servers, Box::pin(connecting)).await
}

/// The same server, with both ends looking after the connection, as far as the operator's own string does not say otherwise.
fn watchful(config: &Config) -> Config {
    let mut config = config.clone();
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED);
    }
    if config.get_keepalives_interval().is_none() && config.get_keepalives_retries().is_none() {
        config.keepalives_idle(config.get_keepalives_idle().min(UNACKNOWLEDGED));
        config.keepalives_interval(PROBE).keepalives_retries(PROBES);
    }
    let is_remote = |host: &Host| matches!(host, Host::Tcp(_));
    if config.get_hosts().iter().any(is_remote) || !config.get_hostaddrs().is_empty() {
        // What is given later wins.
        let given = config.get_options().unwrap_or_default().to_owned();
        config.options(format!("{SESSION} {given}").trim_end());
    }
    config
}

/// What the database is asked, for so long at most. Whoever gets no answer must not use the connection again: what was asked may
/// still come true.
///
/// # Errors
/// Those of `asked`; if the time is over, one that is like that of a connection that broke.
pub async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(silent().await),
    }
}

/// The error of a server that says nothing.
pub async fn silent() -> Error {
    let mut config = Config::new();
    config.user("nobody");
    loop {
        // The driver makes its errors itself; this connection fails at its first byte, with ours as the cause.
        if let Err(error) = Box::pin(config.connect_raw(Silence, NoTls)).await {
            return error;
        }
    }
}

/// A connection to a server that says nothing.
struct Silence;

impl Silence {
    fn error() -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, "the database does not answer")
    }
}

impl AsyncRead for Silence {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(Self::error()))
    }
}

impl AsyncWrite for Silence {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(Self::error()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(Self::error()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a pool makes its connections with, and what it does before it gives one out again.
pub fn manager(config: Config, recycling_method: RecyclingMethod) -> Manager {
    Manager::from_connect(config, Pooled, ManagerConfig { recycling_method })
}

struct Pooled;

impl Connect for Pooled {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let config = config.clone();
        async move {
            let (client, carrier) = connect(&config).await?;
            let carried = async {
                // The client's own calls report what went wrong.
                let _ended = carrier.await;
            };
            Ok((client, tokio::spawn(carried)))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_trusted() {
        for text in ["", "nobody", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(trust(text.as_bytes()), Err(TrustError::NoCertificate)), "{text}");
        }
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(trust(no_certificate.as_bytes()), Err(TrustError::Unusable(_))));
        assert!(TRUSTED.get().is_none(), "what was refused changes nothing");
    }

    /// The driver keeps it behind its own words.
    fn cause(error: &Error) -> String {
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_like_a_connection_that_broke() {
        let error = within(Duration::from_millis(1), std::future::pending::<Result<(), Error>>()).await.unwrap_err();
        assert!(error.code().is_none(), "a server has said nothing");
        assert_eq!(cause(&error), "the database does not answer");
    }

    /// It accepts, and that is all.
    #[tokio::test(start_paused = true)]
    async fn a_connection_is_given_up_if_the_server_accepts_and_says_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new();
        config.host("127.0.0.1").port(listener.local_addr().unwrap().port()).user("somebody");
        let error = connect(&config).await.err().expect("nobody is there");
        assert_eq!(cause(&error), "the database does not answer");
    }

    #[test]
    fn an_operators_own_limits_stand() {
        let given = "host=db tcp_user_timeout=60 keepalives_interval=9 options='-c tcp_keepalives_idle=60'";
        let config = watchful(&given.parse().unwrap());
        assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_secs(60)));
        assert_eq!(
            (config.get_keepalives_interval(), config.get_keepalives_retries()),
            (Some(Duration::from_secs(9)), None)
        );
        assert!(config.get_options().unwrap().ends_with("-c tcp_keepalives_idle=60"), "what comes later wins");
        let config = watchful(&"host=db".parse().unwrap());
        assert_eq!(config.get_keepalives_idle(), UNACKNOWLEDGED);
        assert_eq!(watchful(&"host=/run/postgresql".parse().unwrap()).get_options(), None);
    }
}
