//! Transaction and subtransaction callbacks, registered once per backend, and identifiers.

use super::memory::{check, check_in_loop};
use super::spi::Sees;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;

pub type SubId = pg_sys::SubTransactionId;

pub fn current_sub() -> SubId {
    // SAFETY: a plain read of transaction state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

pub fn current_command() -> pg_sys::CommandId {
    // SAFETY: a plain read of transaction state.
    unsafe { pg_sys::GetCurrentCommandId(false) }
}

/// The command that writes now.
pub fn writing_command() -> pg_sys::CommandId {
    // SAFETY: allowed wherever a row may be written.
    unsafe { pg_sys::GetCurrentCommandId(true) }
}

/// Makes this command's own writes visible to what follows.
pub fn bump_command() {
    // SAFETY: allowed wherever a statement may run.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// Refuses a function that writes in a read-only transaction and on a standby.
pub fn writes(function: &'static std::ffi::CStr) {
    // SAFETY: a static string; raises an error or does nothing.
    unsafe { pg_sys::PreventCommandIfReadOnly(function.as_ptr()) };
}

/// Is this a standby, or a server that still recovers?
pub fn in_recovery() -> bool {
    // SAFETY: a plain read of the server's state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Has the whole transaction one snapshot?
pub fn has_one_snapshot() -> bool {
    // SAFETY: a plain read of transaction state.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Something has changed since it was seen: where the whole transaction has one snapshot, it fails.
pub fn check_one_snapshot() {
    if has_one_snapshot() {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update"
        );
    }
}

/// The transaction's id, assigned if necessary.
pub fn xid() -> u64 {
    // SAFETY: may raise an error in recovery, which pgrx turns into a panic.
    unsafe { pg_sys::GetCurrentFullTransactionId().value }
}

/// Is this the id of the running transaction, or of a subtransaction of it that was not rolled back?
pub fn is_own(xid: i64) -> bool {
    // SAFETY: a look-up in this backend's transaction state.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(pg_sys::TransactionId::from_inner(xid as u32)) }
}

/// Microseconds since 2000-01-01 UTC, as `clock_timestamp()`.
pub fn clock() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Runs `body` in a subtransaction; `Ok(None)` from it rolls everything it did back. Nothing that
/// holds a buffer pin may be alive when it starts or ends.
pub fn in_subtransaction<T, E>(body: impl FnOnce() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    // SAFETY: the resource owner and memory context of before are put back as PL/pgSQL does for
    // its exception blocks; an error inside ends this subtransaction and goes on.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        let end = move |keep: bool| {
            if keep {
                pg_sys::ReleaseCurrentSubTransaction();
            } else {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
            pg_sys::CurrentMemoryContext = context;
            pg_sys::CurrentResourceOwner = owner;
        };
        let end_and_rethrow = move |caught: CaughtError| {
            end(false);
            caught.rethrow()
        };
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = context;
        let result = PgTryBuilder::new(AssertUnwindSafe(body))
            .catch_others(end_and_rethrow)
            .catch_rust_panic(end_and_rethrow)
            .execute();
        end(matches!(result, Ok(Some(_))));
        result
    }
}

/// Runs `body`, which ends in a subtransaction of its own; `Err`: that broke a constraint, in the server's words.
pub fn where_constraints_allow<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    use PgSqlErrorCode::*;
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(body())))
        .catch_others(|caught| match caught {
            CaughtError::PostgresError(error) | CaughtError::ErrorReport(error)
                if [ERRCODE_FOREIGN_KEY_VIOLATION, ERRCODE_UNIQUE_VIOLATION, ERRCODE_EXCLUSION_VIOLATION]
                    .contains(&error.sql_error_code()) =>
            {
                Err(error.message().to_owned())
            }
            caught => caught.rethrow(),
        })
        .execute()
}

/// What is committed at a moment, and this transaction's own writes.
pub struct Moment {
    snapshot: pg_sys::Snapshot,
}

impl Moment {
    pub fn now() -> Moment {
        // SAFETY: unregistered in Drop, or by the transaction's abort.
        Moment { snapshot: unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) } }
    }

    /// What a statement of this transaction sees, at its isolation level.
    pub fn of_transaction() -> Moment {
        // SAFETY: as above.
        Moment { snapshot: unsafe { pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()) } }
    }

    /// What the statement that is running sees, so that its other tables and this agree.
    pub fn of_statement() -> Moment {
        // SAFETY: there is one while a function is called; unregistered as above.
        Moment { snapshot: unsafe { pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot()) } }
    }

    /// Also with what this very command has written.
    pub fn with_own_writes() -> Moment {
        let now = Moment::now();
        // SAFETY: the registered snapshot is this moment's own copy.
        unsafe { (*now.snapshot).curcid = pg_sys::CommandId::MAX - 1 };
        now
    }

    pub fn snapshot(&self) -> pg_sys::Snapshot {
        self.snapshot
    }

    /// For statements that are to see just that; the moment must outlive them.
    pub fn sees(&self) -> Sees {
        Sees::At(self.snapshot)
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered when it was made.
            unsafe { pg_sys::UnregisterSnapshot(self.snapshot) };
        }
    }
}

/// An active snapshot for code that runs where there may be none (before commit).
pub struct ActiveSnapshot;

impl ActiveSnapshot {
    pub fn latest() -> ActiveSnapshot {
        // SAFETY: popped in Drop, or by the transaction's abort.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        ActiveSnapshot
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the snapshot pushed by latest() is on top again.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}

/// What the extension does around transactions.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// `true`: before PREPARE TRANSACTION.
    pub before_commit: fn(bool),
    /// `true`: it was rolled back.
    pub after_transaction: fn(bool),
    /// Inside the subtransaction.
    pub before_sub_commit: fn(),
    /// The subtransaction and, if it was committed, its parent.
    pub after_sub: fn(SubId, Option<SubId>),
}

thread_local! {
    static HOOKS: Cell<Option<Hooks>> = const { Cell::new(None) };
}

fn hooks(call: impl FnOnce(Hooks)) {
    if let Some(hooks) = HOOKS.with(Cell::get) {
        call(hooks);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_xact(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::*;
    match event {
        // The others must not fail.
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => {
            check();
            hooks(|hooks| (hooks.before_commit)(event == XACT_EVENT_PRE_PREPARE));
        }
        XACT_EVENT_COMMIT | XACT_EVENT_PREPARE => hooks(|hooks| (hooks.after_transaction)(false)),
        XACT_EVENT_ABORT => hooks(|hooks| (hooks.after_transaction)(true)),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subxact(
    event: pg_sys::SubXactEvent::Type,
    sub: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut core::ffi::c_void,
) {
    use pg_sys::SubXactEvent::*;
    match event {
        SUBXACT_EVENT_PRE_COMMIT_SUB => hooks(|hooks| (hooks.before_sub_commit)()),
        SUBXACT_EVENT_COMMIT_SUB => hooks(|hooks| (hooks.after_sub)(sub, Some(parent))),
        SUBXACT_EVENT_ABORT_SUB => hooks(|hooks| (hooks.after_sub)(sub, None)),
        _ => {}
    }
}

/// Registers the callbacks; called once per backend.
pub fn register(hooks: Hooks) {
    HOOKS.with(|cell| cell.set(Some(hooks)));
    // SAFETY: the callbacks are static functions; registered once, from _PG_init.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_xact), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subxact), std::ptr::null_mut());
    }
}

/// Sleeps up to `millis`, ending early for interrupts.
pub fn pause(millis: i64) {
    // SAFETY: waits on this backend's own latch as pg_sleep() does.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            millis.max(1) as core::ffi::c_long,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_in_loop();
}
