//! What a sender makes of links, of special files, and of files that grow.

/// What a sender makes of links, of special files, and of files that grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Symbolic links below the top.
    pub links: LinkMode,
    /// Leave out devices, named pipes, sockets and links that lead out of what is sent, instead of failing for them.
    pub skip_special: bool,
    /// Send of each file what it has when its turn comes, even if it grows meanwhile.
    pub live: bool,
}

/// What becomes of a symbolic link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkMode {
    /// It is sent as a link, if it leads to a place inside of what is sent.
    #[default]
    Keep,
    /// What it leads to is sent in its place.
    Follow,
    /// It is left out.
    Skip,
}
