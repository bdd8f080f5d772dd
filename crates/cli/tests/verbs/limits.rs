//! `linger run` in services with the limits that systemd can set. Either the program is served as without the limit,
//! and no answer is cut, or `linger run` ends with an error that names the line which mends the unit. A filter that
//! kills a process for a forbidden call must kill neither the program nor `linger run`.

use std::fs;
use std::path::Path;

use crate::common::host::{Host, LINGER, default_target, service};

/// Serves its first socket from the service manager. The port exists before the program starts, so that no test has to
/// wait for it.
const SERVER: &str = "
import socket
l = socket.socket(fileno=3)
while True:
    c, _ = l.accept(); c.recv(10); c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21); c.sendall(b'x' * 600000); c.close()
";

/// Sends a request to each port given, and prints whether the answer was whole. For a port with `-` before it, it waits
/// for the reset before it reads.
const CLIENT: &str = "
import select, socket, sys
for word in sys.argv[1:]:
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); s.connect(('127.0.0.1', abs(int(word)))); s.sendall(b'y' * 20000)
    s.recv(1, socket.MSG_PEEK)
    if word[0] == '-':
        p = select.poll(); p.register(s, 0); p.poll()
    got = 0
    try:
        while True:
            data = s.recv(65536)
            if not data: break
            got += len(data)
    except OSError: pass
    print(abs(int(word)), 'whole' if got == 600000 else 'cut')
";

/// The expected result of a service.
#[derive(Clone, Copy)]
enum Expected<'a> {
    Bare,
    Cured,
    /// `linger run` ends with this error.
    Ends(&'a str),
}

use Expected::{Bare, Cured, Ends};

/// A filter that kills a process for a call that is not listed, and one that makes such a call fail.
const KILLING: &str = "SystemCallFilter=@system-service";
const FAILING: &str = "SystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM";

const NO_SECCOMP: &str = "forbids seccomp; permit it in the service (`SystemCallFilter=seccomp`, after its other such lines) or in \
                          the container's profile, or use --via preload, which does without";
const NO_UNIX: &str =
    "permit it in the service (`RestrictAddressFamilies=AF_UNIX`, after its other such lines)";

/// The limits that `docs/run.md` lists for a service.
fn documented() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/run.md");
    let text = fs::read_to_string(path).unwrap();
    let block = text.split("```\n").find(|block| block.starts_with("# limits.conf\n")).unwrap();
    block.lines().filter(|line| !line.starts_with(['#', '['])).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_limit_of_a_service_is_kept_or_named() {
    let documented = documented();
    let families = "RestrictAddressFamilies=AF_INET AF_INET6";
    // Calls that the supervisor needs, and a plain server does not.
    let few = format!("{KILLING}\nSystemCallFilter=~signalfd4 timerfd_create");
    let few_named = "forbids signalfd4 timerfd_create; permit it in the service (`SystemCallFilter=signalfd4 timerfd_create`, after";
    let few_mended = format!("{few}\nSystemCallFilter=signalfd4 timerfd_create");
    // The command before the program, the limits, and the expected result.
    let (preload, seccomp) = ("/run/linger run --", "/run/linger run --via seccomp --");
    let cases: [(&str, &str, Expected<'_>); 10] = [
        ("", "", Bare),
        (preload, KILLING, Cured),
        (seccomp, KILLING, Ends(NO_SECCOMP)),
        (seccomp, FAILING, Ends(NO_SECCOMP)),
        (preload, families, Ends(NO_UNIX)),
        (preload, &few, Ends(few_named)),
        (seccomp, &few, Ends("forbids signalfd4 timerfd_create seccomp; permit it in the service")),
        (preload, &few_mended, Cured),
        (preload, &documented, Cured),
        (seccomp, &documented, Cured),
    ];
    let mut units = vec![(default_target().0.to_owned(), default_target().1.to_owned())];
    for (number, (way, limits, expected)) in cases.iter().enumerate() {
        // To start a oneshot service means to wait for its end.
        let kind = if matches!(expected, Ends(_)) { "oneshot" } else { "simple" };
        let lines =
            format!("Type={kind}\nStandardError=file:/run/{number}.log\nStandardOutput=null\n{limits}");
        let command = format!("{way} /usr/bin/python3 /run/server.py");
        units.push((format!("{number}.service"), service(&lines, &command)));
        let port = PORTS + number;
        units.push((
            format!("{number}.socket"),
            format!("[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=127.0.0.1:{port}\n"),
        ));
    }
    let units: Vec<(&str, &str)> = units.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    // At a path that every user can reach, wherever the build is.
    let before = format!(
        "cat > /run/server.py <<'END-OF-FILE'\n{SERVER}\nEND-OF-FILE\ntouch /run/linger\nmount --bind {LINGER} /run/linger\n"
    );
    let Some(host) = Host::boot_with(&units, &before) else { return };
    let systemctl = |verb: &str, kind: &str, which: fn(&Expected<'_>) -> bool| {
        let names = (0..cases.len()).filter(|number| which(&cases[*number].2));
        let names: Vec<String> = names.map(|number| format!("{number}.{kind}")).collect();
        let words = ["systemctl", verb].into_iter().chain(names.iter().map(String::as_str));
        host.command(&words.collect::<Vec<_>>()).output().unwrap()
    };
    let sockets = systemctl("start", "socket", |_| true);
    assert!(sockets.status.success(), "{sockets:?}");
    systemctl("start", "service", |expected| matches!(expected, Ends(_)));
    let mut ports = Vec::new();
    for (number, (.., expected)) in cases.iter().enumerate() {
        match expected {
            Bare => ports.push(format!("-{}", PORTS + number)),
            Cured => ports.push((PORTS + number).to_string()),
            Ends(_) => {}
        }
    }
    let words: Vec<&str> =
        ["python3", "-c", CLIENT].into_iter().chain(ports.iter().map(String::as_str)).collect();
    let answers = host.said(&words);
    systemctl("stop", "socket", |_| true);
    systemctl("stop", "service", |_| true);
    for (number, (way, limits, expected)) in cases.iter().enumerate() {
        let log = host.said(&["cat", &format!("/run/{number}.log")]);
        let answer = answers.lines().find_map(|line| line.strip_prefix(&format!("{} ", PORTS + number)));
        match expected {
            Bare => assert_eq!(answer, Some("cut"), "a client that reads late loses it"),
            Cured => {
                assert_eq!(answer, Some("whole"), "{way}: {limits}\n{log}");
                assert!(log.contains("1 would have been reset, 0 lost"), "{way}: {limits}\n{log}");
            }
            Ends(line) => {
                assert!(log.contains(line), "{way}: {limits}\n{log}");
                let status = ["show", "--value", "--property=ExecMainStatus", &format!("{number}.service")];
                assert_eq!(host.systemctl(&status), "4", "{way}: {limits}\n{log}");
            }
        }
    }
}

/// The first service's port.
const PORTS: usize = 8_000;
