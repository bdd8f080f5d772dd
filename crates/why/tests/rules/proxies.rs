//! Tunnels that HTTP's CONNECT opens.

use crate::GET;
use crate::case::rule;
use crate::flow::{Client, Flow, Server, flow};
use crate::passive::record;

#[test]
fn a_tunnel_through_a_proxy() {
    const CONNECT: &[u8] = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    let of = |request: &[u8], response: &[u8]| {
        let opened = flow().ports(40_000, 3_128).shake().data(Client, request).data(Server, response);
        opened.data(Client, &record(22, 20)).data(Server, &record(23, 20)).ack(Client)
    };
    let ok = || of(CONNECT, b"HTTP/1.1 200 Connection established\r\n\r\n");
    // The client tells nobody that the proxy has refused, and goes on in HTTP.
    let of_two = |second: &[u8]| {
        let refused = flow().ports(40_000, 3_128).shake().data(Client, CONNECT);
        let refused = refused.data(Server, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        refused.data(Client, second).data(Server, &crate::response(20, 20)).ack(Client).rst(Client)
    };
    let closed = |flow: Flow, last: &[u8]| flow.fin(Client).data(Server, last).bare(Client);
    rule("a tunnel")
        .base(&ok().rst(Client), "aborted likely active harmless lost:0")
        .but(
            "a record is cut",
            &ok().data(Server, &record(23, 20)[..24]).rst(Client),
            "client-gave-up likely harmful",
        )
        .but(
            "no request for a tunnel",
            &of(GET, b"HTTP/1.1 200 Connection established\r\n\r\n").rst(Client),
            "client-gave-up likely harmful",
        )
        .but(
            "refused, and another request",
            &of_two(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"),
            "aborted likely harmless lost:0",
        )
        .but("refused, and bytes that are no request", &of_two(b"abc"), "client-gave-up likely harmful")
        .but(
            "refused, with a body that is not whole",
            &flow()
                .ports(40_000, 3_128)
                .shake()
                .data(Client, CONNECT)
                .data(Server, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno")
                .ack(Client)
                .rst(Client),
            "client-gave-up likely harmful lost:7",
        )
        .but(
            "a length, which means nothing there",
            &of(CONNECT, b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n").rst(Client),
            "aborted likely harmless lost:0",
        )
        .but(
            "a farewell after the client's FIN",
            &closed(ok(), &record(21, 2)),
            "data-after-close certain harmless",
        )
        .but(
            "a record after the client's FIN",
            &closed(ok(), &record(23, 20)),
            "client-gave-up likely harmful lost:25",
        )
        .done();
}
