//! What the extension does around statements: hooks of the executor and of utility commands.
//!
//! It is known which statement runs, so that a trigger finds what the executor keeps about its table. And rows of a
//! table may wait to be written together ([`wait`]). They are written when the statement whose triggers
//! left them has fired its triggers, and before any statement that reads the table starts.

use super::ffi::call_plainly;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;

/// The table that rows wait for, and how deep the statements are nested that left them.
#[derive(Clone, Copy)]
pub struct Waiting {
    table: pg_sys::Oid,
    depth: u32,
}

/// A run of a statement, and the state it works with.
#[derive(Clone, Copy)]
pub struct Running {
    /// No other has had it.
    pub number: u64,
    /// Null: none runs, or it began before this library was loaded.
    estate: *mut pg_sys::EState,
}

#[derive(Clone, Copy, Default)]
struct Previous {
    start: pg_sys::ExecutorStart_hook_type,
    run: pg_sys::ExecutorRun_hook_type,
    finish: pg_sys::ExecutorFinish_hook_type,
    utility: pg_sys::ProcessUtility_hook_type,
}

thread_local! {
    static PREVIOUS: Cell<Previous> = const { Cell::new(Previous { start: None, run: None, finish: None, utility: None }) };
    static FLUSH: Cell<Option<fn()>> = const { Cell::new(None) };
    static WAITING: Cell<Option<Waiting>> = const { Cell::new(None) };
    static RUNNING: Cell<Running> = const { Cell::new(Running { number: 0, estate: std::ptr::null_mut() }) };
    static RUNS: Cell<u64> = const { Cell::new(0) };
    // Statements that run or are firing triggers.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Sets the hooks; called once per backend. `flush` writes what waits.
pub fn register(flush: fn()) {
    FLUSH.with(|cell| cell.set(Some(flush)));
    // SAFETY: variables of this single-threaded backend; what was there is called in turn.
    unsafe {
        let previous = Previous {
            start: pg_sys::ExecutorStart_hook,
            run: pg_sys::ExecutorRun_hook,
            finish: pg_sys::ExecutorFinish_hook,
            utility: pg_sys::ProcessUtility_hook,
        };
        PREVIOUS.with(|cell| cell.set(previous));
        pg_sys::ExecutorStart_hook = Some(on_start);
        pg_sys::ExecutorRun_hook = Some(on_run);
        pg_sys::ExecutorFinish_hook = Some(on_finish);
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

/// Notes that the statement that is firing triggers has left rows for a table.
pub fn wait(table: pg_sys::Oid) {
    wait_again(Waiting { table, depth: DEPTH.with(Cell::get) });
}

/// Is the end of the running statement seen? Not that of the one which made the session load this library, unless it is a
/// COPY in a transaction of its own.
pub fn may_wait() -> bool {
    // SAFETY: plain reads; the portal of the running statement is there while it runs.
    DEPTH.with(Cell::get) > 0
        || unsafe {
            let portal = pg_sys::ActivePortal;
            !portal.is_null()
                && (*portal).commandTag == pg_sys::CommandTag::CMDTAG_COPY
                && !pg_sys::IsTransactionBlock()
        }
}

/// As [`wait`], after all, for rows whose writing was rolled back.
pub fn wait_again(waiting: Waiting) {
    let depth = WAITING.with(Cell::get).map_or(0, |known| known.depth);
    WAITING.with(|cell| cell.set(Some(Waiting { depth: depth.max(waiting.depth), ..waiting })));
}

/// Nothing waits any more; what did.
pub fn take_waiting() -> Option<Waiting> {
    WAITING.with(Cell::take)
}

fn flush_if(wanted: impl FnOnce(Waiting) -> bool) {
    if WAITING.with(Cell::get).is_some_and(wanted) {
        if let Some(flush) = FLUSH.with(Cell::get) {
            flush();
        }
    }
}

/// Has the statement whose rows wait ended unseen? The first one that loads this library may.
fn is_left_behind(waiting: Waiting) -> bool {
    waiting.depth > DEPTH.with(Cell::get) || waiting.depth == 0
}

// The hooks themselves are not guarded by pgrx, and call the server without it: see `call_plainly`. What may raise an
// error of this extension's is in functions that are.

#[pg_guard]
unsafe extern "C-unwind" fn flush_before(query: *mut pg_sys::QueryDesc) {
    flush_if(|waiting| is_left_behind(waiting) || reads(query, waiting.table));
}

#[pg_guard]
unsafe extern "C-unwind" fn flush_all() {
    flush_if(|_| true);
}

#[pg_guard]
unsafe extern "C-unwind" fn flush_left_behind() {
    flush_if(is_left_behind);
}

unsafe extern "C-unwind" fn on_start(query: *mut pg_sys::QueryDesc, flags: core::ffi::c_int) {
    flush_before(query);
    match PREVIOUS.with(Cell::get).start {
        Some(previous) => previous(query, flags),
        None => server::standard_ExecutorStart(query, flags),
    }
}

/// The statement that runs now.
pub fn running() -> Running {
    RUNNING.with(Cell::get)
}

/// A trigger in the executor's own copy of its table's triggers.
#[derive(Clone, Copy)]
pub struct Sibling {
    desc: *mut pg_sys::TriggerDesc,
    trigger: *mut pg_sys::Trigger,
    /// No other AFTER UPDATE row trigger is there.
    alone: bool,
}

impl Sibling {
    /// Says whether the trigger, an AFTER row trigger, is to see updates. If none does, the executor does not look at the
    /// old row again.
    ///
    /// # Safety
    /// The statement still runs.
    pub unsafe fn see_updates(&self, wanted: bool) {
        const UPDATE: i16 = pg_sys::TRIGGER_TYPE_UPDATE as i16;
        match wanted {
            true => (*self.trigger).tgtype |= UPDATE,
            false => (*self.trigger).tgtype &= !UPDATE,
        }
        (*self.desc).trig_update_after_row = wanted || !self.alone;
    }
}

/// Is it an AFTER UPDATE row trigger?
fn sees_updates(trigger: &pg_sys::Trigger) -> bool {
    const KIND: u32 = pg_sys::TRIGGER_TYPE_ROW
        | pg_sys::TRIGGER_TYPE_BEFORE
        | pg_sys::TRIGGER_TYPE_INSTEAD
        | pg_sys::TRIGGER_TYPE_UPDATE;
    trigger.tgtype as u32 & KIND == pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_UPDATE
}

impl Running {
    /// The trigger that precedes or follows another one in the executor's own copy of its table's triggers, by name.
    ///
    /// # Safety
    /// The statement still runs.
    pub unsafe fn sibling(&self, trigger: *const pg_sys::Trigger, name: &CStr) -> Option<Sibling> {
        if self.estate.is_null() {
            return None;
        }
        let estate = self.estate;
        for list in [(*estate).es_opened_result_relations, (*estate).es_tuple_routing_result_relations] {
            let count = if list.is_null() { 0 } else { (*list).length as usize };
            for i in 0..count {
                let info: *mut pg_sys::ResultRelInfo = (*(*list).elements.add(i)).ptr_value.cast();
                let desc = (*info).ri_TrigDesc;
                if desc.is_null() {
                    continue;
                }
                let all = std::slice::from_raw_parts_mut((*desc).triggers, (*desc).numtriggers as usize);
                if all.as_ptr_range().contains(&trigger) {
                    let place = all.iter().position(|t| CStr::from_ptr(t.tgname) == name)?;
                    let alone = !all.iter().enumerate().any(|(other, t)| other != place && sees_updates(t));
                    return Some(Sibling { desc, trigger: &mut all[place], alone });
                }
            }
        }
        None
    }
}

/// What the server does one statement deeper.
unsafe fn deeper(body: impl FnOnce()) {
    let depth = DEPTH.with(Cell::get);
    DEPTH.with(|cell| cell.set(depth + 1));
    call_plainly(body, || DEPTH.with(|cell| cell.set(depth)));
}

/// What the server does while it runs a statement that was started.
unsafe fn run(query: *mut pg_sys::QueryDesc, body: impl FnOnce()) {
    let number = RUNS.with(Cell::get) + 1;
    RUNS.with(|runs| runs.set(number));
    let (outer, depth) = (RUNNING.with(Cell::get), DEPTH.with(Cell::get));
    RUNNING.with(|running| running.set(Running { number, estate: (*query).estate }));
    DEPTH.with(|cell| cell.set(depth + 1));
    call_plainly(body, || {
        RUNNING.with(|running| running.set(outer));
        DEPTH.with(|cell| cell.set(depth));
    });
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn on_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    run(query, || match PREVIOUS.with(Cell::get).run {
        Some(previous) => previous(query, direction, count, once),
        None => server::standard_ExecutorRun(query, direction, count, once),
    });
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn on_run(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64) {
    run(query, || match PREVIOUS.with(Cell::get).run {
        Some(previous) => previous(query, direction, count),
        None => server::standard_ExecutorRun(query, direction, count),
    });
}

/// Does a statement read a table, or write it? What the functions it calls do is done by statements of theirs, but in the
/// workers of a parallel query nothing waits.
unsafe fn reads(query: *mut pg_sys::QueryDesc, table: pg_sys::Oid) -> bool {
    if (*(*query).plannedstmt).parallelModeNeeded {
        return true;
    }
    let list = (*(*query).plannedstmt).relationOids;
    !list.is_null() && (0..(*list).length as usize).any(|i| (*(*list).elements.add(i)).oid_value == table)
}

unsafe extern "C-unwind" fn on_finish(query: *mut pg_sys::QueryDesc) {
    deeper(|| match PREVIOUS.with(Cell::get).finish {
        Some(previous) => previous(query),
        None => server::standard_ExecutorFinish(query),
    });
    flush_left_behind();
}

#[allow(clippy::too_many_arguments, reason = "the server's signature")]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const core::ffi::c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    flush_all();
    deeper(|| match PREVIOUS.with(Cell::get).utility {
        Some(previous) => previous(statement, text, read_only, context, params, environment, dest, completion),
        None => {
            server::standard_ProcessUtility(statement, text, read_only, context, params, environment, dest, completion)
        }
    });
    flush_left_behind();
}

/// The server's functions as they are.
mod server {
    use pgrx::pg_sys;

    extern "C-unwind" {
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: core::ffi::c_int);
        #[cfg(not(feature = "pg18"))]
        pub fn standard_ExecutorRun(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            once: bool,
        );
        #[cfg(feature = "pg18")]
        pub fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64);
        pub fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
        pub fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            text: *const core::ffi::c_char,
            read_only: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            params: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            dest: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
}
