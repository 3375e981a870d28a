//! Rows as JSON text and back, without loss: numbers in their exact text, everything else as the
//! type's text form under fixed settings.

use crate::error::{Error, Result};
use crate::image::{self, parse_image, push_json_string, scalar_text, Image};
use crate::pg::fixed::FixedOutput;
use crate::pg::memory::{ensure, room};
use crate::pg::owner::AsTableOwner;
use crate::pg::shape::{Column, Form, Shape};
use crate::pg::trigger::Values;
use crate::pg::value;
use crate::pg::value::text_datum;
use crate::plain::{push_integer, push_numeric, push_timestamp};
use crate::table::Table;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};
use std::fmt::Write;

/// Appends a non-null value of `column` as JSON. Call under [`FixedOutput`].
fn push_value(out: &mut String, column: &Column, datum: pg_sys::Datum) {
    // SAFETY (all arms): the datum is a non-null value of the column's type.
    match column.form {
        Form::Int2 => push_integer(out, (datum.value() as i16).into()),
        Form::Int4 => push_integer(out, (datum.value() as i32).into()),
        Form::Int8 => push_integer(out, datum.value() as i64),
        Form::Oid => push_integer(out, (datum.value() as u32).into()),
        Form::Bool => out.push_str(if datum.value() as u8 != 0 { "true" } else { "false" }),
        // SAFETY: as above.
        Form::Text => push_text(out, unsafe { value::text(datum) }),
        Form::Char => match datum.value() as u8 {
            0 => out.push_str("\"\""),
            byte @ 1..=0x7f => push_json_string(out, char::from(byte).encode_utf8(&mut [0; 4])),
            byte => drop(write!(out, "\"\\\\{byte:03o}\"")),
        },
        // SAFETY: as above.
        Form::Numeric => unsafe {
            value::with_bytes(datum, |stored| {
                // Digits that are not stored are zeros; there may be as many as this where the short header does not do.
                if stored.get(..2).is_none_or(|header| u16::from_ne_bytes([header[0], header[1]]) & 0xC000 != 0x8000) {
                    ensure(2 * out.len() + (1 << 18));
                }
                if !push_numeric(out, stored) {
                    push_number_or_name(out, column, datum);
                }
            })
        },
        Form::Float => push_number_or_name(out, column, datum),
        Form::Timestamp | Form::TimestampTz => {
            out.push('"');
            if push_timestamp(out, datum.value() as i64, column.form == Form::TimestampTz) {
                out.push('"');
            } else {
                out.pop();
                with_text(column, datum, |text| push_text(out, text));
            }
        }
        Form::Other => with_text(column, datum, |text| push_text(out, text)),
    }
}

/// Infinity and NaN are no JSON numbers.
fn push_number_or_name(out: &mut String, column: &Column, datum: pg_sys::Datum) {
    with_text(column, datum, |text| {
        if text.as_bytes().last().is_some_and(u8::is_ascii_digit) {
            room(out, text.len());
            out.push_str(text);
        } else {
            push_text(out, text);
        }
    });
}

fn push_text(out: &mut String, text: &str) {
    ensure(2 * (out.len() + text.len()));
    push_json_string(out, text);
}

fn with_text(column: &Column, datum: pg_sys::Datum, body: impl FnOnce(&str)) {
    // SAFETY: the output function was looked up for this type; its result is palloc'd and freed.
    unsafe {
        let text = pg_sys::OutputFunctionCall(column.output.as_ptr(), datum);
        match CStr::from_ptr(text).to_str() {
            Ok(text) => body(text),
            Err(_) => pgrx::error!("value of column {} is not valid UTF-8", column.name),
        }
        pg_sys::pfree(text.cast());
    }
}

/// Appends the row as a JSON object of the columns that `wanted` accepts (by attribute index).
pub fn push_row(out: &mut String, table: &Shape, row: Values, wanted: impl Fn(usize, &Column) -> bool) {
    let _fixed = FixedOutput::enter(table.settings_matter);
    out.push('{');
    let mut first = true;
    for (index, column) in table.columns.iter().enumerate() {
        let Some(column) = column else { continue };
        if !wanted(index, column) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        // A comma, the label, and what every value has.
        room(out, column.label.len() + 32);
        out.push_str(&column.label);
        match row.get(index) {
            Some(datum) => push_value(out, column, datum),
            None => out.push_str("null"),
        }
    }
    out.push('}');
}

/// The tracked columns that an UPDATE changes, as two JSON objects: former and present values. `None`: no text differs.
pub fn differences(table: &Shape, old: Values, new: Values) -> Option<(String, String)> {
    let _fixed = FixedOutput::enter(table.settings_matter);
    let (mut former, mut present) = (String::with_capacity(64), String::with_capacity(64));
    former.push('{');
    present.push('{');
    for (index, column) in table.columns.iter().enumerate() {
        let Some(column) = column.as_ref().filter(|column| !column.untracked) else { continue };
        let values = (old.get(index), new.get(index));
        match values {
            (None, None) => continue,
            // SAFETY: non-null values of the column.
            (Some(a), Some(b)) if unsafe { value::same_image(column.storage, a, b) } => continue,
            _ => {}
        }
        let starts = (former.len(), present.len());
        for (out, value) in [(&mut former, values.0), (&mut present, values.1)] {
            room(out, column.label.len() + 32);
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&column.label);
            match value {
                Some(datum) => push_value(out, column, datum),
                None => out.push_str("null"),
            }
        }
        if former[starts.0..] == present[starts.1..] {
            former.truncate(starts.0);
            present.truncate(starts.1);
        }
    }
    if present.len() == 1 {
        return None;
    }
    former.push('}');
    present.push('}');
    Some((former, present))
}

/// A row's key as its image would have it.
pub fn plain_key(table: &Shape, row: Values) -> String {
    let _fixed = FixedOutput::enter(table.settings_matter);
    let mut out = String::with_capacity(32);
    out.push('{');
    for &index in &table.key {
        let (Some(column), Some(datum)) = (table.column(index), row.get(index)) else { continue };
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&column.label);
        push_value(&mut out, column, datum);
    }
    out.push('}');
    out
}

/// The longest JSON text of a row or change; PostgreSQL's own limit for a value is a little higher
/// (one gigabyte).
pub const SIZE_MAX: usize = 1_000_000_000;

/// Refuses a row that is too large to be drafted or journaled.
pub fn check_size(table: &Table, json: &str) {
    if json.len() > SIZE_MAX {
        Error::OperationRefused {
            table: table.name(),
            problem: format!("a row of {} takes {} bytes as JSON, more than {SIZE_MAX}", table.name(), json.len()),
            hint:
                "Keep values that large outside the table, or make their columns untracked and do not delete the row."
                    .into(),
        }
        .raise()
    }
}

/// The canonical text of a row's primary key: `{"id":42}`. Equal numbers have one text, however
/// they are written in the row: 1.00 and 1.0, -0 and 0.
pub fn key_text(table: &Table, row: Values) -> String {
    key_text_of(table, |index| row.get(index))
}

/// As [`key_text`], from key values by attribute index.
pub fn key_text_of(table: &Table, value: impl Fn(usize) -> Option<pg_sys::Datum>) -> String {
    let _fixed = FixedOutput::enter(table.settings_matter);
    let mut out = String::with_capacity(32);
    out.push('{');
    for (i, &index) in table.key.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let Some(column) = table.column(index) else {
            continue;
        };
        out.push_str(&column.label);
        match value(index) {
            Some(datum) => {
                let start = out.len();
                push_value(&mut out, column, datum);
                if matches!(column.form, Form::Numeric | Form::Float) {
                    let text = image::plain_number(&out[start..]).to_owned();
                    out.truncate(start);
                    out.push_str(&text);
                }
            }
            None => out.push_str("null"),
        }
    }
    out.push('}');
    out
}

/// The key in a row image, as it is written there.
pub fn key_in_image(table: &Table, image: &Image) -> String {
    let key = table.key.iter().filter_map(|&index| {
        let column = table.column(index)?;
        Some((column.name.clone().into(), image::value(image, &column.name)?))
    });
    image::object(&key.collect())
}

/// The columns of an image that are journaled.
pub fn tracked<'a>(table: &Table, image: &Image<'a>) -> Image<'a> {
    image.iter().filter(|(n, _)| table.column_named(n).is_some_and(|(_, c)| !c.untracked)).cloned().collect()
}

/// Reads the text form of a value of `column`; the datum is palloc'd in the current context.
///
/// Raises the input function's own error for malformed text.
pub fn read_text(column: &Column, text: &str) -> Result<pg_sys::Datum> {
    if column.form == Form::Char {
        let byte = match text.as_bytes() {
            [b'\\', rest @ ..] if rest.len() == 3 => u8::from_str_radix(&text[1..], 8).unwrap_or(b'\\'),
            [first, ..] => *first,
            [] => 0,
        };
        return Ok(pg_sys::Datum::from(byte as i8));
    }
    let text = CString::new(text)
        .map_err(|_| Error::InvalidChangeset { problem: format!("zero byte in column {}", column.name) })?;
    let _owner = column.foreign.then(|| AsTableOwner::shed(column.owner));
    // SAFETY: the input function was looked up for this type; the string outlives the call.
    unsafe {
        Ok(pg_sys::InputFunctionCall(column.input.as_ptr(), text.as_ptr().cast_mut(), column.io_param, column.typmod))
    }
}

/// Reads a raw JSON value of `column`. Call under [`FixedOutput`].
pub fn read_value(column: &Column, raw: &str) -> Result<Option<pg_sys::Datum>> {
    if let Some(datum) = read_plain(column, raw) {
        return Ok(Some(datum));
    }
    if let (true, Some(text)) = (column.takes_any_text(), image::plain_string(raw)) {
        return Ok(Some(text_datum(text)));
    }
    // Unescaping doubles its buffer as it grows; the input function gets a copy.
    ensure(4 * raw.len());
    match scalar_text(raw)? {
        Some(text) if column.takes_any_text() && !text.contains('\0') => Ok(Some(text_datum(&text))),
        Some(text) => read_text(column, &text).map(Some),
        None => Ok(None),
    }
}

/// Reads numbers and booleans without their type's input function; `None`: it must decide.
fn read_plain(column: &Column, raw: &str) -> Option<pg_sys::Datum> {
    if column.domain {
        return None;
    }
    match column.form {
        Form::Int2 => raw.parse::<i16>().ok().map(pg_sys::Datum::from),
        Form::Int4 => raw.parse::<i32>().ok().map(pg_sys::Datum::from),
        Form::Int8 => raw.parse::<i64>().ok().map(pg_sys::Datum::from),
        Form::Oid => raw.parse::<u32>().ok().map(pg_sys::Datum::from),
        Form::Bool => raw.parse::<bool>().ok().map(pg_sys::Datum::from),
        _ => None,
    }
}

/// Does the local value of a column differ from one in the journal? Equal texts of different
/// images are the same value. Call under [`FixedOutput`].
pub fn differs(column: &Column, local: Option<pg_sys::Datum>, raw: &str) -> Result<bool> {
    if let (Some(datum), Form::Text, Some(text)) = (local, column.form, image::plain_string(raw)) {
        // SAFETY: a non-null value of a text type.
        if unsafe { value::text(datum) } == text {
            return Ok(false);
        }
    }
    Ok(match (local, read_value(column, raw)?) {
        (None, None) => false,
        // SAFETY: non-null values of the column.
        (Some(a), Some(b)) if unsafe { value::same_image(column.storage, a, b) } => false,
        (Some(a), Some(b)) => value_text(column, Some(a)) != value_text(column, Some(b)),
        _ => true,
    })
}

/// A value as the journal would have it. Call under [`FixedOutput`].
pub fn value_text(column: &Column, value: Option<pg_sys::Datum>) -> String {
    let mut text = String::new();
    match value {
        Some(datum) => push_value(&mut text, column, datum),
        None => text.push_str("null"),
    }
    text
}

/// Reads an image and writes it again as the table's present column types do.
pub fn recode(table: &Table, image: &str) -> Result<String> {
    let mut out = String::from("{");
    for (name, raw) in parse_image(image)? {
        let Some((_, column)) = table.column_named(&name) else {
            continue;
        };
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&column.label);
        // Read as the session would, for that is how ALTER TABLE converted the rows.
        match read_value(column, raw)? {
            Some(datum) => {
                let _fixed = FixedOutput::enter(table.settings_matter);
                push_value(&mut out, column, datum);
            }
            None => out.push_str("null"),
        }
    }
    out.push('}');
    Ok(out)
}
