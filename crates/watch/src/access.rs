//! [`Access`]: has what takes capabilities done by this process or by the opener.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernel::leftovers::Leftovers;
use crate::kernel::ring::{Ring, RingError, Subscription};
use crate::namespace_id::NamespaceId;
use crate::opener::Opener;
use crate::privileged::{FoundNamespaces, NamespaceFiles, Privileged};

/// Who does what takes capabilities.
#[derive(Debug)]
enum AccessWay {
    /// This process, as far as it has them.
    Here(Privileged),
    Opener(Opener),
}

/// Has done what takes capabilities. Clones do it the same way.
#[derive(Clone, Debug)]
pub(crate) struct Access(Arc<Mutex<AccessWay>>);

impl Default for Access {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(AccessWay::Here(Privileged::default()))))
    }
}

impl Access {
    fn way(&self) -> MutexGuard<'_, AccessWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it done by the opener from now on.
    pub(crate) fn delegate(&self, opener: Opener) {
        *self.way() = AccessWay::Opener(opener);
    }

    /// Whether the opener was to do it, and has ended.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(&*self.way(), AccessWay::Opener(opener) if opener.has_ended())
    }

    /// Opens the events of a processor.
    pub(crate) fn processor(
        &self,
        sources: &[Subscription],
        cpu: i32,
        size: usize,
    ) -> Result<Ring, RingError> {
        match &mut *self.way() {
            AccessWay::Here(_) => Ring::open(sources, cpu, size),
            AccessWay::Opener(opener) => opener.processor(cpu, size),
        }
    }

    /// See [`Privileged::namespaces`].
    pub(crate) fn namespaces(&self) -> io::Result<FoundNamespaces> {
        match &mut *self.way() {
            AccessWay::Here(privileged) => Ok(privileged.namespaces()),
            AccessWay::Opener(opener) => opener.namespaces(),
        }
    }

    /// See [`Privileged::leftovers`].
    pub(crate) fn leftovers(&self, id: NamespaceId) -> io::Result<Leftovers> {
        match &mut *self.way() {
            AccessWay::Here(privileged) => privileged.leftovers(id),
            AccessWay::Opener(opener) => opener.leftovers(id),
        }
    }

    /// See [`Privileged::survey`].
    pub(crate) fn survey(&self, id: NamespaceId) -> io::Result<NamespaceFiles> {
        match &mut *self.way() {
            AccessWay::Here(privileged) => privileged.survey(id),
            AccessWay::Opener(opener) => opener.survey(id),
        }
    }

    /// See [`Privileged::owners`].
    pub(crate) fn owners(&self, inodes: &[u32]) -> Vec<(u32, u32)> {
        match &mut *self.way() {
            AccessWay::Here(privileged) => privileged.owners(inodes),
            AccessWay::Opener(opener) => opener.owners(inodes).unwrap_or_default(),
        }
    }
}
