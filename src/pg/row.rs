//! Reaching user rows through the table access method: found by primary key, written without the
//! user's triggers. The data is the extension's own business here, so no user code runs except
//! foreign key checks where a row's data is put back.

use super::owner::AsTableOwner;
use super::spi::{self, Arg};
use super::trigger::Values;
use crate::error::Result;
use crate::table::Table;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::collections::hash_map::Entry as Slot;
use std::collections::HashMap;
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

/// One plain table or leaf partition, open for reading and writing until the transaction ends.
struct Leaf {
    table: Rc<Table>,
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    /// Equality operator and its function per key column.
    equal: Vec<(pg_sys::Oid, pg_sys::Oid)>,
    estate: *mut pg_sys::EState,
    info: *mut pg_sys::ResultRelInfo,
    found: *mut pg_sys::TupleTableSlot,
    fresh: *mut pg_sys::TupleTableSlot,
}

/// An enabled table with whatever partitions are needed on the way.
pub struct Rows {
    pub table: Rc<Table>,
    leaves: HashMap<u32, Leaf>,
    /// The leaf of the row found last.
    current: u32,
    in_query: bool,
}

/// Waits for a transaction in progress to end; deadlocks and timeouts are the server's business.
pub fn wait_for(xid: pg_sys::TransactionId) {
    // SAFETY: no relation or tuple is named; only the wait itself.
    unsafe { pg_sys::XactLockTableWait(xid, std::ptr::null_mut(), std::ptr::null_mut(), pg_sys::XLTW_Oper::XLTW_None) };
}

impl Leaf {
    /// # Safety
    /// To be closed with [`Leaf::close`], or left to the (sub)transaction's abort.
    unsafe fn open(relid: pg_sys::Oid, table: Rc<Table>) -> Leaf {
        // Index predicates are simplified when they are read, which may run the table owner's code.
        let _owner = AsTableOwner::restricted(table.owner);
        let relation = pg_sys::table_open(relid, pg_sys::RowExclusiveLock as i32);
        let index = pg_sys::index_open(table.key_index, pg_sys::RowExclusiveLock as i32);
        let equal = (0..table.key.len())
            .map(|i| {
                let typ = *(*index).rd_opcintype.add(i);
                let operator = pg_sys::get_opfamily_member(
                    *(*index).rd_opfamily.add(i),
                    typ,
                    typ,
                    pg_sys::BTEqualStrategyNumber as i16,
                );
                (operator, pg_sys::get_opcode(operator))
            })
            .collect();
        // Callers work in scratch contexts that are emptied between rows.
        let outer = std::mem::replace(
            &mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext),
            pg_sys::TopTransactionContext,
        );
        let estate = pg_sys::CreateExecutorState();
        pg_sys::CurrentMemoryContext = (*estate).es_query_cxt;
        let info: *mut pg_sys::ResultRelInfo = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
        (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
        pg_sys::InitResultRelInfo(info, relation, 0, std::ptr::null_mut(), 0);
        keep_constraint_triggers((*info).ri_TrigDesc);
        pg_sys::ExecOpenIndices(info, false);
        let found = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let fresh = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        pg_sys::CurrentMemoryContext = outer;
        Leaf { table, relation, index, equal, estate, info, found, fresh }
    }

    /// # Safety
    /// Nothing of the leaf is used afterwards.
    unsafe fn close(self) {
        pg_sys::ExecDropSingleTupleTableSlot(self.found);
        pg_sys::ExecDropSingleTupleTableSlot(self.fresh);
        // The slots that foreign key checks fetched old and new rows into.
        pg_sys::ExecResetTupleTable((*self.estate).es_tupleTable, false);
        pg_sys::ExecCloseIndices(self.info);
        pg_sys::index_close(self.index, pg_sys::NoLock as i32);
        pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        pg_sys::FreeExecutorState(self.estate);
    }

    /// Finds the row by key into `self.found`. `Some(xid)` inside: a transaction in progress has
    /// inserted it (then there is no committed row) or is changing it.
    unsafe fn find(&mut self, key: &[pg_sys::Datum], look: Look) -> Option<Option<(pg_sys::TransactionId, bool)>> {
        let mut keys: Vec<pg_sys::ScanKeyData> = vec![pg_sys::ScanKeyData::default(); key.len()];
        for (i, datum) in key.iter().enumerate() {
            pg_sys::ScanKeyEntryInitialize(
                &mut keys[i],
                0,
                i as i16 + 1,
                pg_sys::BTEqualStrategyNumber as u16,
                *(*self.index).rd_opcintype.add(i),
                *(*self.index).rd_indcollation.add(i),
                self.equal[i].1,
                *datum,
            );
        }
        let mut dirty =
            pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
        let registered = match look {
            Look::Latest => pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()),
            Look::Dirty => std::ptr::null_mut(),
        };
        let snapshot: pg_sys::Snapshot = if registered.is_null() { &mut dirty } else { registered };
        #[cfg(not(feature = "pg18"))]
        let scan = pg_sys::index_beginscan(self.relation, self.index, snapshot, key.len() as i32, 0);
        #[cfg(feature = "pg18")]
        let scan =
            pg_sys::index_beginscan(self.relation, self.index, snapshot, std::ptr::null_mut(), key.len() as i32, 0);
        pg_sys::index_rescan(scan, keys.as_mut_ptr(), key.len() as i32, std::ptr::null_mut(), 0);
        let found = pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, self.found);
        pg_sys::index_endscan(scan);
        if !registered.is_null() {
            pg_sys::UnregisterSnapshot(registered);
        }
        let invalid = pg_sys::InvalidTransactionId;
        found.then(|| {
            if look == Look::Dirty && dirty.xmin != invalid {
                Some((dirty.xmin, true))
            } else if look == Look::Dirty && dirty.xmax != invalid {
                Some((dirty.xmax, false))
            } else {
                None
            }
        })
    }

    /// Fills `self.fresh` with the found row and some attributes replaced.
    unsafe fn fill(&mut self, set: &[(usize, Option<pg_sys::Datum>)]) {
        let old = Values::of_slot(self.found);
        pg_sys::ExecClearTuple(self.fresh);
        for index in 0..self.table.natts {
            self.put(index, old.get(index));
        }
        for (index, value) in set {
            self.put(*index, *value);
        }
        pg_sys::ExecStoreVirtualTuple(self.fresh);
    }

    unsafe fn put(&mut self, index: usize, value: Option<pg_sys::Datum>) {
        *(*self.fresh).tts_values.add(index) = value.unwrap_or(pg_sys::Datum::from(0));
        *(*self.fresh).tts_isnull.add(index) = value.is_none();
    }
}

/// Leaves only foreign key and deferred-unique triggers in a copy of a table's triggers.
unsafe fn keep_constraint_triggers(desc: *mut pg_sys::TriggerDesc) {
    if desc.is_null() {
        return;
    }
    const UNIQUE_KEY_RECHECK: u32 = 1250;
    let all = std::slice::from_raw_parts_mut((*desc).triggers, (*desc).numtriggers as usize);
    let mut kept = 0;
    let mut flags = pg_sys::TriggerDesc { triggers: (*desc).triggers, ..Default::default() };
    for i in 0..all.len() {
        let function = all[i].tgfoid;
        if pg_sys::RI_FKey_trigger_type(function) == pg_sys::RI_TRIGGER_NONE as i32
            && function.to_u32() != UNIQUE_KEY_RECHECK
        {
            continue;
        }
        let kind = all[i].tgtype as u32;
        flags.trig_insert_after_row |= kind & pg_sys::TRIGGER_TYPE_INSERT != 0;
        flags.trig_update_after_row |= kind & pg_sys::TRIGGER_TYPE_UPDATE != 0;
        flags.trig_delete_after_row |= kind & pg_sys::TRIGGER_TYPE_DELETE != 0;
        all.swap(kept, i);
        kept += 1;
    }
    flags.numtriggers = kept as i32;
    *desc = flags;
}

impl Rows {
    /// Opens an enabled table. The lock (ROW EXCLUSIVE) is kept to the end of the transaction.
    pub fn open(root: pg_sys::Oid) -> Result<Rows> {
        // SAFETY: only takes the lock.
        unsafe { pg_sys::LockRelationOid(root, pg_sys::RowExclusiveLock as i32) };
        let table = Table::enabled(root)?;
        let mut rows = Rows { current: root.to_u32(), table, leaves: HashMap::new(), in_query: false };
        if !rows.table.partitioned {
            rows.leaf(root)?;
        }
        Ok(rows)
    }

    fn leaf(&mut self, relid: pg_sys::Oid) -> Result<&mut Leaf> {
        self.current = relid.to_u32();
        Ok(match self.leaves.entry(self.current) {
            Slot::Occupied(open) => open.into_mut(),
            // SAFETY: closed in Drop.
            Slot::Vacant(free) => free.insert(unsafe { Leaf::open(relid, Table::enabled(relid)?) }),
        })
    }

    /// The leaf that [`Rows::find`] found last.
    fn at(&mut self) -> &mut Leaf {
        self.leaves.entry(self.current).or_insert_with(|| pgrx::error!("leaf table not open"))
    }

    /// The leaf table of the row found last, with its own attribute numbers.
    pub fn leaf_table(&mut self) -> Rc<Table> {
        self.at().table.clone()
    }

    /// Looks a row up by its key values (in key order).
    ///
    /// Returns `None` when there is no such row, else the transaction in progress on it, if any:
    /// its id and whether the row itself is uncommitted.
    pub fn find(&mut self, key: &[pg_sys::Datum], look: Look) -> Result<Option<Option<(pg_sys::TransactionId, bool)>>> {
        if self.table.partitioned {
            match self.locate(key)? {
                Some(relid) => self.leaf(relid)?,
                None => return Ok(None),
            };
        }
        // SAFETY: the leaf is open; key has one non-null value per key column.
        Ok(unsafe { self.at().find(key, look) })
    }

    /// The partition that holds a key, by the executor's own pruning.
    fn locate(&mut self, key: &[pg_sys::Datum]) -> Result<Option<pg_sys::Oid>> {
        let mut condition = Vec::new();
        let mut args = Vec::new();
        for (i, &index) in self.table.key.iter().enumerate() {
            let Some(column) = self.table.column(index) else {
                continue;
            };
            condition.push(format!(
                "{} {} ${}",
                pgrx::spi::quote_identifier(&column.name),
                self.table.equality(i),
                i + 1
            ));
            args.push(Arg(column.base_type, key.get(i).copied()));
        }
        let sql = format!("SELECT tableoid FROM {} WHERE {}", self.table.name(), condition.join(" AND "));
        let _owner = AsTableOwner::restricted(self.table.owner);
        let mut found = None;
        spi::run_as_is(&sql, &args, |row| found = row.oid(1));
        Ok(found)
    }

    /// Lets go of the row found last, before a subtransaction starts or ends.
    pub fn let_go(&mut self) {
        for leaf in self.leaves.values_mut() {
            // SAFETY: the slots are open; clearing releases their buffer pins.
            unsafe {
                pg_sys::ExecClearTuple(leaf.found);
                pg_sys::ExecClearTuple(leaf.fresh);
            }
        }
    }

    /// The row found last.
    pub fn values(&mut self) -> Values {
        // SAFETY: find() left a tuple in the slot.
        unsafe { Values::of_slot(self.at().found) }
    }

    /// Updates ownership columns of the row found last, without any trigger, waiting for a
    /// transaction that is changing it.
    pub fn write(&mut self, set: &[(usize, Option<pg_sys::Datum>)]) -> Written {
        // SAFETY: find() left a tuple in the slot; see write_tuple.
        unsafe {
            let leaf = self.at();
            let _owner = AsTableOwner::restricted(leaf.table.owner);
            leaf.fill(set);
            write_tuple(leaf)
        }
    }

    /// Puts data back into the row found last; foreign keys are checked at [`Rows::finish`].
    pub fn restore(&mut self, set: &[(usize, Option<pg_sys::Datum>)]) {
        self.begin_query();
        // SAFETY: find() left a tuple in the slot; the executor checks constraints and maintains
        // generated columns and indexes.
        unsafe {
            let leaf = self.at();
            leaf.fill(set);
            (*leaf.estate).es_output_cid = pg_sys::GetCurrentCommandId(true);
            let mut epq = pg_sys::EPQState::default();
            let _owner = AsTableOwner::restricted(leaf.table.owner);
            pg_sys::ExecSimpleRelationUpdate(leaf.info, leaf.estate, &mut epq, leaf.found, leaf.fresh);
        }
    }

    /// Deletes the row found last; foreign keys act as for a DELETE at [`Rows::finish`].
    pub fn delete(&mut self) {
        self.begin_query();
        // SAFETY: as in restore().
        unsafe {
            let leaf = self.at();
            (*leaf.estate).es_output_cid = pg_sys::GetCurrentCommandId(true);
            let mut epq = pg_sys::EPQState::default();
            let _owner = AsTableOwner::restricted(leaf.table.owner);
            pg_sys::ExecSimpleRelationDelete(leaf.info, leaf.estate, &mut epq, leaf.found);
        }
    }

    /// Inserts a row into a plain table or the given leaf partition.
    pub fn insert(&mut self, leaf: pg_sys::Oid, set: &[(usize, Option<pg_sys::Datum>)]) -> Result<()> {
        self.leaf(leaf)?;
        self.begin_query();
        // SAFETY: as in restore(); attributes without a value are NULL.
        unsafe {
            let leaf = self.at();
            pg_sys::ExecClearTuple(leaf.fresh);
            for index in 0..leaf.table.natts {
                leaf.put(index, None);
            }
            for (index, value) in set {
                leaf.put(*index, *value);
            }
            pg_sys::ExecStoreVirtualTuple(leaf.fresh);
            (*leaf.estate).es_output_cid = pg_sys::GetCurrentCommandId(true);
            let _owner = AsTableOwner::restricted(leaf.table.owner);
            pg_sys::ExecSimpleRelationInsert(leaf.info, leaf.estate, leaf.fresh);
        }
        Ok(())
    }

    /// Removes the row found last from the heap as the first half of an update whose second half
    /// is [`Rows::unpark`]: it lets unique values be exchanged between rows.
    pub fn park(&mut self) -> pg_sys::ItemPointerData {
        // SAFETY: find() left a tuple in the slot; the access method is the relation's own.
        unsafe {
            let leaf = self.at();
            let tid = (*leaf.found).tts_tid;
            let delete = (*(*leaf.relation).rd_tableam).tuple_delete;
            let mut failure = pg_sys::TM_FailureData::default();
            let mut target = tid;
            let cid = pg_sys::GetCurrentCommandId(true);
            let snapshot = std::ptr::null_mut();
            let result = pg_guard_ffi_boundary(|| match delete {
                Some(delete) => delete(leaf.relation, &mut target, cid, snapshot, snapshot, true, &mut failure, false),
                None => pg_sys::TM_Result::TM_Invisible,
            });
            if result != pg_sys::TM_Result::TM_Ok {
                pgrx::error!("could not put a row of {} aside", leaf.table.name());
            }
            tid
        }
    }

    /// Inserts the restored version of a parked row and queues the foreign key checks of an UPDATE.
    pub fn unpark(
        &mut self,
        leaf: pg_sys::Oid,
        tid: pg_sys::ItemPointerData,
        set: &[(usize, Option<pg_sys::Datum>)],
    ) -> Result<()> {
        self.leaf(leaf)?;
        self.begin_query();
        // SAFETY: triggers are left out of the insertion and put back for the queueing.
        unsafe {
            let triggers = std::mem::replace(&mut (*self.at().info).ri_TrigDesc, std::ptr::null_mut());
            self.insert(leaf, set)?;
            let leaf = self.at();
            (*leaf.info).ri_TrigDesc = triggers;
            let mut old = tid;
            let _owner = AsTableOwner::for_checks(leaf.table.owner);
            pg_sys::ExecARUpdateTriggers(
                leaf.estate,
                leaf.info,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                &mut old,
                std::ptr::null_mut(),
                leaf.fresh,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                false,
            );
        }
        Ok(())
    }

    /// Attribute indexes of columns in any unique index of the row found last.
    pub fn unique_columns(&mut self) -> Vec<usize> {
        // SAFETY: the index list was filled by ExecOpenIndices.
        unsafe {
            let info = self.at().info;
            let mut columns = Vec::new();
            for i in 0..(*info).ri_NumIndices as usize {
                let index = *(*info).ri_IndexRelationInfo.add(i);
                if (*index).ii_Unique || !(*index).ii_ExclusionOps.is_null() {
                    for k in 0..(*index).ii_NumIndexAttrs as usize {
                        match (*index).ii_IndexAttrNumbers[k] {
                            attnum if attnum > 0 => columns.push(attnum as usize - 1),
                            // An expression may use any column.
                            _ => return (0..self.table.natts).collect(),
                        }
                    }
                }
            }
            columns
        }
    }

    fn begin_query(&mut self) {
        if !std::mem::replace(&mut self.in_query, true) {
            // SAFETY: matched by AfterTriggerEndQuery in finish().
            unsafe { pg_sys::AfterTriggerBeginQuery() };
        }
    }

    /// Fires the foreign key checks of what was put back. Must follow restore, delete and insert.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.in_query) {
            let (estate, owner) = (self.at().estate, self.table.owner);
            // SAFETY: matches begin_query(). The checks use the estates' relations, which are open.
            unsafe {
                let _owner = AsTableOwner::for_checks(owner);
                pg_sys::AfterTriggerEndQuery(estate);
                pg_sys::ExecCloseResultRelations(estate);
                pg_sys::CommandCounterIncrement();
            }
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
            for (_, leaf) in self.leaves.drain() {
                // SAFETY: not used again.
                unsafe { leaf.close() };
            }
        }
    }
}

/// # Safety
/// `leaf.found` holds the row's current version and `leaf.fresh` the new one.
unsafe fn write_tuple(leaf: &mut Leaf) -> Written {
    let update = (*(*leaf.relation).rd_tableam).tuple_update;
    let mut failure = pg_sys::TM_FailureData::default();
    let mut mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
    let mut target = (*leaf.found).tts_tid;
    let cid = pg_sys::GetCurrentCommandId(true);
    let none = std::ptr::null_mut();
    #[cfg(feature = "pg15")]
    let mut indexes = false;
    #[cfg(not(feature = "pg15"))]
    let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
    let result = pg_guard_ffi_boundary(|| match update {
        Some(update) => {
            update(leaf.relation, &mut target, leaf.fresh, cid, none, none, true, &mut failure, &mut mode, &mut indexes)
        }
        None => pg_sys::TM_Result::TM_Invisible,
    });
    match result {
        pg_sys::TM_Result::TM_Ok => {}
        pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => return Written::Changed,
        pg_sys::TM_Result::TM_SelfModified => {
            pgrx::error!("row of {} was already changed by this command", leaf.table.name())
        }
        other => pgrx::error!("unexpected result {other} of a row update"),
    }
    #[cfg(feature = "pg15")]
    if indexes {
        let list =
            pg_sys::ExecInsertIndexTuples(leaf.info, leaf.fresh, leaf.estate, true, false, none.cast(), none.cast());
        pg_sys::list_free(list);
    }
    #[cfg(not(feature = "pg15"))]
    if indexes != pg_sys::TU_UpdateIndexes::TU_None {
        let summarizing = indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing;
        let list = pg_sys::ExecInsertIndexTuples(
            leaf.info,
            leaf.fresh,
            leaf.estate,
            true,
            false,
            none.cast(),
            none.cast(),
            summarizing,
        );
        pg_sys::list_free(list);
    }
    Written::Done
}
