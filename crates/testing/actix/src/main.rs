//! A server of actix-web, without any crate of this project. Its argument is the port.

use std::io;
use std::net::Ipv4Addr;

use actix_web::{App, HttpResponse, HttpServer, web};

/// As long as the other samples' answers (`linger_testing::samples::LENGTH`).
const LENGTH: usize = 300_000;

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other("give a port as the argument"))?;
    let answer = || async { HttpResponse::Ok().body(vec![b'r'; LENGTH]) };
    let server = HttpServer::new(move || App::new().default_service(web::to(answer))).workers(2);
    actix_web::rt::System::new().block_on(server.bind((Ipv4Addr::LOCALHOST, port))?.run())
}
