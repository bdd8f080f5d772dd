//! When a server is told to reload, and when it is not.

use std::path::Path;
use std::process::Command;

use linger_probe::{
    Check, CheckAnswer, Doubt, LeftOut, ReloadBy, ReloadShown, ReloadSignal, Target, will_ask,
};
use linger_testing::sandboxed;

use crate::common::{BODY, ask, config, quiet, respond, serve};

fn page() -> String {
    serve(|stream, _, _| respond(stream, "200 OK", "", BODY))
}

/// Notes each time that it is run.
fn noting(file: &Path) -> ReloadBy {
    ReloadBy::Command(format!("echo told >> '{}'", file.display()))
}

fn times(file: &Path) -> usize {
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn a_server_is_told_as_often_as_was_said_before() {
    sandboxed(|| {
        let (folder, url) = (tempfile::tempdir().unwrap(), page());
        let file = folder.path().join("told");
        let mut config = config(&[Check::Reload]);
        (config.reload, config.repeat) = (Some(noting(&file)), 2);
        let target: Target = url.parse().unwrap();
        let plan = will_ask(&target, &config).unwrap();
        assert_eq!(times(&file), 0, "a plan tells nobody");
        let cost = plan.costs[0].1.unwrap();
        assert_eq!((cost.reloads, plan.is_stop), (2, false));
        let report = ask(&url, &config).unwrap();
        let found = &report.findings[0];
        assert_eq!((found.answer, times(&file)), (CheckAnswer::Keeps, 2), "{found:#?}");
        let counts = found.reload.unwrap();
        assert_eq!((counts.times, counts.shown), (2, Some(ReloadShown::Command)));
        assert!(counts.before.kept > 0 && counts.during.kept > 0 && counts.after.kept > 0, "{counts:?}");
        assert!(report.connections <= cost.connections + plan.plain_connections, "{report:#?}");
        // A stop is said to be one, and told once however often was to be asked.
        config.reload = Some(ReloadBy::Signal { pid: 1, signal: ReloadSignal::Term });
        let plan = will_ask(&target, &config).unwrap();
        assert_eq!((plan.costs[0].1.unwrap().reloads, plan.is_stop), (1, true));
    });
}

#[test]
fn a_server_that_others_use_is_not_told() {
    sandboxed(|| {
        let (folder, url) = (tempfile::tempdir().unwrap(), page());
        let file = folder.path().join("told");
        let mut quiet = quiet(&[Check::Reload]);
        quiet.reload = Some(noting(&file));
        quiet.only.push(Check::LargeResponse);
        let mut report = ask(&url, &quiet).unwrap();
        // Nor is it said to keep what was asked about.
        assert_eq!((report.overall(), report.doubt()), (CheckAnswer::CannotTell, Some(Doubt::Reload)));
        let found = report.findings.pop().unwrap();
        assert_eq!((found.answer, found.left_out), (CheckAnswer::CannotTell, Some(LeftOut::Active)));
        assert_eq!((found.reload, times(&file)), (None, 0));
        // Nor one of which nobody said that it is to be told.
        let all = config(&[]);
        let plan = will_ask(&url.parse().unwrap(), &all).unwrap();
        assert!(plan.costs.iter().all(|(check, _)| *check != Check::Reload));
        let found = ask(&url, &config(&[Check::Reload])).unwrap().findings.remove(0);
        assert_eq!((found.answer, found.trials), (CheckAnswer::CannotTell, 0));
    });
}

#[test]
fn a_server_that_fails_requests_before_is_not_told() {
    sandboxed(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("told");
        // The plain request is answered.
        let url = serve(|stream, number, _| {
            let status = if number % 2 == 0 { "200 OK" } else { "503 Service Unavailable" };
            respond(stream, status, "", BODY);
        });
        let mut config = config(&[Check::Reload]);
        config.reload = Some(noting(&file));
        let found = ask(&url, &config).unwrap().findings.remove(0);
        assert_eq!((found.answer, times(&file)), (CheckAnswer::CannotTell, 0), "{found:#?}");
        assert!(found.sentence.starts_with("not told:"), "{}", found.sentence);
    });
}

/// What listens at a loopback address is in this network namespace, wherever the process is.
#[test]
fn a_process_of_another_network_namespace_gets_no_signal() {
    sandboxed(|| {
        let url = page();
        let mut other = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let there = format!("/proc/{}/ns/net", other.id());
        while std::fs::read_link(&there).unwrap() == own {
            std::thread::yield_now();
        }
        let mut config = config(&[Check::Reload]);
        config.reload = Some(ReloadBy::Signal { pid: other.id(), signal: ReloadSignal::Term });
        config.pid = Some(other.id());
        let found = ask(&url, &config).unwrap().findings.remove(0);
        let lives = other.try_wait().unwrap().is_none();
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!((found.answer, lives), (CheckAnswer::CannotTell, true), "{found:#?}");
        assert!(found.sentence.contains("has no part in what listens there"), "{}", found.sentence);
    });
}

#[test]
fn a_process_that_is_not_the_servers_gets_no_signal() {
    sandboxed(|| {
        let url = page();
        let mut other = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let mut config = config(&[Check::Reload]);
        config.reload = Some(ReloadBy::Signal { pid: other.id(), signal: ReloadSignal::Term });
        let found = ask(&url, &config).unwrap().findings.remove(0);
        let lives = other.try_wait().unwrap().is_none();
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!((found.answer, lives), (CheckAnswer::CannotTell, true), "{found:#?}");
        assert!(found.sentence.contains("has no part in what listens there"), "{}", found.sentence);
    });
}
