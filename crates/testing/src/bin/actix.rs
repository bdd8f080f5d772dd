//! A server of actix-web, without any crate of this project.

use actix_web::{App, HttpResponse, HttpServer, web};

fn main() -> anyhow::Result<()> {
    let address = linger_testing::samples::address()?;
    let answer = || async { HttpResponse::Ok().body(vec![b'r'; linger_testing::samples::LENGTH]) };
    let server =
        HttpServer::new(move || App::new().default_service(web::to(answer))).workers(2).bind(address)?;
    Ok(actix_web::rt::System::new().block_on(server.run())?)
}
