//! What a first start creates, so that the first curl works: a developer with a token, the app `app_pub_demo`, a feature, a rate card
//! with real prices, and the user `crm-demo-user` with 10 USD of test credit. All of it through commands, like everybody else's.

use std::time::Duration;

use modelfaucet_command::domain::{Caller, Command};
use modelfaucet_command::writer::core::Outcome;
use modelfaucet_command::writer::{CommandError, Ledger, Request};
use modelfaucet_schema::account::{InvalidName, Name};
use modelfaucet_schema::event::{AppSettings, Event, KeyUse, ModelRates, Pricing, SessionOpening, Status};
use modelfaucet_schema::ids::{AppId, DeveloperId, FeatureId, SessionId, TokenId, UserId, WalletId};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::{InvalidRate, Rate};
use modelfaucet_schema::token::{Scope, TokenHash, TokenKind, UserHash, generate_token, short_hash};
use modelfaucet_schema::usage::Component;
use secrecy::{ExposeSecret as _, SecretString};

use crate::exit::{Exit, Failure};
use crate::secrets::Secrets;

/// The sandbox app's public id.
pub(crate) const DEMO_APP: &str = "app_pub_demo";
/// The sandbox feature's key.
pub(crate) const DEMO_FEATURE: &str = "customer_reply";
/// The sandbox user, as the sandbox app calls it.
pub(crate) const DEMO_USER: &str = "crm-demo-user";
/// What the sandbox user begins with, in units of 1e-8 USD.
const DEMO_CREDIT: Money = Money::from_units(1_000_000_000);
/// The name that the sandbox developer's token is kept under.
pub(crate) const DEVELOPER_TOKEN: &str = "developer_token";

/// USD per million tokens as the providers list them: provider, model, input, cached input, output. Reasoning is billed as
/// output. As of November 2026; replace it by a card of your own with `POST /v1/admin/rate-cards`.
const PRICES: &[(&str, &str, &str, &str, &str)] = &[
    ("openai", "gpt-4o-mini", "0.15", "0.075", "0.60"),
    ("openai", "gpt-4o", "2.50", "1.25", "10.00"),
    ("openai", "gpt-4.1", "2.00", "0.50", "8.00"),
    ("openai", "gpt-4.1-mini", "0.40", "0.10", "1.60"),
    ("openai", "gpt-4.1-nano", "0.10", "0.025", "0.40"),
    ("openai", "gpt-5", "1.25", "0.125", "10.00"),
    ("openai", "gpt-5-mini", "0.25", "0.025", "2.00"),
    ("openai", "gpt-5-nano", "0.05", "0.005", "0.40"),
    ("anthropic", "claude-haiku-4-5", "1.00", "0.10", "5.00"),
    ("anthropic", "claude-sonnet-4-5", "3.00", "0.30", "15.00"),
    ("gemini", "gemini-2.5-flash", "0.30", "0.03", "2.50"),
    ("gemini", "gemini-2.5-flash-lite", "0.10", "0.01", "0.40"),
];

/// Prices that do not parse; a test keeps them right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadPrices {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    Rate(#[from] InvalidRate),
}

/// The rate card of the first start.
pub(crate) fn rate_card() -> Result<Vec<ModelRates>, BadPrices> {
    PRICES
        .iter()
        .map(|(provider, model, input, cached, output)| {
            let (input, cached, output) =
                (Rate::per_million(input)?, Rate::per_million(cached)?, Rate::per_million(output)?);
            let rates = [
                (Component::InputUncached, input),
                (Component::CacheRead, cached),
                (Component::OutputText, output),
                (Component::OutputReasoning, output),
            ];
            Ok(ModelRates::flat(provider.parse::<Name>()?, *model, rates))
        })
        .collect()
}

/// Creates what is missing of the sandbox. A start that was killed in the middle is finished by the next one.
pub(crate) async fn seed(ledger: &Ledger, secrets: &Secrets, user_key: &SecretString) -> Result<SecretString, Failure> {
    let token = if let Some(token) = secrets.get(DEVELOPER_TOKEN)? {
        token
    } else {
        let token = generate_token(TokenKind::Developer).map_err(|error| Failure::new(Exit::Temporary, error))?;
        secrets.put(DEVELOPER_TOKEN, &token)?;
        token
    };
    if ledger.directory().token(&TokenHash::of(&token)).is_none() {
        let developer_id = match ledger.directory().app(DEMO_APP) {
            Some(app) => app.developer_id,
            None => register(ledger).await?,
        };
        demo_user(ledger, user_key).await?;
        // The token comes last: it says that everything else is there.
        let command = Command::IssueDeveloperToken {
            token_id: TokenId::generate(),
            developer_id,
            name: "sandbox".to_owned(),
            token_hash: TokenHash::of(&token),
            token_prefix: token.expose_secret().chars().take(TokenKind::Developer.shown()).collect(),
            scopes: Scope::ALL.to_vec(),
            expires_at: None,
        };
        run(ledger, command).await?;
    }
    Ok(token)
}

/// Developer, rate card, app, feature; the app last but one, since its presence means that the developer is there.
async fn register(ledger: &Ledger) -> Result<DeveloperId, Failure> {
    let developer_id = DeveloperId::generate();
    let (name, email) = ("Sandbox developer".to_owned(), "sandbox@modelfaucet.example".to_owned());
    run(ledger, Command::RegisterDeveloper { developer_id, name, email }).await?;
    let models = rate_card().map_err(|error| Failure::new(Exit::Config, error))?;
    let source = "providers' price lists, November 2026".to_owned();
    allow_existing(run(ledger, Command::ActivateRateCard { source, models }).await)?;
    let settings = AppSettings {
        name: "Demo app".to_owned(),
        vertical: None,
        default_revenue_share_bps: BasisPoints::new(4_000).unwrap_or_default(),
        status: Status::Active,
        session_opening: SessionOpening::Public,
    };
    let public_app_id = DEMO_APP.to_owned();
    run(ledger, Command::RegisterApp { app_id: AppId::generate(), developer_id, public_app_id, settings }).await?;
    let feature = Command::DefineFeature {
        feature_id: FeatureId::generate(),
        public_app_id: DEMO_APP.to_owned(),
        feature_key: DEMO_FEATURE.to_owned(),
        display_name: "Reply to a customer".to_owned(),
        pricing: Pricing::default(),
        policy: serde_json::Map::default(),
    };
    allow_existing(run(ledger, feature).await)?;
    Ok(developer_id)
}

/// The wallet of the sandbox user, opened by a session that ends at once, and its credit, once.
async fn demo_user(ledger: &Ledger, user_key: &SecretString) -> Result<(), Failure> {
    let Some(app) = ledger.directory().app(DEMO_APP) else { return Ok(()) };
    let session_id = SessionId::generate();
    let nobodys = generate_token(TokenKind::Session).map_err(|error| Failure::new(Exit::Temporary, error))?;
    let open = Command::OpenSession {
        session_id,
        wallet_id: WalletId::generate(),
        user_id: UserId::generate(),
        app_id: app.app_id,
        user_hash: UserHash::of(user_key, app.app_id, DEMO_USER),
        feature_key: None,
        token_hash: TokenHash::of(&nobodys),
        ttl: Duration::from_secs(60),
    };
    let opened = submit(ledger, open, None).await?;
    let Event::SessionOpened(opened) = &opened.recorded.event else {
        return Err(Failure::new(Exit::Temporary, "a session was not opened by its command"));
    };
    run(ledger, Command::RevokeSession { session_id }).await?;
    let key = KeyUse {
        key: short_hash(&[b"setup", b"demo-user-credit"]),
        fingerprint: short_hash(&[b"grant_test_credit", DEMO_USER.as_bytes()]),
    };
    let credit = Command::GrantTestCredit { wallet_id: opened.wallet_id, amount: DEMO_CREDIT };
    submit(ledger, credit, Some(key)).await.map(drop)
}

async fn run(ledger: &Ledger, command: Command) -> Result<(), Failure> {
    submit(ledger, command, None).await.map(drop)
}

async fn submit(ledger: &Ledger, command: Command, key: Option<KeyUse>) -> Result<Outcome, Failure> {
    let name = command.name();
    let request = Request { caller: Caller::Operator, command, key };
    match ledger.submit("first-start", request).await {
        Ok(outcome) => Ok(outcome),
        Err(CommandError::Rejected(rejection)) => Err(Failure::new(Exit::Refused, format!("{name}: {rejection}"))),
        Err(error) => Err(Failure::new(Exit::Temporary, format!("{name}: {error}"))),
    }
}

/// An earlier start may have come this far.
fn allow_existing(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.exit == Exit::Refused => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prices_parse_and_name_each_model_once() {
        let card = rate_card().unwrap();
        let models: std::collections::BTreeSet<_> = card.iter().map(|rates| &rates.model).collect();
        assert_eq!(models.len(), PRICES.len());
        assert!(card.iter().all(|rates| rates.rates.len() == 4));
    }
}
