//! Short-lived allocations: a loop over a million rows must not grow. And what happens when memory is exhausted: an
//! error, after which the session goes on. What is large asks first, what is small comes from the [reserve](super::reserve).

use super::reserve;
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet, TryReserveError};
use std::hash::{BuildHasher, Hash};

/// Raises "out of memory" (53200) if memory has been short and still is. To be called often enough that what happens
/// between two calls needs no more than the reserve: whenever the server calls, and in every loop over rows.
#[inline]
pub fn check() {
    if reserve::was_short() && !reserve::is_over() {
        raise(None);
    }
}

/// [`check`], and lets the statement be cancelled: what every loop over rows calls.
#[inline]
pub fn check_in_loop() {
    check();
    pgrx::check_for_interrupts!();
}

#[cold]
fn raise(size: Option<usize>) -> ! {
    let detail = match size {
        Some(size) => format!("Failed on request of size {size}."),
        None => "Failed on a small request.".into(),
    };
    pgrx::ereport!(ERROR, pgrx::PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory", detail);
}

/// Raises "out of memory" (53200) if this many bytes cannot be had now. What is small is not asked for.
pub fn ensure(bytes: usize) {
    if bytes > reserve::PIECE / 2 {
        // The compiler might leave out what is not used.
        let mut room = std::hint::black_box(Vec::<u8>::new());
        if room.try_reserve_exact(bytes).is_err() {
            raise(Some(bytes));
        }
        std::hint::black_box(room);
    }
}

/// [`ensure`] for what a part of an entry is read into: its changes, not their texts.
pub fn ensure_parsed(text: &str) {
    ensure((10 * text.len()).min(1 << 20));
}

/// A copy of a text that may be long.
pub fn owned(text: &str) -> String {
    ensure(text.len());
    text.to_owned()
}

/// Raises "out of memory" (53200) if there was none.
pub fn granted<T>(result: Result<T, TryReserveError>) -> T {
    result.unwrap_or_else(|_| raise(None))
}

/// What grows with the number of rows.
pub trait Grows {
    fn grow(&mut self, more: usize) -> Result<(), TryReserveError>;
}

impl<T> Grows for Vec<T> {
    fn grow(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.try_reserve(more)
    }
}

impl Grows for String {
    fn grow(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.try_reserve(more)
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> Grows for HashMap<K, V, S> {
    fn grow(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.try_reserve(more)
    }
}

impl<T: Eq + Hash, S: BuildHasher> Grows for HashSet<T, S> {
    fn grow(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.try_reserve(more)
    }
}

/// Sees that there is room for so many more; see [`check`].
pub fn room(list: &mut impl Grows, more: usize) {
    check();
    granted(list.grow(more));
}

/// All of them, of which there may be many.
pub fn collect<T>(all: impl ExactSizeIterator<Item = T>) -> Vec<T> {
    let mut list = Vec::new();
    room(&mut list, all.len());
    list.extend(all.inspect(|_| check()));
    list
}

/// Appends to what grows with the number of rows.
pub fn push<T>(list: &mut Vec<T>, value: T) {
    room(list, 1);
    list.push(value);
}

/// A memory context of its own, made current by [`Scratch::enter`] and emptied when the returned
/// guard is dropped.
pub struct Scratch {
    context: pg_sys::MemoryContext,
}

impl Scratch {
    pub fn new() -> Scratch {
        // SAFETY: a child of the transaction's context: it outlives SPI connections opened before it,
        // and the transaction's end frees it after an error.
        let context = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopTransactionContext,
                c"rowclaim scratch".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        Scratch { context }
    }

    pub fn enter(&self) -> Entered {
        // SAFETY: the context lives as long as self; the guard switches back.
        let outer =
            unsafe { std::mem::replace(&mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext), self.context) };
        Entered { context: self.context, outer }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: nothing allocated in it is used after this point.
            unsafe { pg_sys::MemoryContextDelete(self.context) };
        }
    }
}

/// See [`Scratch::enter`].
pub struct Entered {
    context: pg_sys::MemoryContext,
    outer: pg_sys::MemoryContext,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the outer context is the caller's and still alive.
            unsafe {
                pg_sys::CurrentMemoryContext = self.outer;
                pg_sys::MemoryContextReset(self.context);
            }
        }
    }
}
