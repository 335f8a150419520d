//! Provider keys of users and developers: taken in, never given back.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{CredentialAdded, CredentialOwner, DisableReason, Event, KeyProvider, Status};
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId, idempotency_key};
use modelfaucet_schema::ids::CredentialId;
use modelfaucet_schema::money::{Money, RequestMoney};
use modelfaucet_schema::token::Scope;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use super::auth::Authenticated;
use super::reply::{self, Done};
use super::values::{Identifier, Text, path_id};
use super::{Api, Key};
use crate::domain::{Caller, Command, credential};
use crate::vault::{SealedTo, Vault, VaultError};
use crate::writer::CommandError;

/// The most models of one key.
const MAX_MODELS: usize = 200;

/// The text of a key: 1 to 4096 characters. Not part of anything that is printed or hashed.
pub(super) struct ApiKey(SecretString);

impl<'de> Deserialize<'de> for ApiKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = SecretString::from(String::deserialize(deserializer)?);
        match text.expose_secret().len() {
            1..=4_096 => Ok(Self(text)),
            _ => Err(de::Error::custom("a key must have 1 to 4096 characters")),
        }
    }
}

fn default_priority() -> u16 {
    100
}

/// A user's key to store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddUserKey {
    /// `openai`, `openrouter`, `anthropic`, `gemini`, `google`, `azure_openai` or `openai_compatible`, in any case.
    provider: Text<1, 64>,
    /// The key. It is encrypted, never shown again and sent to `base_url` only.
    #[schema(value_type = String, min_length = 1, max_length = 4096)]
    api_key: ApiKey,
    /// Another address than the provider's own: https, a public host.
    base_url: Option<Text<1, 2048>>,
    /// Models that stand for `auto:…`, the preferred one first.
    #[serde(default)]
    models_allowed: Vec<Text<1, 256>>,
    /// The most that calls with this key may cost at the provider, by our rate cards.
    budget_limit_usd: Option<RequestMoney>,
    /// The key with the lowest number is used, 1 to 1000.
    #[serde(default = "default_priority")]
    #[schema(minimum = 1, maximum = 1000)]
    priority: u16,
    /// Make calls that this key fails with the platform's key.
    #[serde(default)]
    fallback_to_platform: bool,
}

/// A developer's key to store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddDeveloperKey {
    /// An app of the developer. The key serves all apps of that developer.
    public_app_id: Identifier,
    /// `openai`, `openrouter`, `anthropic`, `gemini`, `google`, `azure_openai` or `openai_compatible`, in any case.
    provider: Text<1, 64>,
    /// The key. It is encrypted, never shown again and sent to `base_url` only.
    #[schema(value_type = String, min_length = 1, max_length = 4096)]
    api_key: ApiKey,
    /// Another address than the provider's own: https, a public host.
    base_url: Option<Text<1, 2048>>,
    /// Models that stand for `auto:…`, the preferred one first.
    #[serde(default)]
    models_allowed: Vec<Text<1, 256>>,
    /// The most that calls with this key may cost at the provider, by our rate cards.
    budget_limit_usd: Option<RequestMoney>,
    /// The key with the lowest number is used, 1 to 1000.
    #[serde(default = "default_priority")]
    #[schema(minimum = 1, maximum = 1000)]
    priority: u16,
    /// Make calls that this key fails with the platform's key.
    #[serde(default)]
    fallback_to_platform: bool,
}

impl AddDeveloperKey {
    /// What it has in common with a user's key.
    fn split(self) -> (Identifier, AddUserKey) {
        let key = AddUserKey {
            provider: self.provider,
            api_key: self.api_key,
            base_url: self.base_url,
            models_allowed: self.models_allowed,
            budget_limit_usd: self.budget_limit_usd,
            priority: self.priority,
            fallback_to_platform: self.fallback_to_platform,
        };
        (self.public_app_id, key)
    }
}

/// A provider key, without the key.
#[derive(Serialize, ToSchema)]
pub(super) struct ProviderKeyReply {
    /// Its id.
    id: CredentialId,
    /// The provider.
    provider: KeyProvider,
    /// The address that its owner named for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    /// Enough of it to recognise it by.
    masked: String,
    /// In use or not.
    status: Status,
    /// Models that stand for `auto:…`.
    models_allowed: Vec<String>,
    /// The key with the lowest number is used.
    priority: u16,
    /// The most that calls with it may cost at the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_limit_usd: Option<Money>,
    /// Are calls that it fails made with the platform's key?
    fallback_to_platform: bool,
}

/// Done.
#[derive(Serialize, ToSchema)]
pub(super) struct DisabledReply {
    /// Always true.
    ok: bool,
}

/// Store a provider key of the session's user.
///
/// Calls of this user may then take the route `byok`. With an `Idempotency-Key` a repeat gives the same key again.
#[utoipa::path(post, path = "/v1/user/provider-keys", tag = "provider-keys", security(("bearer" = ["session"])), request_body = AddUserKey,
    params(("Idempotency-Key" = Option<String>, Header)), responses(
    (status = 201, description = "The key, masked", body = ProviderKeyReply),
    (status = "4XX", description = "invalid_request, secret_validation_failed, invalid_session, too_many_provider_keys", body = ErrorBody),
    (status = "5XX", description = "provider_keys_unavailable, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn add_user_key(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<AddUserKey>,
) -> Result<Response, ApiError> {
    let (who, owner) = api.require_user(&headers, request_id).await?;
    let body = body.read().await?;
    add(&api, &who, owner, body, &headers).await
}

/// Store a provider key of a developer.
///
/// Calls of all users of the developer's apps may then take the route `developer_key`.
#[utoipa::path(post, path = "/v1/developer/provider-keys", tag = "provider-keys", security(("bearer" = ["admin"]), ("bearer" = ["developer:provider_keys:write"])), request_body = AddDeveloperKey,
    params(("Idempotency-Key" = Option<String>, Header)), responses(
    (status = 201, description = "The key, masked", body = ProviderKeyReply),
    (status = "4XX", description = "invalid_request, secret_validation_failed, invalid_app, forbidden, too_many_provider_keys", body = ErrorBody),
    (status = "5XX", description = "provider_keys_unavailable, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn add_developer_key(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<AddDeveloperKey>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::ProviderKeysWrite).await?;
    let body = body.read().await?;
    let (public_app_id, body) = body.split();
    let app = api.known(|| api.ledger.directory().app(&public_app_id.0)).await;
    let own = |developer| !matches!(who.caller, Caller::Developer(own, _) if own != developer);
    let app = app.filter(|app| own(app.developer_id));
    let app =
        app.ok_or_else(|| ApiError::new(404, "invalid_app", "The public app id is invalid.").param("public_app_id"))?;
    add(&api, &who, CredentialOwner::Developer { developer_id: app.developer_id }, body, &headers).await
}

/// Disable a provider key of the session's user.
///
/// It is not used any more and its ciphertext is removed. A repeat changes nothing.
#[utoipa::path(delete, path = "/v1/user/provider-keys/{credential_id}", tag = "provider-keys", security(("bearer" = ["session"])),
    params(("credential_id" = CredentialId, Path)), responses(
    (status = 200, description = "It is disabled", body = DisabledReply),
    (status = "4XX", description = "invalid_request, invalid_session", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn disable_user_key(
    State(api): State<Api>,
    Path(credential_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let (who, _) = api.require_user(&headers, request_id).await?;
    disable(&api, &who, &credential_id).await
}

/// Disable a provider key of a developer.
///
/// It is not used any more and its ciphertext is removed. A repeat changes nothing.
#[utoipa::path(delete, path = "/v1/developer/provider-keys/{credential_id}", tag = "provider-keys", security(("bearer" = ["admin"]), ("bearer" = ["developer:provider_keys:write"])),
    params(("credential_id" = CredentialId, Path)), responses(
    (status = 200, description = "It is disabled", body = DisabledReply),
    (status = "4XX", description = "invalid_request, invalid_session, forbidden", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn disable_developer_key(
    State(api): State<Api>,
    Path(credential_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::ProviderKeysWrite).await?;
    disable(&api, &who, &credential_id).await
}

fn unavailable() -> ApiError {
    ApiError::unavailable(
        "provider_keys_unavailable",
        "Provider keys cannot be stored at the moment; certainly no effect.",
    )
}

fn refused(error: VaultError) -> ApiError {
    match error {
        VaultError::Refused(why) => ApiError::invalid(format!("base_url {why}.")).param("base_url"),
        VaultError::Unavailable => unavailable(),
    }
}

async fn add(
    api: &Api,
    who: &Authenticated,
    owner: CredentialOwner,
    body: AddUserKey,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let vault = api.vault.as_deref().ok_or_else(unavailable)?;
    let added = check(vault, owner, &body).await?;
    let key = idempotency_key(headers)?.map(|text| Key::new(text, "add_provider_key", "", &asked(&added)));
    let credential_id = added.credential_id;
    let to = SealedTo { credential_id, owner, origin: added.origin.clone() };
    vault.put(to, body.api_key.0).await.map_err(refused)?;
    // From here on a crash leaves a ciphertext that no event names: the sweep removes it.
    let result = api.try_submit(who, Command::AddCredential(Box::new(added)), key).await;
    let in_doubt = matches!(result, Err(CommandError::InDoubt));
    let replayed = matches!(&result, Ok(done) if done.outcome.replayed);
    if replayed || (result.is_err() && !in_doubt) {
        vault.forget(credential_id).await;
    }
    let done = result.map_err(|error| reply::error(&error))?;
    answer(&done)
}

/// What a repeat with the same idempotency key must have in common: all but the new id.
fn asked(added: &CredentialAdded) -> CredentialAdded {
    CredentialAdded { credential_id: CredentialId(uuid::Uuid::nil()), ..added.clone() }
}

/// The rules that need the key itself, and the address.
async fn check(vault: &dyn Vault, owner: CredentialOwner, body: &AddUserKey) -> Result<CredentialAdded, ApiError> {
    let rejected = |rejection| reply::error(&CommandError::Rejected(rejection));
    if body.models_allowed.len() > MAX_MODELS {
        let message = format!("A key names at most {MAX_MODELS} models.");
        return Err(ApiError::invalid(message).param("models_allowed"));
    }
    let provider = credential::key_provider(&body.provider.0).map_err(rejected)?;
    let masked = credential::masked(provider, body.api_key.0.expose_secret()).map_err(rejected)?;
    let base_url = body.base_url.as_ref().map(|url| url.0.clone());
    let origin = match &base_url {
        None => provider.default_origin().to_owned(),
        Some(url) => vault.admit(url.clone()).await.map_err(refused)?,
    };
    Ok(CredentialAdded {
        credential_id: CredentialId::generate(),
        owner,
        provider,
        base_url,
        origin,
        masked,
        models_allowed: body.models_allowed.iter().map(|model| model.0.clone()).collect(),
        budget_limit: body.budget_limit_usd.map(|money| money.0),
        priority: body.priority,
        fallback_to_platform: body.fallback_to_platform,
    })
}

fn answer(done: &Done) -> Result<Response, ApiError> {
    let Event::CredentialAdded(event) = &done.recorded().event else { return Err(done.unexpected()) };
    let reply = ProviderKeyReply {
        id: event.credential_id,
        provider: event.provider,
        base_url: event.base_url.clone(),
        masked: event.masked.clone(),
        status: Status::Active,
        models_allowed: event.models_allowed.clone(),
        priority: event.priority,
        budget_limit_usd: event.budget_limit,
        fallback_to_platform: event.fallback_to_platform,
    };
    Ok(done.answer(StatusCode::CREATED, &reply))
}

async fn disable(api: &Api, who: &Authenticated, credential_id: &str) -> Result<Response, ApiError> {
    let credential_id = path_id(credential_id, "credential id")?;
    let command = Command::DisableCredential { credential_id, reason: DisableReason::Requested };
    match api.try_submit(who, command, None).await {
        Ok(done) => {
            if let Some(vault) = &api.vault {
                vault.forget(credential_id).await;
            }
            Ok(done.answer(StatusCode::OK, &DisabledReply { ok: true }))
        }
        Err(CommandError::Rejected(crate::domain::Rejection::AlreadyDisabled)) => {
            Ok(Json(DisabledReply { ok: true }).into_response())
        }
        Err(error) => Err(reply::error(&error)),
    }
}
