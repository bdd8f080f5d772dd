//! A session: framed streams in both directions over one connection.
//!
//! One thread drives a session. While a session waits to write, it reads, so two sessions cannot deadlock. What it has
//! read is bounded by the credit that it has granted. The payload of large frames is read from the socket directly into
//! the caller's buffer.
//!
//! No call of a session touches a file. What its thread does between two calls may take long, and may never end: then a
//! thread beside it speaks for the session (`watch.rs`).

mod core;
mod end;
mod event;
mod input;
mod output;
mod phase;
mod splice;
mod wait;
mod watch;
mod working;

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::core::Core;
use crate::cancel::Cancel;
use crate::error::Error;
use crate::helper::Helper;
use crate::machine::{Role, SessionLimits};
use crate::path::RelPath;
use crate::transport::Transport;
pub use event::SessionEvent;
pub(crate) use phase::Activity;
pub use phase::{Phase, PhaseWork};
pub use wait::Deadlines;
pub(crate) use watch::Watch;

/// Framed streams over one connection.
///
/// ```
/// use linger_transfer::session::{Plain, Role, Session, SessionEvent};
/// use std::net::{TcpListener, TcpStream};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let client = TcpStream::connect(listener.local_addr()?)?;
/// let (server, _) = listener.accept()?;
/// type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
/// let answering = std::thread::spawn(move || -> Result<Option<linger::Outcome>> {
///     let mut session = Session::new(Box::new(Plain::new(server)?), Role::Responder)?;
///     while let SessionEvent::Opened { stream, request } = session.receive()? {
///         session.message(stream, &[b"you said ", &request[..]].concat())?;
///         session.finish(stream)?;
///     }
///     Ok(session.end(0, "")?)
/// });
/// let mut session = Session::new(Box::new(Plain::new(client)?), Role::Initiator)?;
/// let stream = session.open(b"hello")?;
/// assert_eq!(session.receive()?, SessionEvent::Message { stream, bytes: b"you said hello".to_vec() });
/// session.end(0, "thank you")?;
/// assert!(answering.join().unwrap()?.unwrap().delivered());
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug)]
pub struct Session {
    core: Arc<Mutex<Core>>,
    /// Does work that may take long and that the session must be able to abandon; see `away` in `alive.rs`.
    pub(crate) helper: Option<Helper>,
    watch: Option<Watch>,
}

impl Session {
    /// Begins a session over a connection with default limits and deadlines. Nothing is sent yet.
    ///
    /// # Errors
    /// Returns an error if the process has no descriptors left.
    pub fn new(transport: Box<dyn Transport>, role: Role) -> Result<Self, Error> {
        let cancel = Cancel::new().map_err(|error| Error::io("make", "an eventfd", error))?;
        Ok(Self::with(transport, role, SessionLimits::default(), Deadlines::default(), cancel))
    }

    /// Begins a session with every setting given.
    pub fn with(
        transport: Box<dyn Transport>,
        role: Role,
        limits: SessionLimits,
        deadlines: Deadlines,
        cancel: Cancel,
    ) -> Self {
        let core = Core::with(transport, role, limits, deadlines, cancel);
        Self { core: Arc::new(Mutex::new(core)), helper: None, watch: None }
    }

    /// Opens a stream for what `request` says (at most 64 KiB).
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the request is too long or no stream is left; otherwise the errors of
    /// [`flush`](Self::flush).
    pub fn open(&mut self, request: &[u8]) -> Result<u16, Error> {
        self.core().open(request)
    }

    /// Sends a message on a stream; waits for credit if the stream has too little. The message may stay in the buffer
    /// until [`flush`](Self::flush) or the next wait.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the message is longer than 64 KiB, [`Error::Ended`] if the stream is closed, and the
    /// errors of [`receive`](Self::receive).
    pub fn message(&mut self, stream: u16, bytes: &[u8]) -> Result<(), Error> {
        self.core().message(stream, bytes)
    }

    /// Sends data on a stream, in frames of at most 1 MiB, waiting for credit and for the socket.
    ///
    /// # Errors
    /// Returns the errors of [`message`](Self::message).
    pub fn data(&mut self, stream: u16, bytes: &[u8]) -> Result<(), Error> {
        self.core().data(stream, bytes)
    }

    /// Tells the peer that this side sends nothing more on the stream.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush). Closing a stream that is closed already is no error.
    pub fn finish(&mut self, stream: u16) -> Result<(), Error> {
        self.core().finish(stream)
    }

    /// Cancels a stream in both directions. What the peer still sends on it is dropped.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush). Cancelling a closed stream is no error.
    pub fn cancel(&mut self, stream: u16, reason: &str) -> Result<(), Error> {
        self.core().cancel(stream, reason)
    }

    /// Sends what is buffered, and waits for the peer's next event.
    ///
    /// # Errors
    /// Returns [`Error::Cut`] if the connection ends or is silent for too long, [`Error::Violation`] if the peer breaks
    /// the rules, and [`Error::Cancelled`].
    pub fn receive(&mut self) -> Result<SessionEvent, Error> {
        self.core().receive()
    }

    /// Returns the peer's next event if it has arrived. Does not wait.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive).
    pub fn try_receive(&mut self) -> Result<Option<SessionEvent>, Error> {
        self.core().try_receive()
    }

    /// Gives back an event that was received and is no data, to be received again.
    pub(crate) fn put_back(&mut self, event: SessionEvent) {
        self.core().put_back(event)
    }

    /// Takes bytes of the data that [`SessionEvent::Data`] announced, until the buffer is full or all data is taken.
    /// Returns how many bytes were taken.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive).
    pub fn read_data(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        self.core().read_data(into)
    }

    /// Sends what is in the buffer.
    ///
    /// # Errors
    /// Returns [`Error::Cut`] if the connection ends or takes no bytes for too long, and [`Error::Cancelled`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.core().flush()
    }

    /// The handle that ends this session.
    pub(crate) fn canceller(&self) -> Cancel {
        self.core().canceller()
    }

    /// Whether the peer has sent this protocol's preface.
    pub(crate) fn is_greeted(&self) -> bool {
        self.core().is_greeted()
    }

    /// Whether both sides speak a version in which a server answers a client's goodbye.
    pub(crate) fn answers_goodbyes(&self) -> bool {
        self.core().answers_goodbyes()
    }

    /// Bytes that have arrived, payload and framing.
    pub fn received(&self) -> u64 {
        self.core().received()
    }

    /// Bytes that were handed to the kernel, payload and framing.
    pub fn sent(&self) -> u64 {
        self.core().sent()
    }

    /// Whether the connection is encrypted, and each side knows the other's key.
    pub fn is_encrypted(&self) -> bool {
        self.core().is_encrypted()
    }

    /// Whether the kernel can move payload between the socket and files.
    pub fn is_plain(&self) -> bool {
        self.core().is_plain()
    }

    /// Hands over bytes that were read from the connection before the session began.
    pub(crate) fn prepend(&mut self, bytes: &[u8]) {
        self.core().prepend(bytes)
    }

    /// Begins a DATA frame of `length` bytes, at most 1 MiB. Its payload has to follow by
    /// [`continue_data`](Self::continue_data) before any other frame.
    pub(crate) fn begin_data(&mut self, stream: u16, length: usize) -> Result<(), Error> {
        self.core().begin_data(stream, length)
    }

    /// Sends the next payload bytes of the current DATA frame.
    pub(crate) fn continue_data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.core().continue_data(bytes)
    }

    /// Sends a ping, so that the peer knows that this side is alive while it waits for something else.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub fn ping(&mut self) -> Result<(), Error> {
        self.core().ping()
    }

    /// Sends what is in the buffer, and then sends nothing more for `pause`.
    ///
    /// # Errors
    /// Returns [`Error::Cancelled`] as soon as a cancellation is asked for; otherwise the errors of
    /// [`flush`](Self::flush).
    pub fn rest(&mut self, pause: Duration) -> Result<(), Error> {
        self.core().rest(pause)
    }

    /// Waits until the peer sends something, which is kept for later, or until `pause` has passed.
    ///
    /// # Errors
    /// Returns [`Error::Cancelled`], [`Error::Cut`] if the peer has gone, and the errors of
    /// [`receive`](Self::receive).
    pub(crate) fn linger_for(&mut self, pause: Duration) -> Result<(), Error> {
        self.core().linger_for(pause)
    }

    /// Waits until the peer has sent something, `other` is readable, or `timeout` has passed. Returns whether `other`
    /// is readable.
    ///
    /// # Errors
    /// Returns [`Error::Cancelled`], or the errors of `poll(2)`.
    pub fn wait_for(&mut self, other: BorrowedFd<'_>, timeout: Duration) -> Result<bool, Error> {
        self.core().wait_for(other, timeout)
    }

    /// Tells the peer what this side is busy with, so that the peer waits.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub fn works(&mut self, work: PhaseWork) -> Result<(), Error> {
        self.core().works(work)
    }

    /// When this session last made progress, for the server's decision on which session has to make room for another.
    pub(crate) fn activity(&self) -> std::sync::Arc<Activity> {
        self.core().activity()
    }

    /// Marks the begin and the end of this side's own work, during which the session does not count as idle.
    pub(crate) fn set_working(&mut self, works: bool) {
        self.core().set_working(works)
    }

    /// Returns the next event that arrived before the connection was lost and that was not taken yet.
    pub fn last_words(&mut self) -> Option<SessionEvent> {
        self.core().last_words()
    }

    /// Says goodbye: this side will send nothing more.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub fn goodbye(&mut self, code: u16, reason: &str) -> Result<(), Error> {
        self.core().goodbye(code, reason)
    }

    /// Sends the `length` bytes that are in a pipe, at most 1 MiB, as one DATA frame.
    ///
    /// # Errors
    /// Returns the errors of [`message`](Self::message).
    pub(crate) fn data_of_pipe(
        &mut self,
        stream: u16,
        outlet: BorrowedFd<'_>,
        length: usize,
    ) -> Result<(), Error> {
        self.core().data_of_pipe(stream, outlet, length)
    }

    /// Bytes of the announced data that were read from the socket already: they have to be taken before others.
    pub(crate) fn read_already(&self) -> usize {
        self.core().read_already()
    }

    /// Moves announced data from the socket into an empty pipe, as much as has arrived. Returns the number of bytes.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive).
    pub(crate) fn data_to_pipe(&mut self, inlet: BorrowedFd<'_>) -> Result<usize, Error> {
        self.core().data_to_pipe(inlet)
    }

    /// Notes the entry that this side works on next, so that it can be named if this side waits for a disk there.
    pub(crate) fn turns_to(&self, path: &RelPath) {
        self.core().activity.turns_to(path);
    }

    /// Whether the peer will send nothing more.
    pub(crate) fn peer_has_left(&self) -> bool {
        watch::has_left(self.core().transport.socket())
    }

    /// Ends the session in order: says goodbye, then a lingering close. The socket is closed on return.
    ///
    /// `code` 0 means that this side has everything it wanted.
    ///
    /// # Errors
    /// Returns an error if not even the goodbye could be written. The socket is closed in that case, too.
    pub fn end(mut self, code: u16, reason: &str) -> Result<Option<linger::Outcome>, Error> {
        let said = self.goodbye(code, reason);
        let outcome = self.close(&linger::Policy::default());
        said.map(|()| outcome)
    }

    /// Closes the connection with a lingering close bounded by `policy`, without a goodbye. Returns the outcome; of a
    /// bundle, that of its first connection.
    pub fn close(self, policy: &linger::Policy) -> Option<linger::Outcome> {
        let transport = self.core().take_transport();
        end::close(transport?, policy)
    }

    /// Closes with a bare `close()`, which can lose what the peer has not received yet. For tests that show this loss.
    pub fn close_carelessly(self) {
        drop(self.core().take_transport());
    }

    /// Locks the state for one call of the program, and counts the call for the watch thread.
    fn core(&self) -> MutexGuard<'_, Core> {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.calls += 1;
        core
    }
}
