//! Replay on a replica: entries that logical replication has brought into `rowclaim.journal` are
//! applied to the tables in the order of their numbers, in the transaction that brought them.
//!
//! An entry whose predecessors are missing waits in the journal until they are there. The position
//! moves in the same transaction, so an entry is applied exactly once whatever happens. Constraints
//! hold at the end of every changeset; rows that swap unique values are set aside on the way.

use crate::change::Change;
use crate::codec;
use crate::error::{check, shortened, Divergence, Error, Result};
use crate::holder;
use crate::image::{self, Image};
use crate::journal::Part;
use crate::pg::context::ErrorContext;
use crate::pg::fixed::FixedOutput;
use crate::pg::memory::Scratch;
use crate::pg::owner::AsOwner;
use crate::pg::shape::Shape;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::target::{Attributes, Hits, Target};
use crate::pg::trigger::{in_apply_worker, Call};
use crate::pg::value::text;
use crate::pg::worker;
use crate::pg::xact;
use crate::settings::{self, Mismatch, Missing};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use serde_json::json;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{Display, Formatter};
use std::panic::AssertUnwindSafe;

thread_local! {
    // How far this transaction has come, by journal: later calls of its trigger have nothing to do.
    static APPLIED: RefCell<HashMap<String, i64>> = RefCell::default();
}

/// Forgets what belongs to the transaction that has ended.
pub fn forget() {
    APPLIED.with(|applied| applied.borrow_mut().clear());
}

/// An entry of a journal has arrived: applies it and whatever it was holding up, if its turn has come.
pub fn arrived(journal: &str, seq: i64) -> Result<()> {
    if APPLIED.with(|applied| applied.borrow().get(journal).is_some_and(|&applied| applied >= seq)) {
        return Ok(());
    }
    let _owner = AsOwner::enter();
    let Some(mut replay) = Replay::resume(journal)? else { return Ok(()) };
    let from = replay.applied;
    replay.run();
    let applied = replay.applied;
    if applied > from {
        replay.save();
    }
    APPLIED.with(|all| all.borrow_mut().insert(journal.to_owned(), applied));
    Ok(())
}

/// Where replay is.
#[derive(Default)]
struct Place {
    journal: String,
    seq: i64,
    table: String,
    key: String,
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        write!(f, "replay of changeset {} of journal {}", self.seq, self.journal)?;
        if !self.table.is_empty() {
            write!(f, ", row {} {}", self.table, self.key)?;
        }
        Ok(())
    }
}

/// Waits until a journal has been applied here up to `seq`: on a replica what was replayed, where
/// the journal is written what is complete. False after `timeout` microseconds.
pub fn wait_for(journal: &str, seq: i64, timeout: Option<i64>) -> Result<bool> {
    let deadline = timeout.map(|timeout| xact::clock().saturating_add(timeout));
    let mut pause = 1;
    loop {
        let applied = spi::first(
            "SELECT coalesce(p.applied_seq, CASE WHEN c.replayed THEN 0 ELSE rowclaim.stable_seq($1) END)
             FROM (SELECT 1) one LEFT JOIN rowclaim.replay_position p ON p.journal = $1
             LEFT JOIN rowclaim.journal_config c ON c.name = $1",
            &[Arg::str(journal)],
            Sees::Latest,
            |row| row.i64(1),
        );
        if applied.flatten().unwrap_or(0) >= seq {
            return Ok(true);
        }
        let left = deadline.map_or(i64::MAX, |deadline| deadline - xact::clock());
        if left <= 0 {
            return Ok(false);
        }
        xact::pause(pause.min(left / 1_000 + 1));
        pause = (pause * 2).min(50);
    }
}

/// What may be said of an entry that has arrived before: nothing new, so it is left out.
fn is_known(journal: &str, seq: i64, part: i32, hash: &[u8]) -> Result<bool> {
    let (known, pruned) = spi::first(
        "SELECT (SELECT j.hash FROM rowclaim.journal j WHERE j.journal = $1 AND j.seq = $2 AND j.part = $3),
                (SELECT c.pruned_seq >= $2 FROM rowclaim.journal_config c WHERE c.name = $1)",
        &[Arg::str(journal), Arg::i64(seq), Arg::i32(part)],
        Sees::Latest,
        |row| (row.get::<Vec<u8>>(1), row.get::<bool>(2)),
    )
    .unwrap_or_default();
    match known {
        Some(known) if known != hash => Err(Error::ReplayDiverged(Box::new(Divergence {
            journal: journal.to_owned(),
            seq,
            table: "rowclaim.journal".into(),
            problem: "another entry has this number here".into(),
            hint: "Two servers write a journal of this name, or one was restored to an earlier state: \
                   drop the subscription to one of them."
                .into(),
            ..Divergence::default()
        }))),
        Some(_) => Ok(true),
        None => Ok(pruned.unwrap_or(false)),
    }
}

struct Replay {
    journal: String,
    place: ErrorContext<Place>,
    /// The last entry applied.
    applied: i64,
    /// The hash of the part before, within an entry.
    previous: Vec<u8>,
    /// Tables whose changes below a number are contained in their baseline at that number.
    skips: BTreeMap<String, i64>,
    /// Open tables by their name in the journal; `None`: there is none, and that is accepted.
    targets: Vec<(String, Option<Target>)>,
    /// The baseline being applied.
    baseline: Option<Baseline>,
    overwritten: i64,
    skipped: i64,
    mismatch: Mismatch,
    missing: Missing,
}

struct Baseline {
    /// Rows still to come; changes follow.
    rows: i64,
    /// The table was empty: its rows need not be compared.
    fresh: bool,
}

/// The places of rows a baseline has: 291 bits per block and relation.
#[derive(Default)]
struct Places(HashMap<(u32, u32), [u64; 5]>);

impl Places {
    fn bit(offset: u16) -> (usize, u64) {
        (offset as usize / 64 % 5, 1 << (offset % 64))
    }
    fn add(&mut self, (relation, block, offset): (u32, u32, u16)) {
        let (word, bit) = Places::bit(offset);
        self.0.entry((relation, block)).or_default()[word] |= bit;
    }
    fn has(&self, relation: u32, block: u32, offset: u16) -> bool {
        let (word, bit) = Places::bit(offset);
        self.0.get(&(relation, block)).is_some_and(|bits| bits[word] & bit != 0)
    }
}

impl Replay {
    /// Reads and locks the position; `None` while the journal's beginning has not arrived.
    fn resume(journal: &str) -> Result<Option<Replay>> {
        let read = || {
            spi::first(
                "SELECT applied_seq, skips::text FROM rowclaim.replay_position WHERE journal = $1 FOR UPDATE",
                &[Arg::str(journal)],
                Sees::Latest,
                |row| (row.i64(1).unwrap_or_default(), row.text(2)),
            )
        };
        let start = || {
            spi::first("SELECT rowclaim.start_replay($1)", &[Arg::str(journal)], Sees::Latest, |row| row.get::<bool>(1))
        };
        let position = match read() {
            Some(position) => Some(position),
            None if start().flatten() == Some(true) => read(),
            None => None,
        };
        let Some((applied, skips)) = position else { return Ok(None) };
        let place = Place { journal: journal.to_owned(), ..Place::default() };
        Ok(Some(Replay {
            journal: journal.to_owned(),
            place: ErrorContext::enter(place),
            applied,
            previous: Vec::new(),
            skips: skips.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
            targets: Vec::new(),
            baseline: None,
            overwritten: 0,
            skipped: 0,
            mismatch: settings::replay_mismatch(),
            missing: settings::replay_missing(),
        }))
    }

    fn save(&self) {
        let skips = (!self.skips.is_empty()).then(|| json!(self.skips).to_string());
        spi::run(
            "UPDATE rowclaim.replay_position
             SET applied_seq = $2, applied_at = pg_catalog.clock_timestamp(), skips = $3::jsonb,
                 overwritten = overwritten + $4, skipped = skipped + $5
             WHERE journal = $1",
            &[
                Arg::str(&self.journal),
                Arg::i64(self.applied),
                Arg::text(skips),
                Arg::i64(self.overwritten),
                Arg::i64(self.skipped),
            ],
        );
    }

    /// Applies entries until one is missing. An error is noted for `rowclaim.replay`, then raised.
    fn run(&mut self) {
        let mut this = AssertUnwindSafe(self);
        let failed: RefCell<Option<CaughtError>> = RefCell::default();
        let keep = AssertUnwindSafe(&failed);
        PgTryBuilder::new(AssertUnwindSafe(|| check(this.entries())))
            .catch_others(|caught| drop(keep.replace(Some(caught))))
            .catch_rust_panic(|caught| drop(keep.replace(Some(caught))))
            .execute();
        if let Some(caught) = failed.into_inner() {
            note_failure(&this.place.place(), &caught);
            caught.rethrow()
        }
    }

    fn entries(&mut self) -> Result<()> {
        let (mut seq, mut part) = (self.applied, i32::MAX);
        let scratch = Scratch::new();
        let mut go_on = true;
        while std::mem::take(&mut go_on) {
            let mut failed = None;
            spi::query(
                "SELECT seq, part, parts, kind, actor, base, xid::text, message, committed_at, changes::text, hash
                 FROM rowclaim.journal WHERE journal = $1 AND (seq, part) > ($2, $3) ORDER BY seq, part LIMIT 4",
                &[Arg::str(&self.journal), Arg::i64(seq), Arg::i32(part)],
                Sees::Latest,
                |row| {
                    let at = (row.i64(1).unwrap_or_default(), row.get::<i32>(2).unwrap_or_default());
                    let next = if at.1 == 1 { at.0 == self.applied + 1 } else { at == (seq, part + 1) };
                    go_on = next && failed.is_none() && (at.1 > 1 || self.is_complete(row));
                    if go_on {
                        let _entered = scratch.enter();
                        failed = self.part(&Part::read(&self.journal, row)).err();
                        (seq, part) = at;
                    }
                },
            );
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Has the whole entry arrived whose first part this is?
    fn is_complete(&self, row: &spi::Row) -> bool {
        let (seq, parts) = (row.i64(1), row.get::<i32>(3).unwrap_or_default());
        let count = || {
            spi::first(
                "SELECT count(*) FROM rowclaim.journal WHERE journal = $1 AND seq = $2",
                &[Arg::str(&self.journal), Arg::i64(seq)],
                Sees::Latest,
                |row| row.i64(1),
            )
        };
        parts == 1 || count().flatten() == Some(i64::from(parts))
    }

    fn part(&mut self, part: &Part) -> Result<()> {
        self.place.change(|place| {
            place.seq = part.seq;
            place.table.clear();
        });
        if part.part == 1 {
            self.previous.clear();
        }
        if !part.is_authentic(&self.previous) {
            let problem = format!("entry {} part {}: content does not match its hash", part.seq, part.part);
            return Err(Error::JournalCorrupt { journal: self.journal.clone(), problem });
        }
        self.previous.clone_from(&part.hash);
        if matches!(part.kind.as_str(), "changeset" | "baseline") {
            let scratch = Scratch::new();
            for change in Change::parse_all(&part.changes)? {
                pgrx::check_for_interrupts!();
                let _entered = scratch.enter();
                self.place.change(|place| {
                    place.table.clear();
                    place.table.push_str(&change.table);
                    place.key.clear();
                    place.key.push_str(Change::text(change.key));
                });
                if change.op == "baseline" {
                    self.start_baseline(part, &change)?;
                } else {
                    self.change(&change)?;
                }
            }
        }
        if part.part == part.parts {
            self.end_entry(part.seq)?;
        } else {
            self.flush();
        }
        Ok(())
    }

    /// Fires triggers and makes what was written visible.
    fn flush(&mut self) {
        self.targets.iter_mut().filter_map(|(_, target)| target.as_mut()).for_each(Target::flush);
    }

    fn unpark(&mut self) -> Result<()> {
        self.targets.iter_mut().filter_map(|(_, target)| target.as_mut()).try_for_each(Target::unpark)
    }

    fn end_entry(&mut self, seq: i64) -> Result<()> {
        self.unpark()?;
        self.flush();
        self.baseline = None;
        self.skips.retain(|_, until| *until > seq);
        self.applied = seq;
        Ok(())
    }

    fn diverged(&self, change: &Change, problem: impl Into<String>) -> Divergence {
        Divergence {
            journal: self.journal.clone(),
            seq: self.place.place().seq,
            table: change.table.to_string(),
            key: change.key.map(|key| key.get().to_owned()),
            problem: problem.into(),
            hint: "Repair the row; replay goes on by itself. rowclaim.replay_mismatch = overwrite takes the journal's word."
                .into(),
            ..Divergence::default()
        }
    }

    /// The table of a change; `None` when there is none and that is accepted.
    fn open(&mut self, change: &Change) -> Result<Option<usize>> {
        if let Some(at) = self.targets.iter().position(|(name, _)| *name == change.table) {
            return Ok(self.targets[at].1.is_some().then_some(at));
        }
        let Some((schema, name)) = image::split_name(&change.table) else {
            return Err(Error::InvalidChangeset { problem: format!("{} is not a qualified name", change.table) });
        };
        let target = Target::open(&schema, &name)?;
        if target.is_none() && self.missing == Missing::Error {
            return Err(Error::ReplayDiverged(Box::new(Divergence {
                key: None,
                hint: "Create the table, or set rowclaim.replay_missing = skip to leave its changes out.".into(),
                ..self.diverged(change, "there is no such table here")
            })));
        }
        self.targets.push((change.table.to_string(), target));
        self.open(change)
    }

    /// Applies one change.
    fn change(&mut self, change: &Change) -> Result<()> {
        if self.skips.get(change.table.as_ref()).is_some_and(|&until| until > self.place.place().seq) {
            return Ok(());
        }
        let Some(at) = self.open(change)? else {
            self.skipped += 1;
            return Ok(());
        };
        let in_rows = self.baseline.as_mut().filter(|baseline| baseline.rows > 0).map(|baseline| {
            baseline.rows -= 1;
            (baseline.rows, baseline.fresh)
        });
        // The target is taken out while it works, so that the rest of the state stays at hand.
        let Some(mut target) = self.targets[at].1.take() else { return Ok(()) };
        let result = match (change.op.as_ref(), in_rows) {
            ("insert", Some((_, fresh))) => self.baseline_row(&mut target, change, fresh),
            ("insert", None) => self.insert(&mut target, change),
            ("update", None) => self.update(&mut target, change),
            ("delete", None) => self.delete(&mut target, change),
            (op, _) => Err(Error::InvalidChangeset { problem: format!("unknown op {op}") }),
        };
        self.targets[at].1 = Some(target);
        result?;
        match in_rows {
            // Changes after the rows of a baseline may be of those very rows.
            Some((0, _)) => self.unpark()?,
            None if self.baseline.is_some() => self.unpark()?,
            _ => return Ok(()),
        }
        self.flush();
        Ok(())
    }

    /// A mismatch: an error, unless the journal's word is taken or a baseline of the table is on
    /// its way. True: go on and overwrite.
    fn mismatch(&mut self, divergence: Divergence) -> Result<bool> {
        if self.mismatch == Mismatch::Overwrite {
            return Ok(true);
        }
        let baseline = spi::first(
            "SELECT max(seq) FROM rowclaim.journal
             WHERE journal = $1 AND seq > $2 AND kind = 'baseline' AND part = 1 AND changes -> 0 ->> 'table' = $3",
            &[Arg::str(&self.journal), Arg::i64(divergence.seq), Arg::str(&divergence.table)],
            Sees::Latest,
            |row| row.i64(1),
        );
        match baseline.flatten() {
            Some(seq) => {
                self.skips.insert(divergence.table, seq);
                Ok(false)
            }
            None => Err(Error::ReplayDiverged(Box::new(divergence))),
        }
    }

    /// Finds the row of a change.
    fn find(&mut self, target: &mut Target, change: &Change) -> Result<bool> {
        let shape = target.shape.clone();
        let image = image::parse_image(Change::text(change.key))?;
        let mut key = Vec::with_capacity(image.len());
        {
            let _fixed = FixedOutput::enter(shape.settings_matter);
            for (name, raw) in &image {
                let Some((index, column)) = shape.column_after(0, name) else {
                    return Err(self.no_column(change, name, &shape));
                };
                match codec::read_value(column, raw)? {
                    Some(datum) => key.push((index, datum)),
                    None => return Err(Error::InvalidChangeset { problem: format!("key column {name} is null") }),
                }
            }
        }
        if key.is_empty() {
            return Err(Error::InvalidChangeset { problem: "a change has no key".into() });
        }
        match target.find(&key)? {
            Hits::None => Ok(false),
            Hits::One => Ok(true),
            Hits::Several => Err(Error::ReplayDiverged(Box::new(self.diverged(change, "several rows have this key")))),
        }
    }

    fn no_column(&self, change: &Change, name: &str, shape: &Shape) -> Error {
        let generated = shape.generated.iter().any(|column| column == name);
        let problem = match generated {
            true => format!("column {name} is generated here"),
            false => format!("there is no column {name} here"),
        };
        Error::ReplayDiverged(Box::new(Divergence {
            column: Some(name.to_owned()),
            hint: match generated {
                true => format!("Drop the expression of column {name}, or generate the column at the source too."),
                false => format!(
                    "Add or rename the column so that {name} exists, or set rowclaim.replay_missing = skip to leave its values out."
                ),
            },
            ..self.diverged(change, problem)
        }))
    }

    /// The values of an image as attributes of `shape`; columns that are not there are an error or
    /// left out, as is wanted.
    fn attributes(&mut self, change: &Change, image: &Image, shape: &Shape) -> Result<Attributes> {
        let _fixed = FixedOutput::enter(shape.settings_matter);
        let mut set = Attributes::with_capacity(image.len() + 3);
        let mut hint = 0;
        for (name, raw) in image {
            match shape.column_after(hint, name) {
                Some((index, column)) => {
                    set.push((index, codec::read_value(column, raw)?));
                    hint = index + 1;
                }
                None if self.missing == Missing::Skip => self.skipped += 1,
                None => return Err(self.no_column(change, name, shape)),
            }
        }
        Ok(set)
    }

    /// The first column of the row found last that is not as `image` says.
    fn first_difference(&self, change: &Change, target: &mut Target, image: &Image) -> Result<Option<Divergence>> {
        let (shape, row) = (target.row_shape(), target.values());
        let _fixed = FixedOutput::enter(shape.settings_matter);
        let mut hint = 0;
        for (name, raw) in image {
            // A column that is not there is the business of the new values.
            let Some((index, column)) = shape.column_after(hint, name) else { continue };
            hint = index + 1;
            if codec::differs(column, row.get(index), raw)? {
                let found = codec::value_text(column, row.get(index));
                let problem = format!("column {name} is {} here, not {}", shown(&found), shown(raw));
                return Ok(Some(Divergence {
                    column: Some(name.to_string()),
                    expected: Some(raw.to_string()),
                    found: Some(found),
                    ..self.diverged(change, problem)
                }));
            }
        }
        Ok(None)
    }

    fn insert(&mut self, target: &mut Target, change: &Change) -> Result<()> {
        let new = image::parse_image(Change::text(change.new))?;
        if self.find(target, change)? {
            // After a baseline's rows, a change may repeat what the replica has already.
            if self.baseline.is_none() {
                if !self.mismatch(self.diverged(change, "the row is there already"))? {
                    return Ok(());
                }
                self.overwritten += 1;
            }
            let set = self.attributes(change, &new, &target.row_shape())?;
            return target.update(set, change.version);
        }
        let set = self.attributes(change, &new, &target.shape.clone())?;
        self.check_complete(target, change, &set)?;
        target.insert(&set, change.version, self.baseline.is_some())
    }

    fn check_complete(&self, target: &Target, change: &Change, set: &Attributes) -> Result<()> {
        match target.lacks(set) {
            None => Ok(()),
            Some(column) => Err(Error::ReplayDiverged(Box::new(Divergence {
                hint: format!("Give column {column} a default, allow NULL in it, or drop it."),
                problem: format!("column {column} must have a value here and the journal has none"),
                column: Some(column),
                ..self.diverged(change, "")
            }))),
        }
    }

    fn update(&mut self, target: &mut Target, change: &Change) -> Result<()> {
        if !self.find(target, change)? {
            if self.mismatch(self.diverged(change, "the row is not there"))? {
                // There is nothing to write the changed columns to.
                self.skipped += 1;
            }
            return Ok(());
        }
        let old = image::parse_image(Change::text(change.old))?;
        if let Some(difference) = self.first_difference(change, target, &old)? {
            if !self.mismatch(difference)? {
                return Ok(());
            }
            self.overwritten += 1;
        }
        let new = image::parse_image(Change::text(change.new))?;
        let set = self.attributes(change, &new, &target.row_shape())?;
        let former = claimed_key(target);
        target.update(set, change.version)?;
        if let (Some((table, former)), true) = (former, key_changes(change, &new)?) {
            let key = image::parse_image(Change::text(change.key))?;
            let moved: Image =
                key.iter().map(|(name, raw)| (name.clone(), image::value(&new, name).unwrap_or(raw))).collect();
            holder::rekey(table, &former, &image::object(&moved));
        }
        Ok(())
    }

    fn delete(&mut self, target: &mut Target, change: &Change) -> Result<()> {
        if !self.find(target, change)? {
            if self.mismatch(self.diverged(change, "the row is not there"))? {
                self.skipped += 1;
            }
            return Ok(());
        }
        let old = image::parse_image(Change::text(change.old))?;
        if let Some(difference) = self.first_difference(change, target, &old)? {
            if !self.mismatch(difference)? {
                return Ok(());
            }
            self.overwritten += 1;
        }
        let claimed = claimed_key(target);
        target.delete();
        if let Some((table, key)) = claimed {
            holder::forget(table, &key);
        }
        Ok(())
    }

    /// A baseline begins: rows that it does not have are deleted.
    fn start_baseline(&mut self, part: &Part, header: &Change) -> Result<()> {
        let rows = header.rows.unwrap_or_default();
        self.baseline = Some(Baseline { rows, fresh: true });
        self.skips.remove(header.table.as_ref());
        let Some(at) = self.open(header)? else { return Ok(()) };
        let Some(mut target) = self.targets[at].1.take() else { return Ok(()) };
        if !target.is_empty()? {
            self.baseline = Some(Baseline { rows, fresh: false });
            let places = self.places(part, rows, &mut target)?;
            target.delete_except(|relation, block, offset| places.has(relation, block, offset))?;
            target.flush();
        }
        self.targets[at].1 = Some(target);
        Ok(())
    }

    /// Where the rows of a baseline are here, as far as they are.
    fn places(&mut self, header: &Part, mut rows: i64, target: &mut Target) -> Result<Places> {
        let mut places = Places::default();
        let scratch = Scratch::new();
        for number in 2..=header.parts {
            let text = spi::first(
                "SELECT changes::text FROM rowclaim.journal WHERE journal = $1 AND seq = $2 AND part = $3",
                &[Arg::str(&self.journal), Arg::i64(header.seq), Arg::i32(number)],
                Sees::Latest,
                |row| row.text(1),
            );
            for change in Change::parse_all(&text.flatten().unwrap_or_default())? {
                let _entered = scratch.enter();
                if rows == 0 {
                    return Ok(places);
                }
                rows -= 1;
                if self.find(target, &change)? {
                    places.add(target.place());
                }
            }
        }
        Ok(places)
    }

    /// A row of a baseline: inserted, or made equal to it.
    fn baseline_row(&mut self, target: &mut Target, change: &Change, fresh: bool) -> Result<()> {
        let new = image::parse_image(Change::text(change.new))?;
        if !fresh && self.find(target, change)? {
            let set = self.attributes(change, &new, &target.row_shape())?;
            if self.first_difference(change, target, &new)?.is_some() {
                target.update(set, change.version)?;
            }
            return Ok(());
        }
        let set = self.attributes(change, &new, &target.shape.clone())?;
        self.check_complete(target, change, &set)?;
        target.insert(&set, change.version, !fresh)
    }
}

/// The claimed key of the row found last, if claims are enabled here and the row is claimed.
fn claimed_key(target: &mut Target) -> Option<(pg_sys::Oid, String)> {
    let table = target.table()?;
    let row = target.values();
    row.get(table.owner_column)?;
    Some((table.root, codec::key_text(&table, row)))
}

fn key_changes(change: &Change, new: &Image) -> Result<bool> {
    let key = image::parse_image(Change::text(change.key))?;
    Ok(key.iter().any(|(name, _)| image::value(new, name).is_some()))
}

/// A JSON value in a message.
fn shown(raw: &str) -> String {
    const LONGEST: usize = 60;
    match raw.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &raw[..end]),
        None => raw.to_owned(),
    }
}

/// Notes a failure for `rowclaim.replay`, outside of the transaction that it ends.
fn note_failure(place: &Place, caught: &CaughtError) {
    let message = match caught {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report.message(),
        CaughtError::RustPanic { ereport, .. } => ereport.message(),
    };
    let quote = |text: &str| pgrx::spi::quote_literal(text.replace('\0', ""));
    let nullable = |text: &str| if place.table.is_empty() { "NULL".to_owned() } else { quote(text) };
    worker::run(
        &format!(
            "SELECT rowclaim.note_failure({}, {}, {}, {}, {})",
            quote(&place.journal),
            place.seq,
            nullable(&place.table),
            nullable(&place.key),
            quote(&shortened(message.to_owned())),
        ),
        0,
    );
}

#[no_mangle]
#[doc(hidden)]
pub extern "C" fn pg_finfo_rowclaim_receive() -> &'static pg_sys::Pg_finfo_record {
    const INFO: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &INFO
}

/// `BEFORE INSERT` on `rowclaim.journal`, on replicas only.
///
/// # Safety
/// Called by the trigger manager.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn rowclaim_receive(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let call = Call::new(fcinfo, "rowclaim.receive_entry");
    if in_apply_worker() {
        let row = call.row();
        if let (Some(journal), Some(seq), Some(part), Some(hash)) = (row.get(0), row.get(1), row.get(2), row.get(11)) {
            let hash = Vec::<u8>::from_datum(hash, false).unwrap_or_default();
            if check(is_known(text(journal), seq.value() as i64, part.value() as i32, &hash)) {
                return pg_sys::Datum::from(0);
            }
        }
    }
    call.proceed()
}

/// `AFTER INSERT` on `rowclaim.journal`, at the end of the transaction, on replicas only.
#[no_mangle]
pub extern "C" fn pg_finfo_rowclaim_replay() -> &'static pg_sys::Pg_finfo_record {
    const INFO: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &INFO
}

/// # Safety
/// Called by the trigger manager.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn rowclaim_replay(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let call = Call::new(fcinfo, "rowclaim.replay_entry");
    if in_apply_worker() {
        let row = call.row();
        if let (Some(journal), Some(seq)) = (row.get(0), row.get(1)) {
            check(arrived(text(journal), seq.value() as i64));
        }
    }
    pg_sys::Datum::from(0)
}
