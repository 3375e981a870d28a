//! Baselines: a table becomes what it was at the source, whatever it has here.

use super::Replay;
use crate::change::Change;
use crate::error::{Error, Result};
use crate::journal::Part;
use crate::pg::memory::{check_in_loop, ensure_parsed, room, Scratch};
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::target::Target;
use std::collections::HashMap;

pub(super) struct Baseline {
    /// Rows still to come; changes follow.
    pub(super) rows: i64,
    /// The table was empty: its rows need not be compared.
    pub(super) fresh: bool,
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
        room(&mut self.0, 1);
        self.0.entry((relation, block)).or_default()[word] |= bit;
    }
    fn has(&self, relation: u32, block: u32, offset: u16) -> bool {
        let (word, bit) = Places::bit(offset);
        self.0.get(&(relation, block)).is_some_and(|bits| bits[word] & bit != 0)
    }
}

impl Replay {
    /// A baseline begins: rows that it does not have are deleted.
    pub(super) fn start_baseline(&mut self, part: &Part, header: &Change) -> Result<()> {
        let Some(rows) = header.rows.filter(|rows| *rows >= 0) else {
            return Err(Error::InvalidChangeset { problem: "a baseline does not say how many rows it has".into() });
        };
        self.baseline = Some(Baseline { rows, fresh: true });
        self.state.skips.remove(header.table.as_ref());
        self.changed = true;
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
            let text = text.flatten().unwrap_or_default();
            ensure_parsed(&text);
            for change in Change::parse_all(&text)? {
                check_in_loop();
                let _entered = scratch.enter();
                if rows == 0 {
                    return Ok(places);
                }
                rows -= 1;
                if self.find(target, &change, false)? {
                    places.add(target.place());
                }
            }
        }
        Ok(places)
    }

    /// A row of a baseline: inserted, or made equal to it.
    pub(super) fn baseline_row(&mut self, target: &mut Target, change: &Change, fresh: bool) -> Result<()> {
        if !fresh && self.find(target, change, false)? {
            let set = self.attributes(change, &change.new, &target.row_shape())?;
            if self.first_difference(change, target, &change.new)?.is_some() {
                target.update(set, change.version, change.key_text())?;
            }
            return Ok(());
        }
        let set = self.attributes(change, &change.new, &target.shape.clone())?;
        self.check_complete(target, change, &set)?;
        target.insert(&set, change.version, change.key_text(), !fresh)
    }
}
