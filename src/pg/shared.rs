//! Memory that all processes of the server share, without preloading: the first process that asks makes it.

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::UnsafeCell;
use std::ffi::CString;
use std::ops::{Deref, DerefMut};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A state of which zeroes, as which the memory comes into being, are the empty one.
///
/// # Safety
/// Zeroes are a valid value, and it owns nothing of one process.
pub unsafe trait Zeroed {}

#[repr(C)]
pub struct Shared<T> {
    locked: AtomicBool,
    state: UnsafeCell<T>,
}

impl<T: Zeroed> Shared<T> {
    /// The memory for this; `None` where there is no room for it or no server with other processes. Its name tells
    /// versions apart: another one's may look different, and be there until the server is restarted.
    pub fn attach(purpose: &str) -> Option<&'static Shared<T>> {
        let name = CString::new(format!("rowclaim {purpose} {}", env!("CARGO_PKG_VERSION"))).unwrap_or_default();
        // SAFETY: the structure is the same in every session and lives as long as the server; an error leaves no lock.
        unsafe {
            let context = pg_sys::CurrentMemoryContext;
            let attach = || {
                let mut found = false;
                pg_sys::ShmemInitStruct(name.as_ptr(), size_of::<Shared<T>>(), &mut found)
            };
            let address = match pg_sys::IsUnderPostmaster {
                true => PgTryBuilder::new(AssertUnwindSafe(attach)).catch_others(|_| std::ptr::null_mut()).execute(),
                false => std::ptr::null_mut(),
            };
            pg_sys::CurrentMemoryContext = context;
            address.cast::<Shared<T>>().as_ref()
        }
    }

    /// For a few instructions, in which nothing fails.
    pub fn lock(&'static self) -> Guard<T> {
        while self.locked.swap(true, Ordering::Acquire) {
            std::thread::sleep(Duration::from_micros(20));
        }
        Guard(self)
    }
}

/// The state while no other process has it.
pub struct Guard<T: 'static>(&'static Shared<T>);

impl<T> Deref for Guard<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this process has the lock.
        unsafe { &*self.0.state.get() }
    }
}

impl<T> DerefMut for Guard<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this process has the lock.
        unsafe { &mut *self.0.state.get() }
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::Release);
    }
}
