//! Direct writes to the extension's own tables, for the paths that run once per user row.
//! No privileges are involved, so nothing has to be switched.

use super::value::text_datum;
use super::xact::Moment;
use pgrx::pg_sys;
use std::ffi::CStr;

/// One of the extension's tables, open for the length of a call.
pub struct Store {
    relation: pg_sys::Relation,
    index: pg_sys::Oid,
}

/// A row found by (relid, key), with its attributes.
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
        self.get(index).map(|d| unsafe { super::value::text(d).to_owned() })
    }

    pub fn char(&self, index: usize) -> Option<u8> {
        self.get(index).map(|d| d.value() as u8)
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
    /// Opens `rowclaim.<table>`; `index` is its unique index on (relid, key).
    pub fn open(table: &CStr, index: &CStr) -> Store {
        // SAFETY: look-ups by name; the relation is closed in Drop, its lock kept to commit.
        unsafe {
            let schema = pg_sys::get_namespace_oid(c"rowclaim".as_ptr(), false);
            let relid = pg_sys::get_relname_relid(table.as_ptr(), schema);
            let index = pg_sys::get_relname_relid(index.as_ptr(), schema);
            Store { relation: pg_sys::table_open(relid, pg_sys::RowExclusiveLock as i32), index }
        }
    }

    /// Finds the entry of a row in what is committed by now plus this transaction's own writes.
    pub fn find(&self, relid: pg_sys::Oid, key: &str) -> Option<Found> {
        self.find_by(relid, key, 1)
    }

    /// As [`Store::find`] by an index on relid and attribute `column` (0-based).
    pub fn find_by(&self, relid: pg_sys::Oid, key: &str, column: i16) -> Option<Found> {
        let now = Moment::now();
        // SAFETY: the snapshot is this call's own copy. This command's own entries count too.
        unsafe { (*now.snapshot()).curcid = pg_sys::CommandId::MAX - 1 };
        self.look_up(relid, key, column, &now)
    }

    /// As [`Store::find`], in what was committed at a moment.
    pub fn find_at(&self, relid: pg_sys::Oid, key: &str, moment: &Moment) -> Option<Found> {
        self.look_up(relid, key, 1, moment)
    }

    fn look_up(&self, relid: pg_sys::Oid, key: &str, column: i16, moment: &Moment) -> Option<Found> {
        // SAFETY: the scan keys match the index (relid oid, key text); the tuple is copied before
        // the scan ends.
        unsafe {
            let text = text_datum(key);
            let mut keys = [pg_sys::ScanKeyData::default(); 2];
            pg_sys::ScanKeyInit(
                &mut keys[0],
                1,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::from(pg_sys::F_OIDEQ),
                pg_sys::Datum::from(relid.to_u32()),
            );
            pg_sys::ScanKeyInit(
                &mut keys[1],
                column + 1,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::from(pg_sys::F_TEXTEQ),
                text,
            );
            let scan =
                pg_sys::systable_beginscan(self.relation, self.index, true, moment.snapshot(), 2, keys.as_mut_ptr());
            let tuple = pg_sys::systable_getnext(scan);
            let found = (!tuple.is_null()).then(|| self.copy(tuple));
            pg_sys::systable_endscan(scan);
            pg_sys::pfree(text.cast_mut_ptr());
            found
        }
    }

    /// Visits the rows of a relation that have a flag (by attribute number) set, by an index on relid and the flag,
    /// until `visit` says false. All of them, if the installed schema is older than the index.
    pub fn each(&self, relid: pg_sys::Oid, flag: i16, mut visit: impl FnMut(Found) -> bool) {
        let now = Moment::now();
        // SAFETY: as in look_up().
        unsafe {
            (*now.snapshot()).curcid = pg_sys::CommandId::MAX - 1;
            let mut keys = [pg_sys::ScanKeyData::default(); 2];
            let equal = pg_sys::BTEqualStrategyNumber as u16;
            let (is_relid, is_set) = (pg_sys::Oid::from(pg_sys::F_OIDEQ), pg_sys::Oid::from(pg_sys::F_BOOLEQ));
            pg_sys::ScanKeyInit(&mut keys[0], 1, equal, is_relid, pg_sys::Datum::from(relid.to_u32()));
            pg_sys::ScanKeyInit(&mut keys[1], flag, equal, is_set, pg_sys::Datum::from(true));
            let indexed = self.index != pg_sys::InvalidOid;
            let count = if indexed { 2 } else { 1 };
            let scan = pg_sys::systable_beginscan(
                self.relation,
                self.index,
                indexed,
                now.snapshot(),
                count,
                keys.as_mut_ptr(),
            );
            loop {
                pgrx::check_for_interrupts!();
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() || !visit(self.copy(tuple)) {
                    break;
                }
            }
            pg_sys::systable_endscan(scan);
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

    /// Are there triggers, which a direct write would not fire?
    pub fn has_triggers(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { !(*self.relation).trigdesc.is_null() }
    }

    /// Appends a row.
    pub fn insert(&self, row: &[Option<pg_sys::Datum>]) {
        // SAFETY: one value per attribute of the table, in order.
        unsafe {
            let tuple = self.form(row);
            pg_sys::CatalogTupleInsert(self.relation, tuple);
            pg_sys::heap_freetuple(tuple);
        }
    }

    /// Replaces a found row. A concurrent change of it is an error: the user row's lock excludes it.
    pub fn update(&self, found: &Found, row: &[Option<pg_sys::Datum>]) {
        // SAFETY: as in insert(); the place is the found row's, which may be this command's own.
        unsafe {
            pg_sys::CommandCounterIncrement();
            let tuple = self.form(row);
            let mut tid = found.tid;
            pg_sys::CatalogTupleUpdate(self.relation, &mut tid, tuple);
            pg_sys::heap_freetuple(tuple);
        }
    }

    pub fn delete(&self, found: &Found) {
        // SAFETY: the place is the found row's.
        unsafe {
            pg_sys::CommandCounterIncrement();
            let mut tid = found.tid;
            pg_sys::CatalogTupleDelete(self.relation, &mut tid);
        }
    }

    /// Deletes a found row, waiting for a transaction that is changing it; false if it did.
    pub fn try_delete(&self, found: &Found) -> bool {
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: the place is the found row's; there is no snapshot to check against.
        let result = unsafe {
            pg_sys::CommandCounterIncrement();
            let (mut tid, none) = (found.tid, std::ptr::null_mut());
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::heap_delete(self.relation, &mut tid, command, none, true, &mut failure, false)
        };
        match result {
            pg_sys::TM_Result::TM_Ok => true,
            pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => false,
            other => pgrx::error!("unexpected result {other} of a deletion"),
        }
    }

    unsafe fn form(&self, row: &[Option<pg_sys::Datum>]) -> pg_sys::HeapTuple {
        let mut values: Vec<_> = row.iter().map(|v| v.unwrap_or(pg_sys::Datum::from(0))).collect();
        let mut nulls: Vec<_> = row.iter().map(Option::is_none).collect();
        pg_sys::heap_form_tuple((*self.relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in open(); the lock stays until the transaction ends.
            unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as i32) };
        }
    }
}
