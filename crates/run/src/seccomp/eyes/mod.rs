//! Read-only observation of the program: `/proc`, and socket options.

mod kin;
mod wanted;

pub(super) use crate::proc::{
    Open, census, census_of, is_alone, is_epoll, kind, may_be_in, names, open, process_of, quiet, text, which,
};
pub(super) use crate::socket::{OpenBefore, discard, half_closed, socket, socket_in};
pub(super) use kin::{Kin, census_among};
pub(super) use wanted::{Wanted, is};
