//! The values in messages that programs see, too: kinds of entries, reasons, durability, times.

use linger_untrusted::Untrusted;

/// How much the receiver does before it says that a file is there.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Durability {
    /// The content was handed to a command or written to a pipe. What became of it there is not known.
    Handed,
    /// The file is in the kernel's memory: it survives the receiver's process, not a power cut.
    Memory,
    /// `fsync` of the file before the rename and of its directory after it.
    #[default]
    #[serde(rename = "fsync", alias = "disk")]
    Disk,
    /// `syncfs` of the whole file system before the rename, and `fsync` of the directory after it. Only receipts say so:
    /// whoever asks for [`Disk`](Self::Disk) leaves it to the receiver.
    #[serde(rename = "syncfs")]
    FileSystem,
}

impl Durability {
    /// The number on the wire.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Memory => 0,
            Self::Disk => 1,
            Self::Handed => 2,
            Self::FileSystem => 3,
        }
    }
}

/// Why one file or a whole request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// The final name exists, and nobody asked to replace it.
    Exists,
    /// No such file or directory.
    NotFound,
    /// The name or the link is not allowed (it would lead outside, or is no valid name), or this client or the process has no
    /// permission.
    Forbidden,
    /// The receiver shares for reading only, or the file system is mounted so.
    ReadOnly,
    /// The disk or the quota is full, or a size limit was reached.
    NoSpace,
    /// The content that arrived differs from the content that was sent.
    Corrupt,
    /// The source could not be read, or changed while it was read.
    Source,
    /// Another session receives the same file, a sink's command still runs, or there are too many requests; worth trying
    /// again.
    Busy,
    /// A sink's or source's command failed, or nobody knows whether it ran.
    Command,
    /// Nobody wanted it: a rule that was asked for leaves it out, and that is no failure.
    Skipped,
    /// Anything else that the system said.
    Other,
}

/// What is done with a file whose name is taken at the receiver. The same content there is confirmed in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IfExists {
    /// The file is not delivered.
    #[default]
    Fail,
    /// The new content takes its place, atomically.
    Replace,
    /// What is there stays, and that is no failure.
    Skip,
    /// The new content gets another name: `name (1).ext`.
    KeepBoth,
}

/// Kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link. Only a link that stays inside the tree is transferred.
    Link,
    /// Bytes of unknown length. In a listing, also anything else, such as a device or a socket.
    Pipe,
}

impl Kind {
    /// The number on the wire.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::File => 0,
            Self::Directory => 1,
            Self::Link => 2,
            Self::Pipe => 3,
        }
    }
}

/// Seconds and nanoseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(clippy::exhaustive_structs)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: u32,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// The name, one component.
    pub name: Untrusted,
    /// What it is.
    pub kind: Kind,
    /// The length of a file in bytes; 0 for anything else.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last modification.
    pub mtime: Time,
}
