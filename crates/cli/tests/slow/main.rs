//! Verbs whose trials, transfers, captures or signals take their time.

#[path = "../common/browser.rs"]
mod browser;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/wire.rs"]
mod wire;

mod bin_path;
mod campaign;
mod exec;
mod full_disk;
mod hostile;
mod hunt;
mod interrupt;
mod lab;
mod leftovers;
mod many;
mod memory;
mod network;
mod page;
mod queue;
mod receipts;
mod refusals;
mod run;
mod story;
mod transfer;
