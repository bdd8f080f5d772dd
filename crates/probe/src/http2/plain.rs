//! The plain request over HTTP/2.

use super::exchange::Exchange;
use super::pipe::Gate;
use crate::dialect::RequestShape;
use crate::error::ProbeError;
use crate::prober::Prober;
use crate::seen::TrialResult;

/// Makes a plain request with a large window, and reads the response without delay.
pub(crate) fn plain(prober: &Prober, target: &str) -> Result<TrialResult, ProbeError> {
    let connect = |source| ProbeError::Connect { target: target.to_owned(), source };
    let no_answer = |reason: String| ProbeError::NoAnswer { target: target.to_owned(), reason };
    let mut exchange = Exchange::open(prober, false, Gate::Open).map_err(connect)?;
    exchange.request(RequestShape::GET).map_err(|error| no_answer(format!("it cannot be asked: {error}")))?;
    exchange.run(prober.config.patience, Exchange::is_over);
    if let Some(opening) = exchange.not_understood() {
        return Err(ProbeError::NotThisProtocol { target: target.to_owned(), http2: true, opening });
    }
    if let Some(invalid) = exchange.invalid() {
        return Err(no_answer(format!("what came is not valid HTTP/2 ({invalid})")));
    }
    Ok(exchange.finish())
}
