//! Networks that share a wire: the tags and tunnels of packets, and the connections with the same ends in several of them.
//!
//! A tag alone does not tell connections apart. Labels and tunnel numbers often differ between the directions of one connection,
//! and a mirror port may tag one direction only; the same packet may be captured twice, before and after its tag was changed.
//! Sequence numbers decide: a packet with another tag that continues a connection belongs to it, any other begins a connection
//! of its own.

use hashbrown::HashMap;
use linger_packet::{Path, Segment};

use crate::connection::ObservedConnection;
use crate::key::{Dir, FlowKey, PathId};
use crate::table::{FlowSlot, Table};

/// Paths that are told apart. All further ones count as one: a hostile capture has any number of them.
const MAX_PATHS: usize = 60_000;
/// Connections with the same ends at the same time, in different networks. Further ones share the last variant.
const MAX_VARIANTS: u16 = 64;

/// An interface, and the network on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Network {
    interface: u32,
    path: PathId,
}

/// The paths of a capture.
#[derive(Debug, Default)]
pub(crate) struct Places {
    ids: HashMap<Path, PathId>,
    paths: Vec<Path>,
    latest: (Path, PathId),
    /// How many variants of a key have been used.
    variants: u16,
}

impl Places {
    /// Whether any packet had a tag or was in a tunnel.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        !self.paths.is_empty()
    }

    #[inline]
    pub(crate) fn id(&mut self, path: Path) -> PathId {
        if path.is_plain() { PathId::default() } else { self.tagged(path) }
    }

    #[cold]
    fn tagged(&mut self, path: Path) -> PathId {
        if self.latest.0 != path {
            let next = PathId(self.paths.len().min(MAX_PATHS) as u16 + 1);
            let id = match self.ids.get(&path) {
                Some(id) => *id,
                None if self.paths.len() >= MAX_PATHS => next,
                None => {
                    self.ids.insert(path, next);
                    self.paths.push(path);
                    next
                }
            };
            self.latest = (path, id);
        }
        self.latest.1
    }

    /// The path of this number.
    pub(crate) fn path(&self, id: PathId) -> Path {
        usize::from(id.0).checked_sub(1).and_then(|at| self.paths.get(at)).copied().unwrap_or_default()
    }

    /// The network of a connection's side: the same for all its connections there.
    pub(crate) fn network(&mut self, connection: &ObservedConnection, dir: Dir) -> Network {
        // A side that has sent nothing is in the network of the other side.
        let side = if connection.paths[dir] == PathId::default() && !connection.sides[dir].seen() {
            1 - dir
        } else {
            dir
        };
        let path = self.path(connection.paths[side]).network();
        Network { interface: connection.key.interface(), path: self.id(path) }
    }

    /// Finds the connection that a packet belongs to among those with its ends. Returns the key under which it is kept, or is to
    /// be kept, and its place in the table if it is there.
    pub(crate) fn find(
        &mut self,
        table: &mut Table,
        segment: &Segment<'_>,
        (key, dir): (FlowKey, Dir),
        path: PathId,
    ) -> (FlowKey, Option<FlowSlot>) {
        let mut free = None;
        let mut fitting = None;
        let (mut same_path, mut others) = (None, 0);
        for variant in 0..=self.variants {
            let key = key.variant(variant);
            let Some(slot) = table.find(&key) else {
                free = free.or(Some(variant));
                continue;
            };
            let Some(connection) = table.get(slot).map(|flow| &flow.connection) else { continue };
            others += 1;
            // A side that was not seen yet has the path of the other side, unless the numbers say otherwise.
            let known = if connection.sides[dir].seen() { dir } else { 1 - dir };
            if connection.paths[known] == path {
                same_path = same_path.or(Some((key, slot)));
            }
            if fitting.is_none() && connection.fits(segment, dir) {
                fitting = Some((key, slot));
            }
        }
        // While only one connection has these ends, a packet with the same path belongs to it whatever its numbers are, as in a
        // capture without tags.
        let found = if others == 1 { same_path.or(fitting) } else { fitting.or(same_path) };
        if let Some((key, slot)) = found {
            return (key, Some(slot));
        }
        let variant = free.unwrap_or_else(|| {
            self.variants = (self.variants + 1).min(MAX_VARIANTS);
            self.variants
        });
        let key = key.variant(variant);
        (key, table.find(&key))
    }
}
