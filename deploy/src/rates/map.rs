//! A price map as `LiteLLM` ships it (`model_prices_and_context_window.json`), read into the models of a rate card.

use std::path::Path;

use modelfaucet_schema::event::{Mode, ModelRates};
use sha2::{Digest as _, Sha256};

use super::Choices;
use super::entry::{Cut, Entry};
use super::json::Members;
use super::refusal::Refusal;
use super::tables::{Dropped, tables};

/// The largest file that is read: 64 MiB.
const MAX_FILE: u64 = 64 << 20;
/// An entry that explains the fields.
const SAMPLE: &str = "sample_spec";

/// What became of a map.
#[derive(Debug)]
pub(super) struct Map {
    /// Its SHA-256, the first 16 hexadecimal digits.
    pub(super) digest: String,
    /// The models that have a price.
    pub(super) models: Vec<ModelRates>,
    /// The others, and why.
    pub(super) refused: Vec<(String, Refusal)>,
    /// Service tiers of priced models that have no price.
    pub(super) dropped: Vec<(String, Dropped)>,
    /// Prices that were cut.
    pub(super) cuts: Vec<Cut>,
}

/// Why a file is not a map.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAMap {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("is larger than {} MiB", MAX_FILE >> 20)]
    TooLarge,
    #[error("is not a JSON object of models: {0}")]
    Json(#[from] serde_json::Error),
    #[error("prices no model")]
    Empty,
}

impl Map {
    /// Reads a file.
    ///
    /// # Errors
    /// [`NotAMap`]
    pub(super) fn open(path: &Path, choices: &Choices) -> Result<Self, NotAMap> {
        if std::fs::metadata(path)?.len() > MAX_FILE {
            return Err(NotAMap::TooLarge);
        }
        Self::read(&std::fs::read(path)?, choices)
    }

    /// Reads a map.
    ///
    /// # Errors
    /// [`NotAMap`]
    pub(super) fn read(bytes: &[u8], choices: &Choices) -> Result<Self, NotAMap> {
        let entries: Members<'_> = serde_json::from_slice(bytes)?;
        let digest = digest(bytes);
        let mut map = Self { digest, models: Vec::new(), refused: Vec::new(), dropped: Vec::new(), cuts: Vec::new() };
        for (model, raw) in entries.0 {
            if model == SAMPLE {
                continue;
            }
            let read = Entry::read(&model, raw, choices).and_then(|mut entry| {
                let cuts = std::mem::take(&mut entry.cuts);
                tables(entry).map(|(rates, dropped)| (rates, dropped, cuts))
            });
            match read {
                Ok((rates, dropped, cuts)) => {
                    map.dropped.extend(dropped.into_iter().map(|dropped| (model.clone(), dropped)));
                    map.models.push(rates);
                    map.cuts.extend(cuts);
                }
                Err(refusal) => map.refused.push((model, refusal)),
            }
        }
        if map.models.is_empty() { Err(NotAMap::Empty) } else { Ok(map) }
    }

    /// How many models answer requests of a kind.
    pub(super) fn of_mode(&self, mode: Mode) -> usize {
        self.models.iter().filter(|model| model.mode == Some(mode)).count()
    }
}

/// The first 16 hexadecimal digits of the SHA-256.
fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let head = hash.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
    format!("{head:016x}")
}
