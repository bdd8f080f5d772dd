//! Both ends report the same, and what they report is true: names, failures, sources that change, who has the content.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use crate::common::proxy::{Fault, Proxy, Way};
use crate::common::*;
use linger_transfer::*;
use tempfile::tempdir;

#[test]
fn both_ends_count_what_could_not_be_sent() {
    let (from, to, back) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("tree");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("plain"), "plain").unwrap();
    symlink("/etc/passwd", top.join("out")).unwrap();
    fifo(&top.join("fifo"));
    let served = share(
        to.path(),
        |_| {},
        |shared| {
            let (summary, error) = shared.try_put(&top, "tree", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            assert_eq!((summary.confirmed, summary.failed), (2, 2), "{summary:?}");
            fifo(&to.path().join("tree/fifo"));
            let (summary, error) = shared.get_with("tree", back.path().join("tree"), &GetOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            assert_eq!((summary.confirmed, summary.failed), (2, 1), "{summary:?}");
            // The counter-example: without the named pipe everything is confirmed.
            fs::remove_file(to.path().join("tree/fifo")).unwrap();
            shared.get("tree", back.path().join("again"));
        },
    );
    let counts: Vec<_> = served.iter().map(|one| (one.summary.confirmed, one.summary.failed)).collect();
    assert_eq!(counts, [(2, 2), (2, 1), (2, 0)], "the other end");
    assert!(served.iter().all(|one| one.summary.peer_knows), "{served:?}");
}

#[test]
fn a_name_of_the_receivers_own_is_not_left_out_in_silence() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("tree");
    fs::create_dir_all(top.join(".linger")).unwrap();
    // A file as a cut transfer into this tree leaves it.
    fs::write(top.join(".linger/0123.part"), "").unwrap();
    fs::write(top.join(".linger/0123.state"), "").unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            assert_eq!(shared.put(&top, "one").confirmed, 1);
            fs::write(top.join(".linger/precious"), "precious").unwrap();
            let (summary, error) = shared.try_put(&top, "two", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            fs::remove_dir_all(top.join(".linger")).unwrap();
            fs::write(top.join(".linger"), "precious").unwrap();
            let (summary, error) = shared.try_put(&top, "three", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        },
    );
}

/// Replaces a file by another of the same length and time, as a reproducible build does.
fn replace(file: &Path, content: &[u8]) {
    let time = fs::metadata(file).unwrap().modified().unwrap();
    let other = file.with_extension("new");
    fs::write(&other, content).unwrap();
    File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
    fs::rename(&other, file).unwrap();
}

/// Writes other content into a file, and gives it its old time again.
fn rewrite(file: &Path, content: &[u8]) {
    let time = fs::metadata(file).unwrap().modified().unwrap();
    let mut opened = File::options().write(true).open(file).unwrap();
    opened.write_all(content).unwrap();
    opened.set_modified(time).unwrap();
}

#[test]
fn a_source_that_is_another_one_by_now_is_not_mixed_with_the_first() {
    let length = 4 * BLOCK;
    for (name, change) in
        [("replaced", Some(replace as fn(&Path, &[u8]))), ("rewritten", Some(rewrite)), ("the same", None)]
    {
        let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
        let file = from.path().join("file");
        fs::write(&file, vec![b'A'; length]).unwrap();
        share(
            to.path(),
            |_| {},
            |shared| {
                let cut = Proxy::new(shared.port, Some((Way::ToServer, 2 * BLOCK as u64, Fault::Reset)));
                let client = patient(cut.port, Duration::from_secs(60));
                let (mut sessions, options) = (0, PutOptions::default());
                let mut observe = |progress| {
                    // Between two connections.
                    if matches!(progress, Progress::Retrying { .. }) {
                        sessions += 1;
                        if let Some(change) = change {
                            change(&file, &vec![b'B'; length]);
                        }
                    }
                };
                let (summary, error) =
                    client.put(Input::Path(file.clone()), &place("copy"), &options, &mut observe);
                assert_eq!(sessions, 1, "{name}: {summary:?} {error:?}");
                let verdict = summary.verdict(error.as_ref());
                if change.is_none() {
                    assert_eq!(verdict, ItemVerdict::Confirmed, "{summary:?} {error:?}");
                    assert!(fs::read(to.path().join("copy")).unwrap() == vec![b'A'; length]);
                } else {
                    assert_eq!(verdict, ItemVerdict::NotDelivered, "{name}: {summary:?} {error:?}");
                    assert!(summary.first_failure.unwrap().contains("was replaced or changed"), "{name}");
                    assert!(!to.path().join("copy").exists(), "{name}");
                }
            },
        );
    }
}

#[test]
fn what_is_there_gets_the_mode_that_it_is_said_to_have() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (file, copy) = (from.path().join("key"), to.path().join("key"));
    fs::write(&file, "key").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    share(
        to.path(),
        |_| {},
        |shared| {
            for (wished, durability) in
                [(0o644, Durability::Memory), (0o600, Durability::Memory), (0o640, Durability::Disk)]
            {
                fs::set_permissions(&file, fs::Permissions::from_mode(wished)).unwrap();
                let mut options = PutOptions::default();
                options.durability = durability;
                shared.put_with(&file, "key", &options);
                assert_eq!(mode(&copy), wished);
            }
        },
    );
}

/// Bytes that are sent again and again are no progress.
#[test]
fn patience_ends_although_bytes_move() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    // Less than a block, so that nothing of it is kept.
    fs::write(&file, bytes(BLOCK - 1, 3)).unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            let cut = Proxy::always(shared.port, (Way::ToServer, 500_000, Fault::Cut));
            let client = patient(cut.port, Duration::from_millis(300));
            let (summary, error) =
                client.put(Input::Path(file.clone()), &place("copy"), &PutOptions::default(), &mut |_| {});
            assert_ne!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?}");
            assert!(error.is_some());
        },
    );
}

/// A sender that has every receipt knows that everything was delivered, even if the connection is cut then.
#[test]
fn a_cut_after_the_last_receipt_is_no_failure() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, "text").unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            let put = |port: u16, name: &str| {
                let client = patient(port, Duration::ZERO);
                client.put(Input::Path(file.clone()), &place(name), &PutOptions::default(), &mut |_| {})
            };
            let clean = Proxy::new(shared.port, None);
            put(clean.port, "clean");
            let length = clean.answered.lock().unwrap().len() as u64;
            let mut verdicts = Vec::new();
            for at in length - 120..length {
                let proxy = Proxy::new(shared.port, Some((Way::ToClient, at, Fault::Cut)));
                let (summary, error) = put(proxy.port, &format!("copy{at}"));
                let verdict = summary.verdict(error.as_ref());
                assert_eq!(
                    verdict == ItemVerdict::Confirmed,
                    summary.confirmed == 1,
                    "at {at}: {summary:?} {error:?}"
                );
                verdicts.push(verdict);
            }
            let count = |verdict| verdicts.iter().filter(|one| **one == verdict).count();
            assert!(
                count(ItemVerdict::Confirmed) > 10 && count(ItemVerdict::Unconfirmed) > 10,
                "{verdicts:?}"
            );
        },
    );
}
