//! Errors on their way through Rust need memory that is there when memory is exhausted: without it another error would
//! be raised where pgrx cannot catch one, and the process would end, and the server restart.
//!
//! pgrx copies what the server says of an error, and what it tells the server of one, into the memory context that is
//! current. These copies, which are freed at once, are made in a context that has its memory already: the linker
//! (`build.rs`) has pgrx call what stands here.

use pgrx::pg_sys;
use std::cell::Cell;
use std::ptr::null_mut;

/// Errors with longer texts need more memory.
const SIZE: usize = 32 << 10;

thread_local! {
    static CONTEXT: Cell<pg_sys::MemoryContext> = const { Cell::new(null_mut()) };
}

/// Sets the memory aside; called once per backend.
pub fn register() {
    // SAFETY: a context that lives as long as the backend.
    let context = unsafe {
        pg_sys::AllocSetContextCreateInternal(pg_sys::TopMemoryContext, c"rowclaim errors".as_ptr(), SIZE, SIZE, SIZE)
    };
    CONTEXT.set(context);
    // With the first panic, the C library needs memory for a variable of pgrx's that has to be dropped.
    drop(std::panic::catch_unwind(|| std::panic::panic_any(())));
}

/// Makes the context current, empty.
unsafe fn enter() {
    let context = CONTEXT.get();
    if !context.is_null() {
        pg_sys::MemoryContextReset(context);
        pg_sys::CurrentMemoryContext = context;
    }
}

extern "C-unwind" {
    fn __real_CopyErrorData() -> *mut pg_sys::ErrorData;
    fn __real_errstart(level: core::ffi::c_int, domain: *const core::ffi::c_char) -> bool;
}

/// `CopyErrorData()` where pgrx has caught an error. Earlier copies have been freed.
///
/// # Safety
/// Called by pgrx.
#[no_mangle]
pub unsafe extern "C-unwind" fn __wrap_CopyErrorData() -> *mut pg_sys::ErrorData {
    let current = pg_sys::CurrentMemoryContext;
    enter();
    let copy = __real_CopyErrorData();
    pg_sys::CurrentMemoryContext = current;
    copy
}

/// `errstart()` where pgrx raises an error. The server does not come back from that.
///
/// # Safety
/// Called by pgrx.
#[no_mangle]
pub unsafe extern "C-unwind" fn __wrap_errstart(level: core::ffi::c_int, domain: *const core::ffi::c_char) -> bool {
    let wanted = __real_errstart(level, domain);
    if level == pgrx::PgLogLevel::ERROR as core::ffi::c_int {
        enter();
    }
    wanted
}
