//! Nothing that a page, a header or a name holds does anything to a terminal: a site made of escapes
//! is crawled, and everything that the program prints and logs of it is looked at byte by byte.

use std::{fs, path::Path};

use harness::{Command, Trawl, env};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Colours, a clipboard (OSC 8 and 52), C1, bidi and zero-width marks, separators, NUL, DEL.
const EVIL: &str = "EVIL\x1b[31m\x1b]52;c;eA==\x07\x1b]8;;http://x/\x1b\\\u{9b}31m\u{9d}0;x\u{9c}\
                    \u{202e}\u{2066}\u{200b}\u{feff}\u{85}\u{2028}\u{7f}\x08LIVE";

/// The part of it that is allowed in a header.
const EVIL_IN_HEADERS: &str = "EVIL\u{9b}31m\u{9d}52;c;eA==\u{9c}\u{202e}\u{2066}\u{200b}LIVE";

/// Serves what no honest server does; on until the test ends.
async fn evil_site() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(format!("http://{address}"))
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await? > 0 {}
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default();
    stream.write_all(&said_of(path)).await
}

fn said_of(path: &str) -> Vec<u8> {
    let head = |status: &str, headers: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
        .into_bytes()
    };
    let html = "Content-Type: text/html\r\n";
    match path {
        "/robots.txt" => head(
            "200 OK",
            "",
            &format!("User-agent: *\nDisallow: /secret{EVIL}\nDisallow: /secret\n{EVIL}\n"),
        ),
        "/" => head(
            "200 OK",
            html,
            &format!(
                "<title>{EVIL}</title>{EVIL}<a href='/link{EVIL}' rel='{EVIL}'>x</a>\
                 <a href='//{EVIL}.example/'>x</a><a href='//\u{202e}bidi.example/'>x</a>\
                 <a href=/secret{EVIL}>x</a><a href=/secret>x</a><a href=/reason>x</a>\
                 <a href=/headers>x</a><a href=/redirect>x</a><a href=/redirect-away>x</a>\
                 <a href=/type>x</a><a href=/charset>x</a><a href=/not-http>x</a>\
                 <a href=/cut>x</a><a href=/bad-header>x</a><a href=/coding>x</a><h1>{EVIL}</h1>"
            ),
        ),
        "/reason" => head(&format!("200 {EVIL_IN_HEADERS}"), html, "<p>x"),
        "/headers" => head(
            "200 OK",
            &format!("ETag: \"{EVIL_IN_HEADERS}\"\r\nServer: {EVIL_IN_HEADERS}\r\nX-{html}{html}"),
            "<p>x",
        ),
        "/redirect" => head("302 Found", &format!("Location: /to{EVIL_IN_HEADERS}\r\n"), ""),
        "/redirect-away" => {
            head("302 Found", &format!("Location: //{EVIL_IN_HEADERS}.example/\r\n"), "")
        }
        "/type" => head("200 OK", &format!("Content-Type: text/{EVIL_IN_HEADERS}\r\n"), "<p>x"),
        "/charset" => head(
            "200 OK",
            &format!("Content-Type: text/html; charset={EVIL_IN_HEADERS}\r\n"),
            &format!("<meta charset='{EVIL}'><title>{EVIL}</title>"),
        ),
        "/not-http" => format!("{EVIL}\r\n\r\n").into_bytes(),
        "/bad-header" => head("200 OK", &format!("X{EVIL}: {EVIL}\r\n"), "x"),
        "/coding" => head("200 OK", &format!("Content-Encoding: {EVIL_IN_HEADERS}\r\n"), "x"),
        "/cut" => format!("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{EVIL}").into_bytes(),
        _ => head("404 Not Found", html, &format!("<title>{EVIL}</title>")),
    }
}

/// What does something to a terminal, or to how its text is read.
fn acts(char: char) -> bool {
    (char.is_control() && !matches!(char, '\n' | '\t'))
        || matches!(
            char,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// Checks what was printed, byte by byte. On a terminal the progress line moves the cursor: those
/// sequences are ours, and no page here has them.
fn check(what: &str, printed: &[u8], on_terminal: bool) {
    let mut text = String::from_utf8_lossy(printed).into_owned();
    if on_terminal {
        for ours in
            ["\r", "\x1b[2K", "\x1b[?25l", "\x1b[?25h", "\x1b[H", "\x1b[2J", "\x1b[1A", "\x1b[0m"]
        {
            text = text.replace(ours, "");
        }
    }
    if let Some((at, char)) = text.char_indices().find(|(_, char)| acts(*char)) {
        let from = text.floor_char_boundary(at.saturating_sub(120));
        let to = text.ceil_char_boundary(at + 60);
        panic!("{what} printed U+{:04X}: {:?}", u32::from(char), &text[from..to]);
    }
    let _ = str::from_utf8(printed).map_err(|error| panic!("{what} printed no UTF-8: {error}"));
}

/// Runs a command and checks all that it prints; returns that.
async fn run(trawl: &Trawl, command: &Command) -> String {
    let log = trawl.file("printed");
    let ended = command.start_on(trawl.file("").as_path(), &log).done().await;
    let printed = fs::read(&log).unwrap_or_default();
    check(&format!("{command} ({ended})"), &printed, false);
    String::from_utf8_lossy(&printed).into_owned()
}

/// Likewise, on a terminal.
async fn run_on_terminal(trawl: &Trawl, command: &Command) -> String {
    let python = env::folder().join("venv/bin/python");
    let script = "import pty, sys; pty.spawn(sys.argv[1:])";
    let words = [&*python.to_string_lossy(), "-c", script].map(str::to_owned);
    let command = command.clone().under(words.iter().map(String::as_str));
    let log = trawl.file("printed");
    command.start_on(Path::new("/"), &log).done().await;
    let printed = fs::read(&log).unwrap_or_default();
    check(&format!("{command} on a terminal"), &printed, true);
    String::from_utf8_lossy(&printed).into_owned()
}

fn crawl(trawl: &Trawl, site: &str) -> Command {
    let seeds = [format!("{site}/"), format!("{site}/secret")];
    trawl.crawl(seeds).set("--robots", "obey").set("--attempts", "1").set("--scope", "any")
}

#[tokio::test]
async fn a_crawl_of_escapes_prints_and_logs_none() {
    let site = evil_site().await.unwrap();
    for is_json in [false, true] {
        let trawl = Trawl::new();
        let crawl = crawl(&trawl, &site).variable("TRAWL_LOG", "trace");
        let crawl = if is_json { crawl.set_flag("--log-json") } else { crawl };
        let printed = run(&trawl, &crawl).await;
        assert!(printed.contains("EVIL"), "libraries quote the site at this level:\n{printed}");
    }
    let trawl = Trawl::new();
    let printed = run_on_terminal(&trawl, &crawl(&trawl, &site)).await;
    assert!(printed.contains("pages"), "{printed}");
}

#[tokio::test]
async fn what_is_told_of_them_afterwards_holds_none_either() {
    let site = evil_site().await.unwrap();
    let trawl = Trawl::new();
    run(&trawl, &crawl(&trawl, &site)).await;
    let evil_url = format!("{site}/link{EVIL}");
    let urls = [
        "/",
        "/secret",
        "/reason",
        "/headers",
        "/redirect",
        "/type",
        "/charset",
        "/not-http",
        "/cut",
        "/bad-header",
    ];
    let urls: Vec<String> =
        urls.iter().map(|path| format!("{site}{path}")).chain([evil_url]).collect();

    run(&trawl, &trawl.command::<&str>("verify", [])).await;
    for format in ["jsonl", "cdxj"] {
        let export = trawl.command::<&str>("export", []).set("--format", format).set("--out", "-");
        let printed = run(&trawl, &export).await;
        assert!(printed.contains("/headers"), "{printed}");
        if format == "jsonl" {
            assert!(
                printed.contains(r"EVIL\u001b[31m") && printed.contains(r"\u202e"),
                "{printed}"
            );
        }
    }
    for url in &urls {
        for show in ["headers", "json"] {
            run(&trawl, &trawl.command("page", [url]).set("--show", show)).await;
        }
        run_on_terminal(&trawl, &trawl.command("page", [url])).await;
    }
    let body = run_on_terminal(&trawl, &trawl.command("page", [&urls[0]])).await;
    assert!(body.contains(r"<title>EVIL\u{1b}[31m\u{1b}]52;c;"), "{body}");
    let headers = run(&trawl, &trawl.command("page", [&urls[3]]).set("--show", "headers")).await;
    assert!(headers.contains(r"EVIL\u{9b}31m"), "{headers}");

    let dump = trawl.file("dump");
    run(&trawl, &trawl.command("dump", [&dump])).await;
    let elsewhere = Trawl::new();
    run(&elsewhere, &elsewhere.command("load", [&dump])).await;
    run(&trawl, &trawl.command::<&str>("repair", []).set_flag("--dry-run")).await;
    let robots = trawl.write("robots.txt", &format!("User-agent: *\nDisallow: /{EVIL}\n"));
    let check = trawl.command("check", ["robots", &*urls[10]]).unset("--data");
    run(&trawl, &check.set("--agent", "evil").set("--file", &robots)).await;
    let check = trawl.command("check", ["robots", EVIL]).unset("--data");
    run(&trawl, &check.set("--agent", EVIL).set("--file", &robots)).await;

    let master = trawl.master().serve().await;
    let evil_host = format!("{site}/");
    let block = ["--block", "--reason", EVIL];
    let block = std::iter::once(evil_host.as_str()).chain(block);
    run(&trawl, &trawl.ask("host", block, &master.url)).await;
    for (verb, words) in [
        ("status", vec![]),
        ("crawls", vec![]),
        ("hosts", vec![]),
        ("hosts", vec!["--set"]),
        ("workers", vec![]),
        ("quarantine", vec!["list"]),
    ] {
        let ask = trawl.ask(verb, words, &master.url);
        run(&trawl, &ask).await;
        run(&trawl, &ask.clone().set_flag("--json")).await;
        run_on_terminal(&trawl, &ask).await;
    }
    let watch = trawl.ask::<&str>("status", [], &master.url).set_flag("--watch");
    let shown = run_on_terminal(&trawl, &watch.set_flag("--wait")).await;
    assert!(shown.contains("STATE"), "{shown}");
    for url in &urls {
        let ask = trawl.ask("why", [url], &master.url);
        run(&trawl, &ask).await;
        run(&trawl, &ask.set_flag("--json")).await;
    }
    run(&trawl, &trawl.ask("quarantine", ["release", &urls[10]], &master.url)).await;
    run(&trawl, &trawl.ask("status", [EVIL], &master.url)).await;
    run(&trawl, &trawl.ask("drain", [EVIL], &master.url)).await;

    // What a list of URLs may put on a command line, and what is for other programs.
    let option = format!("--{EVIL}");
    let shown = run_on_terminal(&trawl, &trawl.command("why", [option.as_str()])).await;
    assert!(shown.contains("unexpected argument"), "{shown}");
    run_on_terminal(&trawl, &trawl.command("dump", ["-"])).await;
    for format in ["warc", "bson"] {
        let export = trawl.command::<&str>("export", []).set("--format", format);
        let shown = run_on_terminal(&trawl, &export.set("--out", "-")).await;
        assert!(shown.contains("not for a terminal"), "{shown}");
    }
    for format in ["jsonl", "cdxj"] {
        let export = trawl.command::<&str>("export", []).set("--format", format);
        run_on_terminal(&trawl, &export.set("--out", "-")).await;
    }
}
