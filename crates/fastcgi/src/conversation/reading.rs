//! What handlers do with a conversation while their requests run: they read, wait, write without room, and leave bodies alone.

use std::time::Instant;

use super::spool::Spool;
use super::{Conversation, Gone, Input, Key, Life, OpenRequest, Which};

impl Conversation {
    /// Reads from one of a request's streams. `to` must not be empty.
    ///
    /// # Errors
    /// Returns the reason why no more bytes will come. Bytes that have arrived are returned before that.
    pub fn read(&mut self, key: Key, which: Which, to: &mut [u8]) -> Result<Input<usize>, Gone> {
        let open = self.find(key)?;
        match open.stream(which).read(to)? {
            0 => self.dry(key, which),
            got => Ok(Input::Got(got)),
        }
    }

    /// Takes all bytes that have arrived on one of a request's streams.
    ///
    /// # Errors
    /// Returns the errors of [`read`](Self::read).
    pub fn piece(&mut self, key: Key, which: Which) -> Result<Input<Vec<u8>>, Gone> {
        let piece = self.find(key)?.stream(which).piece()?;
        if piece.is_empty() { self.dry(key, which) } else { Ok(Input::Got(piece)) }
    }

    pub(super) fn find(&mut self, key: Key) -> Result<&mut OpenRequest, Gone> {
        self.open.iter_mut().find(|open| open.key == key).ok_or(Gone::Answered)
    }

    /// The result of a read by a handler for which no bytes are buffered.
    fn dry<T>(&mut self, key: Key, which: Which) -> Result<Input<T>, Gone> {
        let life = self.life;
        let open = self.find(key)?;
        match life {
            _ if open.stream(which).is_whole() => Ok(Input::End),
            _ if open.is_aborted => Err(Gone::Aborted),
            _ if open.settles() => Err(Gone::Answered),
            _ if open.is_slow => Err(Gone::Slow),
            Life::Deaf(gone) => Err(gone),
            Life::Open | Life::Last => {
                open.waits_for = Some(which);
                Ok(Input::Later)
            }
        }
    }

    /// Whether a handler whose last read returned [`Input::Later`] still has to wait: another read would return
    /// [`Input::Later`] again.
    pub fn is_waiting(&self, key: Key) -> bool {
        let is_over = |open: &OpenRequest| open.is_aborted || open.is_slow;
        let waits = |open: &OpenRequest| open.key == key && open.waits_for.is_some() && !is_over(open);
        !matches!(self.life, Life::Deaf(_)) && self.open.iter().any(waits)
    }

    /// Notes that a handler reads no more of its request.
    pub fn unwanted(&mut self, key: Key) {
        if let Ok(open) = self.find(key) {
            open.unwanted();
        }
    }

    /// Reports that a writer begins (`true`) or ends (`false`) to wait until the gateway reads.
    ///
    /// Meanwhile [`Step::Hold`](super::Step::Hold) comes later: bodies beyond [`Limits::buffered`](crate::Limits::buffered) go to a
    /// file. A gateway that writes its whole request before it reads (mod_fcgid) would otherwise never read.
    pub fn blocked(&mut self, blocked: bool) {
        debug_assert!(blocked || self.blocked > 0, "a writer that did not wait");
        self.blocked = if blocked { self.blocked + 1 } else { self.blocked.saturating_sub(1) };
    }

    /// Whether bytes may be received although nobody has asked for the next [step](Self::next): by a writer that waits, or a
    /// handler that asks whether its request was aborted.
    pub fn reads_ahead(&mut self) -> bool {
        let answers = !self.incoming.replies().is_empty() || !self.fresh.is_empty();
        !answers && !matches!(self.life, Life::Deaf(_)) && !self.is_full()
    }

    /// When the gateway was heard last, which is a sign that it lives, also to a writer whose bytes it does not take.
    pub fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// How many unread bytes are held in memory for handlers.
    fn held(&self) -> usize {
        self.open.iter().map(OpenRequest::held).sum()
    }

    /// Whether the bodies of this connection may take more memory.
    pub(super) fn has_memory(&self) -> bool {
        self.held() <= self.bounds.limits.buffered
    }

    /// Whether a writer waits now.
    pub fn is_blocked(&self) -> bool {
        self.blocked > 0
    }

    /// Whether more unread bytes are held for handlers than the limits allow.
    pub(super) fn is_full(&self) -> bool {
        let limits = &self.bounds.limits;
        let spooled: u64 = self.open.iter().map(OpenRequest::spooled).sum();
        // What is in files counts as well: otherwise a handler that takes it by pieces would always have memory left.
        if self.held() as u64 + spooled <= limits.buffered as u64 {
            return false;
        }
        let may_spool = self.is_blocked() && self.bounds.spool.is_some();
        !(may_spool && spooled < limits.spooled && Spool::in_all() < limits.spooled_in_all)
    }
}
