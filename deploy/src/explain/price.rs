//! Rates a charge again, from the card that its hold was placed under and the usage that was reported, and compares.

use modelfaucet_command::domain::RateCard;
use modelfaucet_command::domain::rating::{self, Parties, Rounding};
use modelfaucet_schema::account::{AccountCode, Subject};
use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::event::{Balance, Call, Event, ModelRates, RateCardId, Rating, Route};
use modelfaucet_schema::ids::{DeveloperId, WalletId};
use modelfaucet_schema::money::Money;
use serde_json::{Value, json};
use tokio_postgres::{Error, Transaction};
use uuid::Uuid;

use crate::reading::{self, Place};

/// A charge as its event has it.
pub(super) struct Charge<'a> {
    wallet: WalletId,
    call: &'a Call,
    rating: &'a Rating,
    entry: &'a JournalEntry,
    balance: Balance,
    /// The most that the customer pays and the wallet gives, where an event says so.
    cap: Option<Money>,
}

impl<'a> Charge<'a> {
    pub(super) fn of(event: &'a Event) -> Option<Self> {
        Some(match event {
            Event::HoldCaptured(e) => Self {
                wallet: e.wallet_id,
                call: &e.call,
                rating: &e.rating,
                entry: &e.entry,
                balance: e.balance,
                cap: Some(e.held),
            },
            Event::LateUsageCaptured(e) => Self {
                wallet: e.wallet_id,
                call: &e.call,
                rating: &e.rating,
                entry: &e.entry,
                balance: e.balance,
                cap: None,
            },
            Event::UsageRecorded(e) => Self {
                wallet: e.wallet_id,
                call: &e.call,
                rating: &e.rating,
                entry: &e.entry,
                balance: e.balance,
                cap: Some(e.rating.retail),
            },
            _ => return None,
        })
    }

    pub(super) fn card(&self) -> RateCardId {
        self.rating.rate_card_id
    }

    /// The offer that prices it.
    fn offer<'b>(&self, card: &'b RateCard) -> Option<&'b ModelRates> {
        let model = self.rating.served_model.as_deref().unwrap_or(&self.call.model);
        card.offer(&self.call.provider, model)
    }

    /// Rates it again.
    pub(super) fn again(&self, place: Place, card: Option<&RateCard>) -> Priced {
        let Rating { usage, service_tier, price_rule, .. } = self.rating;
        let route = self.call.route;
        let offer = card.and_then(|card| self.offer(card));
        let mut priced = Priced {
            place,
            lines: Vec::new(),
            markup: format!("{} bps", u64::from(price_rule.markup_bps.get())),
            charged: self.rating.clone(),
            recomputed: None,
            differences: Vec::new(),
        };
        if let Some(table) = offer.and_then(|offer| offer.table(*service_tier, usage.input_tokens())) {
            for (component, count) in usage.counts() {
                let Some(rate) = table.get(&component) else { continue };
                let (rate_text, cost) = (rate.to_string(), rate.times(count).to_string());
                priced.lines.push((component.name(), count, rate_text, cost));
            }
        }
        let price = match rating::price(route, offer, *service_tier, usage, price_rule, Rounding::Charge) {
            Ok(price) => price,
            Err(refusal) => {
                priced.differences.push(format!("cannot be rated again: {refusal}"));
                return priced;
            }
        };
        priced.recomputed = Some((price.exact_cost.to_string(), price.upstream, price.retail));
        let mut compare = |what: &str, charged: String, again: String| {
            if charged != again {
                priced.differences.push(format!("{what} is {charged}, and {again} when rated again"));
            }
        };
        let stated = self.rating;
        compare("the exact cost", stated.exact_cost.to_string(), price.exact_cost.to_string());
        compare("the cost", stated.upstream.to_string(), price.upstream.to_string());
        compare("the price", stated.retail.to_string(), price.retail.to_string());
        // What was available when late usage came is not in its event; what was charged is then all that there was.
        let cap = self.cap.unwrap_or(stated.charge);
        // Nor is the floor: what paid credit was left for a hold on the developer's own key is what was charged.
        let is_paid = route == Route::DeveloperKey && stated.receivable == Money::ZERO;
        let cap = if is_paid { cap.min(stated.charge) } else { cap };
        let payable = match self.cap {
            Some(_) => cap.checked_sub(stated.receivable).unwrap_or(cap),
            None => cap,
        };
        let promo_before = self.balance.promo.checked_add(stated.promo).unwrap_or(self.balance.promo);
        let split = rating::split(route, &price, price_rule, cap, payable, promo_before);
        compare("the charge", stated.charge.to_string(), split.charge.to_string());
        compare("the developer's share", stated.developer.to_string(), split.developer.to_string());
        compare("the cost that nobody bears", stated.unrecovered.to_string(), split.unrecovered.to_string());
        let parties =
            Parties { wallet: self.wallet, developer: developer_of(self.entry), provider: &self.call.provider };
        match rating::entry(route, &price, &split, parties) {
            Ok(entry) if entry == *self.entry => {}
            _ => priced.differences.push("the entry is another one when it is made again".to_owned()),
        }
        priced
    }
}

/// Whose share an entry credits. Without a share nobody's account is in it.
fn developer_of(entry: &JournalEntry) -> DeveloperId {
    let of = |posting: &modelfaucet_schema::entry::Posting| match (posting.account.code(), posting.account.subject()) {
        (AccountCode::DeveloperPayable, Subject::Developer(developer)) => Some(*developer),
        _ => None,
    };
    entry.postings().iter().find_map(of).unwrap_or(DeveloperId(Uuid::nil()))
}

/// A charge that was rated again.
pub(super) struct Priced {
    place: Place,
    /// Component, count, rate, cost.
    lines: Vec<(&'static str, u64, String, String)>,
    markup: String,
    charged: Rating,
    /// Exact cost, cost and price.
    recomputed: Option<(String, Money, Money)>,
    differences: Vec<String>,
}

impl Priced {
    pub(super) fn is_right(&self) -> bool {
        self.differences.is_empty()
    }

    pub(super) fn text(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .lines
            .iter()
            .map(|(component, count, rate, cost)| format!("{} {count} {component} × {rate} = {cost}", self.place))
            .collect();
        let rating = &self.charged;
        lines.push(format!(
            "{} exact {} → U {} → R {} (markup {}) · charged {} · D {} · card {}",
            self.place,
            rating.exact_cost,
            rating.upstream,
            rating.retail,
            self.markup,
            rating.charge,
            rating.developer,
            rating.rate_card_id.0,
        ));
        if self.is_right() {
            lines.push(format!("{} rated again: the same to the last digit", self.place));
        }
        lines.extend(self.differences.iter().map(|difference| format!("{} DIFFERS: {difference}", self.place)));
        lines
    }

    pub(super) fn json(&self) -> Value {
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|(component, count, rate, cost)| json!({"component": component, "count": count, "rate": rate, "cost": cost}))
            .collect();
        let recomputed = self
            .recomputed
            .as_ref()
            .map(|(exact, upstream, retail)| json!({"exact_cost": exact, "upstream": upstream, "retail": retail}));
        json!({
            "place": self.place.to_string(), "lines": lines, "rating": self.charged, "recomputed": recomputed,
            "equal": self.is_right(), "differences": self.differences,
        })
    }
}

/// A rate card, from the event that published it.
pub(super) async fn card(
    transaction: &Transaction<'_>,
    place: Place,
    id: RateCardId,
) -> Result<Option<RateCard>, Error> {
    let sql = "SELECT position FROM read.audit_log WHERE shard = $1 AND stream = $2 AND action = 'RateCardPublished'
               ORDER BY position LIMIT 1";
    let stream = format!("rate_card:{}", id.0);
    let Some(row) = transaction.query_opt(sql, &[&place.shard.0, &stream]).await? else { return Ok(None) };
    let position = modelfaucet_schema::ids::Position(row.get(0));
    let event = reading::event(transaction, Place { shard: place.shard, position }).await?;
    Ok(event.and_then(|event| match event.decode().ok()?.event {
        Event::RateCardPublished(published) => Some(RateCard::new(published.models)),
        _ => None,
    }))
}

/// Routes on which the price list counts.
pub(super) fn needs_card(event: &Event) -> bool {
    Charge::of(event).is_some_and(|charge| matches!(charge.call.route, Route::Platform | Route::DeveloperKey))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use modelfaucet_schema::ids::{Position, ShardId};
    use modelfaucet_schema::rate::Rate;
    use modelfaucet_schema::usage::Component;

    use super::*;

    /// The worked example of docs/ACCOUNTING.md, as it is stored.
    const CAPTURED: &str = include_str!("../../../schema/events/HoldCaptured.v1.json");

    fn captured(change: impl FnOnce(String) -> String) -> Event {
        Event::decode("HoldCaptured", 1, change(CAPTURED.to_owned()).as_bytes()).unwrap()
    }

    fn card(output: &str) -> RateCard {
        let rates: BTreeMap<Component, Rate> =
            [(Component::InputUncached, "0.15"), (Component::CacheRead, "0.075"), (Component::OutputText, output)]
                .into_iter()
                .map(|(component, usd)| (component, Rate::per_million(usd).unwrap()))
                .collect();
        RateCard::new(vec![ModelRates::flat("openai".parse().unwrap(), "gpt-4o-mini", rates)])
    }

    fn again(event: &Event, card: Option<&RateCard>) -> Vec<String> {
        let place = Place { shard: ShardId(0), position: Position(1) };
        Charge::of(event).unwrap().again(place, card).differences
    }

    #[test]
    fn the_worked_example_comes_out_the_same() {
        assert_eq!(again(&captured(|text| text), Some(&card("0.60"))), Vec::<String>::new());
    }

    #[test]
    fn another_price_another_count_or_no_card_is_told() {
        let event = captured(|text| text);
        assert!(!again(&event, Some(&card("0.61"))).is_empty());
        assert!(again(&event, None)[0].starts_with("cannot be rated again"));
        let counted = captured(|text| text.replace("\"output_text\":212", "\"output_text\":213"));
        assert!(
            again(&counted, Some(&card("0.60"))).iter().any(|text| text.starts_with("the exact cost is 0.000230775"))
        );
    }
}
