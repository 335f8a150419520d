//! What tools of operators share: the database as the projector, who is at the keyboard, and how refusals end.

use modelfaucet_projector::act::Who;
use modelfaucet_projector::letters::RetryError;
use modelfaucet_projector::registry::ChangeError;
use modelfaucet_projector::store::LoadError;
use modelfaucet_projector::{Projector, ProjectorError};
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::from_system_time;
use modelfaucet_schema::staff::{Power, StaffRole};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::TokenHash;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_postgres::{Client, Config};

use crate::DatabaseArgs;
use crate::database;
use crate::exit::{Exit, Failure};
use crate::progress::Manner;
use crate::verify::auditor::{self, Auditor};

/// Where an operator's tool works, and how it talks.
#[derive(clap::Args, Clone)]
#[command(args_override_self = true)]
pub(crate) struct OperatorArgs {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error
    #[arg(long)]
    pub(crate) quiet: bool,
}

impl OperatorArgs {
    /// How progress is shown.
    pub(crate) fn manner(&self) -> Manner {
        Manner { quiet: self.quiet, json: self.json }
    }
}

/// The one rule of every tool that changes something: it says what it would do, and does it with `--yes`.
#[derive(clap::Args, Clone)]
pub(crate) struct Consent {
    /// Do it; without this only say what would be done
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Only say what would be done, as without --yes
    #[arg(long)]
    dry_run: bool,
}

impl Consent {
    /// What is said when nothing was done.
    pub(crate) const NOTHING_DONE: &str = "nothing was done; repeat with --yes";

    /// Is it meant?
    pub(crate) fn is_given(&self) -> bool {
        self.yes && !self.dry_run
    }
}

/// Whether it is meant, and why.
#[derive(clap::Args, Clone)]
pub(crate) struct ActArgs {
    /// Why, for the record; for example the name of the incident
    #[arg(long, value_name = "TEXT", required = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

/// The database, reachable as `ledger_projector`.
pub(crate) struct Operator {
    auditor: Auditor,
    staff_token: Option<SecretString>,
}

impl Operator {
    /// Runs `work` on the database that is named, else on the private one, which is started if it is at rest.
    pub(crate) fn run<T>(
        args: &OperatorArgs,
        work: impl AsyncFnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let operator = Self {
            auditor: Auditor::open_as(&args.database, ServiceRole::Projector)?,
            staff_token: args.database.config()?.staff_token()?,
        };
        let result = crate::runtime()?.block_on(async {
            database::check(operator.config(), ServiceRole::Projector).await?;
            work(&operator).await
        });
        operator.auditor.close()?;
        result
    }

    /// How to connect.
    pub(crate) fn config(&self) -> &Config {
        self.auditor.config()
    }

    /// A session without time limits.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        self.auditor.connect().await
    }

    /// Who is at the keyboard: the staff token's owner if there is one, else the user of the operating system, which is a claim.
    pub(crate) async fn who(&self, client: &Client, reason: Option<&str>) -> Result<Who, Failure> {
        let reason = reason.map(str::to_owned);
        let Some(token) = &self.staff_token else {
            let actor = format!("os:{}", rustix::process::getuid().as_raw());
            return Ok(Who { actor, reason });
        };
        let refuse = |why: &str| Failure::new(Exit::Refused, format!("STAFF_TOKEN {why}"));
        let sql = "SELECT token_id::text, role, status, expires_at FROM read.staff_token WHERE token_hash = $1";
        let hash = TokenHash::of(token);
        let row = client.query_opt(sql, &[&hash.as_bytes().as_slice()]).await.map_err(auditor::failure)?;
        let row = row.ok_or_else(|| refuse("is not known here"))?;
        let (id, role): (String, String) = (row.get(0), row.get(1));
        let has_ended = row.get::<_, Option<_>>(3).is_some_and(|end| from_system_time(end) <= Timestamp::now());
        if row.get::<_, &str>(2) != "active" || has_ended {
            return Err(refuse("was revoked or has ended"));
        }
        if !role.parse::<StaffRole>().is_ok_and(|role| role.may(Power::Operate)) {
            return Err(refuse("may not operate: it takes an operator or an administrator"));
        }
        Ok(Who { actor: format!("{role}:{id}"), reason })
    }

    /// The shards that have a log.
    pub(crate) async fn shards(&self, client: &Client) -> Result<Vec<ShardId>, Failure> {
        let rows = client.query("SELECT shard FROM ledger.log ORDER BY shard", &[]).await.map_err(auditor::failure)?;
        Ok(rows.iter().map(|row| ShardId(row.get(0))).collect())
    }

    /// A projector of this program over some shards.
    pub(crate) async fn projector(config: &Config, shards: Vec<ShardId>) -> Result<Projector, Failure> {
        Ok(Projector::connect(config.clone(), shards).await?)
    }
}

/// Counts how often the user has interrupted: the first time ends after what is on its way, the second at once.
pub(crate) fn count_interrupts() -> watch::Receiver<u32> {
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            crate::interrupted().await;
            sender.send_modify(|count| *count += 1);
        }
    });
    receiver
}

/// `18204551` as `18,204,551`.
pub(crate) fn thousands(number: impl std::fmt::Display) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(why) => Self::new(Exit::Refused, why),
            ChangeError::Busy(why) => Self::new(Exit::Temporary, why),
            ChangeError::Database(error) => auditor::failure(error),
        }
    }
}

impl From<ProjectorError> for Failure {
    fn from(error: ProjectorError) -> Self {
        match error {
            ProjectorError::Database(error) | ProjectorError::Load(LoadError::Database(error)) => {
                auditor::failure(error)
            }
            ProjectorError::Read(error) => error.into(),
            ProjectorError::Load(error) => Self::new(Exit::Differences, error),
            ProjectorError::Halted(halts) => {
                let halts: Vec<String> = halts.iter().map(ToString::to_string).collect();
                Self::new(Exit::Refused, halts.join("; "))
            }
        }
    }
}

impl From<modelfaucet_schema::log::ReadError> for Failure {
    fn from(error: modelfaucet_schema::log::ReadError) -> Self {
        use modelfaucet_schema::log::ReadError;
        match error {
            ReadError::Database(error) => auditor::failure(error),
            ReadError::Gap { .. } | ReadError::Chain { .. } => Self::new(Exit::Violated, error),
            ReadError::Decode { .. } | ReadError::NoLog(_) => Self::new(Exit::Config, error),
        }
    }
}

impl From<RetryError> for Failure {
    fn from(error: RetryError) -> Self {
        match error {
            RetryError::Change(error) => error.into(),
            RetryError::Read(error) => error.into(),
            RetryError::Load(error) => ProjectorError::Load(error).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (18_204_551, "18,204,551")] {
            assert_eq!(thousands(number), text);
        }
    }
}
