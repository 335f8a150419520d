//! Every refusal there is can be provoked, with the code that the API document states.

use std::collections::BTreeSet;

use modelfaucet_schema::event::{FreezeScope, KeyUse, TransactionCategory};
use modelfaucet_schema::ids::{BatchId, CredentialId, LogId, PayoutId, WriteOffId};
use modelfaucet_schema::log::Head;
use modelfaucet_schema::staff::StaffRole;

use super::super::credential::{key_provider, masked};
use super::super::{AppPatch, DisputePhase, PayoutStep, TransactionReport};
use super::attempts::{begin, set, start};
use super::payments::{REFUND, dispute, paid, refund};
use super::payouts::{PAYOUT, approve, earned, payout, step};
use super::promos::expire;
use super::*;
use crate::writer::core::{Core, Step as Plan, Submission};

fn top_up(amount: &str) -> Command {
    Command::RequestTopUp {
        top_up_id: TOP_UP,
        wallet_id: WALLET,
        amount: usd(amount),
        provider: provider(),
        reference: None,
    }
}

fn credit(amount: &str) -> Command {
    Command::CreditTopUp { top_up_id: TOP_UP, payment: "pi".into(), amount: Some(usd(amount)), occurred_at: None }
}

fn freeze(scope: FreezeScope) -> Command {
    Command::Freeze { scope, reason: String::new() }
}

fn feature(feature_key: &str) -> Command {
    let call = CallRequest { feature_key: Some(feature_key.into()), ..call("small") };
    record_usage(call, first_example(), OnShortfall::Refuse)
}

fn use_model(model: &str, usage: Usage) -> Command {
    record_usage(call(model), usage, OnShortfall::Refuse)
}

fn change_app(patch: AppPatch) -> Step {
    Command::ChangeApp { public_app_id: "shop".into(), patch }.into()
}

/// Code, what happened before, what is refused.
fn cases() -> Vec<(&'static str, Vec<Step>, Step)> {
    let developer = Caller::Developer(DEVELOPER, TOKEN);
    let disabled = change_app(AppPatch { status: Some(Status::Disabled), ..AppPatch::default() });
    let server = change_app(AppPatch { session_opening: Some(SessionOpening::Server), ..AppPatch::default() });
    let unknown = Uuid::from_u128(0xdead);
    let dollar_call = Usage::text(2, 8);
    let late = given_nothing().now.plus(Duration::from_secs(61));
    let future = Command::CaptureHold {
        hold_id: HOLD,
        usage: first_example(),
        service_tier: None,
        provider_request_id: None,
        occurred_at: Some(late),
    };
    let short = Command::PlaceHold {
        hold_id: HOLD,
        call: call("small"),
        amount: HoldAmount::Fixed(usd("0")),
        min_amount: None,
        expires_in: Duration::ZERO,
    };
    let nobody = Caller::Staff(StaffRole::Operator, OTHER_TOKEN);
    let staff_token = Command::IssueStaffToken {
        token_id: OTHER_TOKEN,
        name: "Grace".into(),
        role: StaffRole::Admin,
        token_hash: TokenHash::of_text("staff"),
        token_prefix: "mf_staff_".into(),
        expires_at: None,
    };
    let public = open_session(SessionId(Uuid::from_u128(2)));
    vec![
        ("invalid_session", vec![disabled.clone()], by(Caller::Session(SESSION), hold_of(HOLD, "0"))),
        ("expired_session", vec![after_seconds(86_400)], hold_of(HOLD, "0").into()),
        ("invalid_session", vec![], by(Caller::Developer(DEVELOPER, OTHER_TOKEN), hold_of(HOLD, "0"))),
        ("insufficient_balance", vec![], hold_of(HOLD, "1").into()),
        ("in_flight_holds", vec![granted("1"), hold_of(HOLD, "1").into()], hold_of(SECOND_HOLD, "1").into()),
        ("forbidden", vec![server], by(Caller::Public, public.clone())),
        ("forbidden", vec![], by(developer, top_up("1"))),
        (
            "forbidden",
            vec![issue_token(OTHER_TOKEN, DEVELOPER, &[]).into()],
            by(Caller::Developer(DEVELOPER, OTHER_TOKEN), issue_token(TokenId(unknown), DEVELOPER, &[Scope::AppsRead])),
        ),
        ("invalid_app", vec![disabled], public.into()),
        ("invalid_app", vec![], freeze(FreezeScope::App(AppId(unknown))).into()),
        ("invalid_request", vec![], freeze(FreezeScope::ProviderCredential(CredentialId(unknown))).into()),
        ("feature_not_found", vec![], feature("nothing").into()),
        ("developer_not_found", vec![], issue_token(OTHER_TOKEN, OTHER_DEVELOPER, &[]).into()),
        ("token_not_found", vec![], Command::RevokeDeveloperToken { token_id: OTHER_TOKEN }.into()),
        (
            "wallet_not_found",
            vec![],
            Command::GrantTestCredit { wallet_id: WalletId(unknown), amount: usd("1") }.into(),
        ),
        ("session_not_found", vec![], Command::RevokeSession { session_id: SessionId(unknown) }.into()),
        ("top_up_not_found", vec![], credit("1").into()),
        ("hold_not_found", vec![], release(HOLD).into()),
        ("model_not_found", vec![], use_model("unheard-of", first_example()).into()),
        ("model_not_priced", vec![], use_model("small", Usage { requests: 1, ..Usage::default() }).into()),
        ("provider_required", vec![], use_model("shared", first_example()).into()),
        ("already_exists", vec![], register_app().into()),
        ("already_frozen", vec![freeze(FreezeScope::Usage).into()], freeze(FreezeScope::Usage).into()),
        ("not_frozen", vec![], Command::Thaw { scope: FreezeScope::Usage, reason: String::new() }.into()),
        (
            "same_actor",
            vec![freeze(FreezeScope::Usage).into()],
            Command::Thaw { scope: FreezeScope::Usage, reason: String::new() }.into(),
        ),
        ("invalid_session", vec![], by(nobody, freeze(FreezeScope::Usage))),
        ("forbidden", vec![], by(developer, staff_token)),
        ("amount_mismatch", vec![top_up("1").into()], credit("2").into()),
        ("invalid_request", vec![], top_up("0.001").into()),
        ("invalid_request", vec![], granted("0")),
        ("amount_out_of_range", vec![granted("92233720368")], granted("1")),
        ("invalid_rate_card", vec![], activate(vec![]).into()),
        ("invalid_request", vec![], short.into()),
        ("invalid_request", vec![hold_of(HOLD, "0").into()], future.into()),
        ("attempt_out_of_order", vec![granted("20"), begin(dollar_call)], start(3, "dollar", dollar_call)),
        ("invalid_request", vec![], set(Route::Local).into()),
        ("invalid_request", vec![], by(Caller::Session(SESSION), credentials::disable(CredentialId(unknown)))),
        ("invalid_request", vec![], credentials::disable(CredentialId(unknown)).into()),
        ("invalid_request", vec![], credentials::add_with(|added| added.priority = 0)),
        ("too_many_provider_keys", (1..=100).map(credentials::add_number).collect(), credentials::add_number(101)),
        ("no_available_route", vec![], budgets::byok(HOLD, 7, 1)),
        ("model_not_priced", vec![budgets::add_limited(1, "1")], budgets::byok_of("home-made", HOLD, 1, 1)),
        ("budget_exceeded", vec![budgets::add_limited(1, "1")], budgets::byok(HOLD, 1, 2)),
        (
            "invalid_request",
            vec![],
            budgets::limited_feature(&serde_json::json!({ "budget_limit_usd": "much" })).into(),
        ),
        (
            "already_disabled",
            vec![credentials::add_number(1), credentials::disable_number(1)],
            credentials::disable_number(1),
        ),
        ("frozen", vec![freeze(FreezeScope::Usage).into()], hold_of(HOLD, "0").into()),
    ]
    .into_iter()
    .chain(payment_cases())
    .collect()
}

/// The same for money that goes back or out.
fn payment_cases() -> Vec<(&'static str, Vec<Step>, Step)> {
    let paid = || Vec::from(paid("10"));
    let with = |more: Vec<Step>| paid().into_iter().chain(more).collect::<Vec<_>>();
    let earned = |more: Vec<Step>| earned(10).into_iter().chain(more).collect::<Vec<_>>();
    let write_off_id = WriteOffId(Uuid::from_u128(9));
    let propose = Command::ProposeWriteOff { write_off_id, wallet_id: WALLET, amount: usd("1"), reason: String::new() };
    let confirm = Command::ConfirmRefund { refund_id: REFUND, reference: "re".into() };
    let fail = Command::FailRefund { refund_id: REFUND, reason: "no".into() };
    let report = TransactionReport {
        transaction: "txn".into(),
        category: TransactionCategory::Refund,
        source: None,
        payment: None,
        amount: usd("1"),
        fee: usd("0"),
        occurred_at: given_nothing().now,
    };
    let request = || payout(PAYOUT, None, "0");
    let stranger = Caller::Staff(StaffRole::Admin, TokenId(Uuid::from_u128(0xdead)));
    let token = Command::IssueStaffToken {
        token_id: TokenId(Uuid::from_u128(0xdead)),
        name: "x".into(),
        role: StaffRole::Admin,
        token_hash: TokenHash::of_text("x"),
        token_prefix: "x".into(),
        expires_at: None,
    };
    let pay = PayoutStep::Pay { reference: "x".into(), fee: usd("0"), occurred_at: None };
    let back = PayoutStep::Return { reason: "x".into(), reference: "x".into(), occurred_at: None };
    vec![
        ("invalid_session", vec![], by(stranger, request())),
        ("forbidden", vec![], by(Caller::Stripe, token)),
        ("insufficient_balance", earned(vec![]), payout(PAYOUT, Some("9"), "0").into()),
        ("same_actor", earned(vec![request().into()]), approve().into()),
        ("payment_not_found", vec![], refund("1").into()),
        ("refund_not_found", vec![], confirm.into()),
        ("refund_closed", with(vec![refund("1").into(), fail.clone().into()]), fail.into()),
        ("refund_too_large", paid(), refund("11").into()),
        ("write_off_not_found", vec![], Command::ApproveWriteOff { write_off_id }.into()),
        ("write_off_too_large", paid(), propose.into()),
        ("repair_not_found", vec![], repairs::approve().into()),
        ("same_actor", vec![repairs::propose().into()], repairs::approve().into()),
        ("repair_closed", repairs::approved(), by(Caller::Admin, repairs::approve())),
        ("invalid_request", vec![], incidents::close(2, 1, 'a', None).into()),
        ("range_beyond_log", vec![], incidents::close(1, 99, 'a', None).into()),
        ("incident_not_found", vec![], incidents::close(1, 2, 'a', Some(1)).into()),
        ("incident_closed", vec![incidents::close(1, 2, 'a', None).into()], incidents::close(1, 2, 'b', None).into()),
        ("balance_changed", vec![granted("1")], repairs::adjust_expecting("0").into()),
        ("payout_not_found", vec![], approve().into()),
        ("promo_not_found", vec![], expire("1").into()),
        ("dispute_closed", with(vec![dispute("1", DisputePhase::Won)]), dispute("1", DisputePhase::Lost)),
        ("payout_open", earned(vec![request().into()]), payout(PayoutId(Uuid::nil()), None, "0").into()),
        ("below_threshold", earned(vec![]), payout(PAYOUT, None, "9").into()),
        ("invalid_request", earned(vec![request().into(), by(Caller::Admin, approve())]), approve().into()),
        ("invalid_request", earned(vec![request().into()]), step(pay).into()),
        ("invalid_request", earned(vec![request().into()]), step(back).into()),
        ("invalid_transaction", vec![], by(Caller::Stripe, Command::RecordTransaction(Box::new(report)))),
        ("invalid_request", vec![], promo("1", Some(given_nothing().now)).into()),
    ]
}

/// The name of the variant.
fn name(refusal: &Rejection) -> String {
    let text = format!("{refusal:?}");
    text.split([' ', '{']).next().unwrap().to_owned()
}

#[test]
fn every_refusal_is_provoked_by_a_rule() {
    let mut provoked = BTreeSet::new();
    for (code, before, attempt) in cases() {
        let then = given([]).and(before).when(attempt);
        let refusal = then.verdict.as_ref().expect_err(code).clone();
        provoked.insert(name(&refusal));
        then.then_refused(code);
    }
    // Before any rate card; and a key that two requests share, which only the writer sees.
    let no_card = shop().into_iter().filter(|step| !matches!(step, Step::Command(_, Command::ActivateRateCard { .. })));
    provoked.insert(name(&given_nothing().and(no_card).when(hold_of(HOLD, "0")).verdict.unwrap_err()));
    provoked.insert(name(&key_shared_by_two_requests()));
    // Those that need the key itself are decided before there is a command.
    for (provider, key) in [("mystery", "sk-12345678"), ("openai", "sk-"), ("openai", "AIza12345678")] {
        let refusal = key_provider(provider).and_then(|provider| masked(provider, key)).unwrap_err();
        assert_eq!((refusal.status(), refusal.code()), (400, "secret_validation_failed"));
        provoked.insert(name(&refusal));
    }
    let all: BTreeSet<_> = Rejection::ALL.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(provoked, all);
}

#[test]
fn codes_and_statuses_fit() {
    for (name, status, code, message) in Rejection::ALL {
        assert!((400..=599).contains(status) && !message.is_empty(), "{name}");
        assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
    }
}

fn key_shared_by_two_requests() -> Rejection {
    let world = given([]);
    let submission = |reply, fingerprint, amount: &str| {
        let Step::Command(caller, command) = granted(amount) else { unreachable!() };
        let key = Some(KeyUse { key: Uuid::from_u128(1), fingerprint: Uuid::from_u128(fingerprint) });
        Submission {
            caller,
            command,
            request_id: "test".into(),
            key,
            give_up_at: world.now.plus(Duration::from_secs(1)),
            reply: Some(reply),
        }
    };
    let head = Head { position: world.position, ..Head::genesis(LogId(Uuid::nil()), ShardId(0)) };
    let mut core = Core::new(ShardId(0), LogId(Uuid::nil()), world.state.clone(), head);
    let mut queue = [submission(1, 1, "1"), submission(2, 2, "2")].into();
    let step = core.plan(&mut queue, world.now, BatchId(Uuid::nil()), &mut Vec::new());
    assert!(matches!(step, Plan::Append(batch) if batch.events().len() == 1));
    let (replies, _) = core.appended();
    let [(1, Ok(_)), (2, Err(refusal))] = replies.as_slice() else { panic!("{replies:?}") };
    refusal.clone()
}
