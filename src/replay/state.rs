//! How far a journal has been applied here, and who applies it.

use super::{Replay, KNOWN};
use crate::error::{Divergence, Error, Result};
use crate::journal::{pruned, Part};
use crate::pg::lock::{Lock, Mode};
use crate::pg::scan::find_by_text;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::worker;
use crate::pg::xact;
use serde_json::json;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The position is stored every so many entries: between, the journal itself tells it, and a row
/// that every changeset rewrote would grow a chain of versions under any old snapshot.
pub(super) const CHECKPOINT_EVERY: i64 = 100;

/// The attribute of `rowclaim.replay_state` that names the worker.
const RECEIVER: usize = 6;

/// How far a journal has been applied.
#[derive(Clone, Default)]
pub(super) struct State {
    /// The last entry applied; `None` while the journal's beginning has not arrived.
    pub(super) applied: Option<i64>,
    /// Tables whose changes below a number are contained in their baseline at that number.
    pub(super) skips: BTreeMap<String, i64>,
    /// The position that is stored.
    pub(super) checkpoint: i64,
    /// Entries wait in the journal, or may.
    pub(super) waiting: bool,
    /// The last number there was when the state was read; a higher one is new.
    pub(super) stored: i64,
}

/// The worker that has received entries of a journal last.
fn receiver(journal: &str) -> Option<i32> {
    find_by_text(c"replay_state", c"replay_state_pkey", journal, RECEIVER).map(|pid| pid.value() as i32)
}

/// Waits until a journal has been applied here up to `seq`: on a replica what was replayed, where
/// the journal is written what is complete. False after `timeout` microseconds.
pub fn wait_for(journal: &str, seq: i64, timeout: Option<i64>) -> Result<bool> {
    let deadline = timeout.map(|timeout| xact::clock().saturating_add(timeout));
    let mut pause = 1;
    loop {
        let applied = spi::first(
            "SELECT CASE WHEN p.journal IS NULL THEN rowclaim.stable_seq($1) ELSE coalesce(p.applied_seq, 0) END
             FROM (SELECT 1) one LEFT JOIN rowclaim.replay_position p ON p.journal = $1",
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

/// Has this part arrived before? Another content under its number is not the same journal.
pub(super) fn is_known(journal: &str, part: &Part) -> Result<bool> {
    let (known, before_all) = spi::first(
        "SELECT (SELECT j.hash FROM rowclaim.journal j WHERE j.journal = $1 AND j.seq = $2 AND j.part = $3),
                (SELECT j.seq FROM rowclaim.journal j WHERE j.journal = $1 ORDER BY j.seq LIMIT 1) > $2",
        &[Arg::str(journal), Arg::i64(part.seq), Arg::i32(part.part)],
        Sees::Latest,
        |row| (row.get::<Vec<u8>>(1), row.get::<bool>(2)),
    )
    .unwrap_or_default();
    match known {
        Some(known) if known != part.hash => Err(Error::ReplayDiverged(Box::new(Divergence {
            journal: journal.to_owned(),
            seq: part.seq,
            table: "rowclaim.journal".into(),
            problem: "another entry has this number here".into(),
            hint: "Two servers write a journal of this name, or one was restored to an earlier state: \
                   drop the subscription to one of them."
                .into(),
            ..Divergence::default()
        }))),
        Some(_) => Ok(true),
        None if before_all == Some(true) => Ok(pruned(journal) >= part.seq),
        None => Ok(false),
    }
}

impl Replay {
    /// Takes up a journal where this or another worker has left it.
    pub(super) fn resume(journal: &str) -> Replay {
        let mut hasher = DefaultHasher::new();
        journal.hash(&mut hasher);
        Lock::Replay { journal: hasher.finish() as i32 }.acquire(Mode::Exclusive);
        let known = KNOWN.with(|known| known.borrow_mut().remove(journal));
        let mut replay = Replay { journal: journal.to_owned(), ..Replay::default() };
        match known {
            Some(state) if receiver(journal) == Some(worker::pid()) => replay.state = state,
            // Another worker may have brought entries of the journal since.
            _ => {
                replay.read_state();
                spi::run(
                    "UPDATE rowclaim.replay_state SET receiver = $2 WHERE journal = $1",
                    &[Arg::str(journal), Arg::i32(worker::pid())],
                );
            }
        }
        replay.place.borrow_mut().journal.push_str(journal);
        replay
    }

    /// Takes up a journal after entries were stored in it that are not applied yet.
    pub(super) fn resume_with(journal: &str, entries: &[i64]) -> Replay {
        let mut replay = Replay::resume(journal);
        // What a rollback has taken away may have arrived as somebody else's void entry, and be applied.
        let mut first = None;
        spi::query(
            "SELECT j.seq, j.xmin::text::bigint FROM rowclaim.journal j
             WHERE j.journal = $1 AND j.seq = ANY ($2) ORDER BY j.seq",
            &[Arg::str(journal), Arg::ids(entries)],
            Sees::Latest,
            |row| {
                if first.is_none() && row.i64(2).is_some_and(xact::is_own) {
                    first = row.i64(1);
                }
            },
        );
        if let (Some(first), Some(applied)) = (first, &mut replay.state.applied) {
            *applied = (*applied).min(first - 1);
            replay.state.checkpoint = replay.state.checkpoint.min(*applied);
        }
        replay.state.waiting = true;
        replay
    }

    pub(super) fn read_state(&mut self) {
        let last = spi::first(
            "SELECT j.seq FROM rowclaim.journal j WHERE j.journal = $1 ORDER BY j.seq DESC LIMIT 1",
            &[Arg::str(&self.journal)],
            Sees::Latest,
            |row| row.i64(1),
        );
        self.state.stored = last.flatten().unwrap_or(0);
        let found = spi::first(
            "SELECT p.applied_seq, s.skips::text,
                    EXISTS (SELECT FROM rowclaim.journal j WHERE j.journal = $1 AND j.seq > coalesce(p.applied_seq, 0))
             FROM rowclaim.replay_state s JOIN rowclaim.replay_position p USING (journal) WHERE s.journal = $1",
            &[Arg::str(&self.journal)],
            Sees::Latest,
            |row| (row.i64(1), row.text(2), row.get::<bool>(3).unwrap_or_default()),
        );
        let Some((applied, skips, waiting)) = found else { return };
        let skips = skips.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        self.state = State { applied, skips, waiting, checkpoint: applied.unwrap_or(0), stored: self.state.stored };
    }

    pub(super) fn store_state(&mut self) {
        let skips = (!self.state.skips.is_empty()).then(|| json!(self.state.skips).to_string());
        let applied = self.state.applied.unwrap_or(0);
        spi::run(
            "UPDATE rowclaim.replay_state
             SET skips = $2::jsonb, overwritten = overwritten + $3, skipped = skipped + $4, checkpoint = $5
             WHERE journal = $1",
            &[
                Arg::str(&self.journal),
                Arg::text(skips),
                Arg::i64(self.overwritten),
                Arg::i64(self.skipped),
                Arg::i64(applied),
            ],
        );
        self.state.checkpoint = applied;
    }
}
