//! Who a client is and what it may do. Over loopback without encryption, only clients of the same user are served.

use super::{Server, Visitor};
use crate::driver::{Session, SessionEvent};
use crate::error::Error;
use crate::fault::Fault;
use crate::loopback;
use crate::message::{Get, Message, Operation, Put, Refusal};
use crate::path::RelPath;
use crate::reason::{Reason, Remedy};
use crate::rights::Rights;
use crate::root::Root;
use crate::selection::Selection;
use crate::walk::{Patterns, Walk, WalkedEntry};
use crate::wire::Violation;

impl Server {
    /// The rights of a client. A client over loopback has to prove first that it has this server's key: its request is
    /// carried out only then.
    pub(super) fn authenticate(
        &self,
        session: &mut Session,
        stream: u16,
        caller: &Visitor,
    ) -> Result<Rights, Error> {
        let (ours, theirs) = match caller {
            Visitor::Accepted(rights) => return Ok(rights.clone()),
            Visitor::Unproven { ours, theirs } => (*ours, *theirs),
        };
        let Some(keys) = &self.options.keys else {
            return self.refuse(session, stream, stranger()).map(|()| Rights::default());
        };
        let nonce = loopback::nonce().map_err(|error| Error::io("get", "random numbers", error))?;
        session.message(stream, &Message::Prove { nonce }.encode())?;
        session.flush()?;
        let shown = loop {
            match session.receive()? {
                SessionEvent::Message { bytes, .. } => match Message::decode(&bytes)? {
                    Message::Proof { nonce, proof } => break (nonce, proof),
                    _ => return Err(Violation::Unexpected("a message before its proof").into()),
                },
                // A client that lists has perhaps finished its side of the stream already.
                SessionEvent::Finished { .. } | SessionEvent::Works(_) => {}
                SessionEvent::Bye { code, reason } => return Err(Error::goodbye(code, reason)),
                _ => return Err(Violation::Unexpected("a frame before its proof").into()),
            }
        };
        let expected = loopback::proof(&keys.identity, &nonce, &shown.0);
        // blake3 compares in constant time.
        let has_key = blake3::Hash::from_bytes(expected) == blake3::Hash::from_bytes(shown.1);
        if has_key && loopback::is_same_user(ours, theirs) {
            return Ok(Rights::default());
        }
        tracing::info!(%theirs, has_key, "a client over loopback is not the same user");
        self.refuse(session, stream, stranger()).map(|()| Rights::default())
    }

    /// The directory that a client sees as its root, and how many bytes it may still put there.
    pub(super) fn world(&self, rights: &Rights) -> Result<(Root, Option<u64>), Fault> {
        let path = &rights.directory;
        let fault = |error| Fault::new("open the directory of this client", path, error);
        let root = self.root.below(path).map_err(fault)?;
        let left = rights.quota.map(|quota| quota.saturating_sub(usage(&root)));
        Ok((root, left))
    }
}

/// Refuses a request that the client's rights do not include.
pub(super) fn check(operation: &Operation, rights: &Rights) -> Result<(), Fault> {
    let (allowed, what) = match operation {
        Operation::Put(Put { sink: Some(name), .. }) | Operation::Get(Get { source: Some(name), .. }) => {
            (rights.allows(name), "use this sink or source")
        }
        Operation::Put(_) => (rights.write, "write here"),
        Operation::Get(_) | Operation::List { .. } => (rights.read, "read here"),
        // Only the client that made the transfer knows its id.
        Operation::Ask { .. } => return Ok(()),
    };
    if allowed { Ok(()) } else { Err(Fault(Refusal::Forbidden, format!("this key may not {what}").into())) }
}

/// The bytes of all files below a directory. Files that cannot be read do not count.
fn usage(root: &Root) -> u64 {
    let mut bytes = 0u64;
    let mut walk = Walk::new(root, RelPath::root(), Patterns::none(), Selection::default());
    while let Some(step) = walk.next() {
        if let WalkedEntry::Entry(entry, _) = step {
            bytes = bytes.saturating_add(entry.size.unwrap_or(0));
        }
    }
    bytes
}

fn stranger() -> Fault {
    let told = "it serves nobody but its own user without encryption, also over loopback";
    Fault(Refusal::Forbidden, Reason::from(told).with(Remedy::Encrypt))
}
