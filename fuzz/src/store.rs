//! The store: keys made of the first bytes, and rows of the rest.

use prost::Message;
use trawl_master::store::{
    keys::{self, HostRef, Slot},
    rows::{
        CrawlRow, DomainRow, EndedRow, FetchedRow, GateRow, HostRow, LeaseRow, MetaRow, PatternRow,
        QueueRow, RobotsRow, UrlRow,
    },
};
use trawl_shared::{lease::Token, url::UrlId};

/// Two keys of each table come of so many bytes.
const KEY_BYTES: usize = 84;

pub(super) fn run(data: &[u8]) {
    read(data);
    let Some((numbers, row)) = data.split_at_checked(KEY_BYTES) else { return };
    let (one, other) = numbers.split_at(KEY_BYTES / 2);
    made(one, other);
    rows(row);
}

/// Any bytes are a key, if perhaps one that means nothing.
fn read(key: &[u8]) {
    if let Some(at) = keys::host_of(key) {
        assert_eq!(keys::host(at)[1..], key[1..9]);
    }
    if let Some((at, id)) = keys::url_of(key) {
        assert_eq!(keys::url(at, &id)[1..], key[1..]);
    }
    if let (Some(at), Some(slot)) = (keys::host_of(key), keys::slot_of(key)) {
        assert_eq!(keys::queue(at, slot)[1..], key[1..]);
    }
    if let Some((at, pattern)) = keys::pattern_of(key) {
        assert_eq!(keys::pattern(at, pattern)[1..], key[1..]);
    }
    if let Some((crawl, domain)) = keys::domain_of(key) {
        assert_eq!(keys::domain(crawl, domain)[1..], key[1..]);
    }
    if let Some(token) = keys::lease_token(key) {
        assert_eq!(keys::lease(token)[1..], key[1..]);
    }
}

struct Made {
    at: HostRef,
    slot: Slot,
    id: UrlId,
    token: Token,
}

impl Made {
    fn of(bytes: &[u8]) -> Option<Self> {
        let key = [&b"?"[..], bytes].concat();
        Some(Self {
            at: keys::host_of(&key)?,
            slot: Slot::decode(bytes.get(8..22)?)?,
            id: UrlId::from_bytes(bytes.get(22..42)?)?,
            token: Token(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?)),
        })
    }
}

/// What is written is read, and sorts as it means.
fn made(one: &[u8], other: &[u8]) {
    let (Some(one), Some(other)) = (Made::of(one), Made::of(other)) else { return };
    for Made { at, slot, id, token } in [&one, &other] {
        let (queue, url) = (keys::queue(*at, *slot), keys::url(*at, id));
        assert_eq!((keys::host_of(&queue), keys::slot_of(&queue)), (Some(*at), Some(*slot)));
        assert_eq!(keys::url_of(&url), Some((*at, *id)));
        assert_eq!(keys::url_of(&keys::quarantined(*at, id)), Some((*at, *id)));
        assert_eq!(keys::lease_token(&keys::lease(*token)), Some(*token));
        assert_eq!(keys::pattern_of(&keys::pattern(*at, token.0)), Some((*at, token.0)));
        let domain = keys::domain(at.crawl, token.0);
        assert_eq!(keys::domain_of(&domain), Some((at.crawl, token.0)));
        assert_eq!(keys::page_of_ref(&keys::page_ref(at.host, id)), Some((at.host, *id)));
        for (key, (from, to)) in [
            (&queue, keys::queues(at.crawl)),
            (&url, keys::urls(at.crawl)),
            (&keys::host(*at), keys::hosts(at.crawl)),
            (&keys::pattern(*at, token.0), keys::patterns(*at)),
            (&keys::quarantined(*at, id), keys::quarantine(at.crawl)),
        ] {
            assert!(from <= *key && *key < to && keys::ALL.0 <= &key[..] && &key[..] < keys::ALL.1);
        }
    }
    let queues = [&one, &other].map(|made| keys::queue(made.at, made.slot));
    assert_eq!(queues[0].cmp(&queues[1]), (one.at, one.slot).cmp(&(other.at, other.slot)));
    let tokens = [&one, &other].map(|made| keys::lease(made.token));
    assert_eq!(tokens[0].cmp(&tokens[1]), one.token.0.cmp(&other.token.0));
}

/// Any bytes are a row or an error; a row survives being written.
fn rows(bytes: &[u8]) {
    fn row<R: Message + Default + PartialEq>(bytes: &[u8]) {
        let Ok(row) = R::decode(bytes) else { return };
        // Compared as bytes: a number that is none is not equal to itself.
        let written = row.encode_to_vec();
        assert_eq!(R::decode(&written[..]).map(|row| row.encode_to_vec()).ok(), Some(written));
    }
    row::<MetaRow>(bytes);
    row::<CrawlRow>(bytes);
    row::<HostRow>(bytes);
    row::<GateRow>(bytes);
    row::<QueueRow>(bytes);
    row::<UrlRow>(bytes);
    row::<FetchedRow>(bytes);
    row::<EndedRow>(bytes);
    row::<LeaseRow>(bytes);
    row::<RobotsRow>(bytes);
    row::<PatternRow>(bytes);
    row::<DomainRow>(bytes);
}
