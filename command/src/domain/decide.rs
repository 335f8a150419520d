//! From a command to events. One function per command, in the file of its noun; who may do what is checked here first.

use modelfaucet_schema::event::{Event, FreezeScope};
use modelfaucet_schema::ids::{DeveloperId, Position, SessionId, WalletId};
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::time::Timestamp;

use super::{App, Caller, Command, Payer, Rejection, Session, State, Wallet};
use super::{
    adjustment, call, catalogue, credential, dispute, freeze, hold, incident, payout, promo, refund, repair, session,
    staff, top_up, transaction, usage, write_off,
};

/// Decides a command at time `at`, behind the event at `head`, the newest that the state has taken in. Deterministic; the events are not
/// taken in yet.
///
/// # Errors
/// The [`Rejection`]; the state is as it was.
pub fn decide(
    state: &State,
    caller: Caller,
    command: &Command,
    at: Timestamp,
    head: Position,
) -> Result<Vec<Event>, Rejection> {
    let context = Context { state, caller, at, head };
    context.require_live_token()?;
    if !command.is_never_frozen() {
        context.require_not_frozen(&[Some(FreezeScope::Everything)])?;
    }
    match command {
        Command::IssueStaffToken { .. } => staff::issue(context, command),
        Command::RevokeStaffToken { token_id } => staff::revoke(context, *token_id),
        Command::RegisterDeveloper { developer_id, name, email } => {
            catalogue::register_developer(context, *developer_id, name, email)
        }
        Command::IssueDeveloperToken { .. } => catalogue::issue_token(context, command),
        Command::RevokeDeveloperToken { token_id } => catalogue::revoke_token(context, *token_id),
        Command::RegisterApp { app_id, developer_id, public_app_id, settings } => {
            catalogue::register_app(context, *app_id, *developer_id, public_app_id, settings)
        }
        Command::ChangeApp { public_app_id, patch } => catalogue::change_app(context, public_app_id, patch),
        Command::DefineFeature { .. } => catalogue::define_feature(context, command),
        Command::ChangeFeature { public_app_id, feature_key, patch } => {
            catalogue::change_feature(context, public_app_id, feature_key, patch)
        }
        Command::RemoveFeature { public_app_id, feature_key } => {
            catalogue::remove_feature(context, public_app_id, feature_key)
        }
        Command::ActivateRateCard { source, models } => catalogue::activate_rate_card(context, source, models),
        Command::OpenSession { .. } => session::open(context, command),
        Command::RevokeSession { session_id } => session::revoke(context, *session_id),
        Command::ExpireSession { session_id } => session::expire(context, *session_id),
        Command::RequestTopUp { .. } => top_up::request(context, command),
        Command::CreditTopUp { top_up_id, payment, amount, occurred_at } => {
            top_up::credit(context, *top_up_id, payment, *amount, *occurred_at)
        }
        Command::FailTopUp { top_up_id, reason } => top_up::fail(context, *top_up_id, reason),
        Command::OpenCheckout { top_up_id, reference, url } => {
            top_up::open_checkout(context, *top_up_id, reference, url)
        }
        Command::RequestRefund { refund_id, payment, amount, reason } => {
            refund::request(context, *refund_id, payment, *amount, reason.as_deref())
        }
        Command::ConfirmRefund { refund_id, reference } => refund::confirm(context, *refund_id, reference),
        Command::FailRefund { refund_id, reason } => refund::fail(context, *refund_id, reason, None),
        Command::ReportRefund(report) => refund::report(context, report),
        Command::ReportDispute(report) => dispute::report(context, report),
        Command::RecordTransaction(report) => transaction::record(context, report),
        Command::ProposeWriteOff { write_off_id, wallet_id, amount, reason } => {
            write_off::propose(context, *write_off_id, *wallet_id, *amount, reason)
        }
        Command::ApproveWriteOff { write_off_id } => write_off::approve(context, *write_off_id),
        Command::RequestPayout { .. } => payout::request(context, command),
        Command::StepPayout { payout_id, step } => payout::step(context, *payout_id, step),
        Command::GrantTestCredit { wallet_id, amount } => adjustment::grant_test_credit(context, *wallet_id, *amount),
        Command::GrantPromo { promo_id, wallet_id, amount, reason, expires_at } => {
            promo::grant(context, *promo_id, *wallet_id, *amount, reason, *expires_at)
        }
        Command::ExpireCredit { wallet_id, promo_id } => promo::expire(context, *wallet_id, *promo_id),
        Command::AdjustWallet { .. } => adjustment::adjust(context, command),
        Command::PlaceHold { .. } => hold::place(context, command),
        Command::CaptureHold { hold_id, usage, service_tier, provider_request_id, occurred_at } => {
            let used = hold::Used {
                usage,
                service_tier: *service_tier,
                model: None,
                provider_request_id: provider_request_id.as_deref(),
                occurred_at: *occurred_at,
            };
            hold::capture(context, *hold_id, used, None)
        }
        Command::ReleaseHold { hold_id, reason } => hold::release(context, *hold_id, *reason, None),
        Command::ExpireHold { hold_id } => hold::expire(context, *hold_id),
        Command::BeginCall(begin) => call::begin(context, begin),
        Command::EndCall(end) => call::end(context, end),
        Command::StartAttempt(start) => call::start_attempt(context, start),
        Command::MarkAttempt(mark) => call::mark_attempt(context, mark),
        Command::SetDisconnectPolicy { .. } => call::set_disconnect_policy(context, command),
        Command::RecordUsage { .. } => usage::record(context, command),
        Command::AddCredential(_) => credential::add(context, command),
        Command::DisableCredential { credential_id, reason } => credential::disable(context, *credential_id, *reason),
        Command::Freeze { scope, reason } => freeze::freeze(context, *scope, reason),
        Command::Thaw { scope, reason } => freeze::thaw(context, *scope, reason),
        Command::ProposeRepair { repair_id, digest, steps, reason } => {
            repair::propose(context, *repair_id, digest, *steps, reason)
        }
        Command::ApproveRepair { repair_id } => repair::approve(context, *repair_id),
        Command::CloseIncident(closing) => incident::close(context, closing),
    }
}

/// What every decision sees.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) state: &'a State,
    pub(super) caller: Caller,
    pub(super) at: Timestamp,
    pub(super) head: Position,
}

/// The wallet that pays, and through what.
#[derive(Clone, Copy)]
pub(super) struct Payment<'a> {
    pub(super) wallet_id: WalletId,
    pub(super) wallet: &'a Wallet,
    pub(super) app: &'a App,
    pub(super) session: Option<(SessionId, &'a Session)>,
}

impl<'a> Context<'a> {
    /// A token that was revoked or has ended since the edge looked does nothing any more.
    fn require_live_token(self) -> Result<(), Rejection> {
        let is_over = |end: Option<Timestamp>| end.is_some_and(|end| end <= self.at);
        match self.caller {
            Caller::Developer(_, id) if self.state.tokens.get(&id).is_none_or(|token| is_over(token.expires_at)) => {
                Err(Rejection::InvalidDeveloperToken)
            }
            Caller::Staff(role, id)
                if self.state.staff.get(&id).is_none_or(|token| token.role != role || is_over(token.expires_at)) =>
            {
                Err(Rejection::InvalidStaffToken)
            }
            _ => Ok(()),
        }
    }

    /// Only those who have this power.
    pub(super) fn require(self, power: Power) -> Result<(), Rejection> {
        if self.caller.power() >= Some(power) { Ok(()) } else { Err(Rejection::Forbidden) }
    }

    /// Only administrators, the operator's command line and the clock.
    pub(super) fn require_admin(self) -> Result<(), Rejection> {
        self.require(Power::Administer)
    }

    /// What the payment provider may tell, and administrators in its place.
    pub(super) fn require_provider(self) -> Result<(), Rejection> {
        if self.caller == Caller::Stripe { Ok(()) } else { self.require_admin() }
    }

    /// Two people: the caller is not who asked for it.
    pub(super) fn require_another(self, asked: &str) -> Result<(), Rejection> {
        if self.caller.actor().to_string() == asked { Err(Rejection::SameActor) } else { Ok(()) }
    }

    /// May the caller act on what belongs to `developer`? `otherwise` is "not found", so nobody learns what others have.
    pub(super) fn require_developer(self, developer: DeveloperId, otherwise: Rejection) -> Result<(), Rejection> {
        self.require_developer_or(Power::Administer, developer, otherwise)
    }

    /// As [`Context::require_developer`], where those of the house need only `power`.
    pub(super) fn require_developer_or(
        self,
        power: Power,
        developer: DeveloperId,
        otherwise: Rejection,
    ) -> Result<(), Rejection> {
        match self.caller {
            Caller::Developer(own, _) if own == developer => Ok(()),
            Caller::Admin | Caller::Staff(..) | Caller::Operator | Caller::Clock => self.require(power),
            Caller::Developer(..) | Caller::Session(_) | Caller::Gateway(_) | Caller::Public | Caller::Stripe => {
                Err(otherwise)
            }
        }
    }

    /// The wallet that pays, if the caller may let it pay and nothing that concerns it is frozen.
    pub(super) fn payment(self, payer: Payer) -> Result<Payment<'a>, Rejection> {
        let (wallet_id, session) = match payer {
            Payer::Session(id) => {
                let session = self.live_session(id)?;
                (session.wallet_id, Some((id, session)))
            }
            Payer::Wallet(id) => (id, None),
        };
        let wallet = self.state.wallets.get(&wallet_id).ok_or(Rejection::WalletNotFound)?;
        let app = self.state.apps.get(&wallet.app_id).ok_or(Rejection::WalletNotFound)?;
        match self.caller {
            Caller::Session(own) | Caller::Gateway(own) if session.is_some_and(|(id, _)| id == own) => {}
            Caller::Session(_) | Caller::Gateway(_) | Caller::Public => return Err(Rejection::WalletNotFound),
            _ => self.require_developer(
                app.developer_id,
                if session.is_some() { Rejection::SessionNotFound } else { Rejection::WalletNotFound },
            )?,
        }
        if !app.is_active() {
            return Err(match self.caller {
                Caller::Session(_) | Caller::Gateway(_) => Rejection::InvalidSession,
                _ => Rejection::InvalidApp,
            });
        }
        let payment = Payment { wallet_id, wallet, app, session };
        self.require_unfrozen(&payment)?;
        Ok(payment)
    }

    pub(super) fn live_session(self, id: SessionId) -> Result<&'a Session, Rejection> {
        let missing = match self.caller {
            Caller::Session(_) | Caller::Gateway(_) => Rejection::InvalidSession,
            _ => Rejection::SessionNotFound,
        };
        let session = self.state.sessions.get(&id).ok_or(missing)?;
        if session.expires_at <= self.at { Err(Rejection::ExpiredSession) } else { Ok(session) }
    }

    fn require_unfrozen(self, payment: &Payment<'_>) -> Result<(), Rejection> {
        self.require_not_frozen(&[
            Some(FreezeScope::Usage),
            Some(FreezeScope::Wallet(payment.wallet_id)),
            Some(FreezeScope::App(payment.wallet.app_id)),
            Some(FreezeScope::Developer(payment.app.developer_id)),
            payment.session.map(|(id, _)| FreezeScope::Session(id)),
        ])
    }

    /// None of the scopes is frozen.
    pub(super) fn require_not_frozen(self, scopes: &[Option<FreezeScope>]) -> Result<(), Rejection> {
        let frozen = |scope: &FreezeScope| self.state.freezes.contains(scope);
        if !self.state.freezes.is_empty() && scopes.iter().flatten().any(frozen) {
            Err(Rejection::Frozen)
        } else {
            Ok(())
        }
    }

    /// Times that the caller names lie in the past; a minute is allowed for clocks that differ.
    pub(super) fn require_past(self, occurred_at: Option<Timestamp>) -> Result<(), Rejection> {
        let latest = self.at.plus(std::time::Duration::from_secs(60));
        if occurred_at.is_some_and(|time| time > latest) { Err(Rejection::OccursInFuture) } else { Ok(()) }
    }
}
