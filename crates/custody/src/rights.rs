use core::mem::size_of;

/// `struct cmsghdr` on Linux: a length that counts the header, a level and a type.
const HEADER: usize = size_of::<usize>() + 2 * size_of::<i32>();

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;

/// The fds that a message carries (`SCM_RIGHTS`), read from its control data as `cmsg(3)` lays it out.
///
/// Control data that contradicts itself ends the iteration: the kernel refuses to send it (`EINVAL`), and delivers no such
/// data.
#[derive(Clone, Debug)]
pub struct Rights<'a> {
    /// What follows the control message that is being read.
    rest: &'a [u8],
    /// The fds of the control message that is being read.
    fds: &'a [u8],
}

impl<'a> Rights<'a> {
    /// Reads the control data of one message, `msg_controllen` bytes of it.
    pub const fn new(control: &'a [u8]) -> Self {
        Self { rest: control, fds: &[] }
    }

    /// Goes to the next control message; `None` if no complete one follows.
    fn advance(&mut self) -> Option<()> {
        let length = usize::from_ne_bytes(*self.rest.first_chunk()?);
        let level = int(self.rest.get(size_of::<usize>()..)?)?;
        let kind = int(self.rest.get(size_of::<usize>() + size_of::<i32>()..)?)?;
        let payload = self.rest.get(HEADER..length)?;
        self.fds = if (level, kind) == (SOL_SOCKET, SCM_RIGHTS) { payload } else { &[] };
        // Padded as by `CMSG_ALIGN`; the padding of the last message may be missing.
        let next = length.checked_next_multiple_of(size_of::<usize>())?;
        self.rest = self.rest.get(next..).unwrap_or_default();
        Some(())
    }
}

impl Iterator for Rights<'_> {
    type Item = i32;

    fn next(&mut self) -> Option<i32> {
        loop {
            if let Some((fd, rest)) = self.fds.split_first_chunk() {
                self.fds = rest;
                return Some(i32::from_ne_bytes(*fd));
            }
            self.advance()?;
        }
    }
}

fn int(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.first_chunk()?))
}
