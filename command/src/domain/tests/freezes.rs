//! Kill switches: what each scope stops, and what goes on.

use modelfaucet_schema::event::{AdjustmentKind, Direction, FreezeScope};
use modelfaucet_schema::ids::AdjustmentId;

use super::*;

fn frozen(scope: FreezeScope) -> Step {
    Command::Freeze { scope, reason: "incident".into() }.into()
}

/// By somebody else than who froze.
fn thawed(scope: FreezeScope) -> Step {
    by(Caller::Admin, Command::Thaw { scope, reason: "over".into() })
}

fn adjust(direction: Direction) -> Command {
    let adjustment_id = AdjustmentId(Uuid::from_u128(1));
    let kind = AdjustmentKind::Adjustment;
    Command::AdjustWallet {
        adjustment_id,
        wallet_id: WALLET,
        kind,
        direction,
        amount: usd("1"),
        reason: None,
        expected: None,
    }
}

/// Every kind of command that a freeze may stop, by a short name.
fn attempts() -> Vec<(&'static str, Step)> {
    let top_up = |id: u128| Command::RequestTopUp {
        top_up_id: TopUpId(Uuid::from_u128(id)),
        wallet_id: WALLET,
        amount: usd("1"),
        provider: "stripe".parse().unwrap(),
        reference: None,
    };
    vec![
        ("session", open_session(SessionId(Uuid::from_u128(0x52))).into()),
        ("hold", hold_of(SECOND_HOLD, "1").into()),
        ("usage", record_usage(call("small"), first_example(), OnShortfall::Refuse).into()),
        ("top-up", top_up(0xc2).into()),
        (
            "credit",
            Command::CreditTopUp { top_up_id: TOP_UP, payment: "pi".into(), amount: None, occurred_at: None }.into(),
        ),
        ("grant", granted("1")),
        ("promo", promo_granted("1")),
        ("debit", adjust(Direction::Debit).into()),
        ("refund", adjust(Direction::Credit).into()),
        ("capture", capture(HOLD, first_example()).into()),
        ("release", release(HOLD).into()),
    ]
}

fn world() -> World {
    let requested = Command::RequestTopUp {
        top_up_id: TOP_UP,
        wallet_id: WALLET,
        amount: usd("1"),
        provider: "stripe".parse().unwrap(),
        reference: None,
    };
    given([granted("10"), hold_of(HOLD, "1").into(), requested.into()])
}

fn check(scope: FreezeScope, stopped: &[&str]) {
    for (name, attempt) in attempts() {
        let then = world().and([frozen(scope)]).when(attempt.clone());
        if stopped.contains(&name) {
            then.then_refused_as(&Rejection::Frozen).and([thawed(scope), attempt]);
        } else {
            assert!(then.verdict.is_ok(), "{name} under {scope:?}: {:?}", then.verdict);
        }
    }
}

#[test]
fn each_scope_stops_its_own_and_open_holds_still_end() {
    check(FreezeScope::App(APP), &["session", "hold", "usage", "top-up"]);
    check(FreezeScope::Developer(DEVELOPER), &["session", "hold", "usage", "top-up"]);
    check(FreezeScope::Session(SESSION), &["hold", "usage"]);
    check(FreezeScope::Wallet(WALLET), &["session", "hold", "usage", "debit"]);
    check(FreezeScope::TopUps, &["top-up", "credit", "grant", "promo"]);
    check(FreezeScope::Usage, &["hold", "usage"]);
    check(FreezeScope::Payouts, &[]);
    let all_but_ends = ["session", "hold", "usage", "top-up", "credit", "grant", "promo", "debit", "refund"];
    check(FreezeScope::Everything, &all_but_ends);
}

#[test]
fn while_everything_is_frozen_things_are_ended_and_people_let_in() {
    let frozen = || given([granted("10"), hold_of(HOLD, "1").into(), frozen(FreezeScope::Everything)]);
    let refused = |command: Command| {
        frozen().when(command).then_refused_as(&Rejection::Frozen);
    };
    refused(register_developer(DeveloperId(Uuid::from_u128(0xd7))));
    refused(issue_token(TokenId(Uuid::from_u128(0x79)), DEVELOPER, &[]));
    refused(Command::ChangeApp { public_app_id: "shop".into(), patch: super::super::AppPatch::default() });
    refused(activate(vec![model("openai", "new", "1", "1", "1")]));
    for (goes_on, event) in [
        (capture(HOLD, first_example()), "HoldCaptured"),
        (release(HOLD), "HoldReleased"),
        (Command::RevokeSession { session_id: SESSION }, "SessionRevoked"),
        (Command::RevokeDeveloperToken { token_id: TOKEN }, "DeveloperTokenRevoked"),
        (Command::Freeze { scope: FreezeScope::Usage, reason: "too".into() }, "Frozen"),
    ] {
        frozen().when(goes_on).then([event]);
    }
    frozen().and([after_seconds(600)]).when(expire(HOLD)).then(["HoldExpired"]);
}

#[test]
fn who_froze_does_not_thaw() {
    let thaw = || Command::Thaw { scope: FreezeScope::Usage, reason: "over".into() };
    given([frozen(FreezeScope::Usage)]).when(thaw()).then_refused_as(&Rejection::SameActor);
    given([frozen(FreezeScope::Usage)]).when(by(Caller::Admin, thaw())).then(["Thawed"]);
    // The next freeze is the next person's.
    let again = by(Caller::Admin, Command::Freeze { scope: FreezeScope::Usage, reason: "again".into() });
    given([frozen(FreezeScope::Usage), by(Caller::Admin, thaw()), again]).when(thaw()).then(["Thawed"]);
}

#[test]
fn what_is_frozen_is_not_frozen_again() {
    given([frozen(FreezeScope::Usage)])
        .when(frozen(FreezeScope::Usage))
        .then_refused("already_frozen")
        .when(thawed(FreezeScope::TopUps))
        .then_refused("not_frozen")
        .when(thawed(FreezeScope::Usage))
        .then(["Thawed"])
        .next()
        .when(thawed(FreezeScope::Usage))
        .then_refused("not_frozen");
}

#[test]
fn only_what_exists_is_frozen_and_only_by_the_operator() {
    let nobody = Uuid::from_u128(0xdead);
    for (scope, refusal) in [
        (FreezeScope::App(AppId(nobody)), Rejection::AppNotFound),
        (FreezeScope::Developer(DeveloperId(nobody)), Rejection::DeveloperNotFound),
        (FreezeScope::Session(SessionId(nobody)), Rejection::SessionNotFound),
        (FreezeScope::Wallet(WalletId(nobody)), Rejection::WalletNotFound),
    ] {
        given([]).when(frozen(scope)).then_refused_as(&refusal);
    }
    for caller in [Caller::Developer(DEVELOPER, TOKEN), Caller::Session(SESSION), Caller::Public] {
        let freeze = Command::Freeze { scope: FreezeScope::Usage, reason: String::new() };
        let thaw = Command::Thaw { scope: FreezeScope::Usage, reason: String::new() };
        given([]).when(by(caller, freeze)).then_refused_as(&Rejection::Forbidden);
        given([frozen(FreezeScope::Usage)]).when(by(caller, thaw)).then_refused_as(&Rejection::Forbidden);
    }
}
