//! Statements in a transaction of their own: a background worker runs them, whatever becomes of
//! the transaction that asked. For what must be told although, or because, that one fails.

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// Is this the session of a client?
pub fn in_session() -> bool {
    // SAFETY: plain reads of process state.
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_BACKEND && pg_sys::MyDatabaseId != pg_sys::InvalidOid }
}

/// This process.
pub fn pid() -> i32 {
    // SAFETY: a plain read.
    unsafe { pg_sys::MyProcPid }
}

/// Copies a text into a fixed field, NUL-terminated; false if it does not fit.
fn put(field: &mut [core::ffi::c_char], text: &[u8]) -> bool {
    if text.len() >= field.len() {
        return false;
    }
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from as core::ffi::c_char;
    }
    true
}

/// A worker of this name that starts, once, with this function.
fn describe(name: &[u8], function: &[u8]) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        ..Default::default()
    };
    put(&mut worker.bgw_name, name);
    put(&mut worker.bgw_type, name);
    put(&mut worker.bgw_library_name, b"rowclaim");
    put(&mut worker.bgw_function_name, function);
    worker
}

/// Starts a worker with this function and argument; false when none is to be had (`max_worker_processes`).
pub fn start(name: &str, function: &str, argument: u64) -> bool {
    let mut worker = describe(name.as_bytes(), function.as_bytes());
    worker.bgw_main_arg = pg_sys::Datum::from(argument);
    // SAFETY: the server copies the description.
    unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut()) }
}

/// Has `sql` run after `delay` milliseconds, as the bootstrap superuser in this database; false when no
/// background worker is to be had (`max_worker_processes`): callers must do without.
pub fn run(sql: &str, delay: u32) -> bool {
    let sql = &format!("{delay} {sql}");
    // SAFETY: the segment is written before the worker is registered and belongs to the worker
    // from then on; it survives this transaction because it is pinned.
    unsafe {
        let mut worker = describe(b"rowclaim worker", b"rowclaim_worker");
        let mut segment = 0;
        if !put(&mut worker.bgw_extra, sql.as_bytes()) {
            let Some(handle) = share(sql) else { return false };
            segment = handle;
        }
        let database = u64::from(pg_sys::MyDatabaseId.to_u32());
        worker.bgw_main_arg = pg_sys::Datum::from(database << 32 | u64::from(segment));
        let accepted = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut());
        if !accepted && segment != 0 {
            pg_sys::dsm_unpin_segment(segment);
        }
        accepted
    }
}

/// Puts a text too long for the registration into shared memory.
unsafe fn share(sql: &str) -> Option<pg_sys::dsm_handle> {
    let text = CString::new(sql).ok()?;
    let bytes = text.as_bytes_with_nul();
    let segment = pg_sys::dsm_create(bytes.len(), pg_sys::DSM_CREATE_NULL_IF_MAXSEGMENTS as i32);
    if segment.is_null() {
        return None;
    }
    std::ptr::copy_nonoverlapping(bytes.as_ptr(), pg_sys::dsm_segment_address(segment).cast(), bytes.len());
    let handle = pg_sys::dsm_segment_handle(segment);
    pg_sys::dsm_pin_segment(segment);
    pg_sys::dsm_detach(segment);
    Some(handle)
}

/// Makes an apply worker flush what it has committed before it ends.
///
/// Subscriptions commit asynchronously. The next worker tells the publisher that all it has
/// received is flushed, so a crash of this server soon after would lose what was not.
pub fn flush_at_exit() {
    // SAFETY: a static function and no argument.
    unsafe { pg_sys::before_shmem_exit(Some(flush), pg_sys::Datum::from(0)) };
}

#[pg_guard]
unsafe extern "C-unwind" fn flush(_code: core::ffi::c_int, _argument: pg_sys::Datum) {
    if !pg_sys::RecoveryInProgress() {
        pg_sys::XLogFlush(pg_sys::GetXLogInsertRecPtr());
    }
}

/// The worker's main function.
///
/// # Safety
/// Called by the server in a background worker that [`run`] has registered.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn rowclaim_worker(argument: pg_sys::Datum) {
    let argument = argument.value() as u64;
    let (database, handle) = ((argument >> 32) as u32, argument as u32);
    pg_sys::BackgroundWorkerUnblockSignals();
    let sql = if handle == 0 {
        CStr::from_ptr((*pg_sys::MyBgworkerEntry).bgw_extra.as_ptr()).to_owned()
    } else {
        let segment = pg_sys::dsm_attach(handle);
        if segment.is_null() {
            return;
        }
        let sql = CStr::from_ptr(pg_sys::dsm_segment_address(segment).cast()).to_owned();
        pg_sys::dsm_unpin_segment(handle);
        pg_sys::dsm_detach(segment);
        sql
    };
    let Some((delay, sql)) = sql.to_str().ok().and_then(|text| text.split_once(' ')) else { return };
    let Ok(sql) = CString::new(sql) else { return };
    // Before it connects: a sleeping worker does not keep the database from being dropped.
    let until = super::xact::clock() + delay.parse::<i64>().unwrap_or(0) * 1_000;
    while super::xact::clock() < until {
        super::xact::pause((until - super::xact::clock()) / 1_000);
    }
    pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(database), pg_sys::InvalidOid, 0);
    pg_sys::SetCurrentStatementStartTimestamp();
    pg_sys::StartTransactionCommand();
    // What is lost in a crash is told or done again.
    super::owner::set_guc_local(c"synchronous_commit", c"off");
    pg_sys::SPI_connect();
    pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    pg_sys::SPI_execute(sql.as_ptr(), false, 0);
    pg_sys::SPI_finish();
    pg_sys::PopActiveSnapshot();
    pg_sys::CommitTransactionCommand();
}
