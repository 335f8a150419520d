//! Figures of the books for alerts: accounts that are zero when everything is told, and payments on which the two sources differ. Looked
//! up every few seconds by index, whatever scrapes; a log of millions makes it no slower.

use std::time::Duration;

use crate::error::QueryError;
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;
use crate::tenant::Tenant;

/// How often.
const EVERY: Duration = Duration::from_secs(5);
/// The accounts in which two sources meet, or money is on its way: what is in them has yet to be told or to arrive.
const CLEARING: [&str; 5] = ["1110", "1120", "1130", "2030", "2220"];
/// For how long a payment has been open: less than a day is usual, the second source is slower.
const AGES: [&str; 3] = ["day", "week", "older"];
/// Where the second source comes from.
const SOURCE: &str = "stripe";

/// What is shown.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    /// Debits minus credits, in units, in the order of [`CLEARING`].
    clearing: [i64; CLEARING.len()],
    /// Open payments, in the order of [`AGES`].
    open: [i64; AGES.len()],
    /// What the two sources differ by in payments that are open for a day or longer, in units.
    unexplained: i64,
}

impl Figures {
    async fn look(state: &QueryState) -> Result<Self, QueryError> {
        let mut client = state.client().await?;
        let snapshot = Snapshot::begin(&mut client, Tenant::House, &[]).await?;
        let mut figures = Self::default();
        for row in snapshot.rows(sql::CLEARING_UNITS, &[&CLEARING.as_slice()]).await? {
            let account: String = row.try_get(0)?;
            if let Some(at) = CLEARING.iter().position(|known| *known == account) {
                figures.clearing[at] = row.try_get(1)?;
            }
        }
        for row in snapshot.rows(sql::CLEARING_OPEN, &[]).await? {
            let age: String = row.try_get(0)?;
            if let Some(at) = AGES.iter().position(|known| *known == age) {
                figures.open[at] = row.try_get(1)?;
                figures.unexplained += if at > 0 { row.try_get::<_, i64>(2)? } else { 0 };
            }
        }
        Ok(figures)
    }

    fn show(&self) {
        for (account, units) in CLEARING.iter().zip(self.clearing) {
            metrics::gauge!("modelfaucet_clearing_units", "account" => *account).set(figure(units));
        }
        for (age, count) in AGES.iter().zip(self.open) {
            metrics::gauge!("modelfaucet_recon_exceptions", "source" => SOURCE, "age" => *age).set(figure(count));
        }
        metrics::gauge!("modelfaucet_recon_unexplained_units", "source" => SOURCE).set(figure(self.unexplained));
    }
}

/// Shows the figures of the books until the process ends.
pub async fn show_figures(state: QueryState) {
    Figures::default().show();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match Figures::look(&state).await {
            Ok(figures) => figures.show(),
            // The last ones stand; that the database is away is the readiness check's to say.
            Err(error) => tracing::debug!(%error, "figures of the books could not be looked up"),
        }
    }
}

/// A figure for a gauge: exact to 2⁵³ units, 90 million dollars.
#[expect(clippy::cast_precision_loss, reason = "a figure for alerts, never for the books")]
fn figure(number: i64) -> f64 {
    number as f64
}
