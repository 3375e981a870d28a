//! Announcements after the commit. PostgreSQL lets transactions that notify commit one after another, each
//! with a flush of its own; so a background worker of the database notifies for those that would have to wait.
//! It starts with the first such announcement and ends when there has been none for a while.
//!
//! Before its commit a transaction reserves room in a queue in shared memory and sees that there is a
//! worker; after it, it fills that in, which cannot fail.

use super::owner::{keep_installed, set_guc_local};
use super::session::Kept;
use super::shared::{Shared, Zeroed};
use super::{worker, xact};
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::time::Duration;

/// A changeset: the id of its journal and its number.
pub type Changeset = (i32, i64);

/// The most databases that have a worker and the most announcements that wait, of the whole server.
const WORKERS: usize = 32;
const QUEUE: usize = 1_024;
/// How long a worker waits for more, in microseconds: less than DROP DATABASE waits for it to leave.
const IDLE: i64 = 1_000_000;
/// How long it then rests, so that it does not run for each changeset of many.
const REST: Duration = Duration::from_millis(2);
/// How long a worker may take to start; after that another one is started.
const START: i64 = 10_000_000;

/// What all sessions share.
#[repr(C)]
struct State {
    /// Places of the queue that are in use, and those that were promised.
    queued: usize,
    promised: usize,
    workers: [Worker; WORKERS],
    queue: [(u32, Changeset); QUEUE],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Worker {
    database: u32,
    /// Zero: it has still to arrive, if it was started since.
    pid: i32,
    /// When it was started.
    since: i64,
    /// The server has accepted that.
    accepted: bool,
    latch: *mut pg_sys::Latch,
    promised: usize,
}

thread_local! {
    static SHARED: Cell<Option<Option<&'static Shared<State>>>> = const { Cell::new(None) };
    static PROMISED: Kept<Vec<Changeset>> = const { Kept::new(Vec::new()) };
}

// SAFETY: numbers, and addresses of latches, which are in shared memory, too.
unsafe impl Zeroed for State {}

/// The memory; `None` where there is none or no server that could start a worker.
fn shared() -> Option<&'static Shared<State>> {
    let shared = SHARED.with(Cell::get).unwrap_or_else(|| Shared::attach("announcements"));
    SHARED.with(|cell| cell.set(Some(shared)));
    shared
}

/// Whether a worker is there or will be.
#[derive(PartialEq)]
enum Help {
    Sure,
    /// Another session is just asking for it.
    Unsure,
    None,
}

impl Worker {
    fn help(&self, now: i64) -> Help {
        match self.pid != 0 || now < self.since + START {
            true if self.pid != 0 || self.accepted => Help::Sure,
            true => Help::Unsure,
            false => Help::None,
        }
    }
}

impl State {
    fn worker(&mut self, database: u32) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.database == database)
    }

    /// The worker of a database, or room for one, which another database may have left.
    fn worker_or_room(&mut self, database: u32, now: i64) -> Option<&mut Worker> {
        let free = |worker: &Worker| worker.promised == 0 && worker.help(now) == Help::None;
        let known = self.workers.iter().position(|worker| worker.database == database);
        let at = known.or_else(|| self.workers.iter().position(free))?;
        if self.workers[at].database != database {
            let former = std::mem::replace(&mut self.workers[at].database, database);
            self.take(former);
        }
        Some(&mut self.workers[at])
    }

    fn put(&mut self, database: u32, changeset: Changeset) {
        if let Some(place) = self.queue.get_mut(self.queued) {
            *place = (database, changeset);
            self.queued += 1;
        }
    }

    /// What is queued for a database.
    fn take(&mut self, database: u32) -> Vec<Changeset> {
        let mut taken = Vec::new();
        let mut kept = 0;
        for at in 0..self.queued {
            let item = self.queue[at];
            if item.0 == database {
                taken.push(item.1);
            } else {
                self.queue[kept] = item;
                kept += 1;
            }
        }
        self.queued = kept;
        taken
    }

    fn promise(&mut self, database: u32, count: usize) {
        if let Some(worker) = self.worker(database) {
            worker.promised += count;
            self.promised += count;
        }
    }

    fn redeem(&mut self, database: u32, count: usize) {
        if let Some(worker) = self.worker(database) {
            worker.promised -= count;
            self.promised -= count;
        }
    }
}

fn database() -> u32 {
    // SAFETY: a plain read of this process's database id.
    unsafe { pg_sys::MyDatabaseId.to_u32() }
}

/// Has these changesets announced once the transaction, which is about to commit, has committed; false if
/// that cannot be promised. Must be the last that may fail.
pub fn promise(changesets: Vec<Changeset>) -> bool {
    let Some(shared) = shared() else { return false };
    let (database, count, now) = (database(), changesets.len(), xact::clock());
    let help = {
        let mut state = shared.lock();
        if state.queued + state.promised + count > QUEUE {
            return false;
        }
        let Some(worker) = state.worker_or_room(database, now) else { return false };
        let help = worker.help(now);
        if help == Help::None {
            (worker.since, worker.accepted) = (now, false);
        }
        if help == Help::Unsure {
            return false;
        }
        state.promise(database, count);
        help
    };
    let accepted = help == Help::Sure || worker::start("rowclaim announcer", "rowclaim_announcer", database);
    let mut state = shared.lock();
    if help == Help::None {
        if let Some(worker) = state.worker(database) {
            worker.accepted = accepted;
            worker.since = if accepted { now } else { 0 };
        }
    }
    match accepted {
        true => PROMISED.with(|promised| *promised.borrow_mut() = changesets),
        false => state.redeem(database, count),
    }
    accepted
}

/// The transaction has ended. Neither fails nor waits.
pub fn settle(committed: bool) {
    let promised = PROMISED.with(|promised| promised.take());
    if promised.is_empty() {
        return;
    }
    // Known since promise(): nothing is attached here, where errors must not be caught.
    let Some(shared) = shared() else { return };
    let database = database();
    let latch = {
        let mut state = shared.lock();
        state.redeem(database, promised.len());
        if !committed {
            return;
        }
        promised.into_iter().for_each(|changeset| state.put(database, changeset));
        state.worker(database).filter(|worker| worker.pid != 0).map(|worker| worker.latch)
    };
    if let Some(latch) = latch {
        // SAFETY: in shared memory; if its process has ended meanwhile, another one is woken for nothing.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

/// The worker has arrived; false if there is one already.
fn arrive(shared: &'static Shared<State>, database: u32) -> bool {
    let mut state = shared.lock();
    let Some(worker) = state.worker_or_room(database, xact::clock()) else { return false };
    if worker.pid != 0 {
        return false;
    }
    worker.pid = worker::pid();
    // SAFETY: a plain read; the latch of a process is in shared memory.
    worker.latch = unsafe { pg_sys::MyLatch };
    true
}

/// Gives the worker's place up; without `force` only if nobody needs it.
fn leave(shared: &'static Shared<State>, database: u32, force: bool) -> bool {
    let mut state = shared.lock();
    let waiting = state.queue[..state.queued].iter().any(|item| item.0 == database);
    let Some(worker) = state.worker(database).filter(|worker| worker.pid == worker::pid()) else { return true };
    if !force && (waiting || worker.promised > 0) {
        return false;
    }
    (worker.pid, worker.since, worker.accepted) = (0, 0, false);
    true
}

#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: core::ffi::c_int, database: pg_sys::Datum) {
    if let Some(shared) = shared() {
        leave(shared, database.value() as u32, true);
    }
}

/// The worker's main function.
///
/// # Safety
/// Called by the server in a background worker that [`promise`] has started.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn rowclaim_announcer(database: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGTERM);
    let number = database.value() as u32;
    pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(number), pg_sys::InvalidOid, 0);
    let Some(shared) = shared().filter(|shared| arrive(shared, number)) else { return };
    pg_sys::before_shmem_exit(Some(at_exit), database);
    let mut last = xact::clock();
    loop {
        let changesets = shared.lock().take(number);
        let now = xact::clock();
        if !changesets.is_empty() {
            announce(&changesets);
            last = now;
            // Who commits meanwhile need not wake this process.
            std::thread::sleep(REST);
        } else if BackgroundWorker::sigterm_received() || now - last >= IDLE && leave(shared, number, false) {
            return;
        } else {
            xact::pause(IDLE / 1_000);
        }
    }
}

/// Notifies in a transaction of its own, which need not be flushed: whoever listens does not survive a crash.
unsafe fn announce(changesets: &[Changeset]) {
    pg_sys::SetCurrentStatementStartTimestamp();
    pg_sys::StartTransactionCommand();
    set_guc_local(c"synchronous_commit", c"off");
    pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    if keep_installed() {
        changesets.iter().for_each(|changeset| crate::notify::announce(*changeset));
    }
    pg_sys::PopActiveSnapshot();
    pg_sys::CommitTransactionCommand();
}
