//! A full accept queue: what `linger why` counts in a capture is what the kernel counted.

use serde_json::Value;

use crate::common::program::{has_networks, linger, run};

/// A server with a queue of two places, which takes nobody for so many seconds, or ever. It tells on another port what the kernel has
/// counted.
const SERVER: &str = r#"
import os, select, socket, time
def counted():
    names, numbers = [l.split() for l in open('/proc/net/netstat') if l.startswith('TcpExt:')]
    return ' '.join(numbers[names.index(n)] for n in ('ListenOverflows', 'ListenDrops'))
full = socket.create_server((os.environ['LINGER_SERVER'], 8080), backlog=1)
tell = socket.create_server((os.environ['LINGER_SERVER'], 9))
opens = float(os.environ['OPENS_AFTER']); begin = time.monotonic(); taken = []
print('ready', flush=True)
while True:
    late = time.monotonic() - begin > opens
    ready, _, _ = select.select([tell, full] if late else [tell], [], [], 0.05)
    if tell in ready:
        one, _ = tell.accept(); one.sendall(counted().encode()); one.close()
    elif full in ready:
        one, _ = full.accept(); one.recv(100); one.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'); taken.append(one)
"#;

/// Clients that ask, one a tenth of a second, and wait; then what the kernel has counted by the time when the last of their packets was
/// there. They go once the host has acknowledged the FINs, which it may delay.
const CLIENT: &str = r#"
import os, select, socket, time
server = os.environ['LINGER_SERVER']; waiting = []
def asks(all):
    for one in [one for one in all if one not in asked]:
        if select.select([], [one], [], 0)[1]:
            one.send(b'GET / HTTP/1.1\r\nHost: queue\r\n\r\n'); asked.append(one)
asked = []
for _ in range(6):
    one = socket.socket(); one.setblocking(False); one.connect_ex((server, 8080)); waiting.append(one)
    time.sleep(0.1); asks(waiting)
end = time.monotonic() + 5.5
while time.monotonic() < end:
    time.sleep(0.05); asks(waiting)
for one in waiting:
    try: one.recv(100)
    except OSError: pass
    try: one.shutdown(socket.SHUT_WR)
    except OSError: one.close()
FIN_WAIT1 = 4
while any(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == FIN_WAIT1 for one in waiting if one.fileno() >= 0):
    time.sleep(0.01)
for one in waiting: one.close()
tell = socket.create_connection((server, 9)); print(tell.recv(100).decode())
"#;

/// What `why` says of full queues in a trial, and what the kernel counted: overflows and drops.
fn tried(opens_after: u32) -> (Vec<Value>, [u64; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = (folder.path().join("server.py"), folder.path().join("client.py"));
    std::fs::write(&server, SERVER).unwrap();
    std::fs::write(&client, CLIENT).unwrap();
    let capture = folder.path().join("queue.pcapng");
    let output = linger(&["lab", "exec", "--link", "lan", "--pcap"])
        .arg(&capture)
        .arg("--server")
        .arg(format!("OPENS_AFTER={opens_after} exec python3 {}", server.display()))
        .arg("--client")
        .arg(format!("exec python3 {}", client.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout);
    let line = told.lines().find(|line| line.starts_with(|letter: char| letter.is_ascii_digit()));
    let numbers = line.unwrap_or_else(|| panic!("{output:?}")).split(' ');
    let counted = numbers.map(|number| number.parse().unwrap()).collect::<Vec<u64>>().try_into().unwrap();
    let said = run(&["why", "--json", capture.to_str().unwrap()]);
    let lines = crate::common::contract::lines("why", std::str::from_utf8(&said.stdout).unwrap());
    // The lab ends the server, which resets what nobody has taken: another group.
    let queue = |line: &Value| line["type"] == "group" && line["cause"] == "accept-queue-overflow";
    (lines.into_iter().filter(queue).collect(), counted)
}

#[test]
fn what_a_full_queue_drops_is_what_the_kernel_counts() {
    if !has_networks() {
        return;
    }
    // Nobody is taken: the SYNs of four clients are dropped for ever. A thousand seconds are longer than the trial.
    let (groups, [overflows, drops]) = tried(1_000);
    let [group] = &groups[..] else { panic!("{groups:?}") };
    assert_eq!(group["connections"], 4);
    assert_eq!(group["confidence"], "likely", "the host acknowledges the FINs of the others: {group}");
    assert!(overflows >= 12, "four clients, three SYNs or more: {overflows}");
    assert_eq!(overflows, drops);
    let dropped = [&group["dropped_syns"], &group["dropped_answers"]].map(|count| count.as_u64().unwrap());
    assert_eq!(dropped.iter().sum::<u64>(), overflows, "{group}");
    // Nothing here asks for TCP_DEFER_ACCEPT. With it, the bare ACKs would be counted elsewhere.
    let bare = group["dropped_bare_acks"].as_u64().unwrap();
    assert!(bare <= dropped[1] && group["refused_answers"] == 0, "{group}");

    // All are taken after four seconds, in which four clients have asked three times or more.
    let (groups, [overflows, drops]) = tried(4);
    let [group] = &groups[..] else { panic!("{groups:?}") };
    assert_eq!(group["connections"], 4);
    assert_eq!(overflows, drops);
    let dropped = [&group["dropped_syns"], &group["dropped_answers"]].map(|count| count.as_u64().unwrap());
    assert_eq!(dropped.iter().sum::<u64>(), overflows, "{group}");
}
