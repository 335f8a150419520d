//! `modelfaucet holds list`: the open holds, from the writer's own state at the end of the log.

use std::io::Write as _;
use std::str::FromStr;
use std::time::Duration;

use modelfaucet_command::domain::{Hold, State};
use modelfaucet_schema::ids::{HoldId, ShardId, WalletId};
use modelfaucet_schema::time::Timestamp;
use serde_json::{Value, json};

use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::reading::{self, ago};
use crate::verify::auditor;

/// What to do with holds.
#[derive(clap::Subcommand)]
pub(crate) enum HoldsVerb {
    /// List the open holds, what expires first in front; exit 1 if one is overdue
    List(HoldsArgs),
}

/// Which holds.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct HoldsArgs {
    /// Only those whose time is over
    #[arg(long)]
    overdue: bool,
    /// Only those that were placed longer ago, such as 90s, 10m, 2h
    #[arg(long, value_name = "TIME")]
    older_than: Option<Age>,
    /// Only of this wallet
    #[arg(long, value_name = "ID")]
    wallet: Option<WalletId>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// A length of time: a number with s, m, h or d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age(pub(crate) Duration);

impl FromStr for Age {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be a number with s, m, h or d, such as 10m";
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(wrong)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong),
        };
        let number: u64 = number.parse().map_err(|_| wrong)?;
        number.checked_mul(seconds).map(Duration::from_secs).map(Self).ok_or(wrong)
    }
}

/// An open hold.
struct Open<'a> {
    shard: ShardId,
    id: HoldId,
    hold: &'a Hold,
}

impl Open<'_> {
    fn age(&self, now: Timestamp) -> Option<Duration> {
        self.id.made_at().map(|made_at| now.since(made_at))
    }

    fn is_overdue(&self, now: Timestamp) -> bool {
        self.hold.expires_at <= now
    }

    fn text(&self, now: Timestamp) -> String {
        let Hold { wallet_id, call, amount, expires_at, .. } = self.hold;
        let age = self.age(now).map_or_else(|| "?".to_owned(), ago);
        let state = if self.is_overdue(now) {
            format!("OVERDUE for {}", ago(now.since(*expires_at)))
        } else {
            format!("expires in {}", ago(expires_at.since(now)))
        };
        let owner = self.hold.gateway.map_or_else(|| "app".to_owned(), |gateway| format!("gateway {gateway}"));
        let (provider, model) = (&call.provider, &call.model);
        format!(
            "{} {}  {amount}  {age} old, {state}  wallet {wallet_id}  {provider}/{model} {}  {owner}",
            self.shard,
            self.id,
            call.route.name()
        )
    }

    fn json(&self, now: Timestamp) -> Value {
        let Hold { wallet_id, call, amount, expires_at, gateway, .. } = self.hold;
        json!({
            "shard": self.shard, "hold_id": self.id, "wallet_id": wallet_id, "app_id": call.app_id, "session_id": call.session_id,
            "amount_usd": amount, "placed_at": self.id.made_at(), "expires_at": expires_at, "overdue": self.is_overdue(now),
            "route": call.route, "provider": call.provider, "model": call.model, "gateway": gateway,
        })
    }
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(HoldsVerb::List(args): &HoldsVerb) -> Result<Exit, Failure> {
    let states = reading::with(&args.database, async |auditor| {
        let client = auditor.connect().await?;
        let mut states = Vec::new();
        for shard in reading::shards(&client).await.map_err(auditor::failure)? {
            states.push((shard.id, reading::state(auditor, shard.id).await?.0));
        }
        Ok(states)
    })?;
    let now = Timestamp::now();
    let mut holds: Vec<Open<'_>> = states.iter().flat_map(|(shard, state)| open(*shard, state)).collect();
    holds.retain(|open| is_wanted(args, open, now));
    holds.sort_by_key(|open| (open.hold.expires_at, open.id));
    let mut out = std::io::stdout().lock();
    for open in &holds {
        let line = if args.json { open.json(now).to_string() } else { open.text(now) };
        if writeln!(out, "{line}").is_err() {
            break;
        }
    }
    let overdue = holds.iter().filter(|open| open.is_overdue(now)).count();
    if !args.json {
        eprintln!("{} open, {overdue} overdue", holds.len());
    }
    Ok(if overdue == 0 { Exit::Ok } else { Exit::Differences })
}

fn open(shard: ShardId, state: &State) -> impl Iterator<Item = Open<'_>> {
    state.holds.iter().map(move |(id, hold)| Open { shard, id: *id, hold })
}

fn is_wanted(args: &HoldsArgs, open: &Open<'_>, now: Timestamp) -> bool {
    let old = args.older_than.is_none_or(|Age(age)| open.age(now).is_none_or(|is| is >= age));
    old && (!args.overdue || open.is_overdue(now)) && args.wallet.is_none_or(|wallet| wallet == open.hold.wallet_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7_200), ("1d", 86_400), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Age(Duration::from_secs(seconds))));
        }
        for text in ["", "s", "10", "-1s", "1w", "1.5h", "99999999999999999999d", "10µ"] {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
    }
}
