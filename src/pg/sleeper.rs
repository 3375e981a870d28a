//! Workers that run a statement for a journal after a while: one does for all sessions that ask meanwhile, so that many
//! failures in a row leave background workers for others.

use super::shared::{Shared, Zeroed};
use super::{worker, xact};
use pgrx::pg_sys;
use std::cell::Cell;

/// The most journals of the whole server that have one; others' workers are not shared.
const SLEEPERS: usize = 128;

/// Whose worker wakes up when: database, the sequence of the journal, microseconds.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sleeper {
    database: u32,
    sequence: u32,
    until: i64,
}

#[repr(C)]
struct State([Sleeper; SLEEPERS]);

// SAFETY: numbers; zero is a time that has passed.
unsafe impl Zeroed for State {}

thread_local! {
    static SHARED: Cell<Option<&'static Shared<State>>> = const { Cell::new(None) };
}

/// Attaches to the memory, which may raise an error that is caught: not at the end of a transaction.
pub fn prepare() {
    if SHARED.with(Cell::get).is_none() {
        SHARED.with(|cell| cell.set(Shared::attach("sleepers")));
    }
}

/// Has `sql` run in this database after `delay` milliseconds, unless a worker of the journal wakes up late enough to see
/// what has happened by now. [`prepare`] was called before.
pub fn run(sequence: u32, sql: &str, delay: u32) {
    // SAFETY: a plain read of this process's database id.
    let database = unsafe { pg_sys::MyDatabaseId.to_u32() };
    let (now, delay_micros) = (xact::clock(), i64::from(delay) * 1_000);
    let shared = SHARED.with(Cell::get);
    let is_own = |s: &Sleeper| (s.database, s.sequence) == (database, sequence);
    // The transaction that asks still has its locks: the worker must not be awake before it has ended.
    let late_enough = |s: &Sleeper| is_own(s) && s.until > now + 2 * delay_micros / 3;
    if shared.is_some_and(|shared| shared.lock().0.iter().any(late_enough)) {
        return;
    }
    // Only a worker that the server has accepted is noted: nobody relies on one that it may still refuse.
    if worker::run(sql, delay) {
        if let Some(shared) = shared {
            let sleepers = &mut shared.lock().0;
            let known = sleepers.iter().position(is_own);
            if let Some(at) = known.or_else(|| sleepers.iter().position(|s| s.until < now)) {
                let until = now + delay_micros;
                sleepers[at] = Sleeper { database, sequence, until };
            }
        }
    }
}
