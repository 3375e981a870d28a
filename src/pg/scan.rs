//! Sequential scans of tables.

use super::memory::Scratch;
use super::trigger::Values;
use super::value::text_datum;
use super::xact::Moment;
use pgrx::pg_sys;
use std::ffi::CStr;

/// Attribute `wanted` (0-based), passed by value, of the row of `rowclaim.<table>` whose first attribute is this text: what
/// is committed by now and this transaction's own.
pub fn find_by_text(table: &CStr, index: &CStr, key: &str, wanted: usize) -> Option<pg_sys::Datum> {
    // SAFETY: look-ups by name; the scan key matches the index, the static snapshot needs no registration, and all is closed
    // again.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"rowclaim".as_ptr(), false);
        let index = pg_sys::get_relname_relid(index.as_ptr(), schema);
        let relation =
            pg_sys::table_open(pg_sys::get_relname_relid(table.as_ptr(), schema), pg_sys::AccessShareLock as i32);
        let text = text_datum(key);
        let mut keys = [pg_sys::ScanKeyData::default()];
        pg_sys::ScanKeyEntryInitialize(
            &mut keys[0],
            0,
            1,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::TEXTOID,
            pg_sys::DEFAULT_COLLATION_OID,
            pg_sys::Oid::from(pg_sys::F_TEXTEQ),
            text,
        );
        let snapshot = std::ptr::addr_of_mut!(pg_sys::SnapshotSelfData);
        let scan = pg_sys::systable_beginscan(relation, index, true, snapshot, 1, keys.as_mut_ptr());
        let tuple = pg_sys::systable_getnext(scan);
        let mut null = true;
        let value = match tuple.is_null() {
            true => pg_sys::Datum::from(0),
            false => pg_sys::heap_getattr(tuple, wanted as i32 + 1, (*relation).rd_att, &mut null),
        };
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        pg_sys::pfree(text.cast_mut_ptr());
        (!null).then_some(value)
    }
}

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
            pgrx::check_for_interrupts!();
            let tuple = pg_sys::systable_getnext(scan);
            let _entered = scratch.enter();
            if tuple.is_null() || !visit(tuple) {
                break;
            }
        }
        pg_sys::systable_endscan(scan);
    }
}
