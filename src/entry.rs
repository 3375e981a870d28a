//! Dirty rows as `rowclaim.draft_row` keeps them.

use crate::pg::store::{text_datum, Found, Store};
use pgrx::pg_sys;

/// The draft entries of rows: `rowclaim.draft_row`.
pub fn entries() -> Store {
    Store::open(c"draft_row", c"draft_row_key")
}

/// An entry of `rowclaim.draft_row`.
pub struct Entry {
    pub op: u8,
    pub draft: i64,
    pub base: Option<String>,
    pub version: Option<i64>,
    /// The partition the base image is from.
    pub leaf: pg_sys::Oid,
}

impl Entry {
    pub fn of(found: &Found) -> Entry {
        Entry {
            draft: found.i64(2).unwrap_or_default(),
            op: found.char(3).unwrap_or(b'u'),
            base: found.text(4),
            version: found.i64(5),
            leaf: found.get(6).map_or(pg_sys::InvalidOid, |d| pg_sys::Oid::from(d.value() as u32)),
        }
    }

    /// The entry as a row of the table, for `key` of the enabled table `root`.
    pub fn row(&self, root: pg_sys::Oid, key: &str) -> [Option<pg_sys::Datum>; 7] {
        [
            Some(pg_sys::Datum::from(root.to_u32())),
            Some(text_datum(key)),
            Some(pg_sys::Datum::from(self.draft)),
            Some(pg_sys::Datum::from(self.op as i8)),
            self.base.as_deref().map(text_datum),
            self.version.map(pg_sys::Datum::from),
            Some(pg_sys::Datum::from(self.leaf.to_u32())),
        ]
    }
}
