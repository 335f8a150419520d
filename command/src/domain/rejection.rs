//! Refusals: certainly no effect. Each has a stable code and HTTP status, listed in the API document.

use modelfaucet_schema::ids::Position;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::token::Scope;

macro_rules! rejections {
    ($($(#[$doc:meta])* $variant:ident $({ $($field:ident : $type:ty),* })? = $status:literal $code:literal $message:literal;)+) => {
        /// Why a command is refused.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[expect(missing_docs, reason = "fields are named as in the message")]
        pub enum Rejection {
            $($(#[$doc])* #[error($message)] $variant $({ $($field: $type),* })?,)+
        }

        impl Rejection {
            /// The stable code.
            pub const fn code(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $code,)+ }
            }

            /// The HTTP status.
            pub const fn status(&self) -> u16 {
                match self { $(Self::$variant { .. } => $status,)+ }
            }

            /// Every refusal: name, status, code and message, for the API document.
            pub const ALL: &'static [(&'static str, u16, &'static str, &'static str)] =
                &[$((stringify!($variant), $status, $code, $message)),+];
        }
    };
}

rejections! {
    /// No such session, or it was revoked.
    InvalidSession = 401 "invalid_session" "The session token is invalid.";
    /// The session's time is over.
    ExpiredSession = 401 "expired_session" "The session token is expired.";
    /// The developer's token is unknown, revoked or expired.
    InvalidDeveloperToken = 401 "invalid_session" "Missing or invalid developer token.";
    /// The staff token is unknown, revoked or expired.
    InvalidStaffToken = 401 "invalid_session" "Missing or invalid admin token.";
    /// The wallet cannot pay, whatever its open holds come to.
    InsufficientBalance { available: Money, required: Money } = 402 "insufficient_balance" "The wallet has {available} USD available; {required} USD are required.";
    /// The wallet could pay, were it not for its open holds.
    InFlightHolds { available: Money, required: Money } = 402 "in_flight_holds" "Open holds leave {available} USD available; {required} USD are required. Try again when they have ended.";
    /// Too little is left of the budget of a feature or of a provider key.
    BudgetExceeded { available: Money, required: Money } = 402 "budget_exceeded" "The budget has {available} USD left; {required} USD are required.";
    /// The developer is owed less.
    InsufficientPayable { available: Money, required: Money } = 402 "insufficient_balance" "The developer is owed {available} USD; {required} USD are required.";
    /// The second person is the first one.
    SameActor = 403 "same_actor" "Somebody other than who asked for it has to agree.";
    /// The app takes sessions from its server only.
    ServerSessionsOnly = 403 "forbidden" "This app opens sessions on its server only (scope developer:sessions:write).";
    /// The caller may not do that at all.
    Forbidden = 403 "forbidden" "The caller may not do this.";
    /// Staff tokens come from the holder of `ADMIN_TOKEN`.
    RootOnly = 403 "forbidden" "Only the holder of ADMIN_TOKEN may do this.";
    /// A token may not hand out what it does not have.
    ScopeNotHeld { scope: Scope } = 403 "forbidden" "A token cannot issue a token with a scope that it does not have: {scope}.";
    /// Unknown or disabled app.
    InvalidApp = 404 "invalid_app" "The public app id is invalid or inactive.";
    /// Unknown app, or another developer's.
    AppNotFound = 404 "invalid_app" "The app could not be found.";
    /// No such feature in this app.
    FeatureNotFound = 404 "feature_not_found" "The feature could not be found.";
    /// No such developer.
    DeveloperNotFound = 404 "developer_not_found" "The developer could not be found.";
    /// No such token.
    TokenNotFound = 404 "token_not_found" "The token could not be found.";
    /// No such wallet, or another tenant's.
    WalletNotFound = 404 "wallet_not_found" "The wallet could not be found.";
    /// No such session, or another tenant's.
    SessionNotFound = 404 "session_not_found" "The session could not be found.";
    /// No pending top-up of this id.
    TopUpNotFound = 404 "top_up_not_found" "No pending top-up has this id.";
    /// No payment of this id was credited.
    PaymentNotFound = 404 "payment_not_found" "No credited payment has this id.";
    /// No refund of this id.
    RefundNotFound = 404 "refund_not_found" "The refund could not be found.";
    /// No write-off of this id waits.
    WriteOffNotFound = 404 "write_off_not_found" "No proposed write-off has this id.";
    /// No repair of this id.
    RepairNotFound = 404 "repair_not_found" "No proposed repair has this digest.";
    /// Somebody has agreed to it already.
    RepairClosed = 409 "repair_closed" "The repair is approved already.";
    /// The incident was never closed, so there is nothing to supersede.
    IncidentNotFound = 404 "incident_not_found" "No incident of this name was closed.";
    /// It is closed already, and the closing that counts is not the one that was named.
    IncidentClosed { position: Position } = 409 "incident_closed" "The incident was closed at position {position}; another closing names that one in `supersedes`.";
    /// A range that ends before it begins, or begins before the log.
    InvalidRange = 400 "invalid_request" "The range must begin at position 1 or later and not end before it begins.";
    /// A range that is not in the log yet.
    RangeBeyondLog { head: Position } = 409 "range_beyond_log" "The log ends at position {head}.";
    /// No payout of this id.
    PayoutNotFound = 404 "payout_not_found" "Payout was not found.";
    /// No such grant, or nothing is left of it.
    PromoNotFound = 404 "promo_not_found" "Nothing is left of a grant with this id.";
    /// No open hold of this id.
    HoldNotFound = 404 "hold_not_found" "No open hold has this id; it may have ended already.";
    /// No such provider key of the caller.
    CredentialNotFound = 404 "invalid_request" "Provider key was not found.";
    /// The same where a developer asks.
    DeveloperCredentialNotFound = 404 "invalid_request" "Developer provider key was not found.";
    /// A provider whose keys are not taken.
    UnsupportedProvider = 400 "secret_validation_failed" "Unsupported BYOK provider.";
    /// Not a key: too short, too long, or with characters that keys do not have.
    MalformedKey = 400 "secret_validation_failed" "Provider key failed basic validation.";
    /// It does not begin as keys of this provider do.
    KeyOfOtherProvider = 400 "secret_validation_failed" "Provider key prefix does not match the selected provider.";
    /// The key of a call is another one's, or not in use any more.
    NoAvailableRoute = 400 "no_available_route" "The provider key of this call is not in use.";
    /// The key has a budget, and nobody knows what the model costs.
    BudgetNotPriced = 404 "model_not_priced" "The model has no price, so the budget of the provider key cannot be kept.";
    /// A policy's budget that is no amount.
    InvalidBudget = 400 "invalid_request" "policy.budget_limit_usd must be an amount such as \"25.00\".";
    /// A priority out of bounds.
    InvalidPriority = 400 "invalid_request" "The priority must be 1 to 1000.";
    /// The owner has as many keys in use as there may be.
    TooManyKeys = 409 "too_many_provider_keys" "At most 100 provider keys may be in use; disable one first.";
    /// It is not in use any more.
    AlreadyDisabled = 409 "already_disabled" "It is disabled already.";
    /// The rate card does not have the model.
    ModelNotFound = 404 "model_not_found" "The active rate card does not have this model.";
    /// Something that was used has no price.
    ModelNotPriced { component: &'static str } = 404 "model_not_priced" "The model has no price for {component}.";
    /// No rate card was activated.
    NoRateCard = 404 "model_not_priced" "No rate card is active.";
    /// The model is on the card of several providers.
    ProviderAmbiguous = 400 "provider_required" "Several providers offer this model; name one in `provider`.";
    /// The attempt is not the next one of its call, or its count has fallen.
    AttemptOutOfOrder = 409 "attempt_out_of_order" "Another attempt of this call comes next.";
    /// A local model is not called through us, so there is nothing to cut.
    NothingToCut = 400 "invalid_request" "Calls on the route `local` are not made here.";
    /// It exists.
    AlreadyExists = 409 "already_exists" "It exists already.";
    /// It is frozen already.
    AlreadyFrozen = 409 "already_frozen" "It is frozen already.";
    /// It is not frozen.
    NotFrozen = 409 "not_frozen" "It is not frozen.";
    /// The dispute ended otherwise.
    DisputeClosed = 409 "dispute_closed" "The dispute has ended otherwise already.";
    /// The refund has failed already.
    RefundClosed = 409 "refund_closed" "The refund has failed already.";
    /// The refund would pass the payment.
    RefundTooLarge { left: Money } = 409 "refund_too_large" "Of this payment {left} USD can be refunded; refunds and disputes together never pass it.";
    /// More than is owed.
    WriteOffTooLarge { owed: Money } = 409 "write_off_too_large" "The owner of the wallet owes {owed} USD.";
    /// The wallet's figures are not those that the caller went by.
    BalanceChanged { posted: Money, held: Money } = 409 "balance_changed" "The wallet has {posted} USD posted and {held} USD held, which is not what was expected.";
    /// One payout at a time.
    PayoutOpen = 409 "payout_open" "The developer has a payout that is not over.";
    /// Not worth a payout yet.
    BelowThreshold { available: Money } = 409 "below_threshold" "The developer is owed {available} USD, which is below the threshold.";
    /// The payout is not pending.
    PayoutNotPending { verb: &'static str } = 400 "invalid_request" "Only pending payouts can be {verb}.";
    /// The payout is not approved.
    PayoutNotApproved { verb: &'static str } = 400 "invalid_request" "Payout must be approved before it can be {verb}.";
    /// The payout is not paid.
    PayoutNotPaid = 400 "invalid_request" "Only paid payouts can come back.";
    /// The provider's movement goes the wrong way for its kind.
    InvalidTransaction = 400 "invalid_transaction" "The amount goes the wrong way for this kind of movement.";
    /// A time behind the ledger's clock.
    ExpiresInPast = 400 "invalid_request" "expires_at lies in the past.";
    /// The payment differs from what was requested.
    AmountMismatch { requested: Money } = 400 "amount_mismatch" "The top-up was requested over {requested} USD.";
    /// Not a whole number of cents.
    NotWholeCents = 400 "invalid_request" "The amount must be a whole number of cents.";
    /// Nothing.
    ZeroAmount = 400 "invalid_request" "The amount must be above zero.";
    /// Larger than money can be counted.
    AmountOutOfRange = 400 "amount_out_of_range" "The amount is out of range.";
    /// A rate card without models, with a model twice, or with rates that fall as inputs get longer.
    InvalidRateCard = 400 "invalid_rate_card" "A rate card names at least one model, each provider's model once, and for each tier rates, which never fall as inputs get longer.";
    /// A hold's time is out of bounds.
    InvalidDeadline = 400 "invalid_request" "The time must be between 1 second and 24 hours.";
    /// A time ahead of the ledger's clock.
    OccursInFuture = 400 "invalid_request" "occurred_at lies in the future.";
    /// Same key, other request.
    KeyReused = 422 "idempotency_key_reused" "The idempotency key was used for another request.";
    /// An operator's kill switch is on.
    Frozen = 503 "frozen" "An operator has frozen this.";
}
