//! A store whose changes are kept in memory and then forgotten.

use std::collections::BTreeMap;

use crate::store::{Batch, Rows, Store, StoreError, sled::SledStore};

pub(super) struct Trial {
    base: SledStore,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Trial {
    pub(super) fn new(base: SledStore) -> Self {
        Self { base, changes: BTreeMap::new() }
    }
}

impl Store for Trial {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let mut base = self.base.range(from, to).peekable();
        let mut changes = self.changes.range(from.to_vec()..to.to_vec()).peekable();
        Box::new(std::iter::from_fn(move || {
            loop {
                let is_change = match (base.peek(), changes.peek()) {
                    (_, None) => false,
                    (Some(Err(_)), _) => false,
                    (None, Some(_)) => true,
                    (Some(Ok((key, _))), Some((changed, _))) => *changed <= key,
                };
                if !is_change {
                    return base.next();
                }
                let (key, value) = changes.next()?;
                // The row before the change.
                base.next_if(|row| row.as_ref().is_ok_and(|(known, _)| known == key));
                if let Some(value) = value {
                    return Some(Ok((key.clone(), value.clone())));
                }
            }
        }))
    }

    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.changes.extend(batch);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
