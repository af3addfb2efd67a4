//! The disk of the master's machine: it outlives the master, keeps what was synced,
//! and of what was not only what it likes. It writes down all that happens to it, which
//! is the history that is checked afterwards.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use trawl_master::store::{Batch, Rows, Store, StoreError};

/// The rows of a store.
pub(crate) type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// What happened to the disk.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Event {
    /// A batch was written.
    Apply(Batch),
    /// What was written became durable.
    Sync,
    /// The machine lost its power: of the batches that were not durable, the first few
    /// are there all the same.
    PowerLost {
        /// How many.
        kept: usize,
    },
}

/// A disk. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    durable: Map,
    /// As the running master sees it.
    current: Map,
    unsynced: Vec<Batch>,
    history: Vec<(Duration, Event)>,
    /// Writes until the power fails.
    fuse: Option<u32>,
    chance: fastrand::Rng,
}

impl Disk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            durable: Map::new(),
            current: Map::new(),
            unsynced: Vec::new(),
            history: Vec::new(),
            fuse: None,
            chance: fastrand::Rng::with_seed(seed),
        })))
    }

    /// What the master sees.
    pub(crate) fn store(&self) -> DiskStore {
        DiskStore(self.clone())
    }

    /// Lets the power fail after so many further writes and syncs.
    pub(crate) fn set_fuse(&self, writes: u32) {
        self.lock().fuse = Some(writes);
    }

    /// Whether the power has failed by the fuse.
    pub(crate) fn is_burnt(&self) -> bool {
        self.lock().fuse == Some(0)
    }

    /// The machine loses its power, and gets it again.
    pub(crate) fn lose_power(&self, now: Duration) {
        let mut state = self.lock();
        let unsynced = std::mem::take(&mut state.unsynced);
        let kept = state.chance.usize(..=unsynced.len());
        for batch in unsynced.into_iter().take(kept) {
            apply(&mut state.durable, batch);
        }
        state.current = state.durable.clone();
        state.fuse = None;
        state.history.push((now, Event::PowerLost { kept }));
    }

    /// The durable rows of a table.
    pub(crate) fn durable_range(&self, (from, to): (&[u8], &[u8])) -> Vec<Vec<u8>> {
        let state = self.lock();
        let rows = state.durable.range(from.to_vec()..to.to_vec());
        rows.map(|(_, row)| row.clone()).collect()
    }

    /// All that has happened, with when.
    pub(crate) fn history(&self) -> Vec<(Duration, Event)> {
        self.lock().history.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a batch's changes.
pub(crate) fn apply(rows: &mut Map, batch: Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
}

impl State {
    /// One write nearer to the end. False if the power fails during this one.
    fn burn(&mut self) -> Result<bool, StoreError> {
        match &mut self.fuse {
            None => Ok(true),
            Some(0) => Err(no_power()),
            Some(left) => {
                *left -= 1;
                Ok(*left > 0)
            }
        }
    }
}

fn no_power() -> StoreError {
    StoreError::Engine("the power has failed".to_owned())
}

/// A store on the disk.
#[derive(Debug)]
pub(crate) struct DiskStore(Disk);

impl Store for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().current.get(key).cloned())
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        let to = to.to_vec();
        let mut from = Some(from.to_vec());
        Box::new(std::iter::from_fn(move || {
            let start = from.take().filter(|from| *from < to)?;
            let state = self.0.lock();
            let (key, value) = state.current.range(start..to.clone()).next()?;
            // The next key that there can be.
            from = Some([&key[..], &[0]].concat());
            Some(Ok((key.clone(), value.clone())))
        }))
    }

    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.0.lock();
        let survives = state.burn()?;
        if survives || state.chance.bool() {
            apply(&mut state.current, batch.clone());
            state.unsynced.push(batch.clone());
            state.history.push((now(), Event::Apply(batch)));
        }
        if survives { Ok(()) } else { Err(no_power()) }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let mut state = self.0.lock();
        let survives = state.burn()?;
        if survives || state.chance.bool() {
            for batch in std::mem::take(&mut state.unsynced) {
                apply(&mut state.durable, batch);
            }
            state.history.push((now(), Event::Sync));
        }
        if survives { Ok(()) } else { Err(no_power()) }
    }
}

/// How long the simulation has been running.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}
