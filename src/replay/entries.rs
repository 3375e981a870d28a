//! Entries in the order of their numbers: as they arrive, or from the journal once those before are there.

use super::baseline::Baseline;
use super::state::{is_known, CHECKPOINT_EVERY};
use super::{copies, Replay};
use crate::change::Change;
use crate::error::{check, Error, Result};
use crate::holder;
use crate::journal::Part;
use crate::pg::memory::{check_in_loop, ensure_parsed, Scratch};
use crate::pg::owner::AsOwner;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::target::Target;
use crate::pg::xact::{self, ActiveSnapshot};

impl Replay {
    /// Deals with a part that has just arrived and is about to be stored.
    pub(super) fn receive(&mut self, part: &Part) -> Result<bool> {
        if part.seq <= self.state.stored && is_known(&self.journal, part)? {
            return Ok(false);
        }
        let next = self.state.applied.map(|applied| (applied + 1, self.part + 1));
        let in_turn = next == Some((part.seq, part.part)) && part.kind != "baseline";
        if in_turn && !self.waiting_parts() && !copies() {
            self.guarded(|this| this.apply(part));
        } else {
            self.state.waiting = true;
        }
        Ok(true)
    }

    /// Has a part of the next entry arrived out of turn?
    fn waiting_parts(&self) -> bool {
        self.state.waiting && self.part == 0 && {
            let next = self.state.applied.map(|applied| applied + 1);
            spi::run(
                "SELECT 1 FROM rowclaim.journal WHERE journal = $1 AND seq = $2 LIMIT 1",
                &[Arg::str(&self.journal), Arg::i64(next)],
            ) > 0
        }
    }

    /// Applies what has been waiting, and keeps the state.
    pub(super) fn finish(&mut self) {
        let since = self.state.applied.unwrap_or(0) - self.state.checkpoint;
        // Most transactions have nothing left to do.
        let _working = (self.state.waiting || self.changed || since >= CHECKPOINT_EVERY)
            .then(|| (AsOwner::enter(), ActiveSnapshot::latest()));
        if self.state.waiting {
            xact::bump_command();
            self.guarded(Replay::entries);
            self.state.waiting = spi::run(
                "SELECT 1 FROM rowclaim.journal WHERE journal = $1 AND seq > $2 LIMIT 1",
                &[Arg::str(&self.journal), Arg::i64(self.state.applied.unwrap_or(0))],
            ) > 0;
        }
        if self.part > 0 {
            let seq = self.state.applied.unwrap_or_default() + 1;
            let problem = format!("parts of entry {seq} are missing");
            check(Err::<(), _>(Error::JournalCorrupt { journal: self.journal.clone(), problem }));
        }
        self.targets.clear();
        if _working.is_some() {
            self.store_state();
        }
    }

    /// Applies entries from the journal until one is missing.
    fn entries(&mut self) -> Result<()> {
        if self.state.applied.is_none() {
            let started =
                spi::first("SELECT rowclaim.start_replay($1)", &[Arg::str(&self.journal)], Sees::Latest, |row| {
                    row.get::<bool>(1)
                });
            if started.flatten() != Some(true) {
                return Ok(());
            }
            self.read_state();
            // The first entries are here, but not applied.
            self.state.applied =
                spi::first("SELECT rowclaim.first_seq($1) - 1", &[Arg::str(&self.journal)], Sees::Latest, |row| {
                    row.i64(1)
                })
                .flatten();
        }
        let scratch = Scratch::new();
        let mut go_on = true;
        while std::mem::take(&mut go_on) {
            let mut failed = None;
            let Some(applied) = self.state.applied else { return Ok(()) };
            spi::query(
                "SELECT seq, part, parts, kind, actor, base, xid::text, message, committed_at, changes::text, hash
                 FROM rowclaim.journal WHERE journal = $1 AND (seq, part) > ($2, $3) ORDER BY seq, part LIMIT 4",
                &[Arg::str(&self.journal), Arg::i64(applied + 1), Arg::i32(self.part)],
                Sees::Latest,
                |row| {
                    let at = (row.i64(1), row.get::<i32>(2).unwrap_or_default());
                    let next = (self.state.applied.map(|applied| applied + 1), self.part + 1);
                    go_on = at == next && failed.is_none() && (at.1 > 1 || self.is_complete(row));
                    if go_on {
                        let _entered = scratch.enter();
                        failed = self.apply(&Part::read(&self.journal, row)).err();
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

    /// Applies the next part of the next entry.
    fn apply(&mut self, part: &Part) -> Result<()> {
        {
            let mut place = self.place.borrow_mut();
            place.seq = part.seq;
            place.table.clear();
        }
        if part.part == 1 {
            self.previous.clear();
        }
        if !part.is_authentic(&self.previous) {
            let problem = format!("entry {} part {}: content does not match its hash", part.seq, part.part);
            return Err(Error::JournalCorrupt { journal: self.journal.clone(), problem });
        }
        self.previous.clone_from(&part.hash);
        if !["changeset", "baseline", "void", "seal"].contains(&part.kind.as_str()) {
            let problem = format!("entry {} is of the unknown kind {}", part.seq, part.kind);
            return Err(Error::JournalCorrupt { journal: self.journal.clone(), problem });
        }
        if matches!(part.kind.as_str(), "changeset" | "baseline") {
            let scratch = Scratch::new();
            ensure_parsed(&part.changes);
            let changes = Change::parse_all(&part.changes)?;
            let header = part.kind == "baseline" && part.part == 1;
            if header && changes.len() != 1 || changes.iter().any(|change| (change.op == "baseline") != header) {
                let problem = "the header of a baseline, and nothing else, is its first part".into();
                return Err(Error::InvalidChangeset { problem });
            }
            for change in changes {
                check_in_loop();
                let _entered = scratch.enter();
                self.place.borrow_mut().name(&change.table, change.key_text());
                if header {
                    self.start_baseline(part, &change)?;
                } else {
                    self.change(&change)?;
                }
            }
        }
        if part.part == part.parts {
            return self.end_entry(part.seq);
        }
        self.part = part.part;
        self.flush();
        Ok(())
    }

    /// Fires triggers and makes what was written visible.
    pub(super) fn flush(&mut self) {
        self.targets.iter_mut().filter_map(|(_, target)| target.as_mut()).for_each(Target::flush);
    }

    pub(super) fn unpark(&mut self) -> Result<()> {
        let place = self.place.clone();
        self.targets.iter_mut().try_for_each(|(name, target)| {
            let Some(target) = target else { return Ok(()) };
            target.unpark(|key| place.borrow_mut().name(name, key))?;
            target.flush();
            Ok(())
        })
    }

    fn end_entry(&mut self, seq: i64) -> Result<()> {
        if let Some(Baseline { rows: rows @ 1.., .. }) = self.baseline {
            return Err(Error::InvalidChangeset { problem: format!("a baseline lacks {rows} of its rows") });
        }
        self.flush();
        self.unpark()?;
        holder::rekey_all(&std::mem::take(&mut self.rekeyed));
        self.baseline = None;
        if self.state.skips.values().any(|until| *until <= seq) {
            self.state.skips.retain(|_, until| *until > seq);
            self.changed = true;
        }
        self.state.applied = Some(seq);
        self.part = 0;
        Ok(())
    }
}
