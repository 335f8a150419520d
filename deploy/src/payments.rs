//! Payment and payout providers as configured, and `modelfaucet stripe`.

mod sweep;

use std::sync::Arc;

use modelfaucet_command::payout::{BankFile, MockProvider, PayoutProvider};
use modelfaucet_command::stripe::{Inbox, Stripe, StripeClient};

use crate::config::{Config, ConfigError};
use crate::exit::{Exit, Failure};

/// Stripe as configured; what it tells is kept in this database, as the role `ledger_command`.
pub(crate) async fn stripe(config: &Config, database: &tokio_postgres::Config) -> Result<Arc<Stripe>, Failure> {
    let stripe = Stripe {
        client: client(config)?,
        webhook_secret: config.stripe_webhook_secret()?,
        livemode: config.stripe_livemode()?,
        account: config.stripe_account(),
        inbox: Inbox::new(database.clone()),
    };
    stripe.begin_series().await;
    Ok(Arc::new(stripe))
}

fn client(config: &Config) -> Result<Option<StripeClient>, Failure> {
    let base = config.stripe_base()?;
    let client = config.stripe_secret_key()?.map(|key| StripeClient::new(&base, &key)).transpose();
    client.map_err(|error| Failure::new(Exit::Config, format!("STRIPE_SECRET_KEY: {error}")))
}

/// Who pays developers out, the default first.
pub(crate) fn payout_providers(config: &Config) -> Result<Arc<[Arc<dyn PayoutProvider>]>, ConfigError> {
    let (mock, bank): (Arc<dyn PayoutProvider>, Arc<dyn PayoutProvider>) = (Arc::new(MockProvider), Arc::new(BankFile));
    Ok(if config.payout_provider()? == "bank" { [bank, mock] } else { [mock, bank] }.into())
}

/// What to do with Stripe.
#[derive(clap::Subcommand)]
pub(crate) enum StripeVerb {
    /// Fetch events and movements of the balance that the ledger has not seen, and work on what is not finished
    Sweep(sweep::SweepArgs),
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &StripeVerb) -> Result<Exit, Failure> {
    match verb {
        StripeVerb::Sweep(args) => crate::runtime()?.block_on(sweep::run(args)),
    }
}
