//! Letting go of claims: by their owner, after a commit, or for an absent actor; and renewing them.

use crate::actor;
use crate::claim::{is_hidden, Wish};
use crate::codec;
use crate::draft::{self, Stamp};
use crate::entry::{entries, Entry};
use crate::error::{Error, Result};
use crate::holder::{find, forget, held_by};
use crate::key::Key;
use crate::lease::Ttl;
use crate::notify;
use crate::ownership::Ownership;
use crate::pg::memory::{check_in_loop, push, Scratch};
use crate::pg::owner::{user, AsOwner};
use crate::pg::row::{Look, Rows, Written};
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::xact;
use crate::restore;
use crate::table::{Committing, Table};
use pgrx::pg_sys;
use std::rc::Rc;

/// `release_row()`.
pub fn release_row(target: pg_sys::Oid, key: &Key) -> Result<bool> {
    let me = actor::current();
    let table = Table::enabled(target)?;
    // Who may do nothing with the table learns nothing of its rows, but may let go of its own.
    if !table.reachable_by(user()) && find(table.root, &key.text(&table)).is_none_or(|claim| claim.owner != *me) {
        return Err(Error::Privilege { problem: format!("permission denied for table {}", table.name()) });
    }
    let mut rows = Rows::open(table.root)?;
    match release_in(&mut rows, &me, key, false) {
        // A row that row security hides is not claimed, as far as the caller is concerned.
        Err(Error::RowHeld { .. }) if is_hidden(&table, key) => Ok(false),
        outcome => outcome,
    }
}

/// `keep_dirty`: leave a dirty row claimed instead of refusing.
fn release_in(rows: &mut Rows, me: &Rc<str>, key: &Key, keep_dirty: bool) -> Result<bool> {
    let table = rows.table.clone();
    let dirty = |text: &str| {
        let row = table.row_name(text, user());
        Error::UncommittedChanges {
            table: table.name(),
            what: format!("{} has uncommitted changes", row.people()),
            row: Some(row),
            hint: "Call commit_changes() or discard_changes() first.",
        }
    };
    loop {
        check_in_loop();
        xact::bump_command();
        if rows.find(&key.datums, Look::Latest)?.is_none() {
            let text = key.text(&table);
            let draft = entries().find(table.root, &text).map(|found| Entry::of(&found).draft);
            return match draft::status(&table, draft, me) {
                Stamp::Other(who) => {
                    let held = Ownership { owner: None, version: 0, draft };
                    Err(held_by(&table, &text, &who, &Stamp::Other(who.clone()), &held))
                }
                // Deleted by this transaction in a table that commits with it.
                Stamp::Clean => Ok(end_bare_claim(&table, &text, me)),
                _ if keep_dirty => Ok(false),
                _ => Err(dirty(&text)),
            };
        }
        let leaf = rows.leaf_table();
        let held = Ownership::of(&leaf, rows.values());
        let text = codec::key_text(&leaf, rows.values());
        let stamp = draft::status(&leaf, held.draft, me);
        match (&stamp, &held.owner) {
            (Stamp::Other(who), None) => return Err(held_by(&table, &text, who, &stamp, &held)),
            (_, Some(owner)) if **owner != **me => return Err(held_by(&table, &text, owner, &stamp, &held)),
            // What commits with the transaction does so without a claim.
            (Stamp::Mine | Stamp::Current, _) if table.committing == Committing::Explicit => {
                return if keep_dirty { Ok(false) } else { Err(dirty(&text)) };
            }
            // Deleted and inserted again by this transaction, it would get its owner back at the end.
            (_, None) => return Ok(end_bare_claim(&table, &text, me)),
            _ => {}
        }
        if rows.write(&[(leaf.owner_column, None)]) == Written::Done {
            end_claim(&table, &text, me);
            return Ok(true);
        }
    }
}

fn end_claim(table: &Table, key: &str, me: &Rc<str>) {
    forget(table.root, key);
    xact::bump_command();
    notify::row("release", table, key, me);
}

/// Ends my claim on a row that is gone, or whose owner column says nothing of it; false: there is none.
fn end_bare_claim(table: &Table, key: &str, me: &Rc<str>) -> bool {
    let mine = find(table.root, key).is_some_and(|claim| claim.owner == **me);
    if mine {
        end_claim(table, key, me);
    }
    mine
}

/// Releases my claims, in one table or journal or all. `keep_dirty`: leave rows that are still
/// dirty instead of refusing.
fn release_all(me: &str, target: Option<pg_sys::Oid>, journal: Option<&str>, keep_dirty: bool) -> Result<i64> {
    let _owner = AsOwner::enter();
    let actor: Rc<str> = me.into();
    let mut mine: Vec<(pg_sys::Oid, String)> = Vec::new();
    spi::query(
        "SELECT c.relid::oid, c.key FROM rowclaim.claim c JOIN rowclaim.enabled_table t ON t.relid = c.relid
         WHERE c.owner = $1 AND ($2::oid IS NULL OR c.relid = $2) AND ($3::text IS NULL OR t.journal = $3)
         ORDER BY c.relid::oid, c.key",
        &[
            Arg::str(me),
            Arg(pg_sys::OIDOID, target.map(|t| pg_sys::Datum::from(t.to_u32()))),
            Arg::text(journal.map(str::to_owned)),
        ],
        Sees::Latest,
        |row| push(&mut mine, (row.oid(1).unwrap_or(pg_sys::InvalidOid), row.text(2).unwrap_or_default())),
    );
    let mut released = 0;
    let mut open: Option<Rows> = None;
    let scratch = Scratch::new();
    for (root, text) in mine {
        if open.as_ref().is_none_or(|rows| rows.table.root != root) {
            open = Some(Rows::open(root)?);
        }
        let Some(rows) = open.as_mut() else { continue };
        let _entered = scratch.enter();
        let key = Key::from_canonical(&rows.table, &text)?;
        released += i64::from(release_in(rows, &actor, &key, keep_dirty)?);
    }
    Ok(released)
}

/// `release_rows()`.
pub fn release_rows(target: Option<pg_sys::Oid>) -> Result<i64> {
    let root = target.map(|t| Table::enabled(t).map(|table| table.root)).transpose()?;
    release_all(&actor::current(), root, None, false)
}

/// Frees an actor's claims in a journal after a commit.
pub fn release_journal(me: &str, journal: &str) -> Result<i64> {
    release_all(me, None, Some(journal), true)
}

/// `renew_claims()`: one statement; an expired claim is not resurrected.
pub fn renew_claims(ttl: Option<Ttl>, target: Option<pg_sys::Oid>) -> Result<i64> {
    let root = target.map(|t| Table::enabled(t).map(|table| table.root)).transpose()?;
    let _owner = AsOwner::enter();
    let expires_at = Wish { ttl, ..Wish::default() }.expiry();
    Ok(spi::run(
        "UPDATE rowclaim.claim SET expires_at = $1
         WHERE owner = $2 AND ($3::oid IS NULL OR relid = $3) AND (expires_at IS NULL OR expires_at > clock_timestamp())",
        &[
            Arg::timestamp(expires_at),
            Arg::str(&actor::current()),
            Arg(pg_sys::OIDOID, root.map(|r| pg_sys::Datum::from(r.to_u32()))),
        ],
    ) as i64)
}

/// `release_actor()`: everything an absent actor holds becomes free; drafts go to the stash.
pub fn release_actor(who: &str, reason: Option<&str>) -> Result<i64> {
    let _owner = AsOwner::enter();
    let dirty = restore::stash_actor(who, reason)?;
    Ok(dirty + release_all(who, None, None, false)?)
}
