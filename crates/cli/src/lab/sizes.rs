//! Sizes, as far as they tell the cells of a run apart.

use std::fmt::Write as _;

use linger_lab::CellPlan;

type Size = (&'static str, fn(&CellPlan) -> u64);

const SIZES: [Size; 4] = [
    ("response", |plan| plan.response),
    ("request", |plan| plan.request),
    ("extra", |plan| plan.extra),
    ("upload", |plan| plan.upload),
];

/// The sizes in which some cells differ.
pub(super) struct Differing(Vec<Size>);

impl Differing {
    pub(super) fn among(plans: &[&CellPlan]) -> Self {
        let differs = |(_, of): &Size| plans.windows(2).any(|pair| of(pair[0]) != of(pair[1]));
        Self(SIZES.into_iter().filter(differs).collect())
    }

    /// What a cell's file has in its name: `-response64000`; empty if no size differs.
    pub(super) fn suffix(&self, plan: &CellPlan) -> String {
        self.0.iter().fold(String::new(), |mut suffix, (name, of)| {
            let _ = write!(suffix, "-{name}{}", of(plan));
            suffix
        })
    }

    /// The sizes in words: `response 64000 bytes`; empty if no size differs.
    pub(super) fn words(&self, plan: &CellPlan) -> String {
        self.0.iter().map(|(name, of)| format!("{name} {} bytes", of(plan))).collect::<Vec<_>>().join(", ")
    }
}
