//! Put, get and ls over loopback TCP, between threads of this process: what arrives, what is refused, what is
//! reported.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::*;
use linger_transfer::*;
use tempfile::tempdir;

#[test]
fn a_file_arrives_with_a_receipt_that_both_sides_know() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    for size in [0, 1, 70_000, BLOCK, BLOCK + 1, 9 * BLOCK + 77] {
        fs::write(&file, bytes(size, size as u64)).unwrap();
        let name = format!("copy{size}");
        let mut receipts = Receipts::new(Vec::new(), "host");
        let served = share(
            to.path(),
            |_| {},
            |shared| {
                let (summary, error) = shared.client().put(
                    Input::Path(file.clone()),
                    &place(&name),
                    &PutOptions::default(),
                    &mut |progress| {
                        if let Progress::Confirmed(confirmation) = &progress {
                            receipts.keep(confirmation).unwrap();
                        }
                    },
                );
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
                assert_eq!((summary.confirmed, summary.bytes, summary.peer_knows), (1, size as u64, true));
            },
        );
        assert_eq!(fs::read(to.path().join(&name)).unwrap(), fs::read(&file).unwrap());
        let [served] = &served[..] else { panic!("{served:?}") };
        assert!(served.error.is_none() && served.summary.peer_knows, "{served:?}");
        assert!(served.outcome.unwrap().delivered(), "{served:?}");
        let receipt = from.path().join("receipt");
        fs::write(&receipt, receipts.finish(None).unwrap()).unwrap();
        let differ =
            |path: &Path| verify_receipt(&receipt, path, |_, _| {}).map(|all| (all.different, all.receipts));
        assert_eq!(differ(&to.path().join(&name)).unwrap(), (0, 1));
        fs::write(&file, bytes(size + 1, 0)).unwrap();
        assert_eq!(differ(&file).unwrap(), (1, 1));
    }
    assert!(!to.path().join(".linger").exists(), "nothing is left behind");
}

#[test]
fn a_tree_arrives_as_it_is_and_comes_back() {
    for verify in [true, false] {
        let (from, to, back) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
        let top = from.path().join("tree");
        make_tree(&top);
        share(
            to.path(),
            |_| {},
            |shared| {
                let mut options = PutOptions::default();
                options.verify = verify;
                let summary = shared.put_with(&top, "", &options);
                assert_eq!(summary.confirmed, 12);
                let mut options = GetOptions::default();
                options.verify = verify;
                let (summary, error) = shared.get_with("tree", back.path().join("again"), &options);
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
                assert!(summary.peer_knows);
            },
        );
        assert_eq!(picture(&top), picture(&to.path().join("tree")));
        assert_eq!(picture(&top), picture(&back.path().join("again")));
    }
}

#[test]
fn a_tree_that_is_there_is_compared_and_not_sent_again() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("tree");
    make_tree(&top);
    share(
        to.path(),
        |_| {},
        |shared| {
            let first = shared.put(&top, "tree");
            let again = shared.put(&top, "tree");
            assert_eq!(again.confirmed, first.confirmed);
            assert!(again.wire < 10_000, "{} bytes for nothing", again.wire);
            // One file here has other content of the same length and time: it is not overwritten, and its name is
            // reported.
            let changed = to.path().join("tree/small");
            let time = fs::metadata(&changed).unwrap().modified().unwrap();
            fs::write(&changed, bytes(4096, 99)).unwrap();
            fs::File::options().write(true).open(&changed).unwrap().set_modified(time).unwrap();
            let (summary, error) = shared.try_put(&top, "tree", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            assert_eq!((summary.confirmed, summary.failed), (first.confirmed - 1, 1));
            assert!(summary.first_failure.as_ref().unwrap().contains("tree/small exists"), "{summary:?}");
            let mut replace = PutOptions::default();
            replace.if_exists = IfExists::Replace;
            shared.put_with(&top, "tree", &replace);
        },
    );
    assert_eq!(picture(&top), picture(&to.path().join("tree")));
}

#[test]
fn a_pipe_of_unknown_length_arrives_and_a_file_goes_to_a_stream() {
    let to = tempdir().unwrap();
    let content = bytes(12 * BLOCK + 5, 7);
    share(
        to.path(),
        |_| {},
        |shared| {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let writing = std::thread::spawn({
                let content = content.clone();
                move || writer.write_all(&content).unwrap()
            });
            let (summary, error) = shared.client().put(
                Input::Pipe(reader.into()),
                &place("piped"),
                &PutOptions::default(),
                &mut |_| {},
            );
            writing.join().unwrap();
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            let (mut reader, writer) = std::io::pipe().unwrap();
            let reading = std::thread::spawn(move || {
                let mut got = Vec::new();
                std::io::Read::read_to_end(&mut reader, &mut got).unwrap();
                got
            });
            let output = Output::Stream(writer.into());
            let (summary, error) =
                shared.client().get(&place("piped"), &output, &GetOptions::default(), &mut |_| {});
            drop(output);
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            assert!(reading.join().unwrap() == content);
        },
    );
    assert!(fs::read(to.path().join("piped")).unwrap() == content);
}

/// A file that is sent alone has no path below the top, and is called what was asked for, by both ends.
#[test]
fn a_single_file_that_changes_is_named() {
    for verify in [true, false] {
        let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
        let log = from.path().join("log");
        fs::write(&log, bytes(2 * BLOCK + 9, 1)).unwrap();
        let mut growing = fs::OpenOptions::new().append(true).open(&log).unwrap();
        let mut told = Vec::new();
        let served = share(
            to.path(),
            |_| {},
            |shared| {
                let mut options = PutOptions::default();
                options.verify = verify;
                let mut see = |progress| match progress {
                    Progress::Moved { .. } => growing.write_all(b"line\n").unwrap(),
                    Progress::NotDelivered { text, .. } => told.push(text.to_string()),
                    _ => {}
                };
                let input = Input::Path(log.clone());
                let (summary, error) = shared.client().put(input, &place("copy"), &options, &mut see);
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered, "{error:?}");
            },
        );
        assert_eq!(told, ["log changed while it was read"]);
        assert_eq!(served[0].summary.first_failure.as_deref(), Some("log changed while it was read"));
    }
}

/// The file ends in the middle of a DATA frame, whose length is sent already: the files after it must still arrive.
#[test]
fn a_file_that_shrinks_while_it_is_sent_is_not_delivered_and_the_others_are() {
    for verify in [true, false] {
        let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
        let tree = from.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a"), bytes(5 * BLOCK + 9, 1)).unwrap();
        fs::write(tree.join("b"), bytes(2 * BLOCK + 9, 2)).unwrap();
        let shrinking = fs::OpenOptions::new().write(true).open(tree.join("a")).unwrap();
        let mut failed = Vec::new();
        share(
            to.path(),
            |_| {},
            |shared| {
                let mut armed = false;
                let mut options = PutOptions::default();
                options.verify = verify;
                let (summary, error) =
                    shared.client().put(Input::Path(tree.clone()), &place(""), &options, &mut |progress| {
                        match progress {
                            Progress::Started { path, .. } => armed = path.to_string().ends_with('a'),
                            Progress::Moved { bytes } if armed => {
                                shrinking.set_len(bytes + 1000).unwrap();
                                armed = false;
                            }
                            Progress::NotDelivered { path, text, .. } => {
                                failed.push((path.to_string(), text))
                            }
                            _ => {}
                        }
                    });
                assert_eq!(
                    summary.verdict(error.as_ref()),
                    ItemVerdict::NotDelivered,
                    "{summary:?} {error:?}"
                );
                assert!(error.is_none(), "{error:?}");
            },
        );
        let [(path, text)] = &failed[..] else { panic!("{failed:?}") };
        assert!(path.ends_with('a') && text.contains("changed while it was read"), "{path}: {text}");
        let to = to.path().join("tree");
        assert!(!to.join("a").exists());
        assert!(fs::read(to.join("b")).unwrap() == fs::read(tree.join("b")).unwrap());
    }
}

#[test]
fn sparse_files_stay_sparse() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("sparse");
    let mut sparse = fs::File::create(&file).unwrap();
    sparse.set_len(64 * BLOCK as u64 + 3).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"island", 20 * BLOCK as u64 + 70_000).unwrap();
    sparse.flush().unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            let summary = shared.put(&file, "");
            assert!(summary.wire < 3 * BLOCK as u64, "{} bytes on the wire", summary.wire);
        },
    );
    let copy = to.path().join("sparse");
    assert_eq!(blake3::hash(&fs::read(&copy).unwrap()), blake3::hash(&fs::read(&file).unwrap()));
    assert!(fs::metadata(&copy).unwrap().blocks() * 512 < 1 << 20);
}

/// Each of these files ends with 16 blocks of zeros that have to be hashed. A receiver hashes 1,024 for nothing; what is more
/// is paid for with a block of zeros for every two files.
#[test]
fn more_holes_than_a_receiver_hashes_for_nothing_arrive_as_well() {
    const LENGTH: u64 = 272 << 20;
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let tree = from.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..74 {
        fs::File::create(tree.join(number.to_string())).unwrap().set_len(LENGTH).unwrap();
    }
    let mut hashes = Vec::new();
    share(
        to.path(),
        |_| {},
        |shared| {
            let observe = &mut |told: Progress| {
                if let Progress::Confirmed(confirmation) = told {
                    hashes.extend(confirmation.hash);
                }
            };
            let options = PutOptions::default();
            let (summary, error) =
                shared.client().put(Input::Path(tree.clone()), &place("tree"), &options, observe);
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            assert_eq!(summary.confirmed, 75);
            // Ten files over, so five blocks of zeros.
            assert_eq!(summary.wire >> 20, 5, "{} bytes on the wire", summary.wire);
        },
    );
    let mut hasher = blake3::Hasher::new();
    (0..LENGTH >> 20).for_each(|_| _ = hasher.update(&[0; BLOCK]));
    assert!(hashes.len() == 74 && hashes.iter().all(|hash| hash == hasher.finalize().as_bytes()));
    let copy = fs::metadata(to.path().join("tree/73")).unwrap();
    assert_eq!((copy.len(), copy.blocks()), (LENGTH, 0));
}

#[test]
fn patterns_leave_out_and_take_back() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    for name in ["keep.rs", "drop.log", "keep.log", "target/out", "src/a.log", "src/a.rs"] {
        let path = from.path().join("tree").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let mut options = PutOptions::default();
    options.patterns = Patterns::new(&["*.log", "!keep.log", "/target/"]).unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            shared.put_with(from.path().join("tree"), "a", &options);
            let mut options = GetOptions::default();
            options.patterns = vec!["*.rs".into()];
            let (summary, _) = shared.get_with("a", from.path().join("back"), &options);
            assert_eq!(summary.confirmed, 3, "two directories and keep.log");
        },
    );
    let there: Vec<_> = picture(&to.path().join("a")).into_keys().collect();
    assert_eq!(there, ["", "keep.log", "keep.rs", "src", "src/a.rs"].map(Path::new));
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    make_tree(&from.path().join("tree"));
    let mut options = PutOptions::default();
    options.dry_run = true;
    share(
        to.path(),
        |_| {},
        |shared| {
            let mut would = 0;
            let (summary, error) = shared.client().put(
                Input::Path(from.path().join("tree")),
                &place(""),
                &options,
                &mut |progress| would += u64::from(matches!(progress, Progress::WouldSend { .. })),
            );
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            assert_eq!(would, 12);
        },
    );
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    // The same for a get.
    share(
        from.path(),
        |_| {},
        |shared| {
            let mut options = GetOptions::default();
            options.dry_run = true;
            let (mut would, mut bytes) = (0, 0);
            let output = Output::Path(to.path().join("tree"));
            let (summary, error) = shared.client().get(&place("tree"), &output, &options, &mut |progress| {
                if let Progress::WouldSend { bytes: more, .. } = progress {
                    (would, bytes) = (would + 1, bytes + more);
                }
            });
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            assert_eq!((would, bytes), (12, (9 * BLOCK + 4096 + 12_345 + 1) as u64));
            // A file that is in the way is reported, too.
            fs::write(to.path().join("tree"), b"a file").unwrap();
            let output = Output::Path(to.path().join("tree"));
            let (summary, _) = shared.client().get(&place("tree/small"), &output, &options, &mut |_| {});
            assert_eq!(summary.failed, 1, "{summary:?}");
        },
    );
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
}

#[test]
fn sinks_get_everything_or_nothing() {
    let to = tempdir().unwrap();
    let out = to.path().join("printed");
    let config = format!(
        "[sink.print]\ncommand = ['tee', '{}']\nmax_bytes = 2000000\n[sink.broken]\ncommand = ['false']\n\
         [sink.clip]\ndesktop = 'clipboard'\n[source.date]\ncommand = ['echo', 'now']\n[source.bad]\n\
         command = ['false']\n[source.big]\ncommand = ['head', '-c', '3000000', '/dev/zero']\nmax_bytes = 2000000\n\
         [source.slow]\ncommand = ['sleep', '600']\nmax_seconds = 1\n",
        out.display()
    );
    let file = to.path().join("file");
    fs::write(&file, bytes(1_500_000, 5)).unwrap();
    let change = |options: &mut ShareOptions| {
        options.writable = false;
        options.config = StreamsConfig::parse(&config).unwrap();
    };
    share(to.path(), change, |shared| {
        shared.put(&file, "@print");
        assert!(fs::read(&out).unwrap() == fs::read(&file).unwrap());
        for (sink, expected) in
            [("@broken", "`false` ended"), ("@clip", "no clipboard here"), ("@x", "no sink")]
        {
            let (summary, error) = shared.try_put(&file, sink, &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            let said = summary.first_failure.map(|reason| reason.to_string());
            let said = said.or(error.map(|error| error.to_string())).unwrap();
            assert!(said.contains(expected), "{said}");
        }
        fs::write(&file, bytes(3_000_000, 5)).unwrap();
        let (summary, error) = shared.try_put(&file, "@print", &PutOptions::default());
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        assert!(summary.first_failure.unwrap().contains("at most 2000000"));
        assert_eq!(fs::read(&out).unwrap().len(), 1_500_000, "nothing of it was printed");
        shared.get("@date", to.path().join("date"));
        assert_eq!(fs::read(to.path().join("date")).unwrap(), b"now\n");
        let (summary, error) = shared.get_with("@bad", to.path().join("bad"), &GetOptions::default());
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        assert!(!to.path().join("bad").exists());
        for (source, expected, remedy) in [
            ("@big", "more than 2000000 bytes", Remedy::RaiseMaxBytes),
            ("@slow", "`sleep` took too long", Remedy::RaiseMaxSeconds),
        ] {
            let (summary, error) = shared.get_with(source, to.path().join("bad"), &GetOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            let said = summary.first_failure.unwrap();
            assert!(said.contains(expected) && said.remedy() == Some(&remedy), "{said:?}");
            assert!(!to.path().join("bad").exists());
        }
        // A command takes one file: for a tree it would run once for each file.
        let (_, error) = shared.try_put(to.path(), "@print", &PutOptions::default());
        assert!(matches!(error, Some(Error::Usage(_))), "{error:?}");
        let stdout = Output::Stream(fs::File::create(to.path().join("stream")).unwrap().into());
        let (_, error) = shared.client().get(&place(""), &stdout, &GetOptions::default(), &mut |_| {});
        assert!(matches!(error, Some(Error::Usage(_))), "{error:?}");
        assert_eq!(fs::read(to.path().join("stream")).unwrap(), b"");
    });
}

#[test]
fn a_listing_shows_what_is_there() {
    let to = tempdir().unwrap();
    make_tree(&to.path().join("tree"));
    share(
        to.path(),
        |_| {},
        |shared| {
            let mut names = Vec::new();
            shared
                .client()
                .list(&RelPath::typed(b"tree").unwrap(), &mut |item| names.push((item.name, item.kind)))
                .unwrap();
            names.sort_by(|a, b| a.0.cmp(&b.0));
            let expected = [
                ("block", Kind::File),
                ("dangling", Kind::Link),
                ("empty", Kind::Directory),
                ("small", Kind::File),
                ("sub", Kind::Directory),
                ("zero", Kind::File),
            ];
            assert_eq!(names, expected.map(|(name, kind)| (name.into(), kind)));
            assert!(shared.client().list(&RelPath::typed(b"none").unwrap(), &mut |_| {}).is_err());
        },
    );
}

#[test]
fn several_connections_carry_one_transfer() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("tree");
    make_tree(&top);
    fs::write(top.join("large"), bytes(40 * BLOCK + 3, 9)).unwrap();
    let served = share(
        to.path(),
        |_| {},
        |shared| {
            for streams in [2, 5, 16] {
                let mut options = ClientOptions::default();
                options.retry.patience = std::time::Duration::ZERO;
                options.streams = streams;
                let client = Client::new("127.0.0.1", shared.port, options).unwrap();
                let name = format!("copy{streams}");
                let (summary, error) =
                    client.put(Input::Path(top.clone()), &place(&name), &PutOptions::default(), &mut |_| {});
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
                assert_eq!(picture(&top), picture(&to.path().join(&name)));
                let output = Output::Path(from.path().join(&name));
                let (summary, error) =
                    client.get(&place(&name), &output, &GetOptions::default(), &mut |_| {});
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
                assert_eq!(picture(&top), picture(&from.path().join(&name)));
            }
        },
    );
    assert!(served.iter().all(|one| one.error.is_none()), "{served:?}");
}

/// A file with ten terabytes of holes and a little content is sent within a moment.
#[test]
fn a_file_of_ten_terabytes_of_holes_is_sent_in_a_moment() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (file, receipt) = (from.path().join("image"), from.path().join("receipt"));
    let size = (10 << 40) + 5;
    let image = fs::File::create(&file).unwrap();
    image.set_len(size).unwrap();
    let content = bytes(BLOCK, 1);
    image.write_all_at(&content, 5 << 40).unwrap();
    image.write_all_at(b"end", size - 3).unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            let mut kept = Receipts::new(Vec::new(), "host");
            let observe = &mut |told: Progress| {
                if let Progress::Confirmed(confirmation) = told {
                    assert!(confirmation.by_blocks && confirmation.hash.is_some());
                    kept.keep(&confirmation).unwrap();
                }
            };
            let options = PutOptions::default();
            let (summary, error) =
                shared.client().put(Input::Path(file.clone()), &place("copy"), &options, observe);
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            assert!(summary.wire < 2 << 20, "{}", summary.wire);
            fs::write(&receipt, kept.finish(None).unwrap()).unwrap();
            // Once more: the file exists now and is compared, by blocks as well.
            assert_eq!(shared.put(&file, "copy").confirmed, 1);
        },
    );
    let copy = fs::File::options().read(true).write(true).open(to.path().join("copy")).unwrap();
    let mut there = vec![0; BLOCK];
    copy.read_exact_at(&mut there, 5 << 40).unwrap();
    assert!(there == content && copy.metadata().unwrap().len() == size);
    let verify = || verify_receipt(&receipt, &to.path().join("copy"), |_, _| {}).unwrap().different;
    assert_eq!(verify(), 0);
    copy.write_all_at(b"x", 7 << 40).unwrap();
    assert_eq!(verify(), 1);
}
