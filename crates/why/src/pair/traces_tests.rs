//! How many traces are kept, and which.

use linger_packet::LinkType;
use linger_packet::pcapng::Writer;

use super::*;
use crate::{AnalyzerLimits, examine};

/// A raw IPv4 packet of a connection from port 20,000 + `client` to 192.0.2.1:80, or of the answer to it.
fn packet(client: u16, answers: bool, seq: u32, ack: u32, flags: Flags) -> Vec<u8> {
    let ends = [([10, 0, 0, 1], 20_000 + client), ([192, 0, 2, 1], 80)];
    let [from, to] = if answers { [ends[1], ends[0]] } else { ends };
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend([from.0, to.0].concat());
    packet.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    packet.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    packet.extend([0x50, flags.0, 1, 0, 0, 0, 0, 0]);
    packet
}

/// Writes a capture of so many connections, each refused. `first`: the client with the first one; the others follow in a ring.
fn refused(path: &Path, connections: u16, first: u16) {
    let mut writer = Writer::new(Vec::new(), "test").unwrap();
    let interface = writer.interface("any", LinkType::RAW, 0).unwrap();
    for number in 0..connections {
        let client = (number + first) % connections;
        let isn = 1_000 * u32::from(client) + 7;
        let time = 1_000_000_000 + u64::from(number) * 1_000_000;
        let syn = packet(client, false, isn, 0, Flags::SYN);
        let rst = packet(client, true, 0, isn + 1, Flags::RST | Flags::ACK);
        writer.packet(interface, time, &syn, 40, None).unwrap();
        writer.packet(interface, time + 1_000, &rst, 40, None).unwrap();
    }
    std::fs::write(path, writer.into_inner()).unwrap();
}

#[test]
fn the_first_connections_keep_their_traces_in_every_capture() {
    let folder = tempfile::tempdir().unwrap();
    let of = |connections: u16, captures: u16, most: usize| {
        let paths: Vec<PathBuf> =
            (0..captures).map(|number| folder.path().join(number.to_string())).collect();
        for (number, path) in paths.iter().enumerate() {
            refused(path, connections, number as u16 * 3);
        }
        let mut findings = Vec::new();
        examine(&paths[0], AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap();
        assert_eq!(findings.len(), usize::from(connections));
        let mut wanted = Wanted::of(&findings, paths.len());
        wanted.room = Room::new(most, findings.len());
        let series: Vec<Vec<&Path>> = paths.iter().map(|path| vec![path.as_path()]).collect();
        let (all, problems) = collect_all(&series, &wanted);
        assert!(problems.is_empty());
        assert_eq!(all.len(), usize::from(captures));
        let ranks = |traces: &Traces| {
            let mut ranks: Vec<usize> = traces.flows.values().map(|trace| trace.rank).collect();
            ranks.sort_unstable();
            assert_eq!(traces.by_ends.len(), ranks.len(), "nothing is left of those that were forgotten");
            assert!(traces.flows.values().all(|trace| trace.iter().count() == 2));
            ranks
        };
        all.iter().map(ranks).collect::<Vec<_>>()
    };
    let first = |count: usize| (0..count).collect::<Vec<_>>();
    assert_eq!(of(60, 10, 600), vec![first(60); 10], "there is room for all");
    assert_eq!(of(60, 10, 599), vec![first(59); 10], "one too many");
    assert_eq!(of(60, 10, 205), vec![first(20); 10]);
    assert_eq!(of(60, 10, 9), vec![first(0); 10], "no connection has room in every capture");
    assert_eq!(of(60, 1, 9), vec![first(9)]);
}

#[test]
fn a_trace_has_the_rank_of_its_first_finding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capture");
    refused(&path, 3, 0);
    let mut findings = Vec::new();
    examine(&path, AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap();
    let wanted = Wanted::of(&findings, 2);
    let ends = |number: usize| FlowKey::between(findings[number].from, findings[number].to, 0).0;
    let elsewhere = FlowKey::between(([10, 9, 9, 9], 1).into(), ([10, 9, 9, 8], 2).into(), 0).0;
    assert_eq!(wanted.rank(&ends(2), None), Some(2));
    assert_eq!(wanted.rank(&ends(2), Some(1_007)), Some(1), "another one's initial sequence number");
    assert_eq!(wanted.rank(&ends(1), Some(2_007)), Some(1));
    assert_eq!(wanted.rank(&elsewhere, Some(2_007)), Some(2), "behind address translation");
    assert_eq!(wanted.rank(&elsewhere, Some(2_008)), None);
    assert_eq!(wanted.rank(&elsewhere, None), None);
}
