//! Networks of several hosts: names, links of their own, programs, and what became of the responses.

use std::io;
use std::path::Path;

use linger_lab::{LiveNetwork, NetworkPlan, NetworkReport, NetworkSetting, Stop, run_network};
use linger_testing::sandboxed;

/// Reads 100 bytes of each request, answers, and ends the connection as `END` says.
const APPLICATION: &str = r#"
import os, socket
server = socket.create_server((os.environ['LINGER_APPLICATION'], 9000), family=FAMILY)
print('up', flush=True)
while True:
    connection, _ = server.accept()
    connection.recv(100, socket.MSG_WAITALL)
    connection.sendall(b'r' * SIZE)
    END
    connection.close()
"#;

/// Sends 108 bytes, and prints what comes back.
const CLIENT: &str = r#"
import socket, sys
connection = socket.create_connection(('application', 9000))
connection.sendall(b'x' * 108)
while got := connection.recv(65536):
    sys.stdout.buffer.write(got); sys.stdout.flush()
"#;

const LINGERS: &str = "connection.shutdown(1)\n    while connection.recv(4096): pass";
const PAIR: &str = "[[link]]\nbetween = [\"client\", \"server\"]";

/// client - router - application. The router runs nothing: its kernel passes packets on.
fn routed(size: u64, end: &str, more: &str) -> NetworkPlan {
    let family = if more.contains("v6") { "10" } else { "2" };
    let application =
        APPLICATION.replace("END", end).replace("SIZE", &size.to_string()).replace("FAMILY", family);
    plan(&format!(
        r#"
{more}
[[host]]
name = "application"
run = "exec python3 app.py"
ready = {{ line = "up" }}
files = {{ "app.py" = """{application}""" }}
[[host]]
name = "router"
[[host]]
name = "client"
files = {{ "client.py" = """{CLIENT}""" }}
[[link]]
between = ["client", "router"]
base = "lan"
[[link]]
between = ["router", "application"]
base = "wifi"
[client]
run = "exec python3 client.py"
response = {size}
requests = 8
concurrency = 2
"#
    ))
}

fn plan(text: &str) -> NetworkPlan {
    NetworkPlan::parse("t.toml", &format!("title = \"t\"\n{text}")).unwrap()
}

fn stop() -> Stop {
    Stop::new().unwrap()
}

fn tried(plan: &NetworkPlan) -> NetworkReport {
    run_network(plan, &NetworkSetting::default(), &stop()).unwrap()
}

/// Lost, at risk, kept; and the aborts of the application's kernel.
fn verdicts(report: &NetworkReport) -> [u64; 4] {
    let tally = &report.tally;
    let [application, ..] = &report.hosts[..] else { panic!() };
    [tally.lost, tally.at_risk, tally.trials - tally.not_kept(), application.aborts()]
}

#[test]
fn a_response_is_lost_at_risk_or_kept_behind_a_router() {
    sandboxed(|| {
        let lost = tried(&routed(200_000, "", ""));
        let [lost_count, .., aborts] = verdicts(&lost);
        assert!(lost_count >= 7 && aborts == 8, "{lost:?}");
        assert!(lost.received < lost.expected && lost.expected == 1_600_000, "{lost:?}");
        // One segment: all of it arrives, and then the reset.
        assert_eq!(verdicts(&tried(&routed(100, "", ""))), [0, 8, 0, 8]);
        let kept = tried(&routed(200_000, LINGERS, ""));
        assert_eq!((verdicts(&kept), kept.received), ([0, 0, 8, 0], 1_600_000));
        // Both links have carried all of it: 1,600,000 bytes are more than 1,000 full segments.
        assert!(
            kept.wires.iter().all(|wire| wire.carried > 1_000 && wire.accidents == 0),
            "{:?}",
            kept.wires
        );
    });
}

#[test]
fn the_same_over_ipv6() {
    sandboxed(|| {
        let kept = tried(&routed(200_000, LINGERS, "ip = \"v6\""));
        assert_eq!((verdicts(&kept), kept.received), ([0, 0, 8, 0], 1_600_000), "{kept:?}");
    });
}

/// Each link does to packets what it says, and no other: all is lost on one, or on none.
#[test]
fn each_link_is_its_own() {
    sandboxed(|| {
        let mut plan = routed(100, LINGERS, "");
        plan.client.requests = 1;
        plan.client.timeout = std::time::Duration::from_secs(1);
        for broken in [0, 1] {
            let mut plan = plan.clone();
            for path in &mut plan.links[broken].link.paths {
                path.loss = linger_lab::Loss::Each(1.0);
            }
            let report = tried(&plan);
            assert_eq!(report.tally.lost, 1);
            let lost: Vec<bool> = report.wires.iter().map(|wire| wire.lost > 0).collect();
            assert_eq!(lost, [broken == 0, broken == 1]);
        }
    });
}

#[test]
fn each_host_resolves_all_names_to_the_same_addresses() {
    sandboxed(|| {
        let names = ["client", "a", "b", "c", "d"];
        let hosts = names.map(|name| format!("[[host]]\nname = \"{name}\"\n")).concat();
        let links = [("client", "a"), ("a", "b"), ("b", "c"), ("a", "d")]
            .map(|(near, far)| format!("[[link]]\nbetween = [\"{near}\", \"{far}\"]\n"))
            .concat();
        for host in names {
            let text = format!(
                "{hosts}{links}[client]\nhost = \"{host}\"\nrun = \"\"\nresponse = 1\nrequests = 1\n"
            );
            let mut plan = plan(&text);
            let known = LiveNetwork::build(&plan, &NetworkSetting::default()).unwrap().names;
            let known = names.map(|name| known.address(name).unwrap().to_string());
            if host == "client" {
                assert_eq!(known, ["10.77.1.2", "10.77.1.1", "10.77.2.1", "10.77.3.1", "10.77.4.1"]);
            }
            // By name as by variable, and each can be reached.
            let mut run = "set -e\n".to_owned();
            for (name, address) in names.iter().zip(known) {
                run +=
                    &format!("[ \"$(getent hosts {name})\" = \"$(printf '%-15s %s' {address} {name})\" ]\n");
                run += &format!("[ \"$LINGER_{}\" = {address} ]\n", name.to_uppercase());
            }
            plan.client.run = format!("{run}printf x");
            let report = tried(&plan);
            assert_eq!(verdicts(&report)[..3], [0, 0, 1], "at {host}: {report:?}");
        }
    });
}

#[test]
fn a_setting_is_that_of_one_host() {
    sandboxed(|| {
        for (server, client) in [(1, 0), (0, 1), (1, 1)] {
            let host = |name: &str, value| {
                format!(
                    "[[host]]\nname = \"{name}\"\nsysctl = {{ \"net.ipv4.tcp_abort_on_overflow\" = {value} }}\n"
                )
            };
            let run = "printf x; exit $(cat /proc/sys/net/ipv4/tcp_abort_on_overflow)";
            let hosts = host("server", server) + &host("client", client);
            let text = format!("{hosts}{PAIR}\n[client]\nrun = \"{run}\"\nresponse = 1\nrequests = 1\n");
            // A client that ends with another status than 0 says that something failed.
            assert_eq!(verdicts(&tried(&plan(&text)))[..3], [0, client, 1 - client]);
        }
    });
}

/// The error of a network whose server runs this, and its client that.
fn refused(run: &str, ready: &str, client: &str) -> io::Error {
    let text = format!(
        "[[host]]\nname = \"server\"\nrun = '''{run}'''\nready = {{ {ready} }}\n[[host]]\nname = \"client\"\n{PAIR}\n\
         [client]\nrun = '''{client}'''\nresponse = 1\nrequests = 5\n"
    );
    run_network(&plan(&text), &NetworkSetting::default(), &stop()).unwrap_err()
}

#[test]
fn a_program_that_does_not_play_is_named_with_what_it_said() {
    sandboxed(|| {
        let told = |run: &str, ready: &str, kind: io::ErrorKind, parts: &[&str]| {
            let error = refused(run, ready, "exec sleep 60");
            assert_eq!(error.kind(), kind, "{error}");
            for part in ["t.toml, line 3: host `server`"].iter().chain(parts) {
                assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
            }
        };
        let broken = io::ErrorKind::BrokenPipe;
        told("exec no-such-program", "port = 80", broken, &["not found (status 127)", "no-such-program"]);
        told(
            "echo one; echo two >&2; exit 3",
            "port = 80",
            broken,
            &["status 3 before it was ready", "one\n  two"],
        );
        told("true", "line = \"up\"", broken, &["(status 0)", "foreground", "it printed nothing"]);
        told("kill -9 $$", "line = \"up\"", broken, &["signal 9 ended it"]);
        let late = io::ErrorKind::TimedOut;
        let waits = "exec sleep 60";
        told(
            waits,
            "port = 8080, within = \"300ms\"",
            late,
            &["nothing listens on port 8080", "300ms", "`within`"],
        );
        told(waits, "line = \"up\", within = \"300ms\"", late, &["no line with `up`"]);
        // It listens, on another port.
        let other = "exec python3 -c 'import socket, time; s = socket.create_server((\"\", 81)); print(\"up\", flush=True); time.sleep(60)'";
        told(other, "port = 80, within = \"2s\"", late, &["port 80 there", "up"]);
    });
}

#[test]
fn a_program_that_ends_under_the_clients_is_named() {
    sandboxed(|| {
        let run = "exec python3 -c 'import socket; s = socket.create_server((\"server\", 80)); s.accept(); print(\"bye\"); raise SystemExit(5)'";
        // The client's end comes behind the server's.
        let client =
            "exec python3 -c 'import socket; c = socket.create_connection((\"server\", 80)); c.recv(1)'";
        let told = refused(run, "port = 80", client).to_string();
        assert!(
            told.contains("ended with status 5 before the clients were done") && told.contains("bye"),
            "{told}"
        );
    });
}

#[test]
fn a_client_that_hangs_is_ended_and_its_response_is_lost() {
    sandboxed(|| {
        let hosts = "[[host]]\nname = \"server\"\n[[host]]\nname = \"client\"\n";
        let run = "printf 1234; sleep 600 & wait";
        let text = format!(
            "{hosts}{PAIR}\n[client]\nrun = \"{run}\"\nresponse = 5\nrequests = 2\ntimeout = \"300ms\"\n"
        );
        let report = tried(&plan(&text));
        assert_eq!((report.tally.lost, report.received, report.expected), (2, 8, 10));
        assert_eq!(
            report.said.into_iter().collect::<Vec<_>>(),
            [("it had no response after Nms".to_owned(), 2)]
        );
    });
}

/// Files of a host are there for its own programs alone, and nothing of them is left.
#[test]
fn a_hosts_folder_is_its_own() {
    sandboxed(|| {
        let hosts = "[[host]]\nname = \"server\"\nfiles = { \"secret\" = \"abc\" }\n\
                     [[host]]\nname = \"client\"\nfiles = { \"mine\" = \"12345\" }\n";
        let run = "cat mine; [ \\\"$(ls)\\\" = mine ] && touch left";
        let text = format!("{hosts}{PAIR}\n[client]\nrun = \"{run}\"\nresponse = 5\nrequests = 3\n");
        assert_eq!(verdicts(&tried(&plan(&text)))[..3], [0, 0, 3]);
        for place in ["/mnt", "/media", "/srv", "/opt", "/home", "/var/tmp"] {
            assert!(["mine", "left"].iter().all(|name| !Path::new(place).join(name).exists()), "{place}");
        }
        assert!(!std::fs::read_to_string("/etc/hosts").unwrap().contains("10.77."));
    });
}
