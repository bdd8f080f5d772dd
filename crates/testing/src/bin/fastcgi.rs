//! The FastCGI responder of this project.

use std::io::{self, Read};

use linger_fastcgi::{Request, Responder, Response, cgi, responder::Config};

fn main() -> anyhow::Result<()> {
    let responder = Responder::bind(&linger_testing::samples::address()?.into(), Config::default())?;
    responder.run(|_: &mut Request, response: &mut Response| {
        cgi::head(&mut *response, 200, [("Content-Type", "application/octet-stream")])?;
        io::copy(&mut io::repeat(b'r').take(linger_testing::samples::LENGTH as u64), response)?;
        Ok(0)
    })?;
    Ok(())
}
