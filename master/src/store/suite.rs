//! What every store promises: random operations, held against the memory store.
//!
//! 256 sequences of them, or as many as `PROPTEST_CASES` says.

use proptest::prelude::*;
use trawl_shared::units::Size;

use super::{Batch, Store, memory::MemoryStore, sled::SledStore};

#[derive(Clone, Debug)]
enum Step {
    Apply(Batch),
    Get(Vec<u8>),
    Range(Vec<u8>, Vec<u8>),
    Sync,
    Reopen,
}

/// Few and short keys, so that steps meet.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(b'a'..=b'd', 1..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..40));
    let batch = prop::collection::vec((keys(), value), 0..20);
    let step = prop_oneof![
        4 => batch.prop_map(Step::Apply),
        3 => keys().prop_map(Step::Get),
        2 => (keys(), keys()).prop_map(|(from, to)| Step::Range(from, to)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// Runs the steps on a store and on the model. `reopen` closes the store and
/// opens what is left of it; everything has been synced before.
fn check<S: Store>(mut store: S, mut reopen: impl FnMut(S) -> S, steps: Vec<Step>) {
    let mut model = MemoryStore::default();
    for step in steps {
        match step {
            Step::Apply(batch) => {
                model.apply(batch.clone()).unwrap();
                store.apply(batch).unwrap();
            }
            Step::Get(key) => assert_eq!(store.get(&key).unwrap(), model.get(&key).unwrap()),
            Step::Range(from, to) => {
                let rows: Vec<_> = store.range(&from, &to).map(Result::unwrap).collect();
                let want: Vec<_> = model.range(&from, &to).map(Result::unwrap).collect();
                assert_eq!(rows, want);
            }
            Step::Sync => store.sync().unwrap(),
            Step::Reopen => {
                store.sync().unwrap();
                store = reopen(store);
            }
        }
    }
}

proptest! {
    #[test]
    fn sled_does_what_the_model_does(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let open = || SledStore::open(dir.path(), Size::mib(16)).unwrap();
        check(open(), |store| { drop(store); open() }, steps);
    }
}
