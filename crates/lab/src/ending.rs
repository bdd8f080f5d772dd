//! What a server does after its last write.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::str::FromStr;
use std::sync::mpsc;
use std::time::Duration;

use linger::{Closer, Outcome, Policy};
use socket2::SockRef;

/// What a server does after its last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// `close()`.
    Close,
    /// `shutdown(SHUT_WR)`, then `close()`.
    ShutdownClose,
    /// `SO_LINGER` with this many seconds, then `close()`.
    SoLinger(u16),
    /// `SO_LINGER 0`, then `close()`: a reset on purpose.
    Abort,
    /// The process exits.
    Exit,
    /// The lingering close.
    Lingering,
}

/// Seconds of `so-linger` without a number.
const LINGER_SECONDS: u16 = 5;

impl Ending {
    /// The names of all endings.
    pub const NAMES: [&'static str; 6] =
        ["close", "shutdown-close", "so-linger=SECS", "abort", "exit", "lingering"];

    /// The system calls of this ending, as text.
    pub fn calls(self) -> String {
        match self {
            Self::Close => "close()".to_owned(),
            Self::ShutdownClose => "shutdown(), close()".to_owned(),
            Self::SoLinger(seconds) => format!("SO_LINGER of {seconds} s, close()"),
            Self::Abort => "SO_LINGER of 0 s, close()".to_owned(),
            Self::Exit => "exit()".to_owned(),
            Self::Lingering => "lingering close".to_owned(),
        }
    }

    /// Ends a connection this way. `exit` is a plain close here: the exit itself needs a process of its own. A lingering close is left to
    /// `closer`, if there is one, and waited for.
    ///
    /// # Errors
    /// Returns an error if a socket option, the half-close or the close fails. The socket is closed in every case.
    pub(crate) fn end(
        self,
        stream: TcpStream,
        policy: &Policy,
        closer: Option<&Closer>,
    ) -> io::Result<Option<Outcome>> {
        match self {
            Self::Close | Self::Exit => {}
            Self::ShutdownClose => stream.shutdown(Shutdown::Write)?,
            Self::SoLinger(seconds) => {
                SockRef::from(&stream).set_linger(Some(Duration::from_secs(seconds.into())))?;
            }
            Self::Abort => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
            Self::Lingering => return lingering(stream, policy, closer).map(Some),
        }
        linger_sys::close(stream.into())?;
        Ok(None)
    }
}

fn lingering(stream: TcpStream, policy: &Policy, closer: Option<&Closer>) -> io::Result<Outcome> {
    let Some(closer) = closer else { return Ok(linger::close(stream, policy)) };
    let (tell, told) = mpsc::channel();
    closer.close_then(stream, policy, move |outcome| {
        // The receiver waits below.
        let _ = tell.send(outcome);
    });
    told.recv().map_err(io::Error::other)
}

impl FromStr for Ending {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(seconds) = name.strip_prefix("so-linger=") {
            return match seconds.parse() {
                Ok(0) => Err("`so-linger=0` is a reset on purpose: say `abort`".to_owned()),
                Ok(seconds) => Ok(Self::SoLinger(seconds)),
                Err(_) => Err(format!("`{seconds}` is not a number of seconds between 1 and 65535")),
            };
        }
        Ok(match name {
            "close" => Self::Close,
            "shutdown-close" => Self::ShutdownClose,
            "so-linger" => Self::SoLinger(LINGER_SECONDS),
            "abort" => Self::Abort,
            "exit" => Self::Exit,
            "lingering" => Self::Lingering,
            _ => return Err(format!("unknown ending `{name}`; known are {}", Self::NAMES.join(", "))),
        })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SoLinger(seconds) => f.pad(&format!("so-linger={seconds}")),
            Self::Close => f.pad("close"),
            Self::ShutdownClose => f.pad("shutdown-close"),
            Self::Abort => f.pad("abort"),
            Self::Exit => f.pad("exit"),
            Self::Lingering => f.pad("lingering"),
        }
    }
}
