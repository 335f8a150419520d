//! Why an entry of a price map is not on the card.

use modelfaucet_schema::rate::InvalidRate;
use modelfaucet_schema::usage::Component;

/// Why a model is not priced. A model that is not on the card is refused, never free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// No endpoint takes such requests.
    #[error("mode {0} has no endpoint here")]
    Mode(String),
    /// Not said what it is.
    #[error("no mode")]
    NoMode,
    /// Nobody to owe the cost to.
    #[error("no provider that can be a name: {0:?}")]
    NoProvider(String),
    /// Not an object, or a member twice.
    #[error("not an entry: {0}")]
    NotAnEntry(String),
    /// A field that could be a price and is not known.
    #[error("the field {0} is not known and could be a price")]
    UnknownField(String),
    /// A known field holds what it should not.
    #[error("the field {0} holds something else than expected")]
    OddValue(String),
    /// Finer than 1e-15 USD, or too large.
    #[error("the price {0} {1}")]
    NotARate(String, InvalidRate),
    /// Two fields disagree.
    #[error("two fields name different prices of {}", .0.name())]
    TwoPrices(Component),
    /// Priced in a unit that usage does not count.
    #[error("{why} ({field})")]
    OtherUnit { field: String, why: &'static str },
    /// A price that every model of its kind needs.
    #[error("no price of {}", .0.name())]
    NoPrice(Component),
    /// Free is something an operator says.
    #[error("input and output cost 0; name it with --free if it is free")]
    Zero,
    /// A search with each request, which usage does not tell.
    #[error("every request searches the web for a fee (search_context_cost_per_query)")]
    SearchFee,
    /// Longer inputs would be cheaper.
    #[error("a price falls as inputs get longer")]
    Falling,
    /// Nothing that could be asked for.
    #[error("the name is empty or has more than 256 characters")]
    Name,
}

impl Refusal {
    /// Is it something that has no place here at all, rather than a model without a price?
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Mode(_))
    }
}
