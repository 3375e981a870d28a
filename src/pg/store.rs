//! Direct reads and writes of the extension's own tables, for the paths that run once per user row
//! or transaction. No privileges are involved, so nothing has to be switched, and nothing is planned.

mod layout;
mod write;

pub use layout::{forget, is_text, named, oid, sequence, Index, Layout, Only};
pub use write::{Fresh, Locked};

use super::memory::owned;
use super::scan::scan;
use super::trigger::Values;
use super::value::text_datum;
use super::xact::Moment;
use layout::{Oids, COLUMNS, INDEXES};
use pgrx::pg_sys;
use std::cell::Cell;

/// A condition on one column of an index.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    Oid(pg_sys::Oid),
    Text(&'a str),
    I32(i32),
    I64(i64),
    AtLeast(i64),
    Below(i64),
}

impl Key<'_> {
    /// B-tree strategy, function and argument.
    fn parts(&self) -> (u32, u32, pg_sys::Datum) {
        let equal = pg_sys::BTEqualStrategyNumber;
        match *self {
            Key::Oid(oid) => (equal, pg_sys::F_OIDEQ, pg_sys::Datum::from(oid.to_u32())),
            Key::Text(text) => (equal, pg_sys::F_TEXTEQ, text_datum(text)),
            Key::I32(n) => (equal, pg_sys::F_INT4EQ, pg_sys::Datum::from(n)),
            Key::I64(n) => (equal, pg_sys::F_INT8EQ, pg_sys::Datum::from(n)),
            Key::AtLeast(n) => (pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, pg_sys::Datum::from(n)),
            Key::Below(n) => (pg_sys::BTLessStrategyNumber, pg_sys::F_INT8LT, pg_sys::Datum::from(n)),
        }
    }
}

/// One of the extension's tables, open for the length of a call.
pub struct Store {
    layout: &'static Layout,
    oids: Oids,
    relation: pg_sys::Relation,
    /// Opened when they are needed.
    indexes: [Cell<pg_sys::Relation>; INDEXES],
}

/// A row that was found, with its attributes.
pub struct Found {
    pub tid: pg_sys::ItemPointerData,
    values: Vec<Option<pg_sys::Datum>>,
    tuple: pg_sys::HeapTuple,
}

impl Found {
    /// Attribute `index` (0-based).
    pub fn get(&self, index: usize) -> Option<pg_sys::Datum> {
        self.values.get(index).copied().flatten()
    }

    pub fn i64(&self, index: usize) -> Option<i64> {
        self.get(index).map(|d| d.value() as i64)
    }

    pub fn text(&self, index: usize) -> Option<String> {
        // SAFETY: used for text columns only; the tuple copy is alive.
        self.get(index).map(|d| owned(unsafe { super::value::text(d) }))
    }

    pub fn oid(&self, index: usize) -> pg_sys::Oid {
        self.get(index).map_or(pg_sys::InvalidOid, |d| pg_sys::Oid::from(d.value() as u32))
    }

    pub fn char(&self, index: usize) -> Option<u8> {
        self.get(index).map(|d| d.value() as u8)
    }

    /// All attributes, to be written again with some replaced.
    pub fn row(&self) -> Vec<Option<pg_sys::Datum>> {
        self.values.clone()
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: our own copy of the tuple.
            unsafe { pg_sys::heap_freetuple(self.tuple) };
        }
    }
}

impl Store {
    /// Opens a table; its lock (ROW EXCLUSIVE) is kept to the end of the transaction.
    pub fn open(layout: &'static Layout) -> Store {
        // Closed in Drop.
        let (relation, oids) = layout::open(layout, pg_sys::RowExclusiveLock as i32);
        Store { layout, oids, relation, indexes: [const { Cell::new(std::ptr::null_mut()) }; INDEXES] }
    }

    fn index(&self, number: usize) -> pg_sys::Relation {
        let slot = &self.indexes[number];
        if slot.get().is_null() {
            // SAFETY: closed in Drop.
            slot.set(unsafe { pg_sys::index_open(self.oids.indexes[number], pg_sys::RowExclusiveLock as i32) });
        }
        slot.get()
    }

    /// Finds the entry of a user's row, by (relid, key), in what is committed by now plus this
    /// transaction's own writes.
    pub fn find(&self, relid: pg_sys::Oid, key: &str) -> Option<Found> {
        self.find_by(0, &[Key::Oid(relid), Key::Text(key)])
    }

    /// As [`Store::find`] by the first columns of another index.
    pub fn find_by(&self, index: usize, keys: &[Key]) -> Option<Found> {
        self.first(index, keys, &Moment::with_own_writes())
    }

    /// As [`Store::find`], in what was committed at a moment.
    pub fn find_at(&self, relid: pg_sys::Oid, key: &str, moment: &Moment) -> Option<Found> {
        self.first(0, &[Key::Oid(relid), Key::Text(key)], moment)
    }

    /// Visits the rows of one user's table in a partial index on relid, until `visit` says false; all
    /// of them, if the installed schema is older than the index.
    pub fn each_of(&self, index: usize, relid: pg_sys::Oid, mut visit: impl FnMut(Found) -> bool) {
        let moment = Moment::with_own_writes();
        // SAFETY: the tuple is valid while it is visited.
        let copy = |tuple| unsafe { self.copy(tuple) };
        if self.has_index(index) {
            return self.scan(index, &[Key::Oid(relid)], &moment, |tuple| visit(copy(tuple)));
        }
        scan(self.relation, &moment, |tuple| {
            let found = copy(tuple);
            found.get(0) != Some(pg_sys::Datum::from(relid.to_u32())) || visit(found)
        });
    }

    fn first(&self, index: usize, keys: &[Key], moment: &Moment) -> Option<Found> {
        let mut found = None;
        self.scan(index, keys, moment, |tuple| {
            // SAFETY: the tuple is valid while it is visited.
            found = Some(unsafe { self.copy(tuple) });
            false
        });
        found
    }

    /// Visits the attributes of all rows with these keys, in the order of the index, until `visit`
    /// says false.
    pub fn each(&self, index: usize, keys: &[Key], moment: &Moment, mut visit: impl FnMut(Values) -> bool) {
        self.each_by(index, keys, moment, |row, _| visit(row));
    }

    /// As [`Store::each`], with the id of the transaction that wrote the row.
    pub fn each_by(&self, index: usize, keys: &[Key], moment: &Moment, mut visit: impl FnMut(Values, u32) -> bool) {
        // SAFETY: the relation is open.
        let desc = unsafe { (*self.relation).rd_att };
        // SAFETY: as above.
        let natts = unsafe { (*desc).natts } as usize;
        let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); natts], vec![false; natts]);
        self.scan(index, keys, moment, |tuple| {
            // SAFETY: the arrays have one entry per attribute; the tuple is valid while it is visited.
            let writer = unsafe {
                pg_sys::heap_deform_tuple(tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
                (*(*tuple).t_data).t_choice.t_heap.t_xmin
            };
            visit(Values::of_arrays(&values, &nulls), u32::from(writer))
        });
    }

    /// As [`Store::each`], with copies that can be kept and changed.
    pub fn each_found(&self, index: usize, keys: &[Key], moment: &Moment, mut visit: impl FnMut(Found) -> bool) {
        // SAFETY: the tuple is valid while it is visited.
        self.scan(index, keys, moment, |tuple| visit(unsafe { self.copy(tuple) }));
    }

    /// `keys` are for the columns of the index in order; conditions on one column may follow each other.
    fn scan(&self, index: usize, keys: &[Key], moment: &Moment, mut visit: impl FnMut(pg_sys::HeapTuple) -> bool) {
        let columns = self.layout.indexes[index].columns;
        let index = self.index(index);
        let mut scan_keys = [pg_sys::ScanKeyData::default(); COLUMNS + 1];
        // SAFETY: the conditions have the types of the index's columns; the relations stay open and
        // the snapshot registered during the scan.
        unsafe {
            let mut place = 0;
            for (i, key) in keys.iter().enumerate() {
                if i > 0 && !(matches!(key, Key::Below(_)) && matches!(keys[i - 1], Key::AtLeast(_))) {
                    place += 1;
                }
                let (strategy, function, argument) = key.parts();
                pg_sys::ScanKeyEntryInitialize(
                    &mut scan_keys[i],
                    0,
                    columns[place] as i16 + 1,
                    strategy as u16,
                    *(*index).rd_opcintype.add(place),
                    *(*index).rd_indcollation.add(place),
                    pg_sys::Oid::from(function),
                    argument,
                );
            }
            let scan = pg_sys::systable_beginscan_ordered(
                self.relation,
                index,
                moment.snapshot(),
                keys.len() as i32,
                scan_keys.as_mut_ptr(),
            );
            loop {
                super::memory::check_in_loop();
                let tuple = pg_sys::systable_getnext_ordered(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if tuple.is_null() || !visit(tuple) {
                    break;
                }
            }
            pg_sys::systable_endscan_ordered(scan);
            for (key, scan_key) in keys.iter().zip(&scan_keys) {
                if let Key::Text(_) = key {
                    pg_sys::pfree(scan_key.sk_argument.cast_mut_ptr());
                }
            }
        }
    }

    unsafe fn copy(&self, tuple: pg_sys::HeapTuple) -> Found {
        let tuple = pg_sys::heap_copytuple(tuple);
        let desc = (*self.relation).rd_att;
        let natts = (*desc).natts as usize;
        let mut datums = vec![pg_sys::Datum::from(0); natts];
        let mut nulls = vec![false; natts];
        pg_sys::heap_deform_tuple(tuple, desc, datums.as_mut_ptr(), nulls.as_mut_ptr());
        let values = datums.into_iter().zip(nulls).map(|(d, null)| (!null).then_some(d)).collect();
        Found { tid: (*tuple).t_self, values, tuple }
    }

    /// Is there this index? The installed schema may be older.
    pub fn has_index(&self, index: usize) -> bool {
        self.oids.indexes[index] != pg_sys::InvalidOid
    }

    /// Are there triggers, which a direct write would not fire?
    pub fn has_triggers(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { !(*self.relation).trigdesc.is_null() }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by this store; the locks stay until the transaction ends.
            unsafe {
                for index in self.indexes.iter().map(Cell::get).filter(|index| !index.is_null()) {
                    pg_sys::index_close(index, pg_sys::NoLock as i32);
                }
                pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
            }
        }
    }
}
