//! rowclaim: row ownership, drafts and an ordered change journal for PostgreSQL.
//!
//! This file declares the module, what happens when it is loaded, and the SQL it installs.

use pgrx::prelude::*;

pg_module_magic!(name = c"rowclaim", version = c"0.2.0");

mod actor;
mod api;
mod baseline;
mod capture;
mod captured;
mod change;
mod check;
mod claim;
mod claims;
mod codec;
mod commit;
mod constraint;
mod depend;
mod diff;
mod draft;
mod enable;
mod entry;
mod error;
mod guard;
mod hash;
mod holder;
mod image;
mod journal;
mod key;
mod lease;
mod net;
mod notify;
mod once;
mod order;
mod ownership;
mod pending;
mod pg;
mod plain;
mod records;
mod recovery;
mod release;
mod replay;
mod restore;
mod settings;
mod table;

extension_sql_file!("../sql/schema.sql", name = "schema", bootstrap);
extension_sql_file!("../sql/triggers.sql", name = "triggers", requires = ["schema"]);
extension_sql_file!("../sql/api.sql", name = "api", requires = ["triggers"]);
extension_sql_file!("../sql/consumers.sql", name = "consumers", requires = ["api"]);
extension_sql_file!("../sql/replicas.sql", name = "replicas", requires = ["consumers"]);
extension_sql_file!("../sql/views.sql", name = "views", requires = ["replicas"]);
extension_sql_file!("../sql/metrics.sql", name = "metrics", requires = ["views"]);
extension_sql_file!("../sql/ddl_guards.sql", name = "ddl_guards", requires = ["metrics"]);
extension_sql_file!("../sql/checks.sql", name = "checks", requires = ["ddl_guards"], finalize);

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // pgrx would put a backtrace into the DETAIL of errors when the server's environment asks for one.
    std::env::set_var("RUST_LIB_BACKTRACE", "0");
    pg::caught::register();
    settings::register();
    recovery::register();
    if pg::trigger::in_apply_worker() {
        pg::worker::flush_at_exit();
    }
    pg::invalidation::watch_roles();
    table::register(|| {
        draft::forget_closed();
        journal::forget();
        pg::owner::forget();
    });
    pg::xact::register(pg::xact::Hooks {
        before_commit: |prepare| {
            pending::flush_or_raise();
            let notices = commit::before_commit(prepare);
            // PREPARE TRANSACTION allows no NOTIFY.
            if !prepare {
                recovery::before_commit();
                notify::send(&notices);
            }
        },
        after_transaction: |aborted| {
            pg::announcer::settle(!aborted);
            actor::after_transaction();
            replay::after_transaction(aborted);
            journal::after_transaction(aborted);
            draft::after_transaction();
            pending::after_transaction();
        },
        before_sub_commit: pending::before_sub_commit,
        after_sub: |sub, parent| {
            journal::after_sub(sub, parent);
            draft::after_sub(sub, parent);
            pending::after_sub(sub, parent);
        },
    });
    pg::executor::register(pending::flush_or_raise);
}
