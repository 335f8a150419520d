//! Every setting, in one place: name, unit, default, what it does. The environment is read here and nowhere else.
//!
//! A setting NAME whose value is secret may also come from a file: `NAME_FILE` names it. Flags win over the environment.

mod backup;
mod broker;
mod looks;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use modelfaucet_gateway::guard::{Network, Policy};
use modelfaucet_gateway::limit::{Quota, Rate, RateLimits, Rates, RedisOptions};
use modelfaucet_gateway::options::{Limits as GatewayLimits, LostCalls, Platform, Timeouts};
use modelfaucet_schema::event::Route;
use modelfaucet_schema::log::connection;
use modelfaucet_schema::money::Money;
use modelfaucet_secrets::Keyring;
use secrecy::SecretString;
use tokio_postgres::config::{Host, SslMode};

use crate::edge::{Edge, Origins, Side};
use crate::trace;
pub(crate) use looks::RedisPlace;

/// One setting.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    /// What it is counted in; empty for texts.
    pub(crate) unit: &'static str,
    /// What it is if it is not set; empty: nothing.
    pub(crate) default: &'static str,
    pub(crate) secret: bool,
    pub(crate) about: &'static str,
}

const fn setting(name: &'static str, unit: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting { name, unit, default, secret: false, about }
}

const fn secret(name: &'static str, about: &'static str) -> Setting {
    Setting { name, unit: "", default: "", secret: true, about }
}

/// Every setting.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "LISTEN",
        "address:port",
        "127.0.0.1:8080",
        "Where HTTP is served (flag --listen). Off loopback only behind an ingress with TLS.",
    ),
    setting("DATA_DIR", "path", "./data", "Where `up` keeps its PostgreSQL and its secrets (flag --data-dir)."),
    secret(
        "DATABASE_URL",
        "PostgreSQL to use instead of a private one (flag --database-url). For `up` and `migrate`: as a role that may create roles. For a single role: as that role, for example ledger_command. Off loopback only with DATABASE_CA_FILE.",
    ),
    setting(
        "DATABASE_CA_FILE",
        "path",
        "",
        "PEM file of the authorities that vouch for PostgreSQL. With it every connection over TCP uses TLS and checks the server's certificate and name.",
    ),
    secret("ADMIN_TOKEN", "The administrator's token, at least 32 characters. `up` makes one if there is none."),
    secret(
        "STAFF_TOKEN",
        "For tools on the database, such as `modelfaucet projection`: who is at the keyboard, as a staff token. Absent: the user of the operating system, which proves nothing.",
    ),
    secret(
        "USER_ID_HMAC_KEY",
        "Key of the HMAC that stands for apps' own user ids, at least 32 characters. Never change it: users would get new wallets. `up` makes one if there is none.",
    ),
    secret(
        "SECRET_ENCRYPTION_KEY",
        "What provider keys are encrypted with, at least 32 random characters. Several, divided by blanks or line ends, as ID:KEY: the first one encrypts, all decrypt (`modelfaucet keys`). `up` makes one if there is none. Whoever loses it loses the provider keys.",
    ),
    secret(
        "SECRETS_DATABASE_URL",
        "For `command` and `gateway` as single roles, and `modelfaucet keys`: the database as ledger_secrets. Absent: no provider keys are taken or used. Off loopback only with DATABASE_CA_FILE.",
    ),
    setting(
        "PROVIDER_URL_PORTS",
        "ports",
        "",
        "Ports beside 443 that addresses of users' and developers' providers may name, divided by commas.",
    ),
    setting(
        "PROVIDER_URL_REFUSED_NETWORKS",
        "blocks of addresses",
        "",
        "Public addresses that those may not lead to: your own networks and NAT64 prefixes, such as 198.51.0.0/16,64:ff9b:2::/96.",
    ),
    setting(
        "PROVIDER_URL_LOOPBACK",
        "addresses and ports",
        "",
        "For tests on one machine: addresses on loopback that those may name, in plain text too, such as 127.0.0.1:4010. Whoever may store a provider key reaches what listens there, so it is refused unless LISTEN is on loopback.",
    ),
    setting(
        "PG_BINDIR",
        "path",
        "",
        "Directory of initdb and postgres, for the private PostgreSQL; absent: the newest one found.",
    ),
    setting(
        "GATEWAY_BASE_URL",
        "URL",
        "",
        "Where clients find the gateway; part of the session reply. Absent: http://LISTEN/v1.",
    ),
    setting(
        "LITELLM_BASE_URL",
        "URL",
        "",
        "Where the gateway sends platform calls: LiteLLM or another OpenAI-compatible API, with or without /v1. Absent: `up` starts a sandbox provider that makes answers up.",
    ),
    setting(
        "COMMAND_URL",
        "URL",
        "",
        "Where a gateway without a database finds the command side, such as http://127.0.0.1:8080 (flag --command-url). Plain HTTP on loopback only. Absent: the gateway has a writer of its own.",
    ),
    secret(
        "GATEWAY_TOKEN",
        "The token of gateways without a database, at least 32 characters. Given to `command` or `up`, these serve them.",
    ),
    secret("LITELLM_MASTER_KEY", "The key for LITELLM_BASE_URL."),
    setting(
        "PROVIDER_TIMEOUT_MS",
        "milliseconds",
        "",
        "How long the first byte of an answer may take; absent: 60000 for streams, 300000 otherwise.",
    ),
    setting(
        "PROVIDER_MAX_RETRIES",
        "tries",
        "1",
        "How often a failed call is sent again to the same target before its first byte, 0 to 2.",
    ),
    setting("GATEWAY_MAX_ATTEMPTS", "tries", "3", "How often a call is sent in all, fallbacks included, 1 to 10."),
    setting("PROVIDER_RETRY_DELAY_MS", "milliseconds", "250", "Pause before the second try; doubles from try to try."),
    setting(
        "GATEWAY_IDLE_TIMEOUT_MS",
        "milliseconds",
        "60000",
        "How long a stream may be silent; comments do not count.",
    ),
    setting("GATEWAY_TOTAL_TIMEOUT_MS", "milliseconds", "600000", "How long a whole call may take."),
    setting(
        "GATEWAY_DRAIN_TIMEOUT_MS",
        "milliseconds",
        "120000",
        "How long an answer is read on after its client has gone.",
    ),
    setting(
        "GATEWAY_MARK_INTERVAL_MS",
        "milliseconds",
        "10000",
        "How often a long stream leaves a mark in the log, by which it is charged if the gateway dies.",
    ),
    setting(
        "GATEWAY_ABSORB_LOST_ROUTES",
        "routes",
        "",
        "Routes whose calls are given back if their gateway dies, whatever their marks say: platform, developer_key, byok, with commas between.",
    ),
    setting(
        "GATEWAY_DEFAULT_MAX_TOKENS",
        "tokens",
        "4096",
        "Output cap of requests that name none, where the feature names none either.",
    ),
    setting(
        "GATEWAY_TAKEOVER_MS",
        "milliseconds",
        "30000",
        "How long another gateway must have been away before this one ends its holds.",
    ),
    setting("GATEWAY_MAX_CALLS", "calls", "10000", "Calls at once; more are refused with 503."),
    setting("GATEWAY_MAX_STREAMS", "streams", "10000", "Streams among them; more are refused with 503."),
    setting(
        "GATEWAY_MEMORY_BYTES",
        "bytes",
        "268435456",
        "Memory for whole answers and large events, all calls together; at this new calls are refused with 503.",
    ),
    setting(
        "GATEWAY_STORED_ANSWERS_BYTES",
        "bytes",
        "67108864",
        "Memory for answers that are repeated to the same idempotency key.",
    ),
    setting("GATEWAY_STORED_ANSWERS_HOURS", "hours", "24", "How long answers are kept for repeats, over restarts too."),
    secret(
        "GATEWAY_ANSWERS_KEY",
        "Key that seals kept answers, at least 32 characters, the same for all gateways of a ledger. `up` makes one if there is none; a gateway alone without it keeps answers in memory only.",
    ),
    setting(
        "GATEWAY_RATE_LIMIT_MAX_REQUESTS",
        "requests",
        "1200",
        "Calls of one session per window; 0: no limit. So with all of these.",
    ),
    setting(
        "GATEWAY_RATE_LIMIT_MAX_TOKENS",
        "tokens",
        "0",
        "Tokens of one session per window: the bound of a call when it begins, what it used when it has ended.",
    ),
    setting("GATEWAY_RATE_LIMIT_USER_REQUESTS", "requests", "0", "Calls of one user per window, over all sessions."),
    setting("GATEWAY_RATE_LIMIT_USER_TOKENS", "tokens", "0", "Tokens of one user per window."),
    setting("GATEWAY_RATE_LIMIT_APP_REQUESTS", "requests", "0", "Calls of one app per window, over all users."),
    setting("GATEWAY_RATE_LIMIT_APP_TOKENS", "tokens", "0", "Tokens of one app per window."),
    setting(
        "GATEWAY_RATE_LIMIT_ADDRESS_REQUESTS",
        "requests",
        "12000",
        "Requests of one address to the gateway per window, before anybody asks who it is. Loopback is not limited.",
    ),
    setting("GATEWAY_RATE_LIMIT_WINDOW_MS", "milliseconds", "60000", "The window of the gateway's limits."),
    setting(
        "API_RATE_LIMIT_MAX_REQUESTS",
        "requests",
        "1200",
        "Requests of one address to one route of the API per window; 0: no limit. Loopback is not limited.",
    ),
    setting("API_RATE_LIMIT_WINDOW_MS", "milliseconds", "60000", "The window of the API's limit."),
    secret(
        "REDIS_URL",
        "Redis in which instances share their rate limits (flag --redis-url), such as redis://127.0.0.1:6379. Absent, or away: each counts for itself. Off loopback only with rediss:// and REDIS_CA_FILE.",
    ),
    setting("REDIS_CA_FILE", "path", "", "PEM file of the authorities that vouch for a Redis behind rediss://."),
    setting("REDIS_TIMEOUT_MS", "milliseconds", "20", "How long a request waits for Redis."),
    secret(
        "AMQP_URL",
        "RabbitMQ to which `relay`, `projector` and `up` publish the log, such as amqp://user:password@127.0.0.1:5672/%2f. Absent: nothing is published. Off loopback only with amqps:// and AMQP_CA_FILE.",
    ),
    setting("AMQP_CA_FILE", "path", "", "PEM file of the authorities that vouch for a RabbitMQ behind amqps://."),
    setting(
        "PROJECTOR_FEED",
        "",
        "log",
        "Where `projector` takes events from: log, or amqp (needs AMQP_URL; the log is still read for whatever the broker does not bring).",
    ),
    setting(
        "PROJECTOR_QUEUE",
        "",
        "modelfaucet.projector",
        "The queue of projectors that are fed by the broker. Those on one queue take turns: one gets all messages.",
    ),
    setting(
        "TRUSTED_PROXIES",
        "blocks",
        "",
        "Whose X-Forwarded-For is believed, such as 127.0.0.1/32,10.0.0.0/8. Absent: nobody's.",
    ),
    setting(
        "GATEWAY_CORS_ORIGINS",
        "origins",
        "",
        "Whose pages may call the gateway from a browser, such as https://app.example.com,http://localhost:3000. * is everybody, for `up` on loopback only.",
    ),
    setting("API_CORS_ORIGINS", "origins", "", "Whose pages may call the API from a browser; as GATEWAY_CORS_ORIGINS."),
    secret(
        "STRIPE_SECRET_KEY",
        "Stripe's secret key, for checkouts, refunds and sweeps. Absent: checkouts and refunds are refused.",
    ),
    secret(
        "STRIPE_WEBHOOK_SECRET",
        "What Stripe signs its webhooks with (whsec_…). Absent: the endpoint /v1/stripe/webhook does not exist.",
    ),
    setting(
        "STRIPE_API_BASE_URL",
        "URL",
        "https://api.stripe.com",
        "Where Stripe's API is; plain HTTP on loopback only.",
    ),
    setting(
        "STRIPE_LIVEMODE",
        "",
        "",
        "true or false: the mode whose events are taken. Absent: true if the secret key is a live one.",
    ),
    setting(
        "STRIPE_ACCOUNT_ID",
        "",
        "",
        "The connected account (acct_…) whose events are taken; absent: only events of the own account.",
    ),
    setting(
        "PAYOUT_THRESHOLD_USD",
        "USD",
        "1.00000000",
        "What a developer must be owed for a payout run to request a payout.",
    ),
    setting(
        "PAYOUT_PROVIDER",
        "",
        "mock",
        "Who pays developers out unless a request names another: mock (pays nothing), or bank (a file that a person carries to the bank).",
    ),
    setting("SESSION_TOKEN_TTL_SECONDS", "seconds", "3600", "Life of a session, 1 to 2592000."),
    setting(
        "QUEUE_COMMANDS",
        "commands",
        "65536",
        "How many commands may wait for the writer; more are refused with 503.",
    ),
    setting(
        "SNAPSHOT_EVERY_EVENTS",
        "events",
        "100000",
        "How often the writer's state is saved, so that a cold start is short.",
    ),
    setting("QUERY_POOL_SIZE", "connections", "8", "Database connections for reading."),
    setting("MIN_POSITION_WAIT_MS", "milliseconds", "2000", "How long a read waits for its min_position."),
    setting("MAX_CONNECTIONS", "connections", "1024", "Open HTTP connections."),
    setting(
        "MAX_CONNECTIONS_PER_ADDRESS",
        "connections",
        "64",
        "Open HTTP connections of one address; loopback is not limited.",
    ),
    setting(
        "BACKUP_DIR",
        "path",
        "",
        "Repository of backups, on another disk or host and encrypted there (docs/BACKUP.md). With it `up` copies the WAL and witnesses the log's head. Absent: no backups.",
    ),
    setting("BACKUP_KEEP", "base backups", "7", "How many base backups `backup run` keeps at least."),
    setting("BACKUP_KEEP_DAYS", "days", "7", "How long `backup run` keeps every base backup and its WAL."),
    setting(
        "HEADS_DIR",
        "path",
        "",
        "Where seen heads of the log are kept. A writer that is given it refuses a log that ends below them, exit 6. Absent: BACKUP_DIR/heads.",
    ),
    secret(
        "LOG_SIGNING_KEY",
        "What `log head` signs with, at least 32 random characters; absent: the key that `log key` keeps in DATA_DIR/secrets.",
    ),
    setting(
        "LOG_LEVEL",
        "",
        "info",
        "error, warn, info, debug or trace; also directives such as warn,modelfaucet_command=debug.",
    ),
    setting("LOG_FORMAT", "", "text", "text or json, on standard error."),
    setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "URL",
        "",
        "OpenTelemetry collector that takes traces as OTLP over HTTP, for example http://127.0.0.1:4318. Absent: no traces.",
    ),
    setting("OTEL_SERVICE_NAME", "", "", "Name of this process in traces; absent: modelfaucet-ROLE."),
    setting("OTEL_TRACES_SAMPLER_ARG", "share", "1", "Share of requests that are traced, 0 to 1."),
];

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

    pub(crate) fn gateway_base_url(&self, listen: SocketAddr) -> Result<String, ConfigError> {
        let url = self.text("GATEWAY_BASE_URL").map_or_else(|| format!("http://{listen}/v1"), str::to_owned);
        if url.starts_with("http://") || url.starts_with("https://") {
            Ok(url)
        } else {
            Err(wrong("GATEWAY_BASE_URL", "must begin with http:// or https://"))
        }
    }

    /// Where platform calls go, if that is set.
    pub(crate) fn platform(&self) -> Result<Option<Platform>, ConfigError> {
        let key = self.text("LITELLM_MASTER_KEY").map(SecretString::from);
        let Some(text) = self.text("LITELLM_BASE_URL") else { return Ok(None) };
        let base_url: url::Url = text.parse().map_err(|_| wrong("LITELLM_BASE_URL", "is not a URL"))?;
        let plain = matches!(base_url.scheme(), "http" | "https")
            && base_url.host().is_some()
            && base_url.username().is_empty()
            && base_url.password().is_none()
            && base_url.query().is_none();
        if plain {
            Ok(Some(Platform { base_url, key }))
        } else {
            Err(wrong("LITELLM_BASE_URL", "must be http:// or https:// with a host and without user or query"))
        }
    }

    /// Where Stripe's API is.
    pub(crate) fn stripe_base(&self) -> Result<url::Url, ConfigError> {
        let name = "STRIPE_API_BASE_URL";
        let text = self.text(name).unwrap_or("https://api.stripe.com");
        let base: url::Url = text.parse().map_err(|_| wrong(name, "is not a URL"))?;
        let is_near = match base.host() {
            Some(url::Host::Domain(domain)) => domain == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let plain = base.username().is_empty() && base.password().is_none() && base.query().is_none();
        match base.scheme() {
            "https" if plain && base.host().is_some() => Ok(base),
            "http" if plain && is_near => Ok(base),
            _ => Err(wrong(name, "must be https://, or http:// on loopback, without user or query")),
        }
    }

    pub(crate) fn stripe_secret_key(&self) -> Result<Option<SecretString>, ConfigError> {
        self.visible_secret("STRIPE_SECRET_KEY")
    }

    pub(crate) fn stripe_webhook_secret(&self) -> Result<Option<SecretString>, ConfigError> {
        self.visible_secret("STRIPE_WEBHOOK_SECRET")
    }

    /// A secret whose length somebody else has chosen, but not one that anybody could guess.
    fn visible_secret(&self, name: &'static str) -> Result<Option<SecretString>, ConfigError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        if value.len() < 16 || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(name, "needs at least 16 visible ASCII characters"));
        }
        Ok(Some(SecretString::from(value)))
    }

    /// Is it about real money?
    pub(crate) fn stripe_livemode(&self) -> Result<bool, ConfigError> {
        match self.text("STRIPE_LIVEMODE") {
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(wrong("STRIPE_LIVEMODE", "is neither true nor false")),
            None => Ok(self.text("STRIPE_SECRET_KEY").is_some_and(|key| key.contains("_live_"))),
        }
    }

    pub(crate) fn stripe_account(&self) -> Option<String> {
        self.text("STRIPE_ACCOUNT_ID").map(str::to_owned)
    }

    pub(crate) fn payout_threshold(&self) -> Result<Money, ConfigError> {
        let name = "PAYOUT_THRESHOLD_USD";
        let amount = Money::parse_request(self.text(name).unwrap_or("1.00000000"));
        match amount {
            Ok(amount) if amount.is_positive() => Ok(amount),
            _ => Err(wrong(name, "is not an amount above zero such as 1.00")),
        }
    }

    /// The provider that pays developers out unless a request names another.
    pub(crate) fn payout_provider(&self) -> Result<&str, ConfigError> {
        match self.text("PAYOUT_PROVIDER") {
            None => Ok("mock"),
            Some(name @ ("mock" | "bank")) => Ok(name),
            Some(other) => Err(wrong("PAYOUT_PROVIDER", format!("{other:?} is neither mock nor bank"))),
        }
    }

    /// How long things may take in the gateway.
    pub(crate) fn gateway_timeouts(&self) -> Result<Timeouts, ConfigError> {
        let day = 86_400_000;
        let milliseconds = |name| self.number(name, 1..=day).map(Duration::from_millis);
        let defaults = Timeouts::default();
        let first_byte = match self.text("PROVIDER_TIMEOUT_MS") {
            None => None,
            Some(_) => Some(milliseconds("PROVIDER_TIMEOUT_MS")?),
        };
        Ok(Timeouts {
            first_byte: first_byte.unwrap_or(defaults.first_byte),
            first_byte_stream: first_byte.unwrap_or(defaults.first_byte_stream),
            idle: milliseconds("GATEWAY_IDLE_TIMEOUT_MS")?,
            total: milliseconds("GATEWAY_TOTAL_TIMEOUT_MS")?,
            drain: milliseconds("GATEWAY_DRAIN_TIMEOUT_MS")?,
            retry_delay: milliseconds("PROVIDER_RETRY_DELAY_MS")?,
            mark: milliseconds("GATEWAY_MARK_INTERVAL_MS")?,
            ..defaults
        })
    }

    pub(crate) fn gateway_token(&self) -> Result<Option<SecretString>, ConfigError> {
        self.long_secret("GATEWAY_TOKEN")
    }

    /// Where the command side is, for a gateway that has none in its process.
    pub(crate) fn command_url(&self) -> Result<Option<url::Url>, ConfigError> {
        let Some(text) = self.text("COMMAND_URL") else { return Ok(None) };
        let url: url::Url = text.parse().map_err(|_| wrong("COMMAND_URL", "is not a URL"))?;
        let near = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        match url.scheme() {
            "https" if plain => Ok(Some(url)),
            "http" if plain && near => Ok(Some(url)),
            "http" if plain => Err(wrong("COMMAND_URL", "is plain HTTP to another machine; use https://")),
            _ => Err(wrong("COMMAND_URL", "must be http:// or https:// with a host and without user or query")),
        }
    }

    pub(crate) fn answers_key(&self) -> Result<Option<SecretString>, ConfigError> {
        self.long_secret("GATEWAY_ANSWERS_KEY")
    }

    pub(crate) fn answers_life(&self) -> Result<Duration, ConfigError> {
        self.number("GATEWAY_STORED_ANSWERS_HOURS", 1..=8_760).map(|hours| Duration::from_secs(hours * 3_600))
    }

    pub(crate) fn takeover_after(&self) -> Result<Duration, ConfigError> {
        self.number("GATEWAY_TAKEOVER_MS", 1..=86_400_000).map(Duration::from_millis)
    }

    /// How much and how large things may be in the gateway.
    pub(crate) fn gateway_limits(&self) -> Result<GatewayLimits, ConfigError> {
        let retries = self.number("PROVIDER_MAX_RETRIES", 0..=2)?;
        Ok(GatewayLimits {
            attempts: u32::try_from(self.number("GATEWAY_MAX_ATTEMPTS", 1..=10)?).unwrap_or(1),
            tries: u32::try_from(retries).unwrap_or(2) + 1,
            lost: self.lost_calls()?,
            default_cap: self.number("GATEWAY_DEFAULT_MAX_TOKENS", 1..=10_000_000)?,
            calls: self.size("GATEWAY_MAX_CALLS", 1..=1_000_000)?,
            streams: self.size("GATEWAY_MAX_STREAMS", 1..=1_000_000)?,
            memory: self.size("GATEWAY_MEMORY_BYTES", 1 << 20..=1 << 40)?,
            stored_answers: self.size("GATEWAY_STORED_ANSWERS_BYTES", 0..=1 << 40)?,
            rates: self.gateway_rates()?,
            ..GatewayLimits::default()
        })
    }

    fn quota(&self, name: &'static str) -> Result<u64, ConfigError> {
        self.number(name, 0..=1_000_000_000_000)
    }

    fn window(&self, name: &'static str) -> Result<Duration, ConfigError> {
        self.number(name, 1..=86_400_000).map(Duration::from_millis)
    }

    fn gateway_rates(&self) -> Result<Rates, ConfigError> {
        let quota = |requests, tokens| Ok(Quota { requests: self.quota(requests)?, tokens: self.quota(tokens)? });
        Ok(Rates {
            window: self.window("GATEWAY_RATE_LIMIT_WINDOW_MS")?,
            session: quota("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "GATEWAY_RATE_LIMIT_MAX_TOKENS")?,
            user: quota("GATEWAY_RATE_LIMIT_USER_REQUESTS", "GATEWAY_RATE_LIMIT_USER_TOKENS")?,
            app: quota("GATEWAY_RATE_LIMIT_APP_REQUESTS", "GATEWAY_RATE_LIMIT_APP_TOKENS")?,
        })
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

/// The text of `modelfaucet help config`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Settings come from the environment; a flag of the same name wins. A secret may come from a file instead:\nNAME_FILE names it.\n",
    );
    for setting in SETTINGS {
        let mut facts = Vec::new();
        if !setting.unit.is_empty() {
            facts.push(setting.unit.to_owned());
        }
        if !setting.default.is_empty() {
            facts.push(format!("default {}", setting.default));
        }
        if setting.secret {
            facts.push("secret".to_owned());
        }
        let _infallible = writeln!(
            text,
            "\n  {}{}",
            setting.name,
            if facts.is_empty() { String::new() } else { format!("  ({})", facts.join(", ")) }
        );
        let _infallible = writeln!(text, "      {}", setting.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(values: &[(&'static str, &str)]) -> Config {
        Config { values: values.iter().map(|(name, value)| (*name, (*value).to_owned())).collect() }
    }

    #[test]
    fn the_defaults_are_right() {
        let config = config(&[]);
        config.check().unwrap();
        assert_eq!(config.listen().unwrap().port(), 8_080);
        assert_eq!(config.session_ttl().unwrap(), Duration::from_secs(3_600));
        assert!(config.database().unwrap().is_none());
        assert!(config.admin_token().unwrap().is_none());
    }

    #[test]
    fn a_wrong_value_is_one_clear_line() {
        for (name, value) in [
            ("LISTEN", "8080"),
            ("DATABASE_URL", "mysql://x"),
            ("DATABASE_URL", "postgres://ledger@db.example.com/ledger"),
            ("ADMIN_TOKEN", "short"),
            ("GATEWAY_ANSWERS_KEY", "short"),
            ("GATEWAY_TOKEN", "short"),
            ("COMMAND_URL", "http://ledger.example.com"),
            ("COMMAND_URL", "127.0.0.1:8080"),
            ("COMMAND_URL", "https://user@ledger.example.com"),
            ("GATEWAY_STORED_ANSWERS_HOURS", "0"),
            ("USER_ID_HMAC_KEY", "has blanks in it but is long enough otherwise"),
            ("GATEWAY_BASE_URL", "ftp://x"),
            ("LITELLM_BASE_URL", "localhost:4000"),
            ("LITELLM_BASE_URL", "http://user:secret@localhost"),
            ("SECRET_ENCRYPTION_KEY", "change-me"),
            ("SECRETS_DATABASE_URL", "postgres://ledger_secrets@db.example.com/ledger"),
            ("PROVIDER_URL_PORTS", "443,0"),
            ("PROVIDER_URL_REFUSED_NETWORKS", "10.0.0.1/8"),
            ("PROVIDER_URL_LOOPBACK", "10.0.0.1:443"),
            ("PROVIDER_URL_LOOPBACK", "localhost:4010"),
            ("PROVIDER_MAX_RETRIES", "3"),
            ("GATEWAY_MAX_ATTEMPTS", "0"),
            ("GATEWAY_MARK_INTERVAL_MS", "0"),
            ("GATEWAY_ABSORB_LOST_ROUTES", "platform, moon"),
            ("PROVIDER_TIMEOUT_MS", "0"),
            ("GATEWAY_IDLE_TIMEOUT_MS", "soon"),
            ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "-1"),
            ("GATEWAY_RATE_LIMIT_WINDOW_MS", "0"),
            ("REDIS_URL", "localhost:6379"),
            ("REDIS_URL", "redis://:password@redis.example.com"),
            ("REDIS_URL", "http://127.0.0.1:6379"),
            ("REDIS_TIMEOUT_MS", "0"),
            ("AMQP_URL", "rabbit:5672"),
            ("AMQP_URL", "amqp://ledger:password@broker.example.com"),
            ("PROJECTOR_FEED", "amqp"),
            ("PROJECTOR_FEED", "pigeon"),
            ("PROJECTOR_QUEUE", "two words"),
            ("TRUSTED_PROXIES", "127.0.0.1"),
            ("GATEWAY_CORS_ORIGINS", "app.example.com"),
            ("API_CORS_ORIGINS", "https://app.example.com/path"),
            ("STRIPE_SECRET_KEY", "sk_test_short"),
            ("STRIPE_WEBHOOK_SECRET", "whsec_with a blank in it"),
            ("STRIPE_API_BASE_URL", "http://api.stripe.com"),
            ("STRIPE_API_BASE_URL", "https://key@api.stripe.com"),
            ("STRIPE_LIVEMODE", "yes"),
            ("PAYOUT_THRESHOLD_USD", "0"),
            ("PAYOUT_THRESHOLD_USD", "-1"),
            ("PAYOUT_PROVIDER", "cheque"),
            ("SESSION_TOKEN_TTL_SECONDS", "0"),
            ("SESSION_TOKEN_TTL_SECONDS", "an hour"),
            ("QUEUE_COMMANDS", "-1"),
            ("SNAPSHOT_EVERY_EVENTS", "0"),
            ("QUERY_POOL_SIZE", "0"),
            ("MIN_POSITION_WAIT_MS", "1e3"),
            ("MAX_CONNECTIONS", ""),
            ("LOG_LEVEL", "=loud="),
            ("LOG_FORMAT", "xml"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ] {
            if value.is_empty() {
                continue;
            }
            let error = config(&[(name, value)]).check().unwrap_err().to_string();
            assert!(error.starts_with(name) && !error.contains('\n'), "{error}");
            let secret = SETTINGS.iter().any(|setting| setting.name == name && setting.secret);
            assert!(!secret || !error.contains(value), "a secret is not quoted: {error}");
        }
    }

    #[test]
    fn off_this_machine_the_database_is_reached_with_tls_only() {
        let far = ("DATABASE_URL", "postgres://ledger_query@db.example.com/ledger");
        assert!(config(&[far]).database().is_err());
        let database = config(&[far, ("DATABASE_CA_FILE", "/ca.pem")]).database().unwrap().unwrap();
        assert_eq!(database.get_ssl_mode(), SslMode::Require);
        let near = ("DATABASE_URL", "postgres://ledger_query@%2Frun%2Fpostgresql/ledger");
        let database = config(&[near, ("DATABASE_CA_FILE", "/ca.pem")]).database().unwrap().unwrap();
        assert_eq!(database.get_ssl_mode(), SslMode::Prefer, "a Unix socket has no TLS");
    }

    #[test]
    fn off_this_machine_redis_is_reached_with_tls_only() {
        let url = ("REDIS_URL", "rediss://ledger:password@redis.example.com:6379");
        let error = config(&[url]).check().unwrap_err().to_string();
        assert!(error.starts_with("REDIS_CA_FILE: is not set"), "{error}");
        let error = config(&[url, ("REDIS_CA_FILE", "/nowhere/ca.pem")]).check().unwrap_err().to_string();
        assert!(error.starts_with("REDIS_CA_FILE: /nowhere/ca.pem cannot be read"), "{error}");
        let near = config(&[("REDIS_URL", "redis://127.0.0.1:6379")]).redis("").unwrap().unwrap();
        assert!(near.authorities.is_none());
    }

    #[test]
    fn authorities_that_cannot_be_read_stop_the_start() {
        let error = config(&[("DATABASE_CA_FILE", "/nowhere/ca.pem")]).trust().unwrap_err().to_string();
        assert!(error.starts_with("DATABASE_CA_FILE: /nowhere/ca.pem cannot be read"), "{error}");
    }

    #[test]
    fn everybodys_pages_are_welcome_on_a_developers_machine_only() {
        let config = config(&[("API_CORS_ORIGINS", "*")]);
        assert!(config.edge(RateLimits::default(), true).is_ok());
        let error = config.edge(RateLimits::default(), false).unwrap_err().to_string();
        assert!(error.starts_with("API_CORS_ORIGINS: is *"), "{error}");
    }

    #[test]
    fn providers_on_loopback_are_for_servers_on_loopback() {
        let named = ("PROVIDER_URL_LOOPBACK", "127.0.0.1:4010, [::1]:4011");
        assert_eq!(config(&[named]).provider_urls().unwrap().loopback.len(), 2);
        let error = config(&[named, ("LISTEN", "0.0.0.0:8080")]).check().unwrap_err().to_string();
        assert!(error.starts_with("PROVIDER_URL_LOOPBACK"), "{error}");
        assert!(config(&[("LISTEN", "0.0.0.0:8080")]).check().is_ok());
    }

    #[test]
    fn every_setting_is_documented() {
        let text = help();
        for setting in SETTINGS {
            assert!(text.contains(setting.name) && setting.about.ends_with('.'), "{}", setting.name);
        }
    }
}
