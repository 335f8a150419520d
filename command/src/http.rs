//! The write API. Handlers are thin: who is it, what is wanted, one command, the answer made from its event.

mod admin;
mod apps;
mod auth;
mod batch;
mod checkout;
mod developers;
mod features;
mod holds;
mod incidents;
mod payouts;
mod provider_keys;
mod rate_cards;
mod refunds;
mod repairs;
mod reply;
mod sessions;
mod staff;
mod stripe;
mod top_ups;
mod usage;
mod values;
mod write_offs;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::log::{AccessKind, AccessLog};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::token::TokenHash;
use secrecy::SecretString;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use reply::error as command_error;
pub use reply::rejection_table;

use crate::domain::Command;
use crate::payout::PayoutProvider;
use crate::stripe::Stripe;
use crate::vault::Vault;
use crate::writer::{CommandError, Ledger, Request};
use auth::Authenticated;
use reply::Done;

/// How long a whole command request may take before its result is called in doubt.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// What the write API needs.
#[derive(Clone)]
pub struct Api {
    /// The way to the writer.
    pub ledger: Ledger,
    /// SHA-256 of the admin token.
    pub admin_token: TokenHash,
    /// Where attempts of those who run the ledger, and uses of tokens, are recorded.
    pub access: AccessLog,
    /// Key of the HMAC that stands for apps' own user ids.
    pub user_key: Arc<SecretString>,
    /// Life of a new session.
    pub session_ttl: Duration,
    /// Where clients find the gateway; part of the session reply.
    pub gateway_base_url: Arc<str>,
    /// Where provider keys are kept; absent: none are taken.
    pub vault: Option<Arc<dyn Vault>>,
    /// The payment provider.
    pub stripe: Arc<Stripe>,
    /// Who pays developers out; the first one unless a request names another.
    pub payout_providers: Arc<[Arc<dyn PayoutProvider>]>,
    /// What a developer must be owed for a payout by threshold.
    pub payout_threshold: Money,
}

impl FromRef<Api> for Ledger {
    fn from_ref(api: &Api) -> Self {
        api.ledger.clone()
    }
}

impl Api {
    /// Submits a command for a caller and waits for what becomes of it.
    async fn submit(&self, who: &Authenticated, command: Command, key: Option<Key<'_>>) -> Result<Done, ApiError> {
        self.try_submit(who, command, key).await.map_err(|error| reply::error(&error))
    }

    /// The same for handlers that have to do something about a refusal.
    async fn try_submit(
        &self,
        who: &Authenticated,
        command: Command,
        key: Option<Key<'_>>,
    ) -> Result<Done, CommandError> {
        let is_call = matches!(
            command,
            Command::PlaceHold { .. }
                | Command::CaptureHold { .. }
                | Command::ReleaseHold { .. }
                | Command::RecordUsage { .. }
        );
        // Calls are not acts.
        if !is_call {
            self.record_attempt(who).await?;
        }
        let key = key.map(|key| key.hash(&who.scope));
        let request = Request { caller: who.caller, command, key };
        match tokio::time::timeout(REQUEST_LIMIT, self.ledger.submit(who.request_id.as_str(), request)).await {
            Ok(Ok(outcome)) => Ok(Done { outcome, caller: who.caller }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CommandError::InDoubt),
        }
    }

    /// What those who run the ledger are about to change is recorded first, with where they are: once for each request.
    async fn record_attempt(&self, who: &Authenticated) -> Result<(), CommandError> {
        if who.caller.power().is_none() {
            return Ok(());
        }
        let access = who.request_id.access(who.caller.actor(), AccessKind::Attempt);
        self.access.record(&access).await.map_err(|error| {
            tracing::error!(%error, "an act was refused");
            // To the caller it is the same database, and the command was not handed in.
            CommandError::Unavailable
        })
    }
}

/// An idempotency key as a client gave it, and what it was given for.
struct Key<'a> {
    text: &'a str,
    operation: &'a str,
    fingerprint: Vec<u8>,
}

impl<'a> Key<'a> {
    /// The key `text` for an operation whose content is `parts` and `body`. The same request always gives the same fingerprint,
    /// whatever its white space and order of members.
    fn new(text: &'a str, operation: &'a str, path: &str, body: &impl serde::Serialize) -> Self {
        let fingerprint = serde_json::to_vec(&(path, body)).unwrap_or_default();
        Self { text, operation, fingerprint }
    }

    fn hash(&self, scope: &str) -> modelfaucet_schema::event::KeyUse {
        use modelfaucet_schema::token::short_hash;
        modelfaucet_schema::event::KeyUse {
            key: short_hash(&[scope.as_bytes(), self.text.as_bytes()]),
            fingerprint: short_hash(&[self.operation.as_bytes(), &self.fingerprint]),
        }
    }
}

/// 400: money moves only under a key.
fn key_required() -> ApiError {
    ApiError::new(
        400,
        "idempotency_key_required",
        "Send an Idempotency-Key header, so that a repeat has no second effect.",
    )
    .param("Idempotency-Key")
}

/// All routes of the write API.
pub fn router(api: Api) -> OpenApiRouter {
    // There from the start, so that an alert sees the first ones.
    metrics::counter!("modelfaucet_stripe_refused_total").increment(0);
    metrics::counter!("modelfaucet_stripe_unsigned_total").increment(0);
    routes().with_state(api)
}

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(sessions::open))
        .routes(routes!(sessions::revoke))
        .routes(routes!(holds::place))
        .routes(routes!(holds::capture))
        .routes(routes!(holds::release))
        .routes(routes!(usage::record))
        .routes(routes!(batch::record_batch))
        .routes(routes!(top_ups::request))
        .routes(routes!(top_ups::credit))
        .routes(routes!(top_ups::fail))
        .routes(routes!(checkout::open))
        .routes(routes!(stripe::webhook))
        .routes(routes!(stripe::take))
        .routes(routes!(stripe::unfinished))
        .routes(routes!(stripe::rework))
        .routes(routes!(stripe::swept, stripe::sweep))
        .routes(routes!(refunds::request))
        .routes(routes!(write_offs::propose))
        .routes(routes!(write_offs::approve))
        .routes(routes!(repairs::propose))
        .routes(routes!(repairs::approve))
        .routes(routes!(incidents::close))
        .routes(routes!(payouts::run))
        .routes(routes!(payouts::request))
        .routes(routes!(payouts::approve))
        .routes(routes!(payouts::mark_paid))
        .routes(routes!(payouts::fail))
        .routes(routes!(payouts::cancel))
        .routes(routes!(payouts::give_back))
        .routes(routes!(admin::credit_test_balance))
        .routes(routes!(admin::grant_promo))
        .routes(routes!(admin::adjust))
        .routes(routes!(admin::freeze))
        .routes(routes!(admin::thaw))
        .routes(routes!(provider_keys::add_user_key))
        .routes(routes!(provider_keys::disable_user_key))
        .routes(routes!(provider_keys::add_developer_key))
        .routes(routes!(provider_keys::disable_developer_key))
        .routes(routes!(admin::set_disconnect_policy))
        .routes(routes!(staff::issue))
        .routes(routes!(staff::revoke))
        .routes(routes!(developers::register_developer))
        .routes(routes!(developers::issue_token))
        .routes(routes!(developers::revoke_token))
        .routes(routes!(apps::register_app))
        .routes(routes!(apps::change_app, apps::disable_app))
        .routes(routes!(features::define_feature))
        .routes(routes!(features::change_feature, features::remove_feature))
        .routes(routes!(rate_cards::activate_rate_card))
}

/// The document of the write API, without a ledger behind it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}
