//! Runs the driver on threads against a gateway in memory.

use std::io::{self, IoSlice, Read, Write};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linger::Event;

use super::gate::{Doorbell, Gate, Rested};
use super::wire::{Awaited, Ready, Wire};
use super::{Config, Request, Response, serve};
use crate::conversation::End;
use crate::lobby::Lobby;
use crate::transcripts::memory::Gateway;
use crate::transcripts::plan::{Act, Done, INPUT_IDLE, REASON, pattern};

impl Wire for Arc<Gateway> {
    fn receive(&self, to: &mut [u8]) -> io::Result<usize> {
        Gateway::receive(self, to, None)
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Gateway::send(self, parts)
    }

    fn await_input(&self, until: Option<Instant>) -> io::Result<Awaited> {
        Ok(match Gateway::await_input(self, until) {
            Some(true) => Awaited::Input,
            Some(false) => Awaited::Wake,
            None => Awaited::Time,
        })
    }

    fn await_room(&self, _: Duration, _: bool) -> io::Result<Ready> {
        Ok(Ready::Output)
    }

    fn wake(&self) {
        Gateway::wake(self);
    }

    fn unacknowledged(&self) -> Event {
        Event::Unacknowledged { bytes: 0, fin: true }
    }

    fn rest(&self, until: Option<Instant>, _: bool, _: &Doorbell) -> io::Result<Rested> {
        // A wake is late news of a handler that has ended.
        Ok(Gateway::await_input(self, until).map_or(Rested::Time, |_| Rested::Input))
    }
}

/// Holds a conversation on this thread, and on the handlers' threads if they have threads of their own.
pub(crate) fn converse(gateway: &Arc<Gateway>) -> End {
    let config =
        Config { multiplex: gateway.script.multiplexed, input_idle: INPUT_IDLE, ..Config::default() };
    let handler = |request: &mut Request, response: &mut Response| handle(gateway, request, response);
    let gate = Gate::new(1, Lobby::new(1));
    serve::converse(gateway.clone(), &config, &handler, &mut gate.enter())
        .expect("nobody keeps the connection")
        .1
}

/// A handler that does what the plan of its request says, in blocking calls.
pub(crate) fn handle(gateway: &Gateway, request: &mut Request, response: &mut Response) -> io::Result<u32> {
    let index = gateway.start(request.params());
    let mut read = 0;
    let acted = act(gateway.acts(index), &mut read, request, response);
    let done = gateway.note(index, read, &acted);
    if gateway.is_last(index) {
        gateway.await_all();
    }
    acted?;
    match done {
        Done::Status(status) => Ok(status),
        Done::Error => Err(io::Error::other(REASON)),
        // A panic that does not call the panic hook, which would print a message for each of a hundred
        // thousand requests.
        Done::Panic => resume_unwind(Box::new(())),
    }
}

fn act(acts: &[Act], read: &mut usize, request: &mut Request, response: &mut Response) -> io::Result<()> {
    let mut written = 0;
    for act in acts {
        match act {
            Act::ReadAll => take(request, usize::MAX, read)?,
            Act::Read(most) => take(request, *most, read)?,
            Act::ReadData => take(&mut request.data(), usize::MAX, &mut 0)?,
            Act::Write(bytes) => {
                response.write_all(&pattern(written, *bytes))?;
                written += bytes;
            }
            Act::Flush => response.flush()?,
            Act::Log(bytes) => response.log(std::str::from_utf8(&pattern(0, *bytes)).expect("small"))?,
        }
    }
    Ok(())
}

fn take(from: &mut impl Read, most: usize, read: &mut usize) -> io::Result<()> {
    let mut buffer = [0; 500];
    let mut left = most;
    while left > 0 {
        let room = left.min(buffer.len());
        let got = from.read(&mut buffer[..room])?;
        if got == 0 {
            break;
        }
        *read += got;
        left -= got;
    }
    Ok(())
}
