//! Stripe: what we ask of it ([`client`]), what it tells us ([`event`], proved by [`signature`]), where that is kept before it is
//! worked on ([`inbox`]), and what becomes of it ([`work`]).

pub mod client;
pub mod event;
pub mod inbox;
pub(crate) mod series;
pub mod signature;
pub(crate) mod work;

use secrecy::SecretString;

pub use client::{StripeClient, StripeError};
pub use inbox::Inbox;

/// The name of the provider in events and tables.
pub const PROVIDER: &str = "stripe";

/// How Stripe is reached and recognised.
#[derive(Debug)]
pub struct Stripe {
    /// To ask it; absent: checkouts and refunds are refused.
    pub client: Option<StripeClient>,
    /// What its webhooks are signed with; absent: the endpoint does not exist.
    pub webhook_secret: Option<SecretString>,
    /// Events of this mode are taken, others refused.
    pub livemode: bool,
    /// Events of a connected account are taken if they are of this one.
    pub account: Option<String>,
    /// Where its events are kept.
    pub inbox: Inbox,
}
