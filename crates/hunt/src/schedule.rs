//! What one side does on a connection, as plain data: step by step, with every size and every pause. Where a server is hunted the hunt
//! plays the client, and where a client is hunted the server.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The side that a schedule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Player {
    /// The client, of a server that is hunted.
    #[default]
    Client,
    /// The server, of a client that is hunted.
    Server,
}

impl Player {
    pub(crate) fn is_client(&self) -> bool {
        *self == Self::Client
    }

    /// A stable identifier, for people and machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// One thing that a side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum HuntStep {
    /// A client sends the head of a request, and the beginning of its body.
    Request {
        /// The length of the body that the head announces; 0 is a GET, anything else a POST.
        #[serde(default)]
        body: u64,
        /// How many bytes of the body are sent with the head.
        #[serde(default)]
        sent: u64,
    },
    /// A server sends the head of a response, and the beginning of its body, as soon as it has the head of the request.
    Respond {
        /// The length of the body that the head announces.
        #[serde(default)]
        body: u64,
        /// How many bytes of the body are sent with the head.
        #[serde(default)]
        sent: u64,
    },
    /// A server reads to the end of the request.
    ReadRequest,
    /// A client sends what is left of the request's body, then line ends, which are no request (RFC 9112 section 2.2). A server sends what is
    /// left of the response's body, and nothing beyond it.
    Send {
        /// How many bytes.
        bytes: u64,
    },
    /// Neither sends nor reads.
    Pause {
        /// For how long.
        milliseconds: u64,
    },
    /// Reads a part of what comes, and waits for it.
    Read {
        /// How many bytes, heads included.
        bytes: u64,
    },
    /// Sends a FIN, and reads on.
    HalfClose,
    /// Closes the connection: for a client nothing can be lost after it. A server has waited before until the other kernel has acknowledged
    /// what was sent, so that what is lost then is lost by the client.
    Close,
    /// A server does the same with `SO_LINGER` of 0: the connection is reset, whatever was read.
    Abort,
}

/// All that one side does on one connection. When the steps are done, a client reads to the end; a server sends the rest of its response,
/// half-closes, and reads until the client closes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Schedule {
    /// Who does it.
    #[serde(default, skip_serializing_if = "Player::is_client")]
    pub plays: Player,
    /// Its receive buffer (`SO_RCVBUF`), in bytes, before the kernel doubles it; `None`: the kernel's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_buffer: Option<u64>,
    /// Its send buffer (`SO_SNDBUF`), in bytes; `None`: the kernel's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_buffer: Option<u64>,
    /// Whether the last request or response leaves the connection open; otherwise it says `Connection: close`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_alive: bool,
    /// The steps, in their order.
    #[serde(rename = "step", default)]
    pub steps: Vec<HuntStep>,
}

/// The most steps of a schedule.
pub const MOST_STEPS: usize = 32;
/// The most bytes of one step.
pub const MOST_BYTES: u64 = 64 << 20;
/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// A number in a schedule that can be made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// The length of the body that a request announces.
    Body(usize),
    /// How much of the body is sent with the head.
    Sent(usize),
    /// Bytes that are sent or read, or milliseconds of a pause.
    Amount(usize),
}

impl Schedule {
    /// A schedule of a server with these steps, and the kernel's own buffers.
    pub fn of_server(steps: impl Into<Vec<HuntStep>>) -> Self {
        Self { plays: Player::Server, ..Self::of(steps) }
    }

    /// A schedule of a client with these steps, and the kernel's own buffers.
    pub fn of(steps: impl Into<Vec<HuntStep>>) -> Self {
        Self { steps: steps.into(), ..Self::default() }
    }

    /// Checks that its side can do this.
    ///
    /// # Errors
    /// Returns a text that names the step, counted from 1, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.steps.len() > MOST_STEPS {
            return Err(format!("{} steps: there may be {MOST_STEPS}", self.steps.len()));
        }
        let mut so_far = SoFar { plays: self.plays, ..SoFar::default() };
        for (index, step) in self.steps.iter().enumerate() {
            so_far.then(*step).map_err(|wrong| format!("step {}, `{step}`: {wrong}", index + 1))?;
        }
        match self.plays {
            Player::Client if !so_far.begun => Err("there is no request in it".to_owned()),
            Player::Server if self.steps.is_empty() => Err("there is no step in it".to_owned()),
            _ => Ok(()),
        }
    }

    /// The sum of all pauses.
    pub fn pauses(&self) -> Duration {
        let pause = |step: &HuntStep| match step {
            HuntStep::Pause { milliseconds } => *milliseconds,
            _ => 0,
        };
        Duration::from_millis(self.steps.iter().map(pause).sum())
    }

    /// The number of requests.
    pub fn requests(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, HuntStep::Request { .. })).count()
    }

    /// The same with neighbours of one kind made one: two pauses are a longer one.
    pub(crate) fn merged(mut self) -> Self {
        let mut steps: Vec<HuntStep> = Vec::new();
        for step in self.steps {
            match (steps.last_mut(), step) {
                (Some(HuntStep::Pause { milliseconds }), HuntStep::Pause { milliseconds: more }) => {
                    *milliseconds += more;
                }
                (Some(HuntStep::Send { bytes }), HuntStep::Send { bytes: more })
                | (Some(HuntStep::Read { bytes }), HuntStep::Read { bytes: more }) => *bytes += more,
                _ => steps.push(step),
            }
        }
        self.steps = steps;
        self
    }

    /// The numbers that can be made smaller.
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        let of = |(index, step): (usize, &HuntStep)| match step {
            HuntStep::Request { body: 0, .. } | HuntStep::Respond { body: 0, .. } => vec![],
            HuntStep::Request { .. } | HuntStep::Respond { .. } => {
                vec![Parameter::Sent(index), Parameter::Body(index)]
            }
            HuntStep::Send { .. } | HuntStep::Pause { .. } | HuntStep::Read { .. } => {
                vec![Parameter::Amount(index)]
            }
            HuntStep::ReadRequest | HuntStep::HalfClose | HuntStep::Close | HuntStep::Abort => vec![],
        };
        self.steps.iter().enumerate().flat_map(of).collect()
    }

    pub(crate) fn value(&self, parameter: Parameter) -> u64 {
        let (Parameter::Body(index) | Parameter::Sent(index) | Parameter::Amount(index)) = parameter;
        match (parameter, self.steps.get(index)) {
            (Parameter::Body(_), Some(HuntStep::Request { body, .. } | HuntStep::Respond { body, .. })) => {
                *body
            }
            (Parameter::Sent(_), Some(HuntStep::Request { sent, .. } | HuntStep::Respond { sent, .. })) => {
                *sent
            }
            (_, Some(HuntStep::Send { bytes } | HuntStep::Read { bytes })) => *bytes,
            (_, Some(HuntStep::Pause { milliseconds })) => *milliseconds,
            _ => 0,
        }
    }

    /// The same schedule with another value of one number.
    pub(crate) fn with(&self, parameter: Parameter, value: u64) -> Self {
        let mut changed = self.clone();
        let (Parameter::Body(index) | Parameter::Sent(index) | Parameter::Amount(index)) = parameter;
        match (parameter, changed.steps.get_mut(index)) {
            (
                Parameter::Body(_),
                Some(HuntStep::Request { body, sent } | HuntStep::Respond { body, sent }),
            ) => {
                (*body, *sent) = (value, (*sent).min(value));
            }
            (
                Parameter::Sent(_),
                Some(HuntStep::Request { body, sent } | HuntStep::Respond { body, sent }),
            ) => {
                *sent = value.min(*body);
            }
            (_, Some(HuntStep::Send { bytes } | HuntStep::Read { bytes })) => *bytes = value,
            (_, Some(HuntStep::Pause { milliseconds })) => *milliseconds = value,
            _ => {}
        }
        changed
    }
}

/// What the steps so far have left of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct SoFar {
    plays: Player,
    /// Bytes of the last body that were announced and not sent.
    left: u64,
    /// A request, or a response.
    begun: bool,
    half_closed: bool,
    closed: bool,
}

impl SoFar {
    fn then(&mut self, step: HuntStep) -> Result<(), &'static str> {
        if self.closed {
            return Err("the connection is closed by then");
        }
        match step {
            HuntStep::Request { .. } if self.plays == Player::Server => Err("a server makes no request"),
            HuntStep::Respond { .. } | HuntStep::ReadRequest | HuntStep::Abort if self.plays.is_client() => {
                Err("only a server does that")
            }
            HuntStep::Request { body, sent } | HuntStep::Respond { body, sent } => self.message(body, sent),
            HuntStep::Send { .. } if !self.begun => Err(match self.plays {
                Player::Client => "there is no request before it",
                Player::Server => "there is no response before it",
            }),
            HuntStep::Read { .. } if !self.begun && self.plays.is_client() => {
                Err("there is no request before it")
            }
            HuntStep::Send { bytes } | HuntStep::Read { bytes } if bytes == 0 || bytes > MOST_BYTES => {
                Err("the number of bytes must be 1 to 67108864")
            }
            HuntStep::Send { .. } if self.half_closed => Err("nothing can be sent after a half-close"),
            HuntStep::Send { bytes } => {
                self.left = self.left.saturating_sub(bytes);
                Ok(())
            }
            HuntStep::Pause { milliseconds } => {
                let is_fit = milliseconds > 0 && Duration::from_millis(milliseconds) <= LONGEST_PAUSE;
                if is_fit { Ok(()) } else { Err("a pause takes 1 to 3600000 milliseconds") }
            }
            HuntStep::HalfClose if self.half_closed => Err("it is half-closed already"),
            HuntStep::HalfClose => {
                self.half_closed = true;
                Ok(())
            }
            HuntStep::Close | HuntStep::Abort => {
                self.closed = true;
                Ok(())
            }
            HuntStep::Read { .. } | HuntStep::ReadRequest => Ok(()),
        }
    }

    /// The head of a request or response.
    fn message(&mut self, body: u64, sent: u64) -> Result<(), &'static str> {
        if sent > body {
            return Err("more of the body is sent than it has");
        } else if body > MOST_BYTES {
            return Err("the body is too long");
        } else if self.half_closed {
            return Err("nothing can be sent after a half-close");
        } else if self.left > 0 {
            return Err("it would be read as the body of the one before");
        }
        (self.left, self.begun) = (body - sent, true);
        Ok(())
    }
}

/// A time in a story: exact, and in the unit that people would use.
pub(crate) fn shown_ms(milliseconds: u64) -> String {
    if milliseconds < 1_000 {
        format!("{milliseconds} ms")
    } else {
        format!("{:.3}", milliseconds as f64 / 1e3).trim_end_matches('0').trim_end_matches('.').to_owned()
            + " s"
    }
}

fn counted(bytes: u64) -> String {
    if bytes == 1 { "1 byte".to_owned() } else { format!("{bytes} bytes") }
}

/// As a sentence in a story.
impl fmt::Display for HuntStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Request { body: 0, .. } => f.write_str("request (GET)"),
            Self::Request { body, sent } if body == sent => {
                write!(f, "request (POST) with its body of {}", counted(body))
            }
            Self::Request { body, sent: 0 } => {
                write!(f, "request (POST) that announces {}, and none of them", counted(body))
            }
            Self::Request { body, sent } => {
                write!(f, "request (POST) that announces {}, and {sent} of them", counted(body))
            }
            Self::Respond { body, sent } if body == sent => {
                write!(f, "response with its body of {}", counted(body))
            }
            Self::Respond { body, sent: 0 } => {
                write!(f, "response that announces {}, and none of them", counted(body))
            }
            Self::Respond { body, sent } => {
                write!(f, "response that announces {}, and {sent} of them", counted(body))
            }
            Self::ReadRequest => f.write_str("read the whole request"),
            Self::Send { bytes } => write!(f, "send {}", counted(bytes)),
            Self::Pause { milliseconds } => write!(f, "pause {}", shown_ms(milliseconds)),
            Self::Read { bytes } => write!(f, "read {}", counted(bytes)),
            Self::HalfClose => f.write_str("half-close"),
            Self::Close => f.write_str("close"),
            Self::Abort => f.write_str("abort"),
        }
    }
}

#[cfg(test)]
mod tests;
