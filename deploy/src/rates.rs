//! `modelfaucet rates`: rate cards from a price map. The map is a file that the operator pins; nothing is ever fetched.

mod diff;
mod entry;
mod field;
mod json;
mod map;
mod number;
mod price;
mod refusal;
mod show;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use modelfaucet_schema::event::{Mode, ModelRates, RateCardPublished};
use modelfaucet_schema::http::MAX_RATE_CARD;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use crate::client::{Call, Client, ClientError, LedgerArgs, Patience};
use crate::exit::{Exit, Failure};
use diff::Diff;
use map::Map;

/// How long temporary failures are borne. A repeat is safe: a card is its content, and is activated once.
const PATIENCE: Duration = Duration::from_mins(1);
/// The longest text about where prices come from.
const MAX_SOURCE: usize = 256;

/// What to do with rate cards.
#[derive(Subcommand)]
pub(crate) enum RatesVerb {
    /// Make a price map the active rate card of a running ledger, and say what that changes
    Import(ImportArgs),
    /// Show the prices of a model on the active rate card
    Show(ShowArgs),
    /// Price usages by a price map, one JSON object per line from standard input; nothing is sent
    Price(PriceArgs),
}

/// What an operator says about a map.
#[derive(Args, Clone, Default)]
struct Choices {
    /// Reads the map as if it did not have this field, for example `off_peak_pricing`; may be given several times
    #[arg(long, value_name = "FIELD")]
    ignore: Vec<String>,
    /// This model is free: both of its prices may be 0; may be given several times
    #[arg(long, value_name = "MODEL")]
    free: Vec<String>,
}

impl Choices {
    /// Where a card's prices come from, and what an operator said about them: it stays on the event.
    fn source(&self, map: &Map, models: usize) -> String {
        let mut text = format!("price map, sha256 {}", map.digest);
        let kept = models.saturating_sub(map.models.len());
        if kept > 0 {
            text = format!("{text}; {kept} models kept");
        }
        for (what, names) in [("ignored", &self.ignore), ("free", &self.free)] {
            if !names.is_empty() {
                text = format!("{text}; {what}: {}", names.join(", "));
            }
        }
        match text.char_indices().nth(MAX_SOURCE - 1) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// A map, and how to read it.
#[derive(Args)]
#[command(args_override_self = true)]
pub(crate) struct ImportArgs {
    /// The price map that `LiteLLM` ships: `model_prices_and_context_window.json`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    ledger: LedgerArgs,
    /// Says what would change and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Keeps the models of the active card that the map does not price
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    choices: Choices,
    /// Lists every model and not only some
    #[arg(long)]
    all: bool,
}

/// Which model.
#[derive(Args)]
#[command(args_override_self = true)]
pub(crate) struct ShowArgs {
    /// The model as requests name it
    #[arg(value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Which map.
#[derive(Args)]
pub(crate) struct PriceArgs {
    /// The price map that `LiteLLM` ships
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    choices: Choices,
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &RatesVerb) -> Result<Exit, Failure> {
    match verb {
        RatesVerb::Import(args) => {
            let map = open(&args.file, &args.choices)?;
            let (client, tokens) = (args.ledger.client()?, args.ledger.tokens()?);
            block_on(import(args, map, &client, tokens.admin()?))
        }
        RatesVerb::Show(args) => {
            let (client, tokens) = (args.ledger.client()?, args.ledger.tokens()?);
            block_on(show(&args.model, &client, tokens.admin()?))
        }
        RatesVerb::Price(args) => {
            let map = open(&args.file, &args.choices)?;
            price::lines(&map, std::io::stdin().lock(), std::io::BufWriter::new(std::io::stdout().lock()))?;
            Ok(Exit::Ok)
        }
    }
}

fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn open(file: &std::path::Path, choices: &Choices) -> Result<Map, Failure> {
    Map::open(file, choices).map_err(|problem| Failure::new(Exit::Config, format!("{} {problem}", file.display())))
}

/// The card that prices now, as the read API tells it.
#[derive(Deserialize)]
struct ActiveCard {
    id: String,
    sha256: String,
    source: String,
    models: Vec<ModelRates>,
}

async fn active(client: &Client, token: &SecretString) -> Result<Option<ActiveCard>, ClientError> {
    match client.send(&Call::get("/v1/admin/rate-card").token(token)).await {
        Ok(reply) => reply.json().map(Some),
        Err(ClientError::Refused { detail, .. }) if detail.code == "rate_card_not_found" => Ok(None),
        Err(error) => Err(error),
    }
}

async fn import(args: &ImportArgs, map: Map, client: &Client, token: &SecretString) -> Result<Exit, Failure> {
    let old = active(client, token).await?;
    let before = old.as_ref().map(|card| card.models.as_slice()).unwrap_or_default();
    let mut models = map.models.clone();
    if args.keep {
        let priced: BTreeSet<_> = models.iter().map(|model| (model.provider.clone(), model.model.clone())).collect();
        let kept = before.iter().filter(|model| !priced.contains(&(model.provider.clone(), model.model.clone())));
        models.extend(kept.cloned().collect::<Vec<_>>());
    }
    let card = RateCardPublished::of(args.choices.source(&map, models.len()), models)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    let body = json!({"source": card.source, "models": card.models});
    let size = serde_json::to_vec(&body).map_or(0, |bytes| bytes.len());
    print!("{}", summary(args, &map, &card, size));
    print!("{}", Diff::of(before, &card.models).lines(args.all));
    print!("{}", diff::refusals(&map, args.all));
    if size > MAX_RATE_CARD {
        return Err(Failure::new(Exit::Refused, format!("the card has {size} bytes, {MAX_RATE_CARD} are taken")));
    }
    if old.is_some_and(|old| old.sha256 == card.sha256) {
        println!("card {} is active already; nothing to do", card.rate_card_id);
        return Ok(Exit::Ok);
    }
    if args.dry_run {
        println!("nothing was changed; without --dry-run this is card {}", card.rate_card_id);
        return Ok(Exit::Ok);
    }
    let call = Call::post("/v1/admin/rate-cards", &body).token(token);
    match client.send_patiently(&call, &Patience::of(PATIENCE)).await {
        Ok(_) => println!("card {} is active: new holds and usage are priced by it", card.rate_card_id),
        // Another import of the same map was faster, or the answer to our first request was lost.
        Err(ClientError::Refused { detail, .. }) if detail.code == "already_exists" => {
            println!("card {} is active already; nothing to do", card.rate_card_id);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Ok)
}

fn summary(args: &ImportArgs, map: &Map, card: &RateCardPublished, size: usize) -> String {
    let kinds: Vec<String> = [
        (Mode::Chat, "chat"),
        (Mode::Responses, "responses"),
        (Mode::Completion, "completion"),
        (Mode::Embedding, "embedding"),
    ]
    .iter()
    .map(|(mode, name)| format!("{} {name}", map.of_mode(*mode)))
    .collect();
    format!(
        "{} · sha256 {}… · {} models priced ({}) · {size} bytes\n",
        args.file.display(),
        map.digest,
        card.models.len(),
        kinds.join(", ")
    )
}

async fn show(model: &str, client: &Client, token: &SecretString) -> Result<Exit, Failure> {
    let card = active(client, token)
        .await?
        .ok_or_else(|| Failure::new(Exit::Refused, "no rate card is active: no model has a price"))?;
    let offers: Vec<_> = card.models.iter().filter(|offer| offer.model == model).collect();
    if offers.is_empty() {
        let message = format!("model_not_found: card {} does not price {model:?}; its use is refused", card.id);
        return Err(Failure::new(Exit::Refused, message));
    }
    println!("card {} · {}", card.id, card.source);
    for offer in offers {
        print!("{}", show::lines(offer));
    }
    Ok(Exit::Ok)
}
