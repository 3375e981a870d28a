//! Changes as the journal's format has them, read back. No PostgreSQL in here.

use crate::error::{Error, Result};
use crate::image::{read_image, Image};
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
    #[serde(borrow, default, deserialize_with = "read_image")]
    pub old: Image<'a>,
    #[serde(borrow, default, deserialize_with = "read_image")]
    pub new: Image<'a>,
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

    /// The key as JSON text; `{}` if there is none.
    pub fn key_text(&self) -> &'a str {
        self.key.map_or("{}", RawValue::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::object;

    #[test]
    fn a_part_is_read_without_touching_values() {
        let text =
            r#"[{"op":"update","table":"public.\"a b\"","key":{"id":1},"old":{"p":1.00},"new":{"p":-0},"version":4}]"#;
        let changes = Change::parse_all(text).ok().unwrap_or_default();
        let change = changes.first().map(|c| (c.op.as_ref(), c.table.as_ref(), c.key_text(), c.version));
        assert_eq!(change, Some(("update", "public.\"a b\"", r#"{"id":1}"#, Some(4))));
        let images = changes.first().map(|c| (object(&c.old), object(&c.new)));
        assert_eq!(images, Some((r#"{"p":1.00}"#.into(), r#"{"p":-0}"#.into())));
    }

    #[test]
    fn images_that_are_missing_or_null_are_empty() {
        let changes = Change::parse_all(r#"[{"op":"delete","table":"a.b","old":null}]"#).ok().unwrap_or_default();
        assert_eq!(changes.first().map(|c| (c.key_text(), c.old.len(), c.new.len())), Some(("{}", 0, 0)));
    }

    #[test]
    fn malformed_parts_are_refused() {
        for text in [
            "",
            "{}",
            "[1]",
            r#"[{"op":"update"}]"#,
            r#"[{"op":"update","table":"a.b"}"#,
            r#"[{"op":"update","table":"a.b","new":[1]}]"#,
        ] {
            assert!(Change::parse_all(text).is_err(), "{text}");
        }
    }
}
