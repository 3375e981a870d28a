//! Writing a row: with the triggers that are to fire, or without any.

use super::{Executor, Fire, Leaf, Written};
use crate::pg::ffi::attribute;
use crate::pg::owner::{AsOwner, AsTableOwner};
use crate::pg::value::same_image;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

impl Leaf {
    /// Runs an executor routine on behalf of the table's owner and frees what it left per row.
    pub(super) fn execute(&mut self, body: impl FnOnce(&mut Leaf)) {
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

    /// Is a unique value of the filled row another row's? `changed`: only values that differ from
    /// those of the found row count.
    pub fn conflicts(&mut self, changed: bool) -> bool {
        let own = changed.then(|| self.place());
        self.unique_indexes(changed).into_iter().any(|index| self.taker(index).is_some_and(|tid| !is_at(own, tid)))
    }

    /// The row that has a unique value of the filled one, which is new, and the index that says so.
    pub fn occupant(&mut self) -> Option<(pg_sys::ItemPointerData, pg_sys::Oid)> {
        self.unique_indexes(false).into_iter().find_map(|index| Some((self.taker(index)?, index)))
    }

    /// The row that has what one immediate index wants to be the filled row's alone.
    fn taker(&mut self, index: pg_sys::Oid) -> Option<pg_sys::ItemPointerData> {
        let mut taker = None;
        self.execute(|leaf| {
            // SAFETY: the fresh slot holds a tuple; the list is freed again.
            unsafe {
                leaf.allow_checks();
                let list = pg_sys::lappend_oid(std::ptr::null_mut(), index);
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
                taker = (!free).then_some(tid);
            }
        });
        taker
    }

    /// Has the server prepare its unique indexes for checks without an insertion, unless it was done when they were opened.
    ///
    /// # Safety
    /// The leaf is open.
    unsafe fn allow_checks(&self) {
        let info = self.info();
        let outer = std::mem::replace(
            &mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext),
            (*self.estate()).es_query_cxt,
        );
        for i in 0..(*info).ri_NumIndices as usize {
            let index = *(*info).ri_IndexRelationInfo.add(i);
            if (*index).ii_Unique && (*index).ii_ExclusionOps.is_null() && (*index).ii_UniqueOps.is_null() {
                pg_sys::BuildSpeculativeIndexInfo(*(*info).ri_IndexRelationDescs.add(i), index);
            }
        }
        pg_sys::CurrentMemoryContext = outer;
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

    /// Attribute indexes of columns that unique indexes depend on.
    pub fn unique_columns(&self) -> Vec<usize> {
        // SAFETY: the index list was filled by ExecOpenIndices.
        unsafe {
            let is_plain = |attnum: i16| {
                attnum > 0 && (*attribute((*self.relation).rd_att, i32::from(attnum) - 1)).attgenerated == 0
            };
            let mut columns = Vec::new();
            for i in 0..(*self.info()).ri_NumIndices as usize {
                let index = *(*self.info()).ri_IndexRelationInfo.add(i);
                if !(*index).ii_Unique && (*index).ii_ExclusionOps.is_null() {
                    continue;
                }
                let numbers = (0..(*index).ii_NumIndexAttrs as usize).map(|k| (*index).ii_IndexAttrNumbers[k]);
                // An expression, a predicate and a generated column may use any column.
                if !(*index).ii_Predicate.is_null() || !numbers.clone().all(is_plain) {
                    return (0..self.shape.natts).collect();
                }
                columns.extend(numbers.map(|attnum| attnum as usize - 1));
            }
            columns
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

fn is_at(place: Option<pg_sys::ItemPointerData>, tid: pg_sys::ItemPointerData) -> bool {
    place.is_some_and(|place| {
        place.ip_posid == tid.ip_posid
            && place.ip_blkid.bi_hi == tid.ip_blkid.bi_hi
            && place.ip_blkid.bi_lo == tid.ip_blkid.bi_lo
    })
}
