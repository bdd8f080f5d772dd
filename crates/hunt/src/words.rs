//! The sentences that the text, the page and the report for CI have in common.

use std::fmt;

use linger_netns::Counters;

use crate::report::{
    ClientLoss, ClientLossKind, LostOnce, LostResponse, OutputCheck, PlainRequests, Repeats,
};
use crate::retell::Retold;
use crate::schedule::{HuntStep, Player, shown_ms};
use crate::shrink::{BoundedNumber, LossBound};
use crate::story::Story;

/// The steps in one line.
impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.schedule.steps.iter().enumerate() {
            write!(f, "{}{step}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl Story {
    /// The side that is played, in words: the link, its buffers, and whether it leaves the connection open.
    pub fn side(&self) -> String {
        let mut client = format!("the {}", self.schedule.plays.name());
        if let Some(link) = &self.link {
            client += &format!(" over {link}");
        }
        for (name, bytes) in
            [("receive buffer", self.schedule.receive_buffer), ("send buffer", self.schedule.send_buffer)]
        {
            if let Some(bytes) = bytes {
                client += &format!(", {name} {bytes} bytes");
            }
        }
        client + if self.schedule.keep_alive { ", Connection: keep-alive" } else { "" }
    }

    /// What that side does when its steps are done, in words; `None` if nothing is left to do.
    pub fn ending(&self) -> Option<&'static str> {
        let schedule = &self.schedule;
        match (schedule.plays, schedule.steps.last()) {
            (Player::Server, Some(HuntStep::Close | HuntStep::Abort)) => None,
            (Player::Server, _) if schedule.keep_alive => {
                Some("send the rest, and serve until the client closes")
            }
            (Player::Server, _) => Some("send the rest, half-close, and read until the client closes"),
            _ => Some("read to the end"),
        }
    }
}

/// How many of the trials lost, with the 95% interval of the rate.
impl fmt::Display for Repeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        write!(f, "{} of {} trials ({:.0}% to {:.0}%)", self.lost, self.tried, low * 100.0, high * 100.0)
    }
}

/// How a client has lost something.
fn by_client(lost: &LostResponse, client: &ClientLoss, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let bytes = |bytes: Option<u64>| match bytes {
        None => "unknown length".to_owned(),
        Some(1) => "1 byte".to_owned(),
        Some(bytes) => format!("{bytes} bytes"),
    };
    let response = bytes(lost.expected);
    let status = lost.status.map_or(String::new(), |status| format!(" (status {status})"));
    let exit = client.exit.map_or("does not end".to_owned(), |exit| format!("exits with {exit}"));
    match client.kind {
        ClientLossKind::Response => {
            let (connections, output) = (client.connections, client.output);
            write!(
                f,
                "a response of {response}{status} that the client's kernel had whole: the client {exit}"
            )?;
            write!(f, ", with {output} bytes of output")?;
            if connections > 1 { write!(f, ", after {connections} connections") } else { Ok(()) }
        }
        ClientLossKind::Cut => {
            write!(
                f,
                "{} bytes of a response of {response}{status} were sent, and the client {exit}",
                lost.got
            )
        }
        ClientLossKind::Upload => {
            let (received, announced) = (client.received, bytes(client.announced));
            write!(f, "{received} bytes of an upload of {announced} came, and the client {exit}")
        }
    }?;
    f.write_str(if lost.reset { "; the connection was reset" } else { "" })
}

/// What became of the response.
impl fmt::Display for LostResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(client) = &self.by_client {
            return by_client(self, client, f);
        }
        if self.response > 1 {
            write!(f, "of response {}, ", self.response)?;
        }
        write!(f, "{}", self.got)?;
        if let Some(expected) = self.expected {
            write!(f, " of {expected}")?;
        }
        f.write_str(" bytes")?;
        if let Some(status) = self.status.filter(|status| *status > 0) {
            write!(f, " (status {status})")?;
        }
        f.write_str(if self.reset { ", then a reset" } else { ", then a clean end" })?;
        f.write_str(if self.write_failed { "; a write of the client's had failed" } else { "" })
    }
}

/// What a client does where it is served plainly, and how it is judged.
impl fmt::Display for PlainRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, upload, output, .. } = self;
        write!(f, "{requests} request{}", if *requests == 1 { "" } else { "s" })?;
        if *upload > 0 {
            write!(f, " with {upload} bytes")?;
        }
        f.write_str(match output {
            OutputCheck::Bodies => "; its output is the response",
            OutputCheck::Same => "; its output is always the same",
            OutputCheck::Expected => "; its output has to be as expected",
            OutputCheck::Unknown => "; its output differs, so that its exit status alone counts",
        })
    }
}

/// A boundary, with its step.
impl fmt::Display for LossBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: u64| match self.what {
            BoundedNumber::Pause => shown_ms(value),
            _ if value == 1 => "1 byte".to_owned(),
            _ => format!("{value} bytes"),
        };
        let name = match self.what {
            BoundedNumber::Pause => "pause",
            BoundedNumber::Sent => "sent",
            BoundedNumber::Read => "read",
            BoundedNumber::Body => "body announced",
            BoundedNumber::BodySent => "body sent",
        };
        write!(f, "step {}, {name}: loses from {} on", self.step, shown(self.loses_from))?;
        self.keeps_at.map_or(Ok(()), |keeps| write!(f, ", keeps at {}", shown(keeps)))
    }
}

impl LostOnce {
    /// How often it did not come again.
    pub fn again(&self) -> String {
        match self.tried {
            0 => "lost once; interrupted before it was tried again".to_owned(),
            1 => "lost once, and not in one more trial".to_owned(),
            tried => format!("lost once, and in none of {tried} more trials"),
        }
    }
}

impl Retold {
    /// Why there are no packets of a loss; `None` if there are.
    pub fn absent(&self) -> Option<String> {
        let Self { link, trials, lost, interrupted, .. } = self;
        let over = format!("over {link}, from which it can be captured, it was not lost in {trials} trials");
        match lost {
            Some(_) => None,
            None if *interrupted => Some(format!("interrupted: {over}")),
            None => Some(format!("{over}: there are no packets to show")),
        }
    }
}

/// The counters of resets and of full queues that grew, in words.
pub fn counted(counters: &Counters) -> String {
    let counted: Vec<String> = linger_lab::COUNTERS
        .iter()
        .filter(|name| counters.of(name) > 0)
        .map(|name| format!("{name} {}", counters.of(name)))
        .collect();
    if counted.is_empty() { "no reset".to_owned() } else { counted.join(", ") }
}

/// A time in a story, exact, in the unit that people would use.
pub fn milliseconds(milliseconds: u64) -> String {
    shown_ms(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_and_a_boundary_are_told_in_a_sentence() {
        let mut lost = LostResponse {
            response: 1,
            status: Some(200),
            got: 9,
            expected: Some(300),
            reset: true,
            write_failed: false,
            by_client: None,
        };
        assert_eq!(lost.to_string(), "9 of 300 bytes (status 200), then a reset");
        (lost.response, lost.expected, lost.status, lost.reset, lost.write_failed) =
            (2, None, None, false, true);
        assert_eq!(
            lost.to_string(),
            "of response 2, 9 bytes, then a clean end; a write of the client's had failed"
        );
        let bound =
            LossBound { step: 2, what: BoundedNumber::Pause, loses_from: 5_158, keeps_at: Some(4_947) };
        assert_eq!(bound.to_string(), "step 2, pause: loses from 5.158 s on, keeps at 4.947 s");
        let bound = LossBound { step: 3, what: BoundedNumber::Sent, loses_from: 1, keeps_at: None };
        assert_eq!(bound.to_string(), "step 3, sent: loses from 1 byte on");
        let repeats = Repeats { tried: 20, judged: 20, lost: 20, at_risk: 0 };
        assert_eq!(repeats.to_string(), "20 of 20 trials (84% to 100%)");
    }
}
