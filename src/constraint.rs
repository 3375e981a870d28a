//! The constraints of an enabled table that tie rows together: unique keys, keys that foreign keys
//! refer to, and foreign keys.

use crate::codec;
use crate::error::Result;
use crate::image::{self, Image};
use crate::order::Role;
use crate::pg::fixed::FixedOutput;
use crate::pg::owner::{AsOwner, AsTableOwner};
use crate::pg::spi::{self, Arg, Prepared, Sees};
use crate::table::Table;
use pgrx::pg_sys;
use std::collections::HashMap;

/// One of them, as seen from one table. A foreign key that refers to its own table is there twice.
pub struct Constraint {
    pub id: u32,
    pub name: String,
    pub columns: Vec<String>,
    /// Of a unique index with a WHERE, which says whether a row counts.
    pub only: Option<Condition>,
    /// What giving values up and taking them means.
    pub out: Role,
    pub into: Role,
    /// The primary key, which drafts guard themselves.
    pub primary: bool,
    /// For SET CONSTRAINTS, if it may be deferred.
    pub deferrable: Option<String>,
    nulls_equal: bool,
    /// Of a foreign key: the table at its other end and the columns there.
    pub other: pg_sys::Oid,
    pub other_columns: Vec<String>,
    /// Qualified equality operators, referenced column first.
    pub operators: Vec<String>,
    /// It refers to the primary key, by columns of the same (or other integer) types.
    pub by_key: bool,
}

pub struct Condition {
    /// As the server writes it.
    text: String,
    /// The columns that it looks at, and those of the index.
    pub columns: Vec<String>,
}

/// The conditions of constraints, prepared.
#[derive(Default)]
pub struct Conditions(HashMap<u32, Prepared>);

impl Conditions {
    /// The values of a constraint's columns in a row that counts for it. What the image does not have is taken for fulfilling
    /// the condition.
    pub fn values<'a>(&mut self, table: &Table, of: &Constraint, image: &Image<'a>) -> Result<Option<Vec<&'a str>>> {
        let Some(values) = of.values(&of.columns, image) else { return Ok(None) };
        let Some(only) = &of.only else { return Ok(Some(values)) };
        let (mut names, mut args) = (Vec::new(), Vec::new());
        let _fixed = FixedOutput::enter(table.settings_matter);
        for name in &only.columns {
            let (Some((_, column)), Some(raw)) = (table.column_named(name), image::value(image, name)) else {
                return Ok(Some(values));
            };
            args.push(Arg(column.base_type, codec::read_value(column, raw)?));
            names.push(format!("${} AS {}", args.len(), pgrx::spi::quote_identifier(name)));
        }
        let _path = AsOwner::enter();
        let _owner = AsTableOwner::restricted(table.owner);
        let prepared = self.0.entry(of.id).or_insert_with(|| {
            Prepared::new(&format!("SELECT FROM (SELECT {}) r WHERE {}", names.join(", "), only.text), &args)
        });
        Ok((prepared.run(&args, |_| {}) > 0).then_some(values))
    }
}

impl Constraint {
    /// Does a row that gives up or changes these columns matter to the commits of others?
    pub fn gives(&self) -> bool {
        match self.out {
            Role::Frees => !self.primary,
            Role::Leaves => true,
            _ => false,
        }
    }

    /// Does any of the columns that matter differ between two images?
    pub fn is_touched(&self, former: &Image, present: &Image) -> bool {
        self.all_columns().any(|column| image::value(former, column) != image::value(present, column))
    }

    /// The columns that matter.
    pub fn all_columns(&self) -> impl Iterator<Item = &String> {
        self.columns.iter().chain(self.only.iter().flat_map(|only| &only.columns))
    }

    /// The values of `columns` in a row; `None` if one is missing or NULL and so ties nothing. Equal
    /// numbers have one text.
    pub fn values<'a>(&self, columns: &[String], image: &Image<'a>) -> Option<Vec<&'a str>> {
        columns
            .iter()
            .map(|column| {
                let raw = image::value(image, column)?;
                let number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
                let value = if number { image::plain_number(raw) } else { raw };
                Some(value).filter(|value| self.nulls_equal || *value != "null")
            })
            .collect()
    }
}

/// The constraints of a table.
pub fn constraints(root: pg_sys::Oid) -> Vec<Constraint> {
    let mut result = Vec::new();
    spi::query(
        "SELECT i.indexrelid::oid, 0, k.relname::text,
                ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(n, o)
                      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.o),
                i.indisprimary, i.indnullsnotdistinct, CASE WHEN NOT i.indimmediate THEN format('%I.%I', n.nspname, k.relname) END,
                0::oid, '{}'::text[], '{}'::text[], false,
                ARRAY(SELECT a.attname::text FROM pg_attribute a
                      WHERE i.indpred IS NOT NULL AND a.attrelid = i.indrelid AND EXISTS (
                          SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum)
                      ORDER BY a.attnum),
                pg_get_expr(i.indpred, i.indrelid)
         FROM pg_index i JOIN pg_class k ON k.oid = i.indexrelid JOIN pg_namespace n ON n.oid = k.relnamespace
         WHERE i.indrelid = $1 AND i.indisunique AND i.indexprs IS NULL
         UNION ALL
         SELECT c.oid, d.kind, c.conname::text, CASE d.kind WHEN 1 THEN d.referenced ELSE d.referring END,
                false, false, CASE WHEN c.condeferrable THEN format('%I.%I', n.nspname, c.conname) END,
                CASE d.kind WHEN 1 THEN c.conrelid ELSE c.confrelid END,
                CASE d.kind WHEN 1 THEN d.referring ELSE d.referenced END,
                ARRAY(SELECT format('OPERATOR(%I.%s)', s.nspname, o.oprname)
                      FROM unnest(c.conpfeqop) WITH ORDINALITY e(oid, place)
                      JOIN pg_operator o ON o.oid = e.oid JOIN pg_namespace s ON s.oid = o.oprnamespace ORDER BY place),
                d.same_types AND EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.conindid AND i.indisprimary), '{}'::text[], NULL
         FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace,
         LATERAL (SELECT array_agg(p.attname::text ORDER BY place) AS referenced, array_agg(f.attname::text ORDER BY place) AS referring,
                         bool_and(p.atttypid = f.atttypid OR p.atttypid IN (20, 21, 23) AND f.atttypid IN (20, 21, 23)) AS same_types
                  FROM ROWS FROM (unnest(c.confkey), unnest(c.conkey)) WITH ORDINALITY k(p, f, place)
                  JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = k.p
                  JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = k.f) columns,
         LATERAL (SELECT kind, columns.* FROM (VALUES (1, c.confrelid), (2, c.conrelid)) side(kind, relid) WHERE relid = $1) d
         WHERE c.contype = 'f' AND c.conparentid = 0 AND $1 IN (c.conrelid, c.confrelid)",
        &[Arg::oid(root)],
        Sees::Latest,
        |row| {
            let (out, into) = match row.get::<i32>(2) {
                Some(0) => (Role::Frees, Role::Takes),
                Some(1) => (Role::Removes, Role::Creates),
                _ => (Role::Leaves, Role::Refers),
            };
            result.push(Constraint {
                id: row.oid(1).unwrap_or(pg_sys::InvalidOid).to_u32(),
                name: row.text(3).unwrap_or_default(),
                columns: row.get::<Vec<String>>(4).unwrap_or_default(),
                out,
                into,
                primary: row.get::<bool>(5).unwrap_or_default(),
                nulls_equal: row.get::<bool>(6).unwrap_or_default(),
                deferrable: row.text(7),
                other: row.oid(8).unwrap_or(pg_sys::InvalidOid),
                other_columns: row.get::<Vec<String>>(9).unwrap_or_default(),
                operators: row.get::<Vec<String>>(10).unwrap_or_default(),
                by_key: row.get::<bool>(11).unwrap_or_default(),
                only: row
                    .text(13)
                    .map(|text| Condition { text, columns: row.get::<Vec<String>>(12).unwrap_or_default() }),
            });
        },
    );
    result
}
