//! Counts of fates and verdicts, and the confidence interval of a proportion.

use std::collections::BTreeMap;

use linger_verdict::Verdict;

use crate::fate::{Attempt, Fate};

/// The Wilson score interval (Wilson 1927) for `hits` of `trials`, at 95%: the lower and the upper bound.
///
/// Unlike the normal approximation, this interval is right near 0% and 100%, where most results of the lab are.
pub fn wilson(hits: u64, trials: u64) -> (f64, f64) {
    /// The 97.5% quantile of the normal distribution.
    const Z: f64 = 1.959_963_984_540_054;
    if trials == 0 {
        return (0.0, 1.0);
    }
    let n = trials as f64;
    let p = hits as f64 / n;
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    // Exactly 0 and 1 at the ends, where rounding would leave a tiny difference.
    let low = if hits == 0 { 0.0 } else { (centre - spread) / scale };
    let high = if hits == trials { 1.0 } else { (centre + spread) / scale };
    (low.max(0.0), high.min(1.0))
}

/// The results of many connections.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    fates: BTreeMap<Fate, u64>,
    /// Connections.
    pub trials: u64,
    /// Connections with missing bytes.
    pub lost: u64,
    /// Connections with every byte, and then a reset or a write error.
    pub at_risk: u64,
    /// Lost connections with a clean end.
    pub silent: u64,
    /// Connections whose server wrote nothing: their clients are without a response, which no close has lost.
    pub unanswered: u64,
}

impl Tally {
    /// Counts one connection.
    pub fn count(&mut self, attempt: &Attempt) {
        let verdict = attempt.verdict();
        let lost = verdict == Verdict::Lost;
        self.trials += 1;
        self.lost += u64::from(lost);
        self.at_risk += u64::from(verdict == Verdict::AtRisk);
        self.silent += u64::from(lost && attempt.fate == Fate::ShortCleanEnd);
        *self.fates.entry(attempt.fate).or_default() += 1;
    }

    /// The number of trials that were lost or at risk.
    pub fn not_kept(&self) -> u64 {
        self.lost + self.at_risk
    }

    /// The number of trials with this verdict.
    pub fn with(&self, verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Kept => self.trials - self.not_kept(),
            Verdict::AtRisk => self.at_risk,
            Verdict::Lost => self.lost,
        }
    }

    /// The number of trials with this fate.
    pub fn of(&self, fate: Fate) -> u64 {
        self.fates.get(&fate).copied().unwrap_or(0)
    }

    /// The 95% interval of the part that was lost.
    pub fn interval(&self) -> (f64, f64) {
        wilson(self.lost, self.trials)
    }

    /// Whether more trials would not change the result: the interval is at most a tenth wide (none or all of 35 are
    /// lost), or at most a third and clearly neither none nor all.
    pub fn is_settled(&self) -> bool {
        let (low, high) = self.interval();
        high - low <= 0.1 || (high - low <= 0.33 && low > 0.01 && high < 0.99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_the_published_values() {
        // Newcombe 1998, table I: 81 of 263, and 0 of 20.
        let (low, high) = wilson(81, 263);
        assert!((low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4, "{low} {high}");
        let (low, high) = wilson(0, 20);
        assert!(low == 0.0 && (high - 0.1611).abs() < 1e-4, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(9, 9).1, 1.0);
    }

    #[test]
    fn a_result_settles() {
        let tally = |lost, trials| Tally { lost, trials, ..Tally::default() };
        assert!(!tally(0, 30).is_settled() && tally(0, 35).is_settled());
        assert!(!tally(30, 30).is_settled() && tally(35, 35).is_settled());
        assert!(!tally(5, 10).is_settled() && tally(20, 40).is_settled());
    }
}
