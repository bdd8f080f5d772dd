//! Rocket: 300,000 bytes for each request, whose body is not read. `rocket PORT`

use rocket::{Data, get, post, routes};

#[get("/large")]
fn large() -> Vec<u8> {
    vec![b'r'; 300_000]
}

#[post("/large", data = "<_body>")]
fn upload(_body: Data<'_>) -> Vec<u8> {
    large()
}

#[rocket::main]
async fn main() -> Result<(), rocket::Error> {
    let port: u16 = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("a port");
    let figment = rocket::Config::figment().merge(("port", port)).merge(("log_level", "off"));
    rocket::custom(figment).mount("/", routes![large, upload]).launch().await.map(|_| ())
}
