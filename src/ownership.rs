//! The ownership columns of a row, and what an UPDATE changes besides them.

use crate::error::{Error, Result};
use crate::pg::trigger::Values;
use crate::pg::value::{is_external, same_image, text};
use crate::table::Table;
use pgrx::pg_sys;

/// The ownership columns of a row.
pub struct Ownership {
    pub owner: Option<String>,
    pub version: i64,
    pub draft: Option<i64>,
}

impl Ownership {
    pub fn of(table: &Table, row: Values) -> Ownership {
        Ownership {
            // SAFETY: the owner column is text; the row outlives the call.
            owner: row.get(table.owner_column).map(|d| unsafe { text(d).to_owned() }),
            version: version_of(table, row).unwrap_or_default(),
            draft: draft_of(table, row),
        }
    }
}

/// Does the claim on a row belong to `who`? `None`: there is none.
pub fn is_owner(table: &Table, row: Values, who: &str) -> Option<bool> {
    // SAFETY: the owner column is text; the row outlives the call.
    row.get(table.owner_column).map(|datum| unsafe { text(datum) } == who)
}

/// The id of the draft that touched the row.
pub fn draft_of(table: &Table, row: Values) -> Option<i64> {
    row.get(table.draft_column).map(|datum| datum.value() as i64)
}

/// The row's version; `None` for NULL.
pub fn version_of(table: &Table, row: Values) -> Option<i64> {
    let datum = row.get(table.version_column)?;
    Some(if table.version_is_int4 { i64::from(datum.value() as i32) } else { datum.value() as i64 })
}

/// A version as a datum of the version column.
pub fn version_datum(table: &Table, version: i64) -> Result<pg_sys::Datum> {
    if !table.version_is_int4 {
        return Ok(pg_sys::Datum::from(version));
    }
    i32::try_from(version).map(pg_sys::Datum::from).map_err(|_| Error::OperationRefused {
        table: table.name(),
        problem: format!("version {version} does not fit the table's integer version column"),
        hint: "Call disable_claims(), change the column to bigint, then enable_claims().".into(),
    })
}

/// What an UPDATE changes, ownership columns aside.
#[derive(Default, Clone, Copy)]
pub struct Changes {
    pub tracked: bool,
    pub untracked: bool,
    pub key: bool,
    /// A value stored out of line: the base image may lack it.
    pub external: bool,
}

/// Compares two versions of a row as stored.
pub fn changes(table: &Table, old: Values, new: Values) -> Changes {
    let mut result = Changes::default();
    for (index, column) in table.columns.iter().enumerate() {
        let Some(column) = column else { continue };
        let same = match (old.get(index), new.get(index)) {
            (None, None) => true,
            // SAFETY: non-null values of the column.
            (Some(a), Some(b)) => unsafe { same_image(column.storage, a, b) },
            _ => false,
        };
        if same {
            continue;
        }
        if column.untracked {
            result.untracked = true;
            continue;
        }
        result.tracked = true;
        result.key |= table.has_key_column(index);
        if column.storage.len == -1 {
            // SAFETY: a non-null varlena.
            result.external |= old.get(index).is_some_and(|d| unsafe { is_external(d) });
        }
    }
    result
}

/// Is an attribute stored the same in both versions of a row?
pub fn same(table: &Table, index: usize, old: Values, new: Values) -> bool {
    match (old.get(index), new.get(index)) {
        (None, None) => true,
        // SAFETY: non-null values of the column.
        (Some(a), Some(b)) => unsafe { same_image(table.storage[index], a, b) },
        _ => false,
    }
}

/// Does an UPDATE give up unique values or references?
pub fn gives(table: &Table, old: Values, new: Values) -> bool {
    table.giving().iter().any(|&index| !same(table, index, old, new))
}
