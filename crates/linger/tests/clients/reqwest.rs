//! reqwest with its pool, as `clients.py` and the others have theirs.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use linger_testing::reqwest::{self, Body, RequestBuilder};

use crate::HttpVersion;
use crate::client::Run;

/// Makes the requests of a run. Returns a line for each.
pub(crate) fn run(run: Run<'_>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(requests(run))
}

async fn requests(Run { url, version, rounds, bytes, pause, patience }: Run<'_>) -> String {
    let client = reqwest::Client::builder().danger_accept_invalid_certs(true);
    let client = client.timeout(Duration::from_secs_f64(patience));
    let client = if version == HttpVersion::One { client.http1_only() } else { client };
    let client = client.build().unwrap();
    let mut said = String::new();
    for _ in 0..rounds {
        let pieces = futures_util::stream::unfold(0, move |given| async move {
            if given == 8 {
                return None;
            }
            if given > 0 && pause > 0.0 {
                tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            }
            Some((Ok::<_, io::Error>(vec![b'u'; bytes / 8]), given + 1))
        });
        let upload = client.post(format!("{url}/refused")).header("content-length", bytes / 8 * 8);
        let requests = [
            ("upload", upload.body(Body::wrap_stream(pieces))),
            ("next", client.get(format!("{url}/hello"))),
        ];
        for (what, request) in requests {
            writeln!(said, "{what} {}", answer(request).await).unwrap();
        }
    }
    said
}

/// The status and the length of an answer, or what has gone wrong, in one line.
async fn answer(request: RequestBuilder) -> String {
    let answer = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok::<_, reqwest::Error>((status, response.bytes().await?.len()))
    };
    match answer.await {
        Ok((status, length)) => format!("{status} {length}"),
        Err(error) => format!("{error:?}").replace('\n', " "),
    }
}
