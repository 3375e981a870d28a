//! Short-lived allocations: a loop over a million rows must not grow. And large ones: where memory
//! is exhausted, Rust's allocator would end the server's process, so what is about to need much
//! asks first.

use pgrx::pg_sys;

/// Raises "out of memory" (53200) if this many bytes cannot be had now.
///
/// What is small is not asked for: it is as good as always there.
pub fn ensure(bytes: usize) {
    const LARGE: usize = 1 << 20;
    if bytes >= LARGE && Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
        pgrx::ereport!(
            ERROR,
            pgrx::PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            "out of memory",
            format!("Failed on request of size {bytes}.")
        );
    }
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
