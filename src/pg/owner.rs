//! Running as the extension's owner. Internal statements must not depend on what the caller may
//! do or has in its `search_path`, and the caller must not get the owner's rights for anything else.

use super::ffi::{identity, set_identity};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    // Who was current_user before the outermost guard.
    static OUTER: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static OWNER: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// While it lives, `current_user` is the extension's owner and `search_path` is
/// `pg_catalog, pg_temp`, or empty as it was. Nested guards cost nothing.
pub struct AsOwner {
    outer: Option<Outer>,
}

/// What a guard puts back.
struct Outer {
    user: pg_sys::Oid,
    context: i32,
    level: Option<i32>,
    depth: u32,
    caller: pg_sys::Oid,
}

/// Sets a GUC until `nest_level` ends.
pub fn set_guc_local(name: &CStr, value: &CStr) {
    // SAFETY: both strings are NUL-terminated and outlive the call.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Forgets the owner; called when the extension may have been dropped or changed hands.
pub fn forget() {
    OWNER.with(|owner| owner.set(pg_sys::InvalidOid));
}

/// Is the extension there, in this database? Its library may be loaded in others, too.
pub fn is_installed() -> bool {
    // SAFETY: look-ups by name.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"rowclaim".as_ptr(), true);
        schema != pg_sys::InvalidOid && pg_sys::get_relname_relid(c"recovered".as_ptr(), schema) != pg_sys::InvalidOid
    }
}

/// Keeps the extension from being dropped until the transaction ends; false if it is not there. Whoever drops it
/// then waits before it locks any table, and cannot deadlock with what follows.
pub fn keep_installed() -> bool {
    // SAFETY: a look-up by name and a lock on what was found, which may be gone by then.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"rowclaim".as_ptr(), true);
        if extension == pg_sys::InvalidOid {
            return false;
        }
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, lock);
    }
    is_installed()
}

fn extension_owner() -> pg_sys::Oid {
    let known = OWNER.with(Cell::get);
    if known != pg_sys::InvalidOid {
        return known;
    }
    // SAFETY: catalogue look-ups by name and OID; the relation is closed again at once.
    let owner = unsafe {
        let schema = pg_sys::get_namespace_oid(c"rowclaim".as_ptr(), false);
        let relid = pg_sys::get_relname_relid(c"enabled_table".as_ptr(), schema);
        let relation = pg_sys::relation_open(relid, pg_sys::AccessShareLock as i32);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, pg_sys::AccessShareLock as i32);
        owner
    };
    OWNER.with(|cell| cell.set(owner));
    owner
}

/// Does a plain name mean what is in pg_catalog in any case? So it is in the workers of logical
/// replication: their `search_path` is empty, and what runs there for others makes no temporary
/// tables.
fn only_catalog_names() -> bool {
    if !super::trigger::in_apply_worker() {
        return false;
    }
    let (mut temporary, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: plain reads of session state; the setting is a NUL-terminated string.
    unsafe {
        pg_sys::GetTempNamespaceState(&mut temporary, &mut toast);
        let path = pg_sys::namespace_search_path;
        temporary == pg_sys::InvalidOid && !path.is_null() && *path == 0
    }
}

impl AsOwner {
    pub fn enter() -> AsOwner {
        let owner = extension_owner();
        let (user, context) = caller();
        // The server may have changed the user since, to run a table's own code.
        if DEPTH.with(Cell::get) > 0 && user == owner {
            return AsOwner { outer: None };
        }
        // SAFETY: the old identity is put back in Drop; an error that skips it ends the
        // (sub)transaction, which restores both identity and settings itself.
        let level = unsafe {
            set_identity((
                owner,
                context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | pg_sys::SECURITY_NOFORCE_RLS as i32,
            ));
            (!only_catalog_names()).then(|| pg_sys::NewGUCNestLevel())
        };
        if level.is_some() {
            set_guc_local(c"search_path", c"pg_catalog, pg_temp");
        }
        let depth = DEPTH.with(|depth| depth.replace(1));
        let caller = OUTER.with(|outer| outer.replace(user));
        AsOwner { outer: Some(Outer { user, context, level, depth, caller }) }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if let Some(outer) = &self.outer {
            DEPTH.with(|depth| depth.set(outer.depth));
            OUTER.with(|cell| cell.set(outer.caller));
            // SAFETY: values read in enter(); guards are dropped in reverse order.
            unsafe {
                if let Some(level) = outer.level {
                    pg_sys::AtEOXact_GUC(true, level);
                }
                set_identity((outer.user, outer.context));
            }
        }
    }
}

/// While it lives, the caller's identity is back although an [`AsOwner`] is in force.
pub struct AsCaller {
    inner: (pg_sys::Oid, i32),
    depth: u32,
}

impl AsCaller {
    /// `user` and `context` are what [`caller`] returned before the owner was entered.
    pub fn enter((user, context): (pg_sys::Oid, i32)) -> AsCaller {
        let inner = caller();
        // SAFETY: as in AsOwner::enter.
        unsafe { set_identity((user, context)) };
        AsCaller { inner, depth: DEPTH.with(|depth| depth.replace(0)) }
    }
}

impl Drop for AsCaller {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(self.depth));
        // SAFETY: values read in enter().
        unsafe { set_identity(self.inner) };
    }
}

/// The current user and security context.
pub fn caller() -> (pg_sys::Oid, i32) {
    identity()
}

/// While it lives, code that belongs to a user's table (index expressions, CHECK constraints,
/// generated columns, domains, whatever the planner evaluates) runs as the table's owner: never
/// with the extension's rights.
pub struct AsTableOwner {
    outer: (pg_sys::Oid, i32),
    depth: u32,
}

impl AsTableOwner {
    /// Such code may not leave anything behind that runs later as somebody else.
    pub fn restricted(owner: pg_sys::Oid) -> AsTableOwner {
        AsTableOwner::with(owner, pg_sys::SECURITY_RESTRICTED_OPERATION as i32)
    }

    /// For foreign key checks, which may be deferred; they are the server's own code.
    pub fn for_checks(owner: pg_sys::Oid) -> AsTableOwner {
        AsTableOwner::with(owner, 0)
    }

    fn with(owner: pg_sys::Oid, flags: i32) -> AsTableOwner {
        let outer = caller();
        let context =
            outer.1 | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | pg_sys::SECURITY_NOFORCE_RLS as i32 | flags;
        // SAFETY: put back in Drop, or by the end of the (sub)transaction after an error.
        unsafe { set_identity((owner, context)) };
        AsTableOwner { outer, depth: DEPTH.with(|depth| depth.replace(0)) }
    }

    /// Sheds the extension's rights if they are in force.
    pub fn shed(owner: pg_sys::Oid) -> Option<AsTableOwner> {
        (DEPTH.with(Cell::get) > 0).then(|| AsTableOwner::restricted(owner))
    }
}

impl Drop for AsTableOwner {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(self.depth));
        // SAFETY: values read in with().
        unsafe { set_identity(self.outer) };
    }
}

/// The user on whose behalf the extension is working: `current_user` outside of every guard.
pub fn user() -> pg_sys::Oid {
    if DEPTH.with(Cell::get) > 0 {
        OUTER.with(Cell::get)
    } else {
        caller().0
    }
}
