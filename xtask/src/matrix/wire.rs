//! What tcpdump sees between probe and server: how each connection began and ended.
//!
//! A program that nobody here wrote, so that the probe's answers are compared with something that shares no code with it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::apart::PROBE;

/// One connection of the probe, as the packets show it. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WireConnection {
    pub(super) port: u16,
    pub(super) began: f64,
    /// When the client's first FIN or RST passed.
    pub(super) client_ended: Option<f64>,
    /// When the client's first RST passed.
    pub(super) client_reset: Option<f64>,
    /// When the server's first FIN passed, and how many bytes it had sent before.
    pub(super) server_finished: Option<(f64, u64)>,
    /// When the server's first RST passed.
    pub(super) server_reset: Option<f64>,
}

/// tcpdump while it runs.
#[derive(Debug)]
pub(super) struct WireWatch {
    child: Child,
    lines: JoinHandle<Vec<String>>,
}

/// The time now, in seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl WireWatch {
    /// Starts to watch in the calling thread's network namespace.
    pub(super) fn start() -> anyhow::Result<Self> {
        const ENDS: &str = "tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0";
        let mut command = Command::new("tcpdump");
        command.args(["-i", PROBE, "-n", "-tt", "-l", "--immediate-mode", "-B", "4096", "-Z", "root", ENDS]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("tcpdump (package tcpdump)")?;
        let out = child.stdout.take().context("a pipe was asked for")?;
        let mut err = BufReader::new(child.stderr.take().context("a pipe was asked for")?);
        let mut said = String::new();
        while !said.contains("listening on") {
            let before = said.len();
            err.read_line(&mut said)?;
            anyhow::ensure!(said.len() > before, "tcpdump has ended: {said}");
        }
        // What it says at its end would otherwise fill the pipe.
        thread::spawn(move || std::io::copy(&mut err, &mut std::io::sink()));
        let lines = thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).collect());
        Ok(Self { child, lines })
    }

    /// Stops, and returns the connections in the order in which they began.
    pub(super) fn finish(mut self) -> anyhow::Result<Vec<WireConnection>> {
        // Nothing tells that the last packet has been printed.
        thread::sleep(Duration::from_millis(300));
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        self.child.wait()?;
        let lines =
            self.lines.join().map_err(|_| anyhow::anyhow!("the reader of tcpdump's lines has failed"))?;
        Ok(connections(&lines))
    }
}

/// One packet of tcpdump's.
struct PacketLine<'l> {
    at: f64,
    from: u16,
    to: u16,
    is_from_server: bool,
    flags: &'l str,
    /// Behind its last byte.
    end: u64,
}

/// `1764425000.1 IP 127.0.0.1.8000 > 10.9.0.2.40000: Flags [FP.], seq 298000:300158, ack 120, win 512, length 2158`
fn line(text: &str) -> Option<PacketLine<'_>> {
    let mut words = text.split(' ');
    let at = words.next()?.parse().ok()?;
    let (_, from, _, to) = (words.next()?, words.next()?, words.next()?, words.next()?.strip_suffix(':')?);
    let port = |address: &str| address.rsplit_once('.')?.1.parse().ok();
    let (_, rest) = text.split_once("Flags [")?;
    let (flags, rest) = rest.split_once(']')?;
    let seq = rest.split_once("seq ").and_then(|(_, rest)| rest.split(',').next()).unwrap_or_default();
    let end = seq.rsplit(':').next().and_then(|end| end.parse().ok()).unwrap_or(0);
    Some(PacketLine {
        at,
        from: port(from)?,
        to: port(to)?,
        is_from_server: from.starts_with("127."),
        flags,
        end,
    })
}

fn connections(lines: &[String]) -> Vec<WireConnection> {
    let mut all: Vec<WireConnection> = Vec::new();
    for packet in lines.iter().filter_map(|text| line(text)) {
        let port = if packet.is_from_server { packet.to } else { packet.from };
        let last = all.iter_mut().rev().find(|one| one.port == port);
        let is_new = last.as_ref().is_none_or(|one| one.client_ended.is_some() || one.server_reset.is_some());
        if packet.flags == "S" && !packet.is_from_server {
            if is_new {
                all.push(WireConnection { port, began: packet.at, ..WireConnection::default() });
            }
            continue;
        }
        let Some(one) = last else {
            // Of a connection whose client left before this began: the server has taken its time.
            if packet.is_from_server && packet.flags.contains('R') {
                let (left, reset) = (Some(0.0), Some(packet.at));
                all.push(WireConnection {
                    port,
                    client_ended: left,
                    server_reset: reset,
                    ..WireConnection::default()
                });
            }
            continue;
        };
        let first = |when: &mut Option<f64>| *when = when.or(Some(packet.at));
        match (packet.is_from_server, packet.flags.contains('R'), packet.flags.contains('F')) {
            (true, true, _) => first(&mut one.server_reset),
            // The SYN has the number 0, so that the number of the FIN is one more than the bytes before it.
            (true, false, true) => {
                one.server_finished = one.server_finished.or(Some((packet.at, packet.end.saturating_sub(1))));
            }
            (false, true, _) => {
                first(&mut one.client_ended);
                first(&mut one.client_reset);
            }
            (false, false, true) => first(&mut one.client_ended),
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_connection_are_read_from_tcpdumps_lines() {
        let lines = [
            "10.0 IP 10.9.0.2.40000 > 127.0.0.1.8000: Flags [S], seq 77, win 512, options [mss 1460], length 0",
            "10.1 IP 127.0.0.1.8000 > 10.9.0.2.40000: Flags [S.], seq 5, ack 78, win 512, length 0",
            "11.0 IP 127.0.0.1.8000 > 10.9.0.2.40000: Flags [FP.], seq 298001:300158, ack 120, win 512, length 2157",
            "11.5 IP 127.0.0.1.8000 > 10.9.0.2.40000: Flags [R.], seq 300159, ack 120, win 0, length 0",
            "12.0 IP 10.9.0.2.40000 > 127.0.0.1.8000: Flags [F.], seq 120, ack 300159, win 512, length 0",
            "13.0 IP 10.9.0.2.40000 > 127.0.0.1.8000: Flags [S], seq 99, win 512, length 0",
            "13.5 IP 10.9.0.2.40000 > 127.0.0.1.8000: Flags [R], seq 100, win 0, length 0",
            "14.0 IP 127.0.0.1.8000 > 10.9.0.2.40001: Flags [R.], seq 7, ack 9, win 0, length 0",
            "what is no packet",
        ];
        let seen = connections(&lines.map(str::to_owned));
        let first = WireConnection {
            port: 40000,
            began: 10.0,
            client_ended: Some(12.0),
            client_reset: None,
            server_finished: Some((11.0, 300_157)),
            server_reset: Some(11.5),
        };
        let second = WireConnection {
            port: 40000,
            began: 13.0,
            client_ended: Some(13.5),
            client_reset: Some(13.5),
            ..WireConnection::default()
        };
        let earlier = WireConnection {
            port: 40001,
            client_ended: Some(0.0),
            server_reset: Some(14.0),
            ..WireConnection::default()
        };
        assert_eq!(seen, [first, second, earlier]);
    }
}
