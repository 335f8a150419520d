//! Messages on their way: how many may be, and how far the broker has confirmed all of them without a hole.

use std::collections::VecDeque;
use std::time::Instant;

use modelfaucet_schema::log::Head;

/// Messages that may wait for their confirm.
const MESSAGES: usize = 512;
/// Their bytes; one message may always go.
const BYTES: usize = 16 << 20;

/// A message that was sent.
#[derive(Debug)]
struct Sent {
    head: Head,
    bytes: usize,
    at: Instant,
    confirmed: bool,
}

/// What was sent and is not behind the mark yet, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Window {
    sent: VecDeque<Sent>,
    bytes: usize,
    /// The number of the first of them.
    first: u64,
}

impl Window {
    pub(crate) fn has_room(&self) -> bool {
        self.sent.len() < MESSAGES && self.bytes < BYTES
    }

    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    /// Takes in what is sent now; its number.
    pub(crate) fn send(&mut self, head: Head, bytes: usize, at: Instant) -> u64 {
        let number = self.first + self.sent.len() as u64;
        self.sent.push_back(Sent { head, bytes, at, confirmed: false });
        self.bytes += bytes;
        number
    }

    /// The broker has confirmed a message. If everything up to a further head is confirmed now, that head.
    pub(crate) fn confirm(&mut self, number: u64) -> Option<Head> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.sent.get_mut(index)?.confirmed = true;
        let mut reached = None;
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.confirmed) {
            self.first += 1;
            self.bytes -= sent.bytes;
            reached = Some(sent.head);
        }
        reached
    }

    /// Since when the oldest message waits for its confirm.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.sent.front().map(|sent| sent.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_schema::hash::ChainHash;
    use modelfaucet_schema::ids::Position;
    use proptest::prelude::*;

    fn head(position: i64) -> Head {
        Head { position: Position(position), hash: ChainHash([0; 32]) }
    }

    fn window(messages: i64) -> (Window, Vec<u64>) {
        let mut window = Window::default();
        let numbers = (1..=messages).map(|position| window.send(head(position), 1, Instant::now())).collect();
        (window, numbers)
    }

    #[test]
    fn the_mark_does_not_pass_a_message_that_is_not_confirmed() {
        let (mut window, numbers) = window(4);
        assert_eq!(window.confirm(numbers[1]), None);
        assert_eq!(window.confirm(numbers[2]), None);
        assert_eq!(window.confirm(numbers[0]), Some(head(3)));
        assert_eq!(window.confirm(numbers[0]), None, "a second confirm says nothing new");
        assert_eq!(window.confirm(numbers[3]), Some(head(4)));
        assert_eq!(window.len(), 0);
    }

    proptest! {
        /// In whatever order confirms come: the mark is the end of what is confirmed without a hole, and nothing else.
        #[test]
        fn the_mark_is_the_highest_contiguous_confirm(order in Just((0..40_i64).collect::<Vec<_>>()).prop_shuffle(), known in 0..40_usize) {
            let (mut window, numbers) = window(40);
            let mut mark = 0;
            for index in &order[..known] {
                let number = numbers[usize::try_from(*index).unwrap()];
                if let Some(reached) = window.confirm(number) {
                    prop_assert!(reached.position.0 > mark);
                    mark = reached.position.0;
                }
            }
            let confirmed = &order[..known];
            let expected = (0..40).find(|index| !confirmed.contains(index)).unwrap_or(40);
            prop_assert_eq!(mark, expected);
            prop_assert_eq!(window.len(), 40 - usize::try_from(mark).unwrap());
        }
    }

    #[test]
    fn room_is_bounded_by_number_and_by_bytes_but_one_message_may_always_go() {
        let mut window = Window::default();
        assert!(window.has_room());
        window.send(head(1), BYTES * 2, Instant::now());
        assert!(!window.has_room());
        assert!(window.confirm(0).is_some() && window.has_room());
        for position in 0..MESSAGES {
            assert!(window.has_room());
            window.send(head(i64::try_from(position).unwrap()), 1, Instant::now());
        }
        assert!(!window.has_room());
    }
}
