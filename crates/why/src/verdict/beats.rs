//! Keepalive probes that are answered where the capture was taken, and not where they come from.

use crate::advice::{Capture, NextEvidence};
use crate::{Cause, Confidence};

use super::{Judge, Opinion};

impl Judge<'_> {
    /// The sender gave up as if nobody had answered. The answers, which the capture holds, were lost on the rest of the way.
    pub(super) fn answers_lost(&mut self) -> Opinion {
        self.ask(NextEvidence::Capture(Capture::OtherEnd));
        (
            Cause::KeepaliveTimeout,
            Confidence::Likely,
            vec![Cause::KeepaliveTimeout, Cause::Aborted, Cause::Forged],
        )
    }
}
