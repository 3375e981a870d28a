//! How far journals are complete, as the sessions of the server have found out: what one has seen committed is there for
//! every snapshot that is taken later, so nobody else has to read it again.

use super::shared::{Shared, Zeroed};
use pgrx::pg_sys;
use std::cell::Cell;

/// The most journals of the whole server that are known; after that a new one takes the place of another.
const JOURNALS: usize = 256;

/// A journal, by its database and sequence, and the end of its contiguous committed prefix.
#[repr(C)]
#[derive(Clone, Copy)]
struct Progress {
    database: u32,
    sequence: u32,
    prefix: i64,
}

#[repr(C)]
struct State {
    journals: [Progress; JOURNALS],
    /// The place that is given to a new journal next.
    next: usize,
}

// SAFETY: numbers; zeroes are no journal.
unsafe impl Zeroed for State {}

thread_local! {
    static SHARED: Cell<Option<Option<&'static Shared<State>>>> = const { Cell::new(None) };
}

fn shared() -> Option<&'static Shared<State>> {
    let shared = SHARED.with(Cell::get).unwrap_or_else(|| Shared::attach("progress"));
    SHARED.with(|cell| cell.set(Some(shared)));
    shared
}

impl State {
    fn known(&mut self, database: u32, sequence: u32) -> Option<&mut Progress> {
        self.journals.iter_mut().find(|known| (known.database, known.sequence) == (database, sequence))
    }
}

fn database() -> u32 {
    // SAFETY: a plain read of this process's database id.
    unsafe { pg_sys::MyDatabaseId.to_u32() }
}

/// Notes that a journal is complete up to `prefix`, in committed entries; returns how far it is known to be.
pub fn share(sequence: pg_sys::Oid, prefix: i64) -> i64 {
    let Some(shared) = shared() else { return prefix };
    let (database, sequence) = (database(), sequence.to_u32());
    let mut state = shared.lock();
    if let Some(known) = state.known(database, sequence) {
        known.prefix = known.prefix.max(prefix);
        return known.prefix;
    }
    let place = state.next;
    state.journals[place] = Progress { database, sequence, prefix };
    state.next = (place + 1) % JOURNALS;
    prefix
}

/// Notes that more was believed than is true: somebody has removed entries by hand.
pub fn correct(sequence: pg_sys::Oid, prefix: i64) {
    let Some(shared) = shared() else { return };
    if let Some(known) = shared.lock().known(database(), sequence.to_u32()) {
        known.prefix = known.prefix.min(prefix);
    }
}
