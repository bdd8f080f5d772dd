//! The recorded decisions of the preloaded library, replayed: see the head of `fixtures/preload.txt`.

#[path = "fixtures/differences.rs"]
mod differences;

use std::fmt::Write as _;

use linger_custody::process::{Close, Epolls, Executes, Last, Phase, ShareWord, Shares, Shutdown, Table};
use linger_custody::{Count, Discarded, Fate, Socket, after_discarding, fate};

use differences::DIFFERENCES;

const FIXTURES: &str = include_str!("fixtures/preload.txt");

const FD: i32 = 3;
const OTHER: i32 = 4;
const COOKIE: u64 = 77;

/// One line.
struct Line<'a> {
    event: &'a str,
    before: &'a str,
    facts: Vec<(&'a str, &'a str)>,
    answer: String,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Self {
        let (head, answer) = text.split_once('!').unwrap();
        let (head, facts) = head.split_once('?').unwrap();
        let (event, before) = head.trim().split_once(' ').unwrap();
        let facts = facts.split_whitespace().map(|fact| fact.split_once('=').unwrap()).collect();
        Self { event, before, facts, answer: answer.trim().to_owned() }
    }

    fn had(&self, flag: &str) -> bool {
        self.before.split(',').any(|known| known == flag)
    }

    fn is(&self, fact: &str) -> bool {
        self.facts.iter().any(|(name, value)| *name == fact && *value == "yes")
    }

    fn is_not(&self, fact: &str) -> bool {
        self.facts.iter().any(|(name, value)| *name == fact && *value == "no")
    }
}

struct World {
    table: Table<16>,
    shares: Vec<ShareWord>,
    done: Vec<String>,
}

impl World {
    fn shares(&self) -> Shares<'_> {
        Shares::new(&self.shares)
    }

    /// The entry of a line, got by events.
    fn new(line: &Line<'_>) -> Self {
        let shares = (0..8).map(|_| ShareWord::new()).collect();
        let world = Self { table: Table::new(), shares, done: Vec::new() };
        let (table, shares) = (&world.table, world.shares());
        table.belongs_to(1);
        if line.had("none") {
            return world;
        }
        assert_eq!(table.accepted(FD, COOKIE, line.had("held"), shares), None);
        if line.had("copied") || line.is("copies") {
            assert_eq!(table.copied(FD, OTHER, shares), None);
            if line.is_not("copies") {
                assert_eq!(table.close(OTHER, Some(COOKIE), shares, false), Close::Leave);
            }
        }
        let epolls = if line.had("epolls") { 2 } else { usize::from(line.had("epoll")) };
        (10..).take(epolls).for_each(|epoll| table.watched(FD, epoll));
        if line.had("handed") {
            assert!(table.handed(FD, shares));
        }
        if line.had("share") {
            assert!(table.begins());
            table.fds(0, i32::MAX).for_each(|fd| assert_eq!(table.prepare(fd, shares), None));
            if line.is("share_last") {
                let child = table.forked();
                child.child(2);
                for fd in [FD, OTHER] {
                    let _ = child.close(fd, Some(COOKIE), shares, false);
                }
            }
            if !line.had("forking") {
                table.parent();
            }
        }
        world
    }

    fn entry(&self, fd: i32) -> String {
        let Some(entry) = self.table.entry(fd) else { return "none".into() };
        let mut text = String::from("tracked");
        for (flag, name) in [
            (entry.fds > 1, "copied"),
            (entry.phase == Phase::Handed, "handed"),
            (entry.phase == Phase::Given, "given"),
            (entry.forking, "forking"),
            (entry.held, "held"),
            (entry.shared, "share"),
            (matches!(entry.epolls, Epolls::One(_)), "epoll"),
            (entry.epolls == Epolls::Many, "epolls"),
        ] {
            if flag {
                write!(text, ",{name}").unwrap();
            }
        }
        text
    }

    fn did(&mut self, what: impl Into<String>) {
        self.done.push(what.into());
    }

    fn count(&mut self, count: Count) {
        self.did(format!("count:{count:?}"));
    }

    fn seen(&mut self, reason: Count) {
        self.count(Count::Seen);
        self.count(reason);
    }

    fn unhold(&mut self, unhold: bool) {
        if unhold {
            self.did("send:Release");
        }
    }

    fn send(&mut self, kind: &str, pass: bool) {
        self.did(format!("send:{kind}{}", if pass { "+fd" } else { "" }));
    }

    fn unwatch(&mut self, epolls: Epolls) {
        self.did(match epolls {
            Epolls::Unknown => "unwatch:unknown",
            Epolls::One(_) => "unwatch:one",
            Epolls::Many => "unwatch:many",
        });
    }

    /// As the driver does.
    fn settle(&mut self, line: &Line<'_>) -> Fate {
        let socket = Socket {
            aborts: line.is("aborts"),
            peer_finished: line.is("finished"),
            over: line.is("over"),
            unread: u32::from(line.is("unread")),
        };
        let settled = match fate(&socket) {
            Fate::Discard => {
                after_discarding(match line.facts.iter().rfind(|(name, _)| *name == "discard").unwrap().1 {
                    "end" => Discarded::ToTheEnd,
                    "failed" => Discarded::Failed,
                    "unable" => Discarded::Unable,
                    other => panic!("{other}"),
                })
            }
            settled => settled,
        };
        if settled == Fate::Plain(Count::Drained) {
            self.count(Count::Unread);
        }
        settled
    }

    fn finish(&mut self, line: &Line<'_>, last: Last) {
        let settled = self.settle(line);
        if settled == Fate::Linger && line.is("unread") {
            self.count(Count::Unread);
        }
        if last.held || settled == Fate::Linger {
            self.unwatch(last.epolls);
        }
        if let Fate::Plain(reason) = settled {
            self.unhold(last.held);
            return self.seen(reason);
        }
        self.send("Close", !last.held);
        self.seen(Count::Handed);
        self.did("half_close");
    }

    fn announce(&mut self, line: &Line<'_>, last: Last) -> Count {
        self.count(Count::Seen);
        let reason = match self.settle(line) {
            Fate::Plain(reason) => {
                self.unhold(last.held);
                reason
            }
            _ => {
                self.send("Last", !last.held);
                Count::Handed
            }
        };
        self.count(reason);
        reason
    }

    fn close(&mut self, line: &Line<'_>) {
        let cookie = if line.is("cookie_same") { COOKIE } else { COOKIE + 1 };
        let leaving = line.event == "with_process";
        match self.table.close(FD, Some(cookie), self.shares(), true) {
            Close::Leave | Close::Wait => {}
            Close::Unhold(_) => self.unhold(true),
            Close::Shared(held) => {
                self.unhold(held.is_some());
                if !leaving {
                    self.seen(Count::Shared);
                }
            }
            Close::Handed(epolls, held) => {
                self.unwatch(epolls);
                self.unhold(held.is_some());
            }
            Close::Last(last) if leaving => drop(self.announce(line, last)),
            Close::Last(last) => self.finish(line, last),
        }
    }

    fn shutdown(&mut self, line: &Line<'_>) {
        match self.table.shutdown(FD, Some(COOKIE), self.shares()) {
            Shutdown::HandOver { .. } if !line.is("finished") && !line.is("over") => {
                if line.is("unread") {
                    self.count(Count::Unread);
                }
                self.did("half_close");
                self.send("Shutdown", true);
                assert!(self.table.handed(FD, self.shares()));
                self.seen(Count::Handed);
                self.did("result:done");
            }
            Shutdown::Done => self.did("result:done"),
            Shutdown::Leave | Shutdown::HandOver { .. } => self.did("result:own"),
        }
    }

    fn exec(&mut self, line: &Line<'_>) {
        for fd in [FD, OTHER] {
            let unhold = self.table.will_close(fd, !line.is_not("closes"));
            self.unhold(unhold.is_some());
        }
        match self.table.executes(FD, Some(COOKIE), self.shares()) {
            Executes::Leave => {}
            Executes::Unhold(_) => self.unhold(true),
            Executes::Last(last) => {
                let reason = self.announce(line, last);
                self.table.announced(FD, reason);
            }
        }
    }

    fn event(&mut self, line: &Line<'_>) {
        let held = line.is("hold");
        match line.event {
            // A port that is not to be ended well: the driver does not tell.
            "accepted" if line.answer == "-> none" => {}
            "accepted" => {
                if held {
                    self.send("Hold", true);
                }
                assert_eq!(self.table.accepted(FD, COOKIE, held, self.shares()), None);
            }
            "received" => {
                // The driver asks the socket; what it does then is what it does for an accepted one.
            }
            "given" => {
                let unhold = self.table.given_away(FD);
                self.unhold(unhold.is_some());
            }
            "copied" if line.is("own") => {
                assert_eq!(self.table.copied(FD, OTHER + 1, self.shares()), None);
            }
            "copied" => {
                let unhold = self.table.given_away(FD);
                self.unhold(unhold.is_some());
            }
            "watch" => self.table.watched(FD, 11),
            "close" | "with_process" => self.close(line),
            "shutdown" => self.shutdown(line),
            "exec" => self.exec(line),
            "exec_failed" => {
                // What is not inherited was announced before.
                let first = Line { facts: vec![("closes", line.facts[0].1)], ..Line::parse("exec - ? !") };
                self.exec(&first);
                self.done.clear();
                let back = self.table.failed_to_execute(FD, Some(COOKIE), self.shares());
                self.unhold(back.unhold.is_some());
                if let Some(reason) = back.uncount {
                    self.did(format!("uncount:{reason:?}"));
                }
            }
            "prepare" => {
                assert!(self.table.begins());
                let unhold = self.table.prepare(FD, self.shares());
                self.unhold(unhold.is_some());
            }
            "parent" => self.table.parent(),
            "child" => {
                self.table.child(2);
                if held && self.table.child_holds(FD, Some(COOKIE), self.shares()) {
                    self.send("Hold", true);
                }
            }
            other => panic!("{other}"),
        }
    }
}

fn answer(line: &Line<'_>) -> String {
    let mut world = World::new(line);
    world.event(line);
    let mut answer = world.done.clone();
    answer.push("->".into());
    answer.push(if line.event == "received" { "-".into() } else { world.entry(FD) });
    if line.event == "copied" {
        answer.push(format!("copy={}", world.entry(OTHER + 1)));
    }
    answer.join(" ")
}

#[test]
fn recorded_decisions_are_kept() {
    let lines: Vec<&str> = FIXTURES.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.len() > 100);
    let mut wrong = Vec::new();
    let listed: Vec<_> = DIFFERENCES.iter().flat_map(|(_, lines)| *lines).collect();
    let mut used = vec![0; listed.len()];
    for text in lines {
        let line = Line::parse(text);
        let answer = answer(&line);
        // With its end, so that a whole line can be told from the beginning of a longer one.
        let found = listed.iter().position(|(start, _)| format!("{text}\n").starts_with(start));
        if let Some(at) = found {
            used[at] += 1;
            assert_ne!(line.answer, answer, "{text}: a listed difference is none");
        }
        let expected = found.map_or(line.answer.as_str(), |at| listed[at].1);
        if answer != expected {
            wrong.push(format!("{text}\n    now: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(used.iter().all(|times| *times == 1), "each listed difference is of one line: {used:?}");
}
