//! Which triggers fire around the writes of a leaf, and when.

use super::{Fire, Leaf};
use crate::pg::owner::AsTableOwner;
use crate::pg::xact;
use pgrx::pg_sys;
use std::ffi::CStr;

impl Leaf {
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

    /// Constraints that are deferred, or whose triggers are still to fire, skip a row version that is gone: those of
    /// the version that has replaced it check it instead. `recheck`: indexes that may have duplicates.
    ///
    /// # Safety
    /// `former` is the version that the row in the fresh slot has just replaced.
    pub(super) unsafe fn check_again(&mut self, former: &mut pg_sys::ItemPointerData, recheck: *mut pg_sys::List) {
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
        xact::bump_command();
    }

    /// Fires all that was queued since [`begin_checks`], also for other tables.
    pub fn end_checks(&mut self) {
        self.fire();
        xact::bump_command();
    }

    pub(super) fn fire(&mut self) {
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
}

/// Starts collecting foreign key checks, of any number of tables; [`Leaf::end_checks`] fires them.
pub fn begin_checks() {
    // SAFETY: matched by AfterTriggerEndQuery in end_checks(), or by the transaction's abort.
    unsafe { pg_sys::AfterTriggerBeginQuery() };
}

/// Leaves only the triggers that are to fire in a copy of a table's triggers.
pub(super) unsafe fn keep_triggers(desc: *mut pg_sys::TriggerDesc, fire: Fire) {
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
