//! Dumps written and read back.

use proptest::prelude::*;
use prost::Message;
use trawl_shared::{
    outcome::Class,
    url::{CANON_VERSION, UrlId},
};

use super::{load::read, *};
use crate::{
    data_dir::FORMAT,
    frontier::{Frontier, Limits, model},
    store::{
        Batch, Row, Store,
        keys::{self, HostRef, Slot},
        memory::MemoryStore,
        rows::{DomainRow, EndedRow, HostRow, PatternRow, QueueRow, UrlRow, UrlState},
    },
};

fn head() -> Head {
    Head {
        dump: DUMP_FORMAT,
        format: FORMAT,
        trawl: "0.1.0".into(),
        canon: CANON_VERSION,
        instance: "here".into(),
    }
}

fn rows(store: &MemoryStore) -> Vec<Row> {
    store.range(keys::ALL.0, keys::ALL.1).map(Result::unwrap).collect()
}

fn dumped(head: &Head, batches: &[Batch]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut dumper = Dumper::to_pipe(&mut out, head).unwrap();
    for batch in batches {
        dumper.write(batch).unwrap();
    }
    dumper.finish().unwrap();
    out
}

fn loaded(mut dump: &[u8]) -> Result<MemoryStore, LoadError> {
    let mut store = MemoryStore::default();
    read(&mut dump, &mut store, &mut |_| {})?;
    Ok(store)
}

fn all(store: &MemoryStore) -> Batch {
    rows(store).into_iter().map(|(key, value)| (key, Some(value))).collect()
}

/// A small dump, as text.
fn small() -> String {
    let gone = (b"Qgone".to_vec(), None);
    let odd = (b"Zodd".to_vec(), Some(vec![0xff, 0]));
    let number = (keys::host_number("http://a.example"), Some(vec![0, 0, 0, 7]));
    String::from_utf8(dumped(&head(), &[vec![odd, gone, number]])).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_dumped_is_loaded_row_by_row(steps in model::steps()) {
        let store = model::store_after(steps);
        let dump = dumped(&head(), &[all(&store)]);
        let text = String::from_utf8(dump.clone()).unwrap();
        prop_assert!(!text.contains("\"raw\""), "everything has its words: {text}");
        prop_assert_eq!(rows(&loaded(&dump).unwrap()), rows(&store));
    }
}

#[test]
fn what_was_caught_and_counted_has_its_words() {
    let at = HostRef { crawl: 1, host: 2 };
    let ended = EndedRow {
        class: Class::Quarantined.number().into(),
        trap: "calendar".into(),
        off_site: 1,
        ..EndedRow::default()
    };
    let queued = QueueRow { off_site: 2, exempt: true, ..QueueRow::default() };
    let mut store = MemoryStore::default();
    let changes = vec![
        (
            keys::pattern(at, 7),
            Some(PatternRow { pages: 3, alike: 2, sets: vec![1, u64::MAX] }.encode_to_vec()),
        ),
        (keys::domain(1, 7), Some(DomainRow { hosts: 3, alike: 2, visited: 1 }.encode_to_vec())),
        (
            keys::host(at),
            Some(
                HostRow { is_counted: true, is_compared: true, ..HostRow::default() }
                    .encode_to_vec(),
            ),
        ),
        (
            keys::url(at, &UrlId::of("x")),
            Some(UrlRow { state: Some(UrlState::Ended(ended)) }.encode_to_vec()),
        ),
        (keys::queue(at, Slot::untried(5, 1, 9)), Some(queued.encode_to_vec())),
    ];
    store.apply(changes).unwrap();
    let dump = dumped(&head(), &[all(&store)]);
    let text = String::from_utf8(dump.clone()).unwrap();
    assert!(!text.contains("\"raw\"") && text.contains("calendar"), "{text}");
    assert_eq!(rows(&loaded(&dump).unwrap()), rows(&store));
}

#[test]
fn a_dump_in_words() {
    assert_eq!(
        small(),
        [
            r#"{"sum":"68fad07f","dump":1,"format":1,"trawl":"0.1.0","canon":1,"instance":"here"}"#,
            r#"{"sum":"acd7473b","table":"raw","key":"5a6f6464","value":"ff00"}"#,
            r#"{"sum":"2e1fcb49","table":"gone","key":"51676f6e65"}"#,
            r#"{"sum":"9a853b32","table":"host_number","key":"http://a.example","host":7}"#,
            concat!(
                r#"{"sum":"1d9f4d0f","end":{"lines":3,"rows":{"gone":1,"host_number":1,"raw":1},"#,
                r#""sha1":"d2b935fd80c343ca520d2345d13524eb52f40140"}}"#,
            ),
            "",
        ]
        .join("\n")
    );
}

#[test]
fn a_later_line_wins_over_an_earlier_one() {
    let key = keys::host_number("http://a.example");
    let row = |host: u8| vec![(key.clone(), Some(vec![0, 0, 0, host]))];
    let store = loaded(&dumped(&head(), &[row(1), row(2)])).unwrap();
    assert_eq!(store.get(&key).unwrap(), Some(vec![0, 0, 0, 2]));
    let store = loaded(&dumped(&head(), &[row(1), vec![(key.clone(), None)]])).unwrap();
    assert_eq!(store.get(&key).unwrap(), None);
}

#[test]
fn whatever_is_changed_in_a_dump_is_found_in_its_line() {
    let text = small();
    let lines: Vec<&str> = text.lines().collect();
    let error = |text: &str| loaded(text.as_bytes()).unwrap_err().to_string();
    for (number, line) in lines.iter().enumerate() {
        let number = number + 1;
        let without: String =
            lines.iter().filter(|other| *other != line).map(|line| format!("{line}\n")).collect();
        let twice: String = lines
            .iter()
            .flat_map(|other| vec![*other; if other == line { 2 } else { 1 }])
            .map(|line| format!("{line}\n"))
            .collect();
        if number == lines.len() {
            assert!(error(&without).contains("breaks off after line 4"), "{}", error(&without));
        } else {
            assert!(error(&without).contains(&format!("line {number} ")) || number == 1);
        }
        assert!(error(&twice).contains(&format!("line {} ", number + 1)), "{}", error(&twice));
        for at in 0..line.len() {
            let mut bytes = text.clone().into_bytes();
            let start = lines[..number - 1].iter().map(|line| line.len() + 1).sum::<usize>();
            bytes[start + at] ^= 1;
            let error = loaded(&bytes).unwrap_err().to_string();
            let told = error.contains(&format!("line {number} ")) || number == 1;
            assert!(told, "byte {at} of line {number}: {error}");
        }
    }
    for end in 0..text.len() {
        let error = error(&text[..end]);
        assert!(error.contains("breaks off") || error.contains("no dump"), "{end}: {error}");
    }
}

#[test]
fn a_later_format_is_refused_by_name() {
    for head in [Head { dump: 2, ..head() }, Head { format: 99, ..head() }] {
        let head = Head { trawl: "9.9.9".into(), ..head };
        let error = loaded(&dumped(&head, &[])).unwrap_err().to_string();
        assert!(error.contains("trawl 9.9.9") && error.contains("or a later one"), "{error}");
    }
    let error = loaded(&dumped(&Head { canon: 9, ..head() }, &[])).unwrap_err();
    assert!(matches!(error, LoadError::Canon(9)));
    assert!(matches!(loaded(b"{}\n").unwrap_err(), LoadError::NotADump(_)));
}

#[test]
fn a_loaded_frontier_goes_on_with_nothing_lent_and_another_name() {
    let store = model::store_with_leases();
    let (before, _) = Frontier::open(store.clone(), Limits::default(), "x").unwrap();
    let lent = before.status(None)[0].leased;
    assert!(lent > 0);
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("data");
    let dump = dumped(&head(), &[all(&store)]);
    let done = load(&dump[..], &to, None, &mut |_| {}).unwrap();
    assert_eq!(done.recalled, lent);

    let open = |data: &crate::data_dir::DataDir| {
        crate::store::sled::SledStore::open(&data.frontier(), trawl_shared::units::Size::mib(8))
    };
    let data = crate::data_dir::DataDir::open(&to).unwrap();
    let (after, _) = Frontier::open(open(&data).unwrap(), Limits::default(), "x").unwrap();
    let (was, is) = (before.status(None).remove(0), after.status(None).remove(0));
    assert_eq!((is.queued, is.leased), (was.queued + lent, 0));
    assert_eq!((is.discovered, is.outcomes), (was.discovered, was.outcomes));
    assert_ne!(after.instance(), before.instance());
    assert!(after.epoch() > before.epoch());
    drop(after);
    drop(data);

    let error = load(&dump[..], &to, None, &mut |_| {}).unwrap_err();
    assert!(matches!(error, LoadError::NotEmpty(_)), "{error}");
}

#[test]
fn a_dump_that_breaks_off_leaves_no_data_directory() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("data");
    let text = small();
    load(&text.as_bytes()[..text.len() - 2], &to, None, &mut |_| {}).unwrap_err();
    assert!(crate::data_dir::DataDir::open(&to).is_err());
    load(text.as_bytes(), &to, None, &mut |_| {}).unwrap();
    crate::data_dir::DataDir::open(&to).unwrap();
}
