//! An application with one worker: the connections that a gateway keeps do not keep its own requests waiting.

use std::io::Read;
use std::time::Duration;

use http_body_util::BodyExt;
use linger_fastcgi::gateway::{Client, Config, GatewayRequest};
use linger_fastcgi::tower::Gateway;
use linger_testing::sandboxed;
use linger_testing::servers::{RunningServer, available, php_fpm};
use tower_service::Service;

/// More than one, so that some wait for the worker while another has it.
const AT_ONCE: usize = 4;
const ROUNDS: usize = 3;

fn config() -> Config {
    let mut config = Config::default();
    config.keep_conn = true;
    // php-fpm waits without bound for the next request on a kept connection; the gateway must not wait for that.
    (config.idle_timeout, config.io_timeout) = (Duration::from_secs(3600), Duration::from_secs(60));
    config
}

fn php() -> Option<RunningServer> {
    available(php_fpm(1, "<?php usleep(20000); echo 'done';"))
}

#[test]
fn a_request_gets_the_worker_that_an_idle_connection_holds() {
    sandboxed(|| {
        let Some(php) = php() else { return };
        let client = Client::new(php.address.into(), config());
        let script = php.path("script.php").display().to_string();
        std::thread::scope(|scope| {
            for caller in 0..AT_ONCE {
                let (client, script) = (&client, &script);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let got = client.send(GatewayRequest::new("GET", script)).and_then(|mut response| {
                            response.head()?;
                            let mut body = String::new();
                            response.read_to_string(&mut body).unwrap();
                            Ok(body)
                        });
                        assert_eq!(got.unwrap(), "done", "caller {caller}, round {round}");
                    }
                });
            }
        });
    });
}

#[test]
fn and_so_it_does_on_tokio() {
    sandboxed(|| {
        let Some(php) = php() else { return };
        let root = php.path("").display().to_string();
        let gateway = Gateway::new(php.address.into(), root.as_str(), config());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let callers = (0..AT_ONCE).map(|caller| {
            let mut gateway = gateway.clone();
            runtime.spawn(async move {
                for round in 0..ROUNDS {
                    let request =
                        http::Request::get("/script.php").body(http_body_util::Empty::<bytes::Bytes>::new());
                    let response = gateway.call(request.unwrap()).await;
                    let response =
                        response.unwrap_or_else(|error| panic!("caller {caller}, round {round}: {error}"));
                    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "done");
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        callers.into_iter().for_each(|caller| runtime.block_on(caller).unwrap());
    });
}
