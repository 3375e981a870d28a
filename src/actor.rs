//! Who is acting: the login role, or the user named by `rowclaim.actor`.

use crate::pg::ffi::{role_name, session_user};
use crate::pg::invalidation::take_roles_changed;
use crate::pg::session::Kept;
use crate::settings;
use pgrx::pg_sys;
use std::cell::Cell;
use std::rc::Rc;

struct Known {
    session_user: pg_sys::Oid,
    name: Rc<str>,
}

thread_local! {
    static KNOWN: Kept<Option<Known>> = const { Kept::new(None) };
    // This transaction has asked.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// The actor of this moment. Only roles that may SET `rowclaim.actor` can make it differ from
/// `session_user`; SET ROLE and SECURITY DEFINER do not change it. A role that is renamed keeps its name until the
/// transaction ends.
pub fn current() -> Rc<str> {
    if !ASKED.replace(true) && take_roles_changed() {
        forget();
    }
    let session_user = session_user();
    let of_user = |known: &&Known| known.session_user == session_user;
    let known = KNOWN.with(|known| known.borrow().as_ref().filter(of_user).map(|known| known.name.clone()));
    known.unwrap_or_else(|| {
        let name: Rc<str> = settings::actor().unwrap_or_else(|| role_name(session_user)).into();
        let fresh = Known { session_user, name: name.clone() };
        KNOWN.with(|known| *known.borrow_mut() = Some(fresh));
        name
    })
}

/// The setting may change at any time.
pub fn forget() {
    KNOWN.with(|known| *known.borrow_mut() = None);
}

/// The transaction ended.
pub fn after_transaction() {
    ASKED.set(false);
}
