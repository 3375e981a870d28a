//! Numbers that were in flight when the server stopped have nobody left to account for them: the
//! first session that uses the extension afterwards has a background worker do it.
//!
//! `rowclaim.recovered` tells for which start of the server that is done. After the crash of one
//! backend the server goes on without a new start: then its checkpointer has one.

use crate::pg::owner::{self, AsOwner};
use crate::pg::spi;
use crate::pg::worker;
use crate::pg::xact::{self, ActiveSnapshot};
use std::cell::Cell;

thread_local! {
    // This session has not looked yet.
    static DUE: Cell<bool> = const { Cell::new(false) };
}

/// Called once per backend.
pub fn register() {
    DUE.with(|due| due.set(worker::in_session()));
}

/// At the end of the session's first transaction on a server that can be written.
pub fn before_commit() {
    if !DUE.with(Cell::get) || xact::in_recovery() {
        return;
    }
    DUE.with(|due| due.set(false));
    if !owner::is_installed() {
        return;
    }
    let _snapshot = ActiveSnapshot::latest();
    let _owner = AsOwner::enter();
    let done = spi::run("SELECT 1 FROM rowclaim.recovered WHERE server_start = rowclaim.server_start()", &[]);
    if done == 0 {
        worker::run("SELECT rowclaim.recover()", 0);
    }
}
