//! What the tools of operators look at: where Redis is, and what is set in a way that is wrong in production.

use std::path::PathBuf;

use super::{Config, ConfigError};

/// Where Redis listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RedisPlace {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// Words that stand in examples, never in a secret.
const EXAMPLES: [&str; 9] =
    ["change", "example", "secret", "password", "default", "insecure", "placeholder", "01234567", "xxxx"];
/// Secrets with fewer different characters are guessed.
const DIFFERENT: usize = 10;

impl Config {
    /// Where Redis is, if it is set.
    pub(crate) fn redis_place(&self) -> Result<Option<RedisPlace>, ConfigError> {
        // Says what is wrong with the setting, if anything is.
        if self.redis("")?.is_none() {
            return Ok(None);
        }
        let url = self.text("REDIS_URL").and_then(|text| text.parse::<url::Url>().ok());
        Ok(url.and_then(|url| match (url.scheme(), url.host_str()) {
            ("redis+unix" | "unix", _) => Some(RedisPlace::Unix(PathBuf::from(url.path()))),
            (_, Some(host)) => {
                let host = host.trim_matches(['[', ']']).to_owned();
                Some(RedisPlace::Tcp(host, url.port().unwrap_or(6_379)))
            }
            _ => None,
        }))
    }

    /// Secrets that are set and could be guessed.
    pub(crate) fn guessable_secrets(&self) -> Vec<&'static str> {
        let names =
            ["ADMIN_TOKEN", "USER_ID_HMAC_KEY", "SECRET_ENCRYPTION_KEY", "GATEWAY_ANSWERS_KEY", "GATEWAY_TOKEN"];
        names.into_iter().filter(|name| self.text(name).is_some_and(is_guessable)).collect()
    }

    /// Settings of origins that let every page in.
    pub(crate) fn open_origins(&self) -> Vec<&'static str> {
        let names = ["GATEWAY_CORS_ORIGINS", "API_CORS_ORIGINS"];
        names.into_iter().filter(|name| self.text(name) == Some("*")).collect()
    }

    /// Is anything at all said of this setting?
    pub(crate) fn is_set(&self, name: &'static str) -> bool {
        self.values.contains_key(name)
    }
}

fn is_guessable(secret: &str) -> bool {
    let lower = secret.to_lowercase();
    let mut different: Vec<char> = secret.chars().collect();
    different.sort_unstable();
    different.dedup();
    different.len() < DIFFERENT || EXAMPLES.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_and_repetitions_are_guessed() {
        for secret in [
            "changeme-changeme-changeme-changeme",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "my-Secret-my-Secret-my-Secret-12",
        ] {
            assert!(is_guessable(secret), "{secret}");
        }
        assert!(!is_guessable("mf_admin_8Kq2vNf3ZrT0pWbY5sLjHcXe7uGiMdAo"));
    }
}
