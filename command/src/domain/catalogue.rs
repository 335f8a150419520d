//! Developers, tokens, apps, features, rate cards.

use std::collections::BTreeSet;

use modelfaucet_schema::event::{
    AppChanged, AppRegistered, AppSettings, DeveloperRegistered, DeveloperTokenIssued, DeveloperTokenRevoked, Event,
    FeatureChanged, FeatureDefined, FeatureRemoved, ModelRates, Pricing, RateCardActivated, RateCardPublished,
};
use modelfaucet_schema::ids::{AppId, DeveloperId, TokenId};
use modelfaucet_schema::staff::Power;

use super::decide::Context;
use super::{App, AppPatch, Caller, Command, Feature, FeaturePatch, Rejection, budget};

pub(super) fn register_developer(
    context: Context<'_>,
    developer_id: DeveloperId,
    name: &str,
    email: &str,
) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    if context.state.developers.contains(&developer_id) {
        return Err(Rejection::AlreadyExists);
    }
    Ok(vec![DeveloperRegistered { developer_id, name: name.to_owned(), email: email.to_owned() }.into()])
}

pub(super) fn issue_token(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::IssueDeveloperToken { token_id, developer_id, name, token_hash, token_prefix, scopes, expires_at } =
        command
    else {
        return Err(Rejection::Forbidden);
    };
    context.require_developer(*developer_id, Rejection::Forbidden)?;
    if !context.state.developers.contains(developer_id) {
        return Err(Rejection::DeveloperNotFound);
    }
    // A token hands out at most what it has itself.
    if let Caller::Developer(_, token) = context.caller {
        let held = context.state.tokens.get(&token).map(|token| token.scopes.as_slice()).unwrap_or_default();
        if let Some(scope) = scopes.iter().find(|scope| !held.contains(scope)) {
            return Err(Rejection::ScopeNotHeld { scope: *scope });
        }
    }
    if context.state.tokens.contains(token_id) {
        return Err(Rejection::AlreadyExists);
    }
    let scopes: BTreeSet<_> = scopes.iter().copied().collect();
    Ok(vec![
        DeveloperTokenIssued {
            developer_id: *developer_id,
            token_id: *token_id,
            name: name.clone(),
            token_hash: *token_hash,
            token_prefix: token_prefix.clone(),
            scopes: scopes.into_iter().collect(),
            expires_at: *expires_at,
        }
        .into(),
    ])
}

pub(super) fn revoke_token(context: Context<'_>, token_id: TokenId) -> Result<Vec<Event>, Rejection> {
    let token = context.state.tokens.get(&token_id).ok_or(Rejection::TokenNotFound)?;
    context.require_developer_or(Power::Operate, token.developer_id, Rejection::TokenNotFound)?;
    Ok(vec![DeveloperTokenRevoked { developer_id: token.developer_id, token_id }.into()])
}

pub(super) fn register_app(
    context: Context<'_>,
    app_id: AppId,
    developer_id: DeveloperId,
    public_app_id: &str,
    settings: &AppSettings,
) -> Result<Vec<Event>, Rejection> {
    context.require_developer(developer_id, Rejection::Forbidden)?;
    if !context.state.developers.contains(&developer_id) {
        return Err(Rejection::DeveloperNotFound);
    }
    if context.state.app_names.contains(public_app_id) || context.state.apps.contains(&app_id) {
        return Err(Rejection::AlreadyExists);
    }
    let event =
        AppRegistered { app_id, developer_id, public_app_id: public_app_id.to_owned(), settings: settings.clone() };
    Ok(vec![event.into()])
}

/// An app that the caller may change.
fn own_app<'a>(context: Context<'a>, public_app_id: &str) -> Result<(AppId, &'a App), Rejection> {
    let (app_id, app) = context.state.app_by_name(public_app_id).ok_or(Rejection::AppNotFound)?;
    context.require_developer(app.developer_id, Rejection::AppNotFound)?;
    Ok((app_id, app))
}

pub(super) fn change_app(context: Context<'_>, public_app_id: &str, patch: &AppPatch) -> Result<Vec<Event>, Rejection> {
    let (app_id, app) = own_app(context, public_app_id)?;
    let old = &app.settings;
    let settings = AppSettings {
        name: patch.name.clone().unwrap_or_else(|| old.name.clone()),
        vertical: patch.vertical.clone().or_else(|| old.vertical.clone()),
        default_revenue_share_bps: patch.default_revenue_share_bps.unwrap_or(old.default_revenue_share_bps),
        status: patch.status.unwrap_or(old.status),
        session_opening: patch.session_opening.unwrap_or(old.session_opening),
    };
    Ok(vec![AppChanged { app_id, settings }.into()])
}

pub(super) fn define_feature(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::DefineFeature { feature_id, public_app_id, feature_key, display_name, pricing, policy } = command
    else {
        return Err(Rejection::Forbidden);
    };
    let (app_id, _) = own_app(context, public_app_id)?;
    let same_id = |((app, _), known): (&(AppId, String), &Feature)| *app == app_id && known.feature_id == *feature_id;
    if context.state.features.contains(&(app_id, feature_key.clone())) || context.state.features.iter().any(same_id) {
        return Err(Rejection::AlreadyExists);
    }
    check_pricing(pricing)?;
    budget::of_policy(policy)?;
    let event = FeatureDefined {
        app_id,
        feature_id: *feature_id,
        feature_key: feature_key.clone(),
        display_name: display_name.clone(),
        pricing: *pricing,
        policy: policy.clone(),
    };
    Ok(vec![event.into()])
}

pub(super) fn change_feature(
    context: Context<'_>,
    public_app_id: &str,
    feature_key: &str,
    patch: &FeaturePatch,
) -> Result<Vec<Event>, Rejection> {
    let (app_id, _) = own_app(context, public_app_id)?;
    let old = context.state.features.get(&(app_id, feature_key.to_owned())).ok_or(Rejection::FeatureNotFound)?;
    patch.pricing.as_ref().map_or(Ok(()), check_pricing)?;
    patch.policy.as_ref().map(budget::of_policy).transpose()?;
    let policy = patch.policy.clone().unwrap_or_else(|| serde_json::from_str(&old.policy).unwrap_or_default());
    let event = FeatureDefined {
        app_id,
        feature_id: old.feature_id,
        feature_key: feature_key.to_owned(),
        display_name: patch.display_name.clone().unwrap_or_else(|| old.display_name.clone()),
        pricing: patch.pricing.unwrap_or(old.pricing),
        policy,
    };
    Ok(vec![FeatureChanged(event).into()])
}

/// A negative fee would pay the customer for calling.
fn check_pricing(pricing: &Pricing) -> Result<(), Rejection> {
    if pricing.fee_usd.is_negative() { Err(Rejection::AmountOutOfRange) } else { Ok(()) }
}

pub(super) fn remove_feature(
    context: Context<'_>,
    public_app_id: &str,
    feature_key: &str,
) -> Result<Vec<Event>, Rejection> {
    let (app_id, _) = own_app(context, public_app_id)?;
    let feature = context.state.features.get(&(app_id, feature_key.to_owned())).ok_or(Rejection::FeatureNotFound)?;
    Ok(vec![FeatureRemoved { app_id, feature_id: feature.feature_id }.into()])
}

pub(super) fn activate_rate_card(
    context: Context<'_>,
    source: &str,
    models: &[ModelRates],
) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    let card = RateCardPublished::of(source.to_owned(), models.to_vec()).map_err(|_| Rejection::InvalidRateCard)?;
    if !card.is_valid() {
        return Err(Rejection::InvalidRateCard);
    }
    let rate_card_id = card.rate_card_id;
    let activated = RateCardActivated { rate_card_id }.into();
    if context.state.cards.contains(&rate_card_id) {
        return if context.state.active_card.get(&()) == Some(&rate_card_id) {
            Err(Rejection::AlreadyExists)
        } else {
            Ok(vec![activated])
        };
    }
    Ok(vec![card.into(), activated])
}
