//! Head notes, and the key that signs them.

use std::sync::Arc;

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::{LogReader, ReadError};
use modelfaucet_schema::token::TokenKind;
use serde_json::json;

use super::note::{Note, Signer};
use crate::DatabaseArgs;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::secrets::Secrets;
use crate::verify::auditor::Auditor;

/// Where `log key` keeps the key.
const KEY_FILE: &str = "log_signing_key";

/// Prints the note of each shard.
pub(super) fn print(args: &DatabaseArgs, as_json: bool) -> Result<Exit, Failure> {
    let signer = signer(&args.config()?)?;
    let auditor = Auditor::open(args)?;
    let notes = crate::runtime()?.block_on(async {
        let reader = LogReader::prepare(Arc::new(auditor.connect().await?)).await?;
        let mut notes = Vec::new();
        for shard in (0..=i16::MAX).map(ShardId) {
            match reader.head(shard).await {
                Ok((log_id, head)) => notes.push(Note { log_id, shard, head }),
                // Shards are numbered without a gap.
                Err(ReadError::NoLog(_)) => break,
                Err(error) => return Err(Failure::new(Exit::Temporary, error)),
            }
        }
        Ok(notes)
    });
    auditor.close()?;
    for note in notes? {
        let text = signer.as_ref().map_or_else(|| note.text(), |signer| signer.sign(&note));
        if as_json {
            let Note { log_id, shard, head } = note;
            let key = signer.as_ref().map(Signer::verifier);
            println!(
                "{}",
                json!({"shard": shard, "log_id": log_id, "position": head.position, "hash": head.hash.to_string(), "note": text, "key": key})
            );
        } else {
            print!("{text}");
        }
    }
    if signer.is_none() {
        eprintln!("not signed: `modelfaucet log key` makes a key, or set LOG_SIGNING_KEY");
    }
    Ok(Exit::Ok)
}

/// What notes are signed with, if there is a key.
fn signer(config: &Config) -> Result<Option<Signer>, Failure> {
    let secret = match config.log_signing_key()? {
        Some(secret) => Some(secret),
        None if config.data_dir().join("secrets").is_dir() => Secrets::open(&config.data_dir())?.get(KEY_FILE)?,
        None => None,
    };
    secret.map(|secret| Signer::new(&secret).map_err(|error| Failure::new(Exit::Config, error))).transpose()
}

/// Prints the key that others check with.
pub(super) fn key(config: &Config) -> Result<Exit, Failure> {
    let signer = if let Some(signer) = signer(config)? {
        signer
    } else {
        let secret = Secrets::open(&config.data_dir())?.get_or_make(KEY_FILE, TokenKind::Admin)?;
        Signer::new(&secret).map_err(|error| Failure::new(Exit::Config, error))?
    };
    println!("{}", signer.verifier());
    Ok(Exit::Ok)
}
