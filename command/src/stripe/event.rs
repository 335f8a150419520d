//! What Stripe's events and objects say, as far as it matters here. Unknown members are let be: Stripe adds some all the time.
//! Amounts are whole numbers of cents; nothing here passes a float.

use std::collections::BTreeMap;

use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// Units of 1e-8 USD in a cent.
const CENT: i64 = 1_000_000;

/// An event.
#[derive(Clone, Debug, Deserialize)]
pub struct StripeEvent {
    /// Unique; deliveries of the same event repeat it.
    pub id: String,
    /// For example `checkout.session.completed`.
    pub r#type: String,
    /// When it happened, in seconds of Unix time.
    #[serde(default)]
    pub created: Option<i64>,
    /// Real money?
    #[serde(default)]
    pub livemode: bool,
    /// The connected account that it is of, if it is not of our own.
    #[serde(default)]
    pub account: Option<String>,
    /// What it is about.
    pub data: EventData,
}

/// The body of an event.
#[derive(Clone, Debug, Deserialize)]
pub struct EventData {
    /// The object as it was when the event happened.
    pub object: Value,
}

impl StripeEvent {
    /// When it happened, if it says so.
    pub fn occurred_at(&self) -> Option<Timestamp> {
        self.created.map(seconds)
    }

    /// The payment that its object belongs to, if it names one.
    pub fn payment(&self) -> Option<String> {
        let object = &self.data.object;
        let of = |name: &str| match object.get(name)? {
            Value::String(id) => Some(id.clone()),
            Value::Object(expanded) => expanded.get("id")?.as_str().map(str::to_owned),
            _ => None,
        };
        of("payment_intent").or_else(|| of("charge"))
    }
}

/// Seconds of Unix time as a timestamp.
pub fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(1_000_000))
}

/// Cents as money; `None` out of range.
pub fn cents(cents: i64) -> Option<Money> {
    cents.checked_mul(CENT).map(Money::from_units)
}

/// Money as whole cents.
pub fn to_cents(amount: Money) -> i64 {
    amount.units() / CENT
}

/// The id of an object, or the object itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Reference {
    /// Its id.
    Id(String),
    /// All of it.
    Object {
        /// Its id.
        id: String,
        /// The payment that it belongs to.
        #[serde(default)]
        payment_intent: Option<Box<Reference>>,
        /// The charge that it belongs to.
        #[serde(default)]
        charge: Option<Box<Reference>>,
    },
}

impl Reference {
    /// The id.
    pub fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Object { id, .. } => id,
        }
    }

    /// The payment that the object belongs to.
    pub fn payment(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Object { payment_intent, charge, .. } => {
                payment_intent.as_deref().or(charge.as_deref()).map(Self::id)
            }
        }
    }
}

/// A checkout session.
#[derive(Clone, Debug, Deserialize)]
pub struct CheckoutSession {
    /// Its id.
    pub id: String,
    /// What the user pays, in cents.
    #[serde(default)]
    pub amount_total: Option<i64>,
    /// In which currency.
    #[serde(default)]
    pub currency: Option<String>,
    /// `paid`, `unpaid` or `no_payment_required`.
    #[serde(default)]
    pub payment_status: Option<String>,
    /// The payment.
    #[serde(default)]
    pub payment_intent: Option<Reference>,
    /// What we gave it along.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// The same.
    #[serde(default)]
    pub client_reference_id: Option<String>,
    /// Where the user pays.
    #[serde(default)]
    pub url: Option<String>,
}

/// A charge, as events of refunds show it.
#[derive(Clone, Debug, Deserialize)]
pub struct Charge {
    /// Its id.
    pub id: String,
    /// The payment.
    #[serde(default)]
    pub payment_intent: Option<Reference>,
    /// In which currency.
    pub currency: String,
    /// Its refunds; absent in newer versions of Stripe's API.
    #[serde(default)]
    pub refunds: Option<List<Refund>>,
}

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    /// What is on it.
    pub data: Vec<T>,
    /// Is there another one?
    #[serde(default)]
    pub has_more: bool,
}

/// A refund.
#[derive(Clone, Debug, Deserialize)]
pub struct Refund {
    /// Its id.
    pub id: String,
    /// In cents.
    pub amount: i64,
    /// In which currency.
    pub currency: String,
    /// The payment.
    #[serde(default)]
    pub payment_intent: Option<Reference>,
    /// The charge.
    #[serde(default)]
    pub charge: Option<Reference>,
    /// `pending`, `requires_action`, `succeeded`, `failed` or `canceled`.
    #[serde(default)]
    pub status: Option<String>,
    /// Why it failed.
    #[serde(default)]
    pub failure_reason: Option<String>,
    /// When it was made.
    #[serde(default)]
    pub created: Option<i64>,
    /// What we gave it along.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
}

impl Refund {
    /// Why the money will not reach the card, if it will not.
    pub fn failure(&self) -> Option<String> {
        let over = matches!(self.status.as_deref(), Some("failed" | "canceled"));
        over.then(|| self.failure_reason.clone().or_else(|| self.status.clone()).unwrap_or_default())
    }
}

/// A dispute.
#[derive(Clone, Debug, Deserialize)]
pub struct Dispute {
    /// Its id.
    pub id: String,
    /// In cents.
    pub amount: i64,
    /// In which currency.
    pub currency: String,
    /// The payment.
    #[serde(default)]
    pub payment_intent: Option<Reference>,
    /// The charge.
    #[serde(default)]
    pub charge: Option<Reference>,
    /// The customer's reason.
    #[serde(default)]
    pub reason: Option<String>,
    /// Where it stands, for example `needs_response`, `won`, `lost`, `warning_needs_response`.
    pub status: String,
}

/// A movement of Stripe's balance.
#[derive(Clone, Debug, Deserialize)]
pub struct BalanceTransaction {
    /// Its id.
    pub id: String,
    /// Before fees, in cents; negative if money left.
    pub amount: i64,
    /// What Stripe kept, in cents.
    pub fee: i64,
    /// The difference.
    pub net: i64,
    /// In which currency.
    pub currency: String,
    /// What it is; finer than `type`.
    pub reporting_category: String,
    /// What is behind it.
    #[serde(default)]
    pub source: Option<Reference>,
    /// When it happened.
    pub created: i64,
}
