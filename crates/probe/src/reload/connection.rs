//! One connection of a client of the load, in HTTP/1.1 and the like, or in HTTP/2.

use std::io;
use std::time::Instant;

use crate::dialect::RequestShape;
use crate::http2::{Exchange, Gate};
use crate::often::STUCK;
use crate::prober::Prober;
use crate::seen::TrialResult;
use crate::trial::{Trial, Until};

/// On which the plain page is asked for, once or again and again.
pub(super) struct LoadConnection<'p> {
    prober: &'p Prober,
    spoken: Spoken<'p>,
}

enum Spoken<'p> {
    /// A response behind the other.
    Bytes(Box<Trial<'p>>),
    /// HTTP/2.
    Streams(Box<Exchange<'p>>),
}

impl<'p> LoadConnection<'p> {
    /// Connects. If `small`, most of a response waits in the server until it is read.
    pub(super) fn open(prober: &'p Prober, small: bool) -> io::Result<Self> {
        let spoken = if prober.config.http2 {
            let gate = if small { Gate::Head } else { Gate::Open };
            Spoken::Streams(Box::new(Exchange::open(prober, small, gate)?))
        } else {
            Spoken::Bytes(Box::new(Trial::open(prober, small)?))
        };
        Ok(Self { prober, spoken })
    }

    /// Makes the first request.
    pub(super) fn ask(&mut self, ask: RequestShape) -> io::Result<()> {
        match &mut self.spoken {
            Spoken::Bytes(trial) => {
                trial.queue(&self.prober.dialect.request(ask));
                trial.send(self.prober.config.patience);
            }
            Spoken::Streams(exchange) => {
                exchange.request(ask)?;
                exchange.send(STUCK);
            }
        }
        Ok(())
    }

    /// Makes another one.
    pub(super) fn again(&mut self, ask: RequestShape) -> io::Result<()> {
        match &mut self.spoken {
            Spoken::Bytes(trial) => {
                trial.again(&self.prober.dialect.request(ask));
                trial.send(self.prober.config.patience);
            }
            Spoken::Streams(exchange) => {
                exchange.again(ask)?;
                exchange.send(STUCK);
            }
        }
        Ok(())
    }

    /// Waits until the response begins, and leaves it unread. False if it does not.
    pub(super) fn begins(&mut self) -> bool {
        let holding = self.prober.holding();
        match &mut self.spoken {
            Spoken::Bytes(trial) => trial.answer_begins(holding),
            Spoken::Streams(exchange) => {
                exchange.run(holding, |exchange| exchange.has_begun() || exchange.is_over());
                exchange.has_begun()
            }
        }
    }

    /// Reads to the response's end.
    pub(super) fn read(&mut self) {
        let patience = self.prober.config.patience;
        match &mut self.spoken {
            Spoken::Bytes(trial) => trial.read(Until::Complete, patience),
            Spoken::Streams(exchange) => {
                exchange.read_to(Gate::Open);
                exchange.run(patience, Exchange::is_over);
            }
        }
    }

    /// Waits a moment for what follows a complete response.
    pub(super) fn settle(&mut self) {
        match &mut self.spoken {
            Spoken::Bytes(trial) if trial.is_complete() => trial.read(Until::Closed, self.prober.moment()),
            Spoken::Bytes(_) => {}
            Spoken::Streams(exchange) => exchange.settle(),
        }
    }

    /// Whether a complete response came, and another request may follow it.
    pub(super) fn takes_more(&mut self) -> bool {
        match &mut self.spoken {
            Spoken::Bytes(trial) => trial.is_complete() && !trial.has_ended() && !trial.is_last(),
            Spoken::Streams(exchange) => exchange.takes_more(),
        }
    }

    /// Whether the connection has ended while nothing was asked, or the server has said that it takes no more.
    pub(super) fn has_left(&mut self) -> bool {
        match &mut self.spoken {
            Spoken::Bytes(trial) => trial.idle_end(Instant::now()).is_some(),
            Spoken::Streams(exchange) => !exchange.takes_more(),
        }
    }

    /// HTTP/2: whether the server has said that it did not work on the request.
    pub(super) fn is_returned(&self) -> bool {
        match &self.spoken {
            Spoken::Bytes(_) => false,
            Spoken::Streams(exchange) => exchange.is_returned(),
        }
    }

    pub(super) fn result(&mut self) -> TrialResult {
        match &mut self.spoken {
            Spoken::Bytes(trial) => trial.result(),
            Spoken::Streams(exchange) => exchange.result(),
        }
    }
}
