//! What these tests start in a server's place: `supervisor REPORT SETTINGS COMMAND...`. Runs the command, and writes the report.

use std::ffi::OsString;

use linger_run::{Notice, Options, Via};
use rustix::thread::CapabilitySet;

fn main() {
    let mut words = std::env::args_os().skip(1);
    let (Some(report), Some(settings), Some(command)) = (words.next(), words.next(), words.next()) else {
        panic!("supervisor REPORT SETTINGS COMMAND...");
    };
    let arguments: Vec<OsString> = words.collect();
    let settings = settings.to_string_lossy();
    let has = |wanted: &str| settings.split(' ').any(|word| word == wanted);
    let value = |key: &str| settings.split(' ').find_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
    let mut options = Options::default();
    options.hold = has("hold");
    options.stay = has("stay");
    options.via = has("seccomp").then_some(Via::Seccomp);
    options.outgoing = has("outgoing");
    let port = |key: &str| value(key).and_then(|port| u16::try_from(port).ok()).into_iter().collect();
    options.exclude_ports = port("exclude=");
    options.ports = port("port=");
    options.policy.max_discard = value("max-discard=");
    options.search = std::env::var_os("PATH").unwrap_or_default();
    if has("incapable") {
        without(CapabilitySet::SYS_PTRACE);
    }
    let notify = |notice: Notice<'_>| {
        if let Notice::Refused(refusal) = notice {
            eprintln!("refused: {refusal}");
        }
    };
    match linger_run::run(&command, &arguments, &options, notify) {
        Ok(ended) => {
            std::fs::write(report, format!("{:?}", ended.report)).expect("a file of the test's");
            std::process::exit(ended.status.and_then(|status| status.code()).unwrap_or(255));
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
