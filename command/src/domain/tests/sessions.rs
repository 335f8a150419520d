//! Sessions and tenants: who may spend from which wallet.

use super::super::AppPatch;
use super::*;

const SECOND_SESSION: SessionId = SessionId(Uuid::from_u128(0x52));

fn set_app(patch: AppPatch) -> Step {
    Command::ChangeApp { public_app_id: "shop".into(), patch }.into()
}

fn disabled() -> Step {
    set_app(AppPatch { status: Some(Status::Disabled), ..AppPatch::default() })
}

fn other_tenant() -> [Step; 2] {
    [register_developer(OTHER_DEVELOPER).into(), issue_token(OTHER_TOKEN, OTHER_DEVELOPER, Scope::ALL).into()]
}

#[test]
fn the_first_session_of_a_user_opens_the_wallet_and_later_ones_find_it() {
    let mut later = open_session(SECOND_SESSION);
    if let Command::OpenSession { wallet_id, .. } = &mut later {
        *wallet_id = WalletId(Uuid::from_u128(0xb2));
    }
    let then = given([granted("3")]).when(later).then(["SessionOpened"]).wallet("3", "0", "0");
    let Event::SessionOpened(event) = then.event() else { panic!() };
    assert_eq!(event.wallet_id, WALLET);
}

#[test]
fn ids_that_exist_are_not_given_again() {
    let mut stranger = open_session(SECOND_SESSION);
    if let Command::OpenSession { user_hash: hash, .. } = &mut stranger {
        *hash = user_hash('2');
    }
    given([granted("3")])
        .when(open_session(SESSION))
        .then_refused("already_exists")
        .when(stranger)
        .then_refused("already_exists")
        .when(hold_of(HOLD, "3"))
        .then(["HoldPlaced"]);
}

#[test]
fn a_session_ends_by_revocation_or_by_time() {
    let day = 24 * 3_600;
    let expire = || by(Caller::Clock, Command::ExpireSession { session_id: SESSION });
    given([granted("9"), after_seconds(day - 1)])
        .when(expire())
        .then_refused_as(&Rejection::InvalidDeadline)
        .when(hold_of(HOLD, "1"))
        .then(["HoldPlaced"])
        .next()
        .and([after_seconds(1)])
        .when(hold_of(SECOND_HOLD, "1"))
        .then_refused_as(&Rejection::ExpiredSession)
        .when(expire())
        .then(["SessionExpired"])
        .next()
        .when(by(Caller::Session(SESSION), hold_of(SECOND_HOLD, "1")))
        .then_refused_as(&Rejection::InvalidSession)
        .when(hold_of(SECOND_HOLD, "1"))
        .then_refused_as(&Rejection::SessionNotFound);
    given([])
        .when(by(Caller::Session(SESSION), Command::RevokeSession { session_id: SESSION }))
        .then(["SessionRevoked"])
        .next()
        .when(Command::RevokeSession { session_id: SESSION })
        .then_refused("session_not_found");
}

#[test]
fn who_may_open_a_session_is_the_apps_choice() {
    let server = || set_app(AppPatch { session_opening: Some(SessionOpening::Server), ..AppPatch::default() });
    given([]).when(by(Caller::Public, open_session(SECOND_SESSION))).then(["SessionOpened"]);
    given([server()])
        .when(by(Caller::Public, open_session(SECOND_SESSION)))
        .then_refused_as(&Rejection::ServerSessionsOnly)
        .when(by(Caller::Session(SESSION), open_session(SECOND_SESSION)))
        .then_refused_as(&Rejection::Forbidden)
        .when(by(Caller::Developer(DEVELOPER, TOKEN), open_session(SECOND_SESSION)))
        .then(["SessionOpened"]);
    given([disabled()]).when(open_session(SECOND_SESSION)).then_refused_as(&Rejection::InvalidApp);
}

#[test]
fn a_disabled_app_spends_nothing() {
    given([granted("9"), disabled()])
        .when(by(Caller::Session(SESSION), hold_of(HOLD, "1")))
        .then_refused_as(&Rejection::InvalidSession)
        .when(hold_of(HOLD, "1"))
        .then_refused_as(&Rejection::InvalidApp);
}

#[test]
fn another_tenants_things_are_not_to_be_found() {
    let stranger = Caller::Developer(OTHER_DEVELOPER, OTHER_TOKEN);
    let by_wallet =
        hold(SECOND_HOLD, CallRequest { payer: Payer::Wallet(WALLET), ..call("small") }, HoldAmount::Fixed(usd("1")));
    for (command, refusal) in [
        (hold_of(SECOND_HOLD, "1"), Rejection::SessionNotFound),
        (by_wallet, Rejection::WalletNotFound),
        (capture(HOLD, first_example()), Rejection::HoldNotFound),
        (release(HOLD), Rejection::HoldNotFound),
        (record_usage(call("small"), first_example(), OnShortfall::Refuse), Rejection::SessionNotFound),
        (open_session(SECOND_SESSION), Rejection::InvalidApp),
        (Command::RevokeSession { session_id: SESSION }, Rejection::SessionNotFound),
        (Command::ChangeApp { public_app_id: "shop".into(), patch: AppPatch::default() }, Rejection::AppNotFound),
        (define_feature("new", pricing()), Rejection::AppNotFound),
        (Command::RevokeDeveloperToken { token_id: TOKEN }, Rejection::TokenNotFound),
        (issue_token(TokenId(Uuid::from_u128(9)), DEVELOPER, &[]), Rejection::Forbidden),
    ] {
        given([granted("9"), hold_of(HOLD, "1").into()])
            .and(other_tenant())
            .when(by(stranger, command))
            .then_refused_as(&refusal);
    }
}

#[test]
fn a_session_spends_only_through_itself() {
    let other = Caller::Session(SECOND_SESSION);
    let mut second = open_session(SECOND_SESSION);
    if let Command::OpenSession { user_hash: hash, wallet_id, .. } = &mut second {
        (*hash, *wallet_id) = (user_hash('2'), WalletId(Uuid::from_u128(0xb2)));
    }
    let by_wallet = CallRequest { payer: Payer::Wallet(WALLET), ..call("small") };
    given([granted("9"), hold_of(HOLD, "1").into(), second.into()])
        .when(by(other, hold_of(SECOND_HOLD, "1")))
        .then_refused_as(&Rejection::WalletNotFound)
        .when(by(Caller::Session(SESSION), hold(SECOND_HOLD, by_wallet.clone(), HoldAmount::Fixed(usd("1")))))
        .then_refused_as(&Rejection::WalletNotFound)
        .when(by(Caller::Public, hold(SECOND_HOLD, by_wallet, HoldAmount::Fixed(usd("1")))))
        .then_refused_as(&Rejection::WalletNotFound)
        .when(by(other, capture(HOLD, first_example())))
        .then_refused("hold_not_found")
        .when(by(other, Command::RevokeSession { session_id: SESSION }))
        .then_refused("session_not_found")
        .when(by(Caller::Session(SESSION), capture(HOLD, first_example())))
        .then(["HoldCaptured"]);
}

#[test]
fn a_developers_token_is_checked_again_when_it_is_used() {
    let mut short = issue_token(OTHER_TOKEN, DEVELOPER, &[]);
    if let Command::IssueDeveloperToken { expires_at, .. } = &mut short {
        *expires_at = Some(given_nothing().now.plus(Duration::from_secs(10)));
    }
    let with = |token| by(Caller::Developer(DEVELOPER, token), hold_of(HOLD, "0"));
    given([short.into(), after_seconds(9)]).when(with(OTHER_TOKEN)).then(["HoldPlaced"]);
    given([after_seconds(9)]).when(with(OTHER_TOKEN)).then_refused_as(&Rejection::InvalidDeveloperToken);
    let revoke = Command::RevokeDeveloperToken { token_id: TOKEN };
    given([revoke.into()]).when(with(TOKEN)).then_refused_as(&Rejection::InvalidDeveloperToken);
}

#[test]
fn a_token_that_has_expired_is_refused() {
    let mut short = issue_token(OTHER_TOKEN, DEVELOPER, &[]);
    if let Command::IssueDeveloperToken { expires_at, .. } = &mut short {
        *expires_at = Some(given_nothing().now.plus(Duration::from_secs(10)));
    }
    given([short.into(), after_seconds(10)])
        .when(by(Caller::Developer(DEVELOPER, OTHER_TOKEN), hold_of(HOLD, "0")))
        .then_refused_as(&Rejection::InvalidDeveloperToken);
}
