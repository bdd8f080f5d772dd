//! The second protection: a confined thread cannot leave the shared directory by plain system calls, either.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use linger_transfer::{confine, confine_writes};
use tempfile::tempdir;

/// Runs `act` in a thread of its own, and confines that thread with Landlock. Returns false if the kernel has
/// no Landlock.
fn confined(directory: &Path, home: &Path, writable: bool, act: impl FnOnce() + Send) -> bool {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let is_confined = confine(directory, home, writable) == Some(true);
            if is_confined {
                act();
            }
            is_confined
        });
        let is_confined = thread.join().unwrap();
        if !is_confined {
            linger_testing::skip("Landlock", "this kernel has none, or does not allow it");
        }
        is_confined
    })
}

fn is_denied<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

#[test]
fn nothing_outside_can_be_opened_whatever_the_name() {
    let (top, home) = (tempdir().unwrap(), tempdir().unwrap());
    let shared = top.path().join("shared");
    let outside = top.path().join("outside");
    fs::create_dir(&shared).unwrap();
    fs::write(&outside, b"secret").unwrap();
    fs::write(shared.join("inside"), b"shared").unwrap();
    std::os::unix::fs::symlink("../outside", shared.join("link")).unwrap();
    let above = fs::File::open(top.path()).unwrap();
    let done = confined(&shared, home.path(), true, || {
        assert_eq!(fs::read(shared.join("inside")).unwrap(), b"shared");
        fs::write(shared.join("new"), b"x").unwrap();
        fs::rename(shared.join("new"), shared.join("newer")).unwrap();
        fs::write(home.path().join("known_clients"), b"x").unwrap();
        for name in [
            outside.clone(),
            shared.join("../outside"),
            shared.join("link"),
            Path::new("/proc/self/root").join(outside.strip_prefix("/").unwrap()),
            "/etc/passwd".into(),
        ] {
            assert!(is_denied(fs::read(&name)), "{name:?} was read");
            assert!(
                is_denied(fs::OpenOptions::new().append(true).open(&name)),
                "{name:?} was opened to write"
            );
        }
        // A descriptor that was opened before does not help, either.
        use rustix::fs::{Mode, OFlags, openat};
        let opened = openat(&above, "outside", OFlags::RDONLY, Mode::empty());
        assert_eq!(opened.err(), Some(rustix::io::Errno::ACCESS));
        assert!(is_denied(fs::write(top.path().join("created"), b"x")));
        assert!(is_denied(fs::remove_file(&outside)));
        assert!(fs::rename(shared.join("newer"), top.path().join("moved")).is_err());
        assert!(fs::hard_link(&outside, shared.join("hard")).is_err());
        assert!(is_denied(Command::new("/bin/true").status()), "a program was started");
    });
    assert_eq!(fs::read(&outside).unwrap(), b"secret", "and here nothing is confined");
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 2);
    assert_eq!(shared.join("newer").exists(), done);
}

#[test]
fn a_share_for_reading_cannot_write() {
    let (shared, home) = (tempdir().unwrap(), tempdir().unwrap());
    let file = shared.path().join("file");
    fs::write(&file, b"shared").unwrap();
    confined(shared.path(), home.path(), false, || {
        assert_eq!(fs::read(&file).unwrap(), b"shared");
        assert!(is_denied(fs::write(&file, b"changed")));
        assert!(is_denied(fs::write(shared.path().join("new"), b"x")));
        assert!(is_denied(fs::create_dir(shared.path().join("dir"))));
        assert!(is_denied(fs::remove_file(&file)));
        fs::write(home.path().join("known_clients"), b"x").unwrap();
    });
    assert_eq!(fs::read(&file).unwrap(), b"shared");
}

#[test]
fn a_receiver_writes_where_it_receives_and_nowhere_else() {
    let top = tempdir().unwrap();
    let (dest, outside) = (top.path().join("dest"), top.path().join("outside"));
    fs::create_dir(&dest).unwrap();
    fs::write(&outside, b"mine").unwrap();
    fs::write(dest.join("there"), b"x").unwrap();
    let is_confined = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let is_confined = confine_writes(&[&dest, Path::new("/does/not/exist")]) == Some(true);
            if is_confined {
                fs::write(dest.join("new"), b"x").unwrap();
                fs::create_dir(dest.join("sub")).unwrap();
                fs::rename(dest.join("new"), dest.join("sub/newer")).unwrap();
                assert_eq!(fs::read(&outside).unwrap(), b"mine", "reading stays");
                fs::write("/dev/null", b"x").unwrap();
                for name in [outside.clone(), dest.join("../outside"), top.path().join("other")] {
                    assert!(is_denied(fs::write(&name, b"theirs")), "{name:?} was written");
                }
                assert!(is_denied(fs::remove_file(&outside)));
                let moved = fs::rename(dest.join("there"), &outside);
                assert!(moved.is_err());
            }
            is_confined
        });
        thread.join().unwrap()
    });
    if !is_confined {
        linger_testing::skip("Landlock", "this kernel has none, or does not allow it");
        return;
    }
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
}
