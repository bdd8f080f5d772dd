//! What arrives: from bytes to frames, from frames to events.

use std::io::ErrorKind;
use std::time::Instant;

use rustix::event::PollFlags;

use super::{BUFFER, DIRECT, GLANCE, Session, SessionEvent, eof};
use crate::error::Error;
use crate::host;
use crate::machine::Disposal;
use crate::wire::{self, FrameKind, HEADER, Header, PREFACE, read_reason};

impl Session {
    pub(super) fn parse_waits(&self) -> bool {
        self.filled - self.parsed >= if self.preface_read { HEADER } else { PREFACE } && self.whole_frame()
    }

    pub(super) fn whole_frame(&self) -> bool {
        let waiting = &self.input[self.parsed..self.filled];
        match waiting.first_chunk::<HEADER>().map(|bytes| Header::decode(*bytes)) {
            Some(Ok(header)) if self.preface_read && header.kind != FrameKind::Data => {
                waiting.len() >= HEADER + header.length as usize
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Takes one frame from the buffer. Returns the event that the frame is, or `None` if no event is complete.
    pub(super) fn parse(&mut self) -> Result<Option<SessionEvent>, Error> {
        loop {
            let waiting = &self.input[self.parsed..self.filled];
            if !self.preface_read {
                let Some(bytes) = waiting.first_chunk::<PREFACE>() else { return Ok(None) };
                self.version = wire::read_preface(*bytes)?;
                self.parsed += PREFACE;
                self.preface_read = true;
                continue;
            }
            let Some(bytes) = waiting.first_chunk::<HEADER>() else { return Ok(None) };
            let header = Header::decode(*bytes)?;
            let length = header.length as usize;
            let is_data = header.kind == FrameKind::Data;
            if !is_data && waiting.len() < HEADER + length {
                return Ok(None);
            }
            if !is_data {
                wire::check_payload(*bytes, &waiting[HEADER..HEADER + length])?;
            }
            let verdict = self.machine.arrived(header)?;
            let payload = if is_data { Vec::new() } else { waiting[HEADER..HEADER + length].to_vec() };
            self.parsed += HEADER + payload.len();
            let stream = header.stream;
            self.frame_came(header.kind, &payload)?;
            if is_data {
                self.bulk = length >= DIRECT;
                (self.payload, self.payload_stream) = (length, stream);
                if verdict == Disposal::Drop {
                    self.drop_payload()?;
                    continue;
                }
                return Ok(Some(SessionEvent::Data { stream, length }));
            }
            if verdict == Disposal::Drop {
                continue;
            }
            match header.kind {
                FrameKind::Open => return Ok(Some(SessionEvent::Opened { stream, request: payload })),
                FrameKind::Message => {
                    self.give_credit(stream, length);
                    return Ok(Some(SessionEvent::Message { stream, bytes: payload }));
                }
                FrameKind::Finish => return Ok(Some(SessionEvent::Finished { stream })),
                FrameKind::Cancel => {
                    let (_, reason) = read_reason(&payload)?;
                    return Ok(Some(SessionEvent::Cancelled { stream, reason }));
                }
                FrameKind::Bye => {
                    let (code, reason) = read_reason(&payload)?;
                    return Ok(Some(SessionEvent::Bye { code, reason }));
                }
                FrameKind::Credit => {
                    let bytes = payload.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                    self.machine.credited(stream, bytes)?;
                }
                // Bounded: a peer that only pings and never reads must not fill our memory.
                FrameKind::Ping if self.aside().len() < BUFFER / 2 => self.aside().extend(
                    Header { kind: FrameKind::Pong, stream: 0, length: 8 }
                        .encode(&payload)
                        .into_iter()
                        .chain(payload),
                ),
                FrameKind::Work => {
                    if let Some(work) = self.peers_work {
                        return Ok(Some(SessionEvent::Works(work)));
                    }
                }
                FrameKind::Ping | FrameKind::Pong | FrameKind::Data => {}
            }
        }
    }

    /// Reads once into the buffer. Returns false if nothing has arrived.
    pub(super) fn fill(&mut self) -> Result<bool, Error> {
        if self.parsed == self.filled {
            (self.parsed, self.filled) = (0, 0);
        } else if self.filled == self.input.len() || self.parsed > BUFFER / 2 {
            self.input.copy_within(self.parsed..self.filled, 0);
            (self.parsed, self.filled) = (0, self.filled - self.parsed);
        }
        let end = if self.bulk { (self.filled + GLANCE).min(BUFFER) } else { BUFFER };
        match self.transport.read(&mut self.input[self.filled..end]) {
            Ok(0) => Err(eof()),
            Ok(bytes) => {
                self.filled += bytes;
                self.received += bytes as u64;
                self.heard = host::now();
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(Error::Cut(error)),
        }
    }

    /// Reads what has arrived into the inbox. Returns false if nothing has arrived.
    pub(super) fn service(&mut self) -> Result<bool, Error> {
        let mut any = false;
        while self.payload == 0 && self.inbox_has_room() {
            match self.parse()? {
                Some(SessionEvent::Data { stream, length }) => {
                    // Credit is granted once the caller has taken these bytes.
                    let mut bytes = vec![0; length];
                    self.payload = 0;
                    self.read_ahead(&mut bytes)?;
                    self.inbox.push_back((SessionEvent::Data { stream, length }, bytes));
                    any = true;
                }
                Some(event) => {
                    self.keep(event);
                    any = true;
                }
                None if self.fill()? => any = true,
                None => break,
            }
        }
        Ok(any)
    }

    pub(super) fn read_ahead(&mut self, into: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < into.len() {
            if self.parsed == self.filled && !self.fill()? {
                self.wait(PollFlags::IN, true)?;
                continue;
            }
            let bytes = (self.filled - self.parsed).min(into.len() - done);
            into[done..done + bytes].copy_from_slice(&self.input[self.parsed..self.parsed + bytes]);
            self.parsed += bytes;
            done += bytes;
        }
        Ok(())
    }

    /// Drains what the caller did not take of the current payload.
    pub(super) fn drop_payload(&mut self) -> Result<(), Error> {
        if self.payload == 0 {
            return Ok(());
        }
        let mut scratch = [0; 8 << 10];
        while self.payload > 0 {
            self.read_data(&mut scratch)?;
        }
        Ok(())
    }

    pub(super) fn read_last_words(&mut self) {
        while self.payload == 0 && self.inbox_has_room() {
            match self.parse() {
                Ok(Some(event)) => self.keep(event),
                Ok(None) if matches!(self.fill(), Ok(true)) => {}
                _ => return,
            }
        }
    }

    /// Returns the next event that arrived before the connection was lost and that was not taken yet.
    pub fn last_words(&mut self) -> Option<SessionEvent> {
        self.payload = 0;
        self.ahead.clear();
        self.inbox.pop_front().map(|(event, _)| event)
    }

    pub(super) fn keep(&mut self, event: SessionEvent) {
        self.inbox.push_back((event, Vec::new()));
    }

    pub(super) fn inbox_has_room(&self) -> bool {
        // Credit bounds payload bytes; this bounds the count of frames without payload.
        self.inbox.len() < 64 << 10
    }
}
