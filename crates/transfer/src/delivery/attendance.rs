//! Clients that may still hear what their transfer to a sink has come to.

use std::sync::Arc;

use super::Deliveries;
use crate::message::TransferId;

/// A session for a transfer, as long as it lasts or until its client asks for something else: its client may hear what the
/// transfer has come to.
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

    /// Notes that the client knows what it was told.
    pub(crate) fn heard(&self) {
        self.deliveries.heard(self.id);
    }

    /// Nobody is to wait any more until this client has heard. A session that goes on to another request would wait for itself.
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
