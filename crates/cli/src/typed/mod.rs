//! What was typed, as values: one parser for each kind, whichever option it belongs to.

mod address;
mod duration;
mod names;
mod rate;
mod target;

pub(crate) use address::{Address, connect_to, fastcgi, host_and_rest, listen_on, listen_on_fastcgi, port};
pub(crate) use duration::{duration, positive, up_to};
pub(crate) use linger_lab::Bytes;
pub(crate) use names::{Names, endings, links, one_of, peers};
pub(crate) use rate::{Rate, rate};
pub(crate) use target::target;
