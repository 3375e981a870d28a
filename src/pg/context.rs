//! What the server adds to an error as CONTEXT while something is being done.

use pgrx::pg_sys;
use std::cell::{Ref, RefCell};
use std::ffi::CString;
use std::fmt::Display;

extern "C-unwind" {
    fn errcontext_msg(format: *const core::ffi::c_char, ...) -> core::ffi::c_int;
}

/// Errors raised while it lives have the text of `T` in their CONTEXT.
pub struct ErrorContext<T: Display> {
    place: Box<RefCell<T>>,
    callback: Box<pg_sys::ErrorContextCallback>,
}

unsafe extern "C-unwind" fn add_context<T: Display>(place: *mut core::ffi::c_void) {
    if let Ok(place) = (*place.cast::<RefCell<T>>()).try_borrow() {
        let text = CString::new(place.to_string().replace('\0', "")).unwrap_or_default();
        errcontext_msg(c"%s".as_ptr(), text.as_ptr());
    }
}

impl<T: Display> ErrorContext<T> {
    pub fn enter(place: T) -> ErrorContext<T> {
        let place = Box::new(RefCell::new(place));
        // SAFETY: place and callback are boxed, so they stay where they are until Drop.
        unsafe {
            let mut callback = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(add_context::<T>),
                arg: std::ptr::from_ref(&*place).cast_mut().cast(),
            });
            pg_sys::error_context_stack = &mut *callback;
            ErrorContext { place, callback }
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.place.borrow_mut());
    }

    pub fn place(&self) -> Ref<'_, T> {
        self.place.borrow()
    }
}

impl<T: Display> Drop for ErrorContext<T> {
    fn drop(&mut self) {
        // SAFETY: as found in enter(); also when unwinding, for the callback's memory goes away.
        unsafe { pg_sys::error_context_stack = self.callback.previous };
    }
}
