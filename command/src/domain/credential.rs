//! Provider keys: whose they are, what they may be used for. The keys themselves never come here but to be looked at once.

use modelfaucet_schema::event::{
    CredentialAdded, CredentialDisabled, CredentialOwner, DisableReason, Event, FreezeScope, KeyProvider, Route, Status,
};
use modelfaucet_schema::ids::CredentialId;

use super::decide::{Context, Payment};
use super::{Caller, Command, Rejection};

/// The shortest and the longest key.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 8..=4_096;
/// Keys below this length are shown by their beginning alone: their last characters would be too much of them.
const SHOWN_TO_THE_END: usize = 16;
/// How many keys in use an owner may have.
const MAX_KEYS: u32 = 100;
/// The highest priority number.
const MAX_PRIORITY: u16 = 1_000;

/// The provider that a client means.
///
/// # Errors
/// [`Rejection::UnsupportedProvider`].
pub fn key_provider(name: &str) -> Result<KeyProvider, Rejection> {
    let provider = KeyProvider::ALL.into_iter().find(|provider| provider.name().eq_ignore_ascii_case(name));
    provider.ok_or(Rejection::UnsupportedProvider)
}

/// What every key of a provider begins with, one of these; empty: anything.
const fn prefixes(provider: KeyProvider) -> &'static [&'static str] {
    match provider {
        KeyProvider::Openai => &["sk-"],
        KeyProvider::Openrouter => &["sk-or-", "sk-"],
        KeyProvider::Anthropic => &["sk-ant-"],
        KeyProvider::Gemini | KeyProvider::Google => &["AI"],
        KeyProvider::AzureOpenai | KeyProvider::OpenaiCompatible => &[],
    }
}

/// Looks at a key: could it be one of this provider? Says what may be shown of it.
///
/// # Errors
/// [`Rejection::MalformedKey`], [`Rejection::KeyOfOtherProvider`]; none of them quotes it.
pub fn masked(provider: KeyProvider, key: &str) -> Result<String, Rejection> {
    // A key goes into a header; what no header can carry is none.
    if !KEY_LENGTHS.contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Rejection::MalformedKey);
    }
    let prefixes = prefixes(provider);
    if !prefixes.is_empty() && !prefixes.iter().any(|prefix| key.starts_with(prefix)) {
        return Err(Rejection::KeyOfOtherProvider);
    }
    let begin = &key[..3];
    let end = if key.len() < SHOWN_TO_THE_END { "" } else { &key[key.len() - 4..] };
    Ok(format!("{begin}...{end}"))
}

pub(super) fn add(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::AddCredential(added) = command else { return Err(Rejection::Forbidden) };
    require_own(context, added.owner)?;
    if added.priority == 0 || added.priority > MAX_PRIORITY {
        return Err(Rejection::InvalidPriority);
    }
    if added.budget_limit.is_some_and(modelfaucet_schema::money::Money::is_negative) {
        return Err(Rejection::AmountOutOfRange);
    }
    if context.state.credentials.contains(&added.credential_id) {
        return Err(Rejection::AlreadyExists);
    }
    if context.state.key_counts.get(&added.owner).is_some_and(|count| *count >= MAX_KEYS) {
        return Err(Rejection::TooManyKeys);
    }
    Ok(vec![CredentialAdded::clone(added).into()])
}

/// A user adds keys for itself through a live session, a developer or an administrator for a developer.
fn require_own(context: Context<'_>, owner: CredentialOwner) -> Result<(), Rejection> {
    match (context.caller, owner) {
        (Caller::Session(id), CredentialOwner::User { app_id, user_id }) => {
            let session = context.live_session(id)?;
            let app = context.state.apps.get(&app_id).ok_or(Rejection::InvalidSession)?;
            if !app.is_active() {
                return Err(Rejection::InvalidSession);
            }
            let own = (session.app_id, session.user_id) == (app_id, user_id);
            if own { Ok(()) } else { Err(Rejection::Forbidden) }
        }
        (Caller::Session(_), _) | (_, CredentialOwner::User { .. }) => Err(Rejection::Forbidden),
        (_, CredentialOwner::Developer { developer_id }) => {
            context.require_developer(developer_id, Rejection::Forbidden)?;
            let known = context.state.developers.contains(&developer_id);
            if known { Ok(()) } else { Err(Rejection::DeveloperNotFound) }
        }
    }
}

pub(super) fn disable(
    context: Context<'_>,
    credential_id: CredentialId,
    reason: DisableReason,
) -> Result<Vec<Event>, Rejection> {
    let missing = match context.caller {
        Caller::Session(_) | Caller::Gateway(_) => Rejection::CredentialNotFound,
        _ => Rejection::DeveloperCredentialNotFound,
    };
    let credential = context.state.credentials.get(&credential_id).ok_or(missing.clone())?;
    match (context.caller, credential.added.owner) {
        // The gateway has just seen where a key went, whoever's it is.
        (Caller::Gateway(_), _) if reason == DisableReason::Tripwire => {}
        (Caller::Session(id), CredentialOwner::User { app_id, user_id }) => {
            let session = context.live_session(id)?;
            if (session.app_id, session.user_id) != (app_id, user_id) {
                return Err(missing);
            }
        }
        (Caller::Session(_) | Caller::Gateway(_), _) | (_, CredentialOwner::User { .. }) => return Err(missing),
        (_, CredentialOwner::Developer { developer_id }) => context.require_developer(developer_id, missing)?,
    }
    if credential.status == Status::Disabled {
        return Err(Rejection::AlreadyDisabled);
    }
    Ok(vec![CredentialDisabled { credential_id, reason }.into()])
}

/// The key that a call is made with, if its route takes one: in use, and the payer's own or the developer's of the payer's app.
///
/// # Errors
/// [`Rejection::NoAvailableRoute`]
pub(super) fn of_call<'a>(
    context: Context<'a>,
    payment: &Payment<'_>,
    route: Route,
    id: Option<CredentialId>,
) -> Result<Option<(CredentialId, &'a CredentialAdded)>, Rejection> {
    let owner = match route {
        Route::Platform | Route::Local if id.is_none() => return Ok(None),
        Route::Platform | Route::Local => return Err(Rejection::NoAvailableRoute),
        Route::Byok => CredentialOwner::User { app_id: payment.wallet.app_id, user_id: payment.wallet.user_id },
        Route::DeveloperKey => CredentialOwner::Developer { developer_id: payment.app.developer_id },
    };
    let id = id.ok_or(Rejection::NoAvailableRoute)?;
    let credential = context.state.credentials.get(&id).ok_or(Rejection::NoAvailableRoute)?;
    let usable = credential.status == Status::Active && credential.added.owner == owner;
    if usable {
        context.require_not_frozen(&[Some(FreezeScope::ProviderCredential(id))])?;
    }
    if usable { Ok(Some((id, &credential.added))) } else { Err(Rejection::NoAvailableRoute) }
}
