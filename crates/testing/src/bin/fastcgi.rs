//! The FastCGI responder of this project.

use std::io::Write;

use linger_fastcgi::{Request, Responder, Response, cgi, responder::Config};
use linger_testing::samples::{address, length, policy};

fn main() -> anyhow::Result<()> {
    let length = length()?;
    let mut config = Config::default();
    config.policy = policy()?;
    let responder = Responder::bind(&address()?.into(), config)?;
    responder.run(move |_: &mut Request, response: &mut Response| {
        cgi::head(&mut *response, 200, [("Content-Type", "application/octet-stream")])?;
        vec![b'r'; length].chunks(8 << 10).try_for_each(|piece| response.write_all(piece))?;
        Ok(0)
    })?;
    Ok(())
}
