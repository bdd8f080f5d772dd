//! How a client that does not encrypt proves over loopback that it is the server's own user.

use std::sync::atomic::Ordering;

use super::Client;
use crate::driver::{Session, SessionEvent};
use crate::error::Error;
use crate::loopback;
use crate::message::{Message, Operation};
use crate::options::Security;
use crate::reason::{Reason, Remedy};
use crate::wire::Violation;

impl Client {
    /// Opens a stream for a request, and returns the stream. If the server asks for a proof that this client is its own user,
    /// gives it. The first event of the answer is put back into the session.
    pub(super) fn open(&self, session: &mut Session, request: &Operation) -> Result<u16, Error> {
        let stream = session.open(&request.encode())?;
        let event = next(session)?;
        let SessionEvent::Message { bytes, .. } = &event else {
            if matches!(event, SessionEvent::Data { .. }) {
                return Err(Violation::Unexpected("data before any message").into());
            }
            session.put_back(event);
            return Ok(stream);
        };
        let Message::Prove { nonce: server } = Message::decode(bytes)? else {
            session.put_back(event);
            return Ok(stream);
        };
        let keys = match &self.options.security {
            Security::Remote(keys) if !self.stranger.load(Ordering::Relaxed) => keys,
            _ => {
                let told = "it serves nobody but its own user without encryption, also over loopback";
                return Err(Error::Identity(Reason::from(told).with(Remedy::Encrypt)));
            }
        };
        let nonce = loopback::nonce().map_err(|error| Error::io("get", "random numbers", error))?;
        let proof = loopback::proof(&keys.identity, &server, &nonce);
        session.message(stream, &Message::Proof { nonce, proof }.encode())?;
        session.flush()?;
        // The answer to the request follows, or a refusal.
        match next(session)? {
            SessionEvent::Data { .. } => Err(Violation::Unexpected("data before any message").into()),
            SessionEvent::Message { bytes, stream: on } => match Message::decode(&bytes)? {
                Message::Error { refusal, text } => Err(Error::Refused(refusal, text)),
                _ => {
                    session.put_back(SessionEvent::Message { bytes, stream: on });
                    Ok(stream)
                }
            },
            event => {
                session.put_back(event);
                Ok(stream)
            }
        }
    }

    /// Makes later connections encrypted if this error says that the server on this machine is another user's. Returns true
    /// the first time only, so that nobody tries again for ever.
    pub(super) fn has_to_encrypt(&self, error: &Error) -> bool {
        let refused = matches!(error, Error::Refused(_, reason) if reason.remedy() == Some(&Remedy::Encrypt));
        let can = matches!(self.options.security, Security::Remote(_));
        refused && can && !self.stranger.swap(true, Ordering::Relaxed)
    }
}

/// The next event other than a report of work.
fn next(session: &mut Session) -> Result<SessionEvent, Error> {
    loop {
        match session.receive()? {
            SessionEvent::Works(_) => {}
            event => return Ok(event),
        }
    }
}
