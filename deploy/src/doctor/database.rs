//! PostgreSQL: does it keep what it acknowledges, are roles and rights as they were made, is its clock right?

use std::time::Duration;

use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::from_system_time;
use modelfaucet_schema::log::migrate::is_current;
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::Client;

use super::report::{Level, Report};
use crate::config::Config;
use crate::exit::Failure;
use crate::keys;
use crate::verify;
use crate::verify::auditor::failure;

/// Versions that are tested.
const VERSIONS: std::ops::RangeInclusive<i32> = 150_000..=189_999;
/// How far clocks may be apart.
const CLOCK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How often the clock is read.
const READINGS: usize = 5;
/// Connections that a process of each role takes beside its pool.
const OTHER_CONNECTIONS: i64 = 12;

/// Looks at the database.
///
/// # Errors
/// The database's.
pub(super) async fn examine(client: &Client, config: &Config, report: &mut Report) -> Result<(), Failure> {
    server(client, config, report).await.map_err(failure)?;
    clock(client, report).await.map_err(failure)?;
    if !is_current(client).await.unwrap_or(false) {
        let what = "the database is not migrated to this program's version";
        report.add("migrations", Level::Refuse, what, "`modelfaucet migrate`, or the program that matches");
        return Ok(());
    }
    report.ok("migrations", "current");
    rights(client, report).await.map_err(failure)?;
    missing_keys(config, report).await;
    Ok(())
}

async fn server(client: &Client, config: &Config, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let setting = async |name: &str| -> Result<String, tokio_postgres::Error> {
        Ok(client
            .query_one("SELECT current_setting($1, true)", &[&name])
            .await?
            .get::<_, Option<String>>(0)
            .unwrap_or_default())
    };
    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        let value = setting(name).await?;
        let good = value == "on"
            || (name == "synchronous_commit" && matches!(value.as_str(), "remote_apply" | "remote_write"));
        report.judge("durability", good, Level::Refuse, format!("{name} = {value}"), format!("set {name} = on"));
    }
    let checksums = setting("data_checksums").await?;
    let todo = "stop it and run pg_checksums --enable: damage of the disk is seen then";
    report.judge("checksums", checksums == "on", Level::Warn, format!("data_checksums = {checksums}"), todo);
    let version: i32 = setting("server_version_num").await?.parse().unwrap_or(0);
    let what = format!("PostgreSQL {}, modelfaucet {}", setting("server_version").await?, env!("CARGO_PKG_VERSION"));
    report.judge("versions", VERSIONS.contains(&version), Level::Warn, what, "use PostgreSQL 15 or newer");
    report.judge(
        "vacuum",
        setting("autovacuum").await? == "on",
        Level::Fail,
        format!("autovacuum = {}", setting("autovacuum").await?),
        "set autovacuum = on: without it the database stops one day",
    );
    let most: i64 = setting("max_connections").await?.parse().unwrap_or(0);
    let used: i64 = client
        .query_one("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'", &[])
        .await?
        .get(0);
    let pool = config.query_pool().map_or(0, |size| i64::try_from(size).unwrap_or(i64::MAX));
    let needed = pool.saturating_add(OTHER_CONNECTIONS);
    let what = format!("{used} of {most} connections in use; a process of all roles takes about {needed}");
    let good = used * 10 < most * 8 && needed < most;
    report.judge("connections", good, Level::Warn, what, "raise max_connections, or lower QUERY_POOL_SIZE");
    Ok(())
}

/// Half of the round trip is how exact it is.
async fn clock(client: &Client, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let (mut best, mut last, mut backwards) = (None::<(Duration, i64)>, None, false);
    for _ in 0..READINGS {
        let before = Timestamp::now();
        let there: Timestamp = from_system_time(client.query_one("SELECT clock_timestamp()", &[]).await?.get(0));
        let after = Timestamp::now();
        backwards |= last.is_some_and(|last| there < last) || after < before;
        last = Some(there);
        let trip = after.since(before);
        let offset = there.micros() - i64::midpoint(before.micros(), after.micros());
        if best.is_none_or(|(shortest, _)| trip < shortest) {
            best = Some((trip, offset));
        }
    }
    let (trip, offset) = best.unwrap_or_default();
    let apart = Duration::from_micros(offset.unsigned_abs());
    let level = match apart {
        _ if backwards || apart > CLOCK.1 => Level::Fail,
        _ if apart > CLOCK.0 => Level::Warn,
        _ => Level::Ok,
    };
    let what = format!(
        "the database is {} ms {} this host (± {} ms){}",
        apart.as_millis(),
        if offset < 0 { "behind" } else { "ahead of" },
        trip.as_millis() / 2,
        if backwards { ", and a clock went back" } else { "" }
    );
    report.judge("clock", level == Level::Ok, level, what, "let chrony or systemd-timesyncd keep both");
    let sql = "SELECT max(committed_at) FROM ledger.head";
    let newest = client.query_opt(sql, &[]).await.ok().flatten();
    if let Some(newest) = newest.and_then(|row| row.get::<_, Option<std::time::SystemTime>>(0)) {
        let ahead = from_system_time(newest).since(Timestamp::now());
        let what = if ahead.is_zero() {
            "the newest event lies in the past".to_owned()
        } else {
            format!("the newest event lies {} s in the future", ahead.as_secs())
        };
        let todo = "a writer's clock was ahead; times stand still until then, holds expire late";
        report.judge("clock", ahead < CLOCK.1, Level::Fail, what, todo);
    }
    Ok(())
}

async fn rights(client: &Client, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT session_user::text, rolsuper OR rolcreaterole OR rolbypassrls FROM pg_roles WHERE rolname = session_user",
            &[],
        )
        .await?;
    let (user, strong): (String, bool) = (row.get(0), row.get(1));
    let what = format!("this tool is connected as {user}");
    report.judge("user", !strong, Level::Warn, what, format!("connect as {}", ServiceRole::Audit.name()));
    let names: Vec<&str> = ServiceRole::ALL.iter().map(|role| role.name()).collect();
    let sql = "SELECT n.name, r.rolname IS NOT NULL, coalesce(r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolbypassrls, false)
               FROM unnest($1::text[]) AS n (name) LEFT JOIN pg_roles r ON r.rolname = n.name";
    for row in client.query(sql, &[&names]).await? {
        let (name, exists, strong): (&str, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !exists {
            report.add("roles", Level::Refuse, format!("{name} is missing"), "`modelfaucet migrate`");
        } else if strong {
            let todo = format!("ALTER ROLE {name} NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS");
            report.add("roles", Level::Refuse, format!("{name} may do more than its work needs"), todo);
        }
    }
    report.ok("roles", format!("{} service roles", names.len()));
    let problems = verify::guards(client).await?;
    for problem in &problems {
        report.add(
            "grants",
            Level::Refuse,
            problem,
            "take the right back, or put the guard back, and find out who changed it",
        );
    }
    if problems.is_empty() {
        report.ok("grants", "no service may change the log, and its guards are in place");
    }
    let open = client.query(include_str!("sql/open_tables.sql"), &[]).await?;
    for row in &open {
        let todo = "start `up` or the projector: it secures its tables";
        report.add("row security", Level::Fail, format!("{} is not secured", row.get::<_, &str>(0)), todo);
    }
    if open.is_empty() {
        report.ok("row security", "on for every read table");
    }
    Ok(())
}

/// Key-encryption keys that provider keys need and nobody here has.
async fn missing_keys(config: &Config, report: &mut Report) {
    match keys::missing(config).await {
        Ok(missing) if missing.is_empty() => report.ok("keys", "every provider key can be opened"),
        Ok(missing) => {
            let list: Vec<String> =
                missing.iter().map(|(key, count)| format!("key {key} for {count} provider keys")).collect();
            let todo = "put it back behind the first one in SECRET_ENCRYPTION_KEY";
            report.add("keys", Level::Fail, format!("missing: {}", list.join(", ")), todo);
        }
        // Whoever has no access to secrets, as an auditor should not, cannot look.
        Err(failure) => report.ok("keys", format!("provider keys were not looked at: {}", failure.message)),
    }
}
