//! One golden file per event version ever released: exactly the stored bytes, with their SHA-256 in `events/SHA256SUMS`.
//!
//! A file never changes. A new version adds a file; `GOLDEN=write cargo test -p modelfaucet-schema --test golden` writes what is
//! missing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::{EntryBuilder, JournalEntry};
use modelfaucet_schema::event::*;
use modelfaucet_schema::ids::*;
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::staff::StaffRole;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{Scope, TokenHash, UserHash};
use modelfaucet_schema::usage::{Component, Usage};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

fn usd(text: &str) -> Money {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn wallet() -> WalletId {
    WalletId(id(1))
}

fn balance(posted: &str, promo: &str, held: &str) -> Balance {
    Balance { posted: usd(posted), promo: usd(promo), held: usd(held) }
}

fn credit(debit: Account, amount: &str) -> JournalEntry {
    EntryBuilder::new().debit(debit, usd(amount)).credit(Account::paid(wallet()), usd(amount)).build().unwrap()
}

fn call() -> Call {
    Call {
        app_id: AppId(id(3)),
        session_id: Some(SessionId(id(4))),
        feature_key: Some("customer_reply".into()),
        route: Route::Platform,
        provider: "openai".parse().unwrap(),
        model: "gpt-4o-mini".into(),
        service_tier: ServiceTier::Standard,
    }
}

fn rule() -> PriceRule {
    PriceRule {
        markup_bps: BasisPoints::new(3_000).unwrap(),
        share_bps: BasisPoints::new(4_000).unwrap(),
        fee_usd: Money::ZERO,
    }
}

/// The worked example of docs/ACCOUNTING.md.
fn rating() -> Rating {
    Rating {
        rate_card_id: RateCardId(id(5)),
        price_rule: rule(),
        usage: Usage { cache_read: 1_025, ..Usage::text(178, 212) },
        service_tier: ServiceTier::Standard,
        served_model: None,
        exact_cost: "0.000230775".parse().unwrap(),
        upstream: usd("0.00023078"),
        retail: usd("0.00030001"),
        charge: usd("0.00030001"),
        developer: usd("0.00002769"),
        unrecovered: Money::ZERO,
        promo: usd("0.00000500"),
        receivable: Money::ZERO,
    }
}

fn charge() -> JournalEntry {
    let house = Account::house;
    EntryBuilder::new()
        .debit(Account::promo(wallet()), usd("0.000005"))
        .debit(Account::paid(wallet()), usd("0.00029501"))
        .credit(house(AccountCode::UsagePlatform), usd("0.00030001"))
        .debit(house(AccountCode::Upstream), usd("0.00023078"))
        .credit(Account::accrued("openai".parse().unwrap()), usd("0.00023078"))
        .debit(house(AccountCode::ChannelShare), usd("0.00002769"))
        .credit(Account::developer(DeveloperId(id(2))), usd("0.00002769"))
        .debit(house(AccountCode::ContraPromo), usd("0.000005"))
        .credit(house(AccountCode::DeferredPromoCost), usd("0.000005"))
        .build()
        .unwrap()
}

/// The components that the first version of a rate card knew.
const FIRST_COMPONENTS: [Component; 11] = [
    Component::InputUncached,
    Component::CacheRead,
    Component::CacheWrite5m,
    Component::CacheWrite1h,
    Component::InputAudio,
    Component::InputImage,
    Component::OutputText,
    Component::OutputReasoning,
    Component::OutputAudio,
    Component::OutputImage,
    Component::Requests,
];

/// A model with everything that a rate card can say.
fn every_rate() -> ModelRates {
    let rates = |usd: &str| -> Rates {
        Component::ALL.iter().map(|component| (*component, Rate::per_million(usd).unwrap())).collect()
    };
    let contexts = vec![
        ContextRates { above: 200_000, rates: rates("0.30") },
        ContextRates { above: 1_000_000, rates: Rates::new() },
    ];
    let tiers = ServiceTier::ALL.into_iter().filter(|tier| !tier.is_standard());
    ModelRates {
        contexts: contexts.clone(),
        service_tiers: tiers
            .map(|tier| (tier, TierRates { rates: rates("0.20"), contexts: contexts.clone() }))
            .collect(),
        mode: Some(Mode::Chat),
        max_input_tokens: Some(1_048_576),
        max_output_tokens: Some(65_536),
        ..ModelRates::flat("openai".parse().unwrap(), "gpt-4o-mini", rates("0.15"))
    }
}

/// Further examples of an event: members that were added to a version since, which are left out where they say nothing.
fn additions() -> Vec<(&'static str, Event)> {
    let developers_key = CredentialAdded {
        credential_id: CredentialId(id(31)),
        owner: CredentialOwner::Developer { developer_id: DeveloperId(id(2)) },
        provider: KeyProvider::Anthropic,
        base_url: None,
        origin: "https://api.anthropic.com".into(),
        masked: "sk-...wxyz".into(),
        models_allowed: Vec::new(),
        budget_limit: None,
        priority: 1,
        fallback_to_platform: false,
    };
    let (hold_id, wallet_id) = (HoldId(id(8)), wallet());
    let used = Component::ALL.iter().fold(Usage::default(), |mut usage, component| {
        usage.set(*component, 7);
        usage
    });
    let call = Call { service_tier: ServiceTier::Priority, ..call() };
    let on_a_key = Attempt {
        route: Route::Byok,
        credential: Some(CredentialId(id(30))),
        error: Some(AttemptError::ClientGone),
        ..outcome().attempts.remove(0)
    };
    let own = Call { route: Route::Byok, ..call.clone() };
    vec![
        ("developer", developers_key.into()),
        (
            "attempts",
            HoldPlaced {
                hold_id,
                wallet_id,
                call: own.clone(),
                requested: usd("0.02"),
                amount: usd("0.01"),
                rate_card_id: RateCardId(id(5)),
                price_rule: rule(),
                expires_at: at("2026-11-23T10:00:00.123456Z"),
                dispatch: Some(Box::new(Dispatch {
                    gateway: GatewayId(id(20)),
                    epoch: EpochId(id(21)),
                    endpoint: Endpoint::Responses,
                    bound: Usage::text(256, 1_024),
                    input: Some(64),
                    origin: "https://api.openai.com".into(),
                    credential: Some(CredentialId(id(30))),
                    disconnect: DisconnectPolicy::Cancel,
                    policy_version: 3,
                })),
                balance: balance("38.000005", "0.000005", "0.01"),
            }
            .into(),
        ),
        (
            "attempts",
            HoldCaptured {
                hold_id,
                wallet_id,
                call: own,
                held: usd("0.01"),
                rating: Rating { served_model: Some("gpt-4o".into()), ..rating() },
                over_hold: false,
                provider_request_id: None,
                occurred_at: None,
                outcome: Some(Box::new(CallOutcome {
                    attempts: vec![on_a_key],
                    anomalies: vec![Anomaly::ServedModelUnpriced, Anomaly::ServedTierUnpriced],
                    cut: Some(DisconnectPolicy::BillToHere),
                    ..outcome()
                })),
                entry: charge(),
                balance: balance("37.99970499", "0", "0"),
            }
            .into(),
        ),
        (
            "credential",
            Frozen { scope: FreezeScope::ProviderCredential(CredentialId(id(14))), reason: "leaked".into() }.into(),
        ),
        ("everything", Frozen { scope: FreezeScope::Everything, reason: "stop".into() }.into()),
        ("refunds", Thawed { scope: FreezeScope::Refunds, reason: "over".into() }.into()),
        (
            "owner",
            TestCreditGranted {
                wallet_id,
                user_id: Some(UserId(id(10))),
                amount: usd("10"),
                entry: credit(Account::adjustments("test-credit".parse().unwrap()), "10"),
                balance: balance("35", "0", "0"),
            }
            .into(),
        ),
        (
            "tiers",
            RateCardPublished {
                rate_card_id: RateCardId(id(5)),
                sha256: "0f".repeat(32),
                source: "price list".into(),
                models: vec![every_rate()],
            }
            .into(),
        ),
        (
            "expiring",
            PromoGranted {
                promo_id: Some(PromoId(id(15))),
                wallet_id,
                amount: usd("2"),
                reason: "launch".into(),
                expires_at: Some(at("2026-12-23T10:00:00.000000Z")),
                entry: EntryBuilder::new()
                    .debit(Account::house(AccountCode::DeferredPromoCost), usd("2"))
                    .credit(Account::promo(wallet_id), usd("2"))
                    .build()
                    .unwrap(),
                balance: balance("37", "2", "0"),
            }
            .into(),
        ),
        (
            "tiers",
            HoldPlaced {
                hold_id,
                wallet_id,
                call: call.clone(),
                requested: usd("0.02"),
                amount: usd("0.01"),
                rate_card_id: RateCardId(id(5)),
                price_rule: rule(),
                expires_at: at("2026-11-23T10:00:00.123456Z"),
                dispatch: None,
                balance: balance("38.000005", "0.000005", "0.01"),
            }
            .into(),
        ),
        (
            "tiers",
            HoldCaptured {
                hold_id,
                wallet_id,
                call,
                held: usd("0.01"),
                rating: Rating { usage: used, service_tier: ServiceTier::Flex, ..rating() },
                over_hold: false,
                provider_request_id: None,
                occurred_at: None,
                outcome: None,
                entry: charge(),
                balance: balance("37.99970499", "0", "0"),
            }
            .into(),
        ),
    ]
}

fn feature() -> FeatureDefined {
    FeatureDefined {
        app_id: AppId(id(3)),
        feature_id: FeatureId(id(6)),
        feature_key: "customer_reply".into(),
        display_name: "Reply to a customer".into(),
        pricing: Pricing { revenue_share_bps: BasisPoints::new(5_000), fee_usd: usd("0.001"), ..Pricing::default() },
        policy: serde_json::from_str(r#"{"route_preference":"byok_first"}"#).unwrap(),
    }
}

fn settings() -> AppSettings {
    AppSettings {
        name: "Demo app".into(),
        vertical: Some("support".into()),
        default_revenue_share_bps: BasisPoints::new(4_000).unwrap(),
        status: Status::Active,
        session_opening: SessionOpening::Server,
    }
}

/// One of each.
fn samples() -> Vec<Event> {
    let when = at("2026-11-23T10:00:00.123456Z");
    let (developer_id, app_id, session_id, top_up_id) =
        (DeveloperId(id(2)), AppId(id(3)), SessionId(id(4)), TopUpId(id(7)));
    let (hold_id, wallet_id) = (HoldId(id(8)), wallet());
    let stripe = "stripe".parse().unwrap();
    let reason = || "INC-12: ünicode \"quotes\"".to_owned();
    vec![
        DeveloperRegistered { developer_id, name: "Ada".into(), email: "ada@example.com".into() }.into(),
        DeveloperTokenIssued {
            developer_id,
            token_id: TokenId(id(9)),
            name: "ci".into(),
            token_hash: TokenHash::of_text("mf_dev_example"),
            token_prefix: "mf_dev_exampleX".into(),
            scopes: Scope::ALL.to_vec(),
            expires_at: Some(when),
        }
        .into(),
        DeveloperTokenRevoked { developer_id, token_id: TokenId(id(9)) }.into(),
        AppRegistered { app_id, developer_id, public_app_id: "app_pub_demo".into(), settings: settings() }.into(),
        AppChanged { app_id, settings: AppSettings { status: Status::Disabled, vertical: None, ..settings() } }.into(),
        feature().into(),
        FeatureChanged(feature()).into(),
        FeatureRemoved { app_id, feature_id: FeatureId(id(6)) }.into(),
        RateCardPublished {
            rate_card_id: RateCardId(id(5)),
            sha256: "0f".repeat(32),
            source: "price list".into(),
            models: vec![ModelRates::flat(
                "openai".parse().unwrap(),
                "gpt-4o-mini",
                FIRST_COMPONENTS.map(|component| (component, Rate::per_million("0.15").unwrap())),
            )],
        }
        .into(),
        RateCardActivated { rate_card_id: RateCardId(id(5)) }.into(),
        WalletOpened {
            wallet_id,
            app_id,
            user_id: UserId(id(10)),
            user_hash: UserHash::of(&"key".to_owned().into(), app_id, "crm-demo-user"),
            floor: Money::ZERO,
        }
        .into(),
        SessionOpened {
            session_id,
            app_id,
            user_id: UserId(id(10)),
            wallet_id,
            feature_key: Some("customer_reply".into()),
            token_hash: TokenHash::of_text("mf_sess_example"),
            expires_at: when,
            balance: balance("1.25", "0", "0.01"),
        }
        .into(),
        SessionRevoked { session_id }.into(),
        SessionExpired { session_id }.into(),
        TopUpRequested { top_up_id, wallet_id, amount: usd("25"), provider: stripe, reference: Some("cs_1".into()) }
            .into(),
        TopUpCredited {
            top_up_id,
            wallet_id,
            amount: usd("25"),
            provider: "stripe".parse().unwrap(),
            payment: "pi_1".into(),
            occurred_at: Some(when),
            entry: credit(Account::house(AccountCode::StripeCharges), "25"),
            balance: balance("25", "0", "0"),
        }
        .into(),
        TopUpFailed { top_up_id, wallet_id, reason: "expired".into() }.into(),
        TestCreditGranted {
            wallet_id,
            user_id: None,
            amount: usd("10"),
            entry: credit(Account::adjustments("test-credit".parse().unwrap()), "10"),
            balance: balance("35", "0", "0"),
        }
        .into(),
        PromoGranted {
            promo_id: None,
            wallet_id,
            amount: usd("0.000005"),
            reason: reason(),
            expires_at: None,
            entry: EntryBuilder::new()
                .debit(Account::house(AccountCode::DeferredPromoCost), usd("0.000005"))
                .credit(Account::promo(wallet_id), usd("0.000005"))
                .build()
                .unwrap(),
            balance: balance("35.000005", "0.000005", "0"),
        }
        .into(),
        WalletAdjusted {
            adjustment_id: AdjustmentId(id(11)),
            wallet_id,
            kind: AdjustmentKind::Refund,
            direction: Direction::Credit,
            amount: usd("3"),
            reason: Some(reason()),
            entry: credit(Account::house(AccountCode::RefundsInFlight), "3"),
            balance: balance("38.000005", "0.000005", "0"),
        }
        .into(),
        HoldPlaced {
            hold_id,
            wallet_id,
            call: call(),
            requested: usd("0.02"),
            amount: usd("0.01"),
            rate_card_id: RateCardId(id(5)),
            price_rule: rule(),
            expires_at: when,
            dispatch: None,
            balance: balance("38.000005", "0.000005", "0.01"),
        }
        .into(),
        HoldCaptured {
            hold_id,
            wallet_id,
            call: call(),
            held: usd("0.01"),
            rating: rating(),
            over_hold: false,
            provider_request_id: Some("chatcmpl-1".into()),
            occurred_at: Some(when),
            outcome: None,
            entry: charge(),
            balance: balance("37.99970499", "0", "0"),
        }
        .into(),
        HoldReleased {
            hold_id,
            wallet_id,
            amount: usd("0.01"),
            reason: ReleaseReason::TimedOut,
            outcome: None,
            balance: balance("38", "0", "0"),
        }
        .into(),
        HoldExpired { hold_id, wallet_id, amount: usd("0.01"), balance: balance("38", "0", "0") }.into(),
        LateUsageCaptured {
            hold_id,
            wallet_id,
            call: Call { session_id: None, feature_key: None, ..call() },
            rating: rating(),
            provider_request_id: None,
            occurred_at: None,
            outcome: None,
            entry: charge(),
            balance: balance("37.99970499", "0", "0"),
        }
        .into(),
        UsageRecorded {
            usage_id: UsageId(id(12)),
            wallet_id,
            call: call(),
            rating: rating(),
            provider_request_id: Some("row-1".into()),
            occurred_at: Some(when),
            entry: charge(),
            balance: balance("37.99970499", "0", "0"),
        }
        .into(),
        AttemptStarted {
            hold_id,
            wallet_id,
            number: 2,
            ended: outcome().attempts.remove(0),
            call: Call { provider: "anthropic".parse().unwrap(), model: "claude-haiku-4-5".into(), ..call() },
            bound: Usage::text(256, 1_024),
            origin: "http://127.0.0.1:4000".into(),
            credential: None,
            disconnect: DisconnectPolicy::Drain,
            policy_version: 1,
            requested: usd("0.04"),
            replaced: usd("0.01"),
            amount: usd("0.03"),
            balance: balance("38", "0", "0.03"),
        }
        .into(),
        AttemptProgressed { hold_id, wallet_id, number: 2, bytes: 40_960, usage: Usage::text(178, 96), counter: 1 }
            .into(),
        DisconnectPolicySet {
            provider: "openai".parse().unwrap(),
            endpoint: Endpoint::ChatCompletions,
            route: Route::Byok,
            policy: DisconnectPolicy::BillToHere,
            version: 2,
            reason: reason(),
        }
        .into(),
        Frozen { scope: FreezeScope::App(app_id), reason: reason() }.into(),
        Thawed { scope: FreezeScope::TopUps, reason: reason() }.into(),
        CredentialAdded {
            credential_id: CredentialId(id(30)),
            owner: CredentialOwner::User { app_id, user_id: UserId(id(10)) },
            provider: KeyProvider::OpenaiCompatible,
            base_url: Some("https://models.example.com/v1".into()),
            origin: "https://models.example.com".into(),
            masked: "sk-...cdef".into(),
            models_allowed: vec!["gpt-4o-mini".into()],
            budget_limit: Some(usd("25")),
            priority: 100,
            fallback_to_platform: true,
        }
        .into(),
        CredentialDisabled { credential_id: CredentialId(id(30)), reason: DisableReason::Requested }.into(),
        StaffTokenIssued {
            token_id: TokenId(id(13)),
            name: "Grace, on call".into(),
            role: StaffRole::Operator,
            token_hash: TokenHash::of_text("mf_staff_example"),
            token_prefix: "mf_staff_exampleX".into(),
            expires_at: Some(when),
        }
        .into(),
        StaffTokenRevoked { token_id: TokenId(id(13)) }.into(),
        LogForked {
            log_id: LogId(id(41)),
            previous_log_id: LogId(id(40)),
            epoch: 2,
            common: Position(1_190_774),
            common_hash: "00".repeat(32),
            lost_from: Position(1_190_775),
            lost_until: Position(1_190_802),
            reason: reason(),
            approved_by: Actor::Staff(StaffRole::Admin, TokenId(id(13))),
        }
        .into(),
    ]
    .into_iter()
    .chain(payment_samples())
    .chain(payout_samples())
    .collect()
}

/// Money from outside and back.
fn payment_samples() -> Vec<Event> {
    let when = Some(at("2026-11-23T10:00:00.123456Z"));
    let (wallet_id, refund_id, write_off_id) = (wallet(), RefundId(id(13)), WriteOffId(id(14)));
    let (payment, dispute) = (|| "pi_1".to_owned(), || "dp_1".to_owned());
    let left = || balance("35", "0", "0");
    let entry = |postings: &[(Account, &str)]| {
        let debit = |entry: EntryBuilder, (account, amount): &(Account, &str)| {
            entry.debit(account.clone(), amount.parse().unwrap())
        };
        postings.iter().fold(EntryBuilder::new(), debit).build().unwrap()
    };
    let (paid, owed) = (Account::paid(wallet_id), Account::receivable(wallet_id));
    let house = Account::house;
    vec![
        TopUpCheckoutOpened {
            top_up_id: TopUpId(id(7)),
            wallet_id,
            reference: "cs_1".into(),
            url: "https://pay.example/cs_1".into(),
        }
        .into(),
        RefundRequested {
            refund_id,
            wallet_id,
            payment: payment(),
            amount: usd("5"),
            receivable: usd("2"),
            reference: Some("re_1".into()),
            reason: Some("too much".into()),
            occurred_at: when,
            entry: entry(&[(paid.clone(), "3"), (owed.clone(), "2"), (house(AccountCode::RefundsInFlight), "-5")]),
            balance: left(),
        }
        .into(),
        RefundSent { refund_id, wallet_id, reference: "re_1".into() }.into(),
        RefundFailed {
            refund_id,
            wallet_id,
            payment: payment(),
            amount: usd("5"),
            receivable: usd("2"),
            reason: "lost_or_stolen_card".into(),
            occurred_at: when,
            entry: entry(&[(house(AccountCode::RefundsInFlight), "5"), (paid.clone(), "-3"), (owed.clone(), "-2")]),
            balance: left(),
        }
        .into(),
        DisputeOpened {
            dispute: dispute(),
            wallet_id,
            payment: payment(),
            amount: usd("10"),
            held: usd("3"),
            freezes: true,
            reason: "fraudulent".into(),
            occurred_at: when,
            balance: balance("35", "0", "3"),
        }
        .into(),
        DisputeWon {
            dispute: dispute(),
            wallet_id,
            payment: payment(),
            released: usd("3"),
            occurred_at: when,
            balance: left(),
        }
        .into(),
        DisputeLost {
            dispute: dispute(),
            wallet_id,
            payment: payment(),
            amount: usd("10"),
            released: usd("3"),
            receivable: usd("7"),
            occurred_at: when,
            entry: entry(&[(paid, "3"), (owed.clone(), "7"), (house(AccountCode::DisputesWithheld), "-10")]),
            balance: left(),
        }
        .into(),
        WriteOffProposed { write_off_id, wallet_id, amount: usd("7"), reason: "gone".into() }.into(),
        ReceivableWrittenOff {
            write_off_id,
            wallet_id,
            amount: usd("7"),
            entry: entry(&[(house(AccountCode::BadDebt), "7"), (owed, "-7")]),
            balance: left(),
        }
        .into(),
        CreditExpired {
            promo_id: PromoId(id(15)),
            wallet_id,
            amount: usd("2"),
            again_at: when,
            entry: entry(&[(Account::promo(wallet_id), "2"), (house(AccountCode::DeferredPromoCost), "-2")]),
            balance: left(),
        }
        .into(),
        StripeTransactionRecorded {
            transaction: "txn_1".into(),
            category: TransactionCategory::Charge,
            source: Some("ch_1".into()),
            payment: Some(payment()),
            amount: usd("25"),
            fee: usd("1.03"),
            occurred_at: at("2026-11-23T10:00:00.000000Z"),
            entry: entry(&[
                (house(AccountCode::StripeBalance), "23.97"),
                (house(AccountCode::ProcessorFees), "1.03"),
                (house(AccountCode::StripeCharges), "-25"),
            ]),
        }
        .into(),
    ]
}

fn payout_samples() -> Vec<Event> {
    let when = Some(at("2026-11-23T10:00:00.123456Z"));
    let (payout_id, developer_id, amount) = (PayoutId(id(16)), DeveloperId(id(2)), usd("1.2"));
    let provider = || "mock".parse().unwrap();
    let owed = Account::developer(developer_id);
    let house = Account::house;
    let entry = |from: Account, to: Account| {
        EntryBuilder::new().debit(from, usd("1.2")).credit(to, usd("1.2")).build().unwrap()
    };
    let again = || entry(house(AccountCode::PayoutsInFlight), owed.clone());
    let paid = EntryBuilder::new()
        .debit(house(AccountCode::PayoutsInFlight), amount)
        .debit(house(AccountCode::PayoutFees), usd("0.25"))
        .credit(house(AccountCode::BankOperating), usd("1.45"));
    vec![
        PayoutRequested {
            payout_id,
            developer_id,
            amount,
            provider: provider(),
            trigger: PayoutTrigger::Threshold,
            entry: entry(owed.clone(), house(AccountCode::PayoutsInFlight)),
        }
        .into(),
        PayoutApproved { payout_id, developer_id, amount, provider: provider(), note: Some("checked".into()) }.into(),
        PayoutPaid {
            payout_id,
            developer_id,
            amount,
            provider: provider(),
            reference: "po_mock_1".into(),
            fee: usd("0.25"),
            occurred_at: when,
            entry: paid.build().unwrap(),
        }
        .into(),
        PayoutFailed { payout_id, developer_id, amount, reason: "no such account".into(), entry: again() }.into(),
        PayoutCancelled { payout_id, developer_id, amount, reason: "typo".into(), entry: again() }.into(),
        PayoutReturned {
            payout_id,
            developer_id,
            amount,
            reason: "account closed".into(),
            reference: "bank-1".into(),
            occurred_at: when,
            entry: entry(house(AccountCode::BankOperating), owed.clone()),
        }
        .into(),
        RepairProposed { repair_id: RepairId(id(21)), digest: "5f".repeat(32), steps: 2, reason: "INC-12".into() }
            .into(),
        RepairApproved { repair_id: RepairId(id(21)), digest: "5f".repeat(32) }.into(),
        IncidentClosed {
            name: "INC-12".into(),
            first: Position(800),
            last: Position(812),
            digest: "5f".repeat(32),
            bytes: 5_123,
            reason: "charged twice; repaired".into(),
            supersedes: Some(Position(815)),
        }
        .into(),
    ]
}

fn outcome() -> CallOutcome {
    let attempt = Attempt {
        route: Route::Platform,
        provider: "openai".parse().unwrap(),
        model: "gpt-4o-mini".into(),
        credential: None,
        started_at: at("2026-11-23T10:00:00.000001Z"),
        first_byte_ms: None,
        total_ms: Some(3_000),
        status: Some(503),
        error: Some(AttemptError::Status),
        billed: Billed::Unknown,
        exposure: Some(usd("0.00000384")),
    };
    let answered = Attempt {
        first_byte_ms: Some(350),
        status: Some(200),
        error: None,
        billed: Billed::Yes,
        exposure: None,
        ..attempt.clone()
    };
    CallOutcome {
        attempts: vec![attempt, answered],
        source: Some(UsageSource::Estimated),
        anomalies: vec![Anomaly::Missing],
        reported: Some(r#"{"prompt_tokens":178}"#.into()),
        served_model: Some("gpt-4o-mini-2024-07-18".into()),
        interrupted: true,
        client_gone: true,
        cut: None,
    }
}

/// Further shapes of events that have one above: with the members that came later. The name says which.
fn shapes() -> Vec<(&'static str, Event)> {
    let call = |event: Event| match event {
        Event::HoldPlaced(placed) => {
            let dispatch = Dispatch {
                gateway: GatewayId(id(20)),
                epoch: EpochId(id(21)),
                endpoint: Endpoint::ChatCompletions,
                bound: Usage::text(256, 1_024),
                input: None,
                origin: "http://127.0.0.1:4000".into(),
                credential: None,
                disconnect: DisconnectPolicy::Drain,
                policy_version: 1,
            };
            Some(HoldPlaced { dispatch: Some(Box::new(dispatch)), ..placed }.into())
        }
        Event::HoldCaptured(captured) => Some(HoldCaptured { outcome: Some(Box::new(outcome())), ..captured }.into()),
        Event::HoldReleased(released) => Some(HoldReleased { outcome: Some(Box::new(outcome())), ..released }.into()),
        Event::LateUsageCaptured(captured) => {
            Some(LateUsageCaptured { outcome: Some(Box::new(outcome())), ..captured }.into())
        }
        _ => None,
    };
    samples().into_iter().filter_map(call).map(|event| ("call", event)).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("events")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The golden files with the hashes that they were released with.
fn released() -> BTreeMap<String, String> {
    let sums = std::fs::read_to_string(folder().join("SHA256SUMS")).unwrap_or_default();
    sums.lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
        .collect()
}

#[test]
fn every_event_has_its_golden_file() {
    let mut sums = released();
    let first = samples().into_iter().map(|event| (format!("{}.v{}.json", event.name(), event.version()), event));
    let further = additions()
        .into_iter()
        .chain(shapes())
        .map(|(what, event)| (format!("{}.v{}.{what}.json", event.name(), event.version()), event));
    for (name, event) in first.chain(further) {
        let path = folder().join(&name);
        let bytes = event.encode();
        if std::env::var("GOLDEN").is_ok_and(|mode| mode == "write") && !path.exists() {
            std::fs::write(&path, &bytes).unwrap();
            sums.insert(name.clone(), hex(&Sha256::digest(&bytes)));
            let mut text = String::new();
            for (name, sum) in &sums {
                writeln!(text, "{sum}  {name}").unwrap();
            }
            std::fs::write(folder().join("SHA256SUMS"), text).unwrap();
        }
        let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            String::from_utf8_lossy(&golden),
            String::from_utf8_lossy(&bytes),
            "{name}: the stored form has changed"
        );
    }
    let kinds: Vec<_> = samples().iter().map(|event| (event.name(), event.version())).collect();
    assert_eq!(kinds, Event::KINDS, "one sample per event, in order");
}

#[test]
fn every_released_form_is_still_readable_and_unchanged() {
    let released = released();
    assert!(released.len() >= Event::KINDS.len());
    for (name, sum) in released {
        let bytes = std::fs::read(folder().join(&name)).unwrap();
        assert_eq!(hex(&Sha256::digest(&bytes)), sum, "{name} was edited");
        let mut parts = name.split('.');
        let kind = parts.next().unwrap();
        let version = parts.next().unwrap()[1..].parse().unwrap();
        let event = Event::decode(kind, version, &bytes).unwrap();
        assert_eq!(event.encode(), bytes, "{name} does not survive reading and writing");
    }
}

#[test]
fn what_is_not_a_stored_form_is_refused() {
    let bytes = samples()[0].encode();
    assert!(matches!(Event::decode("NoSuchEvent", 1, &bytes), Err(DecodeError::Unknown { .. })));
    assert!(matches!(Event::decode("DeveloperRegistered", 2, &bytes), Err(DecodeError::Unknown { .. })));
    assert!(Event::decode("HoldPlaced", 1, &bytes).is_err());
    let unknown_member = String::from_utf8(bytes).unwrap().replace("\"name\"", "\"surprise\":1,\"name\"");
    assert!(Event::decode("DeveloperRegistered", 1, unknown_member.as_bytes()).is_err());
}
