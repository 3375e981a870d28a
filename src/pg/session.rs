//! Variables of a session.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::thread::LocalKey;

/// What a `thread_local!` variable that owns memory is to be. It is never dropped: the C library would have to note that
/// it has to be, and ends the process where it has no memory for the note. A session's memory goes with its process.
#[derive(Default)]
pub struct Kept<T>(ManuallyDrop<RefCell<T>>);

impl<T> Kept<T> {
    pub const fn new(value: T) -> Kept<T> {
        Kept(ManuallyDrop::new(RefCell::new(value)))
    }
}

impl<T> Deref for Kept<T> {
    type Target = RefCell<T>;
    fn deref(&self) -> &RefCell<T> {
        &self.0
    }
}

/// As of a `LocalKey<RefCell<T>>`.
pub trait Session<T> {
    fn with_borrow<R>(&'static self, body: impl FnOnce(&T) -> R) -> R;
    fn with_borrow_mut<R>(&'static self, body: impl FnOnce(&mut T) -> R) -> R;
    fn take(&'static self) -> T
    where
        T: Default;
}

impl<T> Session<T> for LocalKey<Kept<T>> {
    fn with_borrow<R>(&'static self, body: impl FnOnce(&T) -> R) -> R {
        self.with(|variable| body(&variable.borrow()))
    }
    fn with_borrow_mut<R>(&'static self, body: impl FnOnce(&mut T) -> R) -> R {
        self.with(|variable| body(&mut variable.borrow_mut()))
    }
    fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(|variable| variable.take())
    }
}
