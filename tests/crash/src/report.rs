//! What does the run say? The figures, and which of them must be zero.

use std::fmt;
use std::time::Duration;

use crate::counts::Counts;
use crate::verdict::Verdict;

#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub durability: &'static str,
    pub kills: u64,
    pub seconds: u64,
    pub counts: std::sync::Arc<Counts>,
    pub verdict: Verdict,
    pub restarts: Vec<Duration>,
    pub resident_kib: u64,
    pub wills: u64,
    pub wills_lost: u64,
    /// Of clients that had returned in time.
    pub wills_unwanted: u64,
    /// What the gateway should not have logged.
    pub complaints: Vec<String>,
}

impl Report {
    /// What must be zero, with its name.
    pub fn violations(&self) -> [(&'static str, u64); 14] {
        let (counts, verdict) = (&self.counts, &self.verdict);
        [
            ("lost", verdict.lost),
            ("QoS 2 duplicates", counts.duplicates_qos2.get()),
            ("QoS 2 twice in a shared group", verdict.shared_twice),
            ("retained lost", counts.retained_lost.get()),
            ("subscriptions lost", verdict.subscriptions_lost),
            ("sessions lost", counts.sessions_lost.get()),
            ("delivered after UNSUBACK", verdict.after_unsubscribe),
            ("out of order", counts.order.get()),
            ("acknowledgements out of order", counts.ack_order.get()),
            ("wills lost", self.wills_lost),
            ("wills of clients that returned", self.wills_unwanted),
            ("damaged messages", counts.damaged.get()),
            ("packets without sense", counts.strange_packets.get()),
            ("errors of the gateway", self.complaints.len() as u64),
        ]
    }

    pub fn is_clean(&self) -> bool {
        self.violations().iter().all(|(_, n)| *n == 0)
    }

    /// Something that was acknowledged is gone. A QoS 2 message that came twice counts: its packet identifier was lost.
    pub fn shows_loss(&self) -> bool {
        const LOSSES: [&str; 5] = [
            "lost",
            "QoS 2 duplicates",
            "retained lost",
            "subscriptions lost",
            "sessions lost",
        ];
        let violations = self.violations();
        violations
            .iter()
            .any(|(name, n)| *n > 0 && LOSSES.contains(name))
    }

    fn figures(&self) -> Vec<(&'static str, String)> {
        let counts = &self.counts;
        let longest = self.restarts.iter().max().copied().unwrap_or_default();
        let sum: Duration = self.restarts.iter().sum();
        let mean = sum / self.restarts.len().max(1) as u32;
        let n = |n: u64| n.to_string();
        vec![
            ("kills", n(self.kills)),
            ("seconds", n(self.seconds)),
            ("acknowledged at QoS 1", n(counts.acknowledged[1].get())),
            ("acknowledged at QoS 2", n(counts.acknowledged[2].get())),
            (
                "published again after a crash",
                n(counts.retransmitted.get()),
            ),
            ("refused", n(counts.refused.get())),
            ("deliveries", n(counts.delivered.get())),
            ("deliveries owed", n(self.verdict.expected)),
            ("QoS 1 duplicates", n(counts.duplicates_qos1.get())),
            ("sessions resumed", n(counts.sessions_resumed.get())),
            ("subscriptions checked", n(self.verdict.subscriptions)),
            (
                "retained messages checked",
                n(counts.retained_checked.get()),
            ),
            ("wills owed", n(self.wills)),
            ("restart, mean ms", n(mean.as_millis() as u64)),
            ("restart, longest ms", n(longest.as_millis() as u64)),
            ("resident at the end, MB", n(self.resident_kib / 1024)),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "durability {}, seed {}", self.durability, self.seed)?;
        for (name, figure) in self.figures() {
            writeln!(f, "  {name:32} {figure:>10}")?;
        }
        writeln!(f, "what must be zero:")?;
        for (name, n) in self.violations() {
            let mark = if n == 0 { "" } else { "  <<<" };
            writeln!(f, "  {name:32} {n:>10}{mark}")?;
        }
        for example in &self.verdict.examples {
            writeln!(f, "  {example}")?;
        }
        for complaint in self.complaints.iter().take(12) {
            writeln!(f, "  {complaint}")?;
        }
        Ok(())
    }
}
