//! Endless webs end: of each kind no more is fetched than its budget says, what was caught is
//! listed and may be let out, and other sites do not suffer.

use harness::{Answer, Cluster, Site, Trawl, Web, secs};
use serde_json::Value;

/// Pages of one kind that a crawl of these tests fetches.
const BUDGET: usize = 40;

/// Pages of each site that is none of them.
const PAGES: usize = 60;

/// Text that differs from page to page, and is long enough to be told from others.
fn prose(of: &str) -> String {
    let seed = of.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31) ^ u64::from(byte));
    let word = |n: u64| {
        let number = (seed ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (0..5)
            .map(|place| char::from(b'a' + (number >> (4 * place) & 15) as u8))
            .collect::<String>()
    };
    (0..80).map(word).collect::<Vec<_>>().join(" ")
}

fn page(text: &str, links: &[String]) -> Answer {
    let links: Vec<String> = links.iter().map(|link| format!("<a href='{link}'>on</a>")).collect();
    Answer::html(format!("<title>t</title><p>{text}</p>{}", links.concat()))
}

/// The number that a path ends with.
fn number(path: &str) -> u64 {
    let digits = path.len() - path.bytes().rev().take_while(u8::is_ascii_digit).count();
    path[digits..].parse().unwrap_or(0)
}

/// Months after months with nothing on, but for their numbers.
fn calendar(path: &str) -> Answer {
    let month = path.strip_prefix("/cal/").and_then(|rest| rest.split_once('-'));
    let (year, month) = month.map_or((2026, 1), |(year, month)| {
        (year.parse().unwrap_or(2026), month.parse().unwrap_or(1))
    });
    let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    let before = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
    let links = [next, before].map(|(year, month)| format!("/cal/{year}-{month:02}"));
    page(&format!("{year}-{month} {}", prose("nothing on")), &links)
}

/// Five pages, with another session on each link.
fn sessions(path: &str) -> Answer {
    let links = (1..6u64).map(|n| {
        let id = (number(path) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("/page-{n}?PHPSESSID={id:016x}{n}")
    });
    page(&prose(path), &links.collect::<Vec<_>>())
}

/// Twelve filters, to be put together as one likes.
fn filters(path: &str) -> Answer {
    let chosen = path.split_once('?').map_or("", |(_, query)| query);
    let others = (1..13).filter(|n| !chosen.contains(&format!("f{n}=")));
    let link = |n: u64| match chosen {
        "" => format!("/shop?f{n}=on"),
        chosen => format!("/shop?{chosen}&f{n}=on"),
    };
    page(&prose(path), &others.map(link).collect::<Vec<_>>())
}

/// Links that are relative where they should not be.
fn relative(path: &str) -> Answer {
    page(&prose(path), &["a/b/".to_owned()])
}

/// Nothing is not there: every page says the same, and leads to three more.
fn soft_404(path: &str) -> Answer {
    let id = |n: u64| {
        let seed = path.bytes().fold(n, |seed, byte| seed.wrapping_mul(31) ^ u64::from(byte));
        format!("/{:016x}", seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    page(&prose("nothing"), &[id(1), id(2), id(3)])
}

async fn trap(answer: fn(&str) -> Answer) -> Site {
    Web::new().made_up(answer).serve().await
}

fn settings() -> String {
    format!("[traps]\ntemplate_pages = {BUDGET}\n")
}

#[tokio::test]
async fn endless_webs_end_at_their_budgets_and_others_are_fetched_whole() {
    let traps = [
        ("calendar", 0, trap(calendar).await),
        ("sessions", 0, trap(sessions).await),
        // One and two filters are no combination without end, and each page of them is new; of
        // three there are twenty-one sets, in six orders each, until they are taken for filters.
        ("filters", 12 + 12 * 11 + 21 * 6, trap(filters).await),
        ("relative", 0, trap(relative).await),
        ("soft 404", 0, trap(soft_404).await),
    ];
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut web = Web::new();
        for n in 0..PAGES {
            let next = format!("/item/{}", n + 1);
            let links = if n + 1 < PAGES { vec![next] } else { vec![] };
            let path = if n == 0 { "/".to_owned() } else { format!("/item/{n}") };
            web = web.answer(&path, page(&prose(&path), &links));
        }
        others.push(web.serve().await);
    }
    let trawl = Trawl::new();
    let settings = trawl.write("crawl.toml", &settings());
    let seeds = traps.iter().map(|(_, _, site)| site).chain(&others).map(|site| site.url("/"));
    let crawl = trawl.crawl(seeds).set("--config", settings);
    crawl.within(secs(120)).done().await.expect(0).says(["complete", "quarantined"]);

    for (name, new, site) in &traps {
        let visits = site.visits().len();
        assert!(visits <= 1 + new + BUDGET, "{name}: {visits} pages");
        assert!(visits > 2, "{name}: {visits} pages");
    }
    for site in &others {
        assert_eq!(
            site.visits().len(),
            PAGES,
            "more than a budget's, since each says something new"
        );
    }
    trawl.command::<&str>("verify", []).done().await.expect(0);
}

#[tokio::test]
async fn what_was_caught_is_listed_explained_and_let_out() {
    let site = trap(relative).await;
    let cluster = Cluster::start(secs(30)).await;
    let _worker = cluster.worker("w").start();
    cluster.submit("c", [site.url("/")]).done().await.expect(0);
    cluster.complete().await;
    let caught = site.url("/a/b/a/b/a/b/");
    assert_eq!(site.paths(), ["/", "/a/b/", "/a/b/a/b/"]);

    let list = cluster.ask("quarantine", ["list"]).done().await.expect(0);
    list.says([&caught, "trap path_repeats", "/a/b 3 times in a row", &site.url("/a/b/a/b/")]);
    let list = cluster.ask("quarantine", ["list"]).set_flag("--json").done().await.expect(0);
    let told: Value = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!((&told["url"], &told["trap"]), (&caught.clone().into(), &"path_repeats".into()));
    let why = cluster.ask("why", [caught.as_str()]).done().await.expect(0);
    why.says(["quarantined", "trap: path_repeats", "scope: scope host of 127.0.0.1"]);

    cluster.ask("quarantine", ["release", &caught]).done().await.expect(0).says(["1 URL released"]);
    cluster.complete().await;
    assert_eq!(site.visits_of("/a/b/a/b/a/b/"), 1, "a URL that was let out is fetched");
    let list = cluster.ask("quarantine", ["list"]).done().await.expect(0);
    let deeper = site.url("/a/b/a/b/a/b/a/b/");
    list.says([deeper.as_str()]);
}

#[tokio::test]
async fn a_crawl_may_go_into_traps() {
    let site = trap(relative).await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).set("--traps", "off").set("--pages", "30").done().await.expect(0);
    assert_eq!(site.visits().len(), 30);
}
