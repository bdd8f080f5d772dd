//! Bounds of time.

use std::time::Duration;

use clap::Args;

use crate::typed::{duration, up_to};

/// For verbs that go on until somebody ends them.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct RunFor {
    /// End after so long, as 30s or 5m; a number alone is seconds.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) time: Option<Duration>,
}

/// For verbs that wait for another program.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// How long the other side may be silent, as 45s or 5m; a number alone is seconds.
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = up_to(Duration::from_secs(86_400)))]
    pub(crate) timeout: Duration,
}
