//! Is a webhook from Stripe? `Stripe-Signature: t=UNIX,v1=HEX[,v1=HEX…]`, where each `v1` is the HMAC-SHA256 of `t.body` over the
//! bytes as they came. Two of them stand there while a secret is being replaced; other schemes are ignored.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

/// How far the time of a signature may be from ours, in seconds, either way.
pub const TOLERANCE: i64 = 300;
/// The longest header that is looked at.
const MAX_HEADER: usize = 4_096;
/// The most signatures that are tried.
const MAX_SIGNATURES: usize = 16;

/// Why a webhook is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No header.
    #[error("Stripe signature header is missing.")]
    Missing,
    /// No time in it, or none that is one.
    #[error("Stripe signature timestamp is missing.")]
    NoTimestamp,
    /// No signature fits, or its time is too far away.
    #[error("Stripe webhook signature verification failed.")]
    Invalid,
}

/// Checks a body against a header, at `now` in seconds of Unix time.
///
/// # Errors
/// [`SignatureError`]; which signature failed, and how, is not told.
pub fn verify(secret: &SecretString, header: Option<&str>, body: &[u8], now: i64) -> Result<(), SignatureError> {
    let header = header.map(str::trim).filter(|header| !header.is_empty()).ok_or(SignatureError::Missing)?;
    if header.len() > MAX_HEADER {
        return Err(SignatureError::Invalid);
    }
    let items = || header.split(',').filter_map(|item| item.trim().split_once('='));
    let mut times = items().filter(|(scheme, _)| *scheme == "t").map(|(_, value)| value);
    let time = times.next().filter(|text| is_plain_number(text)).ok_or(SignatureError::NoTimestamp)?;
    let at: i64 = time.parse().map_err(|_| SignatureError::NoTimestamp)?;
    if times.next().is_some() {
        return Err(SignatureError::Invalid);
    }
    let signatures = items().filter(|(scheme, _)| *scheme == "v1").map(|(_, value)| value).take(MAX_SIGNATURES);
    // All of them are tried, also behind one that fits: the time it takes tells nothing.
    let fits = signatures.fold(false, |fits, signature| {
        let fitting =
            unhex(signature).is_some_and(|bytes| mac(secret, time.as_bytes(), body).verify_slice(&bytes).is_ok());
        fits | fitting
    });
    if !fits {
        return Err(SignatureError::Invalid);
    }
    if at.abs_diff(now) > TOLERANCE.unsigned_abs() {
        return Err(SignatureError::Invalid);
    }
    Ok(())
}

/// The header that Stripe would send.
pub fn sign(secret: &SecretString, body: &[u8], at: i64) -> String {
    let at = at.to_string();
    let code = mac(secret, at.as_bytes(), body).finalize().into_bytes();
    let mut header = format!("t={at},v1=");
    for byte in code {
        // Writing into a String cannot fail.
        let _ = write!(header, "{byte:02x}");
    }
    header
}

fn mac(secret: &SecretString, time: &[u8], body: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length");
    mac.update(time);
    mac.update(b".");
    mac.update(body);
    mac
}

fn is_plain_number(text: &str) -> bool {
    (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 {
        return None;
    }
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests;
