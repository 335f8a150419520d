//! Breakers, one per provider, endpoint and model, and one per credential: what keeps failing is not asked for a while, so that
//! callers get another target or a quick refusal instead of a slow failure. Local and disposable; money never depends on them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::Endpoint;
use modelfaucet_schema::ids::CredentialId;
use parking_lot::Mutex;

/// Failures and successes are counted in windows of this length.
const WINDOW: Duration = Duration::from_secs(30);
/// With fewer attempts in a window nothing is concluded.
const ENOUGH: u32 = 20;
/// How long an open breaker refuses before one attempt may try.
const OPEN: Duration = Duration::from_secs(10);
/// How long after the provider refused our key.
const KEY_REFUSED: Duration = Duration::from_secs(30);
/// With more subjects than this, those that are closed are forgotten.
const MAX_SUBJECTS: usize = 10_000;

/// What a breaker watches. A user's own key or endpoint that fails says nothing about the platform's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// A model of a provider, by the platform's key.
    Model {
        /// Who answers.
        provider: Name,
        /// What is called.
        endpoint: Endpoint,
        /// The model.
        model: String,
    },
    /// A credential.
    Credential(CredentialId),
}

/// How an attempt went, as far as a breaker cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The provider works.
    Good,
    /// It does not.
    Bad,
    /// It refuses our key.
    KeyRefused,
    /// It asked to be left alone for so long.
    Cool(Duration),
}

#[derive(Debug)]
struct State {
    since: Instant,
    attempts: u32,
    failures: u32,
    /// Refused until then; afterwards one attempt may try.
    closed_at: Option<Instant>,
    /// Since when one tries. It may end without a word, so another may try after a while.
    trying: Option<Instant>,
}

/// The breakers.
#[derive(Debug, Default)]
pub(crate) struct Breakers {
    subjects: Mutex<HashMap<Subject, State>>,
}

impl Breakers {
    /// May it be asked now? If not, after how long.
    pub(crate) fn admit(&self, subject: &Subject, now: Instant) -> Result<(), Duration> {
        let mut subjects = self.subjects.lock();
        let Some(state) = subjects.get_mut(subject) else { return Ok(()) };
        match state.closed_at {
            None => Ok(()),
            Some(at) if at > now => Err(at.duration_since(now)),
            Some(_) if state.trying.is_some_and(|since| now.saturating_duration_since(since) < OPEN) => {
                Err(Duration::from_secs(1))
            }
            Some(_) => {
                state.trying = Some(now);
                Ok(())
            }
        }
    }

    /// An attempt that was admitted has ended.
    pub(crate) fn record(&self, subject: &Subject, verdict: Verdict, now: Instant) {
        let mut subjects = self.subjects.lock();
        if subjects.len() >= MAX_SUBJECTS {
            subjects.retain(|_, state| state.closed_at.is_some());
        }
        let state = subjects.entry(subject.clone()).or_insert_with(|| State::new(now));
        if now.saturating_duration_since(state.since) >= WINDOW {
            (state.since, state.attempts, state.failures) = (now, 0, 0);
        }
        state.attempts += 1;
        let tried = state.trying.take().is_some();
        let open = match verdict {
            Verdict::Good => {
                state.closed_at = None;
                return;
            }
            Verdict::KeyRefused => Some(KEY_REFUSED),
            Verdict::Cool(wait) => Some(wait.min(WINDOW)),
            Verdict::Bad => {
                state.failures += 1;
                let many = state.attempts >= ENOUGH && state.failures * 2 >= state.attempts;
                (many || tried).then_some(OPEN)
            }
        };
        if let Some(open) = open {
            state.closed_at = Some(now + open);
        }
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self { since: now, attempts: 0, failures: 0, closed_at: None, trying: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> Subject {
        Subject::Model {
            provider: "openai".parse().unwrap(),
            endpoint: Endpoint::ChatCompletions,
            model: name.to_owned(),
        }
    }

    #[test]
    fn many_failures_open_it_and_one_success_closes_it() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        for _ in 0..19 {
            breakers.record(&model("m"), Verdict::Bad, now);
            assert_eq!(breakers.admit(&model("m"), now), Ok(()));
        }
        breakers.record(&model("m"), Verdict::Bad, now);
        assert_eq!(breakers.admit(&model("m"), now), Err(OPEN));
        assert_eq!(breakers.admit(&model("other"), now), Ok(()));
        let later = now + OPEN;
        assert_eq!(breakers.admit(&model("m"), later), Ok(()), "one may try");
        assert!(breakers.admit(&model("m"), later).is_err(), "and only one");
        assert_eq!(breakers.admit(&model("m"), later + OPEN), Ok(()), "or another, if it never ends");
        let later = later + OPEN;
        breakers.record(&model("m"), Verdict::Bad, later);
        assert_eq!(breakers.admit(&model("m"), later), Err(OPEN));
        assert_eq!(breakers.admit(&model("m"), later + OPEN), Ok(()));
        breakers.record(&model("m"), Verdict::Good, later + OPEN);
        assert_eq!(breakers.admit(&model("m"), later + OPEN), Ok(()));
        assert_eq!(breakers.admit(&model("m"), later + OPEN), Ok(()));
    }

    #[test]
    fn half_failures_open_it_fewer_do_not() {
        let now = Instant::now();
        for (failures, opens) in [(9, false), (10, true)] {
            let breakers = Breakers::default();
            (0..20 - failures).for_each(|_| breakers.record(&model("m"), Verdict::Good, now));
            (0..failures).for_each(|_| breakers.record(&model("m"), Verdict::Bad, now));
            assert_eq!(breakers.admit(&model("m"), now).is_err(), opens, "{failures}");
        }
    }

    #[test]
    fn a_refused_key_opens_it_at_once_and_old_failures_are_forgotten() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        breakers.record(&model("m"), Verdict::KeyRefused, now);
        assert_eq!(breakers.admit(&model("m"), now), Err(KEY_REFUSED));
        breakers.record(&model("cool"), Verdict::Cool(Duration::from_secs(5)), now);
        assert_eq!(breakers.admit(&model("cool"), now), Err(Duration::from_secs(5)));
        (0..19).for_each(|_| breakers.record(&model("old"), Verdict::Bad, now));
        breakers.record(&model("old"), Verdict::Bad, now + WINDOW);
        assert_eq!(breakers.admit(&model("old"), now + WINDOW), Ok(()));
    }
}
