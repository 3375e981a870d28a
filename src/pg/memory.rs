//! Short-lived allocations: a loop over a million rows must not grow.

use pgrx::pg_sys;

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
