//! What the server adds to an error as CONTEXT while something is being done.

use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::CString;
use std::fmt::Display;
use std::rc::Rc;

extern "C-unwind" {
    fn errcontext_msg(format: *const core::ffi::c_char, ...) -> core::ffi::c_int;
}

/// Errors raised while it lives have the text of `T` in their CONTEXT.
pub struct ErrorContext<T: Display> {
    _place: Rc<RefCell<T>>,
    callback: Box<pg_sys::ErrorContextCallback>,
}

unsafe extern "C-unwind" fn add_context<T: Display>(place: *mut core::ffi::c_void) {
    if let Ok(place) = (*place.cast::<RefCell<T>>()).try_borrow() {
        let text = CString::new(place.to_string().replace('\0', "")).unwrap_or_default();
        errcontext_msg(c"%s".as_ptr(), text.as_ptr());
    }
}

impl<T: Display> ErrorContext<T> {
    pub fn enter(place: Rc<RefCell<T>>) -> ErrorContext<T> {
        // SAFETY: place and callback are on the heap, so they stay where they are until Drop.
        unsafe {
            let mut callback = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(add_context::<T>),
                arg: std::ptr::from_ref(&*place).cast_mut().cast(),
            });
            pg_sys::error_context_stack = &mut *callback;
            ErrorContext { _place: place, callback }
        }
    }
}

impl<T: Display> Drop for ErrorContext<T> {
    fn drop(&mut self) {
        // SAFETY: as found in enter(); also when unwinding, for the callback's memory goes away.
        unsafe { pg_sys::error_context_stack = self.callback.previous };
    }
}
