//! Server functions and variables that pgrx does not bind.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::ffi::{CStr, CString};

mod raw {
    use pgrx::pg_sys;

    extern "C-unwind" {
        pub fn GetUserIdAndSecContext(user: *mut pg_sys::Oid, context: *mut core::ffi::c_int);
        pub fn SetUserIdAndSecContext(user: pg_sys::Oid, context: core::ffi::c_int);
        pub fn GetSessionUserId() -> pg_sys::Oid;
        pub fn IsLogicalWorker() -> bool;
        pub fn pg_trigger_depth(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
        pub fn Async_Notify(channel: *const core::ffi::c_char, payload: *const core::ffi::c_char);
        pub fn nextval_internal(relid: pg_sys::Oid, check_permissions: bool) -> i64;
        pub fn SearchSysCache1(cache: core::ffi::c_int, key: pg_sys::Datum) -> pg_sys::HeapTuple;
        pub fn ReleaseSysCache(tuple: pg_sys::HeapTuple);
        pub fn heap_attisnull(tuple: pg_sys::HeapTuple, attnum: core::ffi::c_int, desc: pg_sys::TupleDesc) -> bool;
        pub fn get_partition_ancestors(relid: pg_sys::Oid) -> *mut pg_sys::List;
        pub fn ExecSetupPartitionTupleRouting(
            estate: *mut pg_sys::EState,
            rel: pg_sys::Relation,
        ) -> *mut pg_sys::PartitionTupleRouting;
        pub fn ExecFindPartition(
            mtstate: *mut pg_sys::ModifyTableState,
            root: *mut pg_sys::ResultRelInfo,
            proute: *mut pg_sys::PartitionTupleRouting,
            slot: *mut pg_sys::TupleTableSlot,
            estate: *mut pg_sys::EState,
        ) -> *mut pg_sys::ResultRelInfo;
        pub fn ExecCleanupTupleRouting(
            mtstate: *mut pg_sys::ModifyTableState,
            proute: *mut pg_sys::PartitionTupleRouting,
        );
        #[cfg(not(feature = "pg15"))]
        pub fn IsLogicalParallelApplyWorker() -> bool;
        pub fn pg_re_throw() -> !;
        pub static mut bytea_output: core::ffi::c_int;
        pub static mut xmloption: core::ffi::c_int;
    }
}

/// The current user and security context.
pub fn identity() -> (pg_sys::Oid, i32) {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: writes two plain values and raises no error: it needs no boundary, of which a row meets many.
    unsafe { raw::GetUserIdAndSecContext(&mut user, &mut context) };
    (user, context)
}

/// # Safety
/// What was in force is put back in the reverse order, or by the end of the (sub)transaction.
pub unsafe fn set_identity((user, context): (pg_sys::Oid, i32)) {
    raw::SetUserIdAndSecContext(user, context);
}

/// The role that logged in, or that of SET SESSION AUTHORIZATION.
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: returns a variable; never raises an error, so it needs no boundary.
    unsafe { raw::GetSessionUserId() }
}

/// Is this process an apply worker of logical replication?
pub fn in_apply_worker() -> bool {
    // SAFETY: as above.
    unsafe { raw::IsLogicalWorker() }
}

/// Calls the server as it calls itself: an error goes on as it is, with all that the server knows of it, after `cleanup`
/// (PG_TRY … PG_FINALLY). Through [`pg_guard_ffi_boundary`] it would lose its position, its context, and a SQLSTATE of
/// the user's own.
///
/// # Safety
/// `body` only calls functions of the server that no guard of pgrx wraps, and owns nothing. The caller is no guarded
/// function and owns nothing.
pub unsafe fn call_plainly(body: impl FnOnce(), cleanup: impl FnOnce()) {
    let (handler, context) = (pg_sys::PG_exception_stack, pg_sys::error_context_stack);
    let raised = cee_scape::call_with_sigsetjmp(false, |buffer| {
        pg_sys::PG_exception_stack = std::ptr::from_ref(buffer).cast_mut().cast();
        body();
        0
    });
    pg_sys::PG_exception_stack = handler;
    pg_sys::error_context_stack = context;
    cleanup();
    if raised != 0 {
        raw::pg_re_throw();
    }
}

/// How deep trigger functions are nested: 1 in one of a statement that no trigger has made.
pub fn trigger_depth() -> i32 {
    // SAFETY: returns a variable, whatever its argument; never raises an error.
    unsafe { raw::pg_trigger_depth(std::ptr::null_mut()).value() as i32 }
}

/// Has an index neither an expression nor a predicate? False, too, if there is no such index.
pub fn is_plain_index(index: pg_sys::Oid) -> bool {
    const CODE: [u32; 2] = [pg_sys::Anum_pg_index_indexprs, pg_sys::Anum_pg_index_indpred];
    // SAFETY: a look-up by OID; what is found is let go of. Nothing in the boundary is to be dropped.
    unsafe {
        pg_guard_ffi_boundary(|| {
            let cache = pg_sys::SysCacheIdentifier::INDEXRELID as core::ffi::c_int;
            let tuple = raw::SearchSysCache1(cache, pg_sys::Datum::from(index));
            if tuple.is_null() {
                return false;
            }
            let none = |attnum: &u32| raw::heap_attisnull(tuple, *attnum as core::ffi::c_int, std::ptr::null_mut());
            let plain = CODE.iter().all(none);
            raw::ReleaseSysCache(tuple);
            plain
        })
    }
}

/// Draws the next value of a sequence without a privilege check.
pub fn nextval(sequence: pg_sys::Oid) -> i64 {
    // SAFETY: the function takes plain values and raises errors the boundary turns into panics.
    unsafe { pg_guard_ffi_boundary(|| raw::nextval_internal(sequence, false)) }
}

/// Sends a payload with the commit of this transaction.
pub fn notify(channel: &CStr, payload: &str) {
    let payload = CString::new(payload).unwrap_or_default();
    // SAFETY: the function copies both strings and raises errors the boundary turns into panics.
    unsafe { pg_guard_ffi_boundary(|| raw::Async_Notify(channel.as_ptr(), payload.as_ptr())) }
}

/// Is this process a parallel apply worker?
#[cfg(not(feature = "pg15"))]
pub fn in_parallel_apply_worker() -> bool {
    // SAFETY: a plain test of process state.
    unsafe { raw::IsLogicalParallelApplyWorker() }
}

/// Prepares the executor to find partitions of `rel`.
///
/// # Safety
/// The relation is open and the estate is alive, until [`end_routing`].
pub unsafe fn start_routing(estate: *mut pg_sys::EState, rel: pg_sys::Relation) -> *mut pg_sys::PartitionTupleRouting {
    pg_guard_ffi_boundary(|| raw::ExecSetupPartitionTupleRouting(estate, rel))
}

/// The partition the row in `slot` belongs into; an error if there is none.
///
/// # Safety
/// `proute` comes from [`start_routing`], with the same estate.
pub unsafe fn find_partition(
    mtstate: *mut pg_sys::ModifyTableState,
    root: *mut pg_sys::ResultRelInfo,
    proute: *mut pg_sys::PartitionTupleRouting,
    slot: *mut pg_sys::TupleTableSlot,
    estate: *mut pg_sys::EState,
) -> pg_sys::Oid {
    let info = pg_guard_ffi_boundary(|| raw::ExecFindPartition(mtstate, root, proute, slot, estate));
    (*(*info).ri_RelationDesc).rd_id
}

/// # Safety
/// Nothing of the routing is used afterwards.
pub unsafe fn end_routing(mtstate: *mut pg_sys::ModifyTableState, proute: *mut pg_sys::PartitionTupleRouting) {
    pg_guard_ffi_boundary(|| raw::ExecCleanupTupleRouting(mtstate, proute));
}

/// The partitioned tables above a relation, nearest first; none if it is no partition.
pub fn partition_ancestors(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: the list of OIDs lives in the current memory context and is copied before it is freed.
    unsafe {
        if !pg_sys::get_rel_relispartition(relid) {
            return Vec::new();
        }
        let list = pg_guard_ffi_boundary(|| raw::get_partition_ancestors(relid));
        if list.is_null() {
            return Vec::new();
        }
        let oids = (0..(*list).length as usize).map(|i| (*(*list).elements.add(i)).oid_value).collect();
        pg_sys::list_free(list);
        oids
    }
}

/// Sets `bytea_output` (0 escape, 1 hex) and returns the former value.
pub fn swap_bytea_output(value: i32) -> i32 {
    // SAFETY: a plain int variable of this single-threaded backend.
    unsafe { std::mem::replace(&mut *std::ptr::addr_of_mut!(raw::bytea_output), value) }
}

/// Sets `xmloption` (0 document, 1 content) and returns the former value.
pub fn swap_xmloption(value: i32) -> i32 {
    // SAFETY: a plain int variable of this single-threaded backend.
    unsafe { std::mem::replace(&mut *std::ptr::addr_of_mut!(raw::xmloption), value) }
}

/// A temporary file that ends with the transaction.
pub fn file_create() -> *mut pg_sys::BufFile {
    // SAFETY: the file and its state belong to the transaction, not to the current subtransaction:
    // what was written before must survive its rollback.
    unsafe {
        let outer = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::CurrentMemoryContext = pg_sys::TopTransactionContext;
        pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
        let file = pg_sys::BufFileCreateTemp(false);
        pg_sys::CurrentMemoryContext = outer.0;
        pg_sys::CurrentResourceOwner = outer.1;
        file
    }
}

/// The server splits temporary files in segments of one gigabyte.
const SEGMENT: u64 = 0x4000_0000;

/// Writes to a place that is at most the file's end.
pub fn file_write(file: *mut pg_sys::BufFile, at: u64, bytes: &[u8]) {
    // SAFETY: the file is open; the server only reads the bytes. To go where it is already costs nothing.
    unsafe {
        pg_sys::BufFileSeek(file, (at / SEGMENT) as i32, (at % SEGMENT) as pg_sys::off_t, 0);
        pg_sys::BufFileWrite(file, bytes.as_ptr().cast_mut().cast(), bytes.len());
    }
}
pub fn file_read(file: *mut pg_sys::BufFile, at: u64, bytes: &mut [u8]) {
    // SAFETY: the file is open and the buffer has room for its length.
    let read = unsafe {
        pg_sys::BufFileSeek(file, (at / SEGMENT) as i32, (at % SEGMENT) as pg_sys::off_t, 0);
        pg_sys::BufFileRead(file, bytes.as_mut_ptr().cast(), bytes.len())
    };
    if read != bytes.len() {
        pgrx::error!("temporary file of a changeset is shorter than expected");
    }
}

pub fn file_close(file: *mut pg_sys::BufFile) {
    // SAFETY: opened by file_create and not used again.
    unsafe { pg_sys::BufFileClose(file) };
}

/// Attribute `index` (0-based) of a row descriptor.
///
/// # Safety
/// The descriptor is valid and has the attribute; the result lives as long as it does.
pub unsafe fn attribute(desc: pg_sys::TupleDesc, index: i32) -> *const pg_sys::FormData_pg_attribute {
    #[cfg(not(feature = "pg18"))]
    return (*desc).attrs.as_ptr().add(index as usize);
    #[cfg(feature = "pg18")]
    return pg_sys::TupleDescAttr(desc, index);
}

/// The name of a role; an error if there is none.
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: a syscache look-up; the result is a palloc'd copy.
    unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(role, false)).to_string_lossy().into_owned() }
}

/// The name of a relation; empty if there is none.
pub fn relation_name(relid: pg_sys::Oid) -> String {
    // SAFETY: a syscache look-up; the result is a palloc'd copy or null.
    unsafe {
        let name = pg_sys::get_rel_name(relid);
        if name.is_null() {
            return String::new();
        }
        std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// The index of the primary key, unless there is none or it is deferrable.
///
/// # Safety
/// The relation is open.
pub unsafe fn primary_key_index(relation: pg_sys::Relation) -> pg_sys::Oid {
    #[cfg(not(feature = "pg18"))]
    return pg_sys::RelationGetPrimaryKeyIndex(relation);
    #[cfg(feature = "pg18")]
    return pg_sys::RelationGetPrimaryKeyIndex(relation, false);
}

/// The name of attribute `index` (0-based) of a relation; empty if there is none.
pub fn attribute_name(relid: pg_sys::Oid, index: usize) -> String {
    // SAFETY: a syscache look-up; the result is a palloc'd copy or null.
    unsafe {
        let name = pg_sys::get_attname(relid, index as i16 + 1, true);
        if name.is_null() {
            return String::new();
        }
        std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}
