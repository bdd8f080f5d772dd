//! Responders, and gateways written here.

#[path = "../common/mod.rs"]
mod common;

mod full_duplex;
mod leavers;
mod stop;
mod together;
