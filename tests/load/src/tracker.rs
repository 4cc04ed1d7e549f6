//! Did every message of one flow arrive, once, and in order?
//!
//! A flow is what one publisher sends to one topic, as one subscriber sees it. The tracker counts loss, duplicates and
//! order violations from sequence numbers alone; who sent what, and when, is left to `subscriber`.

use std::collections::BTreeMap;

/// Gaps remembered at once. Beyond it the oldest gap is counted as lost for good, so memory stays bounded.
const MAX_GAPS: usize = 1 << 16;

/// Counts for one flow. Sequence numbers start at 0.
#[derive(Default)]
pub struct Tracker {
    next: u64,
    /// First missing number of each gap → one past its last.
    gaps: BTreeMap<u64, u64>,
    forgotten: u64,
    duplicates: u64,
    late: u64,
}

/// What a finished flow amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub lost: u64,
    pub duplicates: u64,
    /// Messages that arrived after a later one of the same flow.
    pub order_violations: u64,
}

impl Tracker {
    /// Notes the arrival of message `sequence`.
    #[inline]
    pub fn arrived(&mut self, sequence: u64) {
        if sequence == self.next {
            self.next += 1;
        } else {
            self.out_of_line(sequence);
        }
    }

    /// The verdict, given how many messages were sent on this flow.
    pub fn tally(&self, sent: u64) -> Tally {
        let missing: u64 = self.gaps.iter().map(|(from, to)| to - from).sum();
        Tally {
            lost: self.forgotten + missing + sent.saturating_sub(self.next),
            duplicates: self.duplicates,
            order_violations: self.late,
        }
    }

    #[cold]
    fn out_of_line(&mut self, sequence: u64) {
        if sequence > self.next {
            self.gaps.insert(self.next, sequence);
            self.next = sequence + 1;
            if self.gaps.len() > MAX_GAPS
                && let Some((from, to)) = self.gaps.pop_first()
            {
                self.forgotten += to - from;
            }
            return;
        }
        match self.gaps.range(..=sequence).next_back() {
            Some((&from, &to)) if sequence < to => {
                self.late += 1;
                self.gaps.remove(&from);
                if from < sequence {
                    self.gaps.insert(from, sequence);
                }
                if sequence + 1 < to {
                    self.gaps.insert(sequence + 1, to);
                }
            }
            _ => self.duplicates += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_counted_as_lost_doubled_or_late() {
        type Case<'a> = (&'a str, &'a [u64], u64, (u64, u64, u64));
        let cases: &[Case<'_>] = &[
            ("all in order", &[0, 1, 2, 3], 4, (0, 0, 0)),
            ("nothing arrived", &[], 3, (3, 0, 0)),
            ("the first is lost", &[1, 2], 3, (1, 0, 0)),
            ("the tail is lost", &[0, 1], 5, (3, 0, 0)),
            ("two swapped", &[0, 2, 1, 3], 4, (0, 0, 1)),
            (
                "a gap filled from the middle",
                &[0, 5, 3, 1, 2, 4],
                6,
                (0, 0, 4),
            ),
            ("a gap filled in part", &[0, 5, 3], 6, (3, 0, 1)),
            ("doubled at once", &[0, 0, 1], 2, (0, 1, 0)),
            ("doubled later", &[0, 1, 2, 0], 3, (0, 1, 0)),
            ("late and then doubled", &[1, 0, 0], 2, (0, 1, 1)),
        ];
        for (name, arrivals, sent, (lost, duplicates, order_violations)) in cases {
            let mut tracker = Tracker::default();
            arrivals.iter().for_each(|&n| tracker.arrived(n));
            assert_eq!(
                tracker.tally(*sent),
                Tally {
                    lost: *lost,
                    duplicates: *duplicates,
                    order_violations: *order_violations
                },
                "{name}"
            );
        }
    }

    #[test]
    fn a_flow_that_loses_every_second_message_stays_bounded_and_exact() {
        let mut tracker = Tracker::default();
        let sent = 4 * MAX_GAPS as u64;
        (0..sent).step_by(2).for_each(|n| tracker.arrived(n));
        assert!(tracker.gaps.len() <= MAX_GAPS);
        assert_eq!(tracker.tally(sent).lost, sent / 2);
    }
}
