//! A story: what was found, and everything that can be said about it, as text and as JSON.

use std::fmt::Write as _;

use modelfaucet_command::domain::RateCard;
use modelfaucet_schema::event::RateCardId;
use modelfaucet_schema::event::StoredEvent;
use serde_json::{Value, json};
use tokio_postgres::{Error, Transaction};

use super::price::{self, Charge, Priced};
use super::proof::{self, Proof};
use super::views::{self, Said};
use crate::reading::{Place, event_json, tell};

/// The events of something, and what else is known of it.
pub(super) struct Found {
    pub(super) kind: &'static str,
    pub(super) facts: Vec<(String, String)>,
    pub(super) events: Vec<StoredEvent>,
}

impl Found {
    pub(super) fn of(kind: &'static str, events: Vec<StoredEvent>) -> Self {
        Self { kind, facts: Vec::new(), events }
    }
}

/// Everything that can be said.
pub(super) struct Story {
    id: String,
    found: Found,
    prices: Vec<Priced>,
    proofs: Vec<Proof>,
    views: Vec<Said>,
    freezes: Vec<String>,
}

impl Story {
    pub(super) async fn of(transaction: &Transaction<'_>, id: &str, found: Found) -> Result<Self, Error> {
        let mut cards: Vec<(RateCardId, Option<RateCard>)> = Vec::new();
        let mut prices = Vec::new();
        for stored in found.events.iter().rev().take(20).rev() {
            let Ok(recorded) = stored.decode() else { continue };
            let Some(charge) = Charge::of(&recorded.event) else { continue };
            let place = Place::of(stored);
            let wanted = charge.card();
            if price::needs_card(&recorded.event) && !cards.iter().any(|(known, _)| *known == wanted) {
                cards.push((wanted, price::card(transaction, place, wanted).await?));
            }
            let card = cards.iter().find(|(known, _)| *known == wanted).and_then(|(_, card)| card.as_ref());
            prices.push(charge.again(place, card));
        }
        let proofs = proof::proofs(transaction, &found.events).await?;
        let views = views::views(transaction, &found.events).await?;
        let freezes = views::freezes(transaction, &found.events).await?;
        Ok(Self { id: id.to_owned(), found, prices, proofs, views, freezes })
    }

    /// Is everything as it should be?
    pub(super) fn is_right(&self) -> bool {
        self.prices.iter().all(Priced::is_right)
            && self.proofs.iter().all(Proof::is_right)
            && self.views.iter().all(|said| said.right)
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{} {}\n", self.found.kind, self.id);
        // Writing into a String cannot fail.
        let mut line = |name: &str, what: &str| {
            let _ = writeln!(text, "  {name:9} {what}");
        };
        let mut told: Vec<&(String, String)> = Vec::new();
        for fact in &self.found.facts {
            if !told.contains(&fact) {
                line(&fact.0, &fact.1);
                told.push(fact);
            }
        }
        let mut request = "";
        for event in &self.found.events {
            let sentence = event.decode().map(|recorded| tell(&recorded.event)).unwrap_or_default();
            let by = if event.request_id == request {
                String::new()
            } else {
                format!(" · by {}, {}", event.actor, event.request_id)
            };
            request = &event.request_id;
            let name = event.recorded_at.to_millis_text();
            line(&name, &format!("{} {} {sentence}{by}", Place::of(event), event.name));
        }
        for price in self.prices.iter().flat_map(Priced::text) {
            line("price", &price);
        }
        for event in &self.found.events {
            let Ok(recorded) = event.decode() else { continue };
            let Some(entry) = recorded.event.entry() else { continue };
            let sum: i128 = entry.postings().iter().map(|posting| i128::from(posting.amount.units())).sum();
            let postings: Vec<String> = entry
                .postings()
                .iter()
                .map(|posting| {
                    let side = if posting.amount.is_negative() { "Cr" } else { "Dr" };
                    let amount = posting.amount.to_string();
                    format!("{side} {} {}", posting.account, amount.trim_start_matches('-'))
                })
                .collect();
            let count = entry.postings().len();
            line("entry", &format!("{} {} ({count} postings, Σ {sum})", Place::of(event), postings.join(" · ")));
        }
        for proof in &self.proofs {
            line("proof", &proof.text());
        }
        for said in &self.views {
            line("views", said.text());
        }
        if self.freezes.is_empty() {
            line("freezes", "none were on");
        }
        for freeze in &self.freezes {
            line("freezes", freeze);
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let events: Vec<Value> = self.found.events.iter().map(event_json).collect();
        let facts: Vec<Value> =
            self.found.facts.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        json!({
            "id": self.id, "kind": self.found.kind, "ok": self.is_right(), "facts": facts, "events": events,
            "prices": self.prices.iter().map(Priced::json).collect::<Vec<_>>(),
            "proofs": self.proofs.iter().map(Proof::json).collect::<Vec<_>>(),
            "views": self.views.iter().map(Said::json).collect::<Vec<_>>(),
            "freezes": self.freezes,
        })
    }
}
