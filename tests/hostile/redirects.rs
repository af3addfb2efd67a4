//! Redirects that go in circles, on and on, or to where the crawl has been.

use harness::{Answer, Trawl, Web};

use crate::Outcomes;

#[tokio::test]
async fn redirects_end_whatever_they_do() {
    let elsewhere = Web::new().page("/", []).serve_at([127, 0, 1, 3]).await;
    let mut web = Web::new()
        .page("/", ["/self", "/a", "/chain/0", "/visited", "/away", "/long", "/empty", "/odd"])
        .answer("/self", Answer::redirect(302, "/self"))
        .answer("/a", Answer::redirect(301, "/b"))
        .answer("/b", Answer::redirect(307, "/a"))
        .answer("/visited", Answer::redirect(302, "/"))
        .answer("/away", Answer::redirect(302, &elsewhere.url("/")))
        .answer("/long", Answer::redirect(302, &format!("/{}", "x".repeat(60_000))))
        .answer("/empty", Answer::redirect(302, ""))
        .answer("/odd", Answer::redirect(302, "ftp://127.0.0.1/"));
    for number in 0..1000 {
        let next = format!("/chain/{}", number + 1);
        web = web.answer(&format!("/chain/{number}"), Answer::redirect(302, &next));
    }
    let site = web.serve_at([127, 0, 1, 2]).await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).set("--scope", "any").done().await.expect(0);

    let counts = site.counts();
    assert!(counts.values().all(|count| *count == 1), "nothing is asked for twice: {counts:?}");
    let chain = counts.keys().filter(|path| path.starts_with("/chain/")).count();
    assert_eq!(chain, 6, "a seed's link and five redirects");
    assert_eq!(elsewhere.paths(), ["/"]);
    let outcomes = Outcomes::of(&trawl).await;
    for path in ["/self", "/a", "/b", "/chain/5", "/visited", "/away", "/long", "/empty", "/odd"] {
        assert!(outcomes.of_url(&site.url(path)).class.starts_with("30"), "{path}");
    }
}
