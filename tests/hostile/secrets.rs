//! What a crawl is told in confidence goes to whom it is for, and nowhere else.

use std::{fs, io::Read as _};

use flate2::read::MultiGzDecoder;
use harness::{Answer, Trawl, Web};

/// What the secrets below have in common.
const MARK: &str = "s3cr3t";

#[tokio::test]
async fn headers_credentials_and_cookies_stay_with_their_hosts_and_out_of_every_record() {
    let stranger = Web::new().page("/", []).serve_at([127, 0, 1, 5]).await;
    let friend = Web::new()
        .robots("")
        .answer("/", Answer::links("", ["/a", &stranger.url("/")]).header("Set-Cookie", "sid=fine"))
        .answer("/a", Answer::redirect(302, &stranger.url("/redirected")))
        .serve_at([127, 0, 1, 4])
        .await;
    let trawl = Trawl::new();
    let config = trawl.write(
        "crawl.toml",
        &format!(
            "seeds = ['{}']\ncookies = true\n\
             [[headers]]\nhosts = ['127.0.1.4']\nname = 'X-Token'\nvalue = 'env:TRAWL_SECRET_A'\n\
             [[headers]]\nhosts = ['*']\nname = 'Accept-Language'\nvalue = 'de'\n\
             [[credentials]]\nhosts = ['127.0.1.4']\ninsecure = true\n\
             basic = {{ user = 'me', password = 'env:TRAWL_SECRET_B' }}\n",
            friend.url("/")
        ),
    );
    let crawl = trawl.crawl::<&str>([]).set("--config", &config).set("--scope", "any");
    let crawl = crawl.set("--robots", "obey").variable("TRAWL_LOG", "trace");
    crawl.done().await.expect(2).says(["TRAWL_SECRET_A is not set"]);
    let crawl = crawl.variable("TRAWL_SECRET_A", format!("token-{MARK}"));
    let ended = crawl.variable("TRAWL_SECRET_B", MARK).done().await.expect(0);

    for visit in friend.visits() {
        assert_eq!(visit.headers["x-token"], format!("token-{MARK}"), "{}", visit.path);
        assert_eq!(visit.headers["authorization"], "Basic bWU6czNjcjN0", "{}", visit.path);
    }
    let cookie = |path: &str| {
        let visits = friend.visits();
        let visit = visits.iter().find(|visit| visit.path == path).unwrap();
        visit.headers.get("cookie").cloned()
    };
    assert_eq!((cookie("/"), cookie("/a")), (None, Some("sid=fine".to_owned())));
    assert_eq!(
        stranger.counts().into_keys().collect::<Vec<_>>(),
        ["/", "/redirected", "/robots.txt"]
    );
    for visit in stranger.visits() {
        assert_eq!(visit.headers["accept-language"], "de");
        for name in ["x-token", "authorization", "cookie"] {
            assert!(!visit.headers.contains_key(name), "{name} at {}", visit.path);
        }
    }

    let dump = trawl.file("dump.jsonl");
    trawl.command("dump", [&dump]).done().await.expect(0);
    let mut all = ended.stdout + &ended.stderr + &fs::read_to_string(&dump).unwrap();
    for segment in trawl.segments() {
        MultiGzDecoder::new(fs::File::open(segment).unwrap()).read_to_string(&mut all).unwrap();
    }
    assert!(all.contains("x-token: [redacted]") && all.contains("cookie: [redacted]"));
    for secret in [MARK, "bWU6czNjcjN0"] {
        let at = all.find(secret).map(|at| all[at.saturating_sub(200)..at].to_owned());
        assert_eq!(at, None, "nothing that stays has a secret");
    }
}

#[tokio::test]
async fn a_proxys_credentials_are_printed_nowhere() {
    let proxy = Web::new().serve_at([127, 0, 1, 6]).await;
    let alive = proxy.url("").replace("http://", &format!("http://me:{MARK}@"));
    let dead = format!("socks5h://me:{MARK}@127.0.1.7:9");
    let run = async |by: &[&str], code| {
        let trawl = Trawl::new();
        let mut crawl = trawl.crawl(["http://a.example/", "http://b.example/"]);
        for proxy in by {
            crawl = crawl.and("--proxy", proxy);
        }
        let crawl = crawl.variable("TRAWL_LOG", "trace").set("--attempts", "1");
        let ended = crawl.done().await.expect(code);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains(MARK), "{ended}");
        said
    };
    run(&[&alive, &dead], 0).await;
    let visits = proxy.visits();
    assert_eq!(visits.len(), 2, "what the dead one cannot fetch the other one does");
    assert!(visits.iter().all(|visit| visit.headers["proxy-authorization"].starts_with("Basic ")));
    assert!(run(&[&dead], 3).await.contains("the proxy 127.0.1.7:9"));
    let odd = format!("ftp://me:{MARK}@127.0.1.7");
    assert!(run(&[&odd], 2).await.contains("proxy = \"ftp://127.0.1.7\" cannot be"));
}
