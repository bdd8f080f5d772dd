//! reqwest URL VERSION ROUNDS BYTES PAUSE PATIENCE: reqwest with its pool; see clients.py. Built by `cargo xtask setup`.

use std::time::Duration;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let arguments: Vec<String> = std::env::args().collect();
    let (url, rounds) = (&arguments[1], arguments[3].parse::<usize>().unwrap());
    let (bytes, pause) = (arguments[4].parse::<usize>().unwrap(), arguments[5].parse::<f64>().unwrap());
    let patience = Duration::from_secs_f64(arguments[6].parse().unwrap());
    let client = reqwest::Client::builder().danger_accept_invalid_certs(true).timeout(patience);
    let client = if arguments[2] == "1" { client.http1_only() } else { client };
    let client = client.build().unwrap();
    for _ in 0..rounds {
        let pieces = futures_util::stream::unfold(0, move |given| async move {
            if given == 8 {
                return None;
            }
            if given > 0 && pause > 0.0 {
                tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            }
            Some((Ok::<_, std::io::Error>(vec![b'u'; bytes / 8]), given + 1))
        });
        let upload = client.post(format!("{url}/refused")).header("content-length", bytes / 8 * 8);
        say("upload", upload.body(reqwest::Body::wrap_stream(pieces))).await;
        say("next", client.get(format!("{url}/hello"))).await;
    }
}

async fn say(what: &str, request: reqwest::RequestBuilder) {
    let said = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok::<_, reqwest::Error>((status, response.bytes().await?.len()))
    };
    match said.await {
        Ok((status, length)) => println!("{what} {status} {length}"),
        Err(error) => println!("{what} {}", format!("{error:?}").replace('\n', " ")),
    }
}
