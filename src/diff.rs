//! Row images compared: what a draft changed, as the journal writes it. No PostgreSQL in here.

use crate::image::{push_json_string, value, Image};
use std::fmt::Write;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
        }
    }
}

/// The columns an update changed: former and present values. A column that `base` lacks was not
/// touched.
pub fn changed<'a>(base: &Image<'a>, now: &Image<'a>) -> (Image<'a>, Image<'a>) {
    let mut result = (Image::new(), Image::new());
    for (name, present) in now {
        if let Some(former) = value(base, name) {
            if former != *present {
                result.0.push((name.clone(), former));
                result.1.push((name.clone(), *present));
            }
        }
    }
    result
}

/// One change as the journal's format has it.
///
/// `table` is the qualified name, `key` the key before the change as a JSON object.
///
/// `old` and `new` are JSON objects.
pub fn change(op: Op, table: &str, key: &str, old: Option<&str>, new: Option<&str>, version: i64) -> String {
    let length = |image: Option<&str>| image.map_or(0, str::len);
    let mut out = String::with_capacity(table.len() + key.len() + length(old) + length(new) + 96);
    for text in ["{\"op\":\"", op.name(), "\",\"table\":"] {
        out.push_str(text);
    }
    push_json_string(&mut out, table);
    out.push_str(",\"key\":");
    out.push_str(key);
    for (label, image) in [(",\"old\":", old), (",\"new\":", new)] {
        if let Some(image) = image {
            out.push_str(label);
            out.push_str(image);
        }
    }
    let _ = write!(out, ",\"version\":{version}}}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{object, parse_image};

    fn image(text: &str) -> Image<'_> {
        parse_image(text).ok().unwrap_or_default()
    }

    #[test]
    fn only_changed_columns_are_in_an_update() {
        let (old, new) = changed(&image(r#"{"id":1,"a":1.0,"b":"x"}"#), &image(r#"{"id":1,"a":1.00,"b":"x","c":9}"#));
        assert_eq!((object(&old).as_str(), object(&new).as_str()), (r#"{"a":1.0}"#, r#"{"a":1.00}"#));
    }

    #[test]
    fn a_change_has_the_documented_shape() {
        let text = change(Op::Update, "public.parts", r#"{"id":42}"#, Some(r#"{"a":1}"#), Some(r#"{"a":2}"#), 4);
        assert_eq!(
            text,
            r#"{"op":"update","table":"public.parts","key":{"id":42},"old":{"a":1},"new":{"a":2},"version":4}"#
        );
    }
}
