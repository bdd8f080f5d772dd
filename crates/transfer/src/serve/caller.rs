//! Clients over loopback that do not encrypt: only those of the same user are served.

use super::{Caller, Server};
use crate::driver::{Session, SessionEvent};
use crate::error::Error;
use crate::fault::Fault;
use crate::loopback;
use crate::message::{Message, Refusal};
use crate::reason::{Reason, Remedy};
use crate::wire::Violation;

impl Server {
    /// Lets a client over loopback prove that it has this server's key, before its first request is looked at.
    pub(super) fn authenticate(
        &self,
        session: &mut Session,
        stream: u16,
        caller: &Caller,
    ) -> Result<(), Error> {
        let Caller::Unproven { ours, theirs } = *caller else { return Ok(()) };
        let Some(keys) = &self.options.keys else { return self.refuse(session, stream, stranger()) };
        let nonce = loopback::nonce().map_err(|error| Error::io("get", "random numbers", error))?;
        session.message(stream, &Message::Prove { nonce }.encode())?;
        session.flush()?;
        let shown = loop {
            match session.receive()? {
                SessionEvent::Message { bytes, .. } => match Message::decode(&bytes)? {
                    Message::Proof { nonce, proof } => break (nonce, proof),
                    _ => return Err(Violation::Unexpected("a message before its proof").into()),
                },
                // A list's client may have finished its side already.
                SessionEvent::Finished { .. } => {}
                SessionEvent::Bye { code, reason } => return Err(Error::goodbye(code, reason)),
                _ => return Err(Violation::Unexpected("a frame before its proof").into()),
            }
        };
        let expected = loopback::proof(&keys.identity, &nonce, &shown.0);
        // blake3 compares in constant time.
        let has_key = blake3::Hash::from_bytes(expected) == blake3::Hash::from_bytes(shown.1);
        if has_key && loopback::is_same_user(ours, theirs) {
            return Ok(());
        }
        tracing::info!(%theirs, has_key, "a client over loopback is not the same user");
        self.refuse(session, stream, stranger())
    }
}

fn stranger() -> Fault {
    let told = "it serves nobody but its own user without encryption, also over loopback";
    Fault(Refusal::Forbidden, Reason::from(told).with(Remedy::Encrypt))
}
