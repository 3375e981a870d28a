//! Fixed output settings: while a guard lives, the text form of a value does not depend on the
//! session (ISO dates, UTC, postgres intervals, hex bytea, shortest exact floats).

use super::ffi::{swap_bytea_output, swap_xmloption};
use super::owner::set_guc_local;
use pgrx::pg_sys;
use std::cell::Cell;

pub struct FixedOutput {
    date_style: i32,
    interval_style: i32,
    float_digits: i32,
    bytea: i32,
    xml: i32,
    array_nulls: bool,
    quote_all: bool,
    zone: *mut pg_sys::pg_tz,
    guc_level: Option<i32>,
}

thread_local! {
    static UTC: Cell<*mut pg_sys::pg_tz> = const { Cell::new(std::ptr::null_mut()) };
}

fn utc() -> *mut pg_sys::pg_tz {
    let known = UTC.with(Cell::get);
    if !known.is_null() {
        return known;
    }
    // SAFETY: the zone is cached by the server for the life of the backend.
    let zone = unsafe { pg_sys::pg_tzset(c"UTC".as_ptr()) };
    UTC.with(|cell| cell.set(zone));
    zone
}

impl FixedOutput {
    /// `settings`: also pin what only real settings reach (`search_path`, `lc_monetary`), needed
    /// for money, reg* and user-defined types.
    pub fn enter(settings: bool) -> FixedOutput {
        let zone = utc();
        let guc_level = settings.then(|| {
            // SAFETY: ended by AtEOXact_GUC in Drop or by the (sub)transaction's abort.
            let level = unsafe { pg_sys::NewGUCNestLevel() };
            set_guc_local(c"search_path", c"pg_catalog, pg_temp");
            set_guc_local(c"lc_monetary", c"C");
            level
        });
        // SAFETY: plain variables of this single-threaded backend, put back in Drop.
        unsafe {
            let guard = FixedOutput {
                date_style: pg_sys::DateStyle,
                interval_style: pg_sys::IntervalStyle,
                float_digits: pg_sys::extra_float_digits,
                bytea: swap_bytea_output(1),
                xml: swap_xmloption(1),
                array_nulls: pg_sys::Array_nulls,
                quote_all: pg_sys::quote_all_identifiers,
                zone: pg_sys::session_timezone,
                guc_level,
            };
            pg_sys::DateStyle = pg_sys::USE_ISO_DATES as i32;
            pg_sys::IntervalStyle = pg_sys::INTSTYLE_POSTGRES as i32;
            pg_sys::extra_float_digits = 1;
            pg_sys::Array_nulls = true;
            pg_sys::quote_all_identifiers = false;
            pg_sys::session_timezone = zone;
            guard
        }
    }
}

impl Drop for FixedOutput {
    fn drop(&mut self) {
        // SAFETY: the values enter() found.
        unsafe {
            pg_sys::DateStyle = self.date_style;
            pg_sys::IntervalStyle = self.interval_style;
            pg_sys::extra_float_digits = self.float_digits;
            pg_sys::Array_nulls = self.array_nulls;
            pg_sys::quote_all_identifiers = self.quote_all;
            pg_sys::session_timezone = self.zone;
            swap_bytea_output(self.bytea);
            swap_xmloption(self.xml);
            if let Some(level) = self.guc_level {
                pg_sys::AtEOXact_GUC(true, level);
            }
        }
    }
}
