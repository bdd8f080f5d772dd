//! File transfer whose both ends know the truth about the last byte.
//!
//! [`session`] is the library beneath, for other programs too: framed streams in both directions over one
//! connection, with credit, deadlines and an orderly end through [`linger`]. [`Server`] shares a directory over it,
//! [`Client`] puts, gets and lists. The receiver verifies what arrived with BLAKE3,
//! makes it durable, renames it into place and only then sends a receipt, which the sender checks against
//! what it read. `docs/transfer-protocol.md` specifies the wire.
//!
//! Linux only: it stands on `openat2(2)`, `renameat2(2)` and `splice(2)`.

mod account;
mod alive;
mod assistant;
mod bundle;
mod cancel;
mod chmod;
mod claim;
mod client;
mod conduit;
mod confine;
mod delivery;
mod disk;
mod driver;
mod error;
mod fault;
mod hash;
mod helper;
mod host;
mod identity;
#[allow(unsafe_code)]
mod kernel;
mod launch;
mod limit;
mod loopback;
mod machine;
mod message;
mod options;
mod outgoing;
mod page_buffer;
mod pair;
mod path;
mod peers;
mod progress;
mod reason;
mod receipt;
mod receive;
mod remote;
mod rights;
mod root;
mod selection;
mod send;
mod serve;
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub mod simulation;
mod sink;
mod state;
mod store;
mod sum;
mod tls;
mod transport;
mod unix;
mod walk;
mod wire;
mod zeros;

/// Framed streams over one connection: the library beneath the transfer.
pub mod session {
    pub use crate::cancel::Cancel;
    pub use crate::driver::{Deadlines, Phase, PhaseWork, Session, SessionEvent};
    pub use crate::machine::{Role, SessionLimits};
    pub use crate::transport::{Plain, Transport};
    pub use crate::wire::{MAX_DATA, MAX_MESSAGE, VERSION, Violation};
}

pub use chmod::{BadChmod, Chmod};
pub use client::{Client, linked_directory, scan};
pub use confine::{confine, confine_writes};
pub use error::Error;
pub use hash::{BLOCK, Hash, hex, unhex};
pub use identity::{Identity, Keyring, KnownKey, PublicKey, fingerprint};
pub use message::{Durability, IfExists, Item, Kind, Refusal, Time};
pub use options::{ClientOptions, GetOptions, Input, Output, PutOptions, Retry, Security};
pub use path::{BadPath, RelPath};
pub use peers::Change;
pub use progress::{Confirmation, ItemVerdict, Progress, SignedAccount, Summary};
pub use reason::{Reason, Remedy};
pub use receipt::{Checked, ReceiptLine, Receipts, Verified, verify_receipt};
pub use remote::{Destination, PORT};
pub use rights::Rights;
pub use selection::{LinkMode, Selection};
pub use serve::{PeerAddress, Served, Server, Serving, ShareEnding, ShareOptions, is_local};
pub use sink::{Desktop, Displays, StreamCommand, StreamsConfig};
pub use tls::{AskCode, ClientKeys, ServerKeys};
pub use unix::PathListener;
pub use walk::Patterns;
