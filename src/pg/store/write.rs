//! Writing and locking rows of the extension's tables.

use super::layout::{Index, COLUMNS};
use super::{Found, Store};
use crate::pg::owner::AsTableOwner;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// The server's functions as they are: pgrx would put an error boundary around each call, and here one does for many.
mod server {
    use pgrx::pg_sys;

    extern "C-unwind" {
        pub fn index_insert(
            index: pg_sys::Relation,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
            tid: pg_sys::ItemPointer,
            table: pg_sys::Relation,
            check: pg_sys::IndexUniqueCheck::Type,
            unchanged: bool,
            info: *mut pg_sys::IndexInfo,
        ) -> bool;
        pub fn MakeSingleTupleTableSlot(
            desc: pg_sys::TupleDesc,
            ops: *const pg_sys::TupleTableSlotOps,
        ) -> *mut pg_sys::TupleTableSlot;
        pub fn ExecStoreVirtualTuple(slot: *mut pg_sys::TupleTableSlot) -> *mut pg_sys::TupleTableSlot;
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

/// What came of locking or replacing a found row.
#[derive(Clone, Copy, PartialEq)]
pub enum Locked {
    Done,
    /// Another transaction has it.
    Taken,
    /// It was changed or deleted since: look again.
    Changed,
}

impl Store {
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

    /// Appends rows together; returns the places of those that were left out. What it needs in between stays in the current
    /// memory context.
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
            let mut slots = Vec::with_capacity(rows.len());
            // SAFETY: one value per attribute of the table, in order; the slots are this function's own. What is called in
            // a boundary is the server's, and nothing in there is to be dropped.
            unsafe {
                // A copy: slots of the relation's own descriptor would each be noted and forgotten one by one.
                let desc = pg_sys::CreateTupleDescCopy((*self.relation).rd_att);
                pg_guard_ffi_boundary(|| slots.extend(rows.iter().map(|fresh| slot(desc, &fresh.row))));
                let mut from = 0;
                for run in rows.chunk_by(|a, b| a.command == b.command) {
                    let slots = slots[from..from + run.len()].as_mut_ptr();
                    let (count, none) = (run.len() as i32, std::ptr::null_mut());
                    pg_sys::heap_multi_insert(self.relation, slots, count, run[0].command, 0, none);
                    from += run.len();
                }
                for (number, index) in self.layout.indexes.iter().enumerate() {
                    if !rows.iter().any(|fresh| index.has(&fresh.row)) {
                        continue;
                    }
                    let relation = self.index(number);
                    pg_guard_ffi_boundary(|| {
                        for ((fresh, slot), left) in rows.iter().zip(&slots).zip(&mut left) {
                            if !*left && index.has(&fresh.row) {
                                let yields = number == 0 && fresh.yields;
                                let tid = &mut (**slot).tts_tid;
                                *left = !self.enter(relation, index, &fresh.row, tid, yields) && yields;
                            }
                        }
                    });
                }
                if left.contains(&true) {
                    pg_sys::CommandCounterIncrement();
                }
                for (slot, left) in slots.iter().zip(&left) {
                    if *left {
                        pg_sys::simple_heap_delete(self.relation, &mut (**slot).tts_tid);
                    }
                }
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

    /// Replaces a found row, unless another transaction has it; never waits.
    pub fn try_update(&self, found: &Found, row: &[Option<pg_sys::Datum>]) -> Locked {
        let locked = self.try_lock(found);
        if locked == Locked::Done {
            self.update(found, row);
        }
        locked
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
            if index.has(row) {
                let relation = self.index(number);
                pg_guard_ffi_boundary(|| self.enter(relation, index, row, tid, false));
            }
        }
    }

    /// Enters a row into an index that is to have it. `yields`: false, instead of an error, if its key may be taken.
    ///
    /// # Safety
    /// Called in an error boundary; `relation` is the index, open.
    unsafe fn enter(
        &self,
        relation: pg_sys::Relation,
        index: &Index,
        row: &[Option<pg_sys::Datum>],
        tid: pg_sys::ItemPointer,
        yields: bool,
    ) -> bool {
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
        server::index_insert(
            relation,
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
///
/// # Safety
/// Called in an error boundary; one value per attribute.
unsafe fn slot(desc: pg_sys::TupleDesc, row: &[Option<pg_sys::Datum>]) -> *mut pg_sys::TupleTableSlot {
    let slot = server::MakeSingleTupleTableSlot(desc, &pg_sys::TTSOpsVirtual);
    for (i, value) in row.iter().enumerate() {
        *(*slot).tts_values.add(i) = value.unwrap_or(pg_sys::Datum::from(0));
        *(*slot).tts_isnull.add(i) = value.is_none();
    }
    server::ExecStoreVirtualTuple(slot)
}
