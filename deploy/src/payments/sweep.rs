//! `modelfaucet stripe sweep`: what Stripe has and the ledger may have missed. Stripe keeps events for 30 days.
//!
//! Time is swept in windows of some hours, oldest first, so memory does not grow with it. Lists come newest first and are handed in
//! oldest first, so what is handed in has no hole behind it; how far that is, the ledger remembers. A sweep that breaks off goes on
//! from there, and one that runs twice changes nothing the second time.

use std::time::Duration;

use modelfaucet_command::stripe::{StripeClient, StripeError};
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::client::{Call, Client, LedgerArgs, Patience};
use crate::config::{Config, ConfigError};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;

/// How far back Stripe's list of events goes, in seconds.
const THIRTY_DAYS: i64 = 30 * 86_400;
/// How far behind the last sweep the next one begins, in seconds: lists may lag, and clocks differ.
const OVERLAP: i64 = 3_600;
/// One window, in seconds.
const WINDOW: i64 = 6 * 3_600;
/// How long temporary failures are borne.
const PATIENCE: Duration = Duration::from_mins(1);

/// How to sweep.
#[derive(clap::Args)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    ledger: LedgerArgs,
    /// How many days back; without it from the last sweep on, or 30. Stripe keeps events for 30 days, movements for ever
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=3650))]
    days: Option<i64>,
    /// Says what is missing and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// A list of Stripe's API.
struct Source {
    name: &'static str,
    path: &'static str,
    expand: Option<&'static str>,
    /// How far back it goes, in seconds.
    keeps: i64,
    until: fn(&mut Swept) -> &mut Option<i64>,
}

const SOURCES: [Source; 2] = [
    Source {
        name: "events",
        path: "/v1/events",
        expand: None,
        keeps: THIRTY_DAYS,
        until: |swept| &mut swept.events_until,
    },
    Source {
        name: "transactions",
        path: "/v1/balance_transactions",
        expand: Some("data.source"),
        keeps: i64::MAX,
        until: |swept| &mut swept.transactions_until,
    },
];

#[derive(Default, Deserialize, Serialize)]
struct Swept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events_until: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transactions_until: Option<i64>,
}

#[derive(Deserialize)]
struct Head {
    id: String,
}

#[derive(Deserialize)]
struct Taken {
    id: String,
    known: bool,
    state: String,
    problem: Option<String>,
}

#[derive(Deserialize)]
struct Unfinished {
    items: Vec<UnfinishedItem>,
    unsent_refunds: Vec<String>,
}

#[derive(Deserialize)]
struct UnfinishedItem {
    id: String,
    r#type: String,
    state: String,
    problem: Option<String>,
}

/// Runs the sweep.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) async fn run(args: &SweepArgs) -> Result<Exit, Failure> {
    let config = Config::read(&[])?;
    let stripe = super::client(&config)?;
    let stripe = Config::required("STRIPE_SECRET_KEY", stripe).map_err(|error: ConfigError| Failure::from(error))?;
    let (client, tokens) = (args.ledger.client()?, args.ledger.tokens()?);
    let sweep =
        Sweep { args, stripe: &stripe, client: &client, token: tokens.admin()?, patience: Patience::of(PATIENCE) };
    let now = Timestamp::now().micros().div_euclid(1_000_000);
    for source in &SOURCES {
        sweep.source(source, now).await?;
    }
    sweep.finish().await
}

struct Sweep<'a> {
    args: &'a SweepArgs,
    stripe: &'a StripeClient,
    client: &'a Client,
    token: &'a secrecy::SecretString,
    patience: Patience,
}

impl Sweep<'_> {
    async fn source(&self, source: &Source, now: i64) -> Result<(), Failure> {
        let call = Call::get("/v1/admin/stripe/sweep").token(self.token);
        let mut swept: Swept = self.client.send_patiently(&call, &self.patience).await?.json()?;
        let last = (source.until)(&mut swept).map(|until| until - OVERLAP);
        let since = self.args.days.map(|days| now - days * 86_400).or(last).unwrap_or(now - THIRTY_DAYS);
        let since = since.max(now.saturating_sub(source.keeps));
        let windows = (now - since).div_euclid(WINDOW) + 1;
        let mut progress = Progress::start(source.name, windows.unsigned_abs(), self.args.quiet);
        let (mut seen, mut new, mut refused) = (0_u64, 0_u64, 0_u64);
        for window in 0..windows {
            let begin = since + window * WINDOW;
            // The last one takes in what happens meanwhile.
            let end = (window + 1 < windows).then_some(begin + WINDOW);
            for object in self.fetch(source, begin, end).await? {
                let taken = self.hand_in(&object).await?;
                seen += 1;
                new += u64::from(!taken.known);
                refused += u64::from(taken.state == "refused");
                if !taken.known {
                    let problem = taken.problem.map_or(String::new(), |problem| format!(": {problem}"));
                    println!("{}  {}  {}{problem}", source.name, taken.id, taken.state);
                }
            }
            self.note(source, end.unwrap_or(now)).await?;
            progress.set(window.unsigned_abs() + 1);
        }
        progress.finish();
        println!("{}: {seen} since {since}, {new} new, {refused} refused", source.name);
        Ok(())
    }

    /// All objects of a window, oldest first.
    async fn fetch(&self, source: &Source, begin: i64, end: Option<i64>) -> Result<Vec<Box<RawValue>>, Failure> {
        let mut objects: Vec<Box<RawValue>> = Vec::new();
        let (begin, end) = (begin.to_string(), end.map(|end| end.to_string()));
        let mut after: Option<String> = None;
        loop {
            let mut query = vec![("limit", "100"), ("created[gte]", begin.as_str())];
            query.extend(end.as_deref().map(|end| ("created[lt]", end)));
            query.extend(source.expand.map(|what| ("expand[]", what)));
            query.extend(after.as_deref().map(|id| ("starting_after", id)));
            let page = self.stripe.page(source.path, &query).await.map_err(|error| match error {
                StripeError::Unknown => {
                    Failure::new(Exit::Temporary, "Stripe does not answer; the same command goes on")
                }
                refused @ StripeError::Refused { .. } => Failure::new(Exit::Refused, refused),
            })?;
            objects.extend(page.data);
            let last = objects.last().map(|object| serde_json::from_str::<Head>(object.get())).transpose();
            let last =
                last.map_err(|error| Failure::new(Exit::Config, format!("{} cannot be read: {error}", source.path)))?;
            after = last.map(|head| head.id);
            if !page.has_more || after.is_none() {
                break;
            }
        }
        // Stripe's own order, turned round; times alone are too coarse.
        objects.reverse();
        Ok(objects)
    }

    async fn hand_in(&self, object: &RawValue) -> Result<Taken, Failure> {
        let path = if self.args.dry_run { "/v1/admin/stripe/objects?dry_run=true" } else { "/v1/admin/stripe/objects" };
        let call = Call::post(path, &object).token(self.token);
        Ok(self.client.send_patiently(&call, &self.patience).await?.json()?)
    }

    async fn note(&self, source: &Source, until: i64) -> Result<(), Failure> {
        if self.args.dry_run {
            return Ok(());
        }
        let mut swept = Swept::default();
        *(source.until)(&mut swept) = Some(until);
        let call = Call::post("/v1/admin/stripe/sweep", &swept).token(self.token);
        self.client.send_patiently(&call, &self.patience).await?;
        Ok(())
    }

    /// Works again on what is not finished, and says what is left.
    async fn finish(&self) -> Result<Exit, Failure> {
        let call = if self.args.dry_run {
            Call::get("/v1/admin/stripe/unfinished")
        } else {
            Call::new(http::Method::POST, "/v1/admin/stripe/unfinished/rework")
        };
        let left: Unfinished = self.client.send_patiently(&call.token(self.token), &self.patience).await?.json()?;
        for item in &left.items {
            let problem = item.problem.as_deref().unwrap_or("not tried");
            println!("unfinished  {}  {}  {}: {problem}", item.id, item.r#type, item.state);
        }
        for refund in &left.unsent_refunds {
            println!("unfinished  refund {refund}: Stripe has not taken it on");
        }
        if left.items.is_empty() && left.unsent_refunds.is_empty() {
            println!("nothing is unfinished");
            Ok(Exit::Ok)
        } else {
            Ok(Exit::Differences)
        }
    }
}
