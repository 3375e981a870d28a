//! Functions called from SQL: arguments by position, composite and set results.

use super::memory::owned;
use super::value;
use pgrx::pg_sys;
use pgrx::{FromDatum, IntoDatum};

/// Declares a C function of the extension: its version-1 record and its guarded entry point.
#[macro_export]
macro_rules! sql_function {
    ($(#[$doc:meta])* $info:ident, $name:ident, |$call:ident| $body:expr) => {
        #[no_mangle]
        #[doc(hidden)]
        pub extern "C" fn $info() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const INFO: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &INFO
        }
        $(#[$doc])*
        ///
        /// # Safety
        /// Called by the function manager.
        #[no_mangle]
        #[pgrx::pg_guard]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            $crate::pg::memory::check();
            let $call = $crate::pg::call::SqlCall::new(fcinfo);
            $crate::error::check($body)
        }
    };
}

/// One call of a SQL function.
#[derive(Clone, Copy)]
pub struct SqlCall {
    fcinfo: pg_sys::FunctionCallInfo,
}

impl SqlCall {
    /// # Safety
    /// `fcinfo` is what the function manager passed.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> SqlCall {
        SqlCall { fcinfo }
    }

    /// Argument `n` (0-based) as a datum; `None` for NULL.
    pub fn datum(&self, n: usize) -> Option<pg_sys::Datum> {
        // SAFETY: the SQL declaration has at least n + 1 arguments.
        unsafe {
            let arg = (*self.fcinfo).args.as_ptr().add(n);
            (!(*arg).isnull).then_some((*arg).value)
        }
    }

    pub fn arg<T: FromDatum>(&self, n: usize) -> Option<T> {
        // SAFETY: T is the Rust type of the declared argument type.
        self.datum(n).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }

    pub fn text(&self, n: usize) -> Option<String> {
        // SAFETY: the argument is declared as text.
        self.datum(n).map(|datum| owned(unsafe { value::text(datum) }))
    }

    /// The actual type of argument `n`, for polymorphic arguments.
    pub fn arg_type(&self, n: i32) -> pg_sys::Oid {
        // SAFETY: flinfo is set for every call from SQL.
        unsafe { pg_sys::get_fn_expr_argtype((*self.fcinfo).flinfo, n) }
    }

    /// An interval argument in its three parts: months, days, microseconds.
    pub fn interval(&self, n: usize) -> Option<(i32, i32, i64)> {
        self.datum(n).map(|datum| {
            // SAFETY: the argument is declared as interval.
            let span = unsafe { *datum.cast_mut_ptr::<pg_sys::Interval>() };
            (span.month, span.day, span.time)
        })
    }

    pub fn null(&self) -> pg_sys::Datum {
        // SAFETY: fcinfo is the live call.
        unsafe { (*self.fcinfo).isnull = true };
        pg_sys::Datum::from(0)
    }

    pub fn value<T: IntoDatum>(&self, value: T) -> pg_sys::Datum {
        match value.into_datum() {
            Some(datum) => datum,
            None => self.null(),
        }
    }

    /// A composite result of the declared type.
    pub fn row<const N: usize>(&self, values: [Option<pg_sys::Datum>; N]) -> pg_sys::Datum {
        // SAFETY: one value per attribute of the declared result type.
        unsafe {
            // The type cache's own descriptor: its type is declared by name.
            let desc = pg_sys::lookup_rowtype_tupdesc(pg_sys::get_func_rettype((*(*self.fcinfo).flinfo).fn_oid), -1);
            let mut nulls = values.map(|value| value.is_none());
            let mut datums = values.map(|value| value.unwrap_or(pg_sys::Datum::from(0)));
            let tuple = pg_sys::heap_form_tuple(desc, datums.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::DecrTupleDescRefCount(desc);
            pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
        }
    }

    /// Starts a set result, kept in a tuplestore that may spill to disk.
    pub fn set(&self) -> SetResult {
        // SAFETY: the function is declared RETURNS SETOF and called where sets are allowed.
        unsafe {
            pg_sys::InitMaterializedSRF(self.fcinfo, 0);
            let info = (*self.fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            SetResult { store: (*info).setResult, desc: (*info).setDesc }
        }
    }
}

pub struct SetResult {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
}

impl SetResult {
    pub fn push(&self, values: &[Option<pg_sys::Datum>]) {
        let mut nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
        let mut datums: Vec<_> = values.iter().map(|v| v.unwrap_or(pg_sys::Datum::from(0))).collect();
        // SAFETY: one value per attribute of the declared result; the store copies them.
        unsafe { pg_sys::tuplestore_putvalues(self.store, self.desc, datums.as_mut_ptr(), nulls.as_mut_ptr()) };
    }
}
