//! Connections to PostgreSQL: plain over loopback and Unix sockets, with TLS once the process has been told whom to trust.
//!
//! A process has one database, so whom it trusts is set once, at its start, and holds for every connection it opens. There is no
//! TLS without verification: chain and host name are checked on every handshake.

use std::sync::{Arc, OnceLock};

use deadpool_postgres::{Connect, Manager, ManagerConfig, RecyclingMethod};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

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
/// The driver's, among them a certificate that is not trusted.
pub async fn connect(config: &Config) -> Result<(Client, Carrier), Error> {
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
}

/// What a pool makes its connections with.
pub fn manager(config: Config) -> Manager {
    Manager::from_connect(config, Pooled, ManagerConfig { recycling_method: RecyclingMethod::Fast })
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
}
