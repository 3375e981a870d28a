//! What becomes of a row that a transaction touches once, written while both of its versions are at hand. The commit of a
//! `transaction` table would find the same, but has to look the row up, read it and compare it with its base image.

use crate::codec;
use crate::diff::{self, Op};
use crate::ownership::version_of;
use crate::pg::memory::ensure;
use crate::pg::trigger::Values;
use crate::pg::value::is_external;
use crate::table::Table;

/// The change that an INSERT makes; `None`: the commit has to look at the row.
pub fn inserted(table: &Table, row: Values) -> Option<String> {
    if table.constraints().iter().any(|constraint| !constraint.primary) || has_external(table, row, |_| true) {
        return None;
    }
    let mut image = String::with_capacity(128);
    codec::push_row(&mut image, table, row, |_, _| true);
    Some(change(Op::Insert, table, row, None, &image))
}

/// The change that an UPDATE makes which keeps the key; `None`: the commit has to look at the row.
pub fn updated(table: &Table, old: Values, new: Values) -> Option<String> {
    let differs = |index: usize| !crate::ownership::same(table, index, old, new);
    if table.tied().iter().any(|&index| differs(index)) || has_external(table, new, differs) {
        return None;
    }
    let (former, present) = codec::differences(table, old, new)?;
    Some(change(Op::Update, table, new, Some(&former), &present))
}

/// Texts of large values are not kept twice.
fn has_external(table: &Table, row: Values, of_these: impl Fn(usize) -> bool) -> bool {
    table.columns.iter().enumerate().any(|(index, column)| {
        let stored = column.as_ref().filter(|column| column.storage.len == -1).and_then(|_| row.get(index));
        // SAFETY: a non-null varlena.
        stored.is_some_and(|datum| unsafe { is_external(datum) }) && of_these(index)
    })
}

fn change(op: Op, table: &Table, row: Values, old: Option<&str>, new: &str) -> String {
    let version = version_of(table, row).unwrap_or_default();
    // As it grows it doubles.
    ensure(3 * (old.map_or(0, str::len) + new.len()));
    diff::change(op, &table.name(), &codec::plain_key(table, row), old, Some(new), version)
}
