//! How much work a comparison is, and which findings are of one connection.

use linger_packet::LinkType;
use linger_packet::pcapng::Writer;

use super::traces::MAX_CANDIDATES;
use super::*;
use crate::{AnalyzerLimits, examine};

/// An Ethernet frame of a VLAN with a packet of a connection from 10.0.0.1:`port` to 192.0.2.1:80, or of the other direction.
fn frame(vlan: u16, port: u16, answers: bool, (seq, ack): (u32, u32), flags: Flags) -> Vec<u8> {
    let ends = [([10, 0, 0, 1], port), ([192, 0, 2, 1], 80)];
    let [from, to] = if answers { [ends[1], ends[0]] } else { ends };
    let mut frame = vec![2; 12];
    frame.extend([0x81, 0]);
    frame.extend(vlan.to_be_bytes());
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend([from.0, to.0].concat());
    frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    frame.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    frame.extend([0x50, flags.0, 1, 0, 0, 0, 0, 0]);
    frame
}

/// Writes a capture of these frames, a millisecond apart.
fn write(path: &Path, frames: impl IntoIterator<Item = Vec<u8>>) {
    let mut writer = Writer::new(Vec::new(), "test").unwrap();
    let interface = writer.interface("any", LinkType::ETHERNET, 0).unwrap();
    for (number, frame) in frames.into_iter().enumerate() {
        let time = 1_000_000_000 + number as u64 * 1_000_000;
        writer.packet(interface, time, &frame, frame.len() as u32, None).unwrap();
    }
    std::fs::write(path, writer.into_inner()).unwrap();
}

/// A connection that is refused, in a VLAN.
fn refused(vlan: u16, isn: u32) -> [Vec<u8>; 2] {
    [
        frame(vlan, 40_000, false, (isn, 0), Flags::SYN),
        frame(vlan, 40_000, true, (0, isn + 1), Flags::RST | Flags::ACK),
    ]
}

/// The findings of these captures, and their comparison with so many steps at most.
fn compared(captures: &[Vec<Vec<u8>>], steps: usize) -> (Vec<Finding>, Vec<Finding>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..captures.len()).map(|at| folder.path().join(at.to_string())).collect();
    let mut findings: Vec<Finding> = Vec::new();
    for (path, frames) in paths.iter().zip(captures) {
        write(path, frames.iter().cloned());
        examine(path, AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap();
    }
    let series: Vec<Vec<&Path>> = paths.iter().map(|path| vec![path.as_path()]).collect();
    let wanted = Wanted::of(&findings, series.len());
    let (all, problems) = collect_all(&series, &wanted);
    assert!(problems.is_empty());
    let (kept, left) = Views::new(&series, &all).compare(findings.clone(), steps);
    (findings, kept, left)
}

/// The same ends in a thousand networks, and again and again in each: every finding resembles every connection.
#[test]
fn work_is_bounded_whatever_resembles_each_other() {
    let crowd = || (0..1_000).flat_map(|number| refused(number, 77)).collect::<Vec<_>>();
    let (findings, kept, left) = compared(&[crowd(), crowd()], MAX_STEPS);
    assert_eq!(findings.len(), 2_000);
    assert_eq!(kept.len(), 1_000, "each network's own connection is the nearest, and is told once");
    let most = 2_000 * MAX_CANDIDATES * 2 * 2;
    let spent = MAX_STEPS - left;
    assert!(spent <= most + 2_000, "{spent} steps for 2,000 findings");
    // When no step is left, each finding is what its own capture alone says.
    let (findings, kept, left) = compared(&[crowd(), crowd()], 0);
    assert_eq!((kept.len(), left), (findings.len(), 0));
    for (alone, kept) in findings.iter().zip(&kept) {
        assert_eq!((alone.cause, alone.frame, &alone.evidence), (kept.cause, kept.frame, &kept.evidence));
    }
}

/// One connection's ends with many initial sequence numbers do not fill the memory.
#[test]
fn ends_that_are_used_again_have_a_bounded_number_of_names() {
    let again = |number: u32| {
        [
            frame(1, 40_000, false, (number * 1_000, 0), Flags::SYN),
            frame(1, 40_000, true, (number * 1_000 + 500, number * 1_000 + 1), Flags::SYN | Flags::ACK),
            frame(1, 40_000, true, (number * 1_000 + 501, number * 1_000 + 1), Flags::RST | Flags::ACK),
        ]
    };
    let crowd = || (1..400).flat_map(again).collect::<Vec<_>>();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capture");
    write(&path, crowd());
    let mut findings = Vec::new();
    examine(&path, AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap();
    assert_eq!(findings.len(), 399);
    let series = vec![vec![path.as_path()]];
    let (all, _) = collect_all(&series, &Wanted::of(&findings, 1));
    let candidates = all[0].candidates(&findings[0]).len();
    assert_eq!((all[0].flows.len(), all[0].names(), candidates), (1, MAX_CANDIDATES, 1));
    // Each is found in the other capture all the same, as far as its packets are kept.
    let (findings, kept, _) = compared(&[crowd()[..900].to_vec(), crowd()[..900].to_vec()], MAX_STEPS);
    assert_eq!((findings.len(), kept.len()), (600, 300));
}

/// A response with its FIN, 0.9 s of silence, late bytes and their reset: at the client, and at the server what `reaches` takes of it.
fn late(reaches: usize) -> [Vec<Vec<u8>>; 2] {
    let (syn, ack, fin) = (Flags::SYN, Flags::ACK, Flags::FIN);
    let frame = |answers, numbers, flags| frame(1, 40_000, answers, numbers, flags);
    let mut data = frame(false, (101, 2_001), ack | Flags::PSH);
    // Eight bytes behind the headers.
    data[21] += 8;
    data.extend([b'y'; 8]);
    let all = [
        frame(false, (100, 0), syn),
        frame(true, (1_999, 101), syn | ack),
        frame(false, (101, 2_000), ack),
        frame(true, (2_000, 101), fin | ack),
        frame(false, (101, 2_001), ack),
        data,
        frame(true, (2_001, 0), Flags::RST),
    ];
    [all.to_vec(), all[..reaches].to_vec()]
}

/// The cause of the client's reset, how sure it is, and its candidates, of these views on interfaces of one capture or on two captures.
fn judged(views: &[Vec<Vec<u8>>; 2], is_one: bool) -> (Cause, Confidence, Vec<Cause>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("client"), folder.path().join("server")];
    let mut files: Vec<_> = (0..2).map(|_| Writer::new(Vec::new(), "test").unwrap()).collect();
    let mut findings = Vec::new();
    let mut interfaces = Vec::new();
    for side in 0..2 {
        let file = if is_one { 0 } else { side };
        interfaces.push((file, files[file].interface("any", LinkType::ETHERNET, 0).unwrap()));
    }
    for (number, frame) in views[0].iter().enumerate() {
        // The server is half a millisecond away.
        for (side, late) in [(0, 0), (1, 500_000)] {
            let Some(frame) = views[side].get(number).filter(|seen| *seen == frame) else { continue };
            let answers = frame[28..32] == [10, 0, 0, 1] || frame[34..38] == [10, 0, 0, 1];
            let time = 2_000_000_000 + number as u64 * 2_000_000 + if number > 4 { 900_000_000 } else { 0 };
            let time = if answers { time - late } else { time + late };
            let (file, interface) = interfaces[side];
            files[file].packet(interface, time, frame, frame.len() as u32, None).unwrap();
        }
    }
    let count = if is_one { 1 } else { 2 };
    for (path, file) in paths.iter().zip(files).take(count) {
        std::fs::write(path, file.into_inner()).unwrap();
        examine(path, AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap();
    }
    let paths: Vec<&Path> = paths.iter().take(count).map(PathBuf::as_path).collect();
    let findings = compare(&paths, findings).unwrap();
    let [finding] = &*findings else { panic!("{findings:?}") };
    (finding.cause, finding.confidence, finding.candidates.clone())
}

/// A place of the same capture that has neither the late bytes nor the reset makes it doubtful that the server sent it. That a capture
/// of another file ends before says nothing.
#[test]
fn a_reset_that_the_same_capture_lacks_near_the_server_is_not_certain() {
    let certain = (Cause::DataAfterClose, Confidence::Certain, vec![Cause::DataAfterClose]);
    let doubtful = (Cause::DataAfterClose, Confidence::Likely, vec![Cause::DataAfterClose, Cause::Forged]);
    assert_eq!(judged(&late(5), true), doubtful);
    assert_eq!(judged(&late(5), false), certain);
    assert_eq!(judged(&late(7), true), certain);
}
