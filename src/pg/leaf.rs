//! One plain table or leaf partition, open for writing by the table access method and the
//! executor's own routines: rows found by a unique index, checked, indexed and, where wanted, seen
//! by triggers. Code of the table (CHECK, index expressions, defaults) runs as its owner.

mod find;
mod fire;
mod write;

pub use fire::begin_checks;

use super::ffi::is_plain_index;
use super::owner::{AsOwner, AsTableOwner};
use super::shape::Shape;
use super::trigger::Values;
use find::Index;
use fire::keep_triggers;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::cell::OnceCell;
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

/// Has no index of a table an expression or a predicate? If so, that is true until other locks are taken.
///
/// # Safety
/// The relation is open.
unsafe fn has_plain_indexes(relation: pg_sys::Relation) -> bool {
    let list = pg_sys::RelationGetIndexList(relation);
    let count = if list.is_null() { 0 } else { (*list).length as usize };
    let plain = (0..count).all(|i| is_plain_index((*(*list).elements.add(i)).oid_value));
    pg_sys::list_free(list);
    // Else the list has been read again, or is to be.
    plain && (*relation).rd_indexvalid
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
        let index = index.map(|index| Index::open(index, &shape));
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
            let guarded = !has_plain_indexes(self.relation);
            let _path = guarded.then(AsOwner::enter);
            let _owner = guarded.then(|| AsTableOwner::restricted(self.shape.owner));
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
}
