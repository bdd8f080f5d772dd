//! Sessions whose clients may still learn, and confirm, the result of their transfer to a sink.

use std::sync::Arc;

use super::Deliveries;
use crate::message::TransferId;

/// One session of a transfer. Until it ends, or its client makes another request, the client may confirm the transfer's
/// result, and other transfers of the same content wait for that.
#[derive(Debug)]
pub(crate) struct Attendance {
    deliveries: Arc<Deliveries>,
    id: TransferId,
    waits: bool,
}

impl Attendance {
    pub(crate) fn new(deliveries: &Arc<Deliveries>, id: TransferId) -> Self {
        deliveries.lock().attend(id);
        Self { deliveries: deliveries.clone(), id, waits: true }
    }

    /// Notes that the client has confirmed the result that it was told.
    pub(crate) fn heard(&self) {
        self.deliveries.heard(self.id);
    }

    /// Lets other transfers of the same content wait no longer for this client. A session calls this before its next request,
    /// which may be for the same content: it would wait for itself.
    pub(crate) fn let_others_go_on(&mut self) {
        if !std::mem::replace(&mut self.waits, false) {
            return;
        }
        self.deliveries.lock().leave(&self.id);
        self.deliveries.changed.notify_all();
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.let_others_go_on();
    }
}
