//! No packet goes to an address that is not allowed, by whatever way a crawl is led there.

use std::net::IpAddr;

use harness::{Answer, Command, Trawl, Web, secs};

use crate::{
    Outcomes, WEB, World,
    names::{NameServer, Reply},
};

/// Hosts in URLs that are addresses outside the public internet, as people and attackers
/// write them.
const LITERALS: [&str; 72] = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.254",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.254",
    "198.18.0.1",
    "198.19.255.254",
    "198.51.100.1",
    "203.0.113.1",
    "203.0.113.3",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    // Odd notations.
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "0xa9fea9fe",
    "169.16689662",
    "2852039166",
    "0251.0376.0251.0376",
    "%31%32%37.0.0.1",
    "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
    "127\u{3002}0\u{3002}0\u{3002}1",
    "0",
    "0x0",
    "user:word@10.0.0.2",
    "example.org@10.0.0.3",
    // Version 6.
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::2]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:10.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::1]",
    "[2002:a00:1::]",
    "[2001::1]",
    "[2001:db8::2]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[ff02::1]",
];

/// Names whose addresses are not allowed.
const NAMES: [&str; 10] = [
    "inside.test",
    "alias.test",
    "mapped.test",
    "translated.test",
    "relayed.test",
    "six.test",
    "mixed.test",
    "mixed-six.test",
    "localhost",
    "a.localhost",
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn reply(name: &str, earlier: usize) -> Reply {
    Reply::Addresses(match name {
        "web.test" => vec![WEB.into()],
        "inside.test" => vec![ip("10.0.0.1")],
        "alias.test" => return Reply::Alias("inside.test".into(), vec![ip("10.0.0.1")]),
        "mapped.test" => vec![ip("::ffff:127.0.0.1")],
        "translated.test" => vec![ip("64:ff9b::10.0.0.1")],
        "relayed.test" => vec![ip("2002:a00:1::1")],
        "six.test" => vec![ip("fd00::1")],
        "mixed.test" => vec![WEB.into(), ip("10.0.0.1")],
        "mixed-six.test" => vec![WEB.into(), ip("::1")],
        "rebinding.test" if earlier == 0 => vec![WEB.into()],
        "rebinding.test" => vec![ip("127.0.0.1")],
        _ => return Reply::Code(3),
    })
}

/// The web: its first page links to every address that is not allowed, and to redirects to
/// each; its sitemap lists them, and robots.txt names one inside; on a second port robots.txt
/// itself leads there.
fn webs(world: &World) -> (harness::Site, harness::Site) {
    let targets: Vec<String> =
        LITERALS.iter().chain(&NAMES).map(|host| format!("//{host}")).collect();
    let links: Vec<String> = targets
        .iter()
        .enumerate()
        .flat_map(|(number, target)| {
            [format!("http:{target}/link"), format!("https:{target}/link"), format!("/to/{number}")]
        })
        .collect();
    let mut web = Web::new().page("/", links.iter().map(String::as_str));
    for (number, target) in targets.iter().enumerate() {
        let location = format!("http:{target}:8080/redirect");
        web = web.answer(&format!("/to/{number}"), Answer::redirect(302, &location));
    }
    let entries: String =
        targets.iter().map(|it| format!("<url><loc>http:{it}:8081/listed</loc></url>")).collect();
    let sitemap =
        format!("<urlset xmlns='http://www.sitemaps.org/schemas/sitemap/0.9'>{entries}</urlset>");
    let web = web
        .robots(&format!("Sitemap: http://{WEB}/sitemap.xml\nSitemap: http://10.0.0.1/sitemap.xml"))
        .answer("/sitemap.xml", Answer::bytes("application/xml", sitemap));
    let inside = Answer::redirect(301, "http://10.0.0.1/robots.txt");
    let robots = Web::new().answer("/robots.txt", inside).page("/", []);
    (web.serve_at_address(&world.web, (WEB, 80)), robots.serve_at_address(&world.web, (WEB, 81)))
}

fn crawl(trawl: &Trawl, world: &World) -> Command {
    let seeds = LITERALS.iter().chain(&NAMES).map(|host| format!("http://{host}/"));
    let seeds = seeds.chain([format!("http://{WEB}/"), format!("http://{WEB}:81/")]);
    let crawl = trawl.crawl(seeds).on(&world.crawler).set("--allow-net", format!("{WEB}/32"));
    let crawl = crawl.set("--scope", "any").set("--robots", "obey").set("--lanes", "128");
    let crawl = crawl.set("--follow", "a,sitemap");
    crawl.set("--connect-timeout", "1s").set("--attempts", "1").within(secs(100))
}

#[tokio::test]
async fn nothing_goes_to_an_address_that_is_not_allowed() {
    let world = World::new();
    let _names = NameServer::serve(&world, reply);
    let (site, robots) = webs(&world);
    world.crawler.count_packets_but_to(&[&WEB.to_string()]);

    let trawl = Trawl::new();
    crawl(&trawl, &world).done().await.expect(0);
    assert_eq!(world.crawler.packets(), 0);
    assert_eq!(site.visits_of("/to/3"), 1, "redirects were met");
    assert_eq!(robots.paths()[0], "/robots.txt", "the redirect of robots.txt was met");
    let outcomes = Outcomes::of(&trawl).await;
    assert_eq!(outcomes.of_url("http://10.0.0.1/sitemap.xml").class, "forbidden_address");
    for host in LITERALS.iter().chain(&NAMES) {
        for url in [
            format!("http://{host}/"),
            format!("http://{host}/link"),
            format!("https://{host}/link"),
            format!("http://{host}:8080/redirect"),
            format!("http://{host}:8081/listed"),
        ] {
            assert_eq!(outcomes.of_url(&url).class, "forbidden_address", "{url}");
        }
    }

    // The same without the rule, so that the counter is known to count.
    let trawl = Trawl::new();
    let open = crawl(&trawl, &world).set("--allow-net", "0.0.0.0/0").and("--allow-net", "::/0");
    open.set("--connect-timeout", "100ms").done().await.expect(0);
    assert!(world.crawler.packets() > 100, "{}", world.crawler.packets());
}

#[tokio::test]
async fn a_name_that_changes_its_mind_leads_nowhere() {
    let world = World::new();
    let names = NameServer::serve(&world, reply);
    let site = Web::new().page("/", ["/a"]).page("/a", []).serve_at_address(&world.web, (WEB, 80));
    world.crawler.count_packets_but_to(&[&WEB.to_string()]);

    let trawl = Trawl::new();
    let crawl = |seed: &str| {
        let crawl = trawl.crawl([seed]).on(&world.crawler).set("--allow-net", format!("{WEB}/32"));
        crawl.set("--attempts", "1").set("--scope", "any")
    };
    crawl("http://rebinding.test/").done().await.expect(0);
    assert_eq!(site.paths(), ["/", "/a"]);
    // A new process knows no name, and is told another address.
    crawl("http://rebinding.test/later").done().await.expect(0);
    let outcomes = Outcomes::of(&trawl).await;
    assert_eq!(outcomes.of_url("http://rebinding.test/a").class, "200");
    assert_eq!(outcomes.of_url("http://rebinding.test/later").class, "forbidden_address");
    assert_eq!((world.crawler.packets(), names.asked("rebinding.test")), (0, 4));
}

#[tokio::test]
async fn neither_a_proxy_that_is_named_nor_one_of_the_environment_leads_inside() {
    let world = World::new();
    let _names = NameServer::serve(&world, reply);
    let proxy = Web::new().serve_at_address(&world.web, (WEB, 3128));
    let by = format!("http://{WEB}:3128");
    let literals: Vec<_> = LITERALS.iter().map(|host| format!("http://{host}/")).collect();

    let trawl = Trawl::new();
    let crawl = trawl.crawl(literals.iter().chain([&"http://web.test/".to_owned()]));
    let crawl = crawl.on(&world.crawler).unset("--allow-net").set("--attempts", "1");
    world.crawler.count_packets_but_to(&[&WEB.to_string()]);
    crawl.set("--proxy", &by).done().await.expect(0);
    assert_eq!(proxy.paths(), ["http://web.test/"], "addresses in URLs are not even asked for");

    proxy.forget();
    let trawl = Trawl::new();
    let mut crawl = trawl.crawl(["http://inside.test/"]).on(&world.crawler).unset("--allow-net");
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"]
    {
        crawl = crawl.variable(name, &by);
    }
    crawl.set("--attempts", "1").done().await.expect(3);
    assert_eq!((proxy.visits().len(), world.crawler.packets()), (0, 0));
}
