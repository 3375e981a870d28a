//! Running as the extension's owner. Internal statements must not depend on what the caller may
//! do or has in its `search_path`, and the caller must not get the owner's rights for anything else.

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
/// `pg_catalog, pg_temp`. Nested guards cost nothing.
pub struct AsOwner {
    outer: Option<(pg_sys::Oid, i32, i32)>,
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

impl AsOwner {
    pub fn enter() -> AsOwner {
        if DEPTH.with(Cell::get) > 0 {
            DEPTH.with(|depth| depth.set(depth.get() + 1));
            return AsOwner { outer: None };
        }
        let owner = extension_owner();
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: the old identity is put back in Drop; an error that skips it ends the
        // (sub)transaction, which restores both identity and settings itself.
        let level = unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(
                owner,
                context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | pg_sys::SECURITY_NOFORCE_RLS as i32,
            );
            pg_sys::NewGUCNestLevel()
        };
        set_guc_local(c"search_path", c"pg_catalog, pg_temp");
        OUTER.with(|outer| outer.set(user));
        DEPTH.with(|depth| depth.set(1));
        AsOwner { outer: Some((user, context, level)) }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get().saturating_sub(1)));
        if let Some((user, context, level)) = self.outer {
            // SAFETY: values read in enter(); guards are dropped in reverse order.
            unsafe {
                pg_sys::AtEOXact_GUC(true, level);
                pg_sys::SetUserIdAndSecContext(user, context);
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
        unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
        AsCaller { inner, depth: DEPTH.with(|depth| depth.replace(0)) }
    }
}

impl Drop for AsCaller {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(self.depth));
        // SAFETY: values read in enter().
        unsafe { pg_sys::SetUserIdAndSecContext(self.inner.0, self.inner.1) };
    }
}

/// The current user and security context.
pub fn caller() -> (pg_sys::Oid, i32) {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: writes two plain values.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    (user, context)
}

/// The user on whose behalf the extension is working: `current_user` outside of every guard.
pub fn user() -> pg_sys::Oid {
    if DEPTH.with(Cell::get) > 0 {
        OUTER.with(Cell::get)
    } else {
        caller().0
    }
}

/// While it lives, code that belongs to a user's table (index expressions, CHECK constraints,
/// generated columns) runs as the table's owner, as in foreign key triggers: never with the
/// extension's rights.
pub struct AsTableOwner {
    outer: (pg_sys::Oid, i32),
}

impl AsTableOwner {
    /// # Safety
    /// `relation` is open.
    pub unsafe fn enter(relation: pg_sys::Relation) -> AsTableOwner {
        let outer = caller();
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::SetUserIdAndSecContext(
            owner,
            outer.1 | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | pg_sys::SECURITY_NOFORCE_RLS as i32,
        );
        AsTableOwner { outer }
    }
}

impl Drop for AsTableOwner {
    fn drop(&mut self) {
        // SAFETY: values read in enter().
        unsafe { pg_sys::SetUserIdAndSecContext(self.outer.0, self.outer.1) };
    }
}
