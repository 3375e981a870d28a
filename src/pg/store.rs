//! Direct reads and writes of the extension's own tables, for the paths that run once per user row
//! or transaction. No privileges are involved, so nothing has to be switched, and nothing is planned.

use super::owner::AsTableOwner;
use super::scan::scan;
use super::trigger::Values;
use super::value::text_datum;
use super::xact::Moment;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
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
const INDEXES: usize = 4;
const COLUMNS: usize = 3;

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

/// Is a text column of a row to be written this text?
pub fn is_text(row: &[Option<pg_sys::Datum>], column: usize, is: &str) -> bool {
    // SAFETY: used for text columns only.
    row[column].is_some_and(|datum| unsafe { super::value::text(datum) == is })
}

#[derive(Clone, Copy)]
struct Oids {
    table: pg_sys::Oid,
    indexes: [pg_sys::Oid; INDEXES],
    /// The table has exactly the indexes that it should have: nobody added or changed one.
    as_made: bool,
}

thread_local! {
    // By the address of the layout or of a sequence's name.
    static KNOWN: RefCell<Vec<(usize, Oids)>> = const { RefCell::new(Vec::new()) };
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
            KNOWN.with(|known| known.borrow_mut().push((address, oids)));
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
        self.get(index).map(|d| unsafe { super::value::text(d).to_owned() })
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

/// A row for [`Store::insert_all`].
pub struct Fresh<const N: usize> {
    pub row: [Option<pg_sys::Datum>; N],
    /// The command that writes it: this one, or an earlier one.
    pub command: pg_sys::CommandId,
    /// Left out if its key in the first index, a unique one, may be taken.
    pub yields: bool,
}

/// What came of locking a found row.
#[derive(Clone, Copy, PartialEq)]
pub enum Locked {
    Done,
    /// Another transaction has it.
    Taken,
    /// It was changed or deleted since: look again.
    Changed,
}

impl Store {
    /// Opens a table; its lock (ROW EXCLUSIVE) is kept to the end of the transaction.
    pub fn open(layout: &'static Layout) -> Store {
        let address = std::ptr::from_ref(layout) as usize;
        let lock = pg_sys::RowExclusiveLock as i32;
        let indexes = [const { Cell::new(std::ptr::null_mut()) }; INDEXES];
        if let Some(oids) = known(address) {
            // SAFETY: the relation is closed in Drop.
            return Store { layout, oids, relation: unsafe { pg_sys::table_open(oids.table, lock) }, indexes };
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
        KNOWN.with(|known| known.borrow_mut().push((address, oids)));
        Store { layout, oids, relation, indexes }
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
        if self.oids.indexes[index] != pg_sys::InvalidOid {
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
        // SAFETY: the relation is open.
        let desc = unsafe { (*self.relation).rd_att };
        // SAFETY: as above.
        let natts = unsafe { (*desc).natts } as usize;
        let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); natts], vec![false; natts]);
        self.scan(index, keys, moment, |tuple| {
            // SAFETY: the arrays have one entry per attribute; the tuple is valid while it is visited.
            unsafe { pg_sys::heap_deform_tuple(tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr()) };
            visit(Values::of_arrays(&values, &nulls))
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
                pgrx::check_for_interrupts!();
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
            pg_sys::simple_heap_insert(self.relation, tuple);
            match self.oids.as_made {
                true => self.insert_into_known(row, &mut (*tuple).t_self),
                false => self.insert_into_all(tuple),
            }
            pg_sys::heap_freetuple(tuple);
        }
    }

    /// Appends rows together; returns the places of those that were left out.
    pub fn insert_all<const N: usize>(&self, rows: &[Fresh<N>]) -> Vec<usize> {
        let mut left = vec![false; rows.len()];
        if !self.oids.as_made {
            for (fresh, left) in rows.iter().zip(&mut left) {
                *left = fresh.yields;
                if !fresh.yields {
                    self.insert(&fresh.row);
                }
            }
        } else {
            // SAFETY: one value per attribute of the table, in order; the slots are this function's own.
            unsafe {
                // A copy: slots of the relation's own descriptor would each be noted and forgotten one by one.
                let desc = pg_sys::CreateTupleDescCopy((*self.relation).rd_att);
                let mut slots: Vec<_> = rows.iter().map(|fresh| slot(desc, &fresh.row)).collect();
                let mut from = 0;
                for run in rows.chunk_by(|a, b| a.command == b.command) {
                    let slots = slots[from..from + run.len()].as_mut_ptr();
                    let (count, none) = (run.len() as i32, std::ptr::null_mut());
                    pg_sys::heap_multi_insert(self.relation, slots, count, run[0].command, 0, none);
                    from += run.len();
                }
                for (number, index) in self.layout.indexes.iter().enumerate() {
                    for ((fresh, slot), left) in rows.iter().zip(&slots).zip(&mut left) {
                        if !*left {
                            let yields = number == 0 && fresh.yields;
                            *left = !self.enter(number, index, &fresh.row, &mut (**slot).tts_tid, yields) && yields;
                        }
                    }
                }
                if left.contains(&true) {
                    pg_sys::CommandCounterIncrement();
                }
                for (slot, left) in slots.iter().zip(&left) {
                    if *left {
                        pg_sys::simple_heap_delete(self.relation, &mut (**slot).tts_tid);
                    }
                }
                slots.drain(..).for_each(|slot| pg_sys::ExecDropSingleTupleTableSlot(slot));
            }
        }
        left.iter().enumerate().filter_map(|(place, left)| left.then_some(place)).collect()
    }

    /// Replaces a found row. A concurrent change of it is an error: the user row's lock excludes it.
    pub fn update(&self, found: &Found, row: &[Option<pg_sys::Datum>]) {
        // SAFETY: as in insert(); the place is the found row's, which may be this command's own.
        unsafe {
            pg_sys::CommandCounterIncrement();
            let tuple = self.form(row);
            let mut tid = found.tid;
            #[cfg(feature = "pg15")]
            pg_sys::simple_heap_update(self.relation, &mut tid, tuple);
            #[cfg(not(feature = "pg15"))]
            {
                let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
                pg_sys::simple_heap_update(self.relation, &mut tid, tuple, &mut indexes);
            }
            let heap_only = (*(*tuple).t_data).t_infomask2 & pg_sys::HEAP_ONLY_TUPLE as u16 != 0;
            match heap_only {
                true => {}
                false if self.oids.as_made => self.insert_into_known(row, &mut (*tuple).t_self),
                false => self.insert_into_all(tuple),
            }
            pg_sys::heap_freetuple(tuple);
        }
    }

    pub fn delete(&self, found: &Found) {
        // SAFETY: the place is the found row's.
        unsafe {
            pg_sys::CommandCounterIncrement();
            let mut tid = found.tid;
            pg_sys::simple_heap_delete(self.relation, &mut tid);
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

    /// Locks a found row against writers and lockers, to the end of the transaction; never waits.
    pub fn try_lock(&self, found: &Found) -> Locked {
        self.lock_row(found, pg_sys::LockWaitPolicy::LockWaitSkip)
    }

    /// As [`Store::try_lock`], waiting for a transaction that has the row.
    pub fn lock(&self, found: &Found) -> Locked {
        self.lock_row(found, pg_sys::LockWaitPolicy::LockWaitBlock)
    }

    fn lock_row(&self, found: &Found, wait: pg_sys::LockWaitPolicy::Type) -> Locked {
        // SAFETY: the place is the found row's; the buffer is only pinned for the call.
        let result = unsafe {
            pg_sys::CommandCounterIncrement();
            let mut tuple = pg_sys::HeapTupleData { t_self: found.tid, ..Default::default() };
            let mut buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
            let mut failure = pg_sys::TM_FailureData::default();
            let result = pg_sys::heap_lock_tuple(
                self.relation,
                &mut tuple,
                pg_sys::GetCurrentCommandId(false),
                pg_sys::LockTupleMode::LockTupleExclusive,
                wait,
                false,
                &mut buffer,
                &mut failure,
            );
            pg_sys::ReleaseBuffer(buffer);
            result
        };
        match result {
            pg_sys::TM_Result::TM_Ok => Locked::Done,
            pg_sys::TM_Result::TM_WouldBlock => Locked::Taken,
            pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => Locked::Changed,
            other => pgrx::error!("unexpected result {other} of a lock on {}", self.layout.table.to_string_lossy()),
        }
    }

    unsafe fn insert_into_known(&self, row: &[Option<pg_sys::Datum>], tid: pg_sys::ItemPointer) {
        for (number, index) in self.layout.indexes.iter().enumerate() {
            self.enter(number, index, row, tid, false);
        }
    }

    /// Enters a row into an index that has it. `yields`: false, instead of an error, if its key may be taken.
    unsafe fn enter(
        &self,
        number: usize,
        index: &Index,
        row: &[Option<pg_sys::Datum>],
        tid: pg_sys::ItemPointer,
        yields: bool,
    ) -> bool {
        if index.only.as_ref().is_some_and(|only| !(only.holds)(row)) {
            return true;
        }
        let mut values = [pg_sys::Datum::from(0); COLUMNS];
        let mut nulls = [false; COLUMNS];
        for (place, column) in index.columns.iter().enumerate() {
            match row[*column] {
                Some(value) => values[place] = value,
                None => nulls[place] = true,
            }
        }
        let check = match index.unique {
            true if yields => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_PARTIAL,
            true => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
            false => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
        };
        // B-trees do not look at it.
        let mut info = pg_sys::IndexInfo { type_: pg_sys::NodeTag::T_IndexInfo, ..Default::default() };
        pg_sys::index_insert(
            self.index(number),
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            tid,
            self.relation,
            check,
            false,
            &mut info,
        )
    }

    /// As the executor does it, whatever indexes there are.
    unsafe fn insert_into_all(&self, tuple: pg_sys::HeapTuple) {
        let _owner = AsTableOwner::restricted((*(*self.relation).rd_rel).relowner);
        let estate = pg_sys::CreateExecutorState();
        let info: *mut pg_sys::ResultRelInfo = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
        (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
        pg_sys::InitResultRelInfo(info, self.relation, 0, std::ptr::null_mut(), 0);
        pg_sys::ExecOpenIndices(info, false);
        let slot = pg_sys::MakeSingleTupleTableSlot((*self.relation).rd_att, &pg_sys::TTSOpsHeapTuple);
        pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        let none = std::ptr::null_mut();
        #[cfg(feature = "pg15")]
        let list = pg_sys::ExecInsertIndexTuples(info, slot, estate, false, false, none, none.cast());
        #[cfg(not(feature = "pg15"))]
        let list = pg_sys::ExecInsertIndexTuples(info, slot, estate, false, false, none, none.cast(), false);
        pg_sys::list_free(list);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::ExecCloseIndices(info);
        pg_sys::FreeExecutorState(estate);
    }

    unsafe fn form(&self, row: &[Option<pg_sys::Datum>]) -> pg_sys::HeapTuple {
        let mut values: Vec<_> = row.iter().map(|v| v.unwrap_or(pg_sys::Datum::from(0))).collect();
        let mut nulls: Vec<_> = row.iter().map(Option::is_none).collect();
        pg_sys::heap_form_tuple((*self.relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr())
    }
}

/// A slot with a row.
unsafe fn slot(desc: pg_sys::TupleDesc, row: &[Option<pg_sys::Datum>]) -> *mut pg_sys::TupleTableSlot {
    let slot = pg_sys::MakeSingleTupleTableSlot(desc, &pg_sys::TTSOpsVirtual);
    for (i, value) in row.iter().enumerate() {
        *(*slot).tts_values.add(i) = value.unwrap_or(pg_sys::Datum::from(0));
        *(*slot).tts_isnull.add(i) = value.is_none();
    }
    pg_sys::ExecStoreVirtualTuple(slot)
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
