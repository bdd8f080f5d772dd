//! Parses scenarios: TOML files with experiments and their expected results.

use std::path::Path;
use std::time::Duration;

use linger::Policy;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::cell::{CellPlan, Trials};
use crate::ending::Ending;
use crate::expectation::Expectation;
use crate::ip_version::IpVersion;
use crate::link::file::Links;
use crate::named::Named;
use crate::peer::Peer;
use crate::real::CellClient;
use crate::sweep::{self, Sizes};
use crate::units::Bytes;

/// A scenario: cells, and what is expected of them.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the scenario shows, in one line.
    pub title: String,
    /// The cells, in the order in which the file names endings and peers.
    pub cells: Vec<(CellPlan, Option<Expectation>)>,
}

/// A name or a list of names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Several {
    One(String),
    Many(Vec<String>),
}

impl Several {
    fn parse<T>(self, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
        let names = match self {
            Self::One(name) => vec![name],
            Self::Many(names) => names,
        };
        if names.is_empty() {
            return Err("an empty list: name at least one".to_owned());
        }
        names.iter().map(|name| parse(name)).collect()
    }
}

fn endings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Ending>, D::Error> {
    Several::deserialize(deserializer)?.parse(str::parse).map_err(D::Error::custom)
}

fn peers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Peer>, D::Error> {
    Several::deserialize(deserializer)?.parse(Peer::named).map_err(D::Error::custom)
}

fn clients<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CellClient>, D::Error> {
    Several::deserialize(deserializer)?.parse(str::parse).map_err(D::Error::custom)
}

fn usual_client() -> Vec<CellClient> {
    vec![CellClient::default()]
}

/// The bounds of the lingering close, as a scenario writes them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Bounds {
    #[serde(deserialize_with = "some_duration")]
    idle: Option<Duration>,
    #[serde(deserialize_with = "some_duration")]
    total: Option<Duration>,
    #[serde(deserialize_with = "some_duration")]
    grace: Option<Duration>,
    max_discard: Option<Bytes>,
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    crate::duration::deserialize(deserializer).map(Some)
}

impl Bounds {
    fn policy(&self) -> Result<Policy, linger::InvalidPolicy> {
        let mut policy = Policy::default();
        policy.idle = self.idle.unwrap_or(policy.idle);
        policy.total = self.total.unwrap_or(policy.total);
        policy.grace = self.grace.unwrap_or(policy.grace);
        policy.max_discard = self.max_discard.map(|bytes| bytes.0);
        policy.validate().map(|()| policy)
    }
}

/// What is expected, by ending.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Expected {
    close: Option<Expectation>,
    shutdown_close: Option<Expectation>,
    so_linger: Option<Expectation>,
    abort: Option<Expectation>,
    exit: Option<Expectation>,
    lingering: Option<Expectation>,
}

impl Expected {
    fn of(&self, ending: Ending) -> Option<Expectation> {
        match ending {
            Ending::Close => self.close,
            Ending::ShutdownClose => self.shutdown_close,
            Ending::SoLinger(_) => self.so_linger,
            Ending::Abort => self.abort,
            Ending::Exit => self.exit,
            Ending::Lingering => self.lingering,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    #[serde(deserialize_with = "endings")]
    ending: Vec<Ending>,
    #[serde(deserialize_with = "peers")]
    peer: Vec<Peer>,
    #[serde(default = "usual_client", deserialize_with = "clients")]
    client: Vec<CellClient>,
    link: Links,
    response: Option<Sizes>,
    request: Option<Sizes>,
    extra: Option<Sizes>,
    upload: Option<Sizes>,
    trials: Option<u64>,
    concurrency: Option<u64>,
    ip: Option<IpVersion>,
    congestion: Option<String>,
    backlog: Option<u32>,
    receive_buffer: Option<Bytes>,
    seed: Option<u64>,
    #[serde(default, deserialize_with = "some_duration")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "some_duration")]
    busy: Option<Duration>,
    #[serde(default)]
    policy: Bounds,
    #[serde(default)]
    expect: Expected,
}

impl File {
    /// The cells of all lists, links first, then sizes, endings, peers and clients.
    fn cells(self, policy: Policy) -> Result<Vec<(CellPlan, Option<Expectation>)>, String> {
        let any = CellPlan::new(self.ending[0], self.peer[0], self.link.0[0].clone());
        let sizes = [
            Sizes::or(&self.response, any.response),
            Sizes::or(&self.request, any.request),
            Sizes::or(&self.extra, any.extra),
            Sizes::or(&self.upload, any.upload),
        ];
        sweep::check(&[
            ("link", self.link.0.len()),
            ("response", sizes[0].len()),
            ("request", sizes[1].len()),
            ("extra", sizes[2].len()),
            ("upload", sizes[3].len()),
            ("ending", self.ending.len()),
            ("peer", self.peer.len()),
            ("client", self.client.len()),
        ])?;
        let sizes = sweep::product(sizes);
        let mut cells = Vec::new();
        for (link, sizes) in self.link.0.iter().flat_map(|link| sizes.iter().map(move |sizes| (link, sizes)))
        {
            for (ending, peer) in
                self.ending.iter().flat_map(|ending| self.peer.iter().map(move |peer| (*ending, *peer)))
            {
                for client in &self.client {
                    let usual = CellPlan::new(ending, peer, link.clone());
                    let plan = self.plan(usual, *client, *sizes, policy);
                    plan.validate()?;
                    cells.push((plan, self.expect.of(ending)));
                }
            }
        }
        Ok(cells)
    }

    fn plan(&self, usual: CellPlan, client: CellClient, sizes: [u64; 4], policy: Policy) -> CellPlan {
        let [response, request, extra, upload] = sizes;
        CellPlan {
            client,
            response,
            request,
            extra,
            upload,
            ip: self.ip.unwrap_or_default(),
            concurrency: self.concurrency.unwrap_or(usual.concurrency),
            trials: self.trials.map_or(usual.trials, Trials::Exactly),
            policy,
            congestion: self.congestion.clone(),
            backlog: self.backlog.unwrap_or(usual.backlog),
            receive_buffer: self.receive_buffer.map(|bytes| bytes.0 as usize),
            timeout: self.timeout.unwrap_or(usual.timeout),
            busy: self.busy.unwrap_or(usual.busy),
            seed: self.seed.unwrap_or(usual.seed),
            ..usual
        }
    }
}

impl Scenario {
    /// Reads a scenario. `name` is the file's name, for error messages; the traces that its links name count from its directory.
    ///
    /// # Errors
    /// Returns a message that names the file and the key that are wrong; for errors of syntax and type, also the line. Of a trace
    /// it names the trace's file and line.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut file: File = toml::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        let policy = file.policy.policy().map_err(|error| format!("{name}: [policy]: {error}"))?;
        let directory = Path::new(name).parent().unwrap_or(Path::new(""));
        file.link.read_traces(directory).map_err(|error| format!("{name}: [link]: {error}"))?;
        let title = std::mem::take(&mut file.title);
        let cells = file.cells(policy).map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { title, cells })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expectation::Share;

    const GOOD: &str = r#"
title = "t"
ending = ["close", "lingering"]
peer = "unread"
response = "200k"
[link]
base = "wifi"
to-client = { delay = "5ms", loss = 0.1 }
[expect]
close = "most"
lingering = "none"
"#;

    #[test]
    fn a_scenario_becomes_cells() {
        let scenario = Scenario::parse("good.toml", GOOD).unwrap();
        let [(close, expected), (lingering, _)] = &scenario.cells[..] else { panic!() };
        assert_eq!((close.ending, lingering.ending), (Ending::Close, Ending::Lingering));
        assert_eq!((close.response, *expected), (200_000, Some(Expectation::NotKept(Share::Most))));
        assert_eq!(close.link.paths[0].delay, Duration::from_millis(5));
        assert_eq!(close.link.paths[1].delay, Duration::from_millis(3), "the other way is wifi's");
    }

    #[test]
    fn lists_make_cells_of_their_own() {
        let text = GOOD
            .replace("\"200k\"", "[\"1k\", 64_000]\nrequest = [10, 20]")
            .replace("[link]", "[[link]]")
            .replace("[expect]", "[[link]]\nname = \"bare\"\n[expect]");
        let scenario = Scenario::parse("good.toml", &text).unwrap();
        let cells: Vec<_> = scenario
            .cells
            .iter()
            .map(|(plan, _)| (plan.link.name.as_str(), plan.response, plan.request, plan.ending))
            .collect();
        assert_eq!(cells.len(), 2 * 2 * 2 * 2);
        assert_eq!(cells[0], ("custom", 1_000, 10, Ending::Close));
        assert_eq!(cells[3], ("custom", 1_000, 20, Ending::Lingering));
        assert_eq!(cells[15], ("bare", 64_000, 20, Ending::Lingering));
        let many = |list: &str, count| format!("{list} = {:?}", (1..=count).collect::<Vec<_>>());
        let text = GOOD.replace("response = \"200k\"", &(many("response", 20) + "\n" + &many("extra", 30)));
        let error = Scenario::parse("bad.toml", &text).unwrap_err();
        assert!(error.contains("20 of `response` times 30 of `extra` times 2 of `ending`"), "{error}");
    }

    #[test]
    fn a_trace_counts_from_the_scenarios_directory() {
        let directory = std::env::temp_dir().join(format!("linger-trace-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("good.trace"), "1\n5\n").unwrap();
        std::fs::write(directory.join("bad.trace"), "1\n5\nx\n").unwrap();
        let name = directory.join("s.toml");
        let name = name.to_str().unwrap();
        let with = |file: &str| GOOD.replace("delay = \"5ms\"", &format!("trace = \"{file}\""));
        let good = Scenario::parse(name, &with("good.trace")).unwrap();
        let error = |file: &str| Scenario::parse(name, &with(file)).unwrap_err();
        let (bad, none, folder) = (error("bad.trace"), error("none.trace"), error("."));
        std::fs::remove_dir_all(&directory).unwrap();
        let trace = good.cells[1].0.link.paths[0].trace.as_ref().unwrap();
        assert!(trace.is_read() && trace.time(1) == 5_000_000);
        assert_eq!(good.cells[1].0.link.paths[1].trace, None);
        assert!(bad.contains("bad.trace, line 3: `x` is no time: a mahimahi trace has"), "{bad}");
        assert!(none.contains("none.trace: No such file"), "{none}");
        assert!(folder.contains("not a regular file"), "{folder}");
    }

    #[test]
    fn times_are_written_as_for_options() {
        for text in ["5ms", "5000us", "0.005"] {
            let scenario = Scenario::parse("t.toml", &GOOD.replace("5ms", text)).unwrap();
            assert_eq!(scenario.cells[0].0.link.paths[0].delay, Duration::from_millis(5), "{text}");
        }
    }

    #[test]
    fn lost_and_at_risk_can_be_expected_apart() {
        let text = GOOD.replace("\"most\"", "{ lost = \"none\", at-risk = \"all\" }");
        let scenario = Scenario::parse("good.toml", &text).unwrap();
        let expected = Expectation::Each { lost: Some(Share::None), at_risk: Some(Share::All) };
        assert_eq!(scenario.cells[0].1, Some(expected));
    }

    /// A mistake, and what its message must contain.
    fn refused(from: &str, to: &str, contains: &[&str]) {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD);
        let error = Scenario::parse("bad.toml", &text).unwrap_err();
        for part in contains {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_file_line_and_key() {
        refused("title", "titel", &["bad.toml", "line 2", "titel"]);
        refused("loss = 0.1", "loss = 1.5", &["bad.toml", "line 8", "loss", "between 0 and 1"]);
        refused("delay = \"5ms\"", "rate = -4", &["bad.toml", "line 8", "rate"]);
        refused("delay = \"5ms\"", "delay = \"-5ms\"", &["line 8", "delay", "write a time as 30ms"]);
        refused("delay = \"5ms\"", "delay = \"11y\"", &["line 8", "delay", "ten years"]);
        refused("delay = \"5ms\"", "delay = 5", &["line 8", "delay", "expected a string"]);
        refused("\"wifi\"", "\"wify\"", &["wify", "wifi-lossy"]);
        refused("\"unread\"", "\"rude\"", &["line 4", "rude", "reads-all"]);
        refused("peer =", "client = \"rude\"\npeer =", &["line 4", "rude", "sends-first"]);
        refused("\"close\", ", "\"closed\", ", &["line 3", "closed", "shutdown-close"]);
        refused("\"200k\"", "\"200 parsecs\"", &["line 5", "response", "KiB"]);
        refused("\"200k\"", "-5", &["line 5", "response", "-5", "positive"]);
        refused("\"200k\"", "[\"1k\", \"x\"]", &["line 5", "response", "`x`"]);
        refused("\"200k\"", "[\"1k\", 1000]", &["line 5", "response", "1000 bytes stand twice"]);
        refused("\"200k\"", "[]", &["line 5", "response", "empty list"]);
        refused("\"most\"", "\"many\"", &["line 10", "close", "most"]);
        refused("\"most\"", "{ lost = \"many\" }", &["line 10", "close", "most"]);
        refused("\"most\"", "{ gone = \"most\" }", &["line 10", "gone", "at-risk"]);
        refused("\"most\"", "9", &["line 10", "close", "none, some, most or all"]);
    }
}
