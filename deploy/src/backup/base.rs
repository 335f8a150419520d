//! Making a base backup: `pg_basebackup` with its WAL, checked with `pg_verifybackup` before it counts.

use std::path::Path;

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::time::Timestamp;
use serde::Deserialize;
use tokio::process::Command;

use super::repository::{Base, Repository};
use super::server::{Server, database_of};
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// What a manifest tells, of all that it holds.
#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "Files")]
    files: Vec<ManifestFile>,
    #[serde(rename = "WAL-Ranges")]
    ranges: Vec<WalRange>,
}

#[derive(Deserialize)]
struct ManifestFile {
    #[serde(rename = "Size")]
    size: u64,
}

#[derive(Deserialize)]
struct WalRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

/// Makes one, verifies it, and removes what need not be kept beside it.
pub(super) async fn make(config: &Config, repository: &Repository, keep: usize) -> Result<Base, Failure> {
    let _alone = repository.lock("base")?;
    let server = Server::connect(config, &database_of(config)?).await?;
    repository.claim(server.system)?;
    repository.create(&repository.dir().join("base"))?;
    let began = Timestamp::now();
    // 2026-11-24T12:34:56.789Z
    let label: String = began.to_millis_text().chars().filter(char::is_ascii_alphanumeric).collect();
    let dir = repository.base_dir(&label);
    // Before it begins, so that it certainly holds this.
    let head = server.head(ShardId(0)).await?;
    let mut command = server.command("pg_basebackup");
    command.arg("--pgdata").arg(&dir);
    command.args(["--format=plain", "--wal-method=stream", "--checkpoint=fast", "--manifest-checksums=SHA256"]);
    command.args(["--label", &label]);
    succeed(&mut command, "pg_basebackup").await?;
    verify(&server.program("pg_verifybackup"), &dir).await?;
    let manifest = read_manifest(&dir)?;
    let range = manifest.ranges.last().ok_or_else(|| Failure::new(Exit::Temporary, "pg_basebackup names no WAL"))?;
    let base = Base {
        label,
        began,
        ended: Timestamp::now(),
        system: server.system,
        timeline: range.timeline,
        start: range.start.clone(),
        end: range.end.clone(),
        log_id: head.log_id,
        position: head.position,
        hash: head.hash.to_string(),
        bytes: manifest.files.iter().map(|file| file.size).sum(),
        segment_size: server.segment_size,
        server: server.version.clone(),
    };
    repository.finish(&base)?;
    for label in repository.prune(keep, config.backup_keep_days()?, base.ended)? {
        eprintln!("removed base backup {label}");
    }
    Ok(base)
}

fn read_manifest(dir: &Path) -> Result<Manifest, Failure> {
    let path = dir.join("backup_manifest");
    let wrong = |error: std::io::Error| Failure::new(Exit::Temporary, format!("{}: {error}", path.display()));
    let text = std::fs::read(&path).map_err(wrong)?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.into()))
}

/// Compares a base backup with its manifest, its own WAL included.
///
/// # Errors
/// What differs, in the program's words.
pub(super) async fn verify(program: &Path, dir: &Path) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").arg("--quiet").arg(dir);
    succeed(&mut command, "pg_verifybackup").await
}

async fn succeed(command: &mut Command, name: &str) -> Result<(), Failure> {
    let output = command.kill_on_drop(true).output().await.map_err(|error| {
        let message =
            format!("{name} cannot be started ({error}): install PostgreSQL's client programs and util-linux");
        Failure::new(Exit::Config, message)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(5).collect();
    Err(Failure::new(Exit::Temporary, format!("{name}: {}", lines.join("; "))))
}
