//! What is printed, where counts are served, and which verdict is an error.

use clap::Args;

use crate::typed::{Address, listen_on};

/// For verbs whose results are standard output.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Json {
    /// Print JSON, one object a line (see `linger schema`).
    #[arg(long)]
    pub(crate) json: bool,
}

/// For verbs whose standard output belongs to another program.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct JsonBeside {
    /// Report in JSON on stderr, one object a line (see `linger schema`).
    #[arg(long)]
    pub(crate) json: bool,
}

/// For verbs that judge responses.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct AtRisk {
    /// Accept responses at risk: where nothing worse was found the status is 0.
    #[arg(long)]
    pub(crate) at_risk_ok: bool,
}

/// For verbs that count.
#[derive(Args, Clone, Debug)]
pub(crate) struct MetricsAt {
    /// Serve the counts for Prometheus at http://HOST:PORT/metrics.
    #[arg(long, visible_alias = "prometheus", value_name = "HOST:PORT", value_parser = listen_on)]
    pub(crate) metrics: Option<Address>,
}
