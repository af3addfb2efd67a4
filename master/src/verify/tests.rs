//! What is as it should be is proved, and what is not is named.

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::{
    frontier::model,
    store::{
        Row, Store, keys,
        memory::MemoryStore,
        rows::{CrawlRow, HostRow, decode},
    },
};

/// Everything that is different in these rows. Their pages are of no test's concern here.
fn differences(rows: &[Row], is_still: bool) -> Vec<(Kind, String)> {
    let temp = tempfile::tempdir().unwrap();
    let mut verifier = Verifier::new(temp.path(), is_still, usize::MAX);
    let batch = rows.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    if !is_still {
        // What comes first is not what counts.
        let stale = rows.iter().map(|(key, _)| (key.clone(), Some(b"\xff".to_vec()))).collect();
        verifier.take(&stale).unwrap();
        verifier
            .take(&vec![(b"Znone".to_vec(), Some(Vec::new())), (b"Znone".to_vec(), None)])
            .unwrap();
    }
    verifier.take(&batch).unwrap();
    let report = verifier.finish(temp.path(), &mut |_| {}).unwrap();
    assert_eq!(report.count(), report.differences.len() as u64);
    let pages = [Kind::PageMissing, Kind::PageDamaged, Kind::Segment];
    let kinds = report.counts.iter().filter(|(kind, _)| !pages.contains(kind));
    kinds.map(|(kind, _)| (*kind, report.differences.join("\n"))).collect()
}

fn rows(store: &MemoryStore) -> Vec<Row> {
    store.range(keys::ALL.0, keys::ALL.1).map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_frontier_has_gone_through_its_rows_agree(steps in model::steps()) {
        let rows = rows(&model::store_after(steps));
        prop_assert_eq!(differences(&rows, true), []);
        prop_assert_eq!(differences(&rows, false), []);
    }

    #[test]
    fn no_row_of_a_queue_or_of_the_visited_set_can_go_unnoticed(
        steps in model::steps(),
        which in any::<prop::sample::Index>(),
    ) {
        let mut rows = rows(&model::store_after(steps));
        let tables = b"OQSUXCH";
        let found: Vec<usize> =
            (0..rows.len()).filter(|index| tables.contains(&rows[*index].0[0])).collect();
        let gone = rows.remove(found[which.index(found.len())]);
        prop_assert!(!differences(&rows, true).is_empty(), "{:?}", gone);
    }
}

#[test]
fn a_wrong_count_is_named() {
    let store = model::store_with_leases();
    let change = |store: &MemoryStore, key: &[u8], value: Vec<u8>| {
        let mut store = store.clone();
        store.apply(vec![(key.to_vec(), Some(value))]).unwrap();
        differences(&rows(&store), true)
    };
    let key = keys::crawl(1);
    let mut row: CrawlRow = decode(&store.get(&key).unwrap().unwrap()).unwrap();
    row.queued += 1;
    let found = change(&store, &key, row.encode_to_vec());
    assert!(found[0].0 == Kind::CrawlCount && found[0].1.contains("queued"), "{found:?}");

    let (key, value) = rows(&store).into_iter().find(|(key, _)| key[0] == b'O').unwrap();
    let mut row: HostRow = decode(&value).unwrap();
    row.pages += 7;
    let found = change(&store, &key, row.encode_to_vec());
    assert!(found[0].0 == Kind::HostCount && found[0].1.contains("pages"), "{found:?}");

    let number = keys::host_number("http://another.example");
    let found = change(&store, &number, vec![0, 0, 0, 1]);
    assert!(found[0].0 == Kind::HostNumber, "{found:?}");

    let (key, value) = rows(&store).into_iter().find(|(key, _)| key[0] == b'L').unwrap();
    let twice = keys::lease(trawl_shared::lease::Token(keys::lease_token(&key).unwrap().0 + 999));
    let found = change(&store, &twice, value);
    assert!(found[0].0 == Kind::Lease && found[0].1.contains("more than once"), "{found:?}");
}
