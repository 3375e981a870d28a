//! Row images: JSON objects of column names and values whose text is kept to the letter. No
//! PostgreSQL in here.

use crate::error::{Error, Result};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::Write;

/// A row image as the journal's format has it: column names and raw JSON values, in order.
pub type Image<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// Appends `text` as a JSON string.
pub fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = first_escaped(rest.as_bytes()) {
        let byte = rest.as_bytes()[at];
        out.push_str(&rest[..at]);
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => drop(write!(out, "\\u{byte:04x}")),
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

/// Where the first byte is that JSON has escaped. Eight at a time, so that the compiler looks at them together.
fn first_escaped(text: &[u8]) -> Option<usize> {
    let is_escaped = |byte: &u8| matches!(byte, 0..=0x1f | b'"' | b'\\');
    let clean = text.chunks_exact(8).take_while(|chunk| !chunk.iter().fold(false, |any, byte| any | is_escaped(byte)));
    let from = 8 * clean.count();
    text[from..].iter().position(is_escaped).map(|at| from + at)
}

/// Splits a JSON object into names and raw values without touching the values.
pub fn parse_image(text: &str) -> Result<Image<'_>> {
    let mut parser = serde_json::Deserializer::from_str(text);
    Deserializer::deserialize_map(&mut parser, Columns)
        .and_then(|image| parser.end().map(|()| image))
        .map_err(|error| Error::InvalidChangeset { problem: error.to_string() })
}

/// As [`parse_image`], inside of a larger text; null is an image without columns.
pub fn read_image<'de, D: Deserializer<'de>>(source: D) -> std::result::Result<Image<'de>, D::Error> {
    source.deserialize_option(Columns)
}

struct Columns;

impl<'de> Visitor<'de> for Columns {
    type Value = Image<'de>;
    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a JSON object")
    }
    fn visit_none<E>(self) -> std::result::Result<Self::Value, E> {
        Ok(Image::new())
    }
    fn visit_some<D: Deserializer<'de>>(self, source: D) -> std::result::Result<Self::Value, D::Error> {
        source.deserialize_map(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        #[derive(serde::Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        let mut image = Vec::with_capacity(4);
        while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            image.push((name.0, value.get()));
        }
        Ok(image)
    }
}

/// The content of a raw JSON string that has nothing escaped.
pub fn plain_string(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"').filter(|text| !text.contains('\\'))
}

/// The text behind a raw JSON value: the content of a string, the literal of anything else,
/// `None` for null.
pub fn scalar_text(raw: &str) -> Result<Option<String>> {
    match raw.as_bytes().first() {
        Some(b'"') => {
            serde_json::from_str(raw).map(Some).map_err(|error| Error::InvalidChangeset { problem: error.to_string() })
        }
        _ if raw == "null" => Ok(None),
        _ => Ok(Some(raw.to_owned())),
    }
}

/// A number's text without zeros that do not count: `1.50` is `1.5`, `-0` is `0`.
pub fn plain_number(text: &str) -> &str {
    let plain = match text.contains('.') && !text.contains(['e', 'E']) {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    };
    if plain == "-0" {
        "0"
    } else {
        plain
    }
}

/// Schema and name in a qualified name as `quote_qualified_identifier()` writes it.
pub fn split_name(text: &str) -> Option<(String, String)> {
    if let (false, Some((schema, name))) = (text.contains('"'), text.split_once('.')) {
        let whole = !schema.is_empty() && !name.is_empty() && !name.contains('.');
        return whole.then(|| (schema.to_owned(), name.to_owned()));
    }
    let mut parts = vec![String::new()];
    let (mut quoted, mut chars) = (false, text.chars().peekable());
    while let Some(c) = chars.next() {
        match (c, quoted) {
            ('"', true) if chars.peek() == Some(&'"') => {
                chars.next();
                parts.last_mut()?.push('"');
            }
            ('"', _) => quoted = !quoted,
            ('.', false) => parts.push(String::new()),
            _ => parts.last_mut()?.push(c),
        }
    }
    match <[String; 2]>::try_from(parts) {
        Ok([schema, name]) if !schema.is_empty() && !name.is_empty() && !quoted => Some((schema, name)),
        _ => None,
    }
}

/// Joins two JSON objects that share no names.
pub fn merge_objects(a: &str, b: &str) -> String {
    let inner = |text: &str| text.trim().trim_start_matches('{').len();
    match (inner(a), inner(b)) {
        (_, 1) => a.to_owned(),
        (1, _) => b.to_owned(),
        _ => format!("{},{}", &a[..a.len() - 1], &b[1..]),
    }
}

/// `base` with the columns of `full` that it lacks.
pub fn fill_missing(base: &str, full: &str) -> Result<String> {
    let (known, all) = (parse_image(base)?, parse_image(full)?);
    let missing: Image = all.into_iter().filter(|(name, _)| !known.iter().any(|(n, _)| n == name)).collect();
    Ok(merge_objects(base, &object(&missing)))
}

/// An image as a JSON object.
pub fn object(image: &Image) -> String {
    let mut out = String::from("{");
    for (i, (name, value)) in image.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_json_string(&mut out, name);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    out
}

/// The value of a column in an image.
pub fn value<'a>(image: &Image<'a>, name: &str) -> Option<&'a str> {
    image.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_escape_what_json_must() {
        let mut out = String::new();
        push_json_string(&mut out, "a\"b\\c\n\u{1}é\u{10348}");
        assert_eq!(out, "\"a\\\"b\\\\c\\n\\u0001é\u{10348}\"");
        assert_eq!(scalar_text(&out).ok().flatten().as_deref(), Some("a\"b\\c\n\u{1}é\u{10348}"));
    }

    #[test]
    fn what_must_be_escaped_is_found_anywhere() {
        for (escaped, with) in [('"', "\\\""), ('\\', "\\\\"), ('\u{1f}', "\\u001f")] {
            for (before, after) in (0..40).flat_map(|before| (0..20).map(move |after| (before, after))) {
                let (mut out, before, after) = (String::new(), "ä".repeat(before), "b".repeat(after));
                push_json_string(&mut out, &format!("{before}{escaped}{escaped}{after}"));
                assert_eq!(out, format!("\"{before}{with}{with}{after}\""));
            }
        }
    }

    #[test]
    fn plain_strings_are_taken_as_they_are() {
        let plain = [r#""""#, r#""é x""#, r#""a\"b""#, r#""\u0041""#, "\"", "1", "null"].map(plain_string);
        assert_eq!(plain, [Some(""), Some("é x"), None, None, None, None, None]);
    }

    #[test]
    fn images_keep_the_text_of_numbers() {
        let image = parse_image(r#"{"a":1.00,"b":-0,"c":null,"d\"":"x"}"#).ok().unwrap_or_default();
        let flat: Vec<_> = image.iter().map(|(n, v)| (n.as_ref(), *v)).collect();
        assert_eq!(flat, [("a", "1.00"), ("b", "-0"), ("c", "null"), ("d\"", "\"x\"")]);
        assert!(parse_image("[1]").is_err());
        assert!(parse_image("{\"a\":1} x").is_err());
    }

    #[test]
    fn equal_numbers_have_one_text() {
        for (text, plain) in [("1.50", "1.5"), ("10", "10"), ("-0.00", "0"), ("1e-10", "1e-10"), ("100.0", "100")] {
            assert_eq!(plain_number(text), plain);
        }
    }

    #[test]
    fn names_split() {
        let split = |text| split_name(text).map(|(a, b)| format!("{a}|{b}"));
        assert_eq!(split("public.parts").as_deref(), Some("public|parts"));
        assert_eq!(split(r#""a.""b".".c""#).as_deref(), Some("a.\"b|.c"));
        assert_eq!((split("parts"), split("a.b.c"), split("\"a.b"), split(".")), (None, None, None, None));
    }

    #[test]
    fn objects_join() {
        assert_eq!(merge_objects("{}", r#"{"b":2}"#), r#"{"b":2}"#);
        assert_eq!(merge_objects(r#"{"a":1}"#, "{}"), r#"{"a":1}"#);
        assert_eq!(merge_objects(r#"{"a":1}"#, r#"{"b":2}"#), r#"{"a":1,"b":2}"#);
        assert_eq!(fill_missing(r#"{"a":1}"#, r#"{"a":5,"b":2}"#).ok().as_deref(), Some(r#"{"a":1,"b":2}"#));
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives(text in "\\PC*|[\\x01-\\x7f]*") {
            let mut out = String::new();
            push_json_string(&mut out, &text);
            let back = scalar_text(&out).ok().flatten();
            proptest::prop_assert_eq!(back.as_deref(), Some(text.as_str()));
        }
    }
}
