//! Changes applied to the rows they name.

use super::divergence::shown;
use super::Replay;
use crate::change::Change;
use crate::codec;
use crate::draft;
use crate::error::{Divergence, Error, Result};
use crate::holder;
use crate::image::{self, Image};
use crate::pg::fixed::FixedOutput;
use crate::pg::memory::push;
use crate::pg::shape::Shape;
use crate::pg::target::{Attributes, Hits, Opened, Target};
use crate::settings::Missing;
use pgrx::pg_sys;

impl Replay {
    /// The table of a change; `None` when there is none and that is accepted.
    pub(super) fn open(&mut self, change: &Change) -> Result<Option<usize>> {
        if let Some(at) = self.targets.iter().position(|(name, _)| *name == change.table) {
            return Ok(self.targets[at].1.is_some().then_some(at));
        }
        let Some((schema, name)) = image::split_name(&change.table) else {
            return Err(Error::InvalidChangeset { problem: format!("{} is not a qualified name", change.table) });
        };
        let problem = |problem, hint: &str| {
            let at = Divergence { key: None, hint: hint.into(), ..self.diverged(change, problem) };
            Err(Error::ReplayDiverged(Box::new(at)))
        };
        let target = match Target::open(&schema, &name)? {
            Opened::Table(target) => Some(*target),
            Opened::Nothing if self.missing == Missing::Skip => None,
            Opened::Nothing => {
                return problem(
                    "there is no such table here",
                    "Create the table, or set rowclaim.replay_missing = skip to leave its changes out.",
                )
            }
            Opened::Refused(what) => {
                return problem(
                    what,
                    "Replay writes users' tables only: rename what is in the way, or find out who wrote the entry.",
                )
            }
        };
        self.targets.push((change.table.to_string(), target));
        self.open(change)
    }

    /// Applies one change.
    pub(super) fn change(&mut self, change: &Change) -> Result<()> {
        if self.state.skips.get(change.table.as_ref()).is_some_and(|&until| until > self.seq()) {
            return Ok(());
        }
        let in_rows = self.baseline.as_mut().filter(|baseline| baseline.rows > 0).map(|baseline| {
            baseline.rows -= 1;
            (baseline.rows, baseline.fresh)
        });
        let Some(at) = self.open(change)? else {
            self.skip();
            return Ok(());
        };
        if at != std::mem::replace(&mut self.last, at) {
            // Triggers of one table are not to run in the name of another.
            self.flush();
        }
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
            Some((0, _)) => {
                self.flush();
                self.unpark()
            }
            None if self.baseline.is_some() => {
                self.flush();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Finds the row of a change. `expected`: it should be there.
    pub(super) fn find(&mut self, target: &mut Target, change: &Change, expected: bool) -> Result<bool> {
        let shape = target.shape.clone();
        let image = image::parse_image(change.key_text())?;
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
        let mut hits = target.find(&key)?;
        if hits == Hits::None && expected && target.has_parked() {
            // An earlier change, of another changeset in a baseline, has set the row aside.
            target.flush();
            target.unpark(|_| ())?;
            target.flush();
            hits = target.find(&key)?;
        }
        match hits {
            Hits::None => Ok(false),
            Hits::One => Ok(true),
            Hits::Several => Err(Error::ReplayDiverged(Box::new(self.diverged(change, "several rows have this key")))),
        }
    }

    /// The values of an image as attributes of `shape`; columns that are not there are an error or
    /// left out, as is wanted.
    pub(super) fn attributes(&mut self, change: &Change, image: &Image, shape: &Shape) -> Result<Attributes> {
        let _fixed = FixedOutput::enter(shape.settings_matter);
        let mut set = Attributes::with_capacity(image.len() + 3);
        let mut hint = 0;
        for (name, raw) in image {
            match shape.column_after(hint, name) {
                Some((index, column)) => {
                    set.push((index, codec::read_value(column, raw)?));
                    hint = index + 1;
                }
                None if self.missing == Missing::Skip => self.skip(),
                None => return Err(self.no_column(change, name, shape)),
            }
        }
        Ok(set)
    }

    /// The first column of the row found last that is not as `image` says.
    pub(super) fn first_difference(
        &self,
        change: &Change,
        target: &mut Target,
        image: &Image,
    ) -> Result<Option<Divergence>> {
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
        if self.find(target, change, false)? {
            // After a baseline's rows, a change may repeat what the replica has already.
            if self.baseline.is_none() {
                if !self.mismatch(self.diverged(change, "the row is there already"))? {
                    return Ok(());
                }
                self.overwrite();
            }
            let set = self.attributes(change, &change.new, &target.row_shape())?;
            return target.update(set, change.version, change.key_text());
        }
        let set = self.attributes(change, &change.new, &target.shape.clone())?;
        self.check_complete(target, change, &set)?;
        target.insert(&set, change.version, change.key_text(), self.baseline.is_some())
    }

    /// The row found last must not have uncommitted changes here: a discard would undo replay.
    fn check_clean(&self, target: &mut Target, change: &Change) -> Result<()> {
        let Some(table) = target.table().filter(|table| table.has_drafts()) else { return Ok(()) };
        let Some(stamp) = target.values().get(table.draft_column) else { return Ok(()) };
        match draft::header((stamp.value() as i64, table.journal_id)) {
            None => Ok(()),
            Some((actor, _)) => Err(Error::ReplayDiverged(Box::new(Divergence {
                hint: format!("Replay goes on when {actor} has committed or discarded them."),
                ..self.diverged(change, format!("it has uncommitted changes of {actor} here"))
            }))),
        }
    }

    pub(super) fn check_complete(&self, target: &Target, change: &Change, set: &Attributes) -> Result<()> {
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
        if !self.find(target, change, true)? {
            if self.mismatch(self.diverged(change, "the row is not there"))? {
                // There is nothing to write the changed columns to.
                self.skip();
            }
            return Ok(());
        }
        self.check_clean(target, change)?;
        if let Some(difference) = self.first_difference(change, target, &change.old)? {
            if !self.mismatch(difference)? {
                return Ok(());
            }
            self.overwrite();
        }
        let set = self.attributes(change, &change.new, &target.row_shape())?;
        let former = claimed_key(target);
        target.update(set, change.version, change.key_text())?;
        if let Some((table, former)) = former {
            let key = image::parse_image(change.key_text())?;
            let moved = |name| image::value(&change.new, name);
            if key.iter().any(|(name, _)| moved(name).is_some()) {
                let key = key.iter().map(|(name, raw)| (name.clone(), moved(name).unwrap_or(raw))).collect();
                push(&mut self.rekeyed, (table, former, image::object(&key)));
            }
        }
        Ok(())
    }

    fn delete(&mut self, target: &mut Target, change: &Change) -> Result<()> {
        if !self.find(target, change, true)? {
            if self.mismatch(self.diverged(change, "the row is not there"))? {
                self.skip();
            }
            return Ok(());
        }
        self.check_clean(target, change)?;
        if let Some(difference) = self.first_difference(change, target, &change.old)? {
            if !self.mismatch(difference)? {
                return Ok(());
            }
            self.overwrite();
        }
        let claimed = claimed_key(target);
        target.delete();
        if let Some((table, key)) = claimed {
            holder::forget(table, &key);
        }
        Ok(())
    }
}

/// The claimed key of the row found last, if claims are enabled here and the row is claimed.
fn claimed_key(target: &mut Target) -> Option<(pg_sys::Oid, String)> {
    let table = target.table()?;
    let row = target.values();
    row.get(table.owner_column)?;
    Some((table.root, codec::key_text(&table, row)))
}
