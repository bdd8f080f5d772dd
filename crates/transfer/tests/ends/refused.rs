//! What is refused over loopback TCP, and what is followed: links by name, links that lead out, servers of another kind.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::common::*;
use linger_transfer::*;
use tempfile::tempdir;

/// For a link that the user names, its target is sent, wherever that is. The copy has the name of the link.
#[test]
fn a_link_that_is_put_by_name_is_followed() {
    let (elsewhere, from, to) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    fs::write(elsewhere.path().join("file"), b"content").unwrap();
    fs::create_dir(elsewhere.path().join("dir")).unwrap();
    fs::write(elsewhere.path().join("dir/inside"), b"inside").unwrap();
    for name in ["file", "dir"] {
        symlink(elsewhere.path().join(name), from.path().join(format!("to-{name}"))).unwrap();
    }
    share(
        to.path(),
        |_| {},
        |shared| {
            shared.put(from.path().join("to-file"), "");
            shared.put(from.path().join("to-dir"), "");
        },
    );
    assert_eq!(fs::read(to.path().join("to-file")).unwrap(), b"content");
    assert_eq!(fs::read(to.path().join("to-dir/inside")).unwrap(), b"inside");
    assert!(!fs::symlink_metadata(to.path().join("to-file")).unwrap().is_symlink());
}

/// Any program may listen on the port: the client must not wait for two minutes until it notices that the server
/// speaks another protocol.
#[test]
fn a_server_of_another_kind_is_told_at_once() {
    use std::io::Read as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = client.read_to_end(&mut Vec::new());
        listener.set_nonblocking(true).unwrap();
        listener.accept().is_err()
    });
    let from = tempdir().unwrap();
    let client = Client::new("127.0.0.1", port, ClientOptions::default()).unwrap();
    let input = Input::Path(from.path().into());
    let (summary, error) = client.put(input, &place(""), &PutOptions::default(), &mut |_| {});
    assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
    let error = error.unwrap();
    assert!(error.to_string().ends_with("does not speak this protocol"), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::CheckService));
    assert!(answering.join().unwrap(), "it was tried once");
}

#[test]
fn what_is_refused_is_said_and_nothing_is_written() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(3 * BLOCK, 1)).unwrap();
    fs::write(to.path().join("there"), b"old").unwrap();
    let refused = |shared: &Shared<'_>, to: &str, expected: &str| {
        let (summary, error) = shared.try_put(&file, to, &PutOptions::default());
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        let said = summary
            .first_failure
            .as_ref()
            .map(ToString::to_string)
            .or(error.map(|error| error.to_string()))
            .unwrap();
        assert!(said.contains(expected), "{to}: {said}");
    };
    share(
        to.path(),
        |_| {},
        |shared| {
            refused(shared, "there", "exists already");
            refused(shared, "there/dir", "Not a directory");
            refused(shared, ".linger/x", "used by the receiver");
            refused(shared, ".LINGER/x", "used by the receiver");
            refused(shared, "@print", "no sink `@print`");
        },
    );
    share(
        to.path(),
        |options| options.writable = false,
        |shared| {
            refused(shared, "new", "reading only");
            let (_, error) = shared.get_with("missing", from.path().join("x"), &GetOptions::default());
            assert!(matches!(error, Some(Error::Refused(Refusal::NotFound, _))), "{error:?}");
        },
    );
    assert_eq!(fs::read(to.path().join("there")).unwrap(), b"old");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
}

#[test]
fn links_out_of_the_directory_lead_nowhere() {
    let (outside, to) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    symlink(outside.path(), to.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), to.path().join("file")).unwrap();
    symlink("/dev/zero", to.path().join("zero")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(to.path().join("fifo")).status();
    assert!(fifo.unwrap().success());
    let back = tempdir().unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            for from in ["out/secret", "file", "zero", "out", "fifo"] {
                let (summary, error) = shared.get_with(from, back.path().join("got"), &GetOptions::default());
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered, "{from}");
            }
            let file = back.path().join("mine");
            fs::write(&file, b"mine").unwrap();
            for into in ["out/new", "file", "zero"] {
                let mut options = PutOptions::default();
                options.if_exists = IfExists::Replace;
                let (summary, error) = shared.try_put(&file, into, &options);
                let delivered = summary.verdict(error.as_ref()) == ItemVerdict::Confirmed;
                assert!(!delivered, "{into} {summary:?} {error:?}");
            }
            // For a tree, the entries that cannot be sent are named, and the rest is sent.
            fs::write(to.path().join("plain"), b"plain").unwrap();
            let (summary, _) = shared.get_with("", back.path().join("all"), &GetOptions::default());
            assert_eq!((summary.confirmed, summary.failed), (2, 4), "the receiver gets what could be sent");
        },
    );
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(!back.path().join("got").exists());
}

/// What stands in the way is called what it is, and the remedy fits it: a directory can be put into, a link cannot.
#[test]
fn what_is_in_the_way_is_named_for_what_it_is() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(from.path().join("file"), b"new").unwrap();
    fs::create_dir_all(from.path().join("tree/deep")).unwrap();
    fs::write(from.path().join("tree/deep/file"), b"new").unwrap();
    fs::create_dir_all(to.path().join("real/file")).unwrap();
    fs::write(to.path().join("plain"), b"old").unwrap();
    for (link, target) in [("dir", "real"), ("to-file", "plain"), ("nowhere", "missing")] {
        symlink(target, to.path().join(link)).unwrap();
    }
    fifo(&to.path().join("pipe"));
    let mut replace = PutOptions::default();
    replace.if_exists = IfExists::Replace;
    let link = "is a link or lies behind one, and nothing is written through links";
    let taken = "is a link, which is neither followed nor replaced";
    let out_of_the_way = Some(Remedy::RemoveOrRename);
    let cases = [
        ("file", "dir/", format!("dir {link}"), out_of_the_way.clone()),
        ("file", "dir/new", format!("dir {link}"), out_of_the_way.clone()),
        ("file", "dir/new/x", format!("dir/new {link}"), out_of_the_way.clone()),
        ("file", "nowhere/x", format!("nowhere {link}"), out_of_the_way.clone()),
        ("file", "to-file", format!("to-file {taken}"), out_of_the_way.clone()),
        ("file", "nowhere", format!("nowhere {taken}"), out_of_the_way.clone()),
        ("file", "pipe", "pipe exists and is no regular file".into(), out_of_the_way.clone()),
        ("tree", "dir", "dir is a link".into(), out_of_the_way.clone()),
        ("tree", "plain", "plain exists and is no directory".into(), out_of_the_way),
        (
            "tree/deep",
            "real",
            "real/file exists and is a directory".into(),
            Some(Remedy::PutInside("real/file".into())),
        ),
    ];
    let all = share(
        to.path(),
        |_| {},
        |shared| {
            for (what, into, said, remedy) in &cases {
                let (summary, error) = shared.try_put(from.path().join(what), into, &replace);
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered, "{into}");
                let why = summary.first_failure.unwrap();
                assert_eq!((&*why, why.remedy()), (said.as_str(), remedy.as_ref()), "{what} to {into}");
            }
        },
    );
    assert!(all.iter().all(|served| served.summary.failed > 0), "the other end counts it as well");
    assert_eq!(fs::read(to.path().join("plain")).unwrap(), b"old");
    assert!(
        !to.path().join("missing").exists() && fs::read_dir(to.path().join("real")).unwrap().count() == 1
    );
}

/// A work directory's name cannot be sent, but such a file is not missing: it can go through a pipe.
#[test]
fn a_source_with_the_name_of_a_work_directory_is_not_called_missing() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    for name in [".linger", ".Linger", ".linger2"] {
        fs::write(from.path().join(name), b"x").unwrap();
    }
    share(
        to.path(),
        |_| {},
        |shared| {
            for name in [".linger", ".Linger"] {
                let (summary, error) = shared.try_put(from.path().join(name), "x", &PutOptions::default());
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
                let error = error.unwrap();
                assert!(error.to_string().contains("receivers use this name themselves"), "{error}");
                assert_eq!(error.remedy(), Some(Remedy::SendAsPipe));
            }
            let (_, error) = shared.try_put("", "x", &PutOptions::default());
            assert_eq!(error.unwrap().to_string(), "what is to be sent has an empty name");
            shared.put(from.path().join(".linger2"), "x");
        },
    );
    assert_eq!(fs::read(to.path().join("x")).unwrap(), b"x");
}

/// As with cp(1). One that leads to a file is not replaced, nor is what it leads to written.
#[test]
fn a_link_to_a_directory_stands_for_it_as_the_place_of_a_get() {
    let (mine, to) = (tempdir().unwrap(), tempdir().unwrap());
    fs::create_dir(to.path().join("tree")).unwrap();
    fs::set_permissions(to.path().join("tree"), fs::Permissions::from_mode(0o710)).unwrap();
    fs::write(to.path().join("tree/file"), b"content").unwrap();
    let at = |name: &str| mine.path().join(name);
    fs::create_dir_all(at("away/real")).unwrap();
    fs::write(at("away/plain"), b"old").unwrap();
    symlink("away/real", at("dir")).unwrap();
    symlink("away/plain", at("file")).unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            shared.get("tree/file", at("dir"));
            assert_eq!(fs::read(at("away/real/file")).unwrap(), b"content");
            fs::remove_file(at("away/real/file")).unwrap();
            shared.get("tree", at("dir"));
            assert_eq!(fs::read(at("away/real/file")).unwrap(), b"content");
            let (summary, error) = shared.get_with("tree/file", at("file"), &GetOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            assert!(summary.first_failure.unwrap().contains("is a link"));
        },
    );
    assert_eq!(fs::read(at("away/plain")).unwrap(), b"old");
    assert!(fs::symlink_metadata(at("dir")).unwrap().is_symlink());
    let mode = fs::metadata(at("away/real")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o710, "what was fetched is the directory, with its mode");
}

/// A directory that hands its group down goes on doing so, and so do those that are made in it; where it does not, none
/// is made that does, whatever the sender has.
#[test]
fn directories_below_one_that_hands_down_its_group_do_so_as_well() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    fs::create_dir_all(from.path().join("tree/sub")).unwrap();
    fs::create_dir_all(to.path().join("shared/there")).unwrap();
    let set = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set(&from.path().join("tree/sub"), 0o2755);
    set(&to.path().join("shared"), 0o2775);
    set(&to.path().join("shared/there"), 0o2775);
    share(
        to.path(),
        |_| {},
        |shared| {
            for place in ["shared/new", "shared/there", "plain"] {
                let summary = shared.put(from.path().join("tree"), place);
                assert_eq!(summary.confirmed, 2);
            }
        },
    );
    let group = |path: &str| fs::metadata(to.path().join(path)).unwrap().permissions().mode() & 0o7000;
    for path in ["shared/new", "shared/new/sub", "shared/there", "shared/there/sub"] {
        assert_eq!(group(path), 0o2000, "{path}");
    }
    assert_eq!((group("plain"), group("plain/sub")), (0, 0));
}

/// A directory above the name that cannot be made is said to be that, not one that cannot be opened.
#[test]
fn a_parent_that_cannot_be_made_is_named() {
    let (from, above) = (tempdir().unwrap(), tempdir().unwrap());
    let (file, shared_directory) = (from.path().join("file"), above.path().join("shared"));
    fs::write(&file, b"x").unwrap();
    fs::create_dir(&shared_directory).unwrap();
    share(
        &shared_directory,
        |_| {},
        |shared| {
            // Nothing can be made in a directory that was removed, whoever tries.
            fs::remove_dir(&shared_directory).unwrap();
            let (summary, error) = shared.try_put(&file, "new/inner/file", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
            let told = summary.first_failure.unwrap().to_string();
            assert!(told.contains("cannot make the directory new/inner: No such file"), "{told}");
        },
    );
}

/// What lies below a directory that could not be made is named with that reason, and not sent to look what is there.
#[test]
fn what_is_below_a_directory_that_cannot_be_made_says_so() {
    let (from, above) = (tempdir().unwrap(), tempdir().unwrap());
    let (tree, shared_directory) = (from.path().join("tree"), above.path().join("shared"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), b"x").unwrap();
    fs::create_dir(&shared_directory).unwrap();
    share(
        &shared_directory,
        |_| {},
        |shared| {
            fs::remove_dir(&shared_directory).unwrap();
            let mut told = Vec::new();
            let input = Input::Path(tree.clone());
            shared.client().put(input, &place("copy"), &PutOptions::default(), &mut |progress| {
                if let Progress::NotDelivered { text, .. } = progress {
                    told.push(text);
                }
            });
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told[0].contains("cannot make the directory copy: No such file"), "{told:?}");
            assert!(told[1].contains("the directory copy is not there: it could not be made"), "{told:?}");
            assert_eq!(told[1].remedy(), None);
        },
    );
}
