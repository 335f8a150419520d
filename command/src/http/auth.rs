//! Who is calling. Tokens are compared by their hashes; an unknown token waits once for the newest events before it is refused.

use http::HeaderMap;
use modelfaucet_schema::event::CredentialOwner;
use modelfaucet_schema::http::{ApiError, RequestId, bearer};
use modelfaucet_schema::ids::DeveloperId;
use modelfaucet_schema::ids::WalletId;
use modelfaucet_schema::staff::{Power, StaffRole};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{Scope, TokenHash, TokenKind};

use super::Api;
use crate::directory::{DeveloperFacts, SessionFacts, StaffFacts, TokenFacts};
use crate::domain::{Caller, Rejection};

/// A caller whose token is good.
pub(super) struct Authenticated {
    pub(super) caller: Caller,
    /// What idempotency keys are unique in: the administration, a developer, a wallet.
    pub(super) scope: String,
    pub(super) request_id: RequestId,
    /// Of a developer's token: what it may do.
    scopes: Option<Vec<Scope>>,
}

impl Authenticated {
    fn admin(request_id: RequestId) -> Self {
        Self { caller: Caller::Admin, scope: "admin".to_owned(), request_id, scopes: None }
    }

    fn staff(facts: StaffFacts, request_id: RequestId) -> Self {
        // One scope for all administrators: what one has begun under a key, another finishes.
        Self { caller: Caller::Staff(facts.role, facts.token_id), scope: "admin".to_owned(), request_id, scopes: None }
    }

    fn developer(facts: &TokenFacts, request_id: RequestId) -> Self {
        let scope = format!("developer:{}", facts.developer_id);
        let scopes = Some(facts.scopes.clone());
        Self { caller: Caller::Developer(facts.developer_id, facts.token_id), scope, request_id, scopes }
    }

    fn session(facts: &SessionFacts, request_id: RequestId) -> Self {
        let scope = format!("wallet:{}", facts.wallet_id);
        Self { caller: Caller::Session(facts.session_id), scope, request_id, scopes: None }
    }

    /// May it hand out this scope? The decision asks again.
    pub(super) fn may_hand_out(&self, scope: Scope) -> bool {
        self.scopes.as_ref().is_none_or(|held| held.contains(&scope))
    }

    /// Nobody in particular.
    pub(super) fn public(request_id: RequestId) -> Self {
        Self { caller: Caller::Public, scope: "public".to_owned(), request_id, scopes: None }
    }
}

fn invalid_session(message: &'static str) -> ApiError {
    ApiError::new(401, "invalid_session", message)
}

fn role_forbids(role: StaffRole) -> ApiError {
    ApiError::new(403, "forbidden", format!("The role {role} may not do this."))
}

impl Api {
    fn is_admin(&self, token: &str) -> bool {
        self.admin_token.matches(&TokenHash::of_text(token))
    }

    /// Only `ADMIN_TOKEN`.
    pub(super) async fn require_root(
        &self,
        headers: &HeaderMap,
        request_id: RequestId,
    ) -> Result<Authenticated, ApiError> {
        let who = self.require_staff(headers, request_id, Power::Read).await?;
        match who.caller {
            Caller::Admin => Ok(who),
            _ => Err(ApiError::new(403, "forbidden", Rejection::RootOnly.to_string())),
        }
    }

    /// `ADMIN_TOKEN`, or an administrator's token.
    pub(super) async fn require_admin(
        &self,
        headers: &HeaderMap,
        request_id: RequestId,
    ) -> Result<Authenticated, ApiError> {
        self.require_staff(headers, request_id, Power::Administer).await
    }

    /// `ADMIN_TOKEN`, or a staff token whose role has the power.
    pub(super) async fn require_staff(
        &self,
        headers: &HeaderMap,
        request_id: RequestId,
        power: Power,
    ) -> Result<Authenticated, ApiError> {
        let invalid = || invalid_session("Missing or invalid admin token.");
        let token = bearer(headers).ok_or_else(invalid)?;
        if self.is_admin(token) {
            return Ok(Authenticated::admin(request_id));
        }
        let facts = self.staff(token).await.ok_or_else(invalid)?;
        Self::staff_with(facts, request_id, power)
    }

    /// The staff token that this is, if it may be used.
    async fn staff(&self, token: &str) -> Option<StaffFacts> {
        if !token.starts_with(TokenKind::Staff.prefix()) {
            return None;
        }
        let hash = TokenHash::of_text(token);
        let facts = self.known(|| self.ledger.directory().staff(&hash)).await?;
        facts.expires_at.is_none_or(|end| end > Timestamp::now()).then(|| {
            self.access.note_use(facts.token_id);
            facts
        })
    }

    fn staff_with(facts: StaffFacts, request_id: RequestId, power: Power) -> Result<Authenticated, ApiError> {
        if facts.role.may(power) { Ok(Authenticated::staff(facts, request_id)) } else { Err(role_forbids(facts.role)) }
    }

    /// An administrator, or a developer token with the scope.
    pub(super) async fn require_developer(
        &self,
        headers: &HeaderMap,
        request_id: RequestId,
        scope: Scope,
    ) -> Result<Authenticated, ApiError> {
        self.require_developer_or(Power::Administer, headers, request_id, scope).await
    }

    /// As [`Api::require_developer`], where those of the house need only `power`.
    pub(super) async fn require_developer_or(
        &self,
        power: Power,
        headers: &HeaderMap,
        request_id: RequestId,
        scope: Scope,
    ) -> Result<Authenticated, ApiError> {
        let invalid = || invalid_session("Missing or invalid developer token.");
        let token = bearer(headers).ok_or_else(invalid)?;
        if self.is_admin(token) {
            return Ok(Authenticated::admin(request_id));
        }
        if let Some(facts) = self.staff(token).await {
            return Self::staff_with(facts, request_id, power);
        }
        if !token.starts_with(TokenKind::Developer.prefix()) {
            return Err(invalid());
        }
        let hash = TokenHash::of_text(token);
        let facts = self.known(|| self.ledger.directory().token(&hash)).await.ok_or_else(invalid)?;
        if facts.expires_at.is_some_and(|end| end <= Timestamp::now()) {
            return Err(invalid());
        }
        self.access.note_use(facts.token_id);
        if !facts.scopes.contains(&scope) {
            let message = format!("Developer token is missing required scope: {scope}.");
            return Err(ApiError::new(403, "forbidden", message));
        }
        Ok(Authenticated::developer(&facts, request_id))
    }

    /// An administrator, a developer token with the scope `developer:usage:write`, or a session token.
    pub(super) async fn require_payer(
        &self,
        headers: &HeaderMap,
        request_id: RequestId,
    ) -> Result<Authenticated, ApiError> {
        let token = bearer(headers).ok_or_else(|| invalid_session("Missing bearer session token."))?;
        if !token.starts_with(TokenKind::Session.prefix()) {
            return self.require_developer(headers, request_id, Scope::UsageWrite).await;
        }
        Ok(Authenticated::session(&self.session_of(token).await?, request_id))
    }

    /// A session token, and the user behind it.
    pub(super) async fn require_user(
        &self,
        headers: &HeaderMap,
        request_id: RequestId,
    ) -> Result<(Authenticated, CredentialOwner), ApiError> {
        let token = bearer(headers).ok_or_else(|| invalid_session("Missing bearer session token."))?;
        let facts = self.session_of(token).await?;
        let owner = CredentialOwner::User { app_id: facts.app_id, user_id: facts.user_id };
        Ok((Authenticated::session(&facts, request_id), owner))
    }

    async fn session_of(&self, token: &str) -> Result<SessionFacts, ApiError> {
        let hash = TokenHash::of_text(token);
        let facts = self.known(|| self.ledger.directory().session(&hash)).await;
        let facts = facts.ok_or_else(|| invalid_session("The session token is invalid."))?;
        if facts.expires_at <= Timestamp::now() {
            return Err(ApiError::new(401, "expired_session", "The session token is expired."));
        }
        Ok(facts)
    }

    /// A user's session, and its wallet.
    pub(super) async fn require_session(
        &self,
        headers: &HeaderMap,
        request_id: RequestId,
    ) -> Result<(Authenticated, WalletId), ApiError> {
        let token = bearer(headers).ok_or_else(|| invalid_session("Missing bearer session token."))?;
        let hash = TokenHash::of_text(token);
        let facts = self.known(|| self.ledger.directory().session(&hash)).await;
        let facts = facts.ok_or_else(|| invalid_session("The session token is invalid."))?;
        if facts.expires_at <= Timestamp::now() {
            return Err(ApiError::new(401, "expired_session", "The session token is expired."));
        }
        Ok((Authenticated::session(&facts, request_id), facts.wallet_id))
    }

    /// The developer that a caller acts for: a developer's token for its own, the house for the one that it names, else for the one
    /// that was registered first.
    ///
    /// # Errors
    /// 403 for another's, 404 for nobody's.
    pub(super) async fn developer_for(
        &self,
        who: &Authenticated,
        id: Option<DeveloperId>,
        email: Option<&str>,
    ) -> Result<DeveloperId, ApiError> {
        // What another process has just registered may not be known here yet.
        let directory = self.ledger.directory();
        let by_email = match email {
            Some(email) => Some(self.known(|| directory.first_developer(Some(email))).await),
            None => None,
        };
        if let Caller::Developer(own, _) = who.caller {
            let is_own = id.is_none_or(|id| id == own) && by_email.is_none_or(|found| found == Some(own));
            let other = || ApiError::new(403, "forbidden", "Developer token cannot manage another developer.");
            return if is_own { Ok(own) } else { Err(other()) };
        }
        let found = match (id, by_email) {
            (Some(id), None) => self.known(|| directory.developer(id)).await.map(|facts| facts.developer_id),
            (Some(id), Some(found)) => found.filter(|found| *found == id),
            (None, Some(found)) => found,
            (None, None) => self.known(|| directory.first_developer(None)).await,
        };
        found.ok_or_else(|| ApiError::new(404, "invalid_request", "No matching active developer is configured."))
    }

    /// A developer that something belongs to.
    pub(super) async fn developer(&self, id: DeveloperId) -> Result<DeveloperFacts, ApiError> {
        self.known(|| self.ledger.directory().developer(id)).await.ok_or_else(ApiError::internal)
    }

    /// What the directory knows, or knows after the newest events: another instance may have written them a moment ago.
    pub(super) async fn known<T>(&self, look: impl Fn() -> Option<T>) -> Option<T> {
        if let Some(found) = look() {
            return Some(found);
        }
        let _late = tokio::time::timeout(std::time::Duration::from_millis(250), self.ledger.catch_up()).await;
        look()
    }
}
