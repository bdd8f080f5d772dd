//! A whole capture file: readers, flows, verdicts, report. `cargo +nightly fuzz run capture crates/why/captures`
#![no_main]

use libfuzzer_sys::fuzz_target;
use linger_packet::capture::CaptureReader;
use linger_why::{Groups, AnalyzerLimits, Tools, examine_reader, html, text};

fuzz_target!(|bytes: &[u8]| {
    let Ok(reader) = CaptureReader::in_memory(bytes) else { return };
    let mut groups = Groups::default();
    let mut limits = AnalyzerLimits::default();
    limits.flows = 64;
    let examined = examine_reader(reader, "fuzz", limits, |finding| groups.add(finding));
    let groups = groups.sorted();
    text::report(&mut std::io::sink(), std::slice::from_ref(&examined), &groups, 0, &Tools::default()).unwrap();
    html::report(&mut std::io::sink(), &[examined], &groups, 0, &Tools::default()).unwrap();
});
