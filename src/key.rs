//! Row keys as callers give them: a value, text, a jsonb object, or the row itself.

use crate::codec;
use crate::error::{Error, Result};
use crate::image;
use crate::pg::fixed::FixedOutput;
use crate::pg::shape::{Column, Form};
use crate::pg::spi::Arg;
use crate::pg::value;
use crate::table::{qualified_name, Table};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

/// The values of a primary key, in key order.
pub struct Key {
    pub datums: Vec<pg_sys::Datum>,
}

fn invalid(table: &Table, problem: impl Into<String>) -> Error {
    Error::InvalidKey { table: qualified_name(table.root), problem: problem.into() }
}

/// Reads the text of one key column; malformed text is `invalid_key`, not the type's own error.
fn read(table: &Table, index: usize, text: &str) -> Result<pg_sys::Datum> {
    let column = table.column(index).ok_or_else(|| invalid(table, "the key column is not readable"))?;
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        let _fixed = FixedOutput::enter(table.settings_matter);
        Ok(codec::read_text(column, text))
    }))
    .catch_others(|caught| match &caught {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)
            if (report.sql_error_code() as i32 & 0xfff) == (PgSqlErrorCode::ERRCODE_DATA_EXCEPTION as i32 & 0xfff)
                || report.sql_error_code() == PgSqlErrorCode::ERRCODE_CHECK_VIOLATION =>
        {
            Err(report.message().to_owned())
        }
        _ => caught.rethrow(),
    })
    .execute();
    result.unwrap_or_else(|message| Err(invalid(table, format!("{message} (column {})", column.name))))
}

impl Key {
    /// From text: the value itself for a one-column key, a JSON object for several columns.
    pub fn from_text(table: &Table, text: &str) -> Result<Key> {
        match table.key.as_slice() {
            [index] => Ok(Key { datums: vec![read(table, *index, text)?] }),
            _ => Key::from_json(table, text),
        }
    }

    /// From a JSON object with exactly the key columns.
    pub fn from_json(table: &Table, text: &str) -> Result<Key> {
        let image =
            image::parse_image(text).map_err(|_| invalid(table, "expected a JSON object with every key column"))?;
        for (name, _) in &image {
            if !table.key.iter().any(|&index| table.column(index).is_some_and(|c| c.name == *name)) {
                return Err(invalid(table, format!("{name} is not a key column")));
            }
        }
        let mut datums = Vec::with_capacity(table.key.len());
        for &index in &table.key {
            let name = table.column(index).map_or("", |c| c.name.as_str());
            let mut values = image.iter().filter(|(n, _)| n == name);
            let (Some((_, raw)), None) = (values.next(), values.next()) else {
                return Err(invalid(table, format!("key column {name} must be given once")));
            };
            let text = image::scalar_text(raw)
                .map_err(|_| invalid(table, "the JSON is malformed"))?
                .ok_or_else(|| invalid(table, format!("key column {name} is null")))?;
            datums.push(read(table, index, &text)?);
        }
        Ok(Key { datums })
    }

    /// From a datum of any type: a row of the table, jsonb, text, or a value of the key column.
    pub fn from_datum(table: &Table, datum: Option<pg_sys::Datum>, typ: pg_sys::Oid) -> Result<Key> {
        let Some(datum) = datum else {
            return Err(invalid(table, "the key is null"));
        };
        if let [index] = table.key.as_slice() {
            // A plain value as the column has it.
            let text = [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&typ);
            let fits = |c: &Column| if text { c.takes_any_text() } else { c.base_type == typ && c.form != Form::Other };
            if table.column(*index).is_some_and(fits) {
                return Ok(Key { datums: vec![datum] });
            }
        }
        // SAFETY: the datum is a non-null value of the type the function manager reports.
        unsafe {
            match typ {
                pg_sys::TEXTOID | pg_sys::VARCHAROID => return Key::from_text(table, value::text(datum)),
                pg_sys::JSONBOID | pg_sys::JSONOID => {
                    let text = output(datum, typ);
                    if text.trim_start().starts_with('{') {
                        return Key::from_json(table, &text);
                    }
                    let Some(scalar) = image::scalar_text(&text).ok().flatten() else {
                        return Err(invalid(table, "the key is null"));
                    };
                    return Key::from_text(table, &scalar);
                }
                _ => {}
            }
            let kind = pg_sys::get_typtype(typ) as u8;
            if kind == pg_sys::TYPTYPE_COMPOSITE || typ == pg_sys::RECORDOID {
                return Key::from_row(table, datum);
            }
            match table.key.as_slice() {
                [index] => {
                    let same = table.column(*index).is_some_and(|c| c.base_type == typ);
                    let datum = if same { datum } else { read(table, *index, &output(datum, typ))? };
                    Ok(Key { datums: vec![datum] })
                }
                _ => Err(invalid(table, "several key columns need a jsonb object or the row itself")),
            }
        }
    }

    /// # Safety
    /// `datum` is a composite value.
    unsafe fn from_row(table: &Table, datum: pg_sys::Datum) -> Result<Key> {
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let typ = (*header).t_choice.t_datum.datum_typeid;
        let typmod = (*header).t_choice.t_datum.datum_typmod;
        let desc = pg_sys::lookup_rowtype_tupdesc_copy(typ, typmod);
        let mut datums = Vec::with_capacity(table.key.len());
        for &index in &table.key {
            let Some(column) = table.column(index) else {
                continue;
            };
            let found = (0..(*desc).natts).find_map(|i| {
                let att = crate::pg::ffi::attribute(desc, i);
                let name = std::ffi::CStr::from_ptr((*att).attname.data.as_ptr());
                (!(*att).attisdropped && name.to_bytes() == column.name.as_bytes()).then_some((i, (*att).atttypid))
            });
            let Some((i, att_type)) = found else {
                return Err(invalid(table, format!("the row has no column {}", column.name)));
            };
            let mut null = false;
            let value = pg_sys::GetAttributeByNum(header, i as i16 + 1, &mut null);
            if null {
                return Err(invalid(table, format!("key column {} is null", column.name)));
            }
            let same = att_type == column.base_type || pg_sys::getBaseType(att_type) == column.base_type;
            datums.push(if same { value } else { read(table, index, &output(value, att_type))? });
        }
        Ok(Key { datums })
    }

    /// From the canonical text.
    pub fn from_canonical(table: &Table, key: &str) -> Result<Key> {
        Ok(Key { datums: key_datums(table, key)? })
    }

    /// The canonical text: `{"id":42}`.
    pub fn text(&self, table: &Table) -> String {
        codec::key_text_of(table, |index| {
            table.key.iter().position(|k| *k == index).and_then(|i| self.datums.get(i).copied())
        })
    }

    /// A WHERE condition on the key columns, and its parameters.
    pub fn condition(&self, table: &Table) -> (String, Vec<Arg>) {
        let mut parts = Vec::new();
        let mut args = Vec::new();
        for (i, &index) in table.key.iter().enumerate() {
            let Some(column) = table.column(index) else {
                continue;
            };
            parts.push(format!("{} {} ${}", pgrx::spi::quote_identifier(&column.name), table.equality(i), i + 1));
            args.push(Arg(column.base_type, self.datums.get(i).copied()));
        }
        (parts.join(" AND "), args)
    }
}

/// Key values in key order, read from the canonical key text.
pub fn key_datums(table: &Table, key: &str) -> Result<Vec<pg_sys::Datum>> {
    let image = image::parse_image(key)?;
    let _fixed = FixedOutput::enter(table.settings_matter);
    table
        .key
        .iter()
        .map(|&index| {
            let missing = || Error::InvalidChangeset { problem: format!("key {key} does not fit {}", table.name()) };
            let column = table.column(index).ok_or_else(missing)?;
            let raw = image::value(&image, &column.name).ok_or_else(missing)?;
            codec::read_value(column, raw)?.ok_or_else(missing)
        })
        .collect()
}

/// A value's text under fixed settings.
///
/// # Safety
/// `datum` is a non-null value of type `typ`.
pub unsafe fn output(datum: pg_sys::Datum, typ: pg_sys::Oid) -> String {
    let _fixed = FixedOutput::enter(true);
    let (mut function, mut varlena) = (pg_sys::InvalidOid, false);
    pg_sys::getTypeOutputInfo(typ, &mut function, &mut varlena);
    let text = pg_sys::OidOutputFunctionCall(function, datum);
    let copy = std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned();
    pg_sys::pfree(text.cast());
    copy
}

/// Canonical key text as a jsonb datum.
pub fn jsonb(text: &str) -> pg_sys::Datum {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: jsonb_in only reads the string.
    let jsonb = unsafe {
        pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(text.as_ptr() as usize))])
    };
    jsonb.unwrap_or(pg_sys::Datum::from(0))
}
