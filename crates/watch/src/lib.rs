//! Every TCP reset of a Linux host, live: who, to whom, why, and which process closed.
//!
//! The kernel's tracepoints say why it sends each reset; [`Watcher`] reads them through perf events, with no
//! compiled BPF and no kprobe, and names causes as the crate `linger-why` does. Three further sources complete the
//! picture: a netlink message for each destroyed socket, with the bytes in its queues; the socket list, polled for accept
//! queues and unread bytes; and the kernel's counters, which show how many events were missed.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod access;
mod addresses;
mod apart;
mod blind;
mod bytes;
mod cgroup;
mod closers;
mod counted;
mod diagnose;
mod ends_index;
mod events;
mod exits;
#[cfg(feature = "export")]
pub mod export;
mod held;
mod interval;
#[allow(unsafe_code)]
mod kernel;
mod live_reset;
mod namespace_id;
mod namespaces;
mod needs;
mod notice;
mod opener;
mod overflow;
mod own;
mod places;
mod privilege;
mod privileged;
mod process;
mod recent;
mod recorded;
mod recorder;
mod resets;
mod sockets;
mod tcp_state;
#[cfg(feature = "view")]
pub mod view;
mod watcher;

pub use apart::Apart;
pub use blind::Blind;
pub use bytes::{Bytes, Unknown};
pub use cgroup::{KnownPlace, Workload};
pub use counted::{Counted, CountedPlace};
pub use events::CannotWatch;
pub use live_reset::{AcceptQueue, Direction, LiveReset, ProcessRole};
pub use namespace_id::NamespaceId;
pub use needs::Needs;
pub use notice::{Filter, FurtherResets, Notice, OwnClient, Warning};
pub use opener::Opener;
pub use privilege::{
    Confinement, confine, confine_client, give_up_all_capabilities, give_up_capabilities, is_proc_hidden,
};
pub use process::NamedProcess;
pub use recorded::{Agreement, Recorded, WireVerdict};
pub use recorder::{
    CannotRecord, IndexedReset, KernelVerdict, NotRecorded, PacketTap, RecordCounts, RecordOptions, Recorder,
};
pub use watcher::Watcher;
