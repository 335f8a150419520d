//! Settings of payments: Stripe, and payouts to developers.

use modelfaucet_schema::money::Money;
use secrecy::SecretString;

use super::{Config, ConfigError, wrong};

impl Config {
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
}
