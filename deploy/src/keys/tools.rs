//! `modelfaucet keys`: which key-encryption keys there are and what needs them, a new one, and sealing everything under it.

use std::fmt::Write as _;

use modelfaucet_schema::ids::CredentialId;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::token::{TokenKind, generate_token};
use modelfaucet_secrets::store::Census;
use modelfaucet_secrets::{KeyEncryption as _, Keyring, Store};
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::secrets::Secrets;
use crate::{DatabaseArgs, database};

/// The file that `up` keeps key-encryption keys in.
pub(crate) const KEK_FILE: &str = "secret_encryption_key";

/// What to do with key-encryption keys.
#[derive(clap::Subcommand)]
pub(crate) enum KeysVerb {
    /// Show which key-encryption keys there are, and how many provider keys need each of them
    List(DatabaseArgs),
    /// Put a new key-encryption key before the others in the data directory; a running `up` takes it at its next start
    Add(DatabaseArgs),
    /// Seal every provider key under the current key-encryption key; may be broken off and begun again
    Rotate {
        #[command(flatten)]
        database: DatabaseArgs,
        /// No progress on standard error
        #[arg(long)]
        quiet: bool,
    },
}

/// Does it.
pub(crate) fn run(verb: &KeysVerb) -> Result<Exit, Failure> {
    match verb {
        KeysVerb::Add(args) => add(&args.config()?),
        KeysVerb::List(args) => {
            let (store, keyring) = open(&args.config()?)?;
            let census = crate::runtime()?.block_on(store.census()).map_err(unreachable)?;
            print!("{}", table(&census, &keyring));
            Ok(Exit::Ok)
        }
        KeysVerb::Rotate { database, quiet } => {
            let (store, keyring) = open(&database.config()?)?;
            crate::runtime()?.block_on(rotate(&store, &keyring, *quiet))
        }
    }
}

/// The key-encryption keys of the settings, else those that `up` keeps.
fn keys(config: &Config) -> Result<Keyring, Failure> {
    if let Some(keyring) = config.keyring()? {
        return Ok(keyring);
    }
    let secrets = Secrets::open(&config.data_dir())?;
    let kept = secrets.get(KEK_FILE)?.ok_or_else(|| {
        let path = secrets.path(KEK_FILE);
        Failure::new(Exit::Config, format!("SECRET_ENCRYPTION_KEY is not set and {} does not exist", path.display()))
    })?;
    parse(&kept, &secrets)
}

fn parse(kept: &SecretString, secrets: &Secrets) -> Result<Keyring, Failure> {
    let wrong = |error| Failure::new(Exit::Config, format!("{}: {error}", secrets.path(KEK_FILE).display()));
    Keyring::parse(kept).map_err(wrong)
}

/// Two handles on the same keys: the store keeps one of them.
fn open(config: &Config) -> Result<(Store, Keyring), Failure> {
    let database = match (config.secrets_database()?, config.database()?) {
        (Some(database), _) => database,
        (None, Some(owner)) => {
            database::role_config(&owner, ServiceRole::Secrets, Some(&Secrets::open(&config.data_dir())?))?
        }
        (None, None) => database::running_private(&config.data_dir(), ServiceRole::Secrets).ok_or_else(|| {
            let message = "no database: start `up` on this data directory, or set SECRETS_DATABASE_URL";
            Failure::new(Exit::Config, message)
        })?,
    };
    Ok((Store::new(database, std::sync::Arc::new(keys(config)?)), keys(config)?))
}

/// Key-encryption keys that provider keys need and that are not here, with how many need each.
///
/// # Errors
/// A [`Failure`] where keys or ciphertexts cannot be looked at.
pub(crate) async fn missing(config: &Config) -> Result<Vec<(u32, i64)>, Failure> {
    let (store, keyring) = open(config)?;
    let census = store.census().await.map_err(unreachable)?;
    let needed = census.iter().filter(|census| census.secrets > 0 && !keyring.has(census.kek));
    Ok(needed.map(|census| (census.kek.0, census.secrets)).collect())
}

fn unreachable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Temporary, error)
}

fn add(config: &Config) -> Result<Exit, Failure> {
    if config.keyring()?.is_some() {
        let message = "SECRET_ENCRYPTION_KEY is set: put the new key before the others there, as ID:KEY";
        return Err(Failure::new(Exit::Config, message));
    }
    let secrets = Secrets::open(&config.data_dir())?;
    let kept = secrets.get(KEK_FILE)?;
    let highest = match &kept {
        Some(kept) => parse(kept, &secrets)?.ids().map(|id| id.0).max().unwrap_or(0),
        None => 0,
    };
    let id = highest.checked_add(1).ok_or_else(|| Failure::new(Exit::Config, "there is no higher id"))?;
    let key = generate_token(TokenKind::Admin).map_err(|error| Failure::new(Exit::Temporary, error))?;
    let old = kept.as_ref().map_or("", |kept| kept.expose_secret());
    secrets.put(KEK_FILE, &SecretString::from(format!("{id}:{}\n{old}", key.expose_secret())))?;
    println!("key {id} stands before the others in {}", secrets.path(KEK_FILE).display());
    println!("next: start again what uses it, then `modelfaucet keys rotate`");
    Ok(Exit::Ok)
}

fn table(census: &[Census], keyring: &Keyring) -> String {
    let mut text = String::from("key          provider keys       seals  state\n");
    let mut lines: Vec<(u32, i64, i64)> =
        census.iter().map(|census| (census.kek.0, census.secrets, census.seals)).collect();
    for id in keyring.ids() {
        if !lines.iter().any(|(known, ..)| *known == id.0) {
            lines.push((id.0, 0, 0));
        }
    }
    lines.sort_unstable();
    for (id, secrets, seals) in lines {
        let kek = modelfaucet_secrets::KekId(id);
        let state = match (keyring.current() == kek, keyring.has(kek), secrets) {
            (true, ..) => "seals",
            (false, true, 0) => "not needed here; kept backups may need it",
            (false, true, _) => "opens",
            (false, false, 0) => "gone",
            (false, false, _) => "MISSING: its provider keys cannot be opened",
        };
        let _infallible = writeln!(text, "{id:<10} {secrets:>15} {seals:>11}  {state}");
    }
    text
}

async fn rotate(store: &Store, keyring: &Keyring, quiet: bool) -> Result<Exit, Failure> {
    let current = keyring.current();
    let census = store.census().await.map_err(unreachable)?;
    let others = census.iter().filter(|census| census.kek != current);
    let total: i64 = others.map(|census| census.secrets).sum();
    let mut progress = Progress::start("keys", u64::try_from(total).unwrap_or(0), quiet);
    let (mut done, mut seen, mut failed) = (0, 0, 0_u64);
    let mut after = CredentialId(Uuid::nil());
    loop {
        let step = tokio::select! {
            step = store.reseal_next(after) => step.map_err(unreachable)?,
            () = crate::interrupted() => {
                progress.finish();
                eprintln!("broken off; the same command goes on");
                return Ok(Exit::Interrupted);
            }
        };
        for (id, error) in &step.failed {
            eprintln!("modelfaucet: provider key {id}: {error}");
        }
        done += step.done;
        failed += u64::try_from(step.failed.len()).unwrap_or(u64::MAX);
        seen += step.done + step.passed + u64::try_from(step.failed.len()).unwrap_or(u64::MAX);
        progress.set(seen);
        match step.next {
            Some(last) => after = last,
            None => break,
        }
    }
    progress.finish();
    println!("{done} provider keys are sealed under key {current} now; {failed} cannot be opened");
    Ok(if failed == 0 { Exit::Ok } else { Exit::Differences })
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_secrets::KekId;

    #[test]
    fn the_list_says_what_may_be_removed_and_what_is_missing() {
        let keyring =
            Keyring::parse(&SecretString::from(format!("3:{k} 2:{k} 1:{k}", k = "k".repeat(32)).as_str())).unwrap();
        let of = |kek, secrets, seals| Census { kek: KekId(kek), secrets, seals };
        let text = table(&[of(1, 0, 7), of(2, 5, 6), of(9, 1, 1)], &keyring);
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..4], ["1", "0", "7", "not"]);
        assert_eq!(lines[1], ["2", "5", "6", "opens"]);
        assert_eq!(lines[2], ["3", "0", "0", "seals"]);
        assert_eq!(lines[3][..4], ["9", "1", "1", "MISSING:"]);
    }
}
