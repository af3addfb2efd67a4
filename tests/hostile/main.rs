//! The hostile web: whatever a site, a name server or a page tries, nothing is asked of an
//! address that is not allowed, every fetch ends within its limits, what came of it is told
//! by the right class, and nobody else's pages come later for it.
//!
//! The attackers are servers of this process, in network namespaces of a test's own. There,
//! 198.51.100.0/24 and 203.0.113.2 play the public internet, by `--allow-net`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod addresses;
mod attackers;
mod bodies;
mod farm;
mod names;
mod outage;
mod ports;
mod proxies;
mod redirects;
mod secrets;
mod tls;

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use harness::{
    Trawl,
    network::{Host, Network},
};
use serde_json::Value;
use trawl_shared::url::CrawlUrl;

/// What became of a URL, as the frontier has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// The class, or the status of the page.
    class: String,
    detail: String,
}

/// What became of the URLs of a data directory.
struct Outcomes(BTreeMap<String, Outcome>);

impl Outcomes {
    async fn of(trawl: &Trawl) -> Self {
        let file = trawl.file("frontier.jsonl");
        // A later run has another one.
        let _ = fs::remove_file(&file);
        let dump = trawl.command("dump", [&file]);
        dump.done().await.expect(0);
        let text = fs::read_to_string(&file).unwrap();
        let rows = text.lines().filter_map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let class = match row["status"].as_u64() {
                Some(status) => status.to_string(),
                None => text("class"),
            };
            let is_url = row["table"] == "url";
            is_url.then(|| (text("id"), Outcome { class, detail: text("detail") }))
        });
        Self(rows.collect())
    }

    /// What became of a URL.
    #[track_caller]
    fn of_url(&self, url: &str) -> &Outcome {
        let id = CrawlUrl::parse(url).unwrap().id().to_string();
        self.0.get(&id).unwrap_or_else(|| panic!("nothing is known of {url}"))
    }
}

/// Two hosts on one wire: the crawler's, which sends everything to the other one, and the web.
struct World {
    crawler: Host,
    web: Host,
    /// Goes last.
    _network: Network,
}

/// The web's first address.
const WEB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

impl World {
    fn new() -> Self {
        let network = Network::new(2);
        let [crawler, web] = network.hosts();
        assert_eq!(web.address(), WEB);
        for (host, number) in [(&crawler, 1), (&web, 2)] {
            host.also_at(&format!("2001:db8::{number}/64"));
        }
        crawler.goes_by("2001:db8::2".parse().unwrap());
        let world = Self { crawler, web, _network: network };
        world.lead_to_the_web();
        world
    }

    /// Tells the crawler's host where the web is, as after it was unplugged.
    fn lead_to_the_web(&self) {
        self.crawler.goes_by(WEB.into());
    }

    /// One more address of the web, which is public for those who say so.
    fn address(&self, number: u8) -> Ipv4Addr {
        let address = Ipv4Addr::new(198, 51, 100, number);
        self.web.also_at(&format!("{address}/32"));
        address
    }
}
