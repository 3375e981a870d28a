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
    let asleep = |until: i64| {
        let Some(shared) = SHARED.with(Cell::get) else { return true };
        let mut state = shared.lock();
        let known = state.0.iter().position(|s| (s.database, s.sequence) == (database, sequence));
        let Some(at) = known.or_else(|| state.0.iter().position(|s| s.until < now)) else { return true };
        // The transaction that asks still has its locks: the worker must not be awake before it has ended.
        if until != 0 && state.0[at].until > now + 2 * delay_micros / 3 && known.is_some() {
            return false;
        }
        state.0[at] = Sleeper { database, sequence, until };
        true
    };
    if asleep(now + delay_micros) && !worker::run(sql, delay) {
        asleep(0);
    }
}
