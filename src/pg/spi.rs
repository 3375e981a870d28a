//! Internal SQL. Statements are prepared once per backend and run as the extension's owner;
//! results are copied into Rust values before SPI frees them.

use super::memory::{check, collect, owned};
use super::owner::{set_guc_local, AsOwner};
use super::session::Kept;
use pgrx::pg_sys;
use pgrx::{FromDatum, IntoDatum};
use std::collections::HashMap;
use std::ffi::CString;

/// A parameter: its type and, unless NULL, its value.
pub struct Arg(pub pg_sys::Oid, pub Option<pg_sys::Datum>);

impl Arg {
    pub fn text(value: impl Into<Option<String>>) -> Arg {
        Arg(pg_sys::TEXTOID, value.into().and_then(IntoDatum::into_datum))
    }
    pub fn str(value: &str) -> Arg {
        Arg(pg_sys::TEXTOID, value.into_datum())
    }
    pub fn i64(value: impl Into<Option<i64>>) -> Arg {
        Arg(pg_sys::INT8OID, value.into().and_then(IntoDatum::into_datum))
    }
    pub fn i32(value: i32) -> Arg {
        Arg(pg_sys::INT4OID, value.into_datum())
    }
    pub fn bool(value: bool) -> Arg {
        Arg(pg_sys::BOOLOID, value.into_datum())
    }
    pub fn oid(value: pg_sys::Oid) -> Arg {
        Arg(pg_sys::OIDOID, value.into_datum())
    }
    pub fn ids(value: &[i64]) -> Arg {
        Arg(pg_sys::INT8ARRAYOID, collect(value.iter().copied()).into_datum())
    }
    pub fn texts(value: Vec<String>) -> Arg {
        Arg(pg_sys::TEXTARRAYOID, value.into_datum())
    }
    pub fn timestamp(value: Option<i64>) -> Arg {
        Arg(pg_sys::TIMESTAMPTZOID, value.and_then(IntoDatum::into_datum))
    }
}

/// Which rows a statement sees.
#[derive(Clone, Copy, PartialEq)]
pub enum Sees {
    /// What the transaction sees at its isolation level; writes conflict as a user's would.
    Transaction,
    /// Everything committed by now, whatever the isolation level.
    Latest,
    /// What was committed at a [`super::xact::Moment`].
    At(pg_sys::Snapshot),
}

/// One result row; columns count from 1 as in SPI.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl Row {
    pub fn get<T: FromDatum>(&self, column: i32) -> Option<T> {
        let mut null = true;
        // SAFETY: tuple and descriptor belong to the SPI table that is alive while rows are visited.
        unsafe {
            let datum = pg_sys::SPI_getbinval(self.tuple, self.desc, column, &mut null);
            T::from_datum(datum, null)
        }
    }
    /// The first `count` columns as datums, valid while the row is visited.
    pub fn datums(&self, count: i32) -> Vec<Option<pg_sys::Datum>> {
        let mut null = true;
        (1..=count)
            .map(|column| {
                // SAFETY: as in get().
                let datum = unsafe { pg_sys::SPI_getbinval(self.tuple, self.desc, column, &mut null) };
                (!null).then_some(datum)
            })
            .collect()
    }
    pub fn text(&self, column: i32) -> Option<String> {
        self.get::<&str>(column).map(owned)
    }
    pub fn i64(&self, column: i32) -> Option<i64> {
        self.get::<i64>(column)
    }
    /// A timestamptz in microseconds since 2000-01-01 UTC.
    pub fn timestamp(&self, column: i32) -> Option<i64> {
        self.get::<i64>(column)
    }
    pub fn oid(&self, column: i32) -> Option<pg_sys::Oid> {
        self.get::<pg_sys::Oid>(column)
    }
}

thread_local! {
    // Keyed by the address of the statement's static text. Plans live as long as the backend.
    static PLANS: Kept<HashMap<(usize, usize), usize>> = Kept::new(HashMap::new());
}

/// An open SPI connection; closed on drop. After an error the server closes it itself.
struct Connection;

impl Connection {
    fn open() -> Connection {
        // SAFETY: matched by SPI_finish in Drop, or by the server at (sub)transaction abort.
        unsafe { pg_sys::SPI_connect_ext(0) };
        Connection
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: this connection is the innermost one.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

fn prepare(sql: &str, args: &[Arg], options: u32) -> pg_sys::SPIPlanPtr {
    let mut types: Vec<pg_sys::Oid> = args.iter().map(|arg| arg.0).collect();
    let text = CString::new(sql).unwrap_or_default();
    // SAFETY: connected to SPI; the arrays outlive the call.
    let plan =
        unsafe { pg_sys::SPI_prepare_cursor(text.as_ptr(), types.len() as i32, types.as_mut_ptr(), options as i32) };
    if plan.is_null() {
        pgrx::error!("could not prepare internal statement: {sql}");
    }
    plan
}

fn saved(sql: &'static str, args: &[Arg], options: u32) -> pg_sys::SPIPlanPtr {
    let at = (sql.as_ptr() as usize, sql.len());
    if let Some(plan) = PLANS.with(|plans| plans.borrow().get(&at).copied()) {
        return plan as pg_sys::SPIPlanPtr;
    }
    let plan = prepare(sql, args, options);
    // SAFETY: the plan was just prepared; keeping moves it out of this SPI connection.
    unsafe { pg_sys::SPI_keepplan(plan) };
    PLANS.with(|plans| plans.borrow_mut().insert(at, plan as usize));
    plan
}

fn execute(plan: pg_sys::SPIPlanPtr, args: &[Arg], sees: Sees, mut visit: impl FnMut(&Row)) -> u64 {
    let (table, count) = execute_into_table(plan, args, sees);
    // SAFETY: the rows are visited before anything else runs on this connection.
    unsafe {
        if !table.is_null() {
            for i in 0..(*table).numvals as usize {
                check();
                visit(&Row { tuple: *(*table).vals.add(i), desc: (*table).tupdesc });
            }
        }
    }
    count
}

/// The rows, which live as long as this SPI connection, and how many were processed.
fn execute_into_table(plan: pg_sys::SPIPlanPtr, args: &[Arg], sees: Sees) -> (*mut pg_sys::SPITupleTable, u64) {
    let mut values: Vec<pg_sys::Datum> = args.iter().map(|a| a.1.unwrap_or(pg_sys::Datum::from(0))).collect();
    let nulls: Vec<core::ffi::c_char> =
        args.iter().map(|a| if a.1.is_some() { b' ' } else { b'n' } as core::ffi::c_char).collect();
    // SAFETY: connected to SPI; arrays have one entry per parameter.
    unsafe {
        let snapshot = match sees {
            Sees::Transaction => std::ptr::null_mut(),
            Sees::Latest => pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()),
            Sees::At(snapshot) => pg_sys::RegisterSnapshot(snapshot),
        };
        let code = pg_sys::SPI_execute_snapshot(
            plan,
            values.as_mut_ptr(),
            nulls.as_ptr(),
            snapshot,
            std::ptr::null_mut(),
            false,
            true,
            0,
        );
        if !snapshot.is_null() {
            pg_sys::UnregisterSnapshot(snapshot);
        }
        if code < 0 {
            pgrx::error!("internal statement failed with SPI code {code}");
        }
        (pg_sys::SPI_tuptable, pg_sys::SPI_processed)
    }
}

/// Runs a saved statement as the extension's owner and visits its rows.
///
/// Returns the number of rows processed.
pub fn query(sql: &'static str, args: &[Arg], sees: Sees, visit: impl FnMut(&Row)) -> u64 {
    let _owner = AsOwner::enter();
    let _spi = Connection::open();
    execute(saved(sql, args, 0), args, sees, visit)
}

/// Runs a saved statement as the extension's owner; the number of rows processed.
pub fn run(sql: &'static str, args: &[Arg]) -> u64 {
    query(sql, args, Sees::Latest, |_| {})
}

/// The first row of a saved statement, mapped.
pub fn first<T>(sql: &'static str, args: &[Arg], sees: Sees, mut map: impl FnMut(&Row) -> T) -> Option<T> {
    let mut result = None;
    query(sql, args, sees, |row| {
        if result.is_none() {
            result = Some(map(row));
        }
    });
    result
}

/// Runs a statement made up for the occasion as whoever is `current_user`.
pub fn run_as_is(sql: &str, args: &[Arg], visit: impl FnMut(&Row)) -> u64 {
    let _spi = Connection::open();
    execute(prepare(sql, args, 0), args, Sees::Transaction, visit)
}

/// Looks a row up as whoever is `current_user`, whatever privileges that role has.
pub fn look_up(sql: &str, args: &[Arg], visit: impl FnMut(&Row)) -> u64 {
    let _spi = Connection::open();
    let plan = prepare(sql, args, 0);
    waive_privileges(plan);
    execute(plan, args, Sees::Transaction, visit)
}

/// Has table privileges checked as a superuser's: an owner may have revoked his own, which does not keep
/// the extension's work from being done as him.
fn waive_privileges(plan: pg_sys::SPIPlanPtr) {
    // SAFETY: the plan was just prepared; its lists hold what they are cast to.
    unsafe {
        let sources = pg_sys::SPI_plan_get_plan_sources(plan);
        for source in elements::<pg_sys::CachedPlanSource>(sources) {
            for query in elements::<pg_sys::Query>((*source).query_list) {
                #[cfg(feature = "pg15")]
                let tables = elements::<pg_sys::RangeTblEntry>((*query).rtable);
                #[cfg(not(feature = "pg15"))]
                let tables = elements::<pg_sys::RTEPermissionInfo>((*query).rteperminfos);
                tables.for_each(|table| (*table).checkAsUser = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID));
            }
        }
    }
}

/// The pointers of a list.
unsafe fn elements<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    let count = if list.is_null() { 0 } else { (*list).length as usize };
    (0..count).map(move |i| (*(*list).elements.add(i)).ptr_value.cast())
}

/// A look-up of rows that is made up for the occasion and run often: as [`look_up`].
pub struct Prepared(pg_sys::SPIPlanPtr);

impl Prepared {
    /// The values of `args` do not matter here, only their types.
    pub fn new(sql: &str, args: &[Arg]) -> Prepared {
        let _spi = Connection::open();
        let plan = prepare(sql, args, 0);
        waive_privileges(plan);
        // SAFETY: the plan was just prepared; keeping moves it out of this SPI connection.
        unsafe { pg_sys::SPI_keepplan(plan) };
        Prepared(plan)
    }

    pub fn run(&self, args: &[Arg], visit: impl FnMut(&Row)) -> u64 {
        let _spi = Connection::open();
        execute(self.0, args, Sees::Latest, visit)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: kept in new() and not used again.
            unsafe { pg_sys::SPI_freeplan(self.0) };
        }
    }
}

/// Has what is planned meanwhile read no table as a whole that has an index for it.
fn by_index<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: an error that skips the end ends the (sub)transaction, which puts the setting back itself.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    set_guc_local(c"enable_seqscan", c"off");
    let result = body();
    // SAFETY: the level that was begun above; those begun since have ended.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    result
}

/// A cursor over an internal statement, also over one that writes and returns rows; its result
/// is kept in a temporary file once it exceeds `work_mem`.
pub struct Cursor {
    source: Source,
    _spi: Connection,
    _owner: AsOwner,
}

enum Source {
    Portal(pg_sys::Portal),
    /// All rows, and the next one to visit.
    Table(*mut pg_sys::SPITupleTable, usize),
}

impl Cursor {
    /// As [`Cursor::open`], over everything committed by now and by index, for the plan may be from when the table was
    /// empty. A portal cannot see the latest where the whole transaction has one snapshot: there the rows are kept in memory.
    pub fn latest(sql: &'static str, args: &[Arg]) -> Cursor {
        if !super::xact::has_one_snapshot() {
            return Cursor::start(sql, args, true);
        }
        let owner = AsOwner::enter();
        let spi = Connection::open();
        let (table, _) = by_index(|| execute_into_table(saved(sql, args, 0), args, Sees::Latest));
        Cursor { source: Source::Table(table, 0), _spi: spi, _owner: owner }
    }

    /// A saved statement; its plan does not depend on the arguments, so that it is made once.
    pub fn open(sql: &'static str, args: &[Arg]) -> Cursor {
        Cursor::start(sql, args, false)
    }

    fn start(sql: &'static str, args: &[Arg], indexed: bool) -> Cursor {
        let owner = AsOwner::enter();
        let spi = Connection::open();
        let plan = saved(sql, args, pg_sys::CURSOR_OPT_GENERIC_PLAN);
        let mut values: Vec<pg_sys::Datum> = args.iter().map(|a| a.1.unwrap_or(pg_sys::Datum::from(0))).collect();
        let nulls: Vec<core::ffi::c_char> =
            args.iter().map(|a| if a.1.is_some() { b' ' } else { b'n' } as core::ffi::c_char).collect();
        // SAFETY: connected to SPI; the arrays outlive the call.
        let mut open =
            || unsafe { pg_sys::SPI_cursor_open(std::ptr::null(), plan, values.as_mut_ptr(), nulls.as_ptr(), false) };
        let portal = if indexed { by_index(&mut open) } else { open() };
        Cursor { source: Source::Portal(portal), _spi: spi, _owner: owner }
    }

    /// Visits up to `count` further rows; how many there were.
    pub fn fetch(&mut self, count: i64, mut visit: impl FnMut(&Row)) -> usize {
        // SAFETY: the connection is the innermost one; a portal is open and its rows are freed after
        // they were visited, those of a table live as long as the connection.
        unsafe {
            match &mut self.source {
                Source::Portal(portal) => {
                    pg_sys::SPI_cursor_fetch(*portal, true, count as core::ffi::c_long);
                    let table = pg_sys::SPI_tuptable;
                    if table.is_null() {
                        return 0;
                    }
                    let rows = (*table).numvals as usize;
                    for i in 0..rows {
                        check();
                        visit(&Row { tuple: *(*table).vals.add(i), desc: (*table).tupdesc });
                    }
                    pg_sys::SPI_freetuptable(table);
                    rows
                }
                Source::Table(table, _) if table.is_null() => 0,
                Source::Table(table, next) => {
                    let (start, end) = (*next, ((**table).numvals as usize).min(*next + count as usize));
                    for i in start..end {
                        check();
                        visit(&Row { tuple: *(**table).vals.add(i), desc: (**table).tupdesc });
                    }
                    *next = end;
                    end - start
                }
            }
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if let (Source::Portal(portal), false) = (&self.source, std::thread::panicking()) {
            // SAFETY: the portal is still open; at an error the server closes it.
            unsafe { pg_sys::SPI_cursor_close(*portal) };
        }
    }
}
