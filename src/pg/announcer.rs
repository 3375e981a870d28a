//! Announcements after the commit. PostgreSQL lets transactions that notify commit one after another, each
//! with a flush of its own; so a background worker of the database notifies for those that would have to wait.
//! It starts with the first such announcement and ends when there has been none for a while.
//!
//! Before its commit a transaction reserves room in a queue in shared memory and sees that there is a
//! worker; after it, it fills that in, which cannot fail. The room is free again once the worker has announced what is
//! in it: a worker that fails ends, and another one goes on after a pause.

use super::owner::{keep_installed, set_guc_local};
use super::session::Kept;
use super::shared::{Shared, Zeroed};
use super::{worker, xact};
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ptr::null_mut;
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
/// How long what has failed is left alone, in milliseconds: each time twice as long, up to a limit.
const PAUSE: u32 = 1_000;
const PAUSE_MAX: u32 = 32_000;

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
    /// When it was started, or is to go on.
    since: i64,
    /// The server has accepted that.
    accepted: bool,
    latch: *mut pg_sys::Latch,
    promised: usize,
    /// After the last failure, in milliseconds; zero: it has announced something since.
    pause: u32,
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

    /// The worker of a database, or room for one, which another database may have left: one for which something still
    /// waits, and which may be gone, only where there is no other.
    fn worker_or_room(&mut self, database: u32, now: i64) -> Option<&mut Worker> {
        let free = |worker: &Worker| worker.promised == 0 && worker.help(now) == Help::None;
        let find = |wanted: &dyn Fn(&Worker) -> bool| self.workers.iter().position(wanted);
        let at = find(&|worker| worker.database == database)
            .or_else(|| find(&|worker| free(worker) && self.waiting(worker.database).next().is_none()))
            .or_else(|| find(&free))?;
        if self.workers[at].database != database {
            let former = self.workers[at].database;
            self.remove(former, QUEUE);
            self.workers[at] =
                Worker { database, pid: 0, since: 0, accepted: false, latch: null_mut(), promised: 0, pause: 0 };
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
    fn waiting(&self, database: u32) -> impl Iterator<Item = Changeset> + '_ {
        self.queue.iter().take(self.queued).filter(move |item| item.0 == database).map(|item| item.1)
    }

    /// Removes the first `count` of what is queued for a database.
    fn remove(&mut self, database: u32, count: usize) {
        let (mut removed, mut kept) = (0, 0);
        for at in 0..self.queued {
            let item = self.queue[at];
            if item.0 == database && removed < count {
                removed += 1;
            } else {
                self.queue[kept] = item;
                kept += 1;
            }
        }
        self.queued = kept;
    }

    /// Does somebody need the worker of a database?
    fn is_needed(&self, database: u32) -> bool {
        self.waiting(database).next().is_some()
            || self.workers.iter().any(|worker| worker.database == database && worker.promised > 0)
    }

    /// Notes that this process, the worker of a database, leaves; its place, which is no longer its own.
    fn vacate(&mut self, database: u32) -> Option<&mut Worker> {
        let worker = self.worker(database).filter(|worker| worker.pid == worker::pid())?;
        (worker.pid, worker.since, worker.accepted) = (0, 0, false);
        Some(worker)
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
    let accepted = help == Help::Sure || start(database, 0);
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

/// Starts a worker that does nothing for `pause` milliseconds.
fn start(database: u32, pause: u32) -> bool {
    worker::start("rowclaim announcer", "rowclaim_announcer", u64::from(database) << 32 | u64::from(pause))
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

/// Gives the worker's place up if nobody needs it.
fn leave(shared: &'static Shared<State>, database: u32) -> bool {
    let mut state = shared.lock();
    let needed = state.is_needed(database);
    if !needed {
        state.vacate(database);
    }
    !needed
}

/// The worker ends, whatever the reason. If it is needed, another one goes on after a pause.
fn hand_over(shared: &'static Shared<State>, database: u32) {
    let now = xact::clock();
    let pause = {
        let mut state = shared.lock();
        let needed = state.is_needed(database);
        let Some(worker) = state.vacate(database).filter(|_| needed) else { return };
        worker.pause = (2 * worker.pause).clamp(PAUSE, PAUSE_MAX);
        worker.since = now + i64::from(worker.pause) * 1_000;
        worker.pause
    };
    let accepted = start(database, pause);
    let mut state = shared.lock();
    if let Some(worker) = state.worker(database) {
        worker.accepted = accepted;
        if !accepted {
            // Whoever promises next starts one.
            worker.since = 0;
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: core::ffi::c_int, database: pg_sys::Datum) {
    if let Some(shared) = shared() {
        hand_over(shared, database.value() as u32);
    }
}

/// The worker's main function.
///
/// # Safety
/// Called by the server in a background worker that [`start`] has registered.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn rowclaim_announcer(argument: pg_sys::Datum) {
    let argument = argument.value() as u64;
    let (database, pause) = ((argument >> 32) as u32, argument as u32);
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGTERM);
    // Before it connects: a worker that pauses does not keep the database from being dropped.
    let until = xact::clock() + i64::from(pause) * 1_000;
    while xact::clock() < until && !BackgroundWorker::sigterm_received() {
        xact::pause((until - xact::clock()) / 1_000);
    }
    pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(database), pg_sys::InvalidOid, 0);
    let Some(shared) = shared().filter(|shared| arrive(shared, database)) else { return };
    pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::from(database));
    let mut last = xact::clock();
    loop {
        let changesets: Vec<Changeset> = shared.lock().waiting(database).collect();
        let now = xact::clock();
        if !changesets.is_empty() {
            // An error ends this process.
            announce(&changesets);
            announced(shared, database, changesets.len());
            last = now;
            // Who commits meanwhile need not wake this process.
            std::thread::sleep(REST);
        } else if BackgroundWorker::sigterm_received() || now - last >= IDLE && leave(shared, database) {
            return;
        } else {
            xact::pause(IDLE / 1_000);
        }
    }
}

/// The first `count` that waited are committed.
fn announced(shared: &'static Shared<State>, database: u32, count: usize) {
    let mut state = shared.lock();
    state.remove(database, count);
    if let Some(worker) = state.worker(database) {
        worker.pause = 0;
    }
}

/// Notifies in a transaction of its own, which need not be flushed: whoever listens does not survive a crash.
unsafe fn announce(changesets: &[Changeset]) {
    pg_sys::SetCurrentStatementStartTimestamp();
    pg_sys::StartTransactionCommand();
    set_guc_local(c"synchronous_commit", c"off");
    // The database may have timeouts for its users.
    set_guc_local(c"lock_timeout", c"0");
    pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    if keep_installed() {
        changesets.iter().for_each(|changeset| crate::notify::announce(*changeset));
    }
    pg_sys::PopActiveSnapshot();
    pg_sys::CommitTransactionCommand();
}
