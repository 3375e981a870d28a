//! Changes as the journal's format has them, read back. No PostgreSQL in here.

use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One change of a journal entry, borrowed from its text.
#[derive(Deserialize)]
pub struct Change<'a> {
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    #[serde(borrow)]
    pub table: Cow<'a, str>,
    #[serde(borrow, default)]
    pub key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub old: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub new: Option<&'a RawValue>,
    pub version: Option<i64>,
    /// How many rows of a baseline follow.
    pub rows: Option<i64>,
}

impl<'a> Change<'a> {
    /// The changes of one part.
    ///
    /// Errors: text that is not an array of changes.
    pub fn parse_all(text: &'a str) -> Result<Vec<Change<'a>>> {
        serde_json::from_str(text).map_err(|error| Error::InvalidChangeset { problem: error.to_string() })
    }

    /// The key, the former or the new values as JSON text; `{}` if there are none.
    pub fn text(part: Option<&'a RawValue>) -> &'a str {
        part.map_or("{}", RawValue::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_without_touching_values() {
        let text =
            r#"[{"op":"update","table":"public.\"a b\"","key":{"id":1},"old":{"p":1.00},"new":{"p":-0},"version":4}]"#;
        let changes = Change::parse_all(text).ok().unwrap_or_default();
        let change = changes.first().map(|c| (c.op.as_ref(), c.table.as_ref(), Change::text(c.new), c.version));
        assert_eq!(change, Some(("update", "public.\"a b\"", r#"{"p":-0}"#, Some(4))));
    }

    #[test]
    fn malformed_parts_are_refused() {
        for text in ["", "{}", "[1]", r#"[{"op":"update"}]"#, r#"[{"op":"update","table":"a.b"}"#] {
            assert!(Change::parse_all(text).is_err(), "{text}");
        }
    }
}
