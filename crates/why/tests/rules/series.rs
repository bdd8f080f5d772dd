//! A capture in several files is judged as in one; files of different captures are judged as each alone.

use std::fs;
use std::path::{Path, PathBuf};

use linger_why::{CaptureSet, ExamineEvent, ExamineOptions, Examined, Finding, ReadStop, examine_set};

use crate::flow::{A, Client, F, Flow, Server, flow};
use crate::{GET, response};

fn late() -> Flow {
    let flow = flow().shake().data(Client, GET).data(Server, &response(20, 20)).ack(Client);
    flow.fin(Server).ack(Client).wait(20).data(Client, GET).bare(Server)
}

fn written(folder: &Path, files: &[(&str, &Flow)]) {
    for (name, flow) in files {
        fs::write(folder.join(name), flow.file()).unwrap();
    }
}

fn examined(paths: &[PathBuf], options: &ExamineOptions) -> (Vec<Finding>, Vec<Examined>, Vec<PathBuf>) {
    let set = CaptureSet::of(paths);
    let (mut findings, mut files) = (Vec::new(), Vec::new());
    let mut unreadable: Vec<PathBuf> = set.unreadable.iter().map(|(path, _)| path.clone()).collect();
    examine_set(&set, options, &ReadStop::default(), |event| match event {
        ExamineEvent::Finding(finding) => findings.push(*finding),
        ExamineEvent::Examined(examined) => files.push(*examined),
        ExamineEvent::Unreadable(path, _) => unreadable.push(path),
        other => panic!("{other:?}"),
    });
    (findings, files, unreadable)
}

fn of_folder(files: &[(&str, &Flow)]) -> (Vec<Finding>, Vec<Examined>) {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), files);
    let (findings, files, unreadable) = examined(&[folder.path().to_owned()], &ExamineOptions::default());
    assert!(unreadable.is_empty());
    (findings, files)
}

fn words(finding: &Finding) -> String {
    let Finding { cause, confidence, class, lost_response_bytes, unread_request_bytes, .. } = finding;
    format!("{cause} {confidence} {class} {lost_response_bytes:?} {unread_request_bytes:?}")
}

#[test]
fn a_connection_goes_on_in_the_next_file() {
    let whole = late().findings();
    let packets = usize::try_from(whole[0].frame).unwrap();
    for cut in 1..packets {
        let (findings, files) =
            of_folder(&[("cap.pcap", &late().before(cut)), ("cap.pcap1", &late().from(cut))]);
        assert_eq!((findings.len(), files.len()), (1, 1), "cut at {cut}");
        assert_eq!(words(&findings[0]), words(&whole[0]), "cut at {cut}");
        assert_eq!(files[0].counts.connections, 1);
        // Frames count from the beginning of their file, which is named if it is not that of the reset.
        assert!(findings[0].file.ends_with("cap.pcap1"));
        assert_eq!(findings[0].frame, (packets - cut) as u64, "cut at {cut}");
        for (rung, known) in findings[0].ladder.iter().zip(&whole[0].ladder) {
            let is_before = known.frame <= cut as u64;
            assert_eq!(rung.frame, if is_before { known.frame } else { known.frame - cut as u64 });
            assert_eq!(
                rung.note.as_ref().is_some_and(|note| note.contains("cap.pcap")),
                is_before,
                "{rung:?}"
            );
        }
    }
}

#[test]
fn files_are_in_the_order_of_their_times() {
    let (one, two, three) = (late().before(4), late().from(4).before(2), late().from(6));
    let (findings, files) = of_folder(&[("cap-10.pcap", &one), ("cap-2.pcap", &two), ("cap-1.pcap", &three)]);
    assert_eq!(
        findings.iter().map(words).collect::<Vec<_>>(),
        late().findings().iter().map(words).collect::<Vec<_>>()
    );
    assert!(files[0].file.contains("cap-10.pcap ... ") && files[0].file.ends_with("cap-1.pcap (3 files)"));
}

/// Files that look like a series, and are of two networks.
#[test]
fn a_stranger_with_the_same_ends_in_the_next_file_is_another_connection() {
    let first = late().before(6);
    // It begins in the middle, with other numbers.
    let second = flow().isns(77_000_000, 3_000_000_000).wait(400).shake().all_unseen();
    let second = second.bytes(Server, 9).ack(Client).wait(15).rst(Server);
    let alone = second.findings();
    let (findings, files) = of_folder(&[("cap-1.pcap", &first), ("cap-2.pcap", &second)]);
    assert_eq!(findings.iter().map(words).collect::<Vec<_>>(), alone.iter().map(words).collect::<Vec<_>>());
    assert_eq!(files[0].counts.connections, 2);
    // With the same ones it goes on.
    let goes_on = late().from(6);
    let (findings, _) = of_folder(&[("cap-1.pcap", &first), ("cap-2.pcap", &goes_on)]);
    assert_eq!(words(&findings[0]), words(&late().findings()[0]));
}

#[test]
fn files_of_the_same_time_are_no_series() {
    // The files overlap by more than a second.
    let slow =
        late().with_all(|packet| packet.time = packet.time.wrapping_add(packet.time % 1_000_000_000 * 200));
    let (_, files) = of_folder(&[("cap-1.pcap", &slow), ("cap-2.pcap", &slow.clone().from(3))]);
    assert_eq!(files.len(), 2);
}

/// However many are read at a time, each capture is judged as alone, and the findings come in the order of the captures.
#[test]
fn captures_are_read_at_the_same_time_and_told_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..40u8)
        .map(|at| format!("{}{}.pcap", char::from(b'a' + at / 26), char::from(b'a' + at % 26)))
        .collect();
    for (at, name) in names.iter().enumerate() {
        let isn = 1_000 * at as u32;
        let flow = if at % 2 == 0 {
            late()
        } else {
            flow().isns(isn, isn + 7).shake().data(Client, GET).packet(Server, F | A, b"").bare(Client)
        };
        fs::write(folder.path().join(name), flow.file()).unwrap();
    }
    fs::write(folder.path().join("b-broken.pcap"), "no capture").unwrap();
    let told = |at_once: usize| {
        let mut options = ExamineOptions::default();
        options.at_once = std::num::NonZeroUsize::new(at_once);
        let (findings, files, unreadable) = examined(&[folder.path().to_owned()], &options);
        assert_eq!((files.len(), unreadable.len()), (40, 1));
        findings.iter().map(|finding| format!("{} {}", finding.file, words(finding))).collect::<Vec<_>>()
    };
    let one = told(1);
    assert_eq!(one.len(), 40);
    assert!(one.is_sorted());
    assert_eq!(told(2), one);
    assert_eq!(told(7), one);
}

#[test]
fn a_selection_is_looked_at_alone() {
    let other =
        flow().ports(41_000, 443).addresses("192.0.2.77", "198.51.100.20").wait_us(500).shake().rst(Server);
    let both = late().and(other.clone());
    let selected = |select: &dyn Fn(&mut ExamineOptions)| {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), &[("cap.pcap", &both)]);
        let mut options = ExamineOptions::default();
        select(&mut options);
        let (findings, files, _) = examined(&[folder.path().join("cap.pcap")], &options);
        (findings.iter().map(words).collect::<Vec<_>>(), files[0].counts.connections)
    };
    let told = |flow: &Flow| flow.findings().iter().map(words).collect::<Vec<_>>();
    let (one, two) = (told(&late()), told(&other));
    assert_eq!(selected(&|_| {}).1, 2);
    assert_eq!(selected(&|options| options.selection.ports = vec![80]), (one.clone(), 1));
    assert_eq!(selected(&|options| options.selection.ports = vec![443]), (two.clone(), 1));
    assert_eq!(selected(&|options| options.selection.ports = vec![444]), (vec![], 0));
    let hosts = |text: &'static str| {
        move |options: &mut ExamineOptions| options.selection.hosts = vec![text.parse().unwrap()]
    };
    assert_eq!(selected(&hosts("192.0.2.77")), (two, 1));
    assert_eq!(selected(&hosts("192.0.2.10")), (one, 1));
    assert_eq!(selected(&hosts("192.0.2.0/24")).1, 2);
    // The first packet after a time, and the last one before.
    let time = both.last_of(Server).time;
    assert_eq!(selected(&|options| options.selection.since = Some(time)).1, 1);
    assert_eq!(selected(&|options| options.selection.since = Some(time + 1)).1, 0);
    assert_eq!(selected(&|options| options.selection.until = Some(time)).0.len(), 2);
    let without = selected(&|options| options.selection.until = Some(time - 1)).0;
    assert_eq!(without.iter().filter(|words| !words.contains("closed-early")).count(), 1, "{without:?}");
}
