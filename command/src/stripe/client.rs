//! What we ask of Stripe's API. Every POST carries an idempotency key that is made of our own id of the thing, so that a try whose
//! answer was lost is safe to repeat, also by another process, also after a crash.

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use modelfaucet_schema::ids::{RefundId, TopUpId, WalletId};
use modelfaucet_schema::money::Money;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use url::Url;
use url::form_urlencoded::Serializer;

use super::event::{CheckoutSession, List, Refund, to_cents};

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(2);
/// How long one try may take.
const TRY: Duration = Duration::from_secs(4);
/// Pauses before further tries; together with the tries they stay below what a request may take.
const PAUSES: [Duration; 1] = [Duration::from_millis(300)];
/// The largest answer that is read: a page of a hundred events.
const MAX_ANSWER: usize = 16 << 20;

/// Why Stripe did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// It refused; certainly no effect.
    #[error("Stripe refused the request ({status}, {code}).")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Stripe's code of the error.
        code: String,
    },
    /// It did not answer, or not in a way that tells; it may have done it. Asking again under the same key is safe.
    #[error("Stripe does not answer; try again with the same key.")]
    Unknown,
}

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The HTTP client does not start.
    #[error("the HTTP client cannot be made: {0}")]
    Http(#[from] reqwest::Error),
    /// A key that no header can carry.
    #[error("the key has characters that a header cannot carry")]
    Key,
}

/// A client of Stripe's API.
#[derive(Debug)]
pub struct StripeClient {
    http: reqwest::Client,
    base: String,
    authorization: HeaderValue,
}

/// A page that the user pays on.
#[derive(Clone, Debug)]
pub struct Checkout<'a> {
    /// The top-up.
    pub top_up_id: TopUpId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// Whole cents.
    pub amount: Money,
    /// Where the user goes then.
    pub success_url: &'a str,
    /// Where the user goes otherwise.
    pub cancel_url: &'a str,
}

impl StripeClient {
    /// A client for the API at `base`, usually `https://api.stripe.com`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(base: &Url, key: &SecretString) -> Result<Self, ClientError> {
        // An earlier client of this process may have done so.
        let _set_already = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(TRY)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("modelfaucet/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).map_err(|_| ClientError::Key)?;
        authorization.set_sensitive(true);
        let base = base.as_str().trim_end_matches('/').trim_end_matches("/v1").to_owned();
        Ok(Self { http, base, authorization })
    }

    /// Makes a page on which a top-up can be paid; the same one for the same top-up.
    ///
    /// # Errors
    /// [`StripeError`].
    pub async fn open_checkout(&self, checkout: &Checkout<'_>) -> Result<CheckoutSession, StripeError> {
        let (top_up, wallet) = (checkout.top_up_id.to_string(), checkout.wallet_id.to_string());
        let (cents, amount) = (to_cents(checkout.amount).to_string(), checkout.amount.to_string());
        let form = [
            ("mode", "payment"),
            ("success_url", checkout.success_url),
            ("cancel_url", checkout.cancel_url),
            ("client_reference_id", &top_up),
            ("line_items[0][price_data][currency]", "usd"),
            ("line_items[0][price_data][product_data][name]", "ModelFaucet credits"),
            ("line_items[0][price_data][unit_amount]", &cents),
            ("line_items[0][quantity]", "1"),
            ("metadata[wallet_id]", &wallet),
            ("metadata[amount_usd]", &amount),
            ("metadata[top_up_id]", &top_up),
            ("payment_intent_data[metadata][top_up_id]", &top_up),
        ];
        self.post("/v1/checkout/sessions", &form, &format!("modelfaucet-checkout-{top_up}")).await
    }

    /// Gives money back to the card; once per refund.
    ///
    /// # Errors
    /// [`StripeError`].
    pub async fn refund(&self, refund_id: RefundId, payment: &str, amount: Money) -> Result<Refund, StripeError> {
        let (id, cents) = (refund_id.to_string(), to_cents(amount).to_string());
        let form = [("payment_intent", payment), ("amount", &cents), ("metadata[refund_id]", &id)];
        self.post("/v1/refunds", &form, &format!("modelfaucet-refund-{id}")).await
    }

    /// All refunds of a payment, as they are now.
    ///
    /// # Errors
    /// [`StripeError`].
    pub async fn refunds_of(&self, payment: &str) -> Result<List<Refund>, StripeError> {
        self.get("/v1/refunds", &[("payment_intent", payment), ("limit", "100")]).await
    }

    /// A refund of ours, if Stripe has it.
    ///
    /// # Errors
    /// [`StripeError`].
    pub async fn find_refund(&self, refund_id: RefundId, payment: &str) -> Result<Option<Refund>, StripeError> {
        let id = refund_id.to_string();
        let is_it = |refund: &Refund| {
            refund.metadata.as_ref().and_then(|metadata| metadata.get("refund_id")).is_some_and(|named| *named == id)
        };
        Ok(self.refunds_of(payment).await?.data.into_iter().find(is_it))
    }

    /// A page of a list, newest first: each object as Stripe wrote it.
    ///
    /// # Errors
    /// [`StripeError`].
    pub async fn page(&self, path: &str, query: &[(&str, &str)]) -> Result<List<Box<RawValue>>, StripeError> {
        self.get(path, query).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, form: &[(&str, &str)], key: &str) -> Result<T, StripeError> {
        let body = Serializer::new(String::new()).extend_pairs(form).finish();
        self.ask(|| {
            self.http
                .post(format!("{}{path}", self.base))
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header("idempotency-key", key)
                .body(body.clone())
        })
        .await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, StripeError> {
        let query = Serializer::new(String::new()).extend_pairs(query).finish();
        self.ask(|| self.http.get(format!("{}{path}?{query}", self.base))).await
    }

    /// Asks, and once more if that can help.
    async fn ask<T: DeserializeOwned>(&self, request: impl Fn() -> reqwest::RequestBuilder) -> Result<T, StripeError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let answer = self.ask_once(request()).await;
            match (answer, pauses.next()) {
                (Err(StripeError::Unknown), Some(pause)) => tokio::time::sleep(pause).await,
                (answer, _) => return answer,
            }
        }
    }

    async fn ask_once<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, StripeError> {
        let sent = request.header(AUTHORIZATION, self.authorization.clone()).send().await;
        let mut response = sent.map_err(|error| unknown(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| unknown(&error))? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ANSWER {
                tracing::warn!("an answer of Stripe is too large");
                return Err(StripeError::Unknown);
            }
        }
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                tracing::warn!(%error, "an answer of Stripe cannot be read");
                StripeError::Unknown
            });
        }
        let code = error_code(&body);
        tracing::warn!(status = status.as_u16(), code, "Stripe refused");
        // Another request under the same key is being worked on, too many requests, or a fault over there.
        if matches!(status.as_u16(), 409 | 429 | 500..) {
            return Err(StripeError::Unknown);
        }
        Err(StripeError::Refused { status: status.as_u16(), code })
    }
}

fn unknown(error: &reqwest::Error) -> StripeError {
    // The address may carry a query, and with it a payment.
    let kind = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "no connection"
    } else {
        "broke off"
    };
    tracing::warn!(kind, "Stripe does not answer");
    StripeError::Unknown
}

/// Stripe's code of an error, or its type; a short word or nothing.
fn error_code(body: &[u8]) -> String {
    let error = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    let word = |name: &str| error.get("error")?.get(name)?.as_str().map(str::to_owned);
    let code = word("code").or_else(|| word("type")).unwrap_or_else(|| "unknown".to_owned());
    code.chars().filter(|sign| sign.is_ascii_alphanumeric() || *sign == '_').take(64).collect()
}
