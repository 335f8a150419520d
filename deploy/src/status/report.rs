//! The screen, and the same for programs. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use modelfaucet_schema::ids::{LogId, ShardId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use serde_json::{Value, json};

use super::books::Books;
use super::outside::{Is, Line};
use crate::reading::ago;

/// A log.
#[derive(Debug)]
pub(super) struct LogLine {
    pub(super) shard: ShardId,
    pub(super) log_id: LogId,
    pub(super) events: i64,
    pub(super) newest: Option<Timestamp>,
    pub(super) last_minute: i64,
    /// How many of the newest events hash to their links; absent: they do not.
    pub(super) checked: Option<i64>,
}

/// A version of a projection on one log.
#[derive(Debug)]
pub(super) struct ProjectionLine {
    pub(super) name: String,
    pub(super) version: i32,
    pub(super) state: String,
    pub(super) shard: Option<ShardId>,
    pub(super) lag: i64,
    /// How long the first event that it does not have is there.
    pub(super) waits: Option<Duration>,
    pub(super) halted: Option<String>,
    pub(super) letters: i64,
    pub(super) oldest_letter: Option<Timestamp>,
}

/// A kill switch that is on.
#[derive(Debug)]
pub(super) struct FreezeLine {
    pub(super) shard: ShardId,
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) reason: String,
    pub(super) since: Timestamp,
    pub(super) actor: String,
    pub(super) position: i64,
}

/// Open holds.
#[derive(Debug, Default)]
pub(super) struct Holds {
    open: u64,
    overdue: u64,
    held: i128,
}

impl Holds {
    pub(super) fn take(&mut self, expires_at: Timestamp, amount: Money, now: Timestamp) {
        self.open += 1;
        self.overdue += u64::from(expires_at <= now);
        self.held += i128::from(amount.units());
    }
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) now: Timestamp,
    pub(super) logs: Vec<LogLine>,
    projections: Vec<ProjectionLine>,
    freezes: Vec<FreezeLine>,
    late: Duration,
    pub(super) books: Books,
    pub(super) holds: Option<Holds>,
    pub(super) outside: Vec<Line>,
}

impl Status {
    pub(super) fn new(
        now: Timestamp,
        logs: Vec<LogLine>,
        projections: Vec<ProjectionLine>,
        freezes: Vec<FreezeLine>,
        late: Duration,
    ) -> Self {
        Self { now, logs, projections, freezes, late, books: Books::default(), holds: None, outside: Vec::new() }
    }

    /// What somebody should look at, with what to do.
    pub(super) fn attention(&self) -> Vec<String> {
        let mut list = Vec::new();
        for log in self.logs.iter().filter(|log| log.checked.is_none()) {
            list.push(format!("the newest links of {} do not hold: `modelfaucet verify`", log.shard));
        }
        if self.logs.is_empty() {
            list.push("there is no log".to_owned());
        }
        for line in &self.projections {
            let name = format!("{} v{}", line.name, line.version);
            if let Some(why) = &line.halted {
                list.push(format!("{name} has halted: {why}"));
            } else if line.state == "live" && line.waits.is_some_and(|waits| waits > self.late) {
                list.push(format!(
                    "{name} is {} events behind for {}",
                    line.lag,
                    line.waits.map(ago).unwrap_or_default()
                ));
            }
            if line.letters > 0 {
                list.push(format!("{name} has {} dead letters", line.letters));
            }
        }
        if let Some(holds) = self.holds.as_ref().filter(|holds| holds.overdue > 0) {
            list.push(format!("{} holds are overdue: `modelfaucet holds list --overdue`", holds.overdue));
        }
        let books = &self.books;
        if books.trial_balance != 0 {
            list.push(format!("the trial balance is {} and not zero", Money::from_units(books.trial_balance)));
        }
        if books.mismatches.is_some_and(|count| count > 0) {
            let count = books.mismatches.unwrap_or_default();
            list.push(format!(
                "{count} wallets do not reconcile: GET /v1/admin/reconciliation/ledger?mismatches_only=true"
            ));
        }
        if books.refused > 0 {
            list.push(format!("{} Stripe events were refused: GET /v1/admin/stripe/unfinished", books.refused));
        }
        if let Some(oldest) = books.oldest.filter(|oldest| *oldest > Duration::from_secs(600)) {
            list.push(format!("Stripe events are unfinished for {}: `modelfaucet stripe sweep`", ago(oldest)));
        }
        for (name, is) in &self.outside {
            match is {
                Is::Down => list.push(format!("{name} does not answer")),
                Is::Bad(how) => list.push(format!("{name}: {how}")),
                Is::Up | Is::NotConfigured | Is::Fine(_) => {}
            }
        }
        list
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let mut line = |name: &str, what: String| {
            let _ = writeln!(text, "{name:12} {what}");
        };
        for log in &self.logs {
            let newest =
                log.newest.map_or_else(|| "empty".to_owned(), |at| format!("newest {} ago", ago(self.now.since(at))));
            let checked = log
                .checked
                .map_or_else(|| "newest links BROKEN".to_owned(), |count| format!("chain of the newest {count} ok"));
            let rate = rate(log.last_minute);
            line("log", format!("{} · {} events · +{rate}/s · {newest} · {checked}", log.shard, log.events));
        }
        let live: Vec<_> = self.projections.iter().filter(|line| line.state == "live").collect();
        let lag = live.iter().map(|line| line.lag).max().unwrap_or(0);
        let letters: i64 = live.iter().map(|line| line.letters).sum();
        line("projections", format!("{} live · lag at most {lag} · {letters} dead letters", live.len()));
        for odd in self.projections.iter().filter(|line| line.state != "live" || line.is_odd(self.late)) {
            line("", odd.text(self.now));
        }
        let holds = self.holds.as_ref().map_or_else(
            || "not counted here, there are many: `modelfaucet holds list`".to_owned(),
            |holds| format!("{} open, {} overdue · {} held", holds.open, holds.overdue, held(holds.held)),
        );
        line("holds", holds);
        if self.freezes.is_empty() {
            line("freezes", "none".to_owned());
        }
        for freeze in &self.freezes {
            let FreezeLine { shard, kind, id, reason, since, actor, position } = freeze;
            let id = if id.is_empty() { String::new() } else { format!(" {id}") };
            let since = ago(self.now.since(*since));
            line("freezes", format!("{kind}{id} · {reason} · {since} ago by {actor} · cut {shard}:{position}"));
        }
        line("books", self.books_line());
        line("stripe", self.stripe_line());
        let outside: Vec<String> = self.outside.iter().map(|(name, is)| format!("{name} {}", is.name())).collect();
        line("outside", outside.join(" · "));
        let attention = self.attention();
        if attention.is_empty() {
            line("ok", "nothing needs attention".to_owned());
        }
        for what in attention {
            line("ATTENTION", what);
        }
        text
    }

    fn books_line(&self) -> String {
        let books = &self.books;
        let balance = if books.trial_balance == 0 {
            "Σ 0".to_owned()
        } else {
            format!("Σ {} WRONG", Money::from_units(books.trial_balance))
        };
        match (books.wallets, books.mismatches) {
            (Some(wallets), Some(0)) => format!("{balance} · {wallets} wallets agree"),
            (Some(wallets), Some(wrong)) => format!("{balance} · {wrong} of {wallets} wallets do NOT agree"),
            _ => format!("{balance} · wallets not compared here, there are many"),
        }
    }

    fn stripe_line(&self) -> String {
        let Books { received, waiting, refused, oldest, swept, .. } = &self.books;
        let oldest = oldest.map_or_else(String::new, |oldest| format!(", the oldest for {}", ago(oldest)));
        let swept =
            swept.map_or_else(|| "never swept".to_owned(), |at| format!("swept up to {} ago", ago(self.now.since(at))));
        format!("{received} received, {waiting} waiting, {refused} refused{oldest} · {swept}")
    }

    pub(super) fn json(&self) -> Value {
        let logs: Vec<Value> = self
            .logs
            .iter()
            .map(|log| {
                json!({"shard": log.shard, "log_id": log.log_id, "events": log.events, "newest_at": log.newest,
                       "events_last_minute": log.last_minute, "newest_links_ok": log.checked.is_some(), "events_checked": log.checked})
            })
            .collect();
        let projections: Vec<Value> = self
            .projections
            .iter()
            .map(|line| {
                json!({"name": line.name, "version": line.version, "state": line.state, "shard": line.shard, "lag_events": line.lag,
                       "lag_seconds": line.waits.map_or(0, |waits| waits.as_secs()), "halted": line.halted, "dead_letters": line.letters})
            })
            .collect();
        let freezes: Vec<Value> = self
            .freezes
            .iter()
            .map(|freeze| {
                json!({"kind": freeze.kind, "id": freeze.id, "reason": freeze.reason, "since": freeze.since, "actor": freeze.actor,
                       "cut": [format!("{}:{}", freeze.shard, freeze.position)]})
            })
            .collect();
        let holds = self
            .holds
            .as_ref()
            .map(|holds| json!({"open": holds.open, "overdue": holds.overdue, "held_usd": held(holds.held)}));
        let books = &self.books;
        let outside: serde_json::Map<String, Value> =
            self.outside.iter().map(|(name, is)| ((*name).to_owned(), json!(is.name().to_lowercase()))).collect();
        let attention = self.attention();
        json!({
            "ok": attention.is_empty(), "at": self.now, "logs": logs, "projections": projections, "holds": holds, "freezes": freezes,
            "books": {"trial_balance_usd": Money::from_units(books.trial_balance), "wallets": books.wallets, "mismatches": books.mismatches},
            "stripe": {"received": books.received, "waiting": books.waiting, "refused": books.refused,
                       "oldest_seconds": books.oldest.map(|oldest| oldest.as_secs()), "swept_until": books.swept},
            "outside": outside, "attention": attention,
        })
    }
}

impl ProjectionLine {
    fn is_odd(&self, late: Duration) -> bool {
        self.halted.is_some() || self.letters > 0 || self.waits.is_some_and(|waits| waits > late)
    }

    fn text(&self, now: Timestamp) -> String {
        let shard = self.shard.map_or_else(|| "nothing read".to_owned(), |shard| shard.to_string());
        let halted = self.halted.as_ref().map_or_else(String::new, |why| format!(" · HALTED: {why}"));
        let letters = self.oldest_letter.map_or_else(String::new, |at| {
            format!(" · {} dead letters, the oldest for {}", self.letters, ago(now.since(at)))
        });
        format!("{} v{} {} · {shard} · lag {}{halted}{letters}", self.name, self.version, self.state, self.lag)
    }
}

/// Events of a minute per second, with one decimal where it matters.
fn rate(minute: i64) -> String {
    let tenths = minute.max(0) / 6;
    if tenths >= 100 { (tenths / 10).to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
}

fn held(units: i128) -> String {
    i64::try_from(units)
        .map_or_else(|_| "more than can be counted".to_owned(), |units| Money::from_units(units).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let now = Timestamp::from_micros(1_764_000_000_000_000);
        let log = LogLine {
            shard: ShardId(0),
            log_id: LogId(uuid::Uuid::nil()),
            events: 812,
            newest: Some(now),
            last_minute: 24_720,
            checked: Some(812),
        };
        let projection = ProjectionLine {
            name: "wallets".into(),
            version: 1,
            state: "live".into(),
            shard: Some(ShardId(0)),
            lag: 0,
            waits: None,
            halted: None,
            letters: 0,
            oldest_letter: None,
        };
        let mut status = Status::new(now, vec![log], vec![projection], Vec::new(), Duration::from_secs(10));
        status.books.mismatches = Some(0);
        status.books.wallets = Some(2);
        status.holds = Some(Holds::default());
        status.outside = vec![("postgres", Is::Up), ("redis", Is::NotConfigured)];
        status
    }

    #[test]
    fn a_healthy_ledger_is_one_quiet_screen() {
        let status = status();
        assert!(status.attention().is_empty());
        let text = status.text();
        assert!(text.contains("s00 · 812 events · +412/s · newest 0 s ago · chain of the newest 812 ok"), "{text}");
        assert!(text.lines().count() <= 10 && text.contains("nothing needs attention"), "{text}");
        assert_eq!(status.json()["ok"], true);
    }

    #[test]
    fn whatever_is_wrong_needs_attention() {
        type Wrong = fn(&mut Status);
        let wrongs: [(Wrong, &str); 11] = [
            (|status| status.logs[0].checked = None, "do not hold"),
            (|status| status.logs.clear(), "no log"),
            (|status| status.projections[0].halted = Some("a gap".into()), "has halted: a gap"),
            (|status| status.projections[0].waits = Some(Duration::from_secs(11)), "events behind for 11 s"),
            (|status| status.projections[0].letters = 2, "2 dead letters"),
            (|status| status.holds = Some(Holds { open: 1, overdue: 1, held: 1 }), "1 holds are overdue"),
            (|status| status.books.trial_balance = 1, "0.00000001 and not zero"),
            (|status| status.books.mismatches = Some(3), "3 wallets do not reconcile"),
            (|status| status.books.refused = 1, "1 Stripe events were refused"),
            (|status| status.outside[1].1 = Is::Down, "redis does not answer"),
            (|status| status.outside[1].1 = Is::Bad("HALTED".into()), "redis: HALTED"),
        ];
        for (change, expected) in wrongs {
            let mut status = status();
            change(&mut status);
            let attention = status.attention();
            assert!(attention.len() == 1 && attention[0].contains(expected), "{attention:?}");
            assert!(status.text().contains("ATTENTION") && status.json()["ok"] == false);
        }
    }

    #[test]
    fn rates_are_short() {
        for (minute, text) in [(0, "0.0"), (6, "0.1"), (599, "9.9"), (600, "10"), (24_720, "412")] {
            assert_eq!(rate(minute), text);
        }
    }
}
