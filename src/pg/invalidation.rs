//! What backends tell one another about what they know of relations.

use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;

thread_local! {
    static ROLES_CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// Has [`take_roles_changed`] know; called once per backend.
pub fn watch_roles() {
    // SAFETY: a static function and no argument.
    unsafe {
        let roles = pg_sys::SysCacheIdentifier::AUTHOID as i32;
        pg_sys::CacheRegisterSyscacheCallback(roles, Some(on_role), pg_sys::Datum::from(0));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_role(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    ROLES_CHANGED.set(true);
}

/// May a role have another name since this was asked last?
pub fn take_roles_changed() -> bool {
    ROLES_CHANGED.replace(false)
}

/// Tells every backend, once this transaction has committed and before its locks are released, that what it knows of a
/// relation is old. This one is told, too.
pub fn invalidate(relid: pg_sys::Oid) {
    // SAFETY: a catalogue look-up by OID; an error when there is no such relation.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relid) };
}

/// Takes note of what has been told.
pub fn accept() {
    // SAFETY: allowed inside of a transaction; runs the cache callbacks.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}
