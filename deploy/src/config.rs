//! Every setting, in one place (`config/table.rs`): name, unit, default, what it does. The environment is read here and nowhere else.
//!
//! A setting NAME whose value is secret may also come from a file: `NAME_FILE` names it. Flags win over the environment.

mod backup;
mod broker;
mod gateway;
mod looks;
mod stripe;
mod table;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use modelfaucet_gateway::guard::{Network, Policy};
use modelfaucet_gateway::limit::{Rate, RateLimits, RedisOptions};
use modelfaucet_gateway::options::LostCalls;
use modelfaucet_schema::event::Route;
use modelfaucet_schema::log::connection;
use modelfaucet_secrets::Keyring;
use secrecy::SecretString;
use tokio_postgres::config::{Host, SslMode};

use crate::edge::{Edge, Origins, Side};
use crate::trace;
pub(crate) use looks::RedisPlace;
pub(crate) use table::{SETTINGS, Setting, help};

/// A setting that is wrong. One line that says which and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {problem} (see `modelfaucet help config`)")]
pub(crate) struct ConfigError {
    name: String,
    problem: String,
}

fn wrong(name: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError { name: name.to_owned(), problem: problem.into() }
}

/// The values of this process.
#[derive(Clone)]
pub(crate) struct Config {
    values: BTreeMap<&'static str, String>,
}

impl Config {
    /// Reads the environment; `flags` win.
    ///
    /// # Errors
    /// [`ConfigError`] if NAME and `NAME_FILE` are both set or a file cannot be read.
    pub(crate) fn read(flags: &[(&'static str, Option<String>)]) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let flag = flags.iter().find(|(name, _)| *name == setting.name).and_then(|(_, value)| value.clone());
            if let Some(value) = flag.or(from_environment(setting)?) {
                values.insert(setting.name, value);
            }
        }
        Ok(Self { values })
    }

    fn text(&self, name: &'static str) -> Option<&str> {
        let default = SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default);
        let value = self.values.get(name).map_or(default, String::as_str);
        (!value.is_empty()).then_some(value)
    }

    fn number(&self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let text = self.text(name).unwrap_or_default();
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            wrong(name, format!("{text:?} is not a whole number from {} to {}", range.start(), range.end()))
        })
    }

    fn size(&self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Result<usize, ConfigError> {
        usize::try_from(self.number(name, range)?).map_err(|_| wrong(name, "is too large for this machine"))
    }

    pub(crate) fn listen(&self) -> Result<SocketAddr, ConfigError> {
        let text = self.text("LISTEN").unwrap_or_default();
        text.parse().map_err(|_| wrong("LISTEN", format!("{text:?} is not an address and port such as 127.0.0.1:8080")))
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.text("DATA_DIR").unwrap_or("./data"))
    }

    pub(crate) fn pg_bindir(&self) -> Option<PathBuf> {
        self.text("PG_BINDIR").map(PathBuf::from)
    }

    /// The database, if one is named.
    pub(crate) fn database(&self) -> Result<Option<tokio_postgres::Config>, ConfigError> {
        self.near_database("DATABASE_URL")
    }

    /// The database as the role that keeps provider keys, if one is named.
    pub(crate) fn secrets_database(&self) -> Result<Option<tokio_postgres::Config>, ConfigError> {
        self.near_database("SECRETS_DATABASE_URL")
    }

    fn near_database(&self, name: &'static str) -> Result<Option<tokio_postgres::Config>, ConfigError> {
        let Some(url) = self.text(name) else { return Ok(None) };
        // The parser's own message may quote the password.
        let mut config: tokio_postgres::Config = url
            .parse()
            .map_err(|_| wrong(name, "is not a PostgreSQL URL such as postgres://user:password@127.0.0.1/ledger"))?;
        let over_tcp = |host: &Host| matches!(host, Host::Tcp(_));
        if self.text("DATABASE_CA_FILE").is_some() && config.get_hosts().iter().any(over_tcp) {
            config.ssl_mode(SslMode::Require);
            return Ok(Some(config));
        }
        let near = config.get_hosts().iter().all(|host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        });
        if !near {
            return Err(wrong(
                name,
                "names a host off this machine; name who vouches for it with DATABASE_CA_FILE, so that TLS protects the way there",
            ));
        }
        Ok(Some(config))
    }

    /// Makes this process trust the authorities of `DATABASE_CA_FILE`, if that is set.
    pub(crate) fn trust(&self) -> Result<(), ConfigError> {
        let Some(path) = self.text("DATABASE_CA_FILE") else { return Ok(()) };
        let authorities = std::fs::read(path)
            .map_err(|error| wrong("DATABASE_CA_FILE", format!("{path} cannot be read: {error}")))?;
        connection::trust(&authorities).map_err(|error| wrong("DATABASE_CA_FILE", format!("{path} {error}")))
    }

    /// The database, for commands that need one.
    pub(crate) fn required_database(&self) -> Result<tokio_postgres::Config, ConfigError> {
        self.database()?.ok_or_else(|| wrong("DATABASE_URL", "is not set; set it or use --database-url"))
    }

    pub(crate) fn admin_token(&self) -> Result<Option<SecretString>, ConfigError> {
        self.long_secret("ADMIN_TOKEN")
    }

    pub(crate) fn staff_token(&self) -> Result<Option<SecretString>, ConfigError> {
        self.long_secret("STAFF_TOKEN")
    }

    pub(crate) fn user_key(&self) -> Result<Option<SecretString>, ConfigError> {
        self.long_secret("USER_ID_HMAC_KEY")
    }

    fn long_secret(&self, name: &'static str) -> Result<Option<SecretString>, ConfigError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        if value.len() < 32 || value.chars().any(char::is_whitespace) {
            return Err(wrong(name, "needs at least 32 characters without blanks"));
        }
        Ok(Some(SecretString::from(value)))
    }

    /// What provider keys are encrypted with, if that is set.
    pub(crate) fn keyring(&self) -> Result<Option<Keyring>, ConfigError> {
        let name = "SECRET_ENCRYPTION_KEY";
        let Some(text) = self.text(name) else { return Ok(None) };
        Keyring::parse(&SecretString::from(text)).map(Some).map_err(|error| wrong(name, error.to_string()))
    }

    /// Which addresses of providers users and developers may name.
    pub(crate) fn provider_urls(&self) -> Result<Policy, ConfigError> {
        let loopback = "PROVIDER_URL_LOOPBACK";
        let policy = Policy {
            ports: self.list("PROVIDER_URL_PORTS", "a port", |port| *port > 0)?,
            refused: self.list("PROVIDER_URL_REFUSED_NETWORKS", "a block such as 10.0.0.0/8", |_| true)?,
            loopback: self.list(loopback, "an address on loopback such as 127.0.0.1:4010", |named: &SocketAddr| {
                named.ip().is_loopback() && named.port() > 0
            })?,
            ..Policy::default()
        };
        if !policy.loopback.is_empty() && !self.listen()?.ip().is_loopback() {
            return Err(wrong(loopback, "is for tests on one machine; LISTEN must be on loopback too"));
        }
        Ok(policy)
    }

    /// A list divided by commas.
    fn list<T: std::str::FromStr, L: FromIterator<T>>(
        &self,
        name: &'static str,
        what: &str,
        is_good: impl Fn(&T) -> bool,
    ) -> Result<L, ConfigError> {
        let items = self.text(name).unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty());
        let read = |item: &str| item.parse().ok().filter(&is_good);
        items.map(|item| read(item).ok_or_else(|| wrong(name, format!("{item:?} is not {what}")))).collect()
    }

    /// A value that a single role cannot do without.
    pub(crate) fn required<T>(name: &'static str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| wrong(name, "is not set"))
    }

    fn quota(&self, name: &'static str) -> Result<u64, ConfigError> {
        self.number(name, 0..=1_000_000_000_000)
    }

    fn window(&self, name: &'static str) -> Result<Duration, ConfigError> {
        self.number(name, 1..=86_400_000).map(Duration::from_millis)
    }

    /// Where Redis is, if that is set.
    fn redis(&self, service: &'static str) -> Result<Option<RedisOptions>, ConfigError> {
        let patience = self.window("REDIS_TIMEOUT_MS")?;
        let Some(text) = self.text("REDIS_URL") else { return Ok(None) };
        // A message must not quote the password.
        let no_url = || wrong("REDIS_URL", "is not an address such as redis://127.0.0.1:6379 or redis+unix:///path");
        let url: url::Url = text.parse().map_err(|_| no_url())?;
        let near = match (url.scheme(), url.host()) {
            ("redis+unix" | "unix", _) | ("rediss", Some(_)) => true,
            ("redis", Some(url::Host::Domain(name))) => {
                name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            ("redis", Some(url::Host::Ipv4(address))) => address.is_loopback(),
            ("redis", Some(url::Host::Ipv6(address))) => address.is_loopback(),
            _ => return Err(no_url()),
        };
        if !near {
            return Err(wrong(
                "REDIS_URL",
                "names a host off this machine in clear; use rediss:// and name who vouches for it with REDIS_CA_FILE",
            ));
        }
        let authorities = match (url.scheme(), self.text("REDIS_CA_FILE")) {
            ("rediss", None) => return Err(wrong("REDIS_CA_FILE", "is not set, but REDIS_URL asks for TLS")),
            ("rediss", Some(path)) => Some(
                std::fs::read(path)
                    .map_err(|error| wrong("REDIS_CA_FILE", format!("{path} cannot be read: {error}")))?,
            ),
            _ => None,
        };
        Ok(Some(RedisOptions { url: SecretString::from(text), service, patience, authorities }))
    }

    /// The rate limits of a process whose instances count each other under this name. Needs a runtime.
    pub(crate) fn rate_limits(&self, service: &'static str) -> Result<RateLimits, ConfigError> {
        match self.redis(service)? {
            None => Ok(RateLimits::default()),
            Some(options) => RateLimits::shared(&options).map_err(|error| wrong("REDIS_URL", error.to_string())),
        }
    }

    fn trusted_proxies(&self) -> Result<Vec<Network>, ConfigError> {
        let blocks = self.text("TRUSTED_PROXIES").unwrap_or_default();
        let blocks = blocks.split(',').map(str::trim).filter(|block| !block.is_empty());
        blocks
            .map(|block| block.parse().map_err(|error| wrong("TRUSTED_PROXIES", format!("{block:?} {error}"))))
            .collect()
    }

    /// Everybody's pages are welcome on a developer's own machine only.
    fn origins(&self, name: &'static str, any: bool) -> Result<Origins, ConfigError> {
        match Origins::read(self.text(name).unwrap_or_default()) {
            None => Err(wrong(name, "is no list of origins such as https://app.example.com,http://localhost:3000")),
            Some(Origins::Any) if !any => {
                Err(wrong(name, "is *, which only `up` on loopback accepts; name the origins"))
            }
            Some(origins) => Ok(origins),
        }
    }

    /// The edge of a process; with `any`, everybody's pages may be welcome.
    pub(crate) fn edge(&self, limits: RateLimits, any: bool) -> Result<Edge, ConfigError> {
        let side = |origins, rate, window| {
            let (limit, window) = (self.quota(rate)?, self.window(window)?);
            let rate = (limit > 0).then_some(Rate { limit, window });
            Ok(Side { origins: self.origins(origins, any)?, rate, window })
        };
        Ok(Edge {
            limits,
            trusted: self.trusted_proxies()?,
            api: side("API_CORS_ORIGINS", "API_RATE_LIMIT_MAX_REQUESTS", "API_RATE_LIMIT_WINDOW_MS")?,
            gateway: side(
                "GATEWAY_CORS_ORIGINS",
                "GATEWAY_RATE_LIMIT_ADDRESS_REQUESTS",
                "GATEWAY_RATE_LIMIT_WINDOW_MS",
            )?,
        })
    }

    fn lost_calls(&self) -> Result<LostCalls, ConfigError> {
        let names = self.text("GATEWAY_ABSORB_LOST_ROUTES").unwrap_or_default();
        let mut names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.try_fold(LostCalls::default(), |policy, name| {
            let route = [Route::Platform, Route::DeveloperKey, Route::Byok].into_iter().find(|r| r.name() == name);
            let route =
                route.ok_or_else(|| wrong("GATEWAY_ABSORB_LOST_ROUTES", "names another route than there is"))?;
            Ok(policy.absorbing(route))
        })
    }

    pub(crate) fn session_ttl(&self) -> Result<Duration, ConfigError> {
        self.number("SESSION_TOKEN_TTL_SECONDS", 1..=2_592_000).map(Duration::from_secs)
    }

    pub(crate) fn queue(&self) -> Result<usize, ConfigError> {
        self.size("QUEUE_COMMANDS", 1..=10_000_000)
    }

    pub(crate) fn snapshot_every(&self) -> Result<i64, ConfigError> {
        let events = self.number("SNAPSHOT_EVERY_EVENTS", 1..=1_000_000_000)?;
        i64::try_from(events).map_err(|_| wrong("SNAPSHOT_EVERY_EVENTS", "is too large"))
    }

    pub(crate) fn query_pool(&self) -> Result<usize, ConfigError> {
        self.size("QUERY_POOL_SIZE", 1..=1_000)
    }

    pub(crate) fn min_position_wait(&self) -> Result<Duration, ConfigError> {
        self.number("MIN_POSITION_WAIT_MS", 0..=60_000).map(Duration::from_millis)
    }

    pub(crate) fn max_connections(&self) -> Result<usize, ConfigError> {
        self.size("MAX_CONNECTIONS", 1..=1_000_000)
    }

    pub(crate) fn max_connections_per_address(&self) -> Result<usize, ConfigError> {
        self.size("MAX_CONNECTIONS_PER_ADDRESS", 1..=1_000_000)
    }

    /// Level and whether JSON.
    pub(crate) fn log(&self) -> Result<(tracing_subscriber::EnvFilter, bool), ConfigError> {
        let level = self.text("LOG_LEVEL").unwrap_or("info");
        let filter = level.parse().map_err(|_| wrong("LOG_LEVEL", format!("{level:?} is not a level or directive")))?;
        match self.text("LOG_FORMAT") {
            Some("text") | None => Ok((filter, false)),
            Some("json") => Ok((filter, true)),
            Some(other) => Err(wrong("LOG_FORMAT", format!("{other:?} is neither text nor json"))),
        }
    }

    /// Where traces go, if anywhere.
    pub(crate) fn traces(&self) -> Result<Option<trace::Options>, ConfigError> {
        let share = self.text("OTEL_TRACES_SAMPLER_ARG").unwrap_or_default();
        let wrong_share = || wrong("OTEL_TRACES_SAMPLER_ARG", format!("{share:?} is not a number from 0 to 1"));
        let share = share.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(wrong_share)?;
        let Some(text) = self.text("OTEL_EXPORTER_OTLP_ENDPOINT") else { return Ok(None) };
        let url: Option<url::Url> = text.parse().ok().filter(|url: &url::Url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty()
        });
        let endpoint = url.ok_or_else(|| {
            wrong("OTEL_EXPORTER_OTLP_ENDPOINT", "must be http:// or https:// with a host and no user")
        })?;
        Ok(Some(trace::Options { endpoint, service: self.text("OTEL_SERVICE_NAME").map(str::to_owned), share }))
    }

    /// Checks every value, so that a wrong one stops the start and not the first request that needs it.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let listen = self.listen()?;
        self.database()?;
        self.admin_token()?;
        self.user_key()?;
        self.gateway_base_url(listen)?;
        self.platform()?;
        self.secrets_database()?;
        self.keyring()?;
        self.provider_urls()?;
        self.gateway_timeouts()?;
        self.gateway_limits()?;
        self.takeover_after()?;
        self.gateway_token()?;
        self.command_url()?;
        self.answers_key()?;
        self.answers_life()?;
        self.redis("")?;
        self.projector_broker()?;
        self.edge(RateLimits::default(), true)?;
        self.stripe_base()?;
        self.stripe_secret_key()?;
        self.stripe_webhook_secret()?;
        self.stripe_livemode()?;
        self.payout_threshold()?;
        self.payout_provider()?;
        self.session_ttl()?;
        self.queue()?;
        self.snapshot_every()?;
        self.query_pool()?;
        self.min_position_wait()?;
        self.max_connections()?;
        self.max_connections_per_address()?;
        self.backup_keep()?;
        self.backup_keep_days()?;
        self.log_signing_key()?;
        self.log()?;
        self.traces()?;
        Ok(())
    }
}

/// The environment's value, or the content of the file that `NAME_FILE` names.
fn from_environment(setting: &Setting) -> Result<Option<String>, ConfigError> {
    let value = std::env::var(setting.name).ok().filter(|value| !value.is_empty());
    if !setting.secret {
        return Ok(value);
    }
    let file_name = format!("{}_FILE", setting.name);
    match (value, std::env::var(&file_name).ok().filter(|path| !path.is_empty())) {
        (Some(_), Some(_)) => Err(wrong(setting.name, format!("is set and {file_name} too; set one of them"))),
        (value, None) => Ok(value),
        (None, Some(path)) => {
            let content = std::fs::read_to_string(Path::new(&path));
            let content = content.map_err(|error| wrong(&file_name, format!("{path} cannot be read: {error}")))?;
            Ok(Some(content.trim_end_matches(['\n', '\r']).to_owned()))
        }
    }
}

#[cfg(test)]
mod tests;
