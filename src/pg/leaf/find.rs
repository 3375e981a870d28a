//! Finding a row by an index or a place, and locking it.

use super::{InProgress, Leaf, Look, Written};
use crate::pg::ffi::primary_key_index;
use crate::pg::shape::{index_columns, Shape};
use crate::pg::xact::Moment;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::rc::Rc;

/// A unique index rows are found by.
pub(super) struct Index {
    pub(super) relation: pg_sys::Relation,
    /// Equality function per column.
    equal: Rc<[pg_sys::Oid]>,
    /// The scan of [`Leaf::seek`].
    pub(super) scan: Option<Scan>,
}

/// A scan that goes from key to key.
pub(super) struct Scan {
    pub(super) desc: pg_sys::IndexScanDesc,
    keys: Vec<pg_sys::ScanKeyData>,
    dirty: Box<pg_sys::SnapshotData>,
}

impl Leaf {
    /// The unique, immediate, total index on exactly these attributes, with the place of each of
    /// its columns among them; the primary key if it fits.
    pub fn index_on(relation: pg_sys::Relation, attributes: &[usize]) -> Option<(pg_sys::Oid, Vec<usize>)> {
        // SAFETY: the relation is open; its index list is a copy, and each index is opened while
        // its form is read.
        unsafe {
            let list = pg_sys::RelationGetIndexList(relation);
            let primary = primary_key_index(relation);
            let mut found = None;
            let count = if list.is_null() { 0 } else { (*list).length as usize };
            for oid in (0..count).map(|i| (*(*list).elements.add(i)).oid_value) {
                let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
                let form = (*index).rd_index;
                let fits = (*form).indisunique
                    && (*form).indimmediate
                    && (*form).indisvalid
                    && (*form).indnkeyatts as usize == attributes.len()
                    && pg_sys::RelationGetIndexPredicate(index).is_null()
                    && pg_sys::RelationGetIndexExpressions(index).is_null();
                pg_sys::index_close(index, pg_sys::AccessShareLock as i32);
                if !fits || found.is_some() && oid != primary {
                    continue;
                }
                let places: Option<Vec<usize>> =
                    index_columns(oid).iter().map(|column| attributes.iter().position(|a| a == column)).collect();
                found = places.map(|places| (oid, places)).or(found);
            }
            found
        }
    }

    /// Finds a row by the index's columns (in its order). `Some(Some(..))`: a transaction in
    /// progress has inserted it (then there is no committed row) or is changing it.
    pub fn find(&mut self, key: &[pg_sys::Datum], look: Look) -> Option<InProgress> {
        let index = self.index.as_ref()?;
        // SAFETY: the index is open and key has one non-null value per column of it.
        unsafe {
            let mut keys = index.keys(key);
            let mut dirty = dirty_snapshot();
            let registered = match look {
                Look::Latest => pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()),
                Look::Dirty => std::ptr::null_mut(),
            };
            let snapshot: pg_sys::Snapshot = if registered.is_null() { &mut dirty } else { registered };
            let count = key.len() as i32;
            let scan = index.begin(self.relation, snapshot, count);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
            let found = pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, self.found);
            pg_sys::index_endscan(scan);
            if !registered.is_null() {
                pg_sys::UnregisterSnapshot(registered);
            }
            found.then(|| if look == Look::Dirty { in_progress(&dirty) } else { None })
        }
    }

    /// As [`Leaf::find`] with [`Look::Dirty`], one key after the other: the scan stays open, and what it holds is let go of by
    /// [`Leaf::end_query`]. Not across the start or end of a subtransaction.
    pub fn seek(&mut self, key: &[pg_sys::Datum]) -> Option<InProgress> {
        // SAFETY: as in find(); what the scan allocates on its way lives as long as it, in the estate.
        unsafe {
            let context = (*self.estate()).es_query_cxt;
            let index = self.index.as_mut()?;
            let outer = std::mem::replace(&mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext), context);
            if index.scan.is_none() {
                let mut dirty = Box::new(dirty_snapshot());
                let desc = index.begin(self.relation, &mut *dirty, key.len() as i32);
                index.scan = Some(Scan { desc, keys: index.keys(key), dirty });
            }
            let Some(scan) = &mut index.scan else { return None };
            for (scan_key, datum) in scan.keys.iter_mut().zip(key) {
                scan_key.sk_argument = *datum;
            }
            scan.restart();
            let found = pg_sys::index_getnext_slot(scan.desc, pg_sys::ScanDirection::ForwardScanDirection, self.found);
            pg_sys::CurrentMemoryContext = outer;
            found.then(|| in_progress(&scan.dirty))
        }
    }

    /// Fetches the row at a place; false if it is gone.
    pub fn fetch(&mut self, tid: pg_sys::ItemPointerData) -> bool {
        self.fetch_at(tid, &Moment::now())
    }

    /// As [`Leaf::fetch`], as of a moment.
    pub fn fetch_at(&mut self, mut tid: pg_sys::ItemPointerData, moment: &Moment) -> bool {
        // SAFETY: the relation is open; the moment's snapshot is registered.
        unsafe { pg_sys::table_tuple_fetch_row_version(self.relation, &mut tid, moment.snapshot(), self.found) }
    }

    /// Locks the row found last if a BEFORE trigger is to see it: as [`Leaf::lock`].
    pub fn lock_for_triggers(&mut self) -> Written {
        // SAFETY: the trigger descriptor is the result relation's own copy.
        let before = unsafe {
            let triggers = (*self.info()).ri_TrigDesc;
            !triggers.is_null() && ((*triggers).trig_update_before_row || (*triggers).trig_delete_before_row)
        };
        if before {
            self.lock()
        } else {
            Written::Done
        }
    }

    /// Locks the row found last against concurrent writers, waiting for one at work.
    ///
    /// Returns [`Written::Changed`] when it must be looked for again.
    pub fn lock(&mut self) -> Written {
        // SAFETY: find() left a tuple in the slot; the access method is the relation's own.
        unsafe {
            let lock = (*(*self.relation).rd_tableam).tuple_lock;
            let mut target = (*self.found).tts_tid;
            let mut failure = pg_sys::TM_FailureData::default();
            let cid = pg_sys::GetCurrentCommandId(false);
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let result = pg_guard_ffi_boundary(|| match lock {
                Some(lock) => lock(
                    self.relation,
                    &mut target,
                    snapshot,
                    self.found,
                    cid,
                    pg_sys::LockTupleMode::LockTupleExclusive,
                    pg_sys::LockWaitPolicy::LockWaitBlock,
                    0,
                    &mut failure,
                ),
                None => pg_sys::TM_Result::TM_Invisible,
            });
            pg_sys::UnregisterSnapshot(snapshot);
            match result {
                pg_sys::TM_Result::TM_Ok => Written::Done,
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => Written::Changed,
                other => pgrx::error!("unexpected result {other} of a row lock"),
            }
        }
    }
}

impl Index {
    pub(super) unsafe fn open(oid: pg_sys::Oid, shape: &Shape) -> Index {
        let relation = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as i32);
        let equal = || equality(relation);
        let equal = if oid == shape.key_index { shape.key_equal.get_or_init(equal).clone() } else { equal() };
        Index { relation, equal, scan: None }
    }

    /// Scan keys for one non-null value per column.
    unsafe fn keys(&self, key: &[pg_sys::Datum]) -> Vec<pg_sys::ScanKeyData> {
        let mut keys = vec![pg_sys::ScanKeyData::default(); key.len()];
        for (i, datum) in key.iter().enumerate() {
            pg_sys::ScanKeyEntryInitialize(
                &mut keys[i],
                0,
                i as i16 + 1,
                pg_sys::BTEqualStrategyNumber as u16,
                *(*self.relation).rd_opcintype.add(i),
                *(*self.relation).rd_indcollation.add(i),
                self.equal[i],
                *datum,
            );
        }
        keys
    }

    unsafe fn begin(&self, table: pg_sys::Relation, snapshot: pg_sys::Snapshot, count: i32) -> pg_sys::IndexScanDesc {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::index_beginscan(table, self.relation, snapshot, count, 0);
        #[cfg(feature = "pg18")]
        return pg_sys::index_beginscan(table, self.relation, snapshot, std::ptr::null_mut(), count, 0);
    }
}

/// The equality function of each column of an index.
unsafe fn equality(index: pg_sys::Relation) -> Rc<[pg_sys::Oid]> {
    (0..(*(*index).rd_index).indnkeyatts as usize)
        .map(|i| {
            let typ = *(*index).rd_opcintype.add(i);
            let family = *(*index).rd_opfamily.add(i);
            pg_sys::get_opcode(pg_sys::get_opfamily_member(family, typ, typ, pg_sys::BTEqualStrategyNumber as i16))
        })
        .collect()
}

impl Scan {
    /// Goes to its keys, letting go of what it holds.
    pub(super) unsafe fn restart(&mut self) {
        pg_sys::index_rescan(self.desc, self.keys.as_mut_ptr(), self.keys.len() as i32, std::ptr::null_mut(), 0);
    }
}

fn dirty_snapshot() -> pg_sys::SnapshotData {
    pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() }
}

/// The transaction in progress on the row found with this snapshot.
fn in_progress(dirty: &pg_sys::SnapshotData) -> InProgress {
    if dirty.xmin != pg_sys::InvalidTransactionId {
        Some((dirty.xmin, true))
    } else if dirty.xmax != pg_sys::InvalidTransactionId {
        Some((dirty.xmax, false))
    } else {
        None
    }
}
