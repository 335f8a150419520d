//! Provider keys: who may add and disable them, and what is shown of them.

use modelfaucet_schema::event::{CredentialAdded, CredentialOwner, DisableReason, KeyProvider};
use modelfaucet_schema::ids::CredentialId;

use super::super::credential::{key_provider, masked};
use super::*;

fn user() -> CredentialOwner {
    CredentialOwner::User { app_id: APP, user_id: UserId(Uuid::from_u128(0xee)) }
}

fn developer() -> CredentialOwner {
    CredentialOwner::Developer { developer_id: DEVELOPER }
}

fn added(number: u128, owner: CredentialOwner) -> CredentialAdded {
    CredentialAdded {
        credential_id: CredentialId(Uuid::from_u128(number)),
        owner,
        provider: KeyProvider::Openai,
        base_url: None,
        origin: "https://api.openai.com".into(),
        masked: "sk-...cdef".into(),
        models_allowed: vec!["small".into()],
        budget_limit: None,
        priority: 100,
        fallback_to_platform: false,
    }
}

pub(super) fn add(number: u128, owner: CredentialOwner) -> Command {
    Command::AddCredential(Box::new(added(number, owner)))
}

/// The session's user adds a key.
pub(super) fn add_number(number: u128) -> Step {
    by(Caller::Session(SESSION), add(number, user()))
}

/// The same with something else about it.
pub(super) fn add_with(change: impl FnOnce(&mut CredentialAdded)) -> Step {
    let mut key = added(1, user());
    change(&mut key);
    by(Caller::Session(SESSION), Command::AddCredential(Box::new(key)))
}

pub(super) fn disable(credential_id: CredentialId) -> Command {
    Command::DisableCredential { credential_id, reason: DisableReason::Requested }
}

/// The session's user disables a key.
pub(super) fn disable_number(number: u128) -> Step {
    by(Caller::Session(SESSION), disable(CredentialId(Uuid::from_u128(number))))
}

#[test]
fn a_user_adds_keys_for_itself_and_disables_them_once() {
    given([])
        .when(add_number(1))
        .then(["CredentialAdded"])
        .next()
        .when(disable_number(1))
        .then(["CredentialDisabled"])
        .next()
        .when(disable_number(1))
        .then_refused("already_disabled")
        .when(add_number(1))
        .then_refused("already_exists");
}

#[test]
fn nobody_adds_keys_for_others() {
    let other = CredentialOwner::Developer { developer_id: OTHER_DEVELOPER };
    let stranger = CredentialOwner::User { app_id: APP, user_id: UserId(Uuid::from_u128(0xef)) };
    let session = Caller::Session(SESSION);
    let token = Caller::Developer(DEVELOPER, TOKEN);
    for (caller, owner) in [
        (session, stranger),
        (session, developer()),
        (token, user()),
        (token, other),
        (Caller::Admin, user()),
        (Caller::Public, developer()),
        (Caller::Gateway(SESSION), user()),
    ] {
        given([]).when(by(caller, add(1, owner))).then_refused("forbidden");
    }
    given([]).when(by(token, add(1, developer()))).then(["CredentialAdded"]);
    given([]).when(by(Caller::Admin, add(1, developer()))).then(["CredentialAdded"]);
    given([]).when(by(Caller::Admin, add(1, other))).then_refused("developer_not_found");
    given([]).when(add_with(|key| key.budget_limit = Some(usd("-1")))).then_refused("amount_out_of_range");
}

#[test]
fn a_session_that_has_ended_adds_and_disables_nothing() {
    given([add_number(1), after_seconds(86_400)])
        .when(add_number(2))
        .then_refused("expired_session")
        .when(disable_number(1))
        .then_refused("expired_session");
}

#[test]
fn keys_of_others_are_not_there() {
    let (users, developers) = (CredentialId(Uuid::from_u128(1)), CredentialId(Uuid::from_u128(2)));
    let world = || {
        given([
            add_number(1),
            add(2, developer()).into(),
            register_developer(OTHER_DEVELOPER).into(),
            issue_token(OTHER_TOKEN, OTHER_DEVELOPER, Scope::ALL).into(),
        ])
    };
    let missing = Rejection::DeveloperCredentialNotFound;
    world().when(by(Caller::Session(SESSION), disable(developers))).then_refused_as(&Rejection::CredentialNotFound);
    world().when(by(Caller::Developer(DEVELOPER, TOKEN), disable(users))).then_refused_as(&missing);
    world().when(by(Caller::Developer(OTHER_DEVELOPER, OTHER_TOKEN), disable(developers))).then_refused_as(&missing);
    world().when(by(Caller::Public, disable(developers))).then_refused_as(&missing);
    world().when(by(Caller::Developer(DEVELOPER, TOKEN), disable(developers))).then(["CredentialDisabled"]);
    world().when(disable(developers)).then(["CredentialDisabled"]);
}

#[test]
fn the_gateway_suspends_whatever_it_saw_going_astray_and_nothing_else() {
    let suspend = |reason| {
        let credential_id = CredentialId(Uuid::from_u128(2));
        by(Caller::Gateway(SESSION), Command::DisableCredential { credential_id, reason })
    };
    given([add(2, developer()).into()]).when(suspend(DisableReason::Tripwire)).then(["CredentialDisabled"]);
    given([add(2, developer()).into()])
        .when(suspend(DisableReason::Requested))
        .then_refused_as(&Rejection::CredentialNotFound);
}

#[test]
fn a_disabled_key_makes_room_for_another() {
    given([]).and((1..=100).map(add_number)).and([disable_number(7)]).when(add_number(101)).then(["CredentialAdded"]);
}

#[test]
fn a_key_is_looked_at_and_shown_in_part() {
    for (provider, key, shown) in [
        ("openai", "sk-abcdefghijklmnop", "sk-...mnop"),
        ("OpenAI", "sk-proj-0123456789abcdef", "sk-...cdef"),
        ("openrouter", "sk-or-v1-0123456789", "sk-...6789"),
        ("openrouter", "sk-0123456789abcdef", "sk-...cdef"),
        ("anthropic", "sk-ant-0123456789", "sk-...6789"),
        ("gemini", "AIzaSy0123456789", "AIz...6789"),
        ("google", "AIzaSy0123456789", "AIz...6789"),
        ("azure_openai", "0123456789abcdef", "012...cdef"),
        ("openai_compatible", "12345678", "123..."),
        ("openai_compatible", "123456789012345", "123..."),
    ] {
        let provider = key_provider(provider).unwrap();
        assert_eq!(masked(provider, key).as_deref(), Ok(shown), "{key}");
    }
    for (provider, key, refusal) in [
        ("openai", "AIza0123456789", Rejection::KeyOfOtherProvider),
        ("anthropic", "sk-0123456789", Rejection::KeyOfOtherProvider),
        ("google", "ai0123456789", Rejection::KeyOfOtherProvider),
        ("openai", "sk-1234", Rejection::MalformedKey),
        ("openai", " sk-0123456789", Rejection::MalformedKey),
        ("openai", "sk-0123456789\n", Rejection::MalformedKey),
        ("openai_compatible", "schl\u{fc}ssel-0123456789", Rejection::MalformedKey),
        ("openai_compatible", &"x".repeat(4_097), Rejection::MalformedKey),
    ] {
        assert_eq!(masked(key_provider(provider).unwrap(), key), Err(refusal), "{key}");
    }
    assert_eq!(key_provider("mystery"), Err(Rejection::UnsupportedProvider));
}

#[test]
fn every_provider_has_an_address_of_its_own() {
    for provider in KeyProvider::ALL {
        assert!(provider.default_root().starts_with(&format!("{}/", provider.default_origin())), "{provider:?}");
        let biller: Result<modelfaucet_schema::account::Name, _> = provider.biller().parse();
        assert!(biller.is_ok(), "{provider:?}");
        assert_eq!(serde_json::to_value(provider).unwrap(), provider.name());
    }
}
