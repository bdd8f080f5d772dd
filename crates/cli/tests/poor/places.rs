//! Places that are not there: /proc, /tmp, a home, somewhere to write at all.

use std::path::Path;
use std::process::Command;

use linger_testing::skip;

use crate::machine::{LINGER, Machine, VERBS};

/// The program in a mount namespace where each of these is an empty directory that nobody can write to.
fn without(places: &str) -> Command {
    let script = "for place in $0; do mount -t tmpfs -o ro none $place || exit 99; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, places, LINGER]);
    command
}

fn has_mount_namespaces() -> bool {
    let output = Command::new("unshare").args(["-rm", "setpriv", "--version"]).output();
    match output {
        Ok(output) if output.status.success() => true,
        refused => {
            skip("mount namespaces", &format!("{refused:?}"));
            false
        }
    }
}

#[test]
fn every_verb_ends_in_order_where_a_place_is_not_there() {
    if !has_mount_namespaces() {
        return;
    }
    let machine = Machine::new();
    for (words, endless) in VERBS {
        for places in
            ["/proc", "/sys", "/tmp", "/tmp /dev/shm /run /var/tmp", "/proc /sys /tmp /dev/shm /run /var/tmp"]
        {
            let command = machine.prepared(without(places), words);
            let fault = format!("no {places}");
            machine.ends_with_a_sentence(command, words, endless, &fault);
        }
    }
}

/// Runs the program without an environment, as a user whose home is `home` by the passwd database, or, for
/// `None`, as a user whom that database does not know.
fn homeless(machine: &Machine, home: Option<&Path>, words: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--user");
    match home {
        Some(home) => {
            let passwd = machine.home.path().join("passwd");
            std::fs::write(&passwd, format!("root:x:0:0::{}:/bin/sh\n", home.display())).unwrap();
            let script = "mount --bind \"$0\" /etc/passwd || exit 99; exec \"$@\"";
            command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(passwd);
        }
        None => {
            command.arg("--map-user=54321");
        }
    }
    command.arg(LINGER);
    let mut command = machine.prepared(command, words);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

#[test]
fn every_verb_ends_in_order_without_an_environment() {
    if !has_mount_namespaces() {
        return;
    }
    let machine = Machine::new();
    for (words, endless) in VERBS {
        machine.ends_with_a_sentence(homeless(&machine, None, words), words, endless, "no home");
    }
}

/// A service of systemd's without `User=` has no `HOME`.
#[test]
fn keys_are_kept_in_the_home_of_the_passwd_database() {
    if !has_mount_namespaces() {
        return;
    }
    let machine = Machine::new();
    let words = "share . --listen 127.0.0.1:0";
    let none = machine.run(homeless(&machine, None, words), true);
    assert_eq!(none.status.code(), Some(4), "{}", String::from_utf8_lossy(&none.stderr));
    let home = machine.home.path().join("user");
    let some = machine.run(homeless(&machine, Some(&home), words), true);
    assert_eq!(some.status.code(), Some(0), "{}", String::from_utf8_lossy(&some.stderr));
    assert!(home.join(".config/linger/key").exists());
}

#[test]
fn every_verb_ends_in_order_without_temporary_files() {
    let machine = Machine::new();
    for (words, endless) in VERBS {
        let mut nowhere = machine.prepared(Command::new(LINGER), words);
        nowhere.env("TMPDIR", "/dev/null/none").env("HOME", "/dev/null/none").env_remove("XDG_CONFIG_HOME");
        machine.ends_with_a_sentence(nowhere, words, endless, "a home and a TMPDIR that are no directories");
    }
}

/// The message names `/proc`, which the error alone would not name.
#[test]
fn a_missing_proc_is_named() {
    if !has_mount_namespaces() {
        return;
    }
    let machine = Machine::new();
    for words in [
        "lab --link lan --ending close --peer unread --trials 2",
        "lab exec --link lan --ready 0 --server true --client true",
    ] {
        let output = machine.run(machine.prepared(without("/proc"), words), false);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "linger {words}: {said}");
        assert!(said.contains("/proc"), "linger {words}: {said}");
    }
}
