//! The users of an import: each gets a session, which says its wallet, and where asked for a top-up, once per file.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use modelfaucet_schema::ids::{TopUpId, WalletId};
use modelfaucet_schema::money::Money;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::rows::Row;
use crate::client::{Call, Client, ClientError, Patience};

/// How many users are opened at the same time.
const AT_ONCE: usize = 8;

/// How users are opened.
pub(crate) struct Opening {
    pub(crate) client: Client,
    pub(crate) patience: Patience,
    /// Opens sessions and credits top-ups; top-ups need the administrator's.
    pub(crate) token: SecretString,
    pub(crate) app: String,
    pub(crate) feature: String,
    /// The file's hash: part of every key.
    pub(crate) digest: String,
    pub(crate) top_up: Option<Money>,
}

/// The users seen so far with their wallets: some 100 bytes each.
pub(crate) struct Users {
    opening: Opening,
    wallets: HashMap<String, WalletId>,
}

#[derive(Deserialize)]
struct Session {
    session_token: String,
}

#[derive(Deserialize)]
struct Wallet {
    id: WalletId,
}

#[derive(Deserialize)]
struct TopUp {
    top_up_id: TopUpId,
}

impl Users {
    pub(crate) fn new(opening: Opening) -> Self {
        Self { opening, wallets: HashMap::new() }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.wallets.len()
    }

    /// The wallet of each row, in their order. Users that are seen for the first time are opened.
    ///
    /// # Errors
    /// [`ClientError`] if one cannot be opened; a repeat goes on where this ended.
    pub(crate) async fn wallets(&mut self, rows: &[Row]) -> Result<Vec<WalletId>, ClientError> {
        let new: BTreeSet<&str> =
            rows.iter().map(|row| row.user.as_str()).filter(|user| !self.wallets.contains_key(*user)).collect();
        let opening = &self.opening;
        let opened: Vec<(String, WalletId)> = stream::iter(new)
            .map(|user| async move { Ok::<_, ClientError>((user.to_owned(), opening.open(user).await?)) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        self.wallets.extend(opened);
        Ok(rows.iter().filter_map(|row| self.wallets.get(&row.user).copied()).collect())
    }
}

impl Opening {
    /// Opening a session again gives the same wallet, and a top-up under the same key the same top-up.
    async fn open(&self, user: &str) -> Result<WalletId, ClientError> {
        let body = json!({ "public_app_id": self.app, "external_user_id": user, "feature_key": self.feature });
        let reply = self.send(Call::post("/v1/sessions", &body).token(&self.token)).await?;
        let session = SecretString::from(reply.json::<Session>()?.session_token);
        let path = format!("/v1/user/wallet?min_position={}", reply.position.unwrap_or_default());
        let wallet: Wallet = self.send(Call::get(path).token(&session)).await?.json()?;
        if let Some(amount) = self.top_up {
            self.credit(user, wallet.id, amount).await?;
        }
        Ok(wallet.id)
    }

    async fn credit(&self, user: &str, wallet: WalletId, amount: Money) -> Result<(), ClientError> {
        let (digest, user) = (&self.digest, tag(user));
        let path = format!("/v1/admin/wallets/{wallet}/top-ups");
        let request = Call::post(path, &json!({ "amount_usd": amount })).key(format!("import:{digest}:top-up:{user}"));
        let pending: TopUp = self.send(request.token(&self.token)).await?.json()?;
        let path = format!("/v1/admin/top-ups/{}/credit", pending.top_up_id);
        let body = json!({ "payment": format!("import:{digest}:{user}"), "amount_usd": amount });
        self.send(Call::post(path, &body).token(&self.token)).await.map(drop)
    }

    async fn send(&self, call: Call<'_>) -> Result<crate::client::Reply, ClientError> {
        self.client.send_patiently(&call, &self.patience).await
    }
}

/// A user's id as part of a key, which is visible ASCII and short; other ids by their hash.
fn tag(user: &str) -> String {
    if user.len() <= 128 && user.bytes().all(|byte| byte.is_ascii_graphic()) {
        return user.to_owned();
    }
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(user.as_bytes()) {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_visible_ascii_whatever_the_users_are_called() {
        assert_eq!(tag("trace.csv-user-0001"), "trace.csv-user-0001");
        for user in ["Jürgen", "two words", &"x".repeat(400)] {
            let key = tag(user);
            assert!(
                key.starts_with("sha256:") && key.len() == 71 && key.bytes().all(|byte| byte.is_ascii_graphic()),
                "{key}"
            );
        }
        assert_ne!(tag("ä"), tag("ö"));
    }
}
