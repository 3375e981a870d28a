//! What the extension's tables and indexes are meant to be, and the OIDs they have.

use super::Store;
use crate::pg::session::Kept;
use crate::pg::value;
use pgrx::pg_sys;
use std::ffi::CStr;

/// What is known about a table of the extension: it must be as `sql/schema.sql` makes it.
pub struct Layout {
    pub table: &'static CStr,
    pub indexes: &'static [Index],
}

pub struct Index {
    pub name: &'static CStr,
    /// The attribute indexes (0-based) it is on.
    pub columns: &'static [usize],
    pub unique: bool,
    /// Which rows it has, if not all.
    pub only: Option<Only>,
}

/// The condition of a partial index.
pub struct Only {
    /// As the server writes it.
    pub condition: &'static CStr,
    pub holds: fn(&[Option<pg_sys::Datum>]) -> bool,
}

impl Index {
    /// Is a row of the table in it?
    pub(super) fn has(&self, row: &[Option<pg_sys::Datum>]) -> bool {
        self.only.as_ref().is_none_or(|only| (only.holds)(row))
    }

    /// # Safety
    /// The index, if there is one, belongs to a table that is locked.
    unsafe fn is_as_made(&self, oid: pg_sys::Oid) -> bool {
        if oid == pg_sys::InvalidOid {
            return false;
        }
        let relation = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
        let form = (*relation).rd_index;
        let columns = (*form).indkey.values.as_slice((*form).indnatts as usize);
        let fits = (*form).indisunique == self.unique
            && columns.iter().map(|&number| number as usize).eq(self.columns.iter().map(|&column| column + 1))
            && self.has_condition(relation);
        pg_sys::index_close(relation, pg_sys::NoLock as i32);
        fits
    }

    /// # Safety
    /// `relation` is the index, open.
    unsafe fn has_condition(&self, relation: pg_sys::Relation) -> bool {
        let predicate = pg_sys::RelationGetIndexPredicate(relation);
        if predicate.is_null() {
            return self.only.is_none();
        }
        let table = (*(*relation).rd_index).indrelid;
        let context = pg_sys::deparse_context_for(pg_sys::get_rel_name(table), table);
        let text = pg_sys::deparse_expression(pg_sys::make_ands_explicit(predicate).cast(), context, false, false);
        self.only.as_ref().is_some_and(|only| CStr::from_ptr(text) == only.condition)
    }
}

/// The most indexes a table has, and the most columns an index.
pub(super) const INDEXES: usize = 4;
pub(super) const COLUMNS: usize = 3;

/// Is a text column of a row to be written this text?
pub fn is_text(row: &[Option<pg_sys::Datum>], column: usize, is: &str) -> bool {
    // SAFETY: used for text columns only.
    row[column].is_some_and(|datum| unsafe { value::text(datum) == is })
}

#[derive(Clone, Copy)]
pub(super) struct Oids {
    pub table: pg_sys::Oid,
    pub indexes: [pg_sys::Oid; INDEXES],
    /// The table has exactly the indexes that it should have: nobody added or changed one.
    pub as_made: bool,
}

thread_local! {
    // By the address of the layout or of a sequence's name.
    static KNOWN: Kept<Vec<(usize, Oids)>> = const { Kept::new(Vec::new()) };
}

/// Forgets OIDs that may have changed; called from a cache callback, which may only forget.
pub fn forget(relid: pg_sys::Oid) {
    KNOWN.with(|known| {
        if let Ok(mut known) = known.try_borrow_mut() {
            if relid == pg_sys::InvalidOid || known.iter().any(|(_, oids)| oids.table == relid) {
                known.clear();
            }
        }
    });
}

fn known(address: usize) -> Option<Oids> {
    KNOWN.with(|known| known.borrow().iter().find(|k| k.0 == address).map(|k| k.1))
}

fn learn(address: usize, oids: Oids) {
    KNOWN.with(|known| known.borrow_mut().push((address, oids)));
}

/// Opens a table with a lock, and says what is known of it.
pub(super) fn open(layout: &'static Layout, lock: i32) -> (pg_sys::Relation, Oids) {
    let address = std::ptr::from_ref(layout) as usize;
    if let Some(oids) = known(address) {
        // SAFETY: closed by the store that asks.
        return (unsafe { pg_sys::table_open(oids.table, lock) }, oids);
    }
    let mut oids = Oids { table: named(layout.table), indexes: [pg_sys::InvalidOid; INDEXES], as_made: false };
    for (oid, index) in oids.indexes.iter_mut().zip(layout.indexes) {
        *oid = named(index.name);
    }
    // SAFETY: as above; the list is a copy.
    let relation = unsafe {
        let relation = pg_sys::table_open(oids.table, lock);
        let list = pg_sys::RelationGetIndexList(relation);
        let count = if list.is_null() { 0 } else { (*list).length as usize };
        oids.as_made = count == layout.indexes.len()
            && layout.indexes.iter().zip(oids.indexes).all(|(index, oid)| index.is_as_made(oid));
        pg_sys::list_free(list);
        relation
    };
    learn(address, oids);
    (relation, oids)
}

/// The OID of a table.
pub fn oid(layout: &'static Layout) -> pg_sys::Oid {
    let address = std::ptr::from_ref(layout) as usize;
    known(address).map_or_else(|| Store::open(layout).oids.table, |oids| oids.table)
}

/// The OID of a sequence of the extension.
pub fn sequence(name: &'static CStr) -> pg_sys::Oid {
    let address = name.as_ptr() as usize;
    known(address).map_or_else(
        || {
            let table = named(name);
            let oids = Oids { table, indexes: [pg_sys::InvalidOid; INDEXES], as_made: true };
            learn(address, oids);
            table
        },
        |oids| oids.table,
    )
}

/// The OID of a relation of the extension.
pub fn named(name: &CStr) -> pg_sys::Oid {
    // SAFETY: look-ups by name.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(c"rowclaim".as_ptr(), false)) }
}
