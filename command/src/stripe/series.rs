//! Metrics of what comes from Stripe: alerts compare these times with the clock.

use modelfaucet_schema::time::Timestamp;

use super::{PROVIDER, Stripe};

impl Stripe {
    /// Shows every series from the start. An event counts as received when the process begins: how long it then waits is known, what
    /// came before is not.
    pub async fn begin_series(&self) {
        if self.webhook_secret.is_none() && self.client.is_none() {
            return;
        }
        received();
        match self.inbox.swept_until("transactions").await {
            Ok(until) => compared(until.unwrap_or(0)),
            Err(error) => tracing::warn!(%error, "when Stripe was last swept is not shown"),
        }
    }
}

/// An event of Stripe came, signed and of our account.
#[expect(clippy::cast_precision_loss, reason = "seconds of the clock")]
pub(crate) fn received() {
    let now = Timestamp::now().micros() as f64 / 1e6;
    metrics::gauge!("modelfaucet_webhook_last_received_timestamp_seconds", "provider" => PROVIDER).set(now);
}

/// Stripe's own record is in the books up to here, in seconds of Unix time; 0: never.
#[expect(clippy::cast_precision_loss, reason = "seconds of the clock")]
pub(crate) fn compared(until: i64) {
    metrics::gauge!("modelfaucet_recon_last_success_timestamp_seconds", "source" => PROVIDER).set(until as f64);
}
