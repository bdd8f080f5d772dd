//! Responders, and gateways written here.

#[path = "../common/mod.rs"]
mod common;

mod full_duplex;
mod hostile;
mod idle;
mod journal;
mod leavers;
mod slow;
mod stop;
mod together;
