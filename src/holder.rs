//! Who holds a row: the rows of `rowclaim.claim`, and holders as errors name them.

use crate::draft::{DraftKey, Stamp};
use crate::error::{Error, Holder};
use crate::ownership::Ownership;
use crate::pg::memory::{collect, Scratch};
use crate::pg::owner::user;
use crate::pg::spi::{self, Arg, Row, Sees};
use crate::pg::store::{Fresh, Index, Layout, Store};
use crate::pg::value::text_datum;
use crate::pg::xact;
use crate::table::Table;
use pgrx::pg_sys;

/// A row of `rowclaim.claim`.
#[derive(Clone)]
pub struct Claim {
    pub owner: String,
    pub token: i64,
    pub claimed_at: i64,
    pub expires_at: Option<i64>,
}

impl Claim {
    pub fn expired(&self) -> bool {
        self.expires_at.is_some_and(|at| at <= xact::clock())
    }
}

static CLAIM: Layout = Layout {
    table: c"claim",
    indexes: &[
        Index { name: c"claim_pkey", columns: &[0, 1], unique: true, only: None },
        Index { name: c"claim_owner", columns: &[2], unique: false, only: None },
    ],
};

/// The table of claims.
pub fn store() -> Store {
    Store::open(&CLAIM)
}

/// Writes a new claim. Its reason is for people.
pub fn insert(root: pg_sys::Oid, key: &str, claim: &Claim, reason: Option<&str>) {
    let store = store();
    if store.has_triggers() {
        insert_published(root, &[(key, claim.token)], claim, reason);
    } else {
        store.insert(&row(root, key, claim.token, claim, reason));
    }
}

/// Writes claims on many rows, given by key and token, that have the rest in common.
pub fn insert_all(root: pg_sys::Oid, rows: &[(&str, i64)], claim: &Claim, reason: Option<&str>) {
    let store = store();
    if store.has_triggers() {
        insert_published(root, rows, claim, reason);
        return;
    }
    let (scratch, command) = (Scratch::new(), xact::writing_command());
    let _entered = scratch.enter();
    let fresh = |(key, token): &(&str, i64)| {
        let row = row(root, key, *token, claim, reason);
        Fresh { row, command, yields: false }
    };
    store.insert_all(&collect(rows.iter().map(fresh)));
}

/// Where claims are published, triggers must see them.
fn insert_published(root: pg_sys::Oid, rows: &[(&str, i64)], claim: &Claim, reason: Option<&str>) {
    let keys = collect(rows.iter().map(|(key, _)| (*key).to_owned()));
    let tokens = collect(rows.iter().map(|(_, token)| *token));
    spi::run(
        "INSERT INTO rowclaim.claim (relid, key, owner, token, claimed_at, expires_at, reason)
         SELECT $1, r.key, $4, r.token, $5, $6, $7 FROM ROWS FROM (unnest($2::text[]), unnest($3::bigint[])) r(key, token)",
        &[
            Arg::oid(root),
            Arg::texts(keys),
            Arg::ids(&tokens),
            Arg::str(&claim.owner),
            Arg::timestamp(Some(claim.claimed_at)),
            Arg::timestamp(claim.expires_at),
            Arg::text(reason.map(str::to_owned)),
        ],
    );
}

/// A row of the table; the token is given apart.
fn row(root: pg_sys::Oid, key: &str, token: i64, claim: &Claim, reason: Option<&str>) -> [Option<pg_sys::Datum>; 7] {
    [
        Some(pg_sys::Datum::from(root.to_u32())),
        Some(text_datum(key)),
        Some(text_datum(&claim.owner)),
        Some(pg_sys::Datum::from(token)),
        Some(pg_sys::Datum::from(claim.claimed_at)),
        claim.expires_at.map(pg_sys::Datum::from),
        reason.map(text_datum),
    ]
}

/// The claim on a row.
pub fn find(root: pg_sys::Oid, key: &str) -> Option<Claim> {
    let found = store().find(root, key)?;
    Some(Claim {
        owner: found.text(2).unwrap_or_default(),
        token: found.i64(3).unwrap_or_default(),
        claimed_at: found.i64(4).unwrap_or_default(),
        expires_at: found.i64(5),
    })
}

/// The owner of the claim on a row.
pub fn owner(root: pg_sys::Oid, key: &str) -> Option<String> {
    find(root, key).map(|claim| claim.owner)
}

/// Who holds a row by a claim, for people.
pub fn holder(root: pg_sys::Oid, key: &str) -> Option<Holder> {
    spi::first(
        "SELECT owner, rowclaim.utc(claimed_at), rowclaim.utc(expires_at), reason
         FROM rowclaim.claim WHERE relid = $1 AND key = $2",
        &[Arg::oid(root), Arg::str(key)],
        Sees::Latest,
        |row| Holder {
            owner: row.text(1).unwrap_or_default(),
            since: row.text(2),
            expires_at: row.text(3),
            claim_reason: row.text(4),
        },
    )
}

/// Who holds a row by uncommitted changes, for people.
pub fn draft_holder(draft: DraftKey, who: &str) -> Holder {
    let since = spi::first(
        "SELECT rowclaim.utc(started_at) FROM rowclaim.draft WHERE id = $1 AND journal_id = $2",
        &[Arg::i64(draft.0), Arg::i32(draft.1)],
        Sees::Latest,
        |row| row.text(1),
    );
    Holder { owner: who.to_owned(), since: since.flatten(), ..Holder::default() }
}

/// The claim follows its row to another key, unless the same owner has a claim there already: that
/// of a deleted row whose place it takes. Then both stay, for both rows may come back.
pub fn rekey(root: pg_sys::Oid, old: &str, new: &str) {
    if find(root, old).is_none() || find(root, new).is_some() {
        return;
    }
    spi::run(
        "UPDATE rowclaim.claim SET key = $3 WHERE relid = $1 AND key = $2",
        &[Arg::oid(root), Arg::str(old), Arg::str(new)],
    );
}

/// A row moves to the key of a deleted row. If that row has a claim, it serves the new one, and the
/// row's own claim stays with what the row was: under `former`, or nowhere if it did not exist.
pub fn exchange(root: pg_sys::Oid, old: &str, new: &str, former: Option<&str>) {
    match (find(root, old).is_some(), find(root, new).is_some()) {
        (true, false) => return rekey(root, old, new),
        // The row that is there now is unclaimed.
        (false, _) => return forget(root, new),
        (true, true) => {}
    }
    match former {
        Some(former) => rekey(root, old, former),
        None => forget(root, old),
    }
}

/// As [`rekey`] for rows that may exchange their keys: all claims leave before any arrives.
pub fn rekey_all(moves: &[(pg_sys::Oid, String, String)]) {
    if moves.is_empty() {
        return;
    }
    let texts = |pick: fn(&(pg_sys::Oid, String, String)) -> String| Arg::texts(collect(moves.iter().map(pick)));
    spi::run(
        "WITH m AS (SELECT * FROM ROWS FROM (unnest($1::text[]), unnest($2::text[]), unnest($3::text[])) m(relid, was, is_now)),
              gone AS (DELETE FROM rowclaim.claim c USING m WHERE c.relid = m.relid::oid AND c.key = m.was
                       RETURNING c.*, m.is_now)
         INSERT INTO rowclaim.claim (relid, key, owner, token, claimed_at, expires_at, reason)
         SELECT relid, is_now, owner, token, claimed_at, expires_at, reason FROM gone ORDER BY token",
        &[texts(|m| m.0.to_u32().to_string()), texts(|m| m.1.clone()), texts(|m| m.2.clone())],
    );
}

/// The claim ends with its row.
pub fn forget(root: pg_sys::Oid, key: &str) {
    let store = store();
    if store.has_triggers() {
        spi::run("DELETE FROM rowclaim.claim WHERE relid = $1 AND key = $2", &[Arg::oid(root), Arg::str(key)]);
        return;
    }
    // Not found as it was: its owner has just renewed it in another session.
    while store.find(root, key).is_some_and(|found| !store.try_delete(&found)) {}
}

/// The error for a row that `who` holds.
pub fn held_by(table: &Table, key: &str, who: &str, stamp: &Stamp, held: &Ownership) -> Error {
    let holder = match (stamp, held.draft) {
        (Stamp::Other(_), Some(id)) if held.owner.as_deref() != Some(who) => draft_holder((id, table.journal_id), who),
        _ => holder(table.root, key).unwrap_or_else(|| Holder { owner: who.into(), ..Holder::default() }),
    };
    Error::RowHeld { row: table.row_name(key, user()), holder: Box::new(holder) }
}

/// A claim from (owner, token, claimed_at, expires_at).
pub fn claim_of(row: &Row) -> Claim {
    Claim {
        owner: row.text(1).unwrap_or_default(),
        token: row.i64(2).unwrap_or_default(),
        claimed_at: row.timestamp(3).unwrap_or_default(),
        expires_at: row.timestamp(4),
    }
}
