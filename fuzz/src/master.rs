//! What a worker takes from its master: a byte chooses what, the rest is the message.

use prost::Message;
use trawl_proto::v1::{CrawlReply, JoinReply, LeaseReply, RenewReply};
use trawl_shared::{
    scope::{Scope, Way},
    spec::CrawlSpec,
    url::CrawlUrl,
};
use trawl_worker::parse::Parser;

use super::canonicalisation;

pub(super) fn run(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        b'j' => drop(JoinReply::decode(data)),
        b'r' => drop(RenewReply::decode(data)),
        b'l' => {
            let Ok(reply) = LeaseReply::decode(data) else { return };
            for leased in reply.batches.iter().flat_map(|batch| &batch.urls) {
                if let Ok(url) = CrawlUrl::parse(&leased.url) {
                    canonicalisation::check(&url);
                }
            }
        }
        b'c' => {
            let Ok(reply) = CrawlReply::decode(data) else { return };
            specification(&reply.spec_json, reply.anchors);
        }
        _ => {
            let (json, anchor) = super::split(data, b'\n');
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            specification(&text(json), vec![text(anchor)]);
        }
    }
}

fn specification(json: &str, anchors: Vec<String>) {
    let Ok(spec) = CrawlSpec::from_json(json) else { return };
    assert_eq!(CrawlSpec::from_json(&spec.to_json()).as_ref(), Ok(&spec));
    let _ = Parser::new(&spec);
    let Ok(scope) = Scope::new(&spec, anchors) else { return };
    for url in ["http://h.test/a?b", "https://www.example.co.uk:8443/d/e/"] {
        if let Ok(url) = CrawlUrl::parse(url) {
            for way in [Way::Link, Way::Onwards] {
                if let Ok(off_site) = scope.admit_from(&url, 1, 1, way) {
                    assert!(off_site <= spec.hops_off_site);
                }
            }
        }
    }
}
