//! What the captured events of a transaction come to: every row it touched once, with its present key and what it was
//! before, in order of first touch. No PostgreSQL in here but OIDs.
//!
//! A transaction may touch millions of rows: eight bytes are kept per event, and whole keys only of
//! rows whose keys changed.

use crate::captured::{Captured, Event};
use crate::commit::Touched;
use crate::error::Result;
use crate::image;
use crate::pg::memory::{check, owned, push, room};
use pgrx::pg_sys;
use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Where the events of a key are.
pub struct Net {
    /// Of each event about a row: the hash of its key above its number, in order. Empty if there is but one event.
    index: Vec<u64>,
    /// The hashes of keys that rows came to have or gave up.
    moved: HashSet<u32>,
    /// The rows with keys of such a hash, in order of first touch.
    rows: Vec<Moved>,
}

/// A row whose key may have changed.
struct Moved {
    /// The number of its first event.
    first: u32,
    key: String,
    /// The numbers of the events with its base images, in order of capture; empty: it did not exist.
    bases: Vec<u32>,
    version: Option<i64>,
    /// The highest version of a former row with its key.
    exceeds: Option<i64>,
}

/// The hash of a row's key.
fn hash(root: pg_sys::Oid, key: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    (root.to_u32(), key).hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}

fn entry(hash: u32, number: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(number)
}

impl Net {
    pub fn of(captured: &mut Captured) -> Net {
        let mut net = Net { index: Vec::new(), moved: HashSet::new(), rows: Vec::new() };
        if captured.len() == 1 {
            return net;
        }
        captured.each(|number, event| match event {
            Event::Base { root, key, .. } => push(&mut net.index, entry(hash(root, key), number)),
            Event::Rekey { root, old, new } => {
                room(&mut net.moved, 2);
                net.moved.extend([hash(root, old), hash(root, new)]);
            }
        });
        net.index.sort_unstable();
        if !net.moved.is_empty() {
            net.follow(captured);
        }
        net
    }

    /// Follows the rows whose keys changed.
    fn follow(&mut self, captured: &mut Captured) {
        let Net { moved, rows, .. } = self;
        let mut places: HashMap<(u32, String), usize> = HashMap::new();
        // The versions with which rows have left their keys.
        let mut left: HashMap<(u32, String), i64> = HashMap::new();
        captured.each(|number, event| match event {
            Event::Base { root, key, base, version, .. } if moved.contains(&hash(root, key)) => {
                room(&mut places, 1);
                let place = (root.to_u32(), key.to_owned());
                let exceeds = left.get(&place).copied();
                match places.entry(place) {
                    Slot::Vacant(_) if only_adds(base, version) => {}
                    Slot::Vacant(free) => {
                        free.insert(rows.len());
                        let bases = base.map(|_| number).into_iter().collect();
                        push(rows, Moved { first: number, key: key.to_owned(), bases, version, exceeds });
                    }
                    Slot::Occupied(known) => {
                        let row = &mut rows[*known.get()];
                        if base.is_none() {
                            row.exceeds = row.exceeds.max(row.version);
                        }
                        if !row.bases.is_empty() {
                            row.bases.extend(base.map(|_| number));
                        }
                    }
                }
            }
            Event::Base { .. } => {}
            Event::Rekey { root, old, new } => {
                room(&mut left, 1);
                let (from, to) = ((root.to_u32(), old.to_owned()), (root.to_u32(), new.to_owned()));
                let Some(at) = places.get(&from).copied().filter(|_| from != to) else { return };
                if let Some(deleted) = places.get(&to) {
                    // The deleted row counts as changed, the one that took its key as deleted.
                    let deleted = &mut rows[*deleted];
                    deleted.exceeds = deleted.exceeds.max(deleted.version);
                } else {
                    let row = &mut rows[at];
                    new.clone_into(&mut row.key);
                    row.exceeds = row.exceeds.max(left.get(&to).copied());
                    if let Some(version) = row.version {
                        left.entry(from.clone()).or_insert(version);
                    }
                    places.remove(&from);
                    places.insert(to, at);
                }
            }
        });
    }

    /// Visits the rows of one changeset.
    pub fn each(
        &self,
        captured: &mut Captured,
        group: u32,
        mut visit: impl FnMut(&Touched) -> Result<()>,
    ) -> Result<()> {
        let mut moved = self.rows.iter().peekable();
        let mut text = String::new();
        for number in 0..captured.len() as u32 {
            check();
            let Event::Base { root, group: of, version, key, base, change } = captured.event(number, &mut text) else {
                continue;
            };
            let hash = if self.index.is_empty() { 0 } else { hash(root, key) };
            let mut touched = Touched { root, key: key.to_owned(), base: None, version, exceeds: None, change: None };
            if self.moved.contains(&hash) {
                let Some(row) = moved.next_if(|row| row.first == number) else { continue };
                touched.key.clone_from(&row.key);
                touched.exceeds = row.exceeds;
                touched.base = base.map(owned);
                row.bases.iter().skip(1).try_for_each(|&later| touched.add(captured, later))?;
            } else {
                if of != group || only_adds(base, version) {
                    continue;
                }
                let others = self.others(captured, hash, number, root, key);
                if others.first().is_some_and(|&first| first < number) {
                    continue;
                }
                touched.change = change.filter(|_| others.is_empty() && captured.is_settled(root)).map(owned);
                if touched.change.is_none() {
                    touched.base = base.map(owned);
                    others.iter().try_for_each(|&other| touched.add(captured, other))?;
                }
            }
            if of == group {
                visit(&touched)?;
            }
        }
        Ok(())
    }

    /// The other events of the key of an event that count, in order.
    fn others(&self, captured: &mut Captured, hash: u32, number: u32, root: pg_sys::Oid, key: &str) -> Vec<u32> {
        let from = self.index.partition_point(|&at| at < entry(hash, 0));
        let same = self.index[from..].iter().take_while(|&&at| at >> 32 == u64::from(hash));
        let others = same.map(|&at| at as u32).filter(|&other| other != number);
        let mut text = String::new();
        others
            .inspect(|_| check())
            .filter(|&other| match captured.event(other, &mut text) {
                Event::Base { root: of, key: this, base, version, .. } => {
                    (of, this) == (root, key) && (other > number || !only_adds(base, version))
                }
                Event::Rekey { .. } => false,
            })
            .collect()
    }
}

/// Does an event only add to the image of a row? Of one whose insertion is not told yet (it runs in the same statement),
/// that is nothing.
fn only_adds(base: Option<&str>, version: Option<i64>) -> bool {
    base.is_some() && version.is_none()
}

impl Touched {
    /// Adds a later event of the row: the first image counts, later ones add values stored out of line that it left out.
    fn add(&mut self, captured: &mut Captured, number: u32) -> Result<()> {
        let mut text = String::new();
        let Event::Base { base, .. } = captured.event(number, &mut text) else { return Ok(()) };
        match (&self.base, base) {
            (Some(first), Some(more)) => self.base = Some(image::fill_missing(first, more)?),
            (_, None) => self.exceeds = self.exceeds.max(self.version),
            (None, Some(_)) => {}
        }
        Ok(())
    }
}
