//! tiny_http: 300,000 bytes for each request, whose body is not read. `tiny_http PORT`

fn main() {
    let port = std::env::args().nth(1).expect("a port");
    let server = tiny_http::Server::http(format!("127.0.0.1:{port}")).expect("the port is free");
    for request in server.incoming_requests() {
        let _ = request.respond(tiny_http::Response::from_data(vec![b'r'; 300_000]));
    }
}
