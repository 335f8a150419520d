//! Developers, tokens, apps, features and rate cards.

use super::super::{AppPatch, FeaturePatch};
use modelfaucet_schema::event::ContextRates;

use super::*;

#[test]
fn a_token_hands_out_at_most_what_it_has() {
    let few = [Scope::TokensWrite, Scope::AppsRead];
    let from = |scopes: &[Scope]| {
        by(Caller::Developer(DEVELOPER, OTHER_TOKEN), issue_token(TokenId(Uuid::from_u128(9)), DEVELOPER, scopes))
    };
    let world = || given([issue_token(OTHER_TOKEN, DEVELOPER, &few).into()]);
    world().when(from(&few)).then(["DeveloperTokenIssued"]);
    world().when(from(&[Scope::AppsWrite])).then_refused_as(&Rejection::ScopeNotHeld { scope: Scope::AppsWrite });
}

#[test]
fn names_are_given_once() {
    for again in [
        register_developer(DEVELOPER),
        issue_token(TOKEN, DEVELOPER, &[]),
        register_app(),
        define_feature("chat", pricing()),
        rate_card(),
    ] {
        given([]).when(again).then_refused_as(&Rejection::AlreadyExists);
    }
    let mut same_id = define_feature("chat", pricing());
    if let Command::DefineFeature { feature_key, .. } = &mut same_id {
        *feature_key = "chat-2".into();
    }
    given([]).when(same_id).then_refused_as(&Rejection::AlreadyExists);
}

#[test]
fn what_a_change_does_not_name_stays() {
    let patch = AppPatch { name: Some("Store".into()), ..AppPatch::default() };
    let then = given([]).when(Command::ChangeApp { public_app_id: "shop".into(), patch }).then(["AppChanged"]);
    let Event::AppChanged(event) = then.event() else { panic!() };
    assert_eq!(event.settings, AppSettings { name: "Store".into(), ..settings() });
    let policy: serde_json::Map<_, _> = [("max_tokens".to_owned(), 7.into())].into_iter().collect();
    let change = |patch| Command::ChangeFeature { public_app_id: "shop".into(), feature_key: "chat".into(), patch };
    let first = change(FeaturePatch { policy: Some(policy.clone()), ..FeaturePatch::default() });
    let second = change(FeaturePatch { display_name: Some("Chat".into()), ..FeaturePatch::default() });
    let then = given([first.into()]).when(second).then(["FeatureChanged"]);
    let Event::FeatureChanged(event) = then.event() else { panic!() };
    assert_eq!((&event.0.policy, event.0.pricing), (&policy, pricing()));
}

#[test]
fn a_removed_feature_prices_nothing_and_its_key_is_free() {
    let remove = || Command::RemoveFeature { public_app_id: "shop".into(), feature_key: "chat".into() };
    given([granted("1"), remove().into()])
        .when(hold_of(HOLD, "1"))
        .then_refused("feature_not_found")
        .when(remove())
        .then_refused("feature_not_found")
        .when(define_feature("chat", pricing()))
        .then(["FeatureDefined"])
        .next()
        .when(hold_of(HOLD, "1"))
        .then(["HoldPlaced"]);
}

#[test]
fn a_rate_card_is_named_by_its_content() {
    let card = |models: &[ModelRates]| activate(models.to_vec());
    let (one, two) = (model("openai", "a", "1", "1", "1"), model("openai", "b", "1", "1", "1"));
    let then = given([]).when(card(&[one.clone(), two.clone()])).then(["RateCardPublished", "RateCardActivated"]);
    // The same models in another order are the same card; a card that is known is only activated again.
    then.next()
        .when(card(&[two.clone(), one.clone()]))
        .then_refused("already_exists")
        .when(card(std::slice::from_ref(&one)))
        .then(["RateCardPublished", "RateCardActivated"])
        .next()
        .when(card(&[two.clone(), one.clone()]))
        .then(["RateCardActivated"]);
    let unpriced = ModelRates { rates: std::collections::BTreeMap::new(), ..one.clone() };
    let cheaper = ContextRates { above: 1, rates: model("openai", "a", "0.9", "1", "1").rates };
    let falling = ModelRates { contexts: vec![cheaper], ..one.clone() };
    let nameless = ModelRates { model: String::new(), ..one.clone() };
    for models in [vec![], vec![one.clone(), one], vec![unpriced], vec![falling], vec![nameless]] {
        given([]).when(activate(models)).then_refused_as(&Rejection::InvalidRateCard);
    }
}

#[test]
fn a_share_above_the_whole_is_the_whole() {
    let generous = Pricing { revenue_share_bps: Some(bps(100_000)), ..pricing() };
    let call = CallRequest { feature_key: Some("generous".into()), ..call("small") };
    let then = given([granted("1"), define_feature("generous", generous).into()])
        .when(record_usage(call, first_example(), OnShortfall::Refuse))
        .then(["UsageRecorded"]);
    let Event::UsageRecorded(event) = then.event() else { panic!() };
    assert_eq!(event.rating.developer.units(), 30_001 - 23_078);
}
