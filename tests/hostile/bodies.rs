//! Answers that are bombs, never end, hardly begin, or are none. Each ends within its limits
//! and under its class, and other hosts do not notice.

use std::{io::Write as _, net::Ipv4Addr};

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use harness::{Command, Site, Trawl, Web, ms, secs};

use crate::{
    Outcomes, World,
    attackers::{Attack, Attacker},
};

/// Bytes of a body that the crawl keeps.
const BODY_LIMIT: u64 = 1024 * 1024;

/// The longest fetch that the crawl allows, and what a busy machine may add.
const FETCH_LIMIT: (u64, u64) = (3, 2);

/// 64 MiB of zeros in a brotli stream, made by hand: four literals and copies of them.
const ZEROS_BROTLI: &[u8] = b"\xcf\xff\xff\x7f\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x9f\xff\xff\xff\
    \xf0\x4f\x00\xc4\x61\x01\x80\xee\xfd\x3f\xff\xff\xff\xe1\x9f\x00\x88\xc3\x22\x00\xdd\xfb\x7f\
    \xfe\xff\xff\xc3\x3f\x01\x10\x87\x05\x00\xba\xf7\xff\x03";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The head of an answer with these lines besides.
fn ok(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n{lines}\r\n")
}

/// An answer in this coding, which says that it has 10 GiB.
fn coded(coding: &str, body: &[u8]) -> Vec<u8> {
    let head = ok(&format!("content-encoding: {coding}\r\ncontent-length: 10737418240\r\n"));
    [head.as_bytes(), body].concat()
}

/// What the attacks are called, what they do, and what becomes of them: a class, or a
/// status with the reason for which the page is not whole.
fn attacks() -> Vec<(&'static str, Attack, &'static str)> {
    let zeros = vec![0; 16 * 1024 * 1024];
    let zstd = zstd::encode_all(&zeros[..], 1).unwrap();
    let chunked = ok("transfer-encoding: chunked\r\n");
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    vec![
        ("gzip bomb", Attack::flood(coded("gzip", b""), gzip(&zeros)), "200 length"),
        ("deflate bomb", Attack::flood(coded("deflate", &zlib(&zeros)), "x"), "200 length"),
        ("zstd bomb", Attack::flood(coded("zstd", b""), zstd), "200 length"),
        ("brotli bomb", Attack::hang(coded("br", ZEROS_BROTLI)), "200 length"),
        ("double bomb", Attack::flood(coded("gzip, gzip", b""), gzip(&gzip(&zeros))), "200 length"),
        ("empty members", Attack::flood(coded("gzip", b""), gzip(b"").repeat(500)), "200 length"),
        (
            "gzip of noise",
            Attack::close(ok("content-encoding: gzip\r\ncontent-length: 5\r\n") + "noise"),
            "200 unspecified",
        ),
        ("endless body", Attack::flood(ok(""), [b' '; 16_384]), "200 length"),
        (
            "endless chunks",
            Attack::flood(&chunked, "1000\r\n".to_owned() + &" ".repeat(4096) + "\r\n"),
            "200 length",
        ),
        ("a byte at a time", Attack::drip(ok(""), " ", ms(300)), "timeout"),
        (
            "a byte of head at a time",
            Attack::drip("HTTP/1.1 200 OK\r\nx: ", "y", ms(300)),
            "timeout",
        ),
        ("endless head line", Attack::flood("HTTP/1.1 200 OK\r\nx: ", [b'y'; 16_384]), "protocol"),
        ("endless heads", Attack::flood("HTTP/1.1 200 OK\r\n", "x: y\r\n".repeat(100)), "protocol"),
        ("endless status", Attack::flood("HTTP/1.1 200 ", [b'O'; 16_384]), "protocol"),
        ("200 headers", Attack::hang(ok(&many)), "protocol"),
        ("continue for ever", Attack::drip("", "HTTP/1.1 100 Continue\r\n\r\n", ms(5)), "timeout"),
        (
            "hints for ever",
            Attack::drip("", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", ms(5)),
            "timeout",
        ),
        ("silence", Attack::hang(""), "timeout"),
        ("stalled body", Attack::hang(ok("content-length: 100\r\n") + "some"), "timeout"),
        ("stalled chunk", Attack::hang(chunked.clone() + "5\r\nhel"), "timeout"),
        ("no word", Attack::close(""), "broken"),
        ("cut body", Attack::close(ok("content-length: 100\r\n") + "some"), "broken"),
        ("cut chunk", Attack::close(chunked.clone() + "5\r\nhel"), "broken"),
        ("no last chunk", Attack::close(chunked.clone() + "5\r\nhello\r\n"), "broken"),
        (
            "chunk size beyond numbers",
            Attack::hang(chunked.clone() + "FFFFFFFFFFFFFFFFF\r\n"),
            "protocol",
        ),
        ("chunk size below nothing", Attack::hang(chunked.clone() + "-1\r\nx"), "protocol"),
        (
            "chunk size that is none",
            Attack::hang(chunked.clone() + "five\r\nhello\r\n"),
            "protocol",
        ),
        (
            "endless chunk extension",
            Attack::flood(chunked.clone() + "5;", [b'x'; 4096]),
            "protocol",
        ),
        ("endless trailers", Attack::flood(chunked + "0\r\n", "x: y\r\n".repeat(100)), "protocol"),
        (
            "two lengths",
            Attack::hang(ok("content-length: 5\r\ncontent-length: 6\r\n") + "hello"),
            "protocol",
        ),
        ("length below nothing", Attack::hang(ok("content-length: -5\r\n") + "hello"), "protocol"),
        ("another protocol", Attack::hang("SSH-2.0-OpenSSH_9.2\r\n"), "protocol"),
        ("no protocol", Attack::hang("\0\0\0\0\r\n\r\n"), "protocol"),
        (
            "a wait of ages",
            Attack::close(
                "HTTP/1.1 503 No\r\nretry-after: 99999999999\r\ncontent-length: 0\r\n\r\n",
            ),
            "503",
        ),
    ]
}

/// Hosts that behave, with pages enough to tell their pace.
fn good_sites(world: &World) -> Vec<Site> {
    let serve = |number| {
        let paths: Vec<_> = (1..12).map(|page| format!("/{page}")).collect();
        let mut web = Web::new().page("/", paths.iter().map(String::as_str));
        for path in &paths {
            web = web.page(path, []);
        }
        web.serve_at_address(&world.web, (world.address(number), 80))
    };
    (200..204).map(serve).collect()
}

fn crawl(trawl: &Trawl, world: &World, seeds: &[String]) -> Command {
    let crawl = trawl.crawl(seeds).on(&world.crawler).set("--allow-net", "198.51.100.0/24");
    // The delay alone is to decide the pace, and not how busy this machine is.
    let crawl = crawl.set("--delay", "500ms").set("--delay-factor", "0");
    let crawl = crawl.set("--lanes", "128").set("--attempts", "1");
    let crawl = crawl.set("--connect-timeout", "1s").set("--read-timeout", "1s");
    let crawl = crawl.set("--fetch-timeout", format!("{}s", FETCH_LIMIT.0));
    crawl.set("--body-limit", BODY_LIMIT.to_string()).within(secs(60))
}

/// The seconds that the slowest of the sites took from its first page to its last.
fn slowest(sites: &[Site]) -> f64 {
    let took = |site: &Site| {
        let began: Vec<_> = site.visits().iter().map(|visit| visit.began).collect();
        assert_eq!(began.len(), 12, "{:?}", site.paths());
        (began[11] - began[0]).as_secs_f64()
    };
    sites.iter().map(took).fold(0.0, f64::max)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attackers_end_within_their_limits_and_others_keep_their_pace() {
    let world = World::new();
    let good = good_sites(&world);
    let good_seeds: Vec<_> = good.iter().map(|site| site.url("/")).collect();
    let trawl = Trawl::new();
    crawl(&trawl, &world, &good_seeds).done().await.expect(0);
    let alone = slowest(&good);
    good.iter().for_each(Site::forget);

    let mut seeds = good_seeds.clone();
    let mut servers: Vec<Attacker> = Vec::new();
    let url = |address: Ipv4Addr| format!("http://{address}/");
    let attacks = attacks();
    for (number, (_, attack, _)) in (1..).zip(&attacks) {
        let address = world.address(number);
        servers.push(attack.clone().serve(world.web.listen_at((address, 80)), None));
        seeds.push(url(address));
    }
    // Nobody listens at some addresses, and packets to others are lost.
    let refusing: Vec<_> = (100..104).map(|number| world.address(number)).collect();
    let lost: Vec<_> = (104..120).map(|number| world.address(number)).collect();
    lost.iter().for_each(|address| world.web.swallow(*address));
    seeds.extend(refusing.iter().chain(&lost).copied().map(url));
    assert!(seeds.len() - good.len() >= 50);

    let trawl = Trawl::new();
    crawl(&trawl, &world, &seeds).done().await.expect(0);
    let attacked = slowest(&good);
    println!("{:.0} % of the pace alone", 100.0 * alone / attacked);
    assert!(alone / attacked >= 0.9, "{alone:.2} s alone, {attacked:.2} s under attack");

    let (outcomes, pages) = (Outcomes::of(&trawl).await, trawl.pages().await);
    let mut odd = Vec::new();
    for (seed, (name, _, expected)) in seeds[good.len()..].iter().zip(&attacks) {
        let outcome = outcomes.of_url(seed);
        let truncated = pages.has(seed).then(|| pages.of(seed).truncated.clone()).flatten();
        let became = [Some(outcome.class.clone()), truncated].into_iter().flatten();
        let became = became.collect::<Vec<_>>().join(" ");
        if became != *expected {
            odd.push(format!("{name}: {became}, not {expected}: {}", outcome.detail));
        }
    }
    assert!(odd.is_empty(), "{odd:#?}");
    assert!(pages.iter().all(|page| page.bytes <= BODY_LIMIT));
    for (addresses, class) in [(&refusing, "connect"), (&lost, "timeout")] {
        for address in addresses {
            assert_eq!(outcomes.of_url(&url(*address)).class, class);
        }
    }
    let bombs = servers.iter().zip(&attacks).filter(|(_, (name, ..))| name.ends_with("bomb"));
    println!("bombs took {:.0?}", bombs.flat_map(|(server, _)| server.held()).collect::<Vec<_>>());
    let limit = secs(FETCH_LIMIT.0 + FETCH_LIMIT.1);
    for (server, (name, ..)) in servers.iter().zip(&attacks) {
        let held = server.held();
        assert_eq!(held.len(), 1, "{name}: one connection, that has ended");
        assert!(held[0] <= limit, "{name}: {held:?}");
    }
}
