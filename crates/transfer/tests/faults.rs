//! Faults on the connection: whatever happens, the final name is absent or has the right content, and both
//! sides' results are true.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::proxy::{Fault, Proxy, Way};
use common::*;
use linger_transfer::session::Deadlines;
use linger_transfer::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::tempdir;

fn patient(port: u16) -> Client {
    let mut options = ClientOptions::default();
    options.retry.first = Duration::from_millis(1);
    options.deadlines = quick();
    Client::new("127.0.0.1", port, options).unwrap()
}

/// Short deadlines: after a flipped bit in a length, both sides wait for bytes that never come.
fn quick() -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.ping = Duration::from_millis(100);
    deadlines.stall = Duration::from_millis(300);
    deadlines
}

fn put(client: &Client, file: &Path, name: &str) -> (Summary, Option<Error>) {
    let mut options = PutOptions::default();
    options.durability = Durability::Memory;
    client.put(Input::Path(file.into()), &place(name), &options, &mut |_| {})
}

/// The positions in a client's bytes at which frames end.
fn boundaries(sent: &[u8]) -> Vec<u64> {
    let mut ends = vec![8];
    let mut at = 8;
    while let Some(header) = sent.get(at..at + 8) {
        at += 8 + u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        ends.push(at as u64);
    }
    assert_eq!(ends.last(), Some(&(sent.len() as u64)), "the stream is made of whole frames");
    ends
}

#[test]
fn a_reset_at_every_frame_boundary_costs_at_most_a_block() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    let content = bytes(6 * BLOCK + 1000, 1);
    fs::write(&file, &content).unwrap();
    let quick = |options: &mut ShareOptions| options.deadlines = quick();
    let (mut wholes, mut count) = (0, 0);
    let served = share(to.path(), quick, |shared| {
        let clean = Proxy::new(shared.port, None);
        let (summary, _) = put(&patient(clean.port), &file, "clean");
        let whole = summary.wire;
        let ends = boundaries(&clean.recorded.lock().unwrap());
        assert!(ends.len() > 12, "{ends:?}");
        for (number, end) in ends.iter().enumerate() {
            let proxy = Proxy::new(shared.port, Some((Way::ToServer, *end, Fault::Reset)));
            let name = format!("copy{number}");
            let (summary, error) = put(&patient(proxy.port), &file, &name);
            assert_eq!(
                summary.verdict(error.as_ref()),
                ItemVerdict::Confirmed,
                "at {end}: {summary:?} {error:?}"
            );
            assert!(fs::read(to.path().join(&name)).unwrap() == content, "at {end}");
        }
        wholes = whole;
        count = ends.len();
    });
    for number in 0..count {
        let request = format!("put copy{number}");
        let received: u64 =
            served.iter().filter(|one| one.request == request).map(|one| one.summary.wire).sum();
        let twice = received.saturating_sub(wholes);
        assert!(twice <= BLOCK as u64 + 2000, "{request}: {twice} bytes were received twice");
    }
}

#[test]
fn a_thousand_random_faults_and_nothing_wrong() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let sizes = [1, 4096, 70_000, BLOCK, 2 * BLOCK + 5, 3 * BLOCK];
    for (number, size) in sizes.into_iter().enumerate() {
        fs::write(from.path().join(format!("f{number}")), bytes(size, number as u64)).unwrap();
    }
    let tree = from.path().join("tree");
    make_tree(&tree);
    let original = picture(&tree);
    let quick = |options: &mut ShareOptions| options.deadlines = quick();
    let trials = &|shared: &Shared<'_>, seed: u64| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for trial in 0..125 {
            let way = if random.next_u32() % 4 == 0 { Way::ToClient } else { Way::ToServer };
            let which = random.next_u32() as usize % (sizes.len() + 1);
            let size = sizes.get(which).copied().unwrap_or(10 * BLOCK) as u64;
            let end = if way == Way::ToServer { size + 600 } else { 400 };
            let at = u64::from(random.next_u32()) % end;
            let fault = match random.next_u32() % 3 {
                0 => Fault::Reset,
                1 => Fault::Cut,
                _ => Fault::Flip(random.next_u32() as u8),
            };
            let proxy = Proxy::new(shared.port, Some((way, at, fault)));
            let name = format!("t{seed}-{trial}");
            let file = if which < sizes.len() { from.path().join(format!("f{which}")) } else { tree.clone() };
            let (summary, error) = put(&patient(proxy.port), &file, &name);
            let told = format!(
                "seed {seed}, trial {trial}: {fault:?} {way:?} at {at} of {}: {summary:?} {error:?}",
                file.display()
            );
            let copy = to.path().join(&name);
            let verdict = summary.verdict(error.as_ref());
            if which == sizes.len() {
                if verdict == ItemVerdict::Confirmed {
                    assert_eq!(picture(&copy), original, "{told}");
                    fs::set_permissions(
                        copy.join("empty"),
                        std::os::unix::fs::PermissionsExt::from_mode(0o700),
                    )
                    .unwrap();
                    fs::remove_dir_all(&copy).unwrap();
                }
            } else {
                let there = fs::read(&copy).ok();
                if let Some(there) = &there {
                    // Absent or identical, even if a flipped bit in the request has changed an option.
                    assert!(*there == fs::read(&file).unwrap(), "{told}");
                    fs::remove_file(&copy).unwrap();
                }
                let in_request = way == Way::ToServer && at < 80;
                if verdict == ItemVerdict::Confirmed && !in_request {
                    assert!(there.is_some(), "{told}");
                }
            }
            // A cut connection is always made good. After a flipped bit that must hold only for the single
            // files, and for bytes to the server behind the names.
            let in_names = way == Way::ToServer && at < 400;
            let is_flip = matches!(fault, Fault::Flip(_));
            assert!(
                verdict == ItemVerdict::Confirmed
                    || is_flip && (in_names || which == sizes.len() || way == Way::ToClient),
                "{told}"
            );
        }
    };
    // In parallel, because most of the time is spent waiting for bytes that never come.
    share(to.path(), quick, |shared| {
        std::thread::scope(|scope| {
            for seed in 1..=8 {
                scope.spawn(move || trials(shared, seed));
            }
        });
        // The other tests of this process may have a few descriptors of their own open.
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 300, "{open} descriptors are open after 1,000 sessions that failed");
    });
}

#[test]
fn a_client_that_comes_back_goes_on_where_it_was() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    let content = bytes(12 * BLOCK + 7, 3);
    fs::write(&file, &content).unwrap();
    let quick = |options: &mut ShareOptions| options.deadlines = quick();
    share(to.path(), quick, |shared| {
        let proxy = Proxy::new(shared.port, Some((Way::ToServer, 7 * BLOCK as u64, Fault::Cut)));
        let mut options = ClientOptions::default();
        options.retry.patience = Duration::ZERO;
        let client = Client::new("127.0.0.1", proxy.port, options).unwrap();
        let (summary, error) = put(&client, &file, "copy");
        // All of it may have left before the cut was noticed; then it is unconfirmed.
        assert_ne!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?}");
        assert!(!to.path().join("copy").exists());
        // A newer session takes the file over at once, even from a session that has not noticed yet that its
        // connection is cut.
        shared.wait_for_sessions(1);
        let mut resumed = 0;
        let (summary, error) = shared.client().put(
            Input::Path(file.clone()),
            &place("copy"),
            &PutOptions::default(),
            &mut |progress| {
                if let Progress::Started { resumed: bytes, .. } = progress {
                    resumed = bytes;
                }
            },
        );
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
        assert!(resumed >= 6 * BLOCK as u64, "{resumed}");
        assert!(summary.wire <= content.len() as u64 - resumed + 2000, "{}", summary.wire);
    });
    assert!(fs::read(to.path().join("copy")).unwrap() == content);
    assert!(!to.path().join(".linger").exists());
}

#[test]
fn a_get_that_is_cut_goes_on_where_it_was() {
    let (shared_dir, mine) = (tempdir().unwrap(), tempdir().unwrap());
    let content = bytes(9 * BLOCK + 70, 4);
    fs::write(shared_dir.path().join("file"), &content).unwrap();
    share(
        shared_dir.path(),
        |_| {},
        |shared| {
            let proxy = Proxy::new(shared.port, Some((Way::ToClient, 5 * BLOCK as u64, Fault::Reset)));
            let output = Output::Path(mine.path().join("copy"));
            let client = patient(proxy.port);
            // The bytes that the server said it had, and the bytes that were sent after that.
            let (mut resumed, mut moved) = (0, 0);
            let (summary, error) =
                client.get(&place("file"), &output, &GetOptions::default(), &mut |progress| match progress {
                    Progress::Started { resumed: bytes, .. } => (resumed, moved) = (bytes, 0),
                    Progress::Moved { bytes } => moved += bytes,
                    _ => {}
                });
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            assert!(summary.wire <= content.len() as u64 + BLOCK as u64 + 4000, "{}", summary.wire);
            assert_eq!(resumed + moved, content.len() as u64, "{resumed} bytes were said to be here");
        },
    );
    assert!(fs::read(mine.path().join("copy")).unwrap() == content);
}

#[test]
fn unverified_transfers_that_are_cut_go_on_where_they_were() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    let content = bytes(9 * BLOCK + 70, 8);
    fs::write(&file, &content).unwrap();
    let most = content.len() as u64 + BLOCK as u64 + 4000;
    let quick = |options: &mut ShareOptions| options.deadlines = quick();
    let served = share(to.path(), quick, |shared| {
        let cut = |way| Proxy::new(shared.port, Some((way, 5 * BLOCK as u64 + 100, Fault::Reset)));
        let mut options = PutOptions::default();
        options.verify = false;
        let proxy = cut(Way::ToServer);
        let put = |input, name: &str, port| patient(port).put(input, &place(name), &options, &mut |_| {}).0;
        let summary = put(Input::Path(file.clone()), "file", proxy.port);
        assert_eq!((summary.confirmed, summary.failed), (1, 0), "{summary:?}");
        // Now the file exists at the server: length and time are compared.
        let summary = put(Input::Path(file.clone()), "file", shared.port);
        assert!(summary.confirmed == 1 && summary.wire < 1000, "{summary:?}");
        let proxy = cut(Way::ToServer);
        let (reader, mut writer) = std::io::pipe().unwrap();
        let writing = std::thread::spawn({
            let content = content.clone();
            move || std::io::Write::write_all(&mut writer, &content)
        });
        let summary = put(Input::Pipe(reader.into()), "pipe", proxy.port);
        assert_eq!((summary.confirmed, summary.failed), (1, 0), "{summary:?}");
        writing.join().unwrap().unwrap();
        let mut options = GetOptions::default();
        options.verify = false;
        let proxy = cut(Way::ToClient);
        let output = Output::Path(from.path().join("back"));
        let (summary, error) = patient(proxy.port).get(&place("file"), &output, &options, &mut |_| {});
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
        assert!(summary.wire <= most, "{summary:?}");
    });
    for name in ["file", "pipe"] {
        assert!(fs::read(to.path().join(name)).unwrap() == content, "{name}");
        let request = format!("put {name}");
        let received: u64 =
            served.iter().filter(|one| one.request == request).map(|one| one.summary.wire).sum();
        assert!(received <= most, "{name}: {received} bytes");
    }
    assert!(fs::read(from.path().join("back")).unwrap() == content);
}

#[test]
fn a_pipe_that_is_cut_goes_on_without_having_been_kept() {
    let to = tempdir().unwrap();
    let content = bytes(30 * BLOCK + 123, 5);
    let quick = |options: &mut ShareOptions| options.deadlines = quick();
    share(to.path(), quick, |shared| {
        for (number, at) in
            [100, BLOCK / 2, 3 * BLOCK + 9, 17 * BLOCK, 30 * BLOCK + 2000].into_iter().enumerate()
        {
            let proxy = Proxy::new(shared.port, Some((Way::ToServer, at as u64, Fault::Reset)));
            let (reader, mut writer) = std::io::pipe().unwrap();
            let writing = std::thread::spawn({
                let content = content.clone();
                move || std::io::Write::write_all(&mut writer, &content)
            });
            let name = format!("pipe{number}");
            let client = patient(proxy.port);
            let (summary, error) =
                client.put(Input::Pipe(reader.into()), &place(&name), &PutOptions::default(), &mut |_| {});
            assert_eq!(
                summary.verdict(error.as_ref()),
                ItemVerdict::Confirmed,
                "at {at}: {summary:?} {error:?}"
            );
            writing.join().unwrap().unwrap();
            assert!(fs::read(to.path().join(&name)).unwrap() == content, "at {at}");
        }
    });
}

#[test]
fn a_receiver_that_stops_reading_is_given_up() {
    let from = tempdir().unwrap();
    let file = from.path().join("file");
    fs::write(&file, bytes(30 * BLOCK, 6)).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = ClientOptions::default();
    options.retry.patience = Duration::ZERO;
    options.deadlines = quick();
    options.policy.idle = Duration::from_millis(200);
    let client = Client::new("127.0.0.1", listener.local_addr().unwrap().port(), options).unwrap();
    let (summary, error) = put(&client, &file, "x");
    assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
    assert!(error.unwrap().to_string().contains("nothing was heard"));
}

/// What is left out as asked is told in each session, and is no earlier failure in any; what failed is one failure.
#[test]
fn a_cut_changes_nothing_of_what_was_left_out_or_failed() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let top = from.path().join("top");
    fs::create_dir(&top).unwrap();
    // The session is cut in the last file. So the walk has met a pipe before, unless the directory names all pipes last.
    for number in 0..8 {
        mknodat(CWD, top.join(format!("pipe-{number}")), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::write(top.join(format!("file-{number}")), bytes(BLOCK / 2, number)).unwrap();
    }
    let mut ends = Vec::new();
    let served = share(
        to.path(),
        |_| {},
        |shared| {
            for skip_special in [true, false] {
                let cut = Proxy::new(shared.port, Some((Way::ToServer, 4 * BLOCK as u64 - 1000, Fault::Cut)));
                let client = patient(cut.port);
                let mut options = PutOptions::default();
                options.selection.skip_special = skip_special;
                let name = format!("skip-{skip_special}");
                let (summary, error) =
                    client.put(Input::Path(top.clone()), &place(&name), &options, &mut |_| {});
                assert!(cut.done.load(Ordering::SeqCst), "the first session was cut");
                ends.push((summary.verdict(error.as_ref()), summary.failed, summary.skipped));
            }
        },
    );
    let expected = [(ItemVerdict::Confirmed, 0, 8), (ItemVerdict::NotDelivered, 8, 0)];
    assert_eq!(ends, expected);
    let last = |number: usize| &served[2 * number + 1].summary;
    assert_eq!(served.len(), 4, "{served:?}");
    assert_eq!([(last(0).failed, last(0).skipped), (last(1).failed, last(1).skipped)], [(0, 8), (8, 0)]);
}
