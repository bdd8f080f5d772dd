//! What can be seen of the program without touching it: `/proc`, and what a socket says of itself.

mod proc;
mod wanted;

pub(super) use proc::{
    Open, census, census_of, is_alone, is_epoll, may_be_in, names, open, process_of, processes, quiet, which,
};
pub(super) use wanted::{Wanted, is, socket};
