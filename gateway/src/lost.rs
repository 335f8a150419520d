//! A call whose task is gone: its gateway died, or broke off inside. What is known of it decides how its hold ends.

use modelfaucet_schema::event::{
    Attempt, AttemptError, AttemptStarted, Billed, Call, CallOutcome, HoldPlaced, RateCardId, ReleaseReason, Route,
    UsageSource,
};
use modelfaucet_schema::ids::{CredentialId, HoldId, SessionId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::usage::Usage;
use serde::{Deserialize, Serialize};

use crate::options::LostCalls;
use crate::port::{EndCall, Ending};
use crate::read_model::ReadModel;

/// A hold that nobody's task owns any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftHold {
    /// The hold.
    pub hold_id: HoldId,
    /// Its session.
    pub session_id: SessionId,
    /// The call, as its last attempt was sent.
    pub call: Call,
    /// The card that prices it.
    pub rate_card_id: RateCardId,
    /// The key of a developer or user that the last attempt was called with.
    pub credential: Option<CredentialId>,
    /// What the input probably comes to, in tokens.
    pub input: u64,
    /// What the last attempt had used by its last mark.
    pub mark: Option<Usage>,
}

impl LeftHold {
    /// The hold of an event, if it is a gateway's and a session pays for it.
    pub fn of(placed: &HoldPlaced) -> Option<Self> {
        let dispatch = placed.dispatch.as_ref()?;
        Some(Self {
            hold_id: placed.hold_id,
            session_id: placed.call.session_id?,
            call: placed.call.clone(),
            rate_card_id: placed.rate_card_id,
            credential: dispatch.credential,
            input: dispatch.input.unwrap_or_else(|| dispatch.bound.input_tokens()),
            mark: None,
        })
    }

    /// The next attempt has begun.
    pub fn start(&mut self, started: &AttemptStarted) {
        self.call = started.call.clone();
        self.credential = started.credential;
        self.mark = None;
    }

    /// How it ends: what a mark shows is charged, if the route's policy does not say otherwise; else the funds go back, and the
    /// platform bears the input, which is what a provider bills of a call that it did not answer.
    pub(crate) fn end(&self, policy: LostCalls, prices: &ReadModel) -> EndCall {
        let mark = self.mark.filter(|_| policy.are_charged(self.call.route));
        let (ending, exposure) = match mark {
            Some(usage) => {
                let ending =
                    Ending::Capture { usage, service_tier: None, served_model: None, provider_request_id: None };
                (ending, None)
            }
            None => (Ending::Release(ReleaseReason::Absorbed), self.exposure(prices)),
        };
        let outcome = CallOutcome {
            attempts: vec![self.lost_attempt(exposure)],
            source: mark.map(|_| UsageSource::Estimated),
            interrupted: true,
            ..CallOutcome::default()
        };
        EndCall { hold_id: self.hold_id, session_id: self.session_id, ending, outcome }
    }

    fn lost_attempt(&self, exposure: Option<Money>) -> Attempt {
        Attempt {
            route: self.call.route,
            provider: self.call.provider.clone(),
            model: self.call.model.clone(),
            credential: self.credential,
            started_at: Timestamp::now(),
            first_byte_ms: None,
            total_ms: None,
            status: None,
            error: Some(AttemptError::Lost),
            billed: Billed::Unknown,
            exposure,
        }
    }

    /// What was delivered by its last mark, or else its input, at the platform's cost.
    fn exposure(&self, prices: &ReadModel) -> Option<Money> {
        if self.call.route != Route::Platform {
            return None;
        }
        let card = prices.card(self.rate_card_id)?;
        let offer = card.offer(&self.call.provider, &self.call.model)?;
        let usage = self.mark.unwrap_or_else(|| Usage::text(self.input, 0));
        offer.exact_cost_at(self.call.service_tier, &usage).ok()?.round_up()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_model::RateCard;
    use modelfaucet_schema::event::{ModelRates, ServiceTier};
    use modelfaucet_schema::ids::AppId;
    use modelfaucet_schema::rate::Rate;
    use modelfaucet_schema::usage::Component;
    use uuid::Uuid;

    const CARD: RateCardId = RateCardId(Uuid::from_u128(5));

    fn left(route: Route, mark: Option<Usage>) -> LeftHold {
        LeftHold {
            hold_id: HoldId(Uuid::from_u128(1)),
            session_id: SessionId(Uuid::from_u128(2)),
            call: Call {
                app_id: AppId(Uuid::from_u128(3)),
                session_id: Some(SessionId(Uuid::from_u128(2))),
                feature_key: None,
                route,
                provider: "openai".parse().unwrap(),
                model: "m".into(),
                service_tier: ServiceTier::Standard,
            },
            rate_card_id: CARD,
            credential: None,
            input: 100,
            mark,
        }
    }

    /// How it ends: tokens of output charged, or the exposure in units.
    fn ended(left: &LeftHold, policy: LostCalls) -> Result<u64, Option<i64>> {
        let prices = ReadModel::default();
        let rate = |usd| Rate::per_million(usd).unwrap();
        let rates = [(Component::InputUncached, rate("1")), (Component::OutputText, rate("2"))];
        prices.publish_card(CARD, RateCard::new([ModelRates::flat("openai".parse().unwrap(), "m", rates)]));
        let end = left.end(policy, &prices);
        let attempt = &end.outcome.attempts[0];
        assert_eq!((attempt.error, end.outcome.interrupted), (Some(AttemptError::Lost), true));
        match end.ending {
            Ending::Capture { usage, .. } => {
                assert_eq!((end.outcome.source, attempt.exposure), (Some(UsageSource::Estimated), None));
                Ok(usage.output_text)
            }
            Ending::Release(reason) => {
                assert_eq!((reason, end.outcome.source), (ReleaseReason::Absorbed, None));
                Err(attempt.exposure.map(Money::units))
            }
        }
    }

    #[test]
    fn a_mark_is_charged_and_a_call_without_one_given_back_with_its_inputs_cost() {
        let mark = Some(Usage::text(100, 7));
        let charge = LostCalls::default();
        assert_eq!(ended(&left(Route::Platform, mark), charge), Ok(7));
        assert_eq!(ended(&left(Route::Platform, None), charge), Err(Some(10_000)));
        assert_eq!(ended(&left(Route::Byok, None), charge), Err(None), "the user's own key pays the provider");
        let absorb = charge.absorbing(Route::Platform);
        assert_eq!(ended(&left(Route::Platform, mark), absorb), Err(Some(11_400)));
        assert_eq!(ended(&left(Route::Byok, mark), absorb), Ok(7));
    }
}
