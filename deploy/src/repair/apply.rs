//! Carries a plan out, step by step.
//!
//! What happens if it is killed anywhere: every step goes under a key that follows from the plan, so the ledger answers a repeat with what
//! it did the first time, whoever repeats it.

use std::time::Duration;

use modelfaucet_schema::event::Direction;
use modelfaucet_schema::money::Money;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::plan::{Act, Figures, Plan, Step};
use super::{ApplyArgs, read};
use crate::client::{Call, Client, ClientError, Patience, Reply};
use crate::exit::{Exit, Failure};
use crate::operator::Consent;
use crate::progress::{Manner, Progress};

/// How long a ledger that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often, and how long apart, a read table is asked for what has just been recorded.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Now,
    /// By an earlier run of the same plan.
    Before,
}

/// Why a plan stops.
enum Stop {
    /// What is expected before the step is not so.
    Changed(String),
    /// The step is done, and left something else than is expected behind it.
    Surprise(String),
    /// Another person has to go on.
    AnotherPerson,
    Failure(Failure),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Failure(error.into())
    }
}

/// Prints or carries out.
pub(super) async fn run(args: &ApplyArgs) -> Result<Exit, Failure> {
    let plan = read(&args.file)?;
    let applying = Applying { client: args.staff.ledger.client()?, token: args.staff.token()?, plan: &plan };
    let approval = applying.approval().await?;
    if !args.consent.is_given() {
        let by = approval.as_ref().map(|approval| approval.by.as_str());
        if args.staff.json {
            println!(
                "{}",
                json!({ "digest": plan.digest(), "approved_by": by, "applied": Value::Null, "done": false, "plan": plan })
            );
        } else {
            print!("{}", plan.told());
            match by {
                Some(by) => println!("approved by {by}\n{}", Consent::NOTHING_DONE),
                None => {
                    println!(
                        "not approved: somebody else than who proposed it runs `modelfaucet repair approve --yes`"
                    );
                }
            }
        }
        return Ok(Exit::Ok);
    }
    let approval = approval.ok_or_else(|| {
        let message =
            "the plan is not approved: somebody else than who proposed it runs `modelfaucet repair approve --yes`";
        Failure::new(Exit::Refused, message)
    })?;
    let mut progress = Progress::start(
        "repair",
        u64::try_from(plan.steps.len()).unwrap_or(0),
        Manner { quiet: args.quiet, json: args.staff.json },
    );
    let mut done = Vec::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let number = index + 1;
        // In the middle of a step nothing is lost either: the same command finds out what became of it.
        let result = tokio::select! {
            result = applying.step(number, step) => result,
            () = crate::interrupted() => {
                progress.finish();
                eprintln!("broken off at step {number} of {}; the same command goes on", plan.steps.len());
                return Ok(Exit::Interrupted);
            }
        };
        match result {
            Ok(how) => done.push(how),
            Err(stop) => {
                progress.finish();
                return Err(stopped(&plan, number, step, stop));
            }
        }
        progress.set(u64::try_from(number).unwrap_or(0));
    }
    progress.finish();
    let now = done.iter().filter(|how| **how == Done::Now).count();
    if args.staff.json {
        println!(
            "{}",
            json!({ "digest": plan.digest(), "approved_by": approval.by, "applied": done.len(), "applied_now": now, "done": true, "plan": plan })
        );
    } else {
        println!("{} steps are done, {now} of them now; approved by {}", done.len(), approval.by);
    }
    Ok(Exit::Ok)
}

fn stopped(plan: &Plan, number: usize, step: &Step, stop: Stop) -> Failure {
    let (total, words) = (plan.steps.len(), step.act.in_words());
    let place = format!("step {number} of {total} ({words})");
    let before = number - 1;
    match stop {
        Stop::Changed(what) => Failure::new(
            Exit::Refused,
            format!(
                "{place}: {what}. The {before} steps before it are done, it and what follows are not; look, and make a new plan for the rest"
            ),
        ),
        Stop::Surprise(what) => Failure::new(
            Exit::Refused,
            format!(
                "{place}: {what}. It and the {before} steps before it are done, what follows is not; look, and make a new plan for the rest"
            ),
        ),
        Stop::AnotherPerson => Failure::new(
            Exit::Refused,
            format!(
                "{place}: somebody else has to do this, with the same command; the {before} steps before it are done"
            ),
        ),
        Stop::Failure(failure) => {
            Failure::new(failure.exit, format!("{place}: {}; the same command goes on", failure.message))
        }
    }
}

/// Who agreed.
struct Approval {
    by: String,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    actor: String,
    detail: Value,
}

struct Applying<'a> {
    client: Client,
    token: SecretString,
    plan: &'a Plan,
}

impl Applying<'_> {
    async fn send(&self, call: Call<'_>) -> Result<Reply, ClientError> {
        self.client.send_patiently(&call.token(&self.token), &Patience::of(PATIENCE)).await
    }

    /// Acts of this kind as the audit log has them. It may be a moment behind, so it is asked until it has what is looked for.
    async fn acts<T>(&self, path: &str, find: impl Fn(Vec<Item>) -> Option<T>) -> Result<Option<T>, ClientError> {
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            let page: Page = self.send(Call::get(path)).await?.json()?;
            if let Some(found) = find(page.items) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn approval(&self) -> Result<Option<Approval>, Failure> {
        let (digest, id) = (self.plan.digest(), self.plan.id());
        let path = format!("/v1/admin/audit?kind=act&action=RepairApproved&resource=repair:{id}&limit=5");
        let found = self
            .acts(&path, |items| {
                let agreed = items.into_iter().find(|item| item.detail["digest"] == digest.as_str())?;
                Some(Approval { by: agreed.actor })
            })
            .await?;
        Ok(found)
    }

    async fn step(&self, number: usize, step: &Step) -> Result<Done, Stop> {
        let reason = self.plan.step_reason(number);
        match &step.act {
            Act::Adjust { wallet_id, kind, direction, amount_usd } => {
                let Some((before, after)) = step.before.wallet.zip(step.after.wallet) else {
                    return Err(Stop::Changed("the plan names no figures".to_owned()));
                };
                let direction = if *direction == Direction::Credit { "credit" } else { "debit" };
                let body = json!({
                    "kind": kind, "direction": direction, "amount_usd": amount_usd, "reason": reason,
                    "expected": { "balance_usd": before.posted_usd, "held_usd": before.held_usd },
                });
                let path = format!("/v1/admin/wallets/{wallet_id}/adjustments");
                let reply = self.send(Call::post(path, &body).key(self.plan.key(number))).await;
                let reply = refused(
                    reply,
                    &["balance_changed", "insufficient_balance", "in_flight_holds", "wallet_not_found"],
                )?;
                let adjusted: Adjusted = reply.json()?;
                if adjusted.wallet_balance_usd != after.posted_usd {
                    let what = format!(
                        "the ledger says that it left {}, the plan says {}",
                        adjusted.wallet_balance_usd, after.posted_usd
                    );
                    return Err(Stop::Failure(Failure::new(Exit::Violated, what)));
                }
                Ok(how(&reply))
            }
            Act::ReleaseHold { hold_id, .. } => {
                let path = format!("/v1/usage/holds/{hold_id}/release");
                let call = Call::post(path, &json!({ "reason": "cancelled" })).key(self.plan.key(number));
                let reply = refused(self.send(call).await, &["hold_not_found"])?;
                let released: Released = reply.json()?;
                let figures = Figures::of_reply(released.wallet.balance_usd, released.wallet.held_usd);
                if figures != step.after.wallet {
                    // It cannot be taken back, so what follows is looked at again by people.
                    let what = "the hold is given back, but its wallet has other figures than the plan says";
                    return Err(Stop::Surprise(what.to_owned()));
                }
                Ok(how(&reply))
            }
            Act::Freeze { scope } => {
                let body = json!({ "scope": scope, "reason": reason });
                let call = Call::post("/v1/admin/freezes", &body).key(self.plan.key(number));
                Ok(how(&refused(self.send(call).await, &["already_frozen"])?))
            }
            Act::Thaw { scope } => {
                let body = json!({ "scope": scope, "reason": reason });
                let call = Call::post("/v1/admin/freezes/thaw", &body).key(self.plan.key(number));
                match self.send(call).await {
                    Err(error) if code(&error) == Some("same_actor") => Err(Stop::AnotherPerson),
                    reply => Ok(how(&refused(reply, &["not_frozen"])?)),
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct Adjusted {
    wallet_balance_usd: Money,
}

#[derive(Deserialize)]
struct Released {
    wallet: ReleasedWallet,
}

#[derive(Deserialize)]
struct ReleasedWallet {
    balance_usd: Money,
    held_usd: Money,
}

impl Figures {
    fn of_reply(posted_usd: Money, held_usd: Money) -> Option<Self> {
        Some(Self { posted_usd, held_usd, available_usd: posted_usd.checked_sub(held_usd)? })
    }
}

fn how(reply: &Reply) -> Done {
    if reply.replayed { Done::Before } else { Done::Now }
}

fn code(error: &ClientError) -> Option<&str> {
    match error {
        ClientError::Refused { detail, .. } => Some(&detail.code),
        ClientError::Unreachable { .. } | ClientError::Unexpected { .. } => None,
    }
}

/// Refusals that say that the ledger is not as the plan expects.
fn refused(result: Result<Reply, ClientError>, changed: &[&str]) -> Result<Reply, Stop> {
    result.map_err(|error| match code(&error) {
        Some(refusal) if changed.contains(&refusal) => Stop::Changed(error.to_string()),
        _ => error.into(),
    })
}
