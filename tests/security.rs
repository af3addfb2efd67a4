//! Who is let in by a master, and who is not: each refusal says what is wrong and what to do, and
//! honest callers do not notice those that are not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
};

use harness::{Answer, Command, Master, Trawl, Web, ms, secs, until};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::{
    v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    v1alpha,
};
use trawl_proto::v1::{
    JoinRequest, ReportHeader, ReportPart, StatusRequest, SubmitRequest, UrlReport,
    control_client::ControlClient, report_part::Part, worker_client::WorkerClient,
};

/// Exit code when the master is away, or lets nobody in.
const MASTER: i32 = 6;

/// Bytes of a page that needs many messages.
const LARGE: usize = 32 * 1024 * 1024;

const TOKEN: &str = "correct-horse-battery-staple";

/// `trawl status` with these options.
fn status(trawl: &Trawl, master: &str) -> Command {
    trawl.ask::<&str>("status", [], master)
}

async fn connected(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

/// An authority with certificates for 127.0.0.1 and a worker, in a folder of this name.
async fn certificates(trawl: &Trawl, folder: &str) -> PathBuf {
    let out = trawl.file(folder);
    let certs = trawl.command::<&str>("certs", []).unset("--data");
    certs.set("--out", &out).set("--host", "127.0.0.1").done().await.expect(0);
    out
}

/// A master with a certificate, that asks for one.
async fn mutual_master(trawl: &Trawl, pki: &Path) -> Master {
    let master = trawl.master().set("--tls-cert", pki.join("master.pem"));
    let master = master.set("--tls-key", pki.join("master-key.pem"));
    let master = master.set("--client-ca", pki.join("ca.pem")).serve().await;
    assert!(master.url.starts_with("https://127.0.0.1:"), "{}", master.url);
    master
}

/// The options by which a worker shows its certificate, and knows the master's.
fn with_certificate(command: Command, pki: &Path) -> Command {
    let command = command.set("--ca", pki.join("ca.pem"));
    command.set("--cert", pki.join("worker.pem")).set("--key", pki.join("worker-key.pem"))
}

#[tokio::test]
async fn beyond_loopback_a_master_wants_a_token() {
    let trawl = Trawl::new();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7070"] {
        let ended = trawl.master().set("--listen", address).done().await.expect(2);
        ended.says([address, "a token is needed", "trawl token --out", "--token-file"]);
    }
    assert!(!trawl.data().exists(), "nothing is made");

    let token = trawl.file("token");
    let make = trawl.command::<&str>("token", []).unset("--data").set("--out", &token);
    make.done().await.expect(0);
    let master = trawl.master().set("--listen", "0.0.0.0:0").set("--token-file", &token);
    let master = master.serve().await;
    let url = master.url.replace("0.0.0.0", "127.0.0.1");
    status(&trawl, &url).set("--token-file", &token).done().await.expect(0);
}

#[tokio::test]
async fn settings_that_cannot_be() {
    let trawl = Trawl::new();
    let short = trawl.write("short", "secret\n");
    let short = short.to_str().unwrap();
    let nowhere = trawl.file("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    for (options, says) in [
        (vec!["--token-file", short], vec![short, "is not a token"]),
        (vec!["--token-file", nowhere], vec![nowhere, "cannot be read"]),
        (vec!["--tls-cert", short], vec!["--tls-key"]),
        (vec!["--tls-cert", short, "--tls-key", short], vec![short, "no certificate"]),
        (vec!["--client-ca", short], vec!["--tls-cert"]),
        (vec!["--lease", "10ms"], vec!["lease = 10ms cannot be: 1s to 1h"]),
        (vec!["--cache", "1"], vec!["cache = 1 B", "1.0 MiB to"]),
        (vec!["--listen", "example.org"], vec!["--listen"]),
    ] {
        let master = options.chunks(2).fold(trawl.master(), |it, pair| it.set(pair[0], pair[1]));
        let ended = master.done().await.expect(2).says(says);
        assert!(!ended.stderr.contains("secret"), "a token that is none is one all the same");
    }
    for (options, says) in [
        (["--master", "127.0.0.1:7070"], ["--master", "like http://127.0.0.1:7070"]),
        (["--master", "ftp://a.example"], ["ftp://a.example", "http://"]),
        (["--master", "http://me@a.example/"], ["more than scheme", "like http://"]),
        (["--name", "two words"], ["--name", "1 to 128"]),
        (["--lanes", "0"], ["lanes = 0 cannot be", "1 to 1024"]),
        (["--outbox", "1KiB"], ["outbox = 1.0 KiB", "1.0 MiB to"]),
        (["--token-file", short], [short, "is not a token"]),
        (["--ca", short], [short, "no certificate"]),
        (["--cert", short], ["--key", "required"]),
    ] {
        let worker = trawl.worker("https://127.0.0.1:9").set(options[0], options[1]);
        worker.done().await.expect(2).says(says);
    }
    assert!(!trawl.data().exists(), "nothing is made");

    // A certificate with another one's key.
    let (one, other) = (certificates(&trawl, "one").await, certificates(&trawl, "other").await);
    let master = trawl.master().set("--tls-cert", one.join("master.pem"));
    let master = master.set("--tls-key", other.join("master-key.pem"));
    master.done().await.expect(2).says(["the certificate cannot be used"]);
}

#[tokio::test]
async fn a_port_that_is_taken() {
    let (one, two) = (Trawl::new(), Trawl::new());
    let first = one.master().serve().await;
    let address = first.url.trim_start_matches("http://");
    let ended = two.master().set("--listen", address).done().await.expect(1);
    ended.says(["cannot listen on", address, "in use"]);
    assert!(!two.data().exists(), "the data directory is left alone");
}

#[tokio::test]
async fn a_data_directory_has_one_master_and_a_name_one_worker() {
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let data = trawl.data().display().to_string();
    trawl.master().done().await.expect(4).says(["in use", &data]);
    let crawl = trawl.command("crawl", ["http://127.0.0.1:49/"]);
    crawl.done().await.expect(4).says(["in use", &data]);

    let worker = trawl.worker(&master.url).set("--name", "w").variable("TRAWL_LOG", "info");
    let first = worker.start();
    first.says_line("joined the master", secs(30)).await;
    let second = worker.start();
    second.says_line("joined the master", secs(30)).await;
    let ended = first.done().await.expect(MASTER);
    ended.says([master.url.as_str(), "another worker has joined under this name", "--name"]);
    second.stops().await;
    status(&trawl, &master.url).done().await.expect(0);
}

#[tokio::test]
async fn only_who_shows_the_token_is_let_in() {
    let site = Web::new().tree(15, ms(0)).serve().await;
    let trawl = Trawl::new();
    let token = trawl.write("token", &format!("{TOKEN}\n"));
    let wrong = trawl.write("wrong", "incorrect-horse-battery-staple");
    let master = trawl.master().set("--token-file", &token).variable("TRAWL_LOG", "trace");
    let master = master.serve().await;
    let url = master.url.as_str();

    status(&trawl, url).done().await.expect(MASTER).says([url, "asks for a token", "--token-file"]);
    let refused = status(&trawl, url).set("--token-file", &wrong).done().await.expect(MASTER);
    refused.says([url, "the token is not this master's"]);
    for worker in [trawl.worker(url), trawl.worker(url).set("--token-file", &wrong)] {
        worker.done().await.expect(MASTER).says([url, "token"]);
    }

    let seeds = [site.url("/")];
    let submit = trawl.submit(&seeds, url).variable("TRAWL_LOG", "trace");
    let submitted = submit.set("--token-file", &token).done().await.expect(0);
    let worker = trawl.worker(url).set("--token-file", &token).variable("TRAWL_LOG", "trace");
    let worker = worker.start();
    let wait = status(&trawl, url).set_flag("--wait").variable("TRAWL_TOKEN_FILE", &token);
    wait.done().await.expect(0).says(["finished: complete"]);
    let worker = worker.stops().await;
    let master = master.stop().await;
    assert_eq!(trawl.pages().await.count(), 15 + 7);
    for ended in [submitted, worker, master] {
        assert!(!ended.stderr.contains(TOKEN), "the token is in the log of {ended}");
    }
}

#[tokio::test]
async fn a_token_in_the_clear_is_warned_of() {
    let trawl = Trawl::new();
    let token = trawl.write("token", TOKEN);
    let away = |host| status(&trawl, host).set("--token-file", &token);
    let ended = away("http://nowhere.invalid:7070").done().await.expect(MASTER);
    ended.says(["in the clear", "http://nowhere.invalid:7070", "no such host nowhere.invalid"]);
    let ended = away("http://localhost:9").done().await.expect(MASTER);
    assert!(!ended.stderr.contains("in the clear"), "{ended}");
}

#[tokio::test]
async fn a_master_that_is_away_is_told_of_by_operators_and_waited_for_by_workers() {
    let site = Web::new().tree(15, ms(0)).serve().await;
    let trawl = Trawl::new();
    let first = trawl.master().serve().await;
    let url = first.url.clone();
    let listen = url.trim_start_matches("http://");
    first.stop().await;

    for verb in ["status", "crawls", "workers", "hosts", "health"] {
        let ended = trawl.ask::<&str>(verb, [], &url).done().await.expect(MASTER);
        ended.says([&url, "nobody listens there"]);
    }
    let worker = trawl.worker(&url).start();
    worker.says_line("works for", secs(30)).await;
    worker.says_line("will try to join again", secs(30)).await;

    let master = trawl.master().set("--listen", listen).serve().await;
    trawl.submit([site.url("/")], &url).done().await.expect(0);
    let waiting = status(&trawl, &url).set_flag("--wait").start();
    waiting.done().await.expect(0).says(["complete"]);
    worker.stops().await;
    master.stop().await;
    assert_eq!(trawl.pages().await.count(), 15 + 7);
}

#[tokio::test]
async fn waiting_goes_on_across_a_masters_restart() {
    let site = Web::new().answer("/", Answer::links("slow", ["/a"]).after(secs(1)));
    let site = site.answer("/a", Answer::text("done")).serve().await;
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let url = master.url.clone();
    trawl.submit([site.url("/")], &url).done().await.expect(0);
    let waiting = status(&trawl, &url).set_flag("--wait").set_flag("--json").start();
    // Without a worker nothing ends, so it waits for certain.
    until(&status(&trawl, &url).set_flag("--json"), secs(30), |it| {
        it.stdout.contains("\"queued\":1")
    })
    .await;
    master.stop().await;
    waiting.says_line("waiting for it", secs(30)).await;

    let listen = url.trim_start_matches("http://");
    let _master = trawl.master().set("--listen", listen).serve().await;
    let _worker = trawl.worker(&url).start();
    let ended = waiting.done().await.expect(0).says(["the master is back"]);
    let status: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(status["crawls"][0]["state"], "finished");
    assert_eq!(status["crawls"][0]["outcomes"]["ok"], 2);
}

#[tokio::test]
async fn a_crawl_over_mutual_tls() {
    let mut large = vec![0; LARGE];
    fastrand::Rng::with_seed(7).fill(&mut large);
    let large = Answer::bytes("application/octet-stream", large);
    let site = Web::new().tree(60, ms(0)).answer("/large", large).serve().await;
    let trawl = Trawl::new();
    let pki = certificates(&trawl, "pki").await;
    let master = mutual_master(&trawl, &pki).await;
    let url = master.url.as_str();
    let worker = with_certificate(trawl.worker(url), &pki).start();
    let submit = trawl.submit([site.url("/"), site.url("/large")], url);
    with_certificate(submit.set("--body-limit", "32MiB"), &pki).done().await.expect(0);
    let wait = with_certificate(status(&trawl, url).set_flag("--wait"), &pki);
    wait.done().await.expect(0).says(["finished: complete"]);
    with_certificate(trawl.ask::<&str>("health", [], url), &pki).done().await.expect(0);
    worker.stops().await;
    master.stop().await;
    let pages = trawl.pages().await;
    assert_eq!(pages.count(), 60 + 7 + 1);
    assert_eq!(pages.of(&site.url("/large")).bytes, LARGE as u64);
}

#[tokio::test]
async fn whom_tls_does_not_let_in_is_told_why() {
    let trawl = Trawl::new();
    let (pki, foreign) = (certificates(&trawl, "pki").await, certificates(&trawl, "foreign").await);
    let master = mutual_master(&trawl, &pki).await;
    let url = master.url.as_str();
    let ask = || with_certificate(status(&trawl, url), &pki);

    // Of the master, its certificate's authority is not known.
    let other = ask().set("--ca", foreign.join("ca.pem"));
    other.done().await.expect(MASTER).says([url, "not of an authority that is trusted", "--ca"]);
    // It shows a certificate for other names.
    let elsewhere = url.replace("127.0.0.1", "127.0.0.2");
    let other = with_certificate(status(&trawl, &elsewhere), &pki);
    other.done().await.expect(MASTER).says([elsewhere.as_str()]);
    // The caller has none, or a foreign one.
    let none = ask().unset("--cert").unset("--key");
    none.done().await.expect(MASTER).says([url, "certificate", "--cert"]);
    let cert = foreign.join("worker.pem");
    let other = ask().set("--cert", &cert).set("--key", foreign.join("worker-key.pem"));
    other.done().await.expect(MASTER).says([url, "certificate"]);
    // A worker that will never be let in ends, and does not try for ever.
    let worker = with_certificate(trawl.worker(url), &pki).set("--ca", foreign.join("ca.pem"));
    worker.done().await.expect(MASTER).says([url, "not of an authority that is trusted"]);
    // The wrong scheme, both ways.
    let plain = url.replace("https://", "http://");
    status(&trawl, &plain).done().await.expect(MASTER).says([plain.as_str(), "https://"]);
    let open = Trawl::new();
    let open_master = open.master().serve().await;
    let secure = open_master.url.replace("http://", "https://");
    let ended = with_certificate(status(&open, &secure), &pki).done().await.expect(MASTER);
    ended.says([secure.as_str(), "does not speak TLS", "http://"]);

    ask().done().await.expect(0);
}

#[tokio::test]
async fn messages_over_their_limit_are_refused_and_others_go_on() {
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let channel = connected(&master.url).await;
    let mut workers = WorkerClient::new(channel.clone()).max_encoding_message_size(usize::MAX);
    let join = JoinRequest { worker: "w".into(), protocol: 1, ..JoinRequest::default() };
    let session = workers.join(join).await.unwrap().into_inner().session;

    let header = Part::Header(ReportHeader { worker: "w".into(), session });
    let records = vec![0; 5 * 1024 * 1024].into();
    let url = Part::Url(UrlReport { records, ..UrlReport::default() });
    let parts = [header, url].map(|part| ReportPart { part: Some(part) });
    let refused = workers.report(tokio_stream::iter(parts)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    let mut operators = ControlClient::new(channel).max_encoding_message_size(usize::MAX);
    let seeds = vec![format!("http://a.example/{}", "x".repeat(5 * 1024 * 1024))];
    let submit = SubmitRequest { name: "a".into(), seeds, ..SubmitRequest::default() };
    let refused = operators.submit(submit).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    // The same connection, and another caller, go on.
    let answer = operators.status(StatusRequest::default()).await.unwrap().into_inner();
    assert!(answer.crawls.is_empty());
    let again = JoinRequest { worker: "w".into(), protocol: 1, ..JoinRequest::default() };
    workers.join(again).await.unwrap();
    status(&trawl, &master.url).done().await.expect(0);
}

#[tokio::test]
async fn a_worker_of_another_contract_is_refused() {
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let mut workers = WorkerClient::new(connected(&master.url).await);
    let join = JoinRequest { worker: "w".into(), protocol: 2, ..JoinRequest::default() };
    let refused = workers.join(join).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("speaks protocol 1, the worker"), "{refused}");
}

#[tokio::test]
async fn health_and_reflection_answer_whoever_asks() {
    let trawl = Trawl::new();
    let token = trawl.write("token", TOKEN);
    let master = trawl.master().set("--token-file", &token).serve().await;
    trawl.ask::<&str>("health", [], &master.url).done().await.expect(0);

    let channel = connected(&master.url).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "trawl.crawl.v1.Worker", "trawl.crawl.v1.Control"] {
        let request = HealthCheckRequest { service: service.into() };
        let reply = health.check(request).await.unwrap().into_inner();
        assert_eq!(reply.status().as_str_name(), "SERVING", "{service}");
    }

    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status().as_str_name(), "SERVING");

    let mut reflection = ServerReflectionClient::new(channel.clone());
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut replies =
        reflection.server_reflection_info(tokio_stream::once(list)).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = reply else { panic!("{reply:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["trawl.crawl.v1.Worker", "trawl.crawl.v1.Control", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }

    // Older tools ask by the former name.
    let mut former =
        v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let find = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                "trawl.crawl.v1.Control".into(),
            ),
        ),
    };
    let mut replies =
        former.server_reflection_info(tokio_stream::once(find)).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());

    // The services themselves are closed, whatever stands in the header.
    let mut operators = ControlClient::new(channel);
    for authorization in ["Bearer ", "Bearer correct-horse", TOKEN, "Basic Og=="] {
        let mut request = Request::new(StatusRequest::default());
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
        let refused = operators.status(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{authorization}");
    }

    master.running.terminate();
    assert_eq!(watch.message().await.unwrap().unwrap().status().as_str_name(), "NOT_SERVING");
    // It does not wait for a watcher that stays.
    master.running.done().await.expect(0);
    trawl.ask::<&str>("health", [], &master.url).done().await.expect(MASTER);
}

#[tokio::test]
async fn those_who_connect_and_say_nothing_lock_nobody_out() {
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let address = master.url.trim_start_matches("http://");
    let silent: Vec<_> = (0..600).map(|_| TcpStream::connect(address).unwrap()).collect();
    status(&trawl, &master.url).within(secs(40)).done().await.expect(0);
    drop(silent);
}

#[tokio::test]
async fn certificates_and_tokens_are_never_written_over() {
    let trawl = Trawl::new();
    let pki = certificates(&trawl, "pki").await;
    let before = fs::read(pki.join("master.pem")).unwrap();
    let certs = trawl.command::<&str>("certs", []).unset("--data").set("--out", &pki);
    let again = certs.set("--host", "other.example").set("--client", "operator");
    again.done().await.expect(0).says(["the authority that is there", "is there already"]);
    assert_eq!(fs::read(pki.join("master.pem")).unwrap(), before);

    let token = trawl.write("token", TOKEN);
    let make = trawl.command::<&str>("token", []).unset("--data").set("--out", &token);
    make.done().await.expect(1).says(["exists"]);
    assert_eq!(fs::read_to_string(&token).unwrap(), TOKEN);
}
