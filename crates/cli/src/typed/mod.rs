//! Typed text as values: one parser for each kind, whichever option it belongs to.

mod address;
mod duration;
mod names;
mod process;
mod rate;
mod target;

pub(crate) use address::{HostPort, ListenOn, connect_to, fastcgi, host_and_rest, listen_on, port};
pub(crate) use duration::{positive, up_to};
pub(crate) use linger_lab::{Bytes, duration};
pub(crate) use names::{Names, clients, endings, links, links_and_files, one_of, peers};
pub(crate) use process::{ServerProcess, server_process};
pub(crate) use rate::{Rate, rate};
pub(crate) use target::target;
