//! The program that these tests start in place of a server: `supervisor REPORT SETTINGS COMMAND...`. Runs the command,
//! and writes the report.
//!
//! Without arguments it is what a service manager starts: it supervises the program at the other end of stdin.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;

use linger_run::{Notice, Options, Via};
use rustix::thread::CapabilitySet;

fn main() {
    let mut words = std::env::args_os().skip(1);
    if std::env::args_os().len() == 1 {
        return serve();
    }
    let (Some(report), Some(settings), Some(command)) = (words.next(), words.next(), words.next()) else {
        panic!("supervisor REPORT SETTINGS COMMAND...");
    };
    let arguments: Vec<OsString> = words.collect();
    let settings = settings.to_string_lossy();
    let has = |wanted: &str| settings.split(' ').any(|word| word == wanted);
    let values =
        |key| settings.split(' ').filter_map(move |word: &str| word.strip_prefix(key)?.parse::<u64>().ok());
    let mut options = Options::default();
    options.environment = std::env::vars_os().collect();
    options.hold = has("hold");
    options.stay = has("stay");
    options.via = has("seccomp").then_some(Via::Seccomp);
    options.outgoing = has("outgoing");
    let ports = |key| values(key).filter_map(|port| u16::try_from(port).ok()).collect();
    options.exclude_ports = ports("exclude=");
    options.ports = ports("port=");
    options.policy.max_discard = values("max-discard=").next();
    options.lingerd = settings.split(' ').find_map(|word| word.strip_prefix("lingerd=")).map(Into::into);
    options.manner = report.to_string_lossy().into_owned();
    options.search = std::env::var_os("PATH").unwrap_or_default();
    if let Some(limit) = values("nofile=").next() {
        let limit = rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a lower limit");
    }
    if has("incapable") {
        without(CapabilitySet::SYS_PTRACE);
    }
    let notify = |notice: Notice<'_>| match notice {
        Notice::Refused(refusal) => eprintln!("refused: {refusal}"),
        Notice::Coverage(coverage) => eprintln!("coverage: {}", coverage.text(|_| "that is all")),
        _ => {}
    };
    match linger_run::run(&command, &arguments, &options, notify) {
        Ok(ended) => {
            std::fs::write(report, format!("{:?}", ended.report)).expect("a file of the test's");
            if let Some(signal) = ended.status.and_then(|status| status.signal()) {
                linger_run::die_of(signal);
            }
            std::process::exit(ended.status.and_then(|status| status.code()).unwrap_or(255));
        }
        Err(error) => panic!("{error}"),
    }
}

fn serve() {
    let connection = std::io::stdin().as_fd().try_clone_to_owned().expect("stdin");
    match linger_run::serve(connection, |_, _| ()) {
        Ok(served) => {
            if let Some(report) = served.report {
                std::fs::write(served.manner, format!("{report:?}")).expect("a file of the test's");
            }
        }
        Err(error) => panic!("{error}"),
    }
}

/// Drops a capability of this process and of its future children.
fn without(capability: CapabilitySet) {
    let mut own = rustix::thread::capabilities(None).expect("capabilities");
    rustix::thread::remove_capability_from_bounding_set(capability).expect("root");
    for set in [&mut own.effective, &mut own.permitted, &mut own.inheritable] {
        set.remove(capability);
    }
    rustix::thread::set_capabilities(None, own).expect("root");
}
