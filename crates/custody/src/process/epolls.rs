//! The epolls of a process, for connections whose registration was not seen.

use super::table::Table;
use super::word::Epolls;
use crate::sync::Relaxed;

impl<const N: usize> Table<N> {
    /// The program has made an epoll. If the table has no room, the epoll is not recorded.
    pub fn made_epoll(&self, epoll: i32) {
        for known in &self.epolls {
            let place = known.load(Relaxed);
            let free = || known.compare_exchange(0, epoll + 1, Relaxed, Relaxed).is_ok();
            if place == epoll + 1 || (place == 0 && free()) {
                return;
            }
        }
    }

    /// The epolls that may watch an fd: one if it is known alone, otherwise all that were recorded.
    pub fn each_epoll(&self, epolls: Epolls) -> impl Iterator<Item = i32> + '_ {
        let one = if let Epolls::One(epoll) = epolls { Some(epoll) } else { None };
        let all = if one.is_none() { &self.epolls[..] } else { &[] };
        let known = all.iter().map(|known| known.load(Relaxed)).take_while(|known| *known != 0);
        one.into_iter().chain(known.map(|known| known - 1))
    }
}
