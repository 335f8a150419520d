//! `modelfaucet freeze`, `thaw` and `freeze list`: kill switches. They are turned through the API, so that the log says who did it.

use std::io::Write as _;
use std::path::PathBuf;

use modelfaucet_schema::event::FreezeScope;
use modelfaucet_schema::ids::{Position, ShardId};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Call, LedgerArgs};
use crate::exit::{Exit, Failure};
use crate::operator::Consent;

/// As whom, and where.
#[derive(clap::Args)]
pub(crate) struct StaffArgs {
    #[command(flatten)]
    pub(crate) ledger: LedgerArgs,
    /// File with a staff token of your own, so that it is on record who did it [default: `ADMIN_TOKEN`, else that of --data-dir]
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Print one JSON object; a list prints one per line
    #[arg(long)]
    pub(crate) json: bool,
}

impl StaffArgs {
    /// The token.
    ///
    /// # Errors
    /// A [`Failure`] that says which file is missing.
    pub(crate) fn token(&self) -> Result<SecretString, Failure> {
        let Some(path) = &self.token_file else { return self.ledger.tokens()?.admin().cloned() };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", path.display())))?;
        match text.trim() {
            "" => Err(Failure::new(Exit::Config, format!("{} is empty", path.display()))),
            token => Ok(SecretString::from(token)),
        }
    }
}

/// A kill switch to turn on.
#[derive(clap::Args)]
#[command(args_override_self = true, args_conflicts_with_subcommands = true)]
pub(crate) struct FreezeArgs {
    #[command(subcommand)]
    verb: Option<FreezeVerb>,
    #[command(flatten)]
    turn: TurnArgs,
}

/// What else there is to do with kill switches.
#[derive(clap::Subcommand)]
pub(crate) enum FreezeVerb {
    /// List the kill switches that are on, newest first
    List {
        #[command(flatten)]
        staff: StaffArgs,
    },
}

/// A kill switch.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct TurnArgs {
    /// What it stops: app, developer, session, wallet or credential with an ID; top-ups, usage, payouts, refunds or everything without
    #[arg(value_name = "SCOPE", required = true)]
    scope: Option<String>,
    /// Whom it stops, where the scope does not say it all
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Why, for the record; for example the name of the incident
    #[arg(long, value_name = "TEXT", required = true)]
    reason: Option<String>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    staff: StaffArgs,
}

#[derive(Deserialize)]
struct Turned {
    scope: FreezeScope,
    frozen: bool,
    position: Position,
}

/// Reads a scope as people write it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn scope(kind: &str, id: Option<&str>) -> Result<FreezeScope, String> {
    let kind = match kind.replace('-', "_").as_str() {
        "topups" => "top_ups".to_owned(),
        "credential" => "provider_credential".to_owned(),
        other => other.to_owned(),
    };
    let value = match id {
        None => json!({ "kind": kind }),
        Some(id) => json!({ "kind": kind, "id": id }),
    };
    serde_json::from_value::<FreezeScope>(value).map_err(|_| match (kind.as_str(), id) {
        ("app" | "developer" | "session" | "wallet" | "provider_credential", None) => format!("{kind} needs an id"),
        ("app" | "developer" | "session" | "wallet" | "provider_credential", Some(id)) => format!("{id:?} is no id"),
        ("top_ups" | "usage" | "payouts" | "refunds" | "everything", Some(_)) => format!("{kind} takes no id"),
        _ => format!(
            "{kind:?} is no scope: app, developer, session, wallet, credential, top-ups, usage, payouts, refunds, everything"
        ),
    })
}

/// A scope in a few words.
pub(crate) fn in_words(scope: FreezeScope) -> String {
    let value = serde_json::to_value(scope).unwrap_or_default();
    let kind = value["kind"].as_str().unwrap_or_default();
    value["id"].as_str().map_or_else(|| kind.to_owned(), |id| format!("{kind} {id}"))
}

fn usage(problem: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{problem}\n")).exit()
}

/// Freezes, or lists.
///
/// # Errors
/// A [`Failure`] that says what is wrong; exit 3 if the ledger refuses.
pub(crate) fn freeze(args: &FreezeArgs) -> Result<Exit, Failure> {
    match &args.verb {
        Some(FreezeVerb::List { staff }) => crate::runtime()?.block_on(list(staff)),
        None => crate::runtime()?.block_on(turn_to(&args.turn, true)),
    }
}

/// Thaws.
///
/// # Errors
/// As [`freeze`].
pub(crate) fn thaw(args: &TurnArgs) -> Result<Exit, Failure> {
    crate::runtime()?.block_on(turn_to(args, false))
}

async fn turn_to(args: &TurnArgs, on: bool) -> Result<Exit, Failure> {
    let (kind, reason) = (args.scope.as_deref().unwrap_or_default(), args.reason.as_deref().unwrap_or_default().trim());
    let scope = scope(kind, args.id.as_deref()).unwrap_or_else(|problem| usage(&problem));
    if reason.is_empty() {
        usage("--reason says nothing");
    }
    let (client, token) = (args.staff.ledger.client()?, args.staff.token()?);
    if !args.consent.is_given() {
        let verb = if on { "freeze" } else { "thaw" };
        if args.staff.json {
            println!("{}", json!({ "scope": scope, "would": verb, "done": false }));
        } else {
            println!("would {verb} {} at {}\n{}", in_words(scope), client.base(), Consent::NOTHING_DONE);
        }
        return Ok(Exit::Ok);
    }
    let path = if on { "/v1/admin/freezes" } else { "/v1/admin/freezes/thaw" };
    let body = json!({ "scope": scope, "reason": reason });
    let turned: Turned = client.send(&Call::post(path, &body).token(&token)).await?.json()?;
    let place = format!("{}:{}", ShardId(0), turned.position);
    if args.staff.json {
        println!("{}", json!({ "scope": turned.scope, "frozen": turned.frozen, "cut": [place], "done": true }));
    } else if turned.frozen {
        println!("frozen: {}. Cut {place}: nothing of this kind is behind it until the thaw", in_words(turned.scope));
    } else {
        println!("thawed: {}, from {place} on", in_words(turned.scope));
    }
    Ok(Exit::Ok)
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    next_cursor: Option<String>,
}

/// The kill switches that are on.
///
/// # Errors
/// The ledger's.
pub(crate) async fn list(staff: &StaffArgs) -> Result<Exit, Failure> {
    let (client, token) = (staff.ledger.client()?, staff.token()?);
    let mut out = std::io::stdout().lock();
    let mut path = "/v1/admin/freezes?limit=200".to_owned();
    loop {
        let page: Page = client.send(&Call::get(path).token(&token)).await?.json()?;
        for item in page.items {
            if staff.json {
                writeln!(out, "{item}")?;
                continue;
            }
            let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
            let id = item["id"].as_str().map_or_else(String::new, |id| format!(" {id}"));
            let (shard, position) = (item["shard"].as_i64().unwrap_or(0), &item["position"]);
            writeln!(
                out,
                "{}{id}  since {} by {}  cut s{shard:02}:{position}  {}",
                text("kind"),
                text("since"),
                text("actor"),
                text("reason")
            )?;
        }
        let Some(cursor) = page.next_cursor else { return Ok(Exit::Ok) };
        path = format!("/v1/admin/freezes?limit=200&cursor={cursor}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_people_write_them() {
        let id = "0199c6f2-0000-7000-8000-000000000001";
        for (kind, given, words) in [
            ("payouts", None, "payouts"),
            ("topups", None, "top_ups"),
            ("top-ups", None, "top_ups"),
            ("everything", None, "everything"),
            ("wallet", Some(id), "wallet 0199c6f2-0000-7000-8000-000000000001"),
            ("credential", Some(id), "provider_credential 0199c6f2-0000-7000-8000-000000000001"),
        ] {
            assert_eq!(scope(kind, given).map(in_words).as_deref(), Ok(words));
        }
        for (kind, given, problem) in [
            ("wallet", None, "wallet needs an id"),
            ("wallet", Some("x"), "\"x\" is no id"),
            ("usage", Some(id), "usage takes no id"),
        ] {
            assert_eq!(scope(kind, given).unwrap_err(), problem);
        }
        assert!(scope("planet", None).is_err_and(|problem| problem.contains("is no scope")));
    }
}
