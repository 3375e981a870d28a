//! How replay finds the row that a change is about.

use super::Target;
use crate::error::Result;
use crate::pg::leaf::{wait_for, Written};
use crate::pg::owner::AsTableOwner;
use crate::pg::shape::operator_name;
use crate::pg::spi::{Arg, Prepared};
use crate::table::qualified_name;
use pgrx::pg_sys;

/// How rows are found by certain key columns.
pub(super) struct Lookup {
    pub key: Vec<usize>,
    pub by: By,
}

pub(super) enum By {
    /// A unique index of the plain table, with the place of each of its columns in the key.
    Index(Vec<usize>),
    /// What the planner makes of it: partitions to look into, perhaps no index.
    Plan(Prepared),
}

/// How many rows a key found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Hits {
    None,
    One,
    Several,
}

impl Target {
    /// Finds the row with these values (attribute index of the root, not null); waits for a
    /// transaction in progress on it.
    pub fn find(&mut self, key: &[(usize, pg_sys::Datum)]) -> Result<Hits> {
        if self.lookup.as_ref().is_none_or(|lookup| !lookup.key.iter().eq(key.iter().map(|(index, _)| index))) {
            self.choose_lookup(key)?;
        }
        let Some(Lookup { by, .. }) = &self.lookup else { return Ok(Hits::None) };
        match by {
            By::Index(places) => {
                let datums: Vec<_> = places.iter().map(|&place| key[place].1).collect();
                // A plain table is its only part.
                self.current = 0;
                loop {
                    let leaf = &mut self.part().leaf;
                    match leaf.seek(&datums) {
                        None => return Ok(Hits::None),
                        Some(Some((xid, _))) => wait_for(xid),
                        Some(None) if leaf.lock_for_triggers() == Written::Done => return Ok(Hits::One),
                        Some(None) => {}
                    }
                }
            }
            By::Plan(plan) => {
                let args: Vec<_> = key
                    .iter()
                    .map(|(index, datum)| {
                        Arg(self.shape.column(*index).map_or(pg_sys::InvalidOid, |c| c.base_type), Some(*datum))
                    })
                    .collect();
                let mut found: Vec<(u32, pg_sys::ItemPointerData)> = Vec::new();
                let _owner = AsTableOwner::restricted(self.shape.owner);
                plan.run(&args, |row| {
                    let place = row.get::<pg_sys::ItemPointerData>(2).unwrap_or_default();
                    found.push((row.oid(1).unwrap_or(pg_sys::InvalidOid).to_u32(), place));
                });
                drop(_owner);
                match found[..] {
                    [] => Ok(Hits::None),
                    [(relid, tid)] => {
                        let leaf = &mut self.enter(relid, None)?.leaf;
                        let fetched = leaf.fetch(tid) && leaf.lock_for_triggers() == Written::Done;
                        Ok(if fetched { Hits::One } else { Hits::None })
                    }
                    _ => Ok(Hits::Several),
                }
            }
        }
    }

    fn choose_lookup(&mut self, key: &[(usize, pg_sys::Datum)]) -> Result<()> {
        self.flush();
        let columns: Vec<usize> = key.iter().map(|(index, _)| *index).collect();
        let index = match self.router {
            // SAFETY: the relation is open.
            None => unsafe { self.layout.index_on(self.relation, &columns) },
            Some(_) => None,
        };
        let by = match index {
            Some((index, places)) => {
                let relid = self.shape.relid.to_u32();
                self.places.clear();
                if let Some(part) = self.parts.pop() {
                    // The executor state of default expressions goes with it.
                    self.defaults = None;
                    // SAFETY: not used again.
                    unsafe { part.leaf.close() };
                }
                self.enter(relid, Some(index))?;
                By::Index(places)
            }
            None => By::Plan(self.plan(&columns)),
        };
        self.lookup = Some(Lookup { key: columns, by });
        Ok(())
    }

    fn plan(&self, columns: &[usize]) -> Prepared {
        let known = columns.iter().filter_map(|&index| self.shape.column(index));
        let condition: Vec<_> = known
            .clone()
            .enumerate()
            .map(|(i, column)| {
                // SAFETY: the entry lives as long as the backend.
                let equal =
                    unsafe { (*pg_sys::lookup_type_cache(column.base_type, pg_sys::TYPECACHE_EQ_OPR as i32)).eq_opr };
                format!("{} {} ${}", pgrx::spi::quote_identifier(&column.name), operator_name(equal), i + 1)
            })
            .collect();
        let only = if self.router.is_some() { "" } else { "ONLY " };
        let table = qualified_name(self.shape.relid);
        let sql = format!("SELECT tableoid, ctid FROM {only}{table} WHERE {} LIMIT 2", condition.join(" AND "));
        let args: Vec<_> = known.map(|column| Arg(column.base_type, None)).collect();
        let _owner = AsTableOwner::restricted(self.shape.owner);
        Prepared::new(&sql, &args)
    }
}
