//! Both ends report the same, and what they report is true: names, failures, who has the content, what a sink has done.

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use common::proxy::{Fault, Proxy, Way};
use common::*;
use linger_transfer::*;
use tempfile::tempdir;

fn patient(port: u16, patience: Duration) -> Client {
    let mut options = ClientOptions::default();
    options.retry.first = Duration::from_millis(1);
    options.retry.patience = patience;
    Client::new("127.0.0.1", port, options).unwrap()
}

fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

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

/// Wherever the connection is cut: the command runs once, there is one receipt, and both ends report the truth.
#[test]
fn a_sink_runs_once_wherever_the_connection_is_cut() {
    let to = tempdir().unwrap();
    let printed = to.path().join("printed");
    let config = format!("[sink.print]\ncommand = ['sh', '-c', 'cat >>{}']\n", printed.display());
    let file = to.path().join("letter");
    fs::write(&file, "one cheque\n").unwrap();
    let configured = |options: &mut ShareOptions| options.config = PortsConfig::parse(&config).unwrap();
    let mut lengths = [0, 0];
    share(to.path(), configured, |shared| {
        let clean = Proxy::new(shared.port, None);
        let client = patient(clean.port, Duration::ZERO);
        let put = |client: &Client| {
            let mut told = Vec::new();
            let (summary, error) = client.put(
                Input::Path(file.clone()),
                &place("@print"),
                &PutOptions::default(),
                &mut |progress| {
                    if let Progress::Confirmed(confirmation) = progress {
                        told.push(confirmation.durability);
                    }
                },
            );
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            assert_eq!(told, [Durability::Handed]);
        };
        put(&client);
        // Another transfer of the same content makes the command run again.
        put(&client);
        assert_eq!(fs::read_to_string(&printed).unwrap(), "one cheque\none cheque\n");
        let half = |bytes: &std::sync::Mutex<Vec<u8>>| bytes.lock().unwrap().len() / 2;
        lengths = [half(&clean.recorded), half(&clean.answered)];
        for (way, length) in [Way::ToServer, Way::ToClient].into_iter().zip(lengths) {
            assert!(length > 100, "{way:?}: {length}");
            for at in (0..length as u64).step_by(7) {
                fs::remove_file(&printed).unwrap();
                // The same content each time: it would be in doubt if the server did not know that the client has the receipt
                // of the last one, also where the proxy has acknowledged the goodbye and not passed it on.
                let proxy = Proxy::new(shared.port, Some((way, at, Fault::Cut)));
                // The client has to connect once; after that it reconnects whenever the connection is cut.
                put(&patient(proxy.port, Duration::from_secs(60)));
                assert_eq!(fs::read_to_string(&printed).unwrap(), "one cheque\n", "cut {way:?} at {at}");
            }
        }
    });
}

#[test]
fn what_a_server_has_forgotten_is_not_done_again_and_not_called_undone() {
    let to = tempdir().unwrap();
    let printed = to.path().join("printed");
    let config = format!("[sink.print]\ncommand = ['sh', '-c', 'cat >>{}']\n", printed.display());
    let file = to.path().join("letter");
    fs::write(&file, "one cheque\n").unwrap();
    let configured = |options: &mut ShareOptions| options.config = PortsConfig::parse(&config).unwrap();
    let length = {
        let mut length = 0;
        share(to.path(), configured, |shared| {
            let clean = Proxy::new(shared.port, None);
            patient(clean.port, Duration::ZERO).put(
                Input::Path(file.clone()),
                &place("@print"),
                &PutOptions::default(),
                &mut |_| {},
            );
            length = clean.answered.lock().unwrap().len();
        });
        length
    };
    fs::remove_file(&printed).unwrap();
    // The receipt is lost, and the client reconnects to the server of another process.
    share(to.path(), configured, |first| {
        share(to.path(), configured, |second| {
            let cut =
                Proxy::to_two([first.port, second.port], (Way::ToClient, length as u64 - 100, Fault::Cut));
            let (summary, error) = patient(cut.port, Duration::from_secs(60)).put(
                Input::Path(file.clone()),
                &place("@print"),
                &PutOptions::default(),
                &mut |_| {},
            );
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Unconfirmed, "{summary:?} {error:?}");
            assert!(error.unwrap().to_string().contains("may have been done"));
        });
    });
    assert_eq!(fs::read_to_string(&printed).unwrap(), "one cheque\n");
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

/// Puts, and writes the receipts to a file.
fn receipts(shared: &Shared<'_>, top: &Path, to: &str, options: &PutOptions, file: &Path) {
    let mut kept = Receipts::new(Vec::new(), "host");
    let (summary, error) =
        shared.client().put(Input::Path(top.to_owned()), &place(to), options, &mut |progress| {
            if let Progress::Confirmed(confirmation) = &progress {
                kept.keep(confirmation).unwrap();
            }
        });
    assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
    fs::write(file, kept.finish(None).unwrap()).unwrap();
}

#[test]
fn a_receipt_says_what_it_does_not_know_and_notices_what_changed() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (top, receipt) = (from.path().join("tree"), from.path().join("receipt"));
    fs::create_dir_all(top.join("sub")).unwrap();
    fs::write(top.join("file"), "text").unwrap();
    symlink("file", top.join("sub/link")).unwrap();
    symlink("sub/link", top.join("link")).unwrap();
    let counts = |path: &Path| {
        verify_receipt(&receipt, path, |_, _| {}).map(|all| (all.receipts, all.different, all.length_only))
    };
    share(
        to.path(),
        |_| {},
        |shared| {
            receipts(shared, &top, "tree", &PutOptions::default(), &receipt);
            let there = to.path().join("tree");
            assert_eq!(counts(&there).unwrap(), (5, 0, 0));
            let other_modes = || verify_receipt(&receipt, &there, |_, _| {}).unwrap().other_mode;
            assert_eq!(other_modes(), 0);
            for (count, name) in [(1, "file"), (2, "sub")] {
                fs::set_permissions(there.join(name), fs::Permissions::from_mode(0o700)).unwrap();
                assert_eq!((other_modes(), counts(&there).unwrap()), (count, (5, 0, 0)), "{name}");
            }
            // A link with another target differs, even if something of the same name exists.
            fs::remove_file(there.join("link")).unwrap();
            symlink("sub", there.join("link")).unwrap();
            assert_eq!(counts(&there).unwrap(), (5, 1, 0));
            fs::remove_file(there.join("link")).unwrap();
            fs::write(there.join("link"), "text").unwrap();
            assert_eq!(counts(&there).unwrap(), (5, 1, 0));
            // A directory was replaced by a link: what lies behind the link is not what the receipt is for.
            fs::rename(there.join("sub"), to.path().join("elsewhere")).unwrap();
            symlink("../elsewhere", there.join("sub")).unwrap();
            assert_eq!(counts(&there).unwrap(), (5, 3, 0));
            let whole = fs::read_to_string(&receipt).unwrap();
            let lines: Vec<_> = whole.lines().collect();
            for (name, lines, told) in [
                ("the first is missing", lines[1..].to_vec(), "has 4 receipts, and its last line counts 5"),
                ("the last is missing", lines[..5].to_vec(), "its last line is missing"),
                (
                    "two change places",
                    [&[lines[1], lines[0]], &lines[2..]].concat(),
                    "not those that its last line",
                ),
                ("something follows", [&lines[..], &lines[..1]].concat(), "stands behind the last line"),
            ] {
                fs::write(&receipt, lines.join("\n") + "\n").unwrap();
                let error = counts(&there).unwrap_err().to_string();
                assert!(error.contains(told), "{name}: {error}");
            }
            let mut unverified = PutOptions::default();
            unverified.verify = false;
            receipts(shared, &top, "other", &unverified, &receipt);
            fs::write(to.path().join("other/file"), "four").unwrap();
            assert_eq!(counts(&to.path().join("other")).unwrap(), (5, 0, 1), "and it says so");
            fs::write(to.path().join("other/file"), "other").unwrap();
            assert_eq!(counts(&to.path().join("other")).unwrap(), (5, 1, 0));
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

/// When a command takes too long, the processes that it has started are ended with it: otherwise they could still
/// deliver what was reported as failed.
#[test]
fn a_command_that_takes_too_long_ends_with_all_that_it_started() {
    let to = tempdir().unwrap();
    let (late, file) = (to.path().join("late"), to.path().join("letter"));
    fs::write(&file, "text").unwrap();
    let config = format!(
        "[sink.slow]\ncommand = ['sh', '-c', 'cat | (echo $$ >{0}.pid; sleep 600; cat >{0}) & wait']\nmax_seconds = 1\n",
        late.display()
    );
    share(
        to.path(),
        |options| options.config = PortsConfig::parse(&config).unwrap(),
        |shared| {
            let (summary, error) = shared.try_put(&file, "@slow", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered, "{summary:?} {error:?}");
            let group = fs::read_to_string(late.with_extension("pid")).unwrap();
            // A dead process counts until its parent has reaped it; here that is init.
            let alive = || {
                let words = ["-r", "R,S,D,T", "-g", group.trim()];
                std::process::Command::new("pgrep").args(words).output().unwrap().stdout
            };
            // The kill takes effect soon, not at once. The sleep is ten minutes, so that 60 seconds tell them apart.
            let end = std::time::Instant::now() + Duration::from_secs(60);
            while !alive().is_empty() && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
            assert_eq!(String::from_utf8_lossy(&alive()), "", "of the command's process group");
        },
    );
}

#[test]
fn a_receipt_is_replayed_by_a_server_that_was_started_anew() {
    let (from, to, memory) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("letter");
    fs::write(&file, "a letter").unwrap();
    let printed = memory.path().join("printed");
    let sink = format!(
        "[sink.print]\ncommand = ['sh', '-c', 'cat >> {0}']\n[sink.jam]\ncommand = ['false']\n",
        printed.display()
    );
    let with_memory = |options: &mut ShareOptions| {
        options.config = PortsConfig::parse(&sink).unwrap();
        options.memory = Some(memory.path().to_owned());
    };
    let mut ids = Vec::new();
    share(to.path(), with_memory, |shared| {
        // Now the receipt is lost: the answer to the transfer's last frames.
        let clean = Proxy::new(shared.port, None);
        let put = |port, sink: &str| {
            let client = patient(port, Duration::ZERO);
            client.put(Input::Path(file.clone()), &place(sink), &PutOptions::default(), &mut |_| {})
        };
        assert_eq!(put(clean.port, "@print").0.confirmed, 1);
        // Accept is the first answer after the preface; everything that follows it is cut.
        let lost = Proxy::new(shared.port, Some((Way::ToClient, 8 + 8 + 18, Fault::Cut)));
        let (summary, error) = put(lost.port, "@print");
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Unconfirmed, "{summary:?} {error:?}");
        ids.push(summary.transfer.unwrap());
        let (summary, error) = put(shared.port, "@jam");
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        ids.push(summary.transfer.unwrap());
    });
    assert_eq!(fs::read_to_string(&printed).unwrap(), "a lettera letter");
    share(to.path(), with_memory, |shared| {
        let receipt = shared.client().ask(ids[0]).unwrap();
        assert_eq!(receipt.hash, Some(*blake3::hash(b"a letter").as_bytes()));
        let refusal = |id| match shared.client().ask(id) {
            Err(Error::Refused(refusal, _)) => refusal,
            other => panic!("{other:?}"),
        };
        assert_eq!((refusal(ids[1]), refusal([9; 16])), (Refusal::Command, Refusal::NotFound));
    });
    assert_eq!(fs::read_to_string(&printed).unwrap(), "a lettera letter", "nothing was printed again");
}

#[test]
fn a_receipt_is_signed_by_its_receiver_and_no_line_of_it_can_be_changed() {
    let (from, to, keys) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("tree");
    make_tree(&top);
    fifo(&top.join("fifo"));
    let identity = std::sync::Arc::new(Identity::generate().unwrap());
    let key = identity.public();
    let receipt = keys.path().join("receipt");
    let known = ServerKeys::new(identity, Keyring::new(keys.path().join("known")));
    share(
        to.path(),
        |options| options.keys = Some(known),
        |shared| {
            let mut kept = Receipts::new(Vec::new(), "host");
            let (summary, _) =
                shared.client().put(Input::Path(top), &place("tree"), &PutOptions::default(), &mut |told| {
                    match told {
                        Progress::Connected { .. } => kept.begin_session(),
                        Progress::Confirmed(confirmation) => kept.keep(&confirmation).unwrap(),
                        _ => {}
                    }
                });
            assert_eq!(summary.failed, 1, "the pipe; it is in the account as well");
            fs::write(&receipt, kept.finish(summary.signed.as_ref()).unwrap()).unwrap();
        },
    );
    let verify = || verify_receipt(&receipt, &to.path().join("tree"), |_, _| {});
    let verified = verify().unwrap();
    assert_eq!((verified.signed, verified.signer), (verified.receipts, Some(key)));
    // Whoever keeps the file can compute its last line anew, but not the signature.
    let text = fs::read_to_string(&receipt).unwrap();
    for (said, forged) in [
        ("\"fsync\"", "\"memory\""),
        ("\"mode\":\"0644\"", "\"mode\":\"0755\""),
        ("\"length\":4096", "\"length\":4097"),
    ] {
        let (lines, last) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(lines.contains(said), "{said}: {lines}");
        let lines = format!("{}\n", lines.replacen(said, forged, 1));
        let mut last: serde_json::Value = serde_json::from_str(last).unwrap();
        last["blake3"] = blake3::hash(lines.as_bytes()).to_hex().as_str().into();
        fs::write(&receipt, format!("{lines}{last}\n")).unwrap();
        let error = verify().unwrap_err().to_string();
        assert!(error.contains("signature"), "{forged}: {error}");
    }
}
