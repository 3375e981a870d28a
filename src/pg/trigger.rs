//! The call of a trigger function, without per-row allocation.

use super::executor;
use super::ffi::primary_key_index;
use super::value::Storage;
use pgrx::pg_sys;
use pgrx::varlena::varsize_any;
use std::cell::Cell;
use std::ffi::CStr;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// One call of a C trigger function.
pub struct Call {
    data: *mut pg_sys::TriggerData,
}

thread_local! {
    // Of the run that called last: its number, the calling trigger and that of Call::queue_update().
    static SIBLING: Cell<(u64, *mut pg_sys::Trigger, Option<executor::Sibling>)> =
        const { Cell::new((0, std::ptr::null_mut(), None)) };
}

/// A deformed tuple of a trigger call.
#[derive(Clone, Copy)]
pub struct Values {
    values: *const pg_sys::Datum,
    nulls: *const bool,
    len: usize,
}

impl Values {
    /// Attribute `index` (0-based); `None` for NULL.
    #[inline]
    pub fn get(&self, index: usize) -> Option<pg_sys::Datum> {
        if index >= self.len {
            return None;
        }
        // SAFETY: the slot was deformed up to `len` attributes when this was made.
        unsafe { (!*self.nulls.add(index)).then(|| *self.values.add(index)) }
    }

    /// All attributes of a row; the arrays must outlive the result.
    pub fn of_arrays(values: &[pg_sys::Datum], nulls: &[bool]) -> Values {
        Values { values: values.as_ptr(), nulls: nulls.as_ptr(), len: values.len().min(nulls.len()) }
    }

    /// All attributes of a slot; valid until the slot changes.
    ///
    /// # Safety
    /// `slot` holds a tuple.
    pub unsafe fn of_slot(slot: *mut pg_sys::TupleTableSlot) -> Values {
        let natts = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*slot).tts_nvalid) < natts {
            pg_sys::slot_getsomeattrs_int(slot, natts);
        }
        Values { values: (*slot).tts_values, nulls: (*slot).tts_isnull, len: natts as usize }
    }
}

impl Call {
    /// The trigger call behind `fcinfo`; an error when the function is called in another way.
    ///
    /// # Safety
    /// `fcinfo` is what the function manager passed.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo, name: &str) -> Call {
        super::memory::check();
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            pgrx::ereport!(
                ERROR,
                pgrx::PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                format!("function \"{name}\" was not called by trigger manager")
            );
        }
        Call { data: context.cast() }
    }

    pub fn event(&self) -> Event {
        // SAFETY: data is valid during the call.
        match unsafe { (*self.data).tg_event } & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
            _ => Event::Truncate,
        }
    }

    pub fn is_before_row(&self) -> bool {
        // SAFETY: as above.
        let event = unsafe { (*self.data).tg_event };
        event & pg_sys::TRIGGER_EVENT_ROW != 0
            && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE
    }

    pub fn is_after_row(&self) -> bool {
        // SAFETY: as above.
        let event = unsafe { (*self.data).tg_event };
        event & pg_sys::TRIGGER_EVENT_ROW != 0 && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == 0
    }

    /// Is this the last BEFORE UPDATE row trigger, so that the row is written as it leaves it?
    pub fn is_last_before_update(&self) -> bool {
        const KIND: u32 = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_UPDATE;
        // SAFETY: the relation is open and keeps its triggers in the order they fire in.
        unsafe {
            let desc = (*(*self.data).tg_relation).trigdesc;
            if desc.is_null() {
                return false;
            }
            let own = (*(*self.data).tg_trigger).tgoid;
            let all = std::slice::from_raw_parts((*desc).triggers, (*desc).numtriggers as usize);
            let mut others = all.iter().skip_while(|trigger| trigger.tgoid != own);
            others.next().is_some() && others.all(|trigger| trigger.tgtype as u32 & KIND != KIND)
        }
    }

    /// Says whether the AFTER UPDATE trigger of this name is to see the row that a BEFORE trigger lets through.
    ///
    /// The executor decides by its own copy of the table's triggers, right after it has written the row. False where
    /// that is not found: the trigger sees the row.
    pub fn queue_update(&self, name: &'static CStr, wanted: bool) -> bool {
        let running = executor::running();
        // SAFETY: the statement runs, for it has called this trigger; what is remembered is of the same run.
        unsafe {
            let own = (*self.data).tg_trigger;
            let (number, of, mut sibling) = SIBLING.with(Cell::get);
            if number != running.number || of != own {
                sibling = running.sibling(own, name);
                SIBLING.with(|cell| cell.set((running.number, own, sibling)));
            }
            if let Some(sibling) = sibling {
                sibling.see_updates(wanted);
            }
            sibling.is_some()
        }
    }

    /// Is this a partition, whose rows may leave it?
    pub fn is_partition(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { (*(*(*self.data).tg_relation).rd_rel).relispartition }
    }

    /// Are there other AFTER INSERT row triggers, besides the server's own?
    pub fn has_company_after_insert(&self) -> bool {
        const KIND: u32 = pg_sys::TRIGGER_TYPE_ROW
            | pg_sys::TRIGGER_TYPE_BEFORE
            | pg_sys::TRIGGER_TYPE_INSTEAD
            | pg_sys::TRIGGER_TYPE_INSERT;
        const WANTED: u32 = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_INSERT;
        // SAFETY: the relation is open and keeps its triggers.
        unsafe {
            let desc = (*(*self.data).tg_relation).trigdesc;
            let own = (*(*self.data).tg_trigger).tgoid;
            !desc.is_null()
                && std::slice::from_raw_parts((*desc).triggers, (*desc).numtriggers as usize).iter().any(|trigger| {
                    trigger.tgtype as u32 & KIND == WANTED && trigger.tgoid != own && !trigger.tgisinternal
                })
        }
    }

    /// Is this a partition without primary key? Only a restore has such: a parallel one may make the
    /// partitioned table's triggers before a partition has its rows, and then its key.
    pub fn is_being_restored(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe {
            let relation = (*self.data).tg_relation;
            (*(*relation).rd_rel).relispartition && primary_key_index(relation) == pg_sys::InvalidOid
        }
    }

    pub fn relid(&self) -> pg_sys::Oid {
        // SAFETY: as above.
        unsafe { (*(*self.data).tg_relation).rd_id }
    }

    /// The row before an UPDATE or DELETE, or the new row of an INSERT.
    pub fn row(&self) -> Values {
        // SAFETY: row triggers always have tg_trigslot.
        unsafe { Values::of_slot((*self.data).tg_trigslot) }
    }

    /// The new row of an UPDATE.
    pub fn new_row(&self) -> Values {
        // SAFETY: UPDATE row triggers always have tg_newslot.
        unsafe { Values::of_slot((*self.data).tg_newslot) }
    }

    /// The physical place of [`Call::row`].
    pub fn tid(&self) -> pg_sys::ItemPointerData {
        // SAFETY: row triggers have a tuple.
        unsafe { (*(*self.data).tg_trigtuple).t_self }
    }

    /// Lets the operation go on with the row as it is.
    pub fn proceed(&self) -> pg_sys::Datum {
        // SAFETY: as above.
        let tuple = unsafe {
            if self.event() == Event::Update {
                (*self.data).tg_newtuple
            } else {
                (*self.data).tg_trigtuple
            }
        };
        pg_sys::Datum::from(tuple as usize)
    }

    /// Lets an UPDATE go on with some integers of the new row replaced, by attribute index.
    /// `storage` is that of all attributes.
    pub fn proceed_with<const N: usize>(&self, storage: &[Storage], set: [(usize, pg_sys::Datum); N]) -> pg_sys::Datum {
        // SAFETY: the attributes are integers of the relation.
        unsafe {
            if self.overwrite(storage, set) {
                return self.proceed();
            }
            // As heap_modify_tuple(), from the attributes as they were taken out already.
            let row = self.new_row();
            let mut values = std::slice::from_raw_parts(row.values, row.len).to_vec();
            let mut nulls = std::slice::from_raw_parts(row.nulls, row.len).to_vec();
            for (index, value) in set {
                (values[index], nulls[index]) = (value, false);
            }
            let desc = (*(*self.data).tg_relation).rd_att;
            let tuple = pg_sys::heap_form_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            let former = (*self.data).tg_newtuple;
            (*(*tuple).t_data).t_ctid = (*(*former).t_data).t_ctid;
            (*tuple).t_self = (*former).t_self;
            (*tuple).t_tableOid = (*former).t_tableOid;
            pg_sys::Datum::from(tuple as usize)
        }
    }

    /// Writes integers into the new row where it is, if it is in the slot's own memory and none of
    /// them is NULL yet: what the executor goes on with is the slot.
    unsafe fn overwrite<const N: usize>(&self, storage: &[Storage], set: [(usize, pg_sys::Datum); N]) -> bool {
        let (slot, tuple) = ((*self.data).tg_newslot, (*self.data).tg_newtuple);
        let heap_slot = std::ptr::eq((*slot).tts_ops, &pg_sys::TTSOpsBufferHeapTuple)
            || std::ptr::eq((*slot).tts_ops, &pg_sys::TTSOpsHeapTuple);
        let own = heap_slot
            && u32::from((*slot).tts_flags) & pg_sys::TTS_FLAG_SHOULDFREE != 0
            && (*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple == tuple;
        if !own {
            return false;
        }
        let Some(places) = places(tuple, storage, set.map(|(index, _)| index)) else { return false };
        for ((index, value), place) in set.iter().zip(places) {
            match storage[*index].len {
                8 => place.cast::<i64>().write_unaligned(value.value() as i64),
                _ => place.cast::<i32>().write_unaligned(value.value() as i32),
            }
            *(*slot).tts_values.add(*index) = *value;
        }
        true
    }
}

/// Is this a worker that applies one large transaction in parallel with the others of its
/// subscription? It must not take locks that they need before its commit has arrived.
pub fn in_parallel_worker() -> bool {
    #[cfg(feature = "pg15")]
    return false;
    #[cfg(not(feature = "pg15"))]
    return super::ffi::in_parallel_apply_worker();
}

pub use super::ffi::in_apply_worker;

/// Where some attributes of a tuple are; `None` if one of them is NULL or left out.
///
/// # Safety
/// The tuple is valid and its attributes are stored as `storage` says.
unsafe fn places<const N: usize>(
    tuple: pg_sys::HeapTuple,
    storage: &[Storage],
    wanted: [usize; N],
) -> Option<[*mut u8; N]> {
    let header = (*tuple).t_data;
    let natts = ((*header).t_infomask2 as u32 & pg_sys::HEAP_NATTS_MASK) as usize;
    let bits = (*header).t_bits.as_ptr();
    let has_nulls = u32::from((*header).t_infomask) & pg_sys::HEAP_HASNULL != 0;
    let is_null = |i: usize| has_nulls && *bits.add(i / 8) & (1 << (i % 8)) == 0;
    if wanted.iter().any(|&index| index >= natts || is_null(index)) {
        return None;
    }
    let last = wanted.iter().copied().max()?;
    let data = header.cast::<u8>().add((*header).t_hoff as usize);
    let mut places = [data; N];
    let mut offset = 0;
    for (i, attribute) in storage.iter().enumerate().take(last + 1) {
        if is_null(i) {
            continue;
        }
        // A varlena with a short header is not aligned; padding is zero, a short header never is.
        let short = attribute.len == -1 && *data.add(offset) != 0;
        if !short {
            offset = offset.next_multiple_of(attribute.align);
        }
        let here = data.add(offset);
        for (place, _) in places.iter_mut().zip(wanted).filter(|(_, index)| *index == i) {
            *place = here;
        }
        if i < last {
            offset += match attribute.len {
                -1 => varsize_any(here.cast()),
                -2 => CStr::from_ptr(here.cast()).to_bytes_with_nul().len(),
                len => len as usize,
            };
        }
    }
    Some(places)
}
