//! Which files are found, and which of them are one series.

use std::fs;

use super::*;

/// A pcap file with one packet at `seconds`.
fn pcap(seconds: u32, link: u32) -> Vec<u8> {
    let mut bytes = 0xa1b2_c3d4u32.to_le_bytes().to_vec();
    bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0]);
    bytes.extend(link.to_le_bytes());
    bytes.extend(seconds.to_le_bytes());
    bytes.extend([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0xff]);
    bytes
}

fn names(set: &CaptureSet) -> Vec<Vec<String>> {
    let name = |file: &SetFile| file.path.file_name().unwrap().to_string_lossy().into_owned();
    set.series.iter().map(|files| files.iter().map(name).collect()).collect()
}

#[test]
fn names_of_rotated_files_are_told_from_others() {
    for (one, other) in [
        ("cap.pcap", "cap.pcap1"),
        ("cap.pcap09", "cap.pcap10"),
        ("cap-2026-11-26_09:59:59.pcap", "cap-2026-11-26_10:00:00.pcap"),
        ("cap_00001_20261126095959.pcapng", "cap_00002_20261126100000.pcapng"),
        ("eth0-1.pcap.gz", "eth0-2.pcap.gz"),
        ("1764150000.pcap", "1764150060.pcap"),
    ] {
        assert_eq!(series_name(one), series_name(other));
    }
    for (one, other) in [
        ("client.pcap", "server.pcap"),
        ("eth0-1.pcap", "eth1-1.pcap"),
        ("web1-client.pcap", "web1-server.pcap"),
        ("host1-1.pcap", "host2-1.pcap"),
        ("cap.pcap1", "cap.pcapng1"),
        ("cap1.pcap", "cap1.pcap.gz"),
    ] {
        assert_ne!(series_name(one), series_name(other));
    }
}

#[test]
fn a_folder_is_read_whole_and_its_series_are_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("inner")).unwrap();
    for (name, bytes) in [
        ("cap.pcap10", pcap(300, 1)),
        ("cap.pcap", pcap(100, 1)),
        ("cap.pcap9", pcap(200, 1)),
        // The same series of names on another link, which is another capture.
        ("cap.pcap11", pcap(400, 113)),
        ("inner/cap.pcap12", pcap(500, 1)),
        ("README", b"not a capture".to_vec()),
        ("broken.pcap", b"not a capture".to_vec()),
    ] {
        fs::write(path(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink(folder.path(), path("inner/loop")).unwrap();
    let set = CaptureSet::of(&[folder.path().to_owned(), path("cap.pcap"), path("no*such")]);
    let expected: Vec<Vec<&str>> =
        vec![vec!["cap.pcap", "cap.pcap9", "cap.pcap10"], vec!["cap.pcap11"], vec!["cap.pcap12"]];
    assert_eq!(names(&set), expected);
    assert_eq!(set.passed_over, 2, "README and the link");
    let unreadable: Vec<_> = set.unreadable.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(unreadable, [path("broken.pcap"), path("no*such")]);
}

#[test]
fn a_pattern_names_files_unless_a_file_has_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a.pcap", "b.pcap", "[ab].pcap", "c.cap"] {
        fs::write(path(name), pcap(1, 1)).unwrap();
    }
    assert_eq!(names(&CaptureSet::of(&[path("?.pcap")])), [["a.pcap"], ["b.pcap"]]);
    assert_eq!(names(&CaptureSet::of(&[path("[ab].pcap")])), [["[ab].pcap"]]);
    let none = CaptureSet::of(&[path("?.pcapng"), path("a.pcap.gz")]);
    assert_eq!((none.series.len(), none.unreadable.len()), (0, 2));
}
