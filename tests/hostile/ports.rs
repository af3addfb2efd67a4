//! Ports that other protocols own, which may take a request for a command.

use harness::{Answer, Trawl, Web};

use crate::{WEB, World};

#[tokio::test]
async fn nothing_is_sent_to_a_port_of_another_protocol() {
    let world = World::new();
    let ports = [21, 22, 23, 25, 110, 143, 587, 993, 2049, 6000, 6667, 10080];
    let others = ports.map(|port| Web::new().serve_at_address(&world.web, (WEB, port)));
    let links = ports.map(|port| format!("//{WEB}:{port}/link"));
    let links = links.iter().flat_map(|to| [format!("http:{to}"), format!("https:{to}")]);
    let redirects: Vec<_> = ports.iter().map(|port| format!("/to/{port}")).collect();
    let links: Vec<_> = links.chain(redirects).collect();
    let mut web = Web::new().page("/", links.iter().map(String::as_str));
    for port in ports {
        let location = format!("http://{WEB}:{port}/redirect");
        web = web.answer(&format!("/to/{port}"), Answer::redirect(302, &location));
    }
    let site = web.serve_at_address(&world.web, (WEB, 80));
    let trawl = Trawl::new();
    let crawl = trawl.crawl([format!("http://{WEB}/")]).on(&world.crawler);
    let crawl = crawl.set("--allow-net", format!("{WEB}/32")).set("--scope", "any");
    crawl.set("--attempts", "1").done().await.expect(0);

    assert_eq!(site.visits_of("/to/22"), 1, "redirects were met");
    for (other, port) in others.iter().zip(ports) {
        assert!(other.visits().is_empty(), "{port}: {:?}", other.paths());
    }
}
