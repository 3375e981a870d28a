//! The extension's journal tables read and written directly: once per commit, nothing is planned.

use crate::pg::store::{is_text, named, Index, Key, Layout, Only, Store};
use crate::pg::value::{bytes_datum, text_datum};
use crate::pg::xact::{self, Moment};
use pgrx::pg_sys;
use std::ffi::CString;

static JOURNAL: Layout = Layout {
    table: c"journal",
    indexes: &[
        Index { name: c"journal_pkey", columns: &[0, 1, 2], unique: true, only: None },
        Index {
            name: c"journal_kind",
            columns: &[0, 4, 1],
            unique: false,
            only: Some(Only { condition: c"(kind <> 'changeset'::text)", holds: |row| !is_text(row, 4, "changeset") }),
        },
    ],
};

/// `rowclaim.journal.actor` and `changes`, and the index on what is no changeset.
const ACTOR: usize = 5;
const CHANGES: usize = 10;
const KIND: usize = 1;

static CONFIG: Layout = Layout {
    table: c"journal_config",
    indexes: &[
        Index { name: c"journal_config_pkey", columns: &[0], unique: true, only: None },
        Index { name: c"journal_config_name_key", columns: &[1], unique: true, only: None },
    ],
};

static REPLAYED: Layout = Layout {
    table: c"replay_state",
    indexes: &[Index { name: c"replay_state_pkey", columns: &[0], unique: true, only: None }],
};

/// A journal as `rowclaim.journal_config` has it.
pub struct Config {
    pub id: i32,
    pub require_current: bool,
    /// Received from another server.
    pub replayed: bool,
    /// Its number sequence; invalid when it is still to be made.
    pub sequence: pg_sys::Oid,
}

pub fn config(name: &str) -> Option<Config> {
    let found = Store::open(&CONFIG).find_by(1, &[Key::Text(name)])?;
    let id = found.get(0)?.value() as i32;
    let replayed = Store::open(&REPLAYED).find_by(0, &[Key::Text(name)]).is_some();
    let sequence = CString::new(format!("journal_{id}_seq")).unwrap_or_default();
    let require_current = found.get(2).is_some_and(|d| d.value() != 0);
    Some(Config { id, require_current, replayed, sequence: named(&sequence) })
}

/// The name of the journal with this id.
pub fn journal_name(id: i32) -> Option<String> {
    Store::open(&CONFIG).find_by(0, &[Key::I32(id)])?.text(1)
}

/// One row of `rowclaim.journal`, besides changes and hash.
pub struct Record<'a> {
    pub journal: &'a str,
    pub seq: i64,
    pub part: i32,
    pub parts: i32,
    pub kind: &'a str,
    pub actor: &'a str,
    pub base: Option<i64>,
    pub xid: u64,
    pub message: Option<&'a str>,
    pub committed_at: i64,
}

impl Record<'_> {
    pub fn insert(&self, changes: &str, hash: &[u8]) {
        let row = [
            Some(text_datum(self.journal)),
            Some(pg_sys::Datum::from(self.seq)),
            Some(pg_sys::Datum::from(self.part)),
            Some(pg_sys::Datum::from(self.parts)),
            Some(text_datum(self.kind)),
            Some(text_datum(self.actor)),
            self.base.map(pg_sys::Datum::from),
            Some(pg_sys::Datum::from(self.xid)),
            self.message.map(text_datum),
            Some(pg_sys::Datum::from(self.committed_at)),
            Some(text_datum(changes)),
            Some(bytes_datum(hash)),
        ];
        Store::open(&JOURNAL).insert(&row);
    }
}

/// Visits the numbers that have an entry, `from` to `before`, in order, until `visit` says false; `true`: this transaction
/// has written it.
pub fn each_number(journal: &str, from: i64, before: i64, mut visit: impl FnMut(i64, bool) -> bool) {
    if from >= before {
        return;
    }
    let keys = [Key::Text(journal), Key::AtLeast(from), Key::Below(before)];
    Store::open(&JOURNAL).each_by(0, &keys, &Moment::with_own_writes(), |row, writer| {
        match (row.get(1), row.get(2).map(|part| part.value())) {
            (Some(seq), Some(1)) => visit(seq.value() as i64, xact::is_own(writer.into())),
            _ => true,
        }
    });
}

pub fn has(journal: &str, seq: i64) -> bool {
    Store::open(&JOURNAL).find_by(0, &[Key::Text(journal), Key::I64(seq), Key::I32(1)]).is_some()
}

/// The actor of an entry.
pub fn actor(journal: &str, seq: i64) -> Option<String> {
    Store::open(&JOURNAL).find_by(0, &[Key::Text(journal), Key::I64(seq), Key::I32(1)])?.text(ACTOR)
}

/// How far the last seal reaches that comes after a number; `None` if there is none, or no quick way to tell.
pub fn sealed_to(journal: &str, after: i64) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Seal {
        to: i64,
    }
    let store = Store::open(&JOURNAL);
    if !store.has_index(KIND) {
        return None;
    }
    let mut last = None;
    let keys = [Key::Text(journal), Key::Text("seal"), Key::AtLeast(after.saturating_add(1))];
    store.each_found(KIND, &keys, &Moment::now(), |entry| {
        last = entry.text(CHANGES);
        true
    });
    let seals: Vec<Seal> = serde_json::from_str(&last?).ok()?;
    Some(seals.first()?.to)
}
