//! What the ledger leans on beside its database: is it there? And what other tools know of relay, backups and drills.

use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::config::{Config, RedisPlace};
use crate::exit::Failure;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How something outside is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Up,
    Down,
    /// Nothing is known of it here.
    NotConfigured,
}

impl Is {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "DOWN",
            Self::NotConfigured => "not configured",
        }
    }
}

/// One line: what, and how it is.
pub(super) type Line = (&'static str, Is);

/// Looks. A tool that knows more adds its line here.
pub(super) async fn look(config: &Config) -> Result<Vec<Line>, Failure> {
    Ok(vec![
        ("postgres", Is::Up),
        ("redis", redis(config.redis_place()?).await),
        ("broker", Is::NotConfigured),
        ("relay", Is::NotConfigured),
        ("backup", Is::NotConfigured),
        ("drill", Is::NotConfigured),
    ])
}

async fn redis(place: Option<RedisPlace>) -> Is {
    let connected = match place {
        None => return Is::NotConfigured,
        Some(RedisPlace::Tcp(host, port)) => {
            tokio::time::timeout(PATIENCE, TcpStream::connect((host.as_str(), port))).await.is_ok_and(|c| c.is_ok())
        }
        Some(RedisPlace::Unix(path)) => {
            tokio::time::timeout(PATIENCE, UnixStream::connect(path)).await.is_ok_and(|c| c.is_ok())
        }
    };
    if connected { Is::Up } else { Is::Down }
}
