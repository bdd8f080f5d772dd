//! What a receipt on file proves: it notices what has changed, here and in itself, and says what it does not know.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::common::*;
use linger_transfer::*;
use tempfile::tempdir;

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
