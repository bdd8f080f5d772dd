//! Both ends of a transfer, in one process or in two.

#[path = "../common/mod.rs"]
mod common;

mod everyday;
mod independent;
mod loopback;
mod mounts;
mod receipts;
mod refused;
mod resets;
mod sessions;
mod sinks;
mod stalls;
mod strangers;
mod tls;
mod transfer;
mod truth;
