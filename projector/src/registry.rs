//! The versions of read tables, and what an operator does with them: list, switch, roll back, pause, resume, drop.

use std::time::{Duration, Instant};

use modelfaucet_schema::ids::{Position, ShardId};
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, GenericClient, Transaction};

use crate::act::{self, Who};
use crate::setup::GRANT;

/// How long a switch may wait for one lock. New readers queue behind it, so it is short; then it lets them pass and tries again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '100ms'";
/// How long a switch tries.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Begins the reason of a halt that an operator has ordered.
pub const PAUSED: &str = "paused";

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A rule is against it.
    #[error("{0}")]
    Refused(String),
    /// Somebody else is busy; it may go later.
    #[error("{0}")]
    Busy(String),
    /// The database's error.
    #[error("the database failed: {}", .0.as_db_error().map_or_else(|| .0.to_string(), |error| error.message().to_owned()))]
    Database(#[from] Error),
}

/// How far a version has come in one shard.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// The shard.
    pub shard: ShardId,
    /// The last position it has.
    pub position: Position,
    /// The last position that the log has.
    pub head: Position,
    /// Why it does not go on.
    pub halted: Option<String>,
    /// Events that it has put aside.
    pub dead_letters: i64,
}

/// A version of a projection's tables.
#[derive(Clone, Debug, Serialize)]
pub struct Version {
    /// The projection.
    pub name: String,
    /// The version.
    pub version: i32,
    /// Which version of the fold writes it.
    pub code: i32,
    /// `building`, `standby`, `live` or `retired`.
    pub state: String,
    /// Shard by shard; empty before it has begun.
    pub places: Vec<Place>,
}

impl Version {
    /// `NAME vN`
    pub fn title(&self) -> String {
        format!("{} v{}", self.name, self.version)
    }

    /// The schema of its tables.
    pub fn schema(&self) -> String {
        format!("p_{}_v{}", self.name, self.version)
    }

    /// The positions, shard by shard.
    pub fn at(&self) -> Vec<(ShardId, Position)> {
        self.places.iter().map(|place| (place.shard, place.position)).collect()
    }
}

/// All versions, or those of one projection.
///
/// # Errors
/// The database's.
pub async fn list(client: &impl GenericClient, name: Option<&str>) -> Result<Vec<Version>, Error> {
    let mut versions: Vec<Version> = Vec::new();
    for row in client.query(include_str!("sql/versions.sql"), &[&name]).await? {
        let (name, number): (&str, i32) = (row.get(0), row.get(1));
        if versions.last().is_none_or(|last| last.name != name || last.version != number) {
            let version =
                Version { name: name.to_owned(), version: number, code: row.get(2), state: row.get(3), places: vec![] };
            versions.push(version);
        }
        if let (Some(version), Some(shard)) = (versions.last_mut(), row.get::<_, Option<i16>>(4)) {
            version.places.push(Place {
                shard: ShardId(shard),
                position: Position(row.get(5)),
                head: Position(row.get(6)),
                halted: row.get(7),
                dead_letters: row.get(8),
            });
        }
    }
    Ok(versions)
}

/// One version.
///
/// # Errors
/// [`ChangeError::Refused`] if there is none.
pub async fn find(client: &impl GenericClient, name: &str, version: i32) -> Result<Version, ChangeError> {
    let found = list(client, Some(name)).await?.into_iter().find(|found| found.version == version);
    found.ok_or_else(|| {
        ChangeError::Refused(format!("there is no {name} v{version}; `projection list` shows what there is"))
    })
}

/// The live version of a projection.
///
/// # Errors
/// [`ChangeError::Refused`] if there is none.
pub async fn live(client: &impl GenericClient, name: &str) -> Result<Version, ChangeError> {
    let found = list(client, Some(name)).await?.into_iter().find(|found| found.state == "live");
    found.ok_or_else(|| {
        ChangeError::Refused(format!("no version of {name} is live; `projection list` shows what there is"))
    })
}

/// What a comparison of two versions has found; kept with the act.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Compared {
    /// The version that it was compared with.
    pub with: i32,
    /// Where both stood, shard by shard.
    pub at: Vec<(ShardId, Position)>,
    /// Do they hold the same?
    pub is_equal: bool,
    /// What differs, for people; the first few.
    pub differences: Vec<String>,
}

/// Writes down what a comparison has found. Returns its number.
///
/// # Errors
/// The database's.
pub async fn compared(
    client: &impl GenericClient,
    who: &Who,
    name: &str,
    version: i32,
    found: &Compared,
) -> Result<i64, Error> {
    let detail = serde_json::to_string(found).unwrap_or_default();
    act::record(client, who, "diff", (name, version), &detail).await
}

/// How a switch went.
#[derive(Clone, Debug, Serialize)]
pub struct Switched {
    /// What was live.
    pub from: i32,
    /// What is live now.
    pub to: i32,
    /// Where both stood at that moment.
    pub at: Vec<(ShardId, Position)>,
    /// Milliseconds from the first lock to the commit.
    pub milliseconds: u128,
    /// How often it let readers pass first.
    pub retries: u32,
}

#[derive(Deserialize, Serialize)]
struct Flip {
    from: i32,
    to: i32,
}

/// May these tables take the place of the live ones? They may if the newest comparison of the two found them equal, or if somebody
/// else approves of the differences that it found.
///
/// # Errors
/// [`ChangeError::Refused`] with what is missing.
pub async fn may_switch(
    client: &impl GenericClient,
    who: &Who,
    live: &Version,
    next: &Version,
    approved: Option<i64>,
) -> Result<(), ChangeError> {
    let refuse = |reason: String| Err(ChangeError::Refused(reason));
    if next.state != "standby" {
        return refuse(format!("{} is {}; only one that follows the log can be switched to", next.title(), next.state));
    }
    let (name, old, new) = (&next.name, live.version, next.version);
    let advice = format!("`modelfaucet projection diff {name} v{old} v{new}` compares them");
    let Some(newest) = act::newest_diff(client, name, (old, new)).await? else {
        return refuse(format!("{} was not compared with v{old} yet; {advice}", next.title()));
    };
    let Ok(found) = serde_json::from_str::<Compared>(&newest.detail) else {
        return refuse(format!("the record of diff {} cannot be read; {advice}", newest.id));
    };
    if found.is_equal {
        return Ok(());
    }
    match approved {
        None => refuse(format!(
            "diff {0} found differences; if they are intended, somebody else than {1} switches with --approve {0}",
            newest.id, newest.actor
        )),
        Some(id) if id != newest.id => {
            refuse(format!("diff {id} is not the newest of {}; that is {}", next.title(), newest.id))
        }
        Some(id) if newest.actor == who.actor => {
            refuse(format!("{} has made diff {id}; somebody else has to approve of it", who.actor))
        }
        Some(_) => Ok(()),
    }
}

/// Makes a version that follows the log the live one, in one transaction: views, registry and record. The one that was live follows
/// on as standby. Waits until both stand at the same position; readers that hold a view are let through first.
///
/// # Errors
/// [`ChangeError`]; then nothing has changed.
pub async fn switch(
    client: &mut Client,
    who: &Who,
    next: &Version,
    approved: Option<i64>,
) -> Result<Switched, ChangeError> {
    let from = live(client, &next.name).await?;
    may_switch(client, who, &from, next, approved).await?;
    flip(client, who, "switch", &from, next).await
}

/// What was live before.
///
/// # Errors
/// [`ChangeError::Refused`] if there is nothing to go back to.
pub async fn before(client: &impl GenericClient, name: &str) -> Result<Version, ChangeError> {
    let now = live(client, name).await?;
    let newest = act::newest(client, &["switch", "rollback"], (name, now.version)).await?;
    let flip = newest.and_then(|act| serde_json::from_str::<Flip>(&act.detail).ok());
    let Some(flip) = flip else {
        return Err(ChangeError::Refused(format!(
            "{} was not switched to, so there is nothing to go back to",
            now.title()
        )));
    };
    find(client, name, flip.from).await
}

/// Makes the version live again that was live before the last switch. Nothing has to be compared.
///
/// # Errors
/// [`ChangeError`]; then nothing has changed.
pub async fn rollback(client: &mut Client, who: &Who, name: &str) -> Result<Switched, ChangeError> {
    let (from, to) = (live(client, name).await?, before(client, name).await?);
    if to.state != "standby" {
        return Err(ChangeError::Refused(format!("{} is {}", to.title(), to.state)));
    }
    flip(client, who, "rollback", &from, &to).await
}

async fn flip(
    client: &mut Client,
    who: &Who,
    act: &str,
    from: &Version,
    to: &Version,
) -> Result<Switched, ChangeError> {
    let (began, mut retries) = (Instant::now(), 0);
    loop {
        let begun = Instant::now();
        let why = match try_flip(client, who, act, from, to).await {
            Ok(Ok(at)) => {
                let milliseconds = begun.elapsed().as_millis();
                return Ok(Switched { from: from.version, to: to.version, at, milliseconds, retries });
            }
            Ok(Err(behind)) => behind,
            Err(ChangeError::Database(error)) if is_busy(&error) => {
                "readers do not let go of the views: an export may be running".to_owned()
            }
            Err(error) => return Err(error),
        };
        if began.elapsed() > PATIENCE {
            return Err(ChangeError::Busy(why));
        }
        retries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_busy(error: &Error) -> bool {
    let busy = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::QUERY_CANCELED];
    error.code().is_some_and(|code| busy.contains(code))
}

/// The inner error says why the two do not stand at the same place.
async fn try_flip(
    client: &mut Client,
    who: &Who,
    act: &str,
    from: &Version,
    to: &Version,
) -> Result<Result<Vec<(ShardId, Position)>, String>, ChangeError> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(LOCK_TIMEOUT).await?;
    let name = &from.name;
    // Nobody moves them meanwhile: a projector takes its checkpoints first as well.
    let sql = "SELECT version, shard, position, halted FROM projection.checkpoint
               WHERE name = $1 AND version IN ($2, $3) ORDER BY name, version, shard FOR UPDATE";
    let rows = transaction.query(sql, &[name, &from.version, &to.version]).await?;
    let at = |version: i32| -> Vec<(ShardId, Position)> {
        let mine = rows.iter().filter(|row| row.get::<_, i32>(0) == version);
        mine.map(|row| (ShardId(row.get(1)), Position(row.get(2)))).collect()
    };
    let halted = rows.iter().find(|row| row.get::<_, i32>(0) == to.version && row.get::<_, Option<&str>>(3).is_some());
    if let Some(row) = halted {
        let reason: &str = row.get::<_, Option<&str>>(3).unwrap_or_default();
        return Err(ChangeError::Refused(format!("{} has halted: {reason}", to.title())));
    }
    let (was, is) = (at(from.version), at(to.version));
    // A live version that stands still is a reason to switch.
    let is_level = was.len() == is.len()
        && was.iter().zip(&is).all(|((shard, was), (other, is))| shard == other && was <= is)
        && (was == is || stands_still(&rows, from.version));
    if !is_level {
        let show = |at: &[(ShardId, Position)]| vector(at);
        return Ok(Err(format!("{} stands at {}, {} at {}", to.title(), show(&is), from.title(), show(&was))));
    }
    point(&transaction, from, to).await?;
    let set = "UPDATE projection.registry SET state = $3 WHERE name = $1 AND version = $2 AND state = $4";
    let moved = transaction.execute(set, &[name, &from.version, &"standby", &"live"]).await?
        + transaction.execute(set, &[name, &to.version, &"live", &"standby"]).await?;
    if moved != 2 {
        return Err(ChangeError::Busy("somebody else has switched meanwhile; look again".to_owned()));
    }
    let flip = serde_json::to_string(&Flip { from: from.version, to: to.version }).unwrap_or_default();
    act::record(&transaction, who, act, (name, to.version), &flip).await?;
    transaction.commit().await?;
    Ok(Ok(is))
}

fn stands_still(rows: &[tokio_postgres::Row], version: i32) -> bool {
    rows.iter().filter(|row| row.get::<_, i32>(0) == version).all(|row| row.get::<_, Option<&str>>(3).is_some())
}

/// Points the views to `to`. Where the columns are the same they are replaced in place; else they are made anew.
async fn point(transaction: &Transaction<'_>, from: &Version, to: &Version) -> Result<(), ChangeError> {
    let views = "SELECT views FROM projection.registry WHERE name = $1 AND version = $2";
    let of = async |version: &Version| -> Result<String, Error> {
        Ok(transaction.query_one(views, &[&version.name, &version.version]).await?.get(0))
    };
    let (was, is) = (of(from).await?, of(to).await?);
    if is.is_empty() {
        return Err(ChangeError::Refused(format!("nobody knows the views of {}; rebuild it", to.title())));
    }
    if was.replace(&format!("{}.", from.schema()), &format!("{}.", to.schema())) != is {
        let dependent = transaction.query(include_str!("sql/views_of.sql"), &[&from.schema()]).await?;
        for row in dependent {
            transaction.batch_execute(&format!("DROP VIEW read.{}", row.get::<_, &str>(0))).await?;
        }
    }
    transaction.batch_execute(&is).await?;
    Ok(transaction.batch_execute(GRANT).await?)
}

/// Stops a version until it is resumed. Takes the place of no other halt.
///
/// # Errors
/// [`ChangeError`]; then nothing has changed.
pub async fn pause(client: &mut Client, who: &Who, version: &Version) -> Result<(), ChangeError> {
    let transaction = client.transaction().await?;
    let reason = who.reason.as_deref().unwrap_or("no reason given");
    let halted = format!("{PAUSED} by {}: {reason}", who.actor);
    let sql = "UPDATE projection.checkpoint SET halted = $3, updated_at = clock_timestamp()
               WHERE name = $1 AND version = $2 AND halted IS NULL";
    if transaction.execute(sql, &[&version.name, &version.version, &halted]).await? == 0 {
        return Err(ChangeError::Refused(format!("{} stands still already", version.title())));
    }
    act::record(&transaction, who, "pause", (&version.name, version.version), "{}").await?;
    Ok(transaction.commit().await?)
}

/// Lets a version go on that was paused or has halted; a projector notices within seconds.
///
/// # Errors
/// [`ChangeError`]; then nothing has changed.
pub async fn resume(client: &mut Client, who: &Who, version: &Version) -> Result<(), ChangeError> {
    let transaction = client.transaction().await?;
    let sql = "UPDATE projection.checkpoint SET halted = NULL, updated_at = clock_timestamp()
               WHERE name = $1 AND version = $2 AND halted IS NOT NULL";
    if transaction.execute(sql, &[&version.name, &version.version]).await? == 0 {
        return Err(ChangeError::Refused(format!("{} has not halted", version.title())));
    }
    act::record(&transaction, who, "resume", (&version.name, version.version), "{}").await?;
    Ok(transaction.commit().await?)
}

/// Takes a version away that is not live: tables, checkpoints, dead letters. What was done to it stays on record.
///
/// # Errors
/// [`ChangeError`]; then nothing has changed.
pub async fn drop_version(client: &mut Client, who: &Who, version: &Version) -> Result<(), ChangeError> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL lock_timeout = '5s'").await?;
    let (name, number) = (&version.name, version.version);
    let lock = "SELECT state FROM projection.registry WHERE name = $1 AND version = $2 FOR UPDATE";
    let state: Option<String> = transaction.query_opt(lock, &[name, &number]).await?.map(|row| row.get(0));
    match state.as_deref() {
        None => return Err(ChangeError::Refused(format!("there is no {}", version.title()))),
        Some("live") => {
            return Err(ChangeError::Refused(format!("{} is live: everybody reads it; switch first", version.title())));
        }
        Some(_) => {}
    }
    act::record(&transaction, who, "drop", (name, number), "{}").await?;
    // The checkpoint first: a projector that is about to commit finds it gone, and loads again.
    for table in ["checkpoint", "registry"] {
        let sql = format!("DELETE FROM projection.{table} WHERE name = $1 AND version = $2");
        transaction.execute(&sql, &[name, &number]).await?;
    }
    for table in ["dead_letter", "resolved_letter"] {
        let sql = format!("DELETE FROM projection.{table} WHERE projection = $1 AND version = $2");
        transaction.execute(&sql, &[name, &number]).await?;
    }
    let schema = version.schema();
    let tables =
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = to_regnamespace($1) AND c.relkind = 'r'";
    for row in transaction.query(tables, &[&schema]).await? {
        // Without CASCADE: a view that still shows these tables is a reason not to go on.
        transaction.batch_execute(&format!("DROP TABLE {}", row.get::<_, &str>(0))).await?;
    }
    transaction.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema}")).await?;
    Ok(transaction.commit().await?)
}

/// `s00:812 s07:1190774`, as operators write positions.
pub fn vector(at: &[(ShardId, Position)]) -> String {
    if at.is_empty() {
        return "nowhere".to_owned();
    }
    at.iter().map(|(shard, position)| format!("s{:02}:{}", shard.0, position.0)).collect::<Vec<_>>().join(" ")
}
