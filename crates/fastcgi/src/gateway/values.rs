//! Asks an application about itself: FCGI_GET_VALUES (specification section 4.1).

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use super::{Cause, Client, Error};
use crate::limits::Limits;
use crate::params::{Params, push_pair};
use crate::record::{self, Decoder, Part, RecordType};

/// The variables of the specification: how many connections and requests the application takes at once, and whether it takes
/// several requests on one connection.
pub const VALUES: [&str; 3] = ["FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"];

impl Client {
    /// Asks for some of the application's variables (the specification has those in [`VALUES`]), on a connection of its own, which
    /// is closed afterwards. An application leaves out of its answer what it does not know.
    ///
    /// # Errors
    /// Returns an error if the application cannot be reached, closes without an answer ([`Error::Cut`]), is silent for
    /// [`Config::io_timeout`](super::Config::io_timeout), or answers with something else.
    pub fn values(&self, names: &[&str]) -> Result<Params, Error> {
        let (mut socket, _) = self.pool.take(false)?;
        let mut asked = Vec::new();
        for name in names {
            push_pair(&mut asked, name.as_bytes(), b"");
        }
        let mut record = Vec::new();
        record::push(&mut record, RecordType::GetValues, 0, &asked);
        let until = Instant::now() + self.config.io_timeout;
        socket.set_write_timeout(Some(self.config.io_timeout)).map_err(Error::System)?;
        socket.write_all(&record).map_err(|error| cut(0, &error))?;
        tracing::debug!(record = ?RecordType::GetValues, bytes = asked.len(), "sent");
        let (mut decoder, mut content) = (Decoder::new(), Vec::new());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(cut(0, &ErrorKind::TimedOut.into()));
            }
            socket.set_read_timeout(Some(left)).map_err(Error::System)?;
            let mut bytes = [0; 4096];
            let got = match socket.read(&mut bytes) {
                Ok(0) => return Err(Error::Cut { received: 0, cause: Cause::Closed, write_error: None }),
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(cut(0, &error)),
            };
            let mut input = &bytes[..got];
            while let Some(part) = decoder.next(&mut input)? {
                if let Part::End(header) = part {
                    tracing::debug!(record = ?header.kind, bytes = header.content, "received");
                }
                match part {
                    Part::Content(header, some) if header.kind == RecordType::GetValuesResult => {
                        content.extend_from_slice(some);
                    }
                    Part::End(header) if header.kind == RecordType::GetValuesResult => {
                        return Ok(Params::parse(content, &Limits::default())?);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The error of a connection that failed after so many bytes of STDOUT.
pub(super) fn cut(received: u64, error: &io::Error) -> Error {
    let cause = match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Cause::Silent,
        kind => Cause::Error(kind),
    };
    Error::Cut { received, cause, write_error: None }
}
