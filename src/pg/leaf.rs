//! One plain table or leaf partition, open for writing by the table access method and the
//! executor's own routines: rows found by a unique index, checked, indexed and, where wanted, seen
//! by triggers. Code of the table (CHECK, index expressions, defaults) runs as its owner.

use super::ffi::primary_key_index;
use super::owner::{AsOwner, AsTableOwner};
use super::shape::{index_columns, Shape};
use super::trigger::Values;
use super::value::same_image;
use super::xact::Moment;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::cell::OnceCell;
use std::ffi::CStr;
use std::rc::Rc;

/// Which version of a row to look for.
#[derive(Clone, Copy, PartialEq)]
pub enum Look {
    /// What is committed by now, and this transaction's own writes.
    Latest,
    /// As `Latest`, but telling about transactions in progress on the row.
    Dirty,
}

/// What became of a physical write.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Written {
    Done,
    /// Another transaction was faster; look again.
    Changed,
}

/// Which of a table's triggers fire.
#[derive(Clone, Copy, PartialEq)]
pub enum Fire {
    /// Only foreign key and deferred-unique checks.
    Checks,
    /// All that the session's replication role allows, except rowclaim's own.
    Users,
}

/// A transaction in progress on a row, and whether the row itself is uncommitted.
pub type InProgress = Option<(pg_sys::TransactionId, bool)>;

pub struct Leaf {
    pub shape: Rc<Shape>,
    pub relation: pg_sys::Relation,
    executor: OnceCell<Executor>,
    index: Option<Index>,
    /// The row found last.
    found: *mut pg_sys::TupleTableSlot,
    /// The row to be written.
    fresh: *mut pg_sys::TupleTableSlot,
    fire: Fire,
    in_query: bool,
}

/// What the executor's routines work with; only made when one of them is needed.
#[derive(Clone, Copy)]
struct Executor {
    estate: *mut pg_sys::EState,
    info: *mut pg_sys::ResultRelInfo,
    /// No index has an expression or a predicate: keeping them up runs none of the owner's code.
    plain: bool,
}

/// A unique index rows are found by.
struct Index {
    relation: pg_sys::Relation,
    /// Equality function per column.
    equal: Vec<pg_sys::Oid>,
    /// The scan of [`Leaf::seek`].
    scan: Option<Scan>,
}

/// A scan that goes from key to key.
struct Scan {
    desc: pg_sys::IndexScanDesc,
    keys: Vec<pg_sys::ScanKeyData>,
    dirty: Box<pg_sys::SnapshotData>,
}

/// Waits for a transaction in progress to end; deadlocks and timeouts are the server's business.
pub fn wait_for(xid: pg_sys::TransactionId) {
    // SAFETY: no relation or tuple is named; only the wait itself.
    unsafe { pg_sys::XactLockTableWait(xid, std::ptr::null_mut(), std::ptr::null_mut(), pg_sys::XLTW_Oper::XLTW_None) };
}

impl Leaf {
    /// Opens a table; the lock (ROW EXCLUSIVE) is kept to the end of the transaction.
    ///
    /// # Safety
    /// To be closed with [`Leaf::close`], or left to the (sub)transaction's abort.
    pub unsafe fn open(relid: pg_sys::Oid, shape: Rc<Shape>, index: Option<pg_sys::Oid>, fire: Fire) -> Leaf {
        let relation = pg_sys::table_open(relid, pg_sys::RowExclusiveLock as i32);
        let index = index.map(|index| Index::open(index));
        // Callers work in scratch contexts that are emptied between rows.
        let outer = std::mem::replace(
            &mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext),
            pg_sys::TopTransactionContext,
        );
        let found = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let fresh = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        pg_sys::CurrentMemoryContext = outer;
        Leaf { shape, relation, executor: OnceCell::new(), index, found, fresh, fire, in_query: false }
    }

    fn executor(&self) -> Executor {
        // SAFETY: the relation is open; what is made here is closed with the leaf.
        *self.executor.get_or_init(|| unsafe {
            // Index predicates are simplified when they are read, which may run the table owner's code.
            let _path = AsOwner::enter();
            let _owner = AsTableOwner::restricted(self.shape.owner);
            let outer = std::mem::replace(
                &mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext),
                pg_sys::TopTransactionContext,
            );
            let estate = pg_sys::CreateExecutorState();
            pg_sys::CurrentMemoryContext = (*estate).es_query_cxt;
            let info: *mut pg_sys::ResultRelInfo = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
            (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(info, self.relation, 0, std::ptr::null_mut(), 0);
            keep_triggers((*info).ri_TrigDesc, self.fire);
            pg_sys::ExecOpenIndices(info, self.fire == Fire::Users);
            pg_sys::CurrentMemoryContext = outer;
            let plain = (0..(*info).ri_NumIndices as usize).all(|i| {
                let index = *(*info).ri_IndexRelationInfo.add(i);
                (*index).ii_Expressions.is_null() && (*index).ii_Predicate.is_null()
            });
            Executor { estate, info, plain }
        })
    }

    /// The executor's state, for routines that are not here.
    pub fn estate(&self) -> *mut pg_sys::EState {
        self.executor().estate
    }

    fn info(&self) -> *mut pg_sys::ResultRelInfo {
        self.executor().info
    }

    /// # Safety
    /// Nothing of the leaf is used afterwards.
    pub unsafe fn close(self) {
        pg_sys::ExecDropSingleTupleTableSlot(self.found);
        pg_sys::ExecDropSingleTupleTableSlot(self.fresh);
        if let Some(executor) = self.executor.get() {
            // The slots that foreign key checks fetched old and new rows into.
            pg_sys::ExecResetTupleTable((*executor.estate).es_tupleTable, false);
            pg_sys::ExecCloseIndices(executor.info);
        }
        if let Some(index) = self.index {
            if let Some(scan) = index.scan {
                pg_sys::index_endscan(scan.desc);
            }
            pg_sys::index_close(index.relation, pg_sys::NoLock as i32);
        }
        pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        if let Some(executor) = self.executor.get() {
            pg_sys::FreeExecutorState(executor.estate);
        }
    }

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

    /// The row found last.
    pub fn values(&self) -> Values {
        // SAFETY: find() left a tuple in the slot.
        unsafe { Values::of_slot(self.found) }
    }

    /// The place of the row found last.
    pub fn place(&self) -> pg_sys::ItemPointerData {
        // SAFETY: the slot is open.
        unsafe { (*self.found).tts_tid }
    }

    /// The row to be written, as it was filled.
    pub fn fresh_values(&self) -> Values {
        // SAFETY: fill() or fill_new() left a tuple in the slot.
        unsafe { Values::of_slot(self.fresh) }
    }

    /// Makes the row to be written: the found one with some attributes replaced.
    pub fn fill(&mut self, set: &[(usize, Option<pg_sys::Datum>)]) {
        // SAFETY: the found slot holds a tuple; put() stays within the attributes.
        unsafe {
            let old = Values::of_slot(self.found);
            pg_sys::ExecClearTuple(self.fresh);
            for index in 0..self.shape.natts {
                self.put(index, old.get(index));
            }
            self.put_all(set);
        }
    }

    /// Makes the row to be written from nothing; attributes without a value are NULL.
    pub fn fill_new(&mut self, set: &[(usize, Option<pg_sys::Datum>)]) {
        // SAFETY: put() stays within the attributes.
        unsafe {
            pg_sys::ExecClearTuple(self.fresh);
            for index in 0..self.shape.natts {
                self.put(index, None);
            }
            self.put_all(set);
        }
    }

    /// A copy of the row to be written, to the end of the transaction.
    pub fn copy_fresh(&mut self) -> pg_sys::HeapTuple {
        // SAFETY: the slot holds a tuple; the caller's context is put back.
        unsafe {
            let outer = std::mem::replace(
                &mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext),
                pg_sys::TopTransactionContext,
            );
            let copy = pg_sys::ExecCopySlotHeapTuple(self.fresh);
            pg_sys::CurrentMemoryContext = outer;
            copy
        }
    }

    /// Makes a copied row the one to be written.
    pub fn fill_copy(&mut self, row: pg_sys::HeapTuple) {
        // SAFETY: the copy has the relation's attributes.
        unsafe {
            pg_sys::ExecClearTuple(self.fresh);
            let desc = (*self.relation).rd_att;
            pg_sys::heap_deform_tuple(row, desc, (*self.fresh).tts_values, (*self.fresh).tts_isnull);
            pg_sys::ExecStoreVirtualTuple(self.fresh);
        }
    }

    unsafe fn put_all(&mut self, set: &[(usize, Option<pg_sys::Datum>)]) {
        for (index, value) in set {
            self.put(*index, *value);
        }
        pg_sys::ExecStoreVirtualTuple(self.fresh);
    }

    unsafe fn put(&mut self, index: usize, value: Option<pg_sys::Datum>) {
        *(*self.fresh).tts_values.add(index) = value.unwrap_or(pg_sys::Datum::from(0));
        *(*self.fresh).tts_isnull.add(index) = value.is_none();
    }

    /// Lets BEFORE triggers see, and change, an update of the found row by the filled one that is
    /// made in two steps: [`Leaf::park`] and [`Leaf::unpark`].
    ///
    /// Returns false when a trigger does not want the update.
    pub fn before_update(&mut self) -> bool {
        let mut wanted = true;
        self.execute(|leaf| {
            // SAFETY: both slots hold tuples; the found row is locked if there are such triggers.
            unsafe {
                let triggers = (*leaf.info()).ri_TrigDesc;
                if triggers.is_null() || !(*triggers).trig_update_before_row {
                    return;
                }
                let mut epq = pg_sys::EPQState::default();
                let mut tid = (*leaf.found).tts_tid;
                #[cfg(feature = "pg15")]
                let result = pg_sys::ExecBRUpdateTriggersNew(
                    leaf.estate(),
                    &mut epq,
                    leaf.info(),
                    &mut tid,
                    std::ptr::null_mut(),
                    leaf.fresh,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                );
                #[cfg(any(feature = "pg16", feature = "pg17"))]
                let result = pg_sys::ExecBRUpdateTriggers(
                    leaf.estate(),
                    &mut epq,
                    leaf.info(),
                    &mut tid,
                    std::ptr::null_mut(),
                    leaf.fresh,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                );
                #[cfg(feature = "pg18")]
                let result = pg_sys::ExecBRUpdateTriggers(
                    leaf.estate(),
                    &mut epq,
                    leaf.info(),
                    &mut tid,
                    std::ptr::null_mut(),
                    leaf.fresh,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    false,
                );
                wanted = result;
            }
        });
        wanted
    }

    /// Runs an executor routine on behalf of the table's owner and frees what it left per row.
    fn execute(&mut self, body: impl FnOnce(&mut Leaf)) {
        let _owner = AsTableOwner::restricted(self.shape.owner);
        // SAFETY: the estate is open; nothing per row is used after the routine.
        unsafe {
            (*self.estate()).es_output_cid = pg_sys::GetCurrentCommandId(true);
            body(self);
            let context = (*self.estate()).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
        }
    }

    /// Replaces the found row by the filled one. After-row triggers wait for the end of the query.
    pub fn update(&mut self) {
        self.execute(|leaf| {
            let mut epq = pg_sys::EPQState::default();
            // SAFETY: both slots hold tuples; the executor checks constraints and maintains
            // generated columns and indexes.
            unsafe { pg_sys::ExecSimpleRelationUpdate(leaf.info(), leaf.estate(), &mut epq, leaf.found, leaf.fresh) };
        });
    }

    /// Deletes the found row.
    pub fn delete(&mut self) {
        self.execute(|leaf| {
            let mut epq = pg_sys::EPQState::default();
            // SAFETY: as in update().
            unsafe { pg_sys::ExecSimpleRelationDelete(leaf.info(), leaf.estate(), &mut epq, leaf.found) };
        });
    }

    /// Inserts the filled row.
    pub fn insert(&mut self) {
        self.execute(|leaf| {
            // SAFETY: as in update().
            unsafe { pg_sys::ExecSimpleRelationInsert(leaf.info(), leaf.estate(), leaf.fresh) };
        });
    }

    /// Removes the found row from the heap as the first half of an update whose second half is
    /// [`Leaf::unpark`]: it lets unique values be exchanged between rows.
    pub fn park(&mut self) -> pg_sys::ItemPointerData {
        // SAFETY: find() left a tuple in the slot; the access method is the relation's own.
        unsafe {
            let tid = (*self.found).tts_tid;
            let delete = (*(*self.relation).rd_tableam).tuple_delete;
            let mut failure = pg_sys::TM_FailureData::default();
            let mut target = tid;
            let cid = pg_sys::GetCurrentCommandId(true);
            let snapshot = std::ptr::null_mut();
            let result = pg_guard_ffi_boundary(|| match delete {
                Some(delete) => delete(self.relation, &mut target, cid, snapshot, snapshot, true, &mut failure, false),
                None => pg_sys::TM_Result::TM_Invisible,
            });
            if result != pg_sys::TM_Result::TM_Ok {
                pgrx::error!("could not put a row of {} aside", self.name());
            }
            tid
        }
    }

    /// Inserts the filled row as the new version of a parked one and queues the after-row triggers
    /// of an UPDATE.
    pub fn unpark(&mut self, tid: pg_sys::ItemPointerData) {
        // SAFETY: triggers are left out of the insertion and put back for the queueing.
        unsafe {
            let triggers = std::mem::replace(&mut (*self.info()).ri_TrigDesc, std::ptr::null_mut());
            self.insert();
            (*self.info()).ri_TrigDesc = triggers;
            let mut old = tid;
            let _owner = match self.fire {
                Fire::Checks => AsTableOwner::for_checks(self.shape.owner),
                Fire::Users => AsTableOwner::restricted(self.shape.owner),
            };
            pg_sys::ExecARUpdateTriggers(
                self.estate(),
                self.info(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                &mut old,
                std::ptr::null_mut(),
                self.fresh,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                false,
            );
        }
    }

    /// Is a unique value of the filled row another row's? `changed`: only values that differ from
    /// those of the found row count.
    pub fn conflicts(&mut self, changed: bool) -> bool {
        let indexes = self.unique_indexes(changed);
        if indexes.is_empty() {
            return false;
        }
        let own = changed.then(|| self.place());
        let mut taken = false;
        self.execute(|leaf| {
            // SAFETY: the fresh slot holds a tuple; the list is freed again.
            unsafe {
                let mut list = std::ptr::null_mut();
                for index in indexes {
                    list = pg_sys::lappend_oid(list, index);
                }
                let mut tid = pg_sys::ItemPointerData::default();
                #[cfg(not(feature = "pg18"))]
                let free = pg_sys::ExecCheckIndexConstraints(leaf.info(), leaf.fresh, leaf.estate(), &mut tid, list);
                #[cfg(feature = "pg18")]
                let free = pg_sys::ExecCheckIndexConstraints(
                    leaf.info(),
                    leaf.fresh,
                    leaf.estate(),
                    &mut tid,
                    std::ptr::null_mut(),
                    list,
                );
                pg_sys::list_free(list);
                let same = |own: pg_sys::ItemPointerData| {
                    own.ip_posid == tid.ip_posid
                        && own.ip_blkid.bi_hi == tid.ip_blkid.bi_hi
                        && own.ip_blkid.bi_lo == tid.ip_blkid.bi_lo
                };
                taken = !free && !own.is_some_and(same);
            }
        });
        taken
    }

    /// The immediate unique and exclusion indexes, or those whose columns the filled row changes.
    fn unique_indexes(&self, changed: bool) -> Vec<pg_sys::Oid> {
        let (old, new) = (changed.then(|| self.values()), self.fresh_values());
        let differs = |index: usize| match old.map(|old| (old.get(index), new.get(index))) {
            None => true,
            Some((None, None)) => false,
            // SAFETY: non-null values of the attribute.
            Some((Some(a), Some(b))) => unsafe { !same_image(self.shape.storage[index], a, b) },
            Some(_) => true,
        };
        // SAFETY: the index list was filled by ExecOpenIndices.
        unsafe {
            (0..(*self.info()).ri_NumIndices as usize)
                .filter_map(|i| {
                    let index = *(*self.info()).ri_IndexRelationDescs.add(i);
                    let info = *(*self.info()).ri_IndexRelationInfo.add(i);
                    let unique = (*info).ii_Unique || !(*info).ii_ExclusionOps.is_null();
                    let columns = (0..(*info).ii_NumIndexAttrs as usize).map(|k| (*info).ii_IndexAttrNumbers[k]);
                    // An expression or a predicate may use any column.
                    let touched = !(*info).ii_Predicate.is_null()
                        || columns.into_iter().any(|attnum| attnum <= 0 || differs(attnum as usize - 1));
                    (unique && (*(*index).rd_index).indimmediate && touched).then(|| (*index).rd_id)
                })
                .collect()
        }
    }

    /// Attribute indexes of columns in any unique index.
    pub fn unique_columns(&self) -> Vec<usize> {
        // SAFETY: the index list was filled by ExecOpenIndices.
        unsafe {
            let mut columns = Vec::new();
            for i in 0..(*self.info()).ri_NumIndices as usize {
                let index = *(*self.info()).ri_IndexRelationInfo.add(i);
                if (*index).ii_Unique || !(*index).ii_ExclusionOps.is_null() {
                    for k in 0..(*index).ii_NumIndexAttrs as usize {
                        match (*index).ii_IndexAttrNumbers[k] {
                            attnum if attnum > 0 => columns.push(attnum as usize - 1),
                            // An expression may use any column.
                            _ => return (0..self.shape.natts).collect(),
                        }
                    }
                }
            }
            columns
        }
    }

    /// Replaces the found row by the filled one without any trigger, waiting for a transaction that is changing it. Nothing
    /// is checked but what this transaction has written before.
    pub fn overwrite(&mut self) -> Written {
        // SAFETY: both slots hold tuples of the relation; the access method is its own.
        unsafe {
            let update = (*(*self.relation).rd_tableam).tuple_update;
            let mut failure = pg_sys::TM_FailureData::default();
            let mut mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
            let mut target = (*self.found).tts_tid;
            let cid = pg_sys::GetCurrentCommandId(true);
            let none = std::ptr::null_mut();
            #[cfg(feature = "pg15")]
            let mut indexes = false;
            #[cfg(not(feature = "pg15"))]
            let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
            let own = self.fire == Fire::Checks && self.is_own();
            let mut former = target;
            let mut recheck = std::ptr::null_mut();
            let result = pg_guard_ffi_boundary(|| match update {
                Some(update) => update(
                    self.relation,
                    &mut target,
                    self.fresh,
                    cid,
                    none,
                    none,
                    true,
                    &mut failure,
                    &mut mode,
                    &mut indexes,
                ),
                None => pg_sys::TM_Result::TM_Invisible,
            });
            match result {
                pg_sys::TM_Result::TM_Ok => {}
                pg_sys::TM_Result::TM_Updated
                | pg_sys::TM_Result::TM_Deleted
                // This command has changed it already.
                | pg_sys::TM_Result::TM_SelfModified => return Written::Changed,
                other => pgrx::error!("unexpected result {other} of a row update"),
            }
            #[cfg(feature = "pg15")]
            if indexes {
                recheck = self.insert_into_indexes();
            }
            #[cfg(not(feature = "pg15"))]
            if indexes != pg_sys::TU_UpdateIndexes::TU_None {
                recheck = self.insert_into_indexes(indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing);
            }
            if own {
                self.check_again(&mut former, recheck);
            }
            pg_sys::list_free(recheck);
        }
        Written::Done
    }

    /// Has this transaction written the found row?
    fn is_own(&self) -> bool {
        // SAFETY: find() left a tuple of the heap in the slot.
        unsafe {
            let xmin = (*(*self.found).tts_ops).getsysattr;
            let number = pg_sys::MinTransactionIdAttributeNumber;
            let mut null = false;
            let xmin = pg_guard_ffi_boundary(|| xmin.map(|get| get(self.found, number, &mut null)));
            xmin.is_some_and(|xmin| pg_sys::TransactionIdIsCurrentTransactionId((xmin.value() as u32).into()))
        }
    }

    /// Constraints that are deferred, or whose triggers are still to fire, skip a row version that is gone: those of
    /// the version that has replaced it check it instead. `recheck`: indexes that may have duplicates.
    ///
    /// # Safety
    /// `former` is the version that the row in the fresh slot has just replaced.
    unsafe fn check_again(&mut self, former: &mut pg_sys::ItemPointerData, recheck: *mut pg_sys::List) {
        let triggers = (*self.info()).ri_TrigDesc;
        if triggers.is_null() || !(*triggers).trig_update_after_row {
            return;
        }
        begin_checks();
        let none = std::ptr::null_mut();
        pg_sys::ExecARUpdateTriggers(
            self.estate(),
            self.info(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            former,
            none,
            self.fresh,
            recheck,
            std::ptr::null_mut(),
            false,
        );
        self.fire();
    }

    /// Enters the new version of an updated row into the indexes. Returns those of deferred constraints that it may break.
    ///
    /// # Safety
    /// The fresh slot holds the row as it was just written.
    unsafe fn insert_into_indexes(&mut self, #[cfg(not(feature = "pg15"))] summarizing: bool) -> *mut pg_sys::List {
        let Executor { estate, info, plain } = self.executor();
        let _path = (!plain).then(AsOwner::enter);
        let _owner = (!plain).then(|| AsTableOwner::restricted(self.shape.owner));
        let none = std::ptr::null_mut();
        #[cfg(feature = "pg15")]
        let list = pg_sys::ExecInsertIndexTuples(info, self.fresh, estate, true, false, none, none.cast());
        #[cfg(not(feature = "pg15"))]
        let list = pg_sys::ExecInsertIndexTuples(info, self.fresh, estate, true, false, none, none.cast(), summarizing);
        list
    }

    /// Starts collecting after-row events if there are triggers for them; [`Leaf::end_query`] fires
    /// them. One query at a time: a table's triggers run as its owner and nobody else's.
    pub fn begin_query(&mut self) {
        // SAFETY: matched by AfterTriggerEndQuery in end_query(), or by the transaction's abort.
        unsafe {
            let triggers = (*self.info()).ri_TrigDesc;
            if self.in_query || triggers.is_null() {
                return;
            }
            let after = (*triggers).trig_insert_after_row
                || (*triggers).trig_update_after_row
                || (*triggers).trig_delete_after_row;
            if after {
                pg_sys::AfterTriggerBeginQuery();
                self.in_query = true;
            }
        }
    }

    /// Fires what update, delete, insert and unpark have queued since the query began, and makes
    /// what was written visible.
    pub fn end_query(&mut self) {
        if std::mem::take(&mut self.in_query) {
            self.fire();
        }
        if let Some(scan) = self.index.as_mut().and_then(|index| index.scan.as_mut()) {
            // SAFETY: the scan is open.
            unsafe { scan.restart() };
        }
        super::xact::bump_command();
    }

    /// Fires all that was queued since [`begin_checks`], also for other tables.
    pub fn end_checks(&mut self) {
        self.fire();
        super::xact::bump_command();
    }

    fn fire(&mut self) {
        // SAFETY: matches AfterTriggerBeginQuery. The triggers use the estate's relations, which
        // are open.
        unsafe {
            let _owner = match self.fire {
                Fire::Checks => AsTableOwner::for_checks(self.shape.owner),
                Fire::Users => AsTableOwner::restricted(self.shape.owner),
            };
            pg_sys::AfterTriggerEndQuery(self.estate());
            pg_sys::ExecCloseResultRelations(self.estate());
            // Closed, but still in the list: the next query must open them again.
            (*self.estate()).es_trig_target_relations = std::ptr::null_mut();
        }
    }

    /// Does the filled row belong into this partition? Always true for a plain table.
    pub fn belongs(&mut self) -> bool {
        let mut belongs = true;
        self.execute(|leaf| {
            // SAFETY: the fresh slot holds a tuple of the relation.
            unsafe {
                belongs = !(*(*leaf.relation).rd_rel).relispartition
                    || pg_sys::ExecPartitionCheck(leaf.info(), leaf.fresh, leaf.estate(), false);
            }
        });
        belongs
    }

    fn name(&self) -> String {
        crate::table::qualified_name(self.shape.relid)
    }
}

impl Index {
    unsafe fn open(oid: pg_sys::Oid) -> Index {
        let relation = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as i32);
        let equal = (0..(*(*relation).rd_index).indnkeyatts as usize)
            .map(|i| {
                let typ = *(*relation).rd_opcintype.add(i);
                let family = *(*relation).rd_opfamily.add(i);
                let strategy = pg_sys::BTEqualStrategyNumber as i16;
                pg_sys::get_opcode(pg_sys::get_opfamily_member(family, typ, typ, strategy))
            })
            .collect();
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

impl Scan {
    /// Goes to its keys, letting go of what it holds.
    unsafe fn restart(&mut self) {
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

/// Starts collecting foreign key checks, of any number of tables; [`Leaf::end_checks`] fires them.
pub fn begin_checks() {
    // SAFETY: matched by AfterTriggerEndQuery in end_checks(), or by the transaction's abort.
    unsafe { pg_sys::AfterTriggerBeginQuery() };
}

/// Leaves only the triggers that are to fire in a copy of a table's triggers.
unsafe fn keep_triggers(desc: *mut pg_sys::TriggerDesc, fire: Fire) {
    if desc.is_null() {
        return;
    }
    const UNIQUE_KEY_RECHECK: u32 = 1250;
    const OURS: [&CStr; 3] = [c"rowclaim_guard", c"rowclaim_capture", c"rowclaim_truncate"];
    let all = std::slice::from_raw_parts_mut((*desc).triggers, (*desc).numtriggers as usize);
    let mut kept = 0;
    let mut flags = pg_sys::TriggerDesc { triggers: (*desc).triggers, ..Default::default() };
    for i in 0..all.len() {
        let function = all[i].tgfoid;
        let keep = match fire {
            Fire::Checks => {
                pg_sys::RI_FKey_trigger_type(function) != pg_sys::RI_TRIGGER_NONE as i32
                    || function.to_u32() == UNIQUE_KEY_RECHECK
            }
            Fire::Users => !OURS.contains(&CStr::from_ptr(all[i].tgname)),
        };
        if !keep {
            continue;
        }
        if fire == Fire::Users {
            // What is deferred would run at commit, when the owner's identity is gone.
            (all[i].tgdeferrable, all[i].tginitdeferred) = (false, false);
        }
        let kind = all[i].tgtype as u32;
        let row = kind & pg_sys::TRIGGER_TYPE_ROW != 0;
        let before = row && kind & pg_sys::TRIGGER_TYPE_BEFORE != 0;
        let after = row && kind & (pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_INSTEAD) == 0;
        flags.trig_insert_before_row |= before && kind & pg_sys::TRIGGER_TYPE_INSERT != 0;
        flags.trig_update_before_row |= before && kind & pg_sys::TRIGGER_TYPE_UPDATE != 0;
        flags.trig_delete_before_row |= before && kind & pg_sys::TRIGGER_TYPE_DELETE != 0;
        flags.trig_insert_after_row |= after && kind & pg_sys::TRIGGER_TYPE_INSERT != 0;
        flags.trig_update_after_row |= after && kind & pg_sys::TRIGGER_TYPE_UPDATE != 0;
        flags.trig_delete_after_row |= after && kind & pg_sys::TRIGGER_TYPE_DELETE != 0;
        all.swap(kept, i);
        kept += 1;
    }
    flags.numtriggers = kept as i32;
    *desc = flags;
}
