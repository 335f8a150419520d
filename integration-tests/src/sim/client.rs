//! The clients: each wants one thing after another. What is not answered is sent again under the same key, to any writer; some
//! things are wanted twice, some keys are used for something else. What a client is told is checked against the log.

use std::time::Duration;

use modelfaucet_command::domain::{Caller, Command, Rejection};
use modelfaucet_command::writer::core::{Submission, Verdict};
use modelfaucet_schema::event::{Event, FreezeScope, KeyUse};
use modelfaucet_schema::ids::{HoldId, Position, TopUpId, WalletId};
use modelfaucet_schema::token::short_hash;

use super::shop::{self, Body, USERS};
use super::{Happening, MILLISECOND, SECOND, World};

/// How long a client waits for an answer.
const PATIENCE: u64 = 5 * SECOND;

/// What a client hears.
#[derive(Debug)]
pub(super) enum Heard {
    Verdict(Verdict),
    /// It waited too long in the queue; certainly no effect.
    Overloaded,
    /// There was nobody; certainly no effect.
    Unavailable,
}

/// Something that a client wants until it is told.
#[derive(Clone, Debug)]
struct Wish {
    key: Option<String>,
    body: Body,
}

/// One sending of a wish.
#[derive(Debug)]
pub(super) struct Attempt {
    client: usize,
    writer: usize,
    wish: Wish,
    /// The log's end when it was sent.
    log_end: Position,
    /// The highest position that anybody had been told when it was sent.
    told: Position,
    over: bool,
}

/// Who wants things.
#[derive(Debug, Default)]
pub(super) struct Client {
    wish: Option<Wish>,
    done: bool,
    holds: Vec<HoldId>,
    /// Keys with what they were used for and where that was recorded.
    history: Vec<(Wish, Position)>,
}

impl Client {
    pub(super) fn is_idle(&self) -> bool {
        self.done
    }
}

impl Wish {
    fn key_use(&self) -> Option<KeyUse> {
        let key = short_hash(&[self.key.as_ref()?.as_bytes()]);
        Some(KeyUse { key, fingerprint: self.body.fingerprint() })
    }
}

impl World {
    pub(super) fn client_acts(&mut self, client: usize) {
        if self.clients[client].wish.is_none() {
            if self.left == 0 {
                self.clients[client].done = true;
                return;
            }
            self.left -= 1;
            let wish = self.wish(client);
            self.clients[client].wish = Some(wish);
        }
        let Some(wish) = self.clients[client].wish.clone() else { return };
        self.count += 1;
        let (id, writer) = (self.count, self.random.index(self.writers.len()));
        let (log_end, told) = (self.store.head().position, self.notes.told);
        self.attempts.insert(id, Attempt { client, writer, wish, log_end, told, over: false });
        self.report.attempts += 1;
        let delay = self.random.between(20, MILLISECOND);
        self.schedule(delay, Happening::Delivered { attempt: id });
        self.schedule(PATIENCE, Happening::GivesUp { attempt: id });
    }

    /// The edge makes a command of the request.
    pub(super) fn delivered(&mut self, id: u64) {
        let Some(attempt) = self.attempts.get(&id) else { return };
        let (writer, key) = (attempt.writer, attempt.wish.key_use());
        let command = attempt.wish.body.command(&mut self.random);
        let give_up_at = self.clock(self.writers[writer].clock_offset).plus(Duration::from_secs(2));
        // Somebody else than who froze.
        let caller = if matches!(command, Command::Thaw { .. }) { Caller::Admin } else { Caller::Operator };
        let submission =
            Submission { caller, command, request_id: id.to_string().into(), key, give_up_at, reply: Some(id) };
        self.accept(writer, submission);
    }

    /// A writer answers; the answer may be lost.
    pub(super) fn tell(&mut self, id: u64, heard: Heard) {
        if let Heard::Verdict(verdict) = &heard {
            self.check_verdict(id, verdict);
        }
        let delay = self.random.between(20, MILLISECOND);
        if self.healed || !self.random.chance(20) {
            self.schedule(delay, Happening::Heard { attempt: id, heard });
        }
    }

    /// I1, I2, I3, for every answer, whether it arrives or not.
    fn check_verdict(&mut self, id: u64, verdict: &Verdict) {
        let attempt = &self.attempts[&id];
        let key = attempt.wish.key_use();
        let effect = self.notes.effects.get(&id).copied();
        let user = key.and_then(|used| self.store.event_of(used.key));
        match verdict {
            Ok(outcome) => {
                let place = usize::try_from(outcome.recorded.position.0).unwrap_or(0) - 1;
                assert_eq!(self.store.events[place], *outcome.recorded, "I1: what is answered is in the log");
                assert_eq!(outcome.recorded.key, key, "I2: an answer belongs to another request");
                assert_eq!(effect, (!outcome.replayed).then_some(outcome.recorded.position), "I1: one effect");
            }
            Err(Rejection::KeyReused) => {
                assert!(effect.is_none() && user.is_some_and(|event| event.key != key), "I2: the key is free");
            }
            Err(refusal) => {
                assert_eq!(effect, None, "I3: {refusal:?} has an effect");
                let earlier = user.filter(|event| event.position <= attempt.log_end);
                assert_eq!(
                    earlier, None,
                    "I3: {refusal:?}, but the key was used before the request was sent: {:?}",
                    attempt.wish
                );
            }
        }
        let code = verdict.as_ref().map_or_else(Rejection::code, |outcome| outcome.recorded.event.name());
        let position = verdict.as_ref().map_or(0, |outcome| outcome.recorded.position.0.cast_unsigned());
        self.trace(code, &[id, position]);
    }

    pub(super) fn heard(&mut self, id: u64, heard: Heard) {
        let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| !attempt.over) else { return };
        attempt.over = true;
        let (client, wish, told) = (attempt.client, attempt.wish.clone(), attempt.told);
        match heard {
            Heard::Verdict(Ok(outcome)) => {
                let position = outcome.recorded.position;
                assert!(outcome.replayed || position > told, "I9: {position} was answered after {told}");
                self.notes.told = self.notes.told.max(position);
                self.report.answered(outcome.replayed);
                for (known, place) in &self.clients[client].history {
                    let same = wish.key.is_some() && known.key == wish.key;
                    assert!(
                        !same || (*place == position && known.body == wish.body),
                        "I2: a repeat gets another answer"
                    );
                }
                self.learn(client, &outcome.recorded.event);
                self.clients[client].history.push((wish, position));
                self.content(client);
            }
            Heard::Verdict(Err(refusal)) => {
                self.report.refused(refusal.code());
                if self.random.chance(900) { self.content(client) } else { self.again(client) }
            }
            Heard::Overloaded => {
                self.report.overloaded += 1;
                self.again(client);
            }
            Heard::Unavailable => self.again(client),
        }
    }

    /// No answer: with a key the client asks again, without one it never learns.
    pub(super) fn gives_up(&mut self, id: u64) {
        let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| !attempt.over) else { return };
        attempt.over = true;
        let (client, keyed) = (attempt.client, attempt.wish.key.is_some());
        self.report.in_doubt += 1;
        if keyed { self.again(client) } else { self.content(client) }
    }

    fn again(&mut self, client: usize) {
        let pause = self.random.between(MILLISECOND, 300 * MILLISECOND);
        self.schedule(pause, Happening::ClientActs { client });
    }

    fn content(&mut self, client: usize) {
        self.clients[client].wish = None;
        let pause = if self.random.chance(100) { 400 * MILLISECOND } else { 10 * MILLISECOND };
        let pause = self.random.below(pause);
        self.schedule(pause, Happening::ClientActs { client });
    }

    fn learn(&mut self, client: usize, event: &Event) {
        match event {
            Event::HoldPlaced(event) => self.clients[client].holds.push(event.hold_id),
            Event::TopUpRequested(event) => self.notes.top_ups.push(event.top_up_id),
            _ => {}
        }
    }

    fn wish(&mut self, client: usize) -> Wish {
        let known = self.clients[client].history.len();
        if known > 0 && self.random.chance(40) {
            // The same again, or the same key for something else.
            let index = self.random.index(known);
            let mut wish = self.clients[client].history[index].0.clone();
            if self.random.chance(300) {
                wish.body = self.body(client);
            }
            return wish;
        }
        let body = self.body(client);
        let key = body
            .shared_key()
            .or_else(|| (!self.random.chance(150)).then(|| format!("{client}-{}", self.random.next())));
        Wish { key, body }
    }

    fn wallet(&mut self) -> Option<WalletId> {
        let count = self.reference.purses().len();
        // One wallet takes much of the traffic.
        let index = if self.random.chance(300) || count == 0 { 0 } else { self.random.index(count) };
        self.reference.purses().keys().nth(index).copied()
    }

    fn body(&mut self, client: usize) -> Body {
        let user = self.random.below(USERS);
        let Some(wallet) = self.wallet() else { return Body::OpenSession { user } };
        let cents = i64::try_from(self.random.between(1, 60)).unwrap_or(1);
        let tokens = self.random.below(90);
        match self.random.below(100) {
            0..34 => Body::Hold { wallet, cents, seconds: self.random.between(1, 40), part: self.random.chance(300) },
            34..62 => self.hold(client).map_or(Body::OpenSession { user }, |hold| Body::Capture { hold, tokens }),
            62..67 => self.hold(client).map_or(Body::OpenSession { user }, |hold| Body::Release { hold }),
            67..76 => Body::Use { wallet, tokens, receivable: self.random.chance(200) },
            76..81 => Body::RequestTopUp { wallet, cents: cents * 10 },
            81..88 => self
                .top_up()
                .map_or(Body::RequestTopUp { wallet, cents: cents * 10 }, |top_up| Body::CreditTopUp { top_up }),
            88..90 => Body::TestCredit { wallet, cents },
            90..92 => Body::Promo { wallet, cents },
            92..95 => Body::Adjust { wallet, cents, credit: self.random.chance(400) },
            95 if self.random.chance(350) => Body::Freeze(shop::scope(&mut self.random, wallet)),
            95..98 => Body::Thaw(self.notes.frozen.last().copied().unwrap_or(FreezeScope::Payouts)),
            98 => Body::Activate { dollars: self.random.between(800, 1_200) },
            _ => Body::OpenSession { user },
        }
    }

    /// A hold of the client, which it may end more than once.
    fn hold(&mut self, client: usize) -> Option<HoldId> {
        let count = self.clients[client].holds.len();
        if count == 0 {
            return None;
        }
        let index = self.random.index(count);
        let hold = self.clients[client].holds[index];
        if self.random.chance(850) {
            self.clients[client].holds.swap_remove(index);
        }
        Some(hold)
    }

    /// A top-up whose payment arrives, perhaps once more.
    fn top_up(&mut self) -> Option<TopUpId> {
        let count = self.notes.top_ups.len();
        let recent = count.min(6);
        (count > 0).then(|| self.notes.top_ups[count - 1 - self.random.index(recent)])
    }
}
