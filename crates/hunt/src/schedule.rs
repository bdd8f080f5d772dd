//! What a client does on one connection, as plain data: step by step, with every size and every pause.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One thing that a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ClientStep {
    /// Sends the head of a request, and the beginning of its body.
    Request {
        /// The length of the body that the head announces; 0 is a GET, anything else a POST.
        #[serde(default)]
        body: u64,
        /// How many bytes of the body are sent with the head.
        #[serde(default)]
        sent: u64,
    },
    /// Sends what is left of the request's body, then line ends, which are no request (RFC 9112 section 2.2).
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
    /// Closes the connection. Nothing can be lost after it.
    Close,
}

/// All that a client does on one connection. When the steps are done, it reads to the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Schedule {
    /// The client's receive buffer (`SO_RCVBUF`), in bytes, before the kernel doubles it; `None`: the kernel's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_buffer: Option<u64>,
    /// The client's send buffer (`SO_SNDBUF`), in bytes; `None`: the kernel's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_buffer: Option<u64>,
    /// Whether the last request leaves the connection open; otherwise it says `Connection: close`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_alive: bool,
    /// The steps, in their order.
    #[serde(rename = "step", default)]
    pub steps: Vec<ClientStep>,
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
    /// A schedule with these steps, and the kernel's own buffers.
    pub fn of(steps: impl Into<Vec<ClientStep>>) -> Self {
        Self { steps: steps.into(), ..Self::default() }
    }

    /// Checks that a client can do this.
    ///
    /// # Errors
    /// Returns a text that names the step, counted from 1, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let (mut left, mut asked, mut half_closed, mut closed) = (0, false, false, false);
        if self.steps.len() > MOST_STEPS {
            return Err(format!("{} steps: there may be {MOST_STEPS}", self.steps.len()));
        }
        for (index, step) in self.steps.iter().enumerate() {
            let wrong = |what: &str| Err(format!("step {}, `{step}`: {what}", index + 1));
            if closed {
                return wrong("the connection is closed by then");
            }
            match *step {
                ClientStep::Request { body, sent } => {
                    if sent > body {
                        return wrong("more of the body is sent than it has");
                    } else if body > MOST_BYTES {
                        return wrong("the body is too long");
                    } else if half_closed {
                        return wrong("nothing can be sent after a half-close");
                    } else if left > 0 {
                        return wrong("it would be read as the body of the request before");
                    }
                    (left, asked) = (body - sent, true);
                }
                ClientStep::Send { .. } | ClientStep::Read { .. } if !asked => {
                    return wrong("there is no request before it");
                }
                ClientStep::Send { bytes } | ClientStep::Read { bytes }
                    if bytes == 0 || bytes > MOST_BYTES =>
                {
                    return wrong("the number of bytes must be 1 to 67108864");
                }
                ClientStep::Send { .. } if half_closed => {
                    return wrong("nothing can be sent after a half-close");
                }
                ClientStep::Send { bytes } => left = left.saturating_sub(bytes),
                ClientStep::Pause { milliseconds } => {
                    if milliseconds == 0 || Duration::from_millis(milliseconds) > LONGEST_PAUSE {
                        return wrong("a pause takes 1 to 3600000 milliseconds");
                    }
                }
                ClientStep::HalfClose if half_closed => return wrong("it is half-closed already"),
                ClientStep::HalfClose => half_closed = true,
                ClientStep::Close => closed = true,
                ClientStep::Read { .. } => {}
            }
        }
        if asked { Ok(()) } else { Err("there is no request in it".to_owned()) }
    }

    /// The sum of all pauses.
    pub fn pauses(&self) -> Duration {
        let pause = |step: &ClientStep| match step {
            ClientStep::Pause { milliseconds } => *milliseconds,
            _ => 0,
        };
        Duration::from_millis(self.steps.iter().map(pause).sum())
    }

    /// The number of requests.
    pub fn requests(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, ClientStep::Request { .. })).count()
    }

    /// The same with neighbours of one kind made one: two pauses are a longer one.
    pub(crate) fn merged(mut self) -> Self {
        let mut steps: Vec<ClientStep> = Vec::new();
        for step in self.steps {
            match (steps.last_mut(), step) {
                (Some(ClientStep::Pause { milliseconds }), ClientStep::Pause { milliseconds: more }) => {
                    *milliseconds += more;
                }
                (Some(ClientStep::Send { bytes }), ClientStep::Send { bytes: more })
                | (Some(ClientStep::Read { bytes }), ClientStep::Read { bytes: more }) => *bytes += more,
                _ => steps.push(step),
            }
        }
        self.steps = steps;
        self
    }

    /// The numbers that can be made smaller.
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        let of = |(index, step): (usize, &ClientStep)| match step {
            ClientStep::Request { body: 0, .. } => vec![],
            ClientStep::Request { .. } => vec![Parameter::Sent(index), Parameter::Body(index)],
            ClientStep::Send { .. } | ClientStep::Pause { .. } | ClientStep::Read { .. } => {
                vec![Parameter::Amount(index)]
            }
            ClientStep::HalfClose | ClientStep::Close => vec![],
        };
        self.steps.iter().enumerate().flat_map(of).collect()
    }

    pub(crate) fn value(&self, parameter: Parameter) -> u64 {
        let (Parameter::Body(index) | Parameter::Sent(index) | Parameter::Amount(index)) = parameter;
        match (parameter, self.steps.get(index)) {
            (Parameter::Body(_), Some(ClientStep::Request { body, .. })) => *body,
            (Parameter::Sent(_), Some(ClientStep::Request { sent, .. })) => *sent,
            (_, Some(ClientStep::Send { bytes } | ClientStep::Read { bytes })) => *bytes,
            (_, Some(ClientStep::Pause { milliseconds })) => *milliseconds,
            _ => 0,
        }
    }

    /// The same schedule with another value of one number.
    pub(crate) fn with(&self, parameter: Parameter, value: u64) -> Self {
        let mut changed = self.clone();
        let (Parameter::Body(index) | Parameter::Sent(index) | Parameter::Amount(index)) = parameter;
        match (parameter, changed.steps.get_mut(index)) {
            (Parameter::Body(_), Some(ClientStep::Request { body, sent })) => {
                (*body, *sent) = (value, (*sent).min(value));
            }
            (Parameter::Sent(_), Some(ClientStep::Request { body, sent })) => *sent = value.min(*body),
            (_, Some(ClientStep::Send { bytes } | ClientStep::Read { bytes })) => *bytes = value,
            (_, Some(ClientStep::Pause { milliseconds })) => *milliseconds = value,
            _ => {}
        }
        changed
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
impl fmt::Display for ClientStep {
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
            Self::Send { bytes } => write!(f, "send {}", counted(bytes)),
            Self::Pause { milliseconds } => write!(f, "pause {}", shown_ms(milliseconds)),
            Self::Read { bytes } => write!(f, "read {}", counted(bytes)),
            Self::HalfClose => f.write_str("half-close"),
            Self::Close => f.write_str("close"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: ClientStep = ClientStep::Request { body: 0, sent: 0 };
    const PAUSE: ClientStep = ClientStep::Pause { milliseconds: 5_500 };

    #[test]
    fn a_schedule_that_cannot_be_is_refused_with_its_step() {
        use ClientStep::{Close, HalfClose, Read, Request, Send};
        assert_eq!(Schedule::of([GET, PAUSE, Send { bytes: 8 }]).check(), Ok(()));
        assert_eq!(Schedule::of([PAUSE, GET, Read { bytes: 1 }, HalfClose, PAUSE, Close]).check(), Ok(()));
        let whole = [Request { body: 9, sent: 4 }, Send { bytes: 5 }, GET];
        assert_eq!(Schedule::of(whole).check(), Ok(()), "the body is whole before the next head");
        for (steps, told) in [
            (vec![], "no request"),
            (vec![PAUSE], "no request"),
            (vec![Send { bytes: 8 }, GET], "step 1"),
            (vec![GET, Send { bytes: 0 }], "step 2"),
            (vec![Request { body: 9, sent: 10 }], "step 1"),
            (vec![Request { body: 9, sent: 4 }, Send { bytes: 4 }, GET], "step 3"),
            (vec![GET, HalfClose, Send { bytes: 1 }], "step 3"),
            (vec![GET, HalfClose, GET], "step 3"),
            (vec![GET, HalfClose, HalfClose], "step 3"),
            (vec![GET, Close, PAUSE], "step 3"),
            (vec![GET, ClientStep::Pause { milliseconds: 0 }], "step 2"),
            (vec![GET; MOST_STEPS + 1], "33 steps"),
        ] {
            let refused = Schedule::of(steps.clone()).check().unwrap_err();
            assert!(refused.contains(told), "{steps:?}: {refused}");
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_one() {
        let send = |bytes| ClientStep::Send { bytes };
        let merged = Schedule::of([GET, PAUSE, PAUSE, send(1), send(2), PAUSE]).merged();
        assert_eq!(merged.steps, [GET, ClientStep::Pause { milliseconds: 11_000 }, send(3), PAUSE]);
        assert_eq!(Schedule::of([GET, GET]).merged().requests(), 2, "two requests are two");
    }

    #[test]
    fn a_number_is_changed_alone() {
        let schedule = Schedule::of([ClientStep::Request { body: 100, sent: 40 }, PAUSE]);
        let [sent, body, pause] = schedule.parameters()[..] else { panic!("{schedule:?}") };
        assert_eq!([sent, body, pause].map(|which| schedule.value(which)), [40, 100, 5_500]);
        assert_eq!(schedule.with(pause, 7).steps[1], ClientStep::Pause { milliseconds: 7 });
        assert_eq!(schedule.with(body, 10).steps[0], ClientStep::Request { body: 10, sent: 10 });
        assert_eq!(schedule.with(sent, 200).steps[0], ClientStep::Request { body: 100, sent: 100 });
    }

    #[test]
    fn times_are_exact_and_short() {
        for (milliseconds, text) in
            [(1, "1 ms"), (999, "999 ms"), (1_000, "1 s"), (5_500, "5.5 s"), (12_345, "12.345 s")]
        {
            assert_eq!(shown_ms(milliseconds), text);
        }
    }
}
