//! How fast one machine is, beside its ceiling, measured with `wrk`.
//!
//! ```text
//! cargo bench --bench throughput            medians of 5 runs of 5 s each
//! cargo bench --bench throughput -- 3 2     medians of 3 runs of 2 s each
//! ```
//!
//! Each row is measured on a fresh machine of this program, with the load
//! generator on the same computer; the ceiling is hyper alone, answering a fixed
//! body, measured in the same run. Needs `wrk` on the path.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]

mod support;

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use support::{Load, Machine};
use tempfile::TempDir;

fn main() {
    let dir = TempDir::new().unwrap();
    let load = Load::of_command_line(dir.path());
    let address = spawn_ceiling();
    load.row("hyper alone, GET, 64 connections", "GET", 64, &format!("http://{address}"));
    load.row("hyper alone, PUT, 256 connections", "PUT", 256, &format!("http://{address}"));

    let machine = Machine::start(&dir.path().join("data"));
    println!(
        "{:<40} {:>9} ms",
        "start of an empty machine to healthy",
        machine.healthy_after.as_millis()
    );
    println!("{:<40} {:>9} KiB", "resident memory when idle", machine.resident_kib());
    load.row("durable PUT, 1 connection", "PUT", 1, &machine.url);
    load.row("durable PUT, 256 connections", "PUT", 256, &machine.url);
    load.rows(&[
        ("durable PUT, 64 connections", "PUT", 64, &machine.url),
        ("… under the ids of requests", "PUT once", 64, &machine.url),
    ]);
    load.row("linearizable GET, 64 connections", "GET", 64, &machine.url);
    println!("{:<40} {:>9} KiB", "resident memory after the load", machine.resident_kib());
    let (median, worst) = lateness(&machine);
    println!("{:<40} {median:>9.1} ms, {worst:.1} ms at worst", "expiry behind its deadline");
}

/// Sets keys that expire, and returns how long after their deadlines a stream
/// tells so: in the median and at worst, in milliseconds.
fn lateness(machine: &Machine) -> (f64, f64) {
    const KEYS: usize = 200;
    let stream = ureq::get(format!("{}/v1/watch/soon?stream=true", machine.url)).call().unwrap();
    let url = machine.url.clone();
    let setting = std::thread::spawn(move || {
        for key in 0..KEYS {
            let form = [("value", "x"), ("ttl", "1")];
            ureq::post(format!("{url}/v1/keys/soon/{key}")).send_form(form).unwrap();
            std::thread::sleep(Duration::from_millis(7));
        }
    });
    let lines = BufReader::new(stream.into_body().into_reader()).lines().map(Result::unwrap);
    let expired = lines.filter(|line| line.starts_with(r#"{"action":"EXPIRE""#)).take(KEYS);
    let mut late: Vec<_> = expired
        .map(|line| {
            let (_, rest) = line.split_once(r#""expiration":""#).unwrap();
            let deadline: chrono::DateTime<chrono::Utc> =
                rest.split('"').next().unwrap().parse().unwrap();
            (chrono::Utc::now() - deadline).as_seconds_f64() * 1e3
        })
        .collect();
    setting.join().unwrap();
    late.sort_by(f64::total_cmp);
    (late[late.len() / 2], late[late.len() - 1])
}

/// Serves a fixed body with hyper alone, set up as this program does it, and
/// returns where.
fn spawn_ceiling() -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let answer = service_fn(|request: Request<Incoming>| async move {
                    drop(request);
                    let body = Full::new(Bytes::from_static(&[b'x'; 256]));
                    Ok::<_, Infallible>(Response::new(body))
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
    });
    receiver.recv().unwrap()
}
