//! The sentences that the text, the page and the report for CI have in common.

use std::fmt;

use linger_netns::Counters;

use crate::report::{LostOnce, LostResponse, Repeats};
use crate::retell::Retold;
use crate::schedule::shown_ms;
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
    /// The client, in words: the link, its buffers, and whether it leaves the connection open.
    pub fn client(&self) -> String {
        let mut client = "the client".to_owned();
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
}

/// How many of the trials lost, with the 95% interval of the rate.
impl fmt::Display for Repeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        write!(f, "{} of {} trials ({:.0}% to {:.0}%)", self.lost, self.tried, low * 100.0, high * 100.0)
    }
}

/// What became of the response.
impl fmt::Display for LostResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
