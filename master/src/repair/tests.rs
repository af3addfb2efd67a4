//! Whatever is planted, a repair mends, and a second one finds nothing to do.

use std::{fs, os::unix::fs::FileExt, path::Path};

use prost::Message;
use trawl_shared::{scope::ScopeKind, spec::CrawlSpec};

use super::*;
use crate::{
    frontier::{Judgement, LeaseRequest, Moment, Outcome, Report},
    pages::{PageStore, tests::Sample},
    store::{Rows, keys::Slot, rows::QueueRow},
    verify::{Kind, Report as Proof, Verifier},
};

const HOST: &str = "http://a.example";

fn url(number: usize) -> String {
    format!("{HOST}/{number}")
}

/// A page that links to the next two.
fn sample(number: usize) -> Sample {
    let mut sample = Sample::new(&url(number), 200, "words ".repeat(50 + number).as_bytes());
    sample.meta.outlinks = (number + 1..number + 3).map(|number| outlink(&url(number))).collect();
    sample
}

fn outlink(url: &str) -> trawl_shared::page::Outlink {
    serde_json::from_value(serde_json::json!({ "url": url, "kind": "a" })).unwrap()
}

/// A data directory of a crawl that has fetched so many pages, in segments of 20 KB.
fn crawled(path: &Path, pages: usize) {
    let data = DataDir::open_or_create(path).unwrap();
    let store = SledStore::open(&data.frontier(), CACHE).unwrap();
    let (mut frontier, now) = Frontier::open(store, Limits::default(), "test").unwrap();
    let spec =
        CrawlSpec { scope: ScopeKind::Host, delay: "0s".parse().unwrap(), ..CrawlSpec::default() };
    frontier.submit("c", spec, &[url(0).parse().unwrap()], now).unwrap();
    let open = PageStore::open(&data.pages("c"), "c", Committed::default(), Size::bytes(20_000));
    let mut store = open.unwrap();
    for number in 0..pages {
        let now = Moment(now.0 + 1_000 * number as u64);
        let mut request =
            LeaseRequest { worker: "w".into(), hosts: 1, extend: Vec::new(), crawl: None };
        let batch = frontier.lease(&request, now).unwrap().remove(0);
        request.hosts = 0;
        let id = UrlId::of(&url(number));
        assert!(batch.urls.iter().any(|lent| lent.url == url(number)));
        let Judgement::Apply(ticket) = frontier.judge("w", batch.token, batch.at, &id).unwrap()
        else {
            panic!("it is lent")
        };
        let (records, lengths) = sample(number).records();
        let place = store.append(&[records], lengths).unwrap();
        let meta = sample(number).meta;
        let sha1 = data_encoding::HEXLOWER.decode(meta.sha1.as_bytes()).unwrap();
        let outcome = Outcome::Answered {
            status: 200,
            sha1: sha1.try_into().unwrap(),
            body_bytes: meta.bytes,
            wire_bytes: meta.wire_bytes,
            fetched_at: 0,
            simhash: None,
        };
        let offers = meta
            .outlinks
            .iter()
            .map(|link| Offer { url: link.url.clone(), hops: 0, ..Default::default() })
            .collect();
        let report = Report {
            token: batch.token,
            at: batch.at,
            id,
            outcome,
            offers,
            host_delay: None,
            news: None,
            reported_at: 0,
        };
        frontier.apply(ticket, report, Some(place), now, 0.0).unwrap();
        frontier.hand_back("w", &crate::frontier::HandBack::All, now).unwrap();
        frontier.set_committed_pages(1, store.sync().unwrap());
        frontier.commit(now).unwrap();
    }
    frontier.sync().unwrap();
}

fn proof(path: &Path) -> Proof {
    let data = DataDir::open(path).unwrap();
    let store = SledStore::open(&data.frontier(), CACHE).unwrap();
    let mut verifier = Verifier::new(&data.tmp(), true, 100);
    let rows = store.range(keys::ALL.0, keys::ALL.1);
    let rows = rows.map(|row| row.map(|(key, value)| (key, Some(value))));
    verifier.take(&rows.collect::<Result<_, _>>().unwrap()).unwrap();
    verifier.finish(&path.join("pages"), &mut |_| {}).unwrap()
}

/// Changes rows behind everybody's back.
fn plant(path: &Path, change: impl FnOnce(&mut SledStore)) {
    let data = DataDir::open(path).unwrap();
    let mut store = SledStore::open(&data.frontier(), CACHE).unwrap();
    change(&mut store);
    store.sync().unwrap();
}

fn row(store: &SledStore, table: u8, which: usize) -> Row {
    store.range(&[table], &[table + 1]).nth(which).unwrap().unwrap()
}

/// That this is named, mended, and then no more to be found; and what was done.
fn mended(path: &Path, kind: Kind) -> Repaired {
    let before = proof(path);
    assert!(before.counts.contains_key(&kind), "{kind:?}: {before:?}");
    let would = repair(path, true).unwrap();
    assert_eq!(proof(path).differences, before.differences, "a trial changes nothing");
    let done = repair(path, false).unwrap();
    assert!(!done.is_nothing());
    assert!(would.is_nothing() == done.is_nothing() && would.left == done.left, "{would:?}");
    let after = proof(path);
    assert_eq!(after.differences, [""; 0], "after {done:?} of {before:?}");
    let again = repair(path, false).unwrap();
    assert!(again.is_nothing(), "{again:?} after {done:?}");
    let rows = || {
        let mut rows = Vec::new();
        plant(path, |store| rows.extend(store.range(keys::ALL.0, keys::ALL.1).map(Result::unwrap)));
        rows
    };
    let rows_before = rows();
    repair(path, false).unwrap();
    assert!(rows() == rows_before, "a second repair changes nothing");
    done
}

fn segment(path: &Path, number: u32) -> PathBuf {
    path.join(format!("pages/c/c-{number:08}.warc.gz"))
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
}

/// The place of a page.
fn place(path: &Path, number: usize) -> Place {
    let mut place = None;
    plant(path, |store| {
        let key = keys::url(HostRef { crawl: 1, host: 1 }, &UrlId::of(&url(number)));
        let row: UrlRow = decode(&store.get(&key).unwrap().unwrap()).unwrap();
        let Some(UrlState::Fetched(row)) = row.state else { panic!("it is fetched") };
        place = Place::decode(&row.place);
    });
    place.unwrap()
}

const PAGES: usize = 40;

fn directory() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    crawled(&path, PAGES);
    assert_eq!(proof(&path).differences, [""; 0]);
    (temp, path)
}

#[test]
fn what_is_whole_needs_no_repair() {
    let (_temp, path) = directory();
    let proof = proof(&path);
    let crawl = &proof.crawls[0];
    assert_eq!((crawl.fetched, crawl.stored, crawl.counted), (40, 40, 40));
    assert_eq!((crawl.discovered, crawl.queued), (42, 2));
    assert!(crawl.segments > 2, "{crawl:?}");
    assert!(repair(&path, false).unwrap().is_nothing());
}

#[test]
fn a_flipped_byte_in_each_of_its_records() {
    for part in 0..3 {
        let (_temp, path) = directory();
        let place = place(&path, 7);
        let at = [place.offset, place.request_at(), place.metadata_at()][part] + 30;
        flip(&segment(&path, place.segment), at);
        let done = mended(&path, Kind::PageDamaged);
        assert_eq!((done.pages_queued, done.pages_forgotten), (1, 0), "{part}: {done:?}");
        assert_eq!(done.aside_bytes, place.lengths().total());
        let crawl = &proof(&path).crawls[0];
        assert_eq!((crawl.fetched, crawl.stored, crawl.queued), (39, 39, 3));
        let aside: Vec<_> = fs::read_dir(path.join("aside/c")).unwrap().collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
    }
}

#[test]
fn a_page_all_of_whose_records_are_damaged_is_met_again_by_its_links() {
    let (_temp, path) = directory();
    let place = place(&path, 7);
    for at in [place.offset, place.request_at(), place.metadata_at()] {
        flip(&segment(&path, place.segment), at + 30);
    }
    let done = mended(&path, Kind::PageDamaged);
    assert_eq!((done.pages_queued, done.pages_forgotten, done.links_taken_in), (0, 1, 1));
    let crawl = &proof(&path).crawls[0];
    assert_eq!((crawl.discovered, crawl.fetched, crawl.queued), (42, 39, 3));
}

#[test]
fn a_segment_cut_in_the_middle_and_one_that_is_gone() {
    let (_temp, path) = directory();
    let place = place(&path, PAGES - 1);
    let last = segment(&path, place.segment);
    let cut = fs::OpenOptions::new().write(true).open(&last).unwrap();
    cut.set_len(place.offset + 100).unwrap();
    let done = mended(&path, Kind::Segment);
    assert_eq!(done.pages_forgotten + done.pages_queued, 1, "{done:?}");

    fs::remove_file(segment(&path, 1)).unwrap();
    let done = mended(&path, Kind::Segment);
    assert_eq!(done.segments_made, 1);
    assert!(done.pages_forgotten > 5, "{done:?}");
}

#[test]
fn segments_that_a_backup_shares_are_changed_in_a_copy() {
    let (temp, path) = directory();
    let place = place(&path, 7);
    let shared = segment(&path, place.segment);
    flip(&shared, place.metadata_at() + 30);
    let last = segment(&path, proof(&path).crawls[0].segments);
    fs::write(&last, b"").unwrap();
    let backup = temp.path().join("backup");
    fs::create_dir(&backup).unwrap();
    let links = [&shared, &last].map(|file| (file, backup.join(file.file_name().unwrap())));
    let before = links.each_ref().map(|(file, link)| {
        fs::hard_link(file, link).unwrap();
        fs::read(link).unwrap()
    });
    mended(&path, Kind::PageDamaged);
    for ((file, link), before) in links.iter().zip(before) {
        assert!(fs::read(link).unwrap() == before, "{} has changed", link.display());
        assert!(fs::read(file).unwrap() != before, "{} was mended", file.display());
    }
    let names = fs::read_dir(path.join("pages/c")).unwrap();
    assert_eq!(names.count() as u64, proof(&path).crawls[0].segments as u64);
}

#[test]
fn a_page_that_the_frontier_does_not_know() {
    let (_temp, path) = directory();
    let id = UrlId::of(&url(11));
    let at = HostRef { crawl: 1, host: 1 };
    plant(&path, |store| store.apply(vec![(keys::url(at, &id), None)]).unwrap());
    let done = mended(&path, Kind::PageUnknown);
    assert_eq!((done.pages_found, done.links_taken_in), (1, 0), "{done:?}");
    assert_eq!(proof(&path).crawls[0].discovered, 42);

    // Of a host that was never heard of, and twice.
    let mut extra = Vec::new();
    let mut sample = Sample::new("http://b.example/new", 200, b"new");
    sample.meta.outlinks = vec![outlink("http://a.example/another"), outlink(&url(3))];
    extra.extend_from_slice(&sample.records().0);
    extra.extend_from_slice(&sample.records().0);
    let last = segment(&path, proof(&path).crawls[0].segments);
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, [&bytes[..], &extra].concat()).unwrap();
    assert_eq!(proof(&path).differences, [""; 0], "what is not committed is no difference");
    let done = repair(&path, false).unwrap();
    assert_eq!((done.pages_found, done.links_taken_in), (1, 1), "{done:?}");
    assert_eq!(done.aside_bytes, extra.len() as u64 / 2);
    assert_eq!(proof(&path).differences, [""; 0]);
    assert!(repair(&path, false).unwrap().is_nothing());
    let crawl = &proof(&path).crawls[0];
    assert_eq!((crawl.discovered, crawl.fetched, crawl.queued), (44, 41, 3));
}

#[test]
fn bytes_that_are_nothing_between_pages_and_before_them() {
    // A gap of 40 bytes is too short for a record about it: what follows goes with it.
    for (before, garbage, pages_lost) in [(2, 5_000, 0), (2, 40, 1), (0, 40, 1), (0, 600, 0)] {
        let (_temp, path) = directory();
        let at = if before == 0 { 0 } else { place(&path, before).offset };
        let path_of = segment(&path, 1);
        let bytes = fs::read(&path_of).unwrap();
        let (head, tail) = bytes.split_at(at as usize);
        // Everything behind it moves.
        fs::write(&path_of, [head, &vec![0x1f; garbage], tail].concat()).unwrap();
        mended(&path, Kind::PageMissing);
        let crawl = &proof(&path).crawls[0];
        assert_eq!(crawl.fetched, PAGES as u64 - pages_lost, "{before} {garbage}");
        assert_eq!((crawl.discovered, crawl.queued), (42, 2 + pages_lost), "{before} {garbage}");
    }
}

#[test]
fn rows_and_counts_of_every_table() {
    type Plant = fn(&mut SledStore);
    let plants: [(&str, Kind, Plant); 10] = [
        ("a queue row gone", Kind::Queue, |store| {
            let key = row(store, b'Q', 0).0;
            store.apply(vec![(key, None)]).unwrap();
        }),
        ("a queue row that cannot be read", Kind::Queue, |store| {
            let key = row(store, b'Q', 0).0;
            store.apply(vec![(key, Some(b"\xff\xff".to_vec()))]).unwrap();
        }),
        ("an end of a kind that is not known", Kind::Row, |store| {
            let (queued, value) = row(store, b'Q', 0);
            let path = decode::<QueueRow>(&value).unwrap().path;
            let id = UrlId::of(&format!("{HOST}{path}"));
            let ended =
                crate::store::rows::EndedRow { class: 99, path, depth: 3, ..Default::default() };
            let ended = UrlRow { state: Some(UrlState::Ended(ended)) };
            let key = keys::url(HostRef { crawl: 1, host: 1 }, &id);
            store.apply(vec![(queued, None), (key, Some(ended.encode_to_vec()))]).unwrap();
        }),
        ("a waiting URL gone", Kind::Queue, |store| {
            let (_, value) = row(store, b'Q', 0);
            let path = decode::<QueueRow>(&value).unwrap().path;
            let id = UrlId::of(&format!("{HOST}{path}"));
            let key = keys::url(HostRef { crawl: 1, host: 1 }, &id);
            store.apply(vec![(key, None)]).unwrap();
        }),
        ("a crawl's count", Kind::CrawlCount, |store| {
            let (key, value) = row(store, b'C', 0);
            let mut row: CrawlRow = decode(&value).unwrap();
            row.discovered += 3;
            row.outcomes[0] -= 1;
            store.apply(vec![(key, Some(row.encode_to_vec()))]).unwrap();
        }),
        ("a host's count", Kind::HostCount, |store| {
            let (key, value) = row(store, b'O', 0);
            let mut row: crate::store::rows::HostRow = decode(&value).unwrap();
            row.queued += 3;
            store.apply(vec![(key, Some(row.encode_to_vec()))]).unwrap();
        }),
        ("a host's row", Kind::Row, |store| {
            let key = row(store, b'O', 0).0;
            store.apply(vec![(key, None)]).unwrap();
        }),
        ("a host's number", Kind::HostNumber, |store| {
            let key = row(store, b'H', 0).0;
            store.apply(vec![(key, None)]).unwrap();
        }),
        ("a row that cannot be read", Kind::Row, |store| {
            let key = row(store, b'U', 9).0;
            store.apply(vec![(key, Some(b"\xff\xff".to_vec()))]).unwrap();
        }),
        ("a quarantine that holds nobody", Kind::Quarantine, |store| {
            let key = keys::quarantined(HostRef { crawl: 1, host: 1 }, &UrlId::of("none"));
            store.apply(vec![(key, Some(Vec::new()))]).unwrap();
        }),
    ];
    for (what, kind, change) in plants {
        let (_temp, path) = directory();
        plant(&path, change);
        let done = mended(&path, kind);
        assert_eq!(done.left, [""; 0], "{what}");
        let crawl = &proof(&path).crawls[0];
        let counts = (crawl.fetched, crawl.discovered, crawl.queued);
        assert_eq!(counts, (PAGES as u64, 42, 2), "{what}: {done:?}");
        let forgotten = u64::from(what.starts_with("a queue row"));
        assert_eq!((done.pages_forgotten, done.links_taken_in), (forgotten, forgotten), "{what}");
    }
}

#[test]
fn a_place_that_is_lent_twice() {
    let (_temp, path) = directory();
    plant(&path, |store| {
        let (key, _) = row(store, b'Q', 0);
        let slot = keys::slot_of(&key).unwrap();
        let lease = crate::store::rows::LeaseRow {
            crawl: 1,
            host: 1,
            worker: "w".into(),
            slots: [slot.encode(), Slot::FIRST.encode()].concat(),
            longer_wait_ms: 0,
        };
        let row =
            |token| (keys::lease(trawl_shared::lease::Token(token)), Some(lease.encode_to_vec()));
        store.apply(vec![row(7), row(8)]).unwrap();
    });
    mended(&path, Kind::Lease);
    assert_eq!(proof(&path).crawls[0].leased, 1);
}

/// A store whose disk breaks after so many changes.
struct Breaking {
    base: SledStore,
    left: usize,
}

impl Store for Breaking {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.base.get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        self.base.range(from, to)
    }

    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        let left = self.left.checked_sub(1);
        self.left = left.ok_or_else(|| StoreError::Damaged("broken".into()))?;
        self.base.apply(batch)?;
        self.base.sync()
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.base.sync()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_repair_that_breaks_off_anywhere() {
    let (temp, path) = directory();
    // A page that is found and has a new link, and one to be met again by the links of others.
    let mut sample = Sample::new(&format!("{HOST}/new"), 200, b"new");
    sample.meta.outlinks = vec![outlink(&format!("{HOST}/another"))];
    let last = segment(&path, proof(&path).crawls[0].segments);
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, [&bytes[..], &sample.records().0].concat()).unwrap();
    let gone = place(&path, 7);
    for at in [gone.offset, gone.request_at(), gone.metadata_at()] {
        flip(&segment(&path, gone.segment), at + 30);
    }
    for changes in 0.. {
        let copied = temp.path().join(changes.to_string());
        copy(&path, &copied);
        let whole = {
            let data = DataDir::open(&copied).unwrap();
            let base = SledStore::open(&data.frontier(), CACHE).unwrap();
            mend(Breaking { base, left: changes }, &data, false).is_ok()
        };
        assert_eq!(copied.join("repairing").exists(), !whole, "after {changes} changes");
        repair(&copied, false).unwrap();
        let proof = proof(&copied);
        assert_eq!(proof.differences, [""; 0], "after {changes} changes");
        let crawl = &proof.crawls[0];
        let counts = (crawl.discovered, crawl.fetched, crawl.queued);
        assert_eq!(counts, (44, 40, 4), "after {changes} changes");
        assert!(repair(&copied, false).unwrap().is_nothing(), "after {changes} changes");
        fs::remove_dir_all(&copied).unwrap();
        if whole {
            assert!(changes > 5, "it changes more than {changes} times");
            break;
        }
    }
}

#[test]
fn a_frontier_of_no_master_or_of_other_rules_is_left_as_it_is() {
    let meta = |canon_version| MetaRow { canon_version, epoch: 3, ..MetaRow::default() };
    for (row, error) in [
        (None, "the rules of its URL ids is gone"),
        (Some(b"\xff\xff".to_vec()), "cannot be read"),
        (Some(meta(0).encode_to_vec()), "cannot be read"),
        (Some(meta(CANON_VERSION + 1).encode_to_vec()), "canonicalisation rules"),
    ] {
        let (_temp, path) = directory();
        // Something that would be mended.
        plant(&path, |store| {
            let queued = crate::repair::tests::row(store, b'Q', 0).0;
            store.apply(vec![(queued, None), (keys::META.to_vec(), row)]).unwrap();
        });
        let rows = || {
            let mut rows = Vec::new();
            let all = |store: &mut SledStore| {
                rows.extend(store.range(keys::ALL.0, keys::ALL.1).map(Result::unwrap));
            };
            plant(&path, all);
            rows
        };
        let before = rows();
        for is_trial in [true, false] {
            let said = repair(&path, is_trial).unwrap_err().to_string();
            assert!(said.contains(error), "{said}");
        }
        assert!(rows() == before, "{error}: rows have changed");
        assert!(!path.join("repairing").exists());
    }
}

#[test]
fn a_directory_that_no_master_has_begun() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    let data = DataDir::open_or_create(&path).unwrap();
    drop(SledStore::open(&data.frontier(), CACHE).unwrap());
    drop(data);
    assert!(repair(&path, false).unwrap().is_nothing());
    plant(&path, |store| {
        assert!(store.range(keys::ALL.0, keys::ALL.1).next().is_none(), "a row was written");
    });
}
