//! Sequential scans of tables.

use super::memory::Scratch;
use super::trigger::Values;
use super::xact::Moment;
use pgrx::pg_sys;

/// Visits every row of a relation as of a moment, until `visit` fails.
pub fn scan_all<E>(
    relid: pg_sys::Oid,
    moment: &Moment,
    mut visit: impl FnMut(Values) -> Result<(), E>,
) -> Result<(), E> {
    // SAFETY: the relation is open during the scan; the arrays have one entry per attribute and
    // live through the visit.
    unsafe {
        let relation = pg_sys::table_open(relid, pg_sys::AccessShareLock as i32);
        let desc = (*relation).rd_att;
        let natts = (*desc).natts as usize;
        let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); natts], vec![false; natts]);
        let mut result = Ok(());
        scan(relation, moment, |tuple| {
            pg_sys::heap_deform_tuple(tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            result = visit(Values::of_arrays(&values, &nulls));
            result.is_ok()
        });
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        result
    }
}

/// Visits the place of every row of an open relation, until `visit` says false.
pub fn scan_places(relation: pg_sys::Relation, mut visit: impl FnMut(pg_sys::ItemPointerData) -> bool) {
    // SAFETY: the tuple is valid while it is visited.
    scan(relation, &Moment::now(), |tuple| visit(unsafe { (*tuple).t_self }));
}

/// What a visit allocates is freed after it.
pub fn scan(relation: pg_sys::Relation, moment: &Moment, mut visit: impl FnMut(pg_sys::HeapTuple) -> bool) {
    // SAFETY: the snapshot is registered as long as the moment lives.
    unsafe {
        let invalid = pg_sys::InvalidOid;
        let scan = pg_sys::systable_beginscan(relation, invalid, false, moment.snapshot(), 0, std::ptr::null_mut());
        let scratch = Scratch::new();
        loop {
            super::memory::check_in_loop();
            let tuple = pg_sys::systable_getnext(scan);
            let _entered = scratch.enter();
            if tuple.is_null() || !visit(tuple) {
                break;
            }
        }
        pg_sys::systable_endscan(scan);
    }
}
