//! The page says what was found and what was not done, draws each trial, and makes no stranger's text markup.

use std::time::Duration;

use linger_netns::Counters;

use super::*;
use crate::judge::Unjudged;
use crate::report::{FoundLoss, LostOnce, Searched};
use crate::schedule::{HuntStep, Schedule};
use crate::shrink::{BoundedNumber, LossBound};
use crate::trials::TrialMap;

const STRANGE: &str = "<script>alert(1)</script>\u{1b}]0;x\u{7}\" onload='x'\u{202e}&";
const GET: HuntStep = HuntStep::Request { body: 0, sent: 0 };

fn late(milliseconds: u64, bytes: u64) -> Story {
    let steps = [GET, HuntStep::Pause { milliseconds }, HuntStep::Send { bytes }];
    Story::new(Some("loopback".into()), Schedule::of(steps))
}

fn cut() -> LostResponse {
    LostResponse {
        response: 1,
        status: Some(200),
        got: 9,
        expected: Some(300),
        reset: true,
        write_failed: false,
        by_client: None,
    }
}

fn repeats(tried: u64, lost: u64) -> Repeats {
    Repeats { tried, judged: tried, lost, at_risk: 0 }
}

fn blank(ended: SearchEnd) -> HuntReport {
    let mut searched = Searched::default();
    for (story, verdict) in [
        (late(7, 1), Ok(Verdict::Kept)),
        (late(7, 1), Ok(Verdict::Kept)),
        (late(60, 40), Ok(Verdict::AtRisk)),
        (late(5_158, 1), Ok(Verdict::Lost)),
        (late(20, 2_000_000), Err(Unjudged::Silent)),
    ] {
        searched.count(&story, verdict);
    }
    (searched.time, searched.connections) = (Duration::from_millis(8_049), 256);
    HuntReport {
        client: None,
        response_bytes: 300,
        status: 200,
        site: "127.0.0.1:8080/large".into(),
        framed: true,
        half_closes: true,
        searched,
        found: None,
        unrepeated: Vec::new(),
        at_risk: None,
        ended,
    }
}

fn found() -> FoundLoss {
    let mut map = TrialMap::default();
    map.count(&late(5_158, 1).schedule, Ok(Verdict::Lost));
    let bound = LossBound { step: 2, what: BoundedNumber::Pause, loses_from: 5_158, keeps_at: Some(4_947) };
    FoundLoss {
        story: late(5_158, 1),
        drawn: late(6_000, 5_585),
        index: 157,
        after: Duration::from_secs(8),
        repeats: repeats(20, 20),
        lost: cut(),
        bounds: vec![bound],
        unread_from: Some(37),
        whole: true,
        shrinking: 38,
        counters: Some([("TCPAbortOnData", 20)].into_iter().collect::<Counters>()),
        client_counters: None,
        map,
    }
}

fn retold(lost: Option<LostResponse>, interrupted: bool) -> Retold {
    let trials = if interrupted { 2 } else { 5 };
    Retold {
        link: "lan".into(),
        trials,
        lost,
        client: None,
        counters: None,
        client_counters: None,
        interrupted,
    }
}

fn page<'p>(report: &HuntReport, change: impl FnOnce(&mut PageFacts<'p>)) -> String {
    let mut facts = PageFacts::new("nginx -c x", "linger hunt --seed 7 -- nginx -c x", Tools::default());
    change(&mut facts);
    let mut page = Vec::new();
    super::report(&mut page, report, &facts).unwrap();
    well_formed(String::from_utf8(page).unwrap())
}

/// Panics where an element is closed that is not open.
fn well_formed(page: String) -> String {
    let mut open = Vec::new();
    let mut rest = page.as_str();
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = rest[at + 1..end].split(' ').next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{}", &rest[..end]);
        } else if tag != "meta" && tag != "br" && !tag.starts_with('!') && !rest[..end].ends_with('/') {
            open.push(tag);
        }
        rest = &rest[end + 1..];
        if tag == "style" || tag == "script" {
            rest = &rest[rest.find(&format!("</{tag}>")).expect("it ends")..];
        }
    }
    assert!(open.is_empty(), "{open:?}");
    page
}

fn first_line(page: &str) -> &str {
    page.split_once("<h1").unwrap().1.split_once("</h1>").unwrap().0.split_once('>').unwrap().1
}

#[test]
fn the_first_line_says_what_came_of_the_hunt_in_how_many_schedules_how_long_and_whose() {
    let mut report = blank(SearchEnd::Time);
    let of = |report: &HuntReport| first_line(&page(report, |_| {})).to_owned();
    assert_eq!(of(&report), "Nothing lost in 5 schedules in 8.0 s. Server: nginx -c x");
    assert!(page(&report, |_| {}).contains("<h1 class=\"good\">"));
    report.ended = SearchEnd::Stopped;
    assert_eq!(of(&report), "Nothing lost in 5 schedules in 8.0 s; interrupted. Server: nginx -c x");
    assert!(!page(&report, |_| {}).contains("<h1 class=\"good\">"), "it was not searched to the end");
    report.ended = SearchEnd::ServerEnded { status: "exit status: 7".into(), said: STRANGE.into() };
    assert!(of(&report).contains("; the server ended (exit status: 7)."), "{}", of(&report));
    report.at_risk = Some(late(60, 40));
    assert!(of(&report).starts_with("Nothing lost, but 1 at risk, in 5 schedules"), "{}", of(&report));
    report.unrepeated = vec![LostOnce { story: late(9, 9), lost: cut(), tried: 10 }];
    assert!(of(&report).starts_with("Lost once, and not again; searched: 5"), "{}", of(&report));
    (report.found, report.ended) = (Some(found()), SearchEnd::Stopped);
    assert_eq!(
        of(&report),
        "Lost: 9 of 300 bytes (status 200), then a reset, in 20 of 20 trials (84% to 100%); searched: 5 schedules in 8.0 s; \
         interrupted. Server: nginx -c x"
    );
}

#[test]
fn a_story_has_its_steps_rate_boundary_link_and_counters() {
    let mut report = blank(SearchEnd::Found);
    report.found = Some(found());
    report.unrepeated = vec![LostOnce { story: late(9, 9), lost: cut(), tried: 10 }];
    let page = page(&report, |_| {});
    for told in [
        "lost in 20 of 20 trials (84% to 100%)",
        "<li>pause 5.158 s</li>",
        "step 2, pause: loses from 5.158 s on, keeps at 4.947 s",
        "loses if 37 bytes or more are unread",
        "<dt>Link</dt><dd>loopback</dd>",
        "in these trials: TCPAbortOnData 20",
        "shrunk in 38 trials</dd>",
        "number 157 of its seed: request (GET), pause 6 s, send 5585 bytes",
        "lost once, and in none of 10 more trials",
        "<tr><td>a pause of 1 s to 10 s</td><td class=\"number\">1</td></tr>",
        "<tr><td>1 MB to 10 MB sent at a time</td><td class=\"number\">1</td></tr>",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert_eq!(page.matches("<article").count(), 2);
}

#[test]
fn what_was_not_done_is_said() {
    let mut report = blank(SearchEnd::Stopped);
    report.found = Some(FoundLoss { whole: false, ..found() });
    report.unrepeated = vec![LostOnce { story: late(9, 9), lost: cut(), tried: 0 }];
    let interrupted = page(&report, |facts| facts.no_packets = Some("interrupted before they were captured"));
    for told in [
        "shrunk in 38 trials, and not to the end: interrupted</dd>",
        "none: interrupted before they were captured",
        "lost once; interrupted before it was tried again",
    ] {
        assert!(interrupted.contains(told), "{told}: {interrupted}");
    }
    report.ended = SearchEnd::Found;
    assert!(page(&report, |_| {}).contains("and not to the end: the time was over"));
    for (retold, told) in [
        (retold(None, false), "not lost in 5 trials: there are no packets to show"),
        (
            retold(None, true),
            "interrupted: over lan, from which it can be captured, it was not lost in 2 trials</dd>",
        ),
        (retold(Some(cut()), false), "over lan, they show no failure"),
    ] {
        let page = page(&report, |facts| facts.packets = Some(PagePackets::new(&retold, None)));
        assert!(page.contains(told), "{told}: {page}");
    }
}

#[test]
fn each_trial_has_its_cell_which_says_by_letter_what_it_says_by_colour() {
    let mut report = blank(SearchEnd::Time);
    let searched = page(&report, |_| {});
    for told in [
        "<td class=\"few\" title=\"pauses: 5 ms to 10 ms; sent: 1 B to 3 B: 2 kept, 0 at risk, 0 lost, 0 undecided\">2</td>",
        "<td class=\"atrisk\" title=\"pauses: 50 ms to 100 ms; sent: 30 B to 100 B: 0 kept, 1 at risk, 0 lost, 0 undecided\">R1</td>",
        "<td class=\"lost\" title=\"pauses: 5 s to 10 s; sent: 1 B to 3 B: 0 kept, 0 at risk, 1 lost, 0 undecided\">L1</td>",
        "<td class=\"undecided\" title=\"pauses: 20 ms to 50 ms; sent: 1 MB to 3 MB: 0 kept, 0 at risk, 0 lost, 1 undecided\">?1</td>",
    ] {
        assert!(searched.contains(told), "{told}: {searched}");
    }
    assert_eq!(searched.matches("<table class=\"heat\">").count(), 1);
    report.found = Some(found());
    let with_story = page(&report, |_| {});
    assert_eq!(with_story.matches("<table class=\"heat\">").count(), 2, "and the trials of its shrinking");
    assert_eq!(with_story.matches("<td class=\"lost here\"").count(), 2);
    report.searched.map = TrialMap::default();
    report.found = None;
    assert!(!page(&report, |_| {}).contains("class=\"heat\""), "no trial, no table");
}

#[test]
fn strangers_text_is_shown_and_does_nothing() {
    let mut report = blank(SearchEnd::ServerEnded { status: STRANGE.into(), said: STRANGE.into() });
    report.site = STRANGE.into();
    let mut story = late(1, 1);
    story.link = Some(STRANGE.into());
    report.at_risk = Some(story.clone());
    report.unrepeated = vec![LostOnce { story, lost: cut(), tried: 10 }];
    let long = STRANGE.repeat(500);
    let page = page(&report, |facts| (facts.server, facts.again) = (&long, STRANGE));
    assert_eq!(page.matches("<script>").count(), 1, "our own");
    assert!(!page.contains(['\u{1b}', '\u{7}', '\u{202e}']));
    assert!(page.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count() >= 505);
    assert!(first_line(&page).len() < 3_000, "{}", first_line(&page).len());
}

#[test]
fn a_replay_says_how_far_it_came() {
    let story = late(5_158, 1);
    let facts = PageFacts::new("nginx -c x", "linger hunt --replay s.toml -- nginx -c x", Tools::default());
    let lost = cut();
    let of = |repeats: Repeats, lost| {
        let mut page = Vec::new();
        replay(&mut page, &Replayed::new(&story, repeats, 10, lost), &facts).unwrap();
        let page = well_formed(String::from_utf8(page).unwrap());
        (first_line(&page).to_owned(), page)
    };
    let (first, page) = of(repeats(4, 4), Some(&lost));
    assert!(first.contains("in 4 of 4 trials (51% to 100%); interrupted after 4 of 10 trials."), "{first}");
    assert!(page.contains("lost in 4 of 4 trials (51% to 100%); interrupted after 4 of 10 trials</dd>"));
    assert!(of(repeats(10, 0), None).0.starts_with("Nothing lost in 10 trials. "));
    assert!(of(repeats(0, 0), None).0.starts_with("Could not tell: 0 trials; interrupted after 0 of 10"));
    let unsure = Repeats { judged: 7, ..repeats(10, 0) };
    assert!(of(unsure, None).0.starts_with("Nothing lost in 10 trials; 3 say nothing about losses"));
    let risky = Repeats { at_risk: 2, ..repeats(10, 0) };
    assert!(of(risky, None).0.starts_with("At risk in 2 of 10 trials"));
}
