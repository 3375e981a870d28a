//! `baseline_table()`: the committed state of a table as a journal entry, for replicas that start
//! later.
//!
//! The rows are read under one snapshot while writers and committers go on; no lock is waited for.
//! The entry's number is drawn only when the rows are ready, and the changesets that the snapshot
//! did not see but that have a smaller number follow the rows. So the entry is the state of the
//! table just before it, like the copy and catch-up of a replication slot.

use crate::actor;
use crate::change::Change;
use crate::codec;
use crate::diff::{self, Op};
use crate::draft;
use crate::enable::check_owner;
use crate::entry::{entries, Entry};
use crate::error::{Error, Result};
use crate::image;
use crate::journal::{Journal, PART_BYTES, PART_CHANGES};
use crate::ownership::version_of;
use crate::pg::lock::lock_relation;
use crate::pg::memory::{check_in_loop, ensure, ensure_parsed, push, room, Scratch};
use crate::pg::owner::AsOwner;
use crate::pg::scan::scan_all;
use crate::pg::spi::{self, Arg, Cursor, Sees};
use crate::pg::spool::Spool;
use crate::pg::trigger::Values;
use crate::pg::xact::{self, Moment};
use crate::table::Table;
use pgrx::pg_sys;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::HashSet;

/// Progress is told every so many rows.
const NOTICE_EVERY: u64 = 100_000;

/// Changes collected into the texts of parts.
#[derive(Default)]
struct Parts {
    done: Spool,
    text: String,
    changes: usize,
}

impl Parts {
    fn push(&mut self, change: &str) {
        if self.changes == PART_CHANGES || self.changes > 0 && self.text.len() + change.len() >= PART_BYTES {
            self.end();
        }
        // It doubles as it grows.
        if self.text.capacity() - self.text.len() <= change.len() + 1 {
            ensure(2 * (self.text.len() + change.len() + 2));
        }
        self.text.push(if self.changes == 0 { '[' } else { ',' });
        self.text.push_str(change);
        self.changes += 1;
    }

    fn end(&mut self) {
        if self.changes > 0 {
            self.text.push(']');
            self.done.push(&self.text);
            self.text.clear();
            self.changes = 0;
        }
    }
}

struct Baseline {
    table: std::rc::Rc<Table>,
    name: String,
    /// Drafts open at the moment of the snapshot.
    open: HashSet<i64>,
    parts: Parts,
    rows: u64,
    expected: f64,
}

/// Writes the committed state of `target` into its journal; returns the entry's number.
///
/// Errors: not the table's owner; claims not enabled; the running transaction has changed the
/// table and commits it later (`committing => 'transaction'`).
pub fn baseline_table(target: pg_sys::Oid) -> Result<i64> {
    check_owner(target)?;
    let _owner = AsOwner::enter();
    // The table keeps its name and columns.
    lock_relation(target, pg_sys::AccessShareLock);
    let table = Table::enabled(target)?;
    let name = table.name();
    if table.root != target {
        return Err(Error::InvalidParameter {
            parameter: "target",
            problem: format!("a baseline is of a whole table: call baseline_table('{name}')"),
        });
    }
    if draft::has_captured(target) {
        return Err(Error::OperationRefused {
            table: name.clone(),
            problem: format!("this transaction has changed {name} and commits that later"),
            hint: "Call baseline_table() in a transaction of its own.".into(),
        });
    }
    let journal = Journal::find(&table.journal)?;
    journal.check_writable()?;
    let mut leaves = Vec::new();
    spi::query(
        "SELECT c.oid, greatest(c.reltuples, 0)::float8 FROM pg_catalog.pg_class c
         WHERE c.relkind = 'r' AND (c.oid = $1 OR c.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t))",
        &[Arg::oid(target)],
        Sees::Latest,
        |row| push(&mut leaves, (row.oid(1).unwrap_or(pg_sys::InvalidOid), row.get::<f64>(2).unwrap_or(0.0))),
    );
    for (leaf, _) in &leaves {
        // TRUNCATE would empty them under the snapshot.
        lock_relation(*leaf, pg_sys::AccessShareLock);
    }
    xact::bump_command();
    let moment = Moment::now();
    let at = moment.sees();
    let seen = journal.stable_at(at);
    let mut also_seen = Vec::new();
    spi::query(
        "SELECT seq FROM rowclaim.journal WHERE journal = $1 AND seq > $2 AND part = 1",
        &[Arg::str(&journal.name), Arg::i64(seen)],
        at,
        |row| push(&mut also_seen, row.i64(1).unwrap_or_default()),
    );
    let mut open = HashSet::new();
    spi::query("SELECT id FROM rowclaim.draft WHERE journal_id = $1", &[Arg::i32(journal.id)], at, |row| {
        room(&mut open, 1);
        open.extend(row.i64(1));
    });
    let expected = leaves.iter().map(|leaf| leaf.1).sum();
    let mut baseline = Baseline { table, name, open, parts: Parts::default(), rows: 0, expected };
    for (leaf, _) in leaves {
        baseline.scan(leaf, &moment)?;
    }
    baseline.deleted_rows(at)?;
    drop(moment);
    let Baseline { name, mut parts, rows, .. } = baseline;
    // A part of rows only: the header counts them.
    parts.end();
    let header = json!([{"op": "baseline", "table": name, "rows": rows}]).to_string();
    let mut done = std::mem::take(&mut parts.done);
    let seq = journal.append_baseline(&actor::current(), &header, &mut done, |done, before| {
        parts.done = std::mem::take(done);
        catch_up(&mut parts, &journal, &name, seen, before, &also_seen)?;
        parts.end();
        *done = std::mem::take(&mut parts.done);
        Ok(())
    })?;
    let s = if rows == 1 { "" } else { "s" };
    pgrx::notice!("baseline of {name}: {rows} row{s}, changeset {seq} of journal {}", journal.name);
    Ok(seq)
}

impl Baseline {
    fn emit(&mut self, image: &str, version: i64) -> Result<()> {
        ensure(3 * image.len());
        let key = codec::key_in_image(&self.table, &image::parse_image(image)?);
        let change = diff::change(Op::Insert, &self.name, &key, None, Some(image), version);
        codec::check_size(&self.table, &change);
        self.parts.push(&change);
        self.rows += 1;
        if self.rows.is_multiple_of(NOTICE_EVERY) {
            pgrx::notice!(
                "baseline of {}: {} of about {:.0} rows",
                self.name,
                self.rows,
                self.expected.max(self.rows as f64)
            );
        }
        Ok(())
    }

    fn scan(&mut self, leaf: pg_sys::Oid, moment: &Moment) -> Result<()> {
        let table = Table::enabled(leaf)?;
        let store = entries();
        scan_all(leaf, moment, |row: Values| {
            let mut image = String::new();
            codec::push_row(&mut image, &table, row, |_, _| true);
            let version = version_of(&table, row).unwrap_or_default();
            let stamp = row.get(table.draft_column).map(|datum| datum.value() as i64);
            if !stamp.is_some_and(|stamp| self.open.contains(&stamp)) {
                return self.emit(&image, version);
            }
            let key = codec::key_text(&table, row);
            match store.find_at(table.root, &key, moment).map(|found| Entry::of(&found)) {
                // Uncommitted: as the row was, with what its draft has not touched.
                Some(Entry { base: Some(base), version, .. }) => {
                    ensure(4 * (base.len() + image.len()));
                    let base = image::object(&codec::tracked(&self.table, &image::parse_image(&base)?));
                    self.emit(&image::fill_missing(&base, &image)?, version.unwrap_or(1))
                }
                Some(_) => Ok(()),
                None => self.emit(&image, version),
            }
        })
    }

    /// Rows whose deletion is not committed.
    fn deleted_rows(&mut self, at: Sees) -> Result<()> {
        let open: Vec<i64> = self.open.iter().copied().collect();
        let mut last = String::new();
        loop {
            let mut page = Vec::new();
            spi::query(
                "SELECT r.key, r.base, r.base_version FROM rowclaim.draft_row r
                 WHERE r.relid = $1 AND r.key > $2 AND r.op = 'd' AND r.base IS NOT NULL AND r.draft = ANY ($3)
                 ORDER BY r.key LIMIT 1000",
                &[Arg::oid(self.table.root), Arg::str(&last), Arg::ids(&open)],
                at,
                |row| page.push((row.text(1).unwrap_or_default(), row.text(2).unwrap_or_default(), row.i64(3))),
            );
            if page.is_empty() {
                return Ok(());
            }
            for (key, base, version) in page {
                check_in_loop();
                self.emit(&base, version.unwrap_or(1))?;
                last = key;
            }
        }
    }
}

/// The table's changes in the entries that the snapshot did not see.
fn catch_up(parts: &mut Parts, journal: &Journal, name: &str, after: i64, before: i64, seen: &[i64]) -> Result<()> {
    let mut cursor = Cursor::open(
        "SELECT changes::text FROM rowclaim.journal
         WHERE journal = $1 AND seq > $2 AND seq < $3 AND kind = 'changeset' AND NOT seq = ANY ($4) ORDER BY seq, part",
        &[Arg::str(&journal.name), Arg::i64(after), Arg::i64(before), Arg::ids(seen)],
    );
    let scratch = Scratch::new();
    let mut result = Ok(());
    while result.is_ok()
        && cursor.fetch(10, |row| {
            let _entered = scratch.enter();
            if result.is_ok() {
                result = push_changes_of(parts, name, &row.text(1).unwrap_or_default());
            }
        }) > 0
    {}
    result
}

fn push_changes_of(parts: &mut Parts, name: &str, text: &str) -> Result<()> {
    let malformed = |error: serde_json::Error| Error::InvalidChangeset { problem: error.to_string() };
    ensure_parsed(text);
    for raw in serde_json::from_str::<Vec<&RawValue>>(text).map_err(malformed)? {
        let change: Change = serde_json::from_str(raw.get()).map_err(malformed)?;
        check_in_loop();
        if change.table == name {
            parts.push(raw.get());
        }
    }
    Ok(())
}
