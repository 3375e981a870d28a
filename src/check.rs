//! `check_claims()` and the repair of single rows. What is judged is in `sql/checks.sql`; here is
//! what SQL cannot do: reading a user's rows without running a user's code, and writing their
//! ownership columns.

use crate::actor;
use crate::api::{caller_name, invalid, target};
use crate::codec;
use crate::draft;
use crate::enable::check_owner;
use crate::entry::{entries, Entry};
use crate::error::{Error, Result};
use crate::holder;
use crate::key::Key;
use crate::ownership::Ownership;
use crate::pg::call::SqlCall;
use crate::pg::memory::check_in_loop;
use crate::pg::owner::AsOwner;
use crate::pg::row::{Look, Rows, Written};
use crate::pg::scan::scan_all;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::trigger::Values;
use crate::pg::value::text_datum;
use crate::pg::xact::{self, Moment};
use crate::restore;
use crate::sql_function;
use crate::table::{qualified_name, Table};
use pgrx::pg_sys;
use pgrx::IntoDatum;
use std::collections::HashSet;

/// A row that has an owner or the stamp of an open draft.
struct Owned {
    key: String,
    owner: Option<String>,
    draft: Option<i64>,
}

/// Visits every such row of an enabled table.
fn owned_rows(target: pg_sys::Oid, mut visit: impl FnMut(&Owned)) -> Result<()> {
    let root = Table::enabled(target)?;
    let moment = Moment::of_statement();
    let mut open = HashSet::new();
    if root.has_drafts() {
        spi::query(
            "SELECT id FROM rowclaim.draft WHERE journal_id = $1",
            &[Arg::i32(root.journal_id)],
            moment.sees(),
            |row| open.extend(row.i64(1)),
        );
    }
    let mut leaves = Vec::new();
    spi::query(
        "SELECT c.oid FROM pg_catalog.pg_class c
         WHERE c.relkind = 'r' AND (c.oid = $1 OR c.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t))",
        &[Arg::oid(target)],
        Sees::Latest,
        |row| leaves.extend(row.oid(1)),
    );
    for leaf in leaves {
        let table = Table::enabled(leaf)?;
        scan_all(leaf, &moment, |row: Values| {
            let Ownership { owner, draft, .. } = Ownership::of(&table, row);
            let draft = draft.filter(|id| open.contains(id));
            if owner.is_some() || draft.is_some() {
                visit(&Owned { key: codec::key_text(&table, row), owner, draft });
            }
            Ok::<(), Error>(())
        })?;
    }
    Ok(())
}

/// Ends what is known under a key that no row of the table can have; false: there is nothing like that.
fn forget_unreadable(table: &Table, key: &str) -> bool {
    let args = [Arg::oid(table.root), Arg::str(key)];
    let entry = entries().find(table.root, key);
    let known = entry.is_some() || holder::owner(table.root, key).is_some();
    if !known || spi::run("SELECT 1 WHERE rowclaim.row_exists($1, $2) IS NULL", &args) == 0 {
        return false;
    }
    if let Some(found) = &entry {
        entries().delete(found);
    }
    holder::forget(table.root, key);
    true
}

/// Makes a row and what is known of it agree: the claim says who owns the row, the draft whether it
/// is dirty. A claim on a row that does not exist goes; a row that vanished from its draft counts
/// as deleted in it. Changes whose draft is gone were never committed: they go to the stash.
fn repair_row(target: pg_sys::Oid, key: &str) -> Result<()> {
    check_owner(target)?;
    let _owner = AsOwner::enter();
    let mut rows = Rows::open(target)?;
    let table = rows.table.clone();
    if forget_unreadable(&table, key) {
        return Ok(());
    }
    let key = Key::from_canonical(&table, key)?;
    let text = key.text(&table);
    let store = entries();
    loop {
        check_in_loop();
        xact::bump_command();
        let there = rows.find_and_lock(&key.datums)?;
        let entry = store.find(table.root, &text);
        let open = entry.as_ref().map(Entry::of).filter(|e| draft::header((e.draft, table.journal_id)).is_some());
        if let (Some(_), None) = (&entry, &open) {
            // A commit takes header and entry together: seen again, the entry is one that was left behind.
            xact::bump_command();
            let Some(found) = store.find(table.root, &text) else { continue };
            let entry = Entry::of(&found);
            let who = holder::owner(table.root, &text).unwrap_or_else(|| actor::current().to_string());
            restore::stash(&mut rows, &text, &entry, &who, "released", Some("its draft is gone"))?;
            store.delete(&found);
            rows.let_go();
            let mut batch = restore::Batch::default();
            batch.put_back(table.root, &text, &entry, restore::Owner::Claim)?;
            batch.finish()?;
            continue;
        }
        if let (Some(found), Some(entry)) = (&entry, &open) {
            match (there, entry.op, &entry.base) {
                (false, b'd', _) | (true, b'i' | b'u', _) => {}
                (false, _, None) => {
                    store.delete(found);
                    continue;
                }
                (_, _, base) => {
                    let op = if !there {
                        b'd'
                    } else if base.is_some() {
                        b'u'
                    } else {
                        b'i'
                    };
                    let entry = Entry::of(found);
                    store.update(found, &Entry { op, ..entry }.row(table.root, &text));
                    continue;
                }
            }
        }
        let owner = holder::owner(table.root, &text);
        if !there {
            if owner.is_some() && open.is_none() {
                holder::forget(table.root, &text);
            }
            return Ok(());
        }
        rows.find(&key.datums, Look::Latest)?;
        let leaf = rows.leaf_table();
        let stamp = open.map(|entry| pg_sys::Datum::from(entry.draft));
        let owner = owner.as_deref().map(text_datum);
        if rows.write(&[(leaf.owner_column, owner), (leaf.draft_column, stamp)]) == Written::Done {
            xact::bump_command();
            return Ok(());
        }
    }
}

fn check_claims(call: SqlCall) -> Result<pg_sys::Datum> {
    xact::writes(c"check_claims()");
    let relation: Option<pg_sys::Oid> = call.arg(0);
    if let Some(relid) = relation {
        check_owner(relid)?;
    }
    let caller = caller_name();
    let _owner = AsOwner::enter();
    let enabled = |relid| spi::run("SELECT 1 FROM rowclaim.enabled_table WHERE relid = $1", &[Arg::oid(relid)]) > 0;
    if let Some(relid) = relation.filter(|relid| !enabled(*relid)) {
        return Err(Error::ClaimsNotEnabled { table: qualified_name(relid) });
    }
    let set = call.set();
    spi::query(
        "SELECT target, key, problem, repair FROM rowclaim.check_for($1::text::name, $2)",
        &[Arg::str(&caller), Arg(pg_sys::OIDOID, call.datum(0))],
        Sees::Latest,
        |row| set.push(&row.datums(4)),
    );
    Ok(call.null())
}

sql_function! {
    /// `check_claims(relation)`.
    pg_finfo_rowclaim_check_claims, rowclaim_check_claims, |call| check_claims(call)
}

sql_function! {
    /// `rowclaim.owned_rows(target)`.
    pg_finfo_rowclaim_owned_rows, rowclaim_owned_rows, |call| (|| {
        let set = call.set();
        owned_rows(target(call, 0)?, |row| {
            set.push(&[Some(text_datum(&row.key)), row.owner.as_deref().map(text_datum), row.draft.into_datum()]);
        })?;
        Ok(call.null())
    })()
}

sql_function! {
    /// `rowclaim.repair_row(target, key)`.
    pg_finfo_rowclaim_repair_row, rowclaim_repair_row, |call| (|| {
        xact::writes(c"repair_row()");
        let key = call.text(1).ok_or_else(|| invalid("key", "the key is null"))?;
        repair_row(target(call, 0)?, &key)?;
        Ok(call.null())
    })()
}
