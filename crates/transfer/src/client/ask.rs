//! What a client asks without a transfer: a list of names, and what came of a transfer.

use super::Client;
use super::goodbye::{Goodbye, Goodbyes};
use crate::driver::{Session, SessionEvent};
use crate::error::Error;
use crate::host;
use crate::message::{Item, Message, Operation, Receipt};
use crate::path::RelPath;
use crate::progress::Confirmation;
use crate::receive::Announced;
use crate::wire::Violation;

impl Client {
    /// Lists a directory or one file; calls `each` for every item.
    ///
    /// # Errors
    /// Returns [`Error::Refused`] if there is nothing to list, and the errors of connecting.
    pub fn list(&self, path: &RelPath, each: &mut dyn FnMut(Item)) -> Result<(), Error> {
        let (mut session, stream) = self.begin(&Operation::List { path: path.clone() }, false)?;
        let result = loop {
            match session.receive() {
                Ok(SessionEvent::Message { bytes, .. }) => match Message::decode(&bytes) {
                    Ok(Message::Item(item)) => each(item),
                    Ok(Message::Error { refusal, text }) => break Err(Error::Refused(refusal, text)),
                    Ok(_) => break Err(Violation::Unexpected("a message").into()),
                    Err(error) => break Err(error.into()),
                },
                Ok(SessionEvent::Finished { .. }) => break Ok(()),
                Ok(SessionEvent::Works(_)) => {}
                Ok(SessionEvent::Bye { code, reason }) => break Err(Error::goodbye(code, reason)),
                Ok(_) => break Err(Violation::Unexpected("a frame").into()),
                Err(error) => break Err(error),
            }
        };
        if result.is_ok() {
            session.finish(stream)?;
            session.goodbye(0, "")?;
        }
        session.close(&self.options.policy);
        result
    }

    /// Connects and asks. Encrypts if the server on this machine turns out to be another user's.
    fn begin(&self, request: &Operation, briefly: bool) -> Result<(Session, u16), Error> {
        let mut session = self.connect(briefly)?;
        let stream = match self.open(&mut session, request) {
            Err(error) if self.has_to_encrypt(&error) => {
                session.close(&self.options.policy);
                session = self.connect(briefly)?;
                self.open(&mut session, request)?
            }
            other => other?,
        };
        Ok((session, stream))
    }

    /// Asks the server what came of the transfer `id` to a sink, perhaps days later.
    ///
    /// # Errors
    /// Returns [`Error::Refused`] if the server knows of no receipt: with `NotFound` no command was started for it, with
    /// `Busy` it is running, with `Command` it failed or nobody knows. Otherwise the errors of connecting.
    pub fn ask(&self, id: [u8; 16]) -> Result<Confirmation, Error> {
        let retry = self.options.retry;
        let mut goodbyes = Goodbyes::new(retry.patience, host::now());
        let (receipt, mut goodbye) = self.ask_once(id, false)?;
        // The answer is here, whatever becomes of the goodbye. But while the server does not know that somebody has heard it, it
        // doubts whether the same may be done again.
        while goodbyes.again(goodbye, host::now()) && !self.cancel.wait(retry.first) {
            match self.ask_once(id, true) {
                Ok((_, again)) => goodbye = again,
                Err(_) => break,
            }
        }
        Ok(Confirmation::new(Announced::default(), receipt))
    }

    /// Asks once. Returns the receipt, and what became of the goodbye.
    fn ask_once(&self, id: [u8; 16], briefly: bool) -> Result<(Receipt, Goodbye), Error> {
        let (mut session, _) = self.begin(&Operation::Ask { id }, briefly)?;
        let answer = loop {
            match session.receive()? {
                SessionEvent::Message { bytes, .. } => match Message::decode(&bytes)? {
                    Message::Receipt(receipt) => break Ok(receipt),
                    Message::Error { refusal, text } => break Err(Error::Refused(refusal, text)),
                    _ => return Err(Violation::Unexpected("a message").into()),
                },
                SessionEvent::Works(_) => {}
                SessionEvent::Bye { code, reason } => return Err(Error::goodbye(code, reason)),
                _ => return Err(Violation::Unexpected("a frame").into()),
            }
        };
        match answer {
            Ok(receipt) => Ok((receipt, self.say_goodbye(session))),
            Err(error) => {
                drop(session.goodbye(0, ""));
                session.close(&self.options.policy);
                Err(error)
            }
        }
    }
}
