//! What users have and type: special files, links, growing files, deep trees, names that are taken.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use crate::common::*;
use linger_transfer::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::tempdir;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn options(change: impl FnOnce(&mut PutOptions)) -> PutOptions {
    let mut options = PutOptions::default();
    change(&mut options);
    options
}

/// A project like many: with a virtual environment's link, a named pipe, a dangling link, and links in a
/// circle.
fn project(top: &Path) {
    fs::create_dir_all(top.join("bin")).unwrap();
    fs::write(top.join("x"), b"x").unwrap();
    symlink("/bin/sh", top.join("bin/python")).unwrap();
    symlink("x", top.join("inside")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    symlink("..", top.join("bin/up")).unwrap();
    mknodat(CWD, top.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
}

#[test]
fn what_cannot_be_sent_fails_or_is_left_out_as_it_was_asked_for() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("p");
    project(&top);
    let served = share(
        to.path(),
        |_| {},
        |shared| {
            let (summary, error) = shared.try_put(&top, "fails", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            assert_eq!((summary.failed, summary.skipped), (2, 0), "the link out and the pipe");
            let summary =
                shared.put_with(&top, "left-out", &options(|options| options.selection.skip_special = true));
            assert_eq!((summary.confirmed, summary.failed, summary.skipped), (6, 0, 2));
            let none = |options: &mut PutOptions| {
                options.selection.links = LinkMode::Skip;
                options.selection.skip_special = true;
            };
            let summary = shared.put_with(&top, "no-links", &options(none));
            assert_eq!((summary.confirmed, summary.skipped), (3, 5));
            let follow = |options: &mut PutOptions| {
                options.selection.links = LinkMode::Follow;
                options.selection.skip_special = true;
            };
            let summary = shared.put_with(&top, "followed", &options(follow));
            // `nowhere` is a dangling link, and `up` leads back to a directory that contains it.
            assert_eq!((summary.confirmed, summary.skipped), (5, 3));
            // The same for a get: the server follows no link out of its directory.
            let mut get = GetOptions::default();
            get.selection.links = LinkMode::Follow;
            symlink("/etc/passwd", to.path().join("left-out/secret")).unwrap();
            let (summary, error) = shared.get_with("left-out", from.path().join("got"), &get);
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            assert_eq!(summary.failed, 3, "nowhere, up, and what is outside");
            get.selection.skip_special = true;
            let (summary, error) = shared.get_with("left-out", from.path().join("got"), &get);
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?}");
        },
    );
    let failed: Vec<_> = served.iter().map(|one| (one.summary.failed, one.summary.skipped)).collect();
    assert_eq!(failed, [(2, 0), (0, 2), (0, 5), (0, 3), (3, 0), (0, 3)], "the other end counts the same");
    assert!(!from.path().join("got/secret").exists());
    assert!(fs::read(to.path().join("followed/bin/python")).unwrap() == fs::read("/bin/sh").unwrap());
    assert_eq!(fs::read(to.path().join("followed/inside")).unwrap(), b"x");
    assert!(!fs::symlink_metadata(to.path().join("followed/inside")).unwrap().is_symlink());
}

/// A receiver makes no link that leaves by `..` what is no directory there (yet), and a directory's names come in no order.
#[test]
fn a_link_that_leaves_a_directory_beside_it_arrives_the_first_time() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("p");
    fs::create_dir_all(&top).unwrap();
    let links: Vec<String> = (0..40).map(|number| format!("l{number}")).collect();
    for (number, link) in links.iter().enumerate() {
        let make_directory = || fs::create_dir_all(top.join(format!("{number}/deep"))).unwrap();
        // In whatever order a file system lists them, some links stand before their directories.
        if number % 2 == 0 {
            make_directory();
        }
        symlink(format!("{number}/deep/../../file"), top.join(link)).unwrap();
        make_directory();
    }
    fs::write(top.join("file"), b"x").unwrap();
    fs::set_permissions(&top, fs::Permissions::from_mode(0o555)).unwrap();
    let arrives = |shared: &Shared<'_>| {
        let summary = shared.put(&top, "all");
        assert_eq!((summary.confirmed, summary.failed), (40 * 3 + 2, 0));
        // One that leaves a link stays refused: where it leads is not said by its text.
        fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
        symlink("0", top.join("other")).unwrap();
        symlink("other/../file", top.join("chain")).unwrap();
        let (summary, error) = shared.try_put(&top, "chained", &PutOptions::default());
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        assert_eq!((summary.confirmed, summary.failed), (40 * 3 + 3, 1));
    };
    share(to.path(), |_| {}, arrives);
    assert_eq!(mode(&to.path().join("all")), 0o555);
    assert!(links.iter().all(|link| fs::read(to.path().join("all").join(link)).unwrap() == b"x"));
    let chain = to.path().join("chained/chain");
    assert!(fs::symlink_metadata(&chain).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound));
    fs::set_permissions(to.path().join("all"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_taken_name_is_handled_as_it_was_asked_for() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("a.tar.gz");
    fs::write(&file, b"new").unwrap();
    fs::write(to.path().join("a.tar.gz"), b"there").unwrap();
    let there = |name: &str| fs::read(to.path().join(name)).unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            let (summary, error) = shared.try_put(&file, "", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            let summary = shared.put_with(&file, "", &options(|options| options.if_exists = IfExists::Skip));
            assert_eq!((summary.confirmed, summary.skipped), (0, 1));
            assert_eq!(there("a.tar.gz"), b"there");
            let both = options(|options| options.if_exists = IfExists::KeepBoth);
            shared.put_with(&file, "", &both);
            let summary = shared.put_with(&file, "", &both);
            assert_eq!(summary.confirmed, 1, "the copy is there already");
            assert_eq!((there("a.tar.gz"), there("a.tar (1).gz")), (b"there".to_vec(), b"new".to_vec()));
            assert!(!to.path().join("a.tar (2).gz").exists());
            fs::write(&file, b"newer").unwrap();
            shared.put_with(&file, "", &both);
            assert_eq!(there("a.tar (2).gz"), b"newer");
            // As long and as old as what is there, but another content: known only once it was compared.
            let time = fs::metadata(to.path().join("a.tar.gz")).unwrap().modified().unwrap();
            fs::write(&file, b"other").unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
            assert_eq!(there("a.tar.gz").len(), 5);
            shared.put_with(&file, "", &both);
            assert_eq!((there("a.tar.gz"), there("a.tar (3).gz")), (b"there".to_vec(), b"other".to_vec()));
            shared.put_with(&file, "", &options(|options| options.if_exists = IfExists::Replace));
            assert_eq!(there("a.tar.gz"), b"other");
        },
    );
}

/// A link whose name other content has, or another link, gets another name as a file does; the same link again does not.
#[test]
fn a_link_whose_name_is_taken_is_kept_beside_it() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("top");
    fs::create_dir(&top).unwrap();
    fs::create_dir(to.path().join("top")).unwrap();
    fs::write(top.join("a"), b"a").unwrap();
    fs::write(top.join("b"), b"b").unwrap();
    symlink("a", top.join("link")).unwrap();
    symlink("b", top.join("other")).unwrap();
    symlink("elsewhere", to.path().join("top/link")).unwrap();
    fs::write(to.path().join("top/other"), b"mine").unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            let (summary, _) = shared.try_put(&top, "", &PutOptions::default());
            assert_eq!(summary.failed, 2, "without the option both names are refused");
            let both = options(|options| options.if_exists = IfExists::KeepBoth);
            for _ in 0..2 {
                let mut names = Vec::new();
                let mut note = |progress: Progress| {
                    if let Progress::Confirmed(confirmation) = progress {
                        names.push(String::from_utf8_lossy(confirmation.name.raw()).into_owned());
                    }
                };
                let (summary, error) =
                    shared.client().put(Input::Path(top.clone()), &place(""), &both, &mut note);
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
                names.sort();
                assert_eq!(names, ["top", "top/a", "top/b", "top/link (1)", "top/other (1)"]);
            }
        },
    );
    let there = to.path().join("top");
    for (name, leads) in [("link", "elsewhere"), ("link (1)", "a"), ("other (1)", "b")] {
        assert_eq!(fs::read_link(there.join(name)).unwrap(), Path::new(leads), "{name}");
    }
    assert_eq!(fs::read(there.join("other")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&there).unwrap().count(), 6, "the same again is not kept twice");
}

#[test]
fn a_growing_file_arrives_as_long_as_it_was() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let log = from.path().join("log");
    fs::write(&log, bytes(4 * BLOCK, 1)).unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            for (live, verdict) in [(false, ItemVerdict::NotDelivered), (true, ItemVerdict::Confirmed)] {
                let options = options(|options| options.selection.live = live);
                let before = fs::read(&log).unwrap();
                let mut grow = |progress: Progress| {
                    if let Progress::Moved { .. } = progress {
                        fs::File::options()
                            .append(true)
                            .open(&log)
                            .unwrap()
                            .write_all(b"one more line\n")
                            .unwrap();
                    }
                };
                let name = format!("live-{live}");
                let (summary, error) =
                    shared.client().put(Input::Path(log.clone()), &place(&name), &options, &mut grow);
                assert_eq!(summary.verdict(error.as_ref()), verdict, "{summary:?} {error:?}");
                assert!(fs::read(&log).unwrap().len() > before.len(), "it has grown");
                if live {
                    assert_eq!(fs::read(to.path().join(&name)).unwrap(), before);
                }
            }
            // A file that has become shorter no longer has the announced content.
            let cut = |progress: Progress| {
                if let Progress::Started { .. } = progress {
                    fs::File::options().write(true).open(&log).unwrap().set_len(BLOCK as u64).unwrap();
                }
            };
            let live = options(|options| options.selection.live = true);
            let (summary, error) =
                shared.client().put(Input::Path(log.clone()), &place("cut"), &live, &mut { cut });
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        },
    );
}

#[test]
fn a_tree_may_be_deeper_than_a_process_has_descriptors_for() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("t");
    let deep = "d/".repeat(400);
    fs::create_dir_all(top.join(&deep)).unwrap();
    fs::write(top.join(&deep).join("x"), b"x").unwrap();
    fs::write(top.join("d/d/z"), b"z").unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            let summary = shared.put(&top, "");
            assert_eq!(summary.confirmed, 403);
            shared.get("t", from.path().join("back"));
        },
    );
    assert_eq!(fs::read(to.path().join("t").join(&deep).join("x")).unwrap(), b"x");
    assert_eq!(fs::read(from.path().join("back").join(&deep).join("x")).unwrap(), b"x");
}

#[test]
fn directories_above_are_made_and_a_file_goes_into_a_directory() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("f");
    fs::write(&file, b"x").unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            shared.put(&file, "a/b/c");
            shared.put(&file, "a/b/");
            shared.put(&file, "made/");
            shared.put(&file, "made");
            shared.get("a/b/c", from.path().join("new/dir/name"));
            shared.get("a/b/c", from.path().join("new/dir"));
            let dry = options(|options| options.dry_run = true);
            shared.put_with(&file, "dry/x", &dry);
        },
    );
    for there in [to.path().join("a/b/c"), to.path().join("a/b/f"), to.path().join("made/f")] {
        assert_eq!(fs::read(&there).unwrap(), b"x", "{}", there.display());
    }
    assert!(from.path().join("new/dir/name").exists() && from.path().join("new/dir/c").exists());
    assert!(!to.path().join("dry").exists());
}

/// This process's umask, without the moment in which umask(2) would have changed it (proc(5)).
fn own_umask() -> Mode {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    Mode::from_raw_mode(u32::from_str_radix(umask.trim(), 8).unwrap())
}

#[test]
fn modes_are_the_umasks_or_what_was_asked_for() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("t");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("f"), b"x").unwrap();
    fs::set_permissions(top.join("f"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(&top, fs::Permissions::from_mode(0o777)).unwrap();
    let umask = own_umask();
    share(
        to.path(),
        |_| {},
        |shared| {
            shared.put(&top, "");
            let chmod = options(|options| options.chmod = Some("D775,F662".parse().unwrap()));
            shared.put_with(&top, "asked", &chmod);
            let mut get = GetOptions::default();
            get.chmod = Some("a=rwX".parse().unwrap());
            let (summary, _) = shared.get_with("asked", from.path().join("got"), &get);
            assert_eq!(summary.failed, 0);
        },
    );
    assert_eq!(mode(&to.path().join("t")), 0o777 & !umask.bits());
    assert_eq!(mode(&to.path().join("t/f")), 0o666 & !umask.bits());
    assert_eq!((mode(&to.path().join("asked")), mode(&to.path().join("asked/f"))), (0o775, 0o662));
    assert_eq!((mode(&from.path().join("got")), mode(&from.path().join("got/f"))), (0o777, 0o666));
}

/// What a session that ended in the middle has left is removed once it is empty, also if nothing of it had to be removed.
#[test]
fn an_empty_work_directory_does_not_outlive_the_start_of_a_server() {
    let to = tempdir().unwrap();
    let work = to.path().join(".linger");
    let start = || share(to.path(), |_| {}, |_| {});
    fs::create_dir(&work).unwrap();
    start();
    assert!(!work.exists());
    fs::create_dir(&work).unwrap();
    fs::write(work.join("0011223344556677.part"), "somebody's").unwrap();
    start();
    assert!(work.join("0011223344556677.part").exists(), "it is not empty");
    share(to.path(), |options| options.writable = false, |_| {});
    assert!(work.exists(), "a server that only gives changes nothing");
}

/// A server of one request waits for a client that was cut. One that its user has stopped says so, and is not waited for.
#[test]
fn a_client_that_was_stopped_does_not_come_back() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(3 * BLOCK, 5)).unwrap();
    let served = share(
        to.path(),
        |_| {},
        |shared| {
            let client = shared.client();
            let stop = client.canceller();
            let (_, error) =
                client.put(Input::Path(file.clone()), &place("a"), &PutOptions::default(), &mut |seen| {
                    if matches!(seen, Progress::Moved { .. }) {
                        stop.cancel();
                    }
                });
            assert!(matches!(error, Some(Error::Cancelled)), "{error:?}");
            let cut =
                proxy::Proxy::new(shared.port, Some((proxy::Way::ToServer, 500_000, proxy::Fault::Cut)));
            let mut options = ClientOptions::default();
            options.retry.patience = Duration::ZERO;
            let client = Client::new("127.0.0.1", cut.port, options).unwrap();
            let input = Input::Path(file.clone());
            let (_, error) = client.put(input, &place("b"), &PutOptions::default(), &mut |_| {});
            assert!(matches!(error, Some(Error::Cut(_))), "{error:?}");
            shared.wait_for_sessions(2);
        },
    );
    // Sessions are told as they end, and the second may end first.
    let may_return = |request| served.iter().find(|one| one.request == request).map(Served::may_return);
    assert_eq!(
        (may_return("put a"), may_return("put b"), served.len()),
        (Some(false), Some(true), 2),
        "{served:?}"
    );
    // A server that was stopped may be started again: its client tries on.
    share(
        to.path(),
        |_| {},
        |shared| {
            let stop = shared.server.canceller();
            let (_, error) = shared.client().put(
                Input::Path(file.clone()),
                &place("c"),
                &PutOptions::default(),
                &mut |seen| {
                    if matches!(seen, Progress::Moved { .. }) {
                        stop.cancel();
                    }
                },
            );
            assert!(error.as_ref().is_some_and(Error::is_temporary), "{error:?}");
        },
    );
}

/// A file of procfs says that it has 0 bytes, and has more. It arrives as cp(1) copies it; an empty file is empty.
#[test]
fn a_file_that_does_not_say_how_long_it_is_arrives_whole() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(from.path().join("empty"), b"").unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            let source = Path::new("/proc/self/limits");
            assert_eq!(fs::metadata(source).unwrap().len(), 0);
            for verify in [true, false] {
                let name = format!("limits-{verify}");
                let summary = shared.put_with(source, &name, &options(|options| options.verify = verify));
                let copy = fs::read(to.path().join(&name)).unwrap();
                assert_eq!(copy, fs::read(source).unwrap());
                assert_eq!((summary.confirmed, summary.bytes), (1, copy.len() as u64));
            }
            // One of sysfs says that it has a page, and has less.
            let source = Path::new("/sys/devices/system/cpu/online");
            assert!(fs::metadata(source).unwrap().len() > fs::read(source).unwrap().len() as u64);
            for verify in [true, false] {
                let name = format!("online-{verify}");
                let summary = shared.put_with(source, &name, &options(|options| options.verify = verify));
                let copy = fs::read(to.path().join(&name)).unwrap();
                assert!(
                    copy == fs::read(source).unwrap() && summary.bytes == copy.len() as u64,
                    "{summary:?}"
                );
            }
            // A file that has its length is sent as it is, with its holes.
            let holes = from.path().join("holes");
            fs::File::create(&holes).unwrap().set_len(4096).unwrap();
            let summary = shared.put_with(&holes, "holes", &PutOptions::default());
            assert_eq!((summary.confirmed, summary.bytes), (1, 4096));
            let summary = shared.put_with(from.path().join("empty"), "empty", &PutOptions::default());
            assert_eq!((summary.confirmed, summary.bytes), (1, 0));
        },
    );
    assert_eq!(fs::metadata(to.path().join("empty")).unwrap().len(), 0);
    assert_eq!(fs::read(to.path().join("holes")).unwrap(), [0; 4096]);
}

/// What goes into the shared directory itself is reported by its name; what has none is refused with what to do.
#[test]
fn what_is_put_is_reported_by_its_name() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(from.path().join("letter"), "a letter").unwrap();
    fs::create_dir(to.path().join("inbox")).unwrap();
    let served = share(
        to.path(),
        |_| {},
        |shared| {
            for place in ["", "inbox/", "other"] {
                shared.put(from.path().join("letter"), place);
            }
            let (_, error) = shared.try_put("/", "", &options(|options| options.dry_run = true));
            let error = error.unwrap();
            assert!(error.to_string().contains("has no name of its own"), "{error}");
            assert_eq!(error.remedy(), Some(Remedy::GiveName));
        },
    );
    // A session may end at the server after the client has begun the next.
    let mut requests: Vec<_> = served.iter().map(|served| served.request.as_str()).collect();
    requests.sort_unstable();
    assert_eq!(requests, ["put .", "put inbox/letter", "put letter", "put other"]);
}

/// What is fetched into a directory (`dir/`) changes nothing of that directory itself.
#[test]
fn the_directory_that_is_received_into_keeps_its_mode() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(from.path().join("file"), b"x").unwrap();
    for (directory, mode) in [(&from, 0o755), (&to, 0o711)] {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
    share(from.path(), |_| {}, |shared| drop(shared.get("", to.path().join(""))));
    assert_eq!(fs::read(to.path().join("file")).unwrap(), b"x");
    assert_eq!(mode(to.path()), 0o711);
}
