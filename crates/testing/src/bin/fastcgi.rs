//! The FastCGI responder of this project.

use std::io::Write;

use linger_fastcgi::{Request, Responder, Response, cgi, responder::Config};

fn main() -> anyhow::Result<()> {
    let responder = Responder::bind(&linger_testing::samples::address()?.into(), Config::default())?;
    responder.run(|_: &mut Request, response: &mut Response| {
        cgi::head(&mut *response, 200, [("Content-Type", "application/octet-stream")])?;
        vec![b'r'; linger_testing::samples::LENGTH]
            .chunks(8 << 10)
            .try_for_each(|piece| response.write_all(piece))?;
        Ok(0)
    })?;
    Ok(())
}
