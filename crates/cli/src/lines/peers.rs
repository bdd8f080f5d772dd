//! Lines of `linger peers`.

use linger_transfer::{KnownKey, fingerprint};
use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;

/// A machine that may connect.
#[derive(Serialize, JsonSchema)]
pub(crate) struct KnownPeer {
    /// Its name.
    name: String,
    /// Its key, `ed25519:` and 64 hexadecimal digits.
    key: String,
    /// Whether it may get and list.
    read: bool,
    /// Whether it may put.
    write: bool,
    /// The sinks and sources that it may use; null is all.
    sinks: Option<Vec<String>>,
    /// The directory that it sees; `.` is all that is shared.
    directory: String,
    /// The bytes up to which it may fill its directory; null is no limit.
    quota_bytes: Option<u64>,
}

impl LineBody for KnownPeer {
    const KIND: &'static str = "peer";
}

impl From<&KnownKey> for KnownPeer {
    fn from(peer: &KnownKey) -> Self {
        let rights = &peer.rights;
        Self {
            name: peer.name.clone(),
            key: fingerprint(&peer.key),
            read: rights.read,
            write: rights.write,
            sinks: rights.sinks.clone(),
            directory: rights.directory.to_string(),
            quota_bytes: rights.quota,
        }
    }
}

/// This machine's own key.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OwnKey {
    /// `ed25519:` and 64 hexadecimal digits.
    pub(crate) key: String,
}

impl LineBody for OwnKey {
    const KIND: &'static str = "own-key";
}
