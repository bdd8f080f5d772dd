//! The wait of a request for its first byte, while idle connections may hold the worker that it needs.

use std::future::Future;
use std::io;
use std::pin::pin;

use ::tokio::time::timeout;

use crate::gateway::idle::{Hunger, Idle};

/// A request that waits, and the connections that may be given up for it.
pub(super) struct Appetite<'a, S> {
    idle: &'a Idle<S>,
    hunger: Option<Hunger>,
}

impl<'a, S> Appetite<'a, S> {
    pub(super) fn new(idle: &'a Idle<S>, may_starve: bool) -> Self {
        Self { idle, hunger: may_starve.then(Hunger::new) }
    }

    /// Reads, and gives idle connections up while nothing comes.
    pub(super) async fn read(
        &mut self,
        reading: impl Future<Output = io::Result<usize>>,
    ) -> io::Result<usize> {
        let mut reading = pin!(reading);
        while let Some(hunger) = &mut self.hunger {
            match timeout(hunger.left(), reading.as_mut()).await {
                Ok(read) => {
                    self.is_fed();
                    return read;
                }
                Err(_) => hunger.bite(self.idle),
            }
        }
        reading.await
    }

    fn is_fed(&mut self) {
        if let Some(hunger) = self.hunger.take() {
            hunger.end(self.idle);
        }
    }
}

impl<S> Drop for Appetite<'_, S> {
    fn drop(&mut self) {
        self.is_fed();
    }
}
