//! The call of a trigger function, without per-row allocation.

use pgrx::pg_sys;

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

    /// Lets an UPDATE go on with some attributes of the new row replaced.
    ///
    /// `columns` are 1-based attribute numbers.
    pub fn proceed_with(&self, columns: &mut [i32], values: &mut [pg_sys::Datum], nulls: &mut [bool]) -> pg_sys::Datum {
        // SAFETY: the three slices have one entry per column; the tuple belongs to the relation.
        let tuple = unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                (*self.data).tg_newtuple,
                (*(*self.data).tg_relation).rd_att,
                columns.len() as i32,
                columns.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        };
        pg_sys::Datum::from(tuple as usize)
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

/// Is this an apply worker of logical replication?
pub fn in_apply_worker() -> bool {
    // SAFETY: a plain test of process state.
    unsafe { pg_sys::IsLogicalWorker() }
}
