//! How long a claim lasts.

use pgrx::pg_sys;

/// A time to live: calendar parts and microseconds, as in an interval.
#[derive(Clone, Copy)]
pub struct Ttl {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

impl Ttl {
    /// The end of a lease that begins at `at` (microseconds since 2000-01-01 UTC), as
    /// `timestamptz + interval` has it.
    pub fn after(self, at: i64) -> i64 {
        let mut span = pg_sys::Interval { time: self.micros, day: self.days, month: self.months };
        let args = [Some(pg_sys::Datum::from(at)), Some(pg_sys::Datum::from(std::ptr::addr_of_mut!(span) as usize))];
        // SAFETY: a pure function of its two arguments; out-of-range results raise an error.
        let sum = unsafe { pgrx::direct_function_call_as_datum(pg_sys::timestamptz_pl_interval, &args) };
        sum.map_or(at, |sum| sum.value() as i64)
    }
}
