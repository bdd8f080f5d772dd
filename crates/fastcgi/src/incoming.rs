//! The application's side of a connection, without its socket: bytes in, requests and their bodies out.
//!
//! Content is handed on as it comes, borrowed from the input; only parameters are gathered, within [`Limits`]. Answers to
//! management records are put into [`Incoming::replies`].

use crate::error::{Fault, ProtocolError};
use crate::limits::Limits;
use crate::params::{Params, push_pair};
use crate::record::{self, Decoder, EndRequest, Header, Part, ProtocolStatus, RecordType, Role};

/// A request with complete parameters. Its body follows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Start {
    /// The gateway's id for the request, unique among the requests that run on the connection.
    pub id: u16,
    /// The role in which the application is asked to act.
    pub role: Role,
    /// Whether the gateway wants to use the connection again.
    pub keep_conn: bool,
    /// The request's environment.
    pub params: Params,
}

/// What the gateway has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received<'a> {
    /// A request is to be served.
    Start(Start),
    /// Some of a request's body.
    Stdin(u16, &'a [u8]),
    /// The body's end.
    StdinEnd(u16),
    /// Some of the file that a Filter works on.
    Data(u16, &'a [u8]),
    /// The end of the file that a Filter works on.
    DataEnd(u16),
    /// The gateway wants no answer any more; it still wants an END_REQUEST.
    Abort(u16),
    /// This many bytes came for a request that has ended.
    Discarded(usize),
}

/// What the connection tells a gateway that asks with GET_VALUES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capacity {
    /// `FCGI_MAX_CONNS`.
    pub connections: usize,
    /// `FCGI_MAX_REQS`.
    pub requests: usize,
    /// `FCGI_MPXS_CONNS`: whether one connection may carry several requests at once.
    pub multiplex: bool,
}

impl Capacity {
    /// Says how much an application takes.
    pub fn new(connections: usize, requests: usize, multiplex: bool) -> Self {
        Self { connections, requests, multiplex }
    }
}

/// Most bytes of content in GET_VALUES. A request for the three known names has 48: 42 of names, and two lengths of one byte
/// for each.
const MOST_VALUES: usize = 4096;

#[derive(Debug)]
struct Active {
    id: u16,
    role: Role,
    keep_conn: bool,
    /// Bytes of parameters that are held for the request, by this or by its handler.
    params: usize,
    stage: Stage,
    stdin_open: bool,
    data_open: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Params(Vec<u8>),
    Running,
    /// The request was answered before the gateway had sent all of it: the rest is discarded.
    Draining,
}

/// The state of one connection from a gateway.
#[derive(Debug)]
pub struct Incoming {
    decoder: Decoder,
    limits: Limits,
    capacity: Capacity,
    active: Vec<Active>,
    /// The content of a record that is needed whole.
    whole: Vec<u8>,
    replies: Vec<u8>,
    /// The request whose record is being received, or was last.
    record_id: u16,
    /// How many records have begun.
    records: u64,
    refuses: bool,
    /// A request was refused or aborted before a handler had it, and its gateway does not want to use the connection again.
    is_last: bool,
}

impl Incoming {
    /// Starts at the beginning of a connection.
    pub fn new(limits: Limits, capacity: Capacity) -> Self {
        Self {
            decoder: Decoder::new(),
            limits,
            capacity,
            active: Vec::new(),
            whole: Vec::new(),
            replies: Vec::new(),
            record_id: 0,
            records: 0,
            refuses: false,
            is_last: false,
        }
    }

    /// Takes the next event off the front of `input`. Returns `None` once `input` is used up.
    ///
    /// # Errors
    /// Returns a violation after which the rest of the connection cannot be read. Running requests may still be
    /// answered.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Received<'a>>, ProtocolError> {
        while let Some(part) = self.decoder.next(input)? {
            let event = match part {
                Part::Begin(header) => self.begin(header)?,
                Part::Content(header, bytes) => self.content(header, bytes)?,
                Part::End(header) => self.end(header)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Bytes to be sent to the gateway before anything else. The sender clears the buffer.
    pub fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// Notes that a request is answered: its END_REQUEST is about to be sent. Returns whether the rest of its body is still to
    /// come.
    pub fn finish(&mut self, id: u16) -> bool {
        let Some(at) = self.active.iter().position(|active| active.id == id) else { return false };
        let active = &mut self.active[at];
        if active.stdin_open || active.data_open {
            active.stage = Stage::Draining;
            true
        } else {
            self.active.swap_remove(at);
            false
        }
    }

    /// Whether the body of any answered request is still to come.
    pub fn is_draining(&self) -> bool {
        self.active.iter().any(|active| active.stage == Stage::Draining)
    }

    /// Whether the rest of the body of this request, which was answered, is still to come.
    pub(crate) fn drains(&self, id: u16) -> bool {
        self.active.iter().any(|active| active.id == id && active.stage == Stage::Draining)
    }

    /// Whether some of this request, which was not answered, is still to come.
    pub(crate) fn awaits(&self, id: u16) -> bool {
        let awaits =
            |active: &Active| active.stage == Stage::Running && (active.stdin_open || active.data_open);
        self.active.iter().any(|active| active.id == id && awaits(active))
    }

    /// Whether the gateway still has to send something for a request that was not answered: parameters, a body, the rest
    /// of a record.
    pub fn expects_more(&self) -> bool {
        let open = |active: &Active| match active.stage {
            Stage::Params(_) => true,
            Stage::Running => active.stdin_open || active.data_open,
            Stage::Draining => false,
        };
        self.active.iter().any(open) || !(self.decoder.at_boundary() || self.is_draining())
    }

    /// Whether the parameters of a request have begun and not ended.
    pub(crate) fn expects_params(&self) -> bool {
        self.active.iter().any(|active| matches!(active.stage, Stage::Params(_)))
    }

    /// Whether the bytes so far end between two records.
    pub(crate) fn at_boundary(&self) -> bool {
        self.decoder.at_boundary()
    }

    /// How many records have begun.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// The request that the last event was about.
    pub(crate) fn record_id(&self) -> u16 {
        self.record_id
    }

    /// Whether the connection has to end with the running requests, because a request that was answered here asked for that.
    pub(crate) fn is_last(&self) -> bool {
        self.is_last
    }

    /// From now on every new request is refused with `OVERLOADED`.
    pub(crate) fn refuse(&mut self) {
        self.refuses = true;
    }

    fn fault(&self, fault: Fault) -> ProtocolError {
        ProtocolError::new(self.decoder.offset(), fault)
    }

    /// Answers a request that no handler has.
    fn turn_down(&mut self, id: u16, status: ProtocolStatus, keep_conn: bool) {
        record::push_end(&mut self.replies, id, EndRequest::new(0, status));
        self.is_last |= !keep_conn;
    }

    fn find(&mut self, id: u16) -> Option<&mut Active> {
        self.active.iter_mut().find(|active| active.id == id)
    }

    fn begin(&mut self, header: Header) -> Result<Option<Received<'static>>, ProtocolError> {
        self.whole.clear();
        self.record_id = header.id;
        self.records += 1;
        match header.kind {
            RecordType::BeginRequest if header.content != 8 => {
                Err(self.fault(Fault::Size { kind: header.kind, length: header.content }))
            }
            RecordType::Stdout | RecordType::Stderr | RecordType::EndRequest => {
                Err(self.fault(Fault::WrongSide(header.kind)))
            }
            RecordType::GetValues if usize::from(header.content) > MOST_VALUES => {
                Err(self.fault(Fault::ParamsTooLong(MOST_VALUES)))
            }
            _ => Ok(None),
        }
    }

    fn content<'a>(
        &mut self,
        header: Header,
        bytes: &'a [u8],
    ) -> Result<Option<Received<'a>>, ProtocolError> {
        let id = header.id;
        match header.kind {
            RecordType::BeginRequest | RecordType::GetValues => self.whole.extend_from_slice(bytes),
            RecordType::Params => self.params(id, bytes)?,
            RecordType::Stdin | RecordType::Data => {
                let running = self.find(id).is_some_and(|active| match header.kind {
                    RecordType::Stdin => active.stdin_open && active.stage == Stage::Running,
                    _ => active.data_open && active.stage == Stage::Running,
                });
                return Ok(Some(match (running, header.kind) {
                    (false, _) => Received::Discarded(bytes.len()),
                    (true, RecordType::Stdin) => Received::Stdin(id, bytes),
                    (true, _) => Received::Data(id, bytes),
                }));
            }
            _ => {}
        }
        Ok(None)
    }

    fn params(&mut self, id: u16, bytes: &[u8]) -> Result<(), ProtocolError> {
        let (limit, held) = (self.limits.params_bytes, self.limits.params_held);
        let running = |active: &Active| active.id != id && active.stage != Stage::Draining;
        let others: usize =
            self.active.iter().filter(|active| running(active)).map(|active| active.params).sum();
        let Some(at) = self.active.iter().position(|active| active.id == id) else { return Ok(()) };
        let active = &mut self.active[at];
        let Stage::Params(params) = &mut active.stage else { return Ok(()) };
        let length = params.len() + bytes.len();
        if length > limit {
            return Err(self.fault(Fault::ParamsTooLong(limit)));
        }
        if others > 0 && others + length > held {
            let Active { keep_conn, .. } = self.active.swap_remove(at);
            self.turn_down(id, ProtocolStatus::Overloaded, keep_conn);
            return Ok(());
        }
        params.extend_from_slice(bytes);
        active.params = length;
        Ok(())
    }

    fn end(&mut self, header: Header) -> Result<Option<Received<'static>>, ProtocolError> {
        match header.kind {
            RecordType::BeginRequest => self.begin_request(header.id)?,
            RecordType::Params if header.content == 0 => return self.start(header.id),
            RecordType::Stdin | RecordType::Data if header.content == 0 => {
                return Ok(self.stream_ended(header));
            }
            RecordType::AbortRequest => return Ok(self.abort(header.id)),
            RecordType::GetValues => self.answer_values()?,
            RecordType::Other(kind) if header.id == 0 => record::push_unknown(&mut self.replies, kind),
            // The request has ended or was refused: its late records are ignored (specification section 3.3).
            _ => {}
        }
        Ok(None)
    }

    fn begin_request(&mut self, id: u16) -> Result<(), ProtocolError> {
        let Ok([role1, role0, flags, ..]) = <[u8; 8]>::try_from(self.whole.as_slice()) else {
            return Ok(());
        };
        // A gateway that was answered early may drop the rest of the body and use the id again.
        self.active.retain(|active| active.id != id || active.stage != Stage::Draining);
        if id == 0 || self.find(id).is_some() {
            return Err(self.fault(Fault::BeginTwice(id)));
        }
        let running = self.active.iter().filter(|active| active.stage != Stage::Draining).count();
        let role = Role::from_number(u16::from_be_bytes([role1, role0]));
        let refusal = match role {
            None => Some(ProtocolStatus::UnknownRole),
            Some(_) if running > 0 && !self.capacity.multiplex => Some(ProtocolStatus::CantMultiplex),
            Some(_) if self.refuses || running >= self.limits.multiplexed => Some(ProtocolStatus::Overloaded),
            Some(_) => None,
        };
        let keep_conn = flags & 1 != 0;
        if let Some(status) = refusal {
            self.turn_down(id, status, keep_conn);
        } else if let Some(role) = role {
            self.active.push(Active {
                id,
                role,
                keep_conn,
                params: 0,
                stage: Stage::Params(Vec::new()),
                stdin_open: role != Role::Authorizer,
                data_open: role == Role::Filter,
            });
        }
        Ok(())
    }

    fn start(&mut self, id: u16) -> Result<Option<Received<'static>>, ProtocolError> {
        let limits = self.limits;
        let end = self.decoder.offset();
        let Some(active) = self.find(id) else { return Ok(None) };
        let Stage::Params(params) = &mut active.stage else { return Ok(None) };
        // The pairs may span several records, so an offset within them is no offset in the connection. The error names
        // the pairs' end.
        let params = Params::parse(std::mem::take(params), &limits)
            .map_err(|error| ProtocolError::new(end, error.fault))?;
        active.stage = Stage::Running;
        Ok(Some(Received::Start(Start { id, role: active.role, keep_conn: active.keep_conn, params })))
    }

    /// The gateway sends no more of a request that it aborts (specification section 5.4).
    fn abort(&mut self, id: u16) -> Option<Received<'static>> {
        let at = self.active.iter().position(|active| active.id == id)?;
        let active = &mut self.active[at];
        match active.stage {
            Stage::Running => {
                (active.stdin_open, active.data_open) = (false, false);
                Some(Received::Abort(id))
            }
            Stage::Draining => {
                self.active.swap_remove(at);
                Some(Received::Discarded(0))
            }
            // No handler has the request yet. The gateway waits for its END_REQUEST, which is sent here.
            Stage::Params(_) => {
                let Active { keep_conn, .. } = self.active.swap_remove(at);
                self.turn_down(id, ProtocolStatus::RequestComplete, keep_conn);
                None
            }
        }
    }

    fn stream_ended(&mut self, header: Header) -> Option<Received<'static>> {
        let active = self.find(header.id)?;
        let open =
            if header.kind == RecordType::Stdin { &mut active.stdin_open } else { &mut active.data_open };
        if !std::mem::replace(open, false) {
            return None;
        }
        match active.stage {
            Stage::Running if header.kind == RecordType::Stdin => Some(Received::StdinEnd(header.id)),
            Stage::Running => Some(Received::DataEnd(header.id)),
            Stage::Draining => {
                self.active.retain(|active| {
                    active.stage != Stage::Draining || active.stdin_open || active.data_open
                });
                Some(Received::Discarded(0))
            }
            Stage::Params(_) => None,
        }
    }

    fn answer_values(&mut self) -> Result<(), ProtocolError> {
        let asked = Params::parse(std::mem::take(&mut self.whole), &self.limits)
            .map_err(|error| self.fault(error.fault))?;
        let mut answer = Vec::new();
        let Capacity { connections, requests, multiplex } = self.capacity;
        for (name, value) in [
            ("FCGI_MAX_CONNS", connections),
            ("FCGI_MAX_REQS", requests),
            ("FCGI_MPXS_CONNS", usize::from(multiplex)),
        ] {
            if asked.get(name).is_some() {
                push_pair(&mut answer, name.as_bytes(), value.to_string().as_bytes());
            }
        }
        record::push(&mut self.replies, RecordType::GetValuesResult, 0, &answer);
        Ok(())
    }
}

#[cfg(test)]
#[path = "incoming_tests.rs"]
mod tests;
