//! Links as scenarios write them.

use super::*;
use crate::link::Direction;
use crate::link::middlebox::{Middlebox, MiddleboxEnd, MiddleboxKind, MiddleboxTimeouts, WithoutState};
use proptest::prelude::*;

type Change<'a> = Box<dyn Fn(&mut Path) + 'a>;

fn links(text: &str) -> Result<Vec<Link>, String> {
    #[derive(Deserialize)]
    struct File {
        link: Links,
    }
    toml::from_str(text).map(|file: File| file.link.0).map_err(|error| error.to_string())
}

fn link(text: &str) -> Link {
    links(text).unwrap().remove(0)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn the_base_is_kept_unless_a_key_says_otherwise() {
    let wifi = Link::named("wifi").unwrap();
    let changed = link("[link]\nbase = \"wifi\"\nto-client = { delay = \"4ms\" }");
    assert_eq!(changed.paths[0], Path { delay: ms(4), ..wifi.paths[0].clone() });
    assert_eq!(changed.paths[1], wifi.paths[1]);
    let all = link(
        "[link]\nbase = \"wifi\"\nloss = 0.5\nmtu = 1280\nboth = { delay = \"9ms\", loss = 0.25 }\nto-server = { delay = \"1ms\" }",
    );
    assert_eq!((all.paths[0].delay, all.paths[1].delay), (ms(9), ms(1)), "one's own beats both");
    assert!(all.paths.iter().all(|path| path.loss == Loss::Each(0.25)), "both beats the link's");
    assert!(all.paths.iter().all(|path| path.rate == wifi.paths[0].rate));
    assert_eq!(all.paths[1].mtu, Some(PathMtu { bytes: 1_280, icmp: true }));
    let free = link("[link]\nbase = \"wifi\"\nrate = \"none\"");
    assert_eq!((free.paths[0].rate, free.paths[0].queue), (None, None), "a queue goes with its rate");
}

#[test]
fn a_fault_of_the_file_beats_the_presets() {
    let text = "[link]\nbase = \"overtake\"\nfault = [{ kind = \"hold-data-until-reset\", direction = \"DIR\", at_most = \"9ms\" }]";
    let hold = |direction, at_most| LinkFault::HoldDataUntilReset { direction, at_most };
    let same = link(&text.replace("DIR", "to-client"));
    assert_eq!(same.faults, [hold(Direction::ToClient, ms(9))]);
    let other = link(&text.replace("DIR", "to-server"));
    assert_eq!(other.faults, [hold(Direction::ToClient, ms(40)), hold(Direction::ToServer, ms(9))]);
}

#[test]
fn bursts_have_netems_names_and_defaults() {
    let loss = |text: &str| link(&format!("[link]\nloss = {text}")).paths[0].loss;
    let short = loss("{ model = \"gilbert-elliott\", p = 0.25 }");
    assert_eq!(
        short,
        Loss::Bursts(crate::link::loss::GilbertElliott { p: 0.25, r: 0.75, bad: 1.0, good: 0.0 })
    );
    let ours = loss("{ model = \"gilbert-elliott\", p = 0.1, r = 0.2, bad = 0.3, good = 0.4 }");
    assert_eq!(ours, loss("{ model = \"gilbert-elliott\", p = 0.1, r = 0.2, 1-h = 0.3, 1-k = 0.4 }"));
    assert_eq!((loss("1"), loss("0.5")), (Loss::Each(1.0), Loss::Each(0.5)));
}

#[test]
fn steps_change_what_they_say_from_their_time_on() {
    let walk = link(
        "[link]\nbase = \"wifi\"\n[[link.at]]\ntime = \"2s\"\nrate = \"1Mbit\"\n[[link.at]]\ntime = \"3s\"\nfor = \"500ms\"\n\
         loss = 1.0\nto-server = { delay = \"70ms\" }",
    );
    let times: Vec<Duration> = walk.changes.iter().map(|change| change.time).collect();
    assert_eq!(times, [ms(2_000), ms(3_000), ms(3_500)]);
    let at = |millis| walk.paths_at(ms(millis));
    assert_eq!(at(1_999), &walk.paths);
    assert_eq!(at(2_000)[0], Path { rate: Some(Rate(1_000_000)), ..walk.paths[0].clone() });
    assert_eq!(at(3_000)[1], Path { loss: Loss::Each(1.0), delay: ms(70), ..at(2_000)[1].clone() });
    assert_eq!(at(3_500), at(2_000), "a step that lasts is undone");
    assert_eq!(walk.clock, LinkClock::Connection);
    let shared = link("[link]\nclock = \"link\"\n[[link.at]]\ntime = \"0\"\nloss = 1.0");
    assert_eq!(shared.paths_at(ms(0))[0].loss, Loss::Each(1.0));
}

#[test]
fn several_links_have_names() {
    let names =
        |text: &str| -> Vec<String> { links(text).unwrap().into_iter().map(|link| link.name).collect() };
    assert_eq!(names("link = [\"wifi\", \"lan\"]"), ["wifi", "lan"]);
    let tables =
        "[[link]]\nbase = \"wifi\"\n[[link]]\nname = \"narrow\"\nrate = \"1k\"\n[[link]]\nbase = \"lan\"";
    assert_eq!(names(tables), ["custom", "narrow", "custom-2"]);
}

/// A link, and what its error must contain.
fn refused(link: &str, contains: &[&str]) {
    let text = format!("[link]\nbase = \"wifi\"\n{link}\n");
    let error = links(&text).unwrap_err();
    for part in contains {
        assert!(error.contains(part), "`{part}` is not in the error of {link}:\n{error}");
    }
}

#[test]
fn a_link_that_cannot_be_is_refused_with_line_and_key() {
    refused("loss = -0.1", &["line 3", "loss", "between 0 and 1"]);
    refused("both = { duplicate = 2 }", &["line 3", "duplicate", "between 0 and 1"]);
    refused("corrupt = nan", &["line 3", "corrupt", "between 0 and 1"]);
    refused("loss = \"much\"", &["line 3", "loss", "gilbert-elliott"]);
    refused("loss = { model = \"gilbert-elliott\", p = 2 }", &["line 3", "p", "2 is no probability"]);
    refused("loss = { model = \"markov\", p = 0.5 }", &["line 3", "markov", "gilbert-elliott"]);
    refused("loss = { model = \"gilbert-elliott\", q = 0.5 }", &["line 3", "`q`", "1-h"]);
    refused("loss = { p = 0.5 }", &["line 3", "model"]);
    refused("mtu = 1", &["line 3", "mtu", "1 bytes", "576 to 1500"]);
    refused("mtu = 9000", &["576 to 1500"]);
    refused("mtu = -1", &["-1 bytes"]);
    refused("mtu = \"small\"", &["small", "icmp = false"]);
    refused("rate = 0", &["line 3", "rate", "would let nothing through"]);
    refused("rate = \"1Mbit\"\ntrace = \"x\"", &["leave one out"]);
    refused("clock = \"link\"", &["clock", "neither"]);
    refused("name = \"../x\"", &["letters", "../x"]);
    refused("name = \"wifi\"", &["preset"]);
    refused("[[link.at]]\ntime = \"2s\"\n[[link.at]]\ntime = \"1s\"", &["1s stands behind the one at 2s"]);
    refused("[[link.at]]\nrate = \"1k\"", &["line 3", "missing field `time`"]);
    refused("[[link.at]]\ntime = \"-1s\"", &["line 4", "time", "write a time as"]);
    refused("[[link.at]]\ntime = \"1s\"\nrates = 3", &["line 5", "rates", "to-client"]);
    refused("[[link.at]]\ntime = \"1s\"\nrate = 0", &["line 5", "rate"]);
    refused("[[link.at]]\ntime = \"1s\"\ntrace = \"x\"", &["trace", "at a step"]);
    refused("[[link.at]]\ntime = \"1s\"\nfor = \"0\"", &["for", "changes nothing"]);
    refused("trace = \"x\"\n[[link.at]]\ntime = \"1s\"\nrate = 5", &["a `trace` says"]);
    refused(&"[[link.at]]\ntime = \"1s\"\n".repeat(1_001), &["1001 steps", "at most 1000"]);
    refused("[[link.at]]\ntime = \"1s\"\nreorder = 0.5", &["reorder_by"]);
    let error = links("link = []").unwrap_err();
    assert!(error.contains("line 1") && error.contains("empty list"), "{error}");
    let error = links("link = [\"wifi\", \"wifi\"]").unwrap_err();
    assert!(error.contains("two links are called `wifi`"), "{error}");
}

proptest! {
    /// Whatever a table says of one key, all others stay as the base has them.
    #[test]
    fn a_key_changes_itself_alone(preset in 1usize..7, key in 0usize..9, way in 0usize..3, micros in 1u64..90_000, part in 0.01..1f64) {
        let base = Link::named(PRESETS[preset]).unwrap();
        let time = format!("\"{micros}us\"");
        let (written, change): (String, Change<'_>) = match key {
            0 => (format!("delay = {time}"), Box::new(|path| path.delay = Duration::from_micros(micros))),
            1 => (format!("jitter = {time}"), Box::new(|path| path.jitter = Duration::from_micros(micros))),
            2 => (format!("rate = {micros}"), Box::new(|path| path.rate = Some(Rate(micros)))),
            3 => (format!("queue = {micros}"), Box::new(|path| path.queue = Some(Bytes(micros)))),
            4 => (format!("loss = {part}"), Box::new(|path| path.loss = part.into())),
            5 => (format!("reorder_by = {time}"), Box::new(|path| path.reorder_by = Duration::from_micros(micros))),
            6 => (format!("duplicate = {part}"), Box::new(|path| path.duplicate = part)),
            7 => (format!("corrupt = {part}"), Box::new(|path| path.corrupt = part)),
            _ => ("mtu = 1400".to_owned(), Box::new(|path| path.mtu = Some(PathMtu { bytes: 1_400, icmp: true }))),
        };
        let mut expected = base.clone();
        expected.name = "custom".to_owned();
        let table = ["both", "to-client", "to-server"][way];
        for (number, path) in expected.paths.iter_mut().enumerate() {
            if way == 0 || way == number + 1 {
                change(path);
            }
        }
        let text = format!("[link]\nbase = \"{}\"\n{table} = {{ {written} }}", PRESETS[preset]);
        prop_assert_eq!(link(&text), expected.clone());
        // The same at a step leaves the time before it alone.
        let later = link(&format!("[link]\nbase = \"{}\"\n[[link.at]]\ntime = \"1s\"\n{table} = {{ {written} }}", PRESETS[preset]));
        prop_assert_eq!(&later.paths, &base.paths);
        prop_assert_eq!(later.paths_at(ms(1_000)), &expected.paths);
    }
}

#[test]
fn a_middlebox_is_what_is_written_and_else_what_its_kind_usually_is() {
    let plain = link("[link]\nmiddlebox = { kind = \"firewall\" }").middlebox.unwrap();
    let firewall = Middlebox {
        kind: MiddleboxKind::Firewall,
        end: MiddleboxEnd::Server,
        timeouts: MiddleboxTimeouts::CONNTRACK,
        then: WithoutState::Drop,
        drop_invalid: true,
    };
    assert_eq!(plain, firewall);
    let nat =
        link("[link]\nbase = \"wifi\"\nmiddlebox = { kind = \"nat\", end = \"client\" }").middlebox.unwrap();
    let timeouts = MiddleboxTimeouts::RFC_5382;
    assert_eq!(nat, Middlebox { kind: MiddleboxKind::Nat, end: MiddleboxEnd::Client, timeouts, ..firewall });
    let all = link(
        "[link.middlebox]\nkind = \"firewall\"\nsyn = \"1s\"\nidle = \"2s\"\nhalf_closed = \"3s\"\nclosed = \"4s\"\n\
         then = \"reset-both\"\ndrop_invalid = false",
    );
    let [syn, idle, half_closed, closed] = [1_000, 2_000, 3_000, 4_000].map(ms);
    let timeouts = MiddleboxTimeouts { syn, idle, half_closed, closed };
    let expected = Middlebox { timeouts, then: WithoutState::ResetBoth, drop_invalid: false, ..firewall };
    assert_eq!(all.middlebox, Some(expected));
    assert_eq!(link("[link]\nbase = \"wifi\"").middlebox, None);
    let ecn = |text: &str| link(&format!("[link]\nbase = \"wifi\"\n{text}")).paths.map(|path| path.ecn);
    assert_eq!(ecn("ecn = \"mark\""), [Some(EcnHandling::Mark); 2]);
    assert_eq!(ecn("ecn = \"bleach\"\nto-client = { ecn = \"none\" }"), [None, Some(EcnHandling::Bleach)]);
}

#[test]
fn a_middlebox_that_cannot_be_is_refused_with_its_key() {
    for (text, part) in [
        ("middlebox = {}", "missing field `kind`"),
        ("middlebox = { kind = \"router\" }", "router"),
        ("middlebox = { kind = \"nat\", idle = \"0s\" }", "`idle` of no time"),
        ("middlebox = { kind = \"nat\", then = \"ignore\" }", "reset-both"),
        ("middlebox = { kind = \"nat\", patience = \"1s\" }", "half_closed"),
        ("rate = \"none\"\necn = \"mark\"", "needs `rate` and `queue`"),
        ("ecn = \"maybe\"", "drop-ect-syn"),
    ] {
        let error = links(&format!("[link]\nbase = \"wifi\"\n{text}")).unwrap_err();
        assert!(error.contains(part), "{part}: {error}");
    }
}
