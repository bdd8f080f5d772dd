//! What a sender does with links, with special files, with files that grow, and with files that were sent in part.

/// What a sender does with links, with special files, with files that grow, and with files that were sent in part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Symbolic links below the top.
    pub links: LinkMode,
    /// Leave out devices, named pipes, sockets and links that lead out of what is sent, instead of failing for them.
    pub skip_special: bool,
    /// Send each file as it is when its turn comes, even if it grows meanwhile.
    pub live: bool,
    /// Where a transfer is resumed, read again what was sent before, and compare its hashes with the receiver's. Needs
    /// verification.
    pub reread: bool,
}

/// What is done with a symbolic link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkMode {
    /// It is sent as a link, if it leads to a place inside of what is sent.
    #[default]
    Keep,
    /// Its target is sent in its place.
    Follow,
    /// It is left out.
    Skip,
}
