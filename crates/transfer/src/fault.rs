//! One file or request that cannot be served, though the session goes on.

use std::fmt::Display;
use std::io;

use rustix::io::Errno;

use crate::message::Refusal;
use crate::reason::{Reason, Remedy};

/// Why the file or request cannot be served: a class for programs, and a reason for people.
#[derive(Clone, Debug)]
pub(crate) struct Fault(pub(crate) Refusal, pub(crate) Reason);

impl Fault {
    /// A system call failed on `what`.
    pub(crate) fn new(doing: &str, what: impl Display, error: Errno) -> Self {
        let error = io::Error::from(error);
        Self::io(format!("cannot {doing} {what}: {error}"), &error)
    }

    /// Whether nobody knows if what was asked for has been done.
    pub(crate) fn is_open(&self) -> bool {
        self.1.remedy() == Some(&Remedy::LookBeforeSending)
    }

    /// An I/O error, with the sentence that tells it.
    pub(crate) fn io(told: String, error: &io::Error) -> Self {
        Self(refusal(error), Reason::from(told).with(remedy(error)))
    }
}

/// The remedy for an error of the file system.
fn remedy(error: &io::Error) -> Option<Remedy> {
    use io::ErrorKind as E;
    Some(match error.kind() {
        E::NotFound => Remedy::ListFirst,
        E::NotADirectory => Remedy::FileInTheWay,
        E::PermissionDenied => Remedy::CheckPermissions,
        E::ReadOnlyFilesystem => Remedy::MountWritable,
        E::StorageFull | E::QuotaExceeded => Remedy::MakeRoom,
        E::FileTooLarge => Remedy::RaiseFileSize,
        E::InvalidFilename => Remedy::ShortenName,
        _ => return None,
    })
}

/// The class of an I/O error, as it is sent to the peer.
pub(crate) fn refusal(error: &io::Error) -> Refusal {
    use io::ErrorKind as E;
    match error.kind() {
        E::AlreadyExists => Refusal::Exists,
        E::NotFound => Refusal::NotFound,
        E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Refusal::NoSpace,
        E::ReadOnlyFilesystem => Refusal::ReadOnly,
        E::CrossesDevices | E::PermissionDenied | E::NotADirectory | E::IsADirectory | E::InvalidFilename => {
            Refusal::Forbidden
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Refusal::Forbidden,
        _ => Refusal::Other,
    }
}
