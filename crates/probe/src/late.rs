//! A client that reads late: what most questions have in common.

use std::io;

use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::CheckFinding;
use crate::judge::judge;
use crate::often::STUCK;
use crate::prober::Prober;
use crate::trial::{Trial, Until};

/// Sends a request, calls `between`, reads late, and judges what arrived.
pub(crate) fn late_reader(
    prober: &Prober,
    check: Check,
    ask: RequestShape,
    surplus: &[u8],
    between: impl Fn(&mut Trial<'_>),
) -> io::Result<CheckFinding> {
    let mut trial = Trial::open(prober, true)?;
    let mut request = prober.dialect.request(ask);
    request.extend_from_slice(surplus);
    trial.queue(&request);
    trial.send(STUCK);
    between(&mut trial);
    trial.late();
    trial.read(Until::Complete, prober.config.patience);
    trial.settle();
    Ok(judge(prober, check, ask, trial.finish()))
}
