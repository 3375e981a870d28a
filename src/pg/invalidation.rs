//! What backends tell one another about what they know of relations.

use pgrx::pg_sys;

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
