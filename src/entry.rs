//! Dirty rows as `rowclaim.draft_row` keeps them.

use crate::draft::DraftKey;
use crate::error::Result;
use crate::pending;
use crate::pg::store::{self, Found, Index, Key, Layout, Only, Store};
use crate::pg::value::text_datum;
use crate::pg::xact::Moment;
use crate::table::Table;
use pgrx::pg_sys;

static DRAFT_ROW: Layout = Layout {
    table: c"draft_row",
    indexes: &[
        Index { name: c"draft_row_key", columns: &[0, 1], unique: true, only: None },
        Index {
            name: c"draft_row_base_key",
            columns: &[0, 7],
            unique: true,
            only: Some(Only { condition: c"(base_key IS NOT NULL)", holds: |row| row[7].is_some() }),
        },
        Index { name: c"draft_row_draft", columns: &[2], unique: false, only: None },
        Index {
            name: c"draft_row_gives",
            columns: &[0],
            unique: false,
            only: Some(Only { condition: c"gives", holds: |row| row[8].is_some_and(|gives| gives.value() as u8 != 0) }),
        },
    ],
};

/// The draft entries of rows: `rowclaim.draft_row`, with those that were waiting to be written.
pub fn entries() -> Store {
    pending::flush_or_raise();
    open()
}

/// As [`entries`], without those that are waiting.
pub fn open() -> Store {
    Store::open(&DRAFT_ROW)
}

/// The OID of `rowclaim.draft_row`.
pub fn table() -> pg_sys::Oid {
    store::oid(&DRAFT_ROW)
}

/// An entry of `rowclaim.draft_row`.
#[derive(Clone)]
pub struct Entry {
    pub op: u8,
    pub draft: i64,
    pub base: Option<String>,
    pub version: Option<i64>,
    /// The partition the base image is from.
    pub leaf: pg_sys::Oid,
    /// The key of the base image, if the row has another now.
    pub base_key: Option<String>,
    /// The draft may have given up unique values or references of the base image.
    pub gives: bool,
}

/// The entry of a row by the key it had when its draft began.
pub fn by_base_key(store: &Store, root: pg_sys::Oid, key: &str) -> Option<Found> {
    store.find_by(1, &[Key::Oid(root), Key::Text(key)])
}

/// Has any row of a table, in an open draft, another key than when its draft began?
pub fn has_base_keys(store: &Store, root: pg_sys::Oid) -> bool {
    store.find_by(1, &[Key::Oid(root)]).is_some()
}

/// Visits the keys and entries of rows whose drafts may have given something up, until `visit` says false.
pub fn gave(root: pg_sys::Oid, mut visit: impl FnMut(&str, &Entry) -> bool) {
    entries().each_of(3, root, |found| visit(&found.text(1).unwrap_or_default(), &Entry::of(&found)));
}

/// Deletes the entries of drafts that are taken and visits each with its table and key. What another session
/// has moved to a draft of its own stays.
pub fn take(drafts: &[DraftKey], mut visit: impl FnMut(pg_sys::Oid, &str, Entry)) -> Result<()> {
    let store = entries();
    let moment = Moment::with_own_writes();
    let mut result = Ok(());
    for (id, journal_id) in drafts {
        store.each_found(2, &[Key::I64(*id)], &moment, |found| {
            result = take_one(&store, found, *journal_id, &mut visit);
            result.is_ok()
        });
    }
    result
}

/// As [`take`], of one row.
pub fn take_row(drafts: &[DraftKey], root: pg_sys::Oid, key: &str) -> Result<Option<Entry>> {
    let store = entries();
    let mut taken = None;
    let Some(found) = store.find(root, key) else { return Ok(None) };
    let draft = Entry::of(&found).draft;
    if let Some((_, journal_id)) = drafts.iter().find(|(id, _)| *id == draft) {
        take_one(&store, found, *journal_id, &mut |_, _, entry| taken = Some(entry))?;
    }
    Ok(taken)
}

/// The draft may have entries of other journals, too: they stay.
fn take_one(
    store: &Store,
    mut found: Found,
    journal_id: i32,
    visit: &mut impl FnMut(pg_sys::Oid, &str, Entry),
) -> Result<()> {
    let root = found.oid(0);
    if Table::find(root)?.is_none_or(|table| table.journal_id != journal_id) {
        return Ok(());
    }
    let (key, entry) = (found.text(1).unwrap_or_default(), Entry::of(&found));
    while !store.try_delete(&found) {
        match store.find(root, &key) {
            Some(now) if Entry::of(&now).draft == entry.draft => found = now,
            _ => return Ok(()),
        }
    }
    visit(root, &key, entry);
    Ok(())
}

impl Entry {
    /// A row that did not exist before its draft.
    pub fn inserted(draft: i64, leaf: pg_sys::Oid) -> Entry {
        Entry { op: b'i', draft, base: None, version: None, leaf, base_key: None, gives: false }
    }

    /// A row at its first touch.
    pub fn touched(op: u8, draft: i64, base: String, version: Option<i64>, leaf: pg_sys::Oid, gives: bool) -> Entry {
        Entry { op, draft, base: Some(base), version, leaf, base_key: None, gives }
    }

    /// Is it that of a row that did not exist before its draft?
    pub fn is_new(&self) -> bool {
        self.base.is_none()
    }

    pub fn of(found: &Found) -> Entry {
        Entry {
            draft: found.i64(2).unwrap_or_default(),
            op: found.char(3).unwrap_or(b'u'),
            base: found.text(4),
            version: found.i64(5),
            leaf: found.oid(6),
            base_key: found.text(7),
            gives: found.get(8).is_some_and(|d| d.value() as u8 != 0),
        }
    }

    /// The entry as a row of the table, for `key` of the enabled table `root`.
    pub fn row(&self, root: pg_sys::Oid, key: &str) -> [Option<pg_sys::Datum>; 9] {
        [
            Some(pg_sys::Datum::from(root.to_u32())),
            Some(text_datum(key)),
            Some(pg_sys::Datum::from(self.draft)),
            Some(pg_sys::Datum::from(self.op as i8)),
            self.base.as_deref().map(text_datum),
            self.version.map(pg_sys::Datum::from),
            Some(pg_sys::Datum::from(self.leaf.to_u32())),
            self.base_key.as_deref().map(text_datum),
            Some(pg_sys::Datum::from(self.gives)),
        ]
    }
}
