//! Settings of the gateway, and of the way from it to the command side.

use std::net::SocketAddr;
use std::time::Duration;

use modelfaucet_gateway::limit::{Quota, Rates};
use modelfaucet_gateway::options::{Limits as GatewayLimits, Platform, Timeouts};
use secrecy::SecretString;

use super::{Config, ConfigError, wrong};

impl Config {
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

    fn gateway_rates(&self) -> Result<Rates, ConfigError> {
        let quota = |requests, tokens| Ok(Quota { requests: self.quota(requests)?, tokens: self.quota(tokens)? });
        Ok(Rates {
            window: self.window("GATEWAY_RATE_LIMIT_WINDOW_MS")?,
            session: quota("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "GATEWAY_RATE_LIMIT_MAX_TOKENS")?,
            user: quota("GATEWAY_RATE_LIMIT_USER_REQUESTS", "GATEWAY_RATE_LIMIT_USER_TOKENS")?,
            app: quota("GATEWAY_RATE_LIMIT_APP_REQUESTS", "GATEWAY_RATE_LIMIT_APP_TOKENS")?,
        })
    }
}
