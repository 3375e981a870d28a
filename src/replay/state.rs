//! How far a journal has been applied here, and who applies it.

use super::Replay;
use crate::error::{Divergence, Error, Result};
use crate::journal::{pruned, Part};
use crate::pg::invalidation;
use crate::pg::lock::{Lock, Mode};
use crate::pg::session::Kept;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::store;
use crate::pg::worker;
use crate::pg::xact;
use pgrx::pg_sys;
use serde_json::json;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The position is stored every so many entries: between, the journal itself tells it, and a row
/// that every changeset rewrote would grow a chain of versions under any old snapshot.
pub(super) const CHECKPOINT_EVERY: i64 = 100;

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

thread_local! {
    // Where this worker's transactions have left the journals, as long as no other worker has received entries of one.
    static KNOWN: Kept<HashMap<String, State>> = Kept::default();
    // The table whose invalidation says that another worker has.
    static STATES: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// Forgets where the journals are; called from a cache callback, which may only forget.
pub fn forget(relid: pg_sys::Oid) {
    if relid == pg_sys::InvalidOid || relid == STATES.with(Cell::get) {
        KNOWN.with(|known| known.try_borrow_mut().map(|mut known| known.clear()).unwrap_or_default());
    }
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
        // Whoever had the lock before has told it at commit.
        invalidation::accept();
        let mut replay = Replay { journal: journal.to_owned(), ..Replay::default() };
        match KNOWN.with(|known| known.borrow_mut().remove(journal)) {
            Some(state) => replay.state = state,
            None => {
                let states = store::named(c"replay_state");
                STATES.with(|table| table.set(states));
                if replay.read_state() != Some(worker::pid()) {
                    replay.take_over(states);
                }
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

    /// Reads where the journal is; the worker that has received entries of it last.
    pub(super) fn read_state(&mut self) -> Option<i32> {
        let last = spi::first(
            "SELECT j.seq FROM rowclaim.journal j WHERE j.journal = $1 ORDER BY j.seq DESC LIMIT 1",
            &[Arg::str(&self.journal)],
            Sees::Latest,
            |row| row.i64(1),
        );
        self.state.stored = last.flatten().unwrap_or(0);
        let (applied, skips, waiting, receiver) = spi::first(
            "SELECT p.applied_seq, s.skips::text,
                    EXISTS (SELECT FROM rowclaim.journal j WHERE j.journal = $1 AND j.seq > coalesce(p.applied_seq, 0)),
                    s.receiver
             FROM rowclaim.replay_state s JOIN rowclaim.replay_position p USING (journal) WHERE s.journal = $1",
            &[Arg::str(&self.journal)],
            Sees::Latest,
            |row| (row.i64(1), row.text(2), row.get::<bool>(3).unwrap_or_default(), row.get::<i32>(4)),
        )?;
        let skips = skips.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        self.state = State { applied, skips, waiting, checkpoint: applied.unwrap_or(0), stored: self.state.stored };
        receiver
    }

    /// Makes this worker the one that has received entries last; others have to look where replay is from now on.
    fn take_over(&self, states: pg_sys::Oid) {
        spi::run(
            "UPDATE rowclaim.replay_state SET receiver = $2 WHERE journal = $1",
            &[Arg::str(&self.journal), Arg::i32(worker::pid())],
        );
        invalidation::invalidate(states);
    }

    /// Keeps where the journal is for the worker's next transaction.
    pub(super) fn keep(self) {
        // A journal that has not begun has no receiver that could be asked for.
        if self.state.applied.is_some() {
            let Replay { journal, state, .. } = self;
            KNOWN.with(|known| known.borrow_mut().insert(journal, state));
        }
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
