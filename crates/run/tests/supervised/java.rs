//! A server in Java, whose runtime closes a socket by `dup2` onto its fd.

use std::process::Command;

use crate::support::{PORT, compare, ended_well, late_reader, program, script};
use linger_testing::{secluded, skip};

/// Blocking sockets, which the runtime closes by `dup2`, and channels, which it closes by `close`.
const SERVER: &str = r#"
import java.io.*;
import java.net.*;
import java.nio.*;
import java.nio.channels.*;
class Early {
    static byte[] answer() {
        byte[] head = "HTTP/1.0 200 OK\r\n\r\n".getBytes();
        byte[] all = new byte[head.length + 600003];
        System.arraycopy(head, 0, all, 0, head.length);
        all[all.length - 3] = 'E'; all[all.length - 2] = 'N'; all[all.length - 1] = 'D';
        return all;
    }
    public static void main(String[] way) throws Exception {
        InetSocketAddress at = new InetSocketAddress("127.0.0.1", 8000);
        if (way[0].equals("channel")) {
            ServerSocketChannel listener = ServerSocketChannel.open().bind(at);
            while (true) try (SocketChannel c = listener.accept()) {
                c.read(ByteBuffer.allocate(10));
                ByteBuffer left = ByteBuffer.wrap(answer());
                while (left.hasRemaining()) c.write(left);
            }
        }
        ServerSocket listener = new ServerSocket();
        listener.bind(at);
        while (true) try (Socket c = listener.accept()) {
            c.getInputStream().read(new byte[10]);
            c.getOutputStream().write(answer());
        }
    }
}
"#;

#[test]
fn java_closes_both_ways() {
    secluded(|| {
        let Some(java) = program("java", "default-jdk-headless") else { return };
        let directory = tempfile::tempdir().unwrap();
        let source = script(directory.path(), "Early.java", SERVER);
        let modules = Command::new(&java).arg("--list-modules").output().unwrap();
        if !String::from_utf8_lossy(&modules.stdout).contains("jdk.compiler") {
            return skip("default-jdk-headless", "java has no compiler");
        }
        for way in ["socket", "channel"] {
            let command = [&java, source.as_str(), way];
            let (lost, aborted, report) = compare(&command, "", 3, |bare| late_reader(PORT, 20_000, bare));
            assert_eq!((lost, aborted), ([3, 0], [3, 0]), "{way}: {report:?}");
            assert_eq!(ended_well(&report), 3, "{way}: {report:?}");
        }
    });
}
