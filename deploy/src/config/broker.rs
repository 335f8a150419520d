//! Settings of the broker.

use modelfaucet_projector::broker::BrokerOptions;
use secrecy::SecretString;

use super::{Config, ConfigError, wrong};

impl Config {
    /// Where the broker is, if that is set.
    pub(crate) fn broker(&self) -> Result<Option<BrokerOptions>, ConfigError> {
        let queue = self.text("PROJECTOR_QUEUE").unwrap_or_default();
        let plain = |character: char| character.is_ascii_alphanumeric() || ".-_".contains(character);
        if queue.len() > 200 || !queue.chars().all(plain) {
            return Err(wrong("PROJECTOR_QUEUE", "may have letters, digits, dots and dashes, at most 200"));
        }
        let Some(url) = self.text("AMQP_URL") else { return Ok(None) };
        let authorities = match self.text("AMQP_CA_FILE") {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| wrong("AMQP_CA_FILE", format!("{path} cannot be read: {error}")))?,
            ),
        };
        BrokerOptions::new(SecretString::from(url), authorities, queue)
            .map(Some)
            .map_err(|error| wrong("AMQP_URL", error.to_string()))
    }

    /// The broker, for commands that need one.
    pub(crate) fn required_broker(&self) -> Result<BrokerOptions, ConfigError> {
        self.broker()?.ok_or_else(|| wrong("AMQP_URL", "is not set"))
    }

    /// The broker that feeds projectors, if it does.
    pub(crate) fn projector_broker(&self) -> Result<Option<BrokerOptions>, ConfigError> {
        let broker = self.broker()?;
        match self.text("PROJECTOR_FEED") {
            Some("log") | None => Ok(None),
            Some("amqp") if broker.is_none() => Err(wrong("PROJECTOR_FEED", "is amqp, but AMQP_URL is not set")),
            Some("amqp") => Ok(broker),
            Some(other) => Err(wrong("PROJECTOR_FEED", format!("{other:?} is neither log nor amqp"))),
        }
    }
}
