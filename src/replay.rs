//! Replay on a replica: entries that logical replication brings into `rowclaim.journal` are applied
//! to the tables in the order of their numbers, in the transaction that brings them.
//!
//! An entry whose turn it is is applied as it arrives; one whose predecessors are missing waits in
//! the journal, and is looked at again before a transaction that brings others commits. So whatever
//! has arrived without a gap has been applied: the journal itself is the position, and an entry is
//! applied exactly once whatever happens. Constraints hold at the end of every changeset; rows that
//! swap unique values are set aside on the way.

use crate::change::Change;
use crate::codec;
use crate::draft;
use crate::error::{check, shortened, Divergence, Error, Result};
use crate::holder;
use crate::image::{self, Image};
use crate::journal::{pruned, Part};
use crate::pg::context::ErrorContext;
use crate::pg::fixed::FixedOutput;
use crate::pg::lock::{Lock, Mode};
use crate::pg::memory::Scratch;
use crate::pg::owner::AsOwner;
use crate::pg::scan::find_by_text;
use crate::pg::shape::Shape;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::target::{Attributes, Hits, Opened, Target};
use crate::pg::trigger::{in_apply_worker, in_parallel_worker, Call};
use crate::pg::value::text;
use crate::pg::worker;
use crate::pg::xact::{self, ActiveSnapshot};
use crate::settings::{self, Mismatch, Missing};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport, ErrorReportWithLevel};
use pgrx::prelude::*;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt::{Display, Formatter};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

thread_local! {
    // The journals this transaction has received entries of.
    static ACTIVE: RefCell<Vec<Replay>> = const { RefCell::new(Vec::new()) };
    // Where this worker's transactions have left the journals.
    static KNOWN: RefCell<HashMap<String, State>> = RefCell::default();
    // The entries that this transaction of a parallel worker has received, by journal.
    static RECEIVED: RefCell<BTreeMap<String, Vec<i64>>> = const { RefCell::new(BTreeMap::new()) };
    // Is this a worker that copies whole tables?
    static COPIES: Cell<Option<bool>> = const { Cell::new(None) };
}

/// The position is stored every so many entries: between, the journal itself tells it, and a row
/// that every changeset rewrote would grow a chain of versions under any old snapshot.
const CHECKPOINT_EVERY: i64 = 100;

/// The attribute of `rowclaim.replay_state` that names the worker.
const RECEIVER: usize = 6;

/// How far a journal has been applied.
#[derive(Clone, Default)]
struct State {
    /// The last entry applied; `None` while the journal's beginning has not arrived.
    applied: Option<i64>,
    /// Tables whose changes below a number are contained in their baseline at that number.
    skips: BTreeMap<String, i64>,
    /// The position that is stored.
    checkpoint: i64,
    /// Entries wait in the journal, or may.
    waiting: bool,
    /// The last number there was when the state was read; a higher one is new.
    stored: i64,
}

/// What belongs to the transaction that has ended.
pub fn after_transaction(aborted: bool) {
    let active = ACTIVE
        .with(|active| active.try_borrow_mut().map(|mut active| std::mem::take(&mut *active)).unwrap_or_default());
    RECEIVED.with(|received| received.borrow_mut().clear());
    if aborted {
        KNOWN.with(|known| known.borrow_mut().clear());
    }
    // The server has closed what they had open.
    active.into_iter().for_each(std::mem::forget);
}

/// Does this worker copy whole tables? Then entries arrive in any order, and the baselines that
/// later entries may bring decide what earlier ones mean.
fn copies() -> bool {
    COPIES.with(|copies| {
        copies.get().unwrap_or_else(|| {
            let found = spi::first(
                "SELECT true FROM pg_catalog.pg_stat_get_subscription(NULL) s
                 WHERE s.pid = pg_catalog.pg_backend_pid() AND s.relid IS NOT NULL",
                &[],
                Sees::Latest,
                |_| (),
            )
            .is_some();
            copies.set(Some(found));
            found
        })
    })
}

/// A part of an entry has arrived: applies it if its turn has come, else leaves it for later. False
/// if it has arrived before.
fn arrived(journal: &str, part: &Part) -> Result<bool> {
    let _owner = AsOwner::enter();
    if in_parallel_worker() {
        // The other workers go on with the journal until this transaction's commit has arrived.
        if is_known(journal, part)? {
            return Ok(false);
        }
        RECEIVED.with(|received| received.borrow_mut().entry(journal.to_owned()).or_default().push(part.seq));
        return Ok(true);
    }
    let known = ACTIVE.with(|active| active.borrow().iter().position(|replay| replay.journal == journal));
    let at = match known {
        Some(at) => at,
        None => {
            let replay = Replay::resume(journal);
            ACTIVE.with(|active| active.borrow_mut().push(replay));
            ACTIVE.with(|active| active.borrow().len()) - 1
        }
    };
    // Taken out while it works: what it does may bring other entries here.
    let mut replay = ACTIVE.with(|active| std::mem::take(&mut active.borrow_mut()[at]));
    let result = replay.receive(part);
    ACTIVE.with(|active| active.borrow_mut()[at] = replay);
    result
}

/// The worker that has received entries of a journal last.
fn receiver(journal: &str) -> Option<i32> {
    find_by_text(c"replay_state", c"replay_state_pkey", journal, RECEIVER).map(|pid| pid.value() as i32)
}

/// What is left to do before the transaction commits: entries that arrived out of order.
pub fn before_commit(prepare: bool) {
    let mut active = ACTIVE.with(|active| std::mem::take(&mut *active.borrow_mut()));
    let received = RECEIVED.with(|received| std::mem::take(&mut *received.borrow_mut()));
    if active.is_empty() && received.is_empty() {
        return;
    }
    if prepare {
        // Later entries would wait for this transaction, and its COMMIT PREPARED for their worker.
        check(Err::<(), _>(Error::OperationRefused {
            table: "rowclaim.journal".into(),
            problem: "entries of a journal cannot be replayed by a prepared transaction".into(),
            hint: "Create the subscription again without two_phase.".into(),
        }));
    }
    if !received.is_empty() {
        let _working = (AsOwner::enter(), ActiveSnapshot::latest());
        active.extend(received.iter().map(|(journal, entries)| Replay::resume_with(journal, entries)));
    }
    for mut replay in active {
        replay.finish();
        let (journal, state) = (std::mem::take(&mut replay.journal), std::mem::take(&mut replay.state));
        KNOWN.with(|known| known.borrow_mut().insert(journal, state));
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
fn is_known(journal: &str, part: &Part) -> Result<bool> {
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

/// Where replay is.
#[derive(Default)]
struct Place {
    journal: String,
    seq: i64,
    table: String,
    key: String,
}

impl Place {
    fn name(&mut self, table: &str, key: &str) {
        self.table.clear();
        self.table.push_str(table);
        self.key.clear();
        self.key.push_str(key);
    }
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

/// A journal being replayed by this transaction.
struct Replay {
    journal: String,
    state: State,
    /// The part of the next entry that was applied last; 0: none.
    part: i32,
    /// The hash of that part.
    previous: Vec<u8>,
    place: Rc<RefCell<Place>>,
    /// Open tables by their name in the journal; `None`: there is none, and that is accepted.
    targets: Vec<(String, Option<Target>)>,
    /// The table written last.
    last: usize,
    /// The baseline being applied.
    baseline: Option<Baseline>,
    /// Claims that follow their rows to other keys: table, former and present key.
    rekeyed: Vec<(pg_sys::Oid, String, String)>,
    overwritten: i64,
    skipped: i64,
    /// The state is not as it was found.
    changed: bool,
    mismatch: Mismatch,
    missing: Missing,
}

impl Default for Replay {
    fn default() -> Replay {
        Replay {
            journal: String::new(),
            state: State::default(),
            part: 0,
            previous: Vec::new(),
            place: Rc::default(),
            targets: Vec::new(),
            last: 0,
            baseline: None,
            rekeyed: Vec::new(),
            overwritten: 0,
            skipped: 0,
            changed: false,
            mismatch: settings::replay_mismatch(),
            missing: settings::replay_missing(),
        }
    }
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
    /// Takes up a journal where this or another worker has left it.
    fn resume(journal: &str) -> Replay {
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
    fn resume_with(journal: &str, entries: &[i64]) -> Replay {
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

    fn read_state(&mut self) {
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

    /// Deals with a part that has just arrived and is about to be stored.
    fn receive(&mut self, part: &Part) -> Result<bool> {
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
    fn finish(&mut self) {
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

    fn store_state(&mut self) {
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

    /// Runs a step. An error is noted for `rowclaim.replay`, then raised.
    fn guarded(&mut self, step: impl FnOnce(&mut Replay) -> Result<()>) {
        let place = self.place.clone();
        let _context = ErrorContext::enter(place.clone());
        let mut step = AssertUnwindSafe(Some(step));
        let mut this = AssertUnwindSafe(self);
        let failed: RefCell<Option<CaughtError>> = RefCell::default();
        let keep = AssertUnwindSafe(&failed);
        PgTryBuilder::new(AssertUnwindSafe(|| {
            if let Some(step) = step.take() {
                check(step(&mut this));
            }
        }))
        .catch_others(|caught| drop(keep.replace(Some(caught))))
        .catch_rust_panic(|caught| drop(keep.replace(Some(caught))))
        .execute();
        let Some(caught) = failed.into_inner() else { return };
        let report = match &caught {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
            CaughtError::RustPanic { ereport, .. } => ereport,
        };
        let place = place.borrow();
        match taken(&place, report) {
            Some(error) => {
                let error = ErrorReport::from(error);
                note_failure(&place, error.message());
                error.report(PgLogLevel::ERROR);
            }
            None => {
                note_failure(&place, report.message());
                caught.rethrow()
            }
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
            let changes = Change::parse_all(&part.changes)?;
            let header = part.kind == "baseline" && part.part == 1;
            if header && changes.len() != 1 || changes.iter().any(|change| (change.op == "baseline") != header) {
                let problem = "the header of a baseline, and nothing else, is its first part".into();
                return Err(Error::InvalidChangeset { problem });
            }
            for change in changes {
                pgrx::check_for_interrupts!();
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
    fn flush(&mut self) {
        self.targets.iter_mut().filter_map(|(_, target)| target.as_mut()).for_each(Target::flush);
    }

    fn unpark(&mut self) -> Result<()> {
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

    fn seq(&self) -> i64 {
        self.place.borrow().seq
    }

    fn skip(&mut self) {
        self.skipped += 1;
        self.changed = true;
    }

    fn overwrite(&mut self) {
        self.overwritten += 1;
        self.changed = true;
    }

    fn diverged(&self, change: &Change, problem: impl Into<String>) -> Divergence {
        Divergence {
            journal: self.journal.clone(),
            seq: self.seq(),
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
    fn change(&mut self, change: &Change) -> Result<()> {
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
                self.state.skips.insert(divergence.table, seq);
                self.changed = true;
                Ok(false)
            }
            None => Err(Error::ReplayDiverged(Box::new(divergence))),
        }
    }

    /// Finds the row of a change. `expected`: it should be there.
    fn find(&mut self, target: &mut Target, change: &Change, expected: bool) -> Result<bool> {
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
                None if self.missing == Missing::Skip => self.skip(),
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
        let Some(table) = target.table() else { return Ok(()) };
        let Some(stamp) = target.values().get(table.draft_column) else { return Ok(()) };
        match draft::header((stamp.value() as i64, table.journal_id)) {
            None => Ok(()),
            Some((actor, _)) => Err(Error::ReplayDiverged(Box::new(Divergence {
                hint: format!("Replay goes on when {actor} has committed or discarded them."),
                ..self.diverged(change, format!("it has uncommitted changes of {actor} here"))
            }))),
        }
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
                self.rekeyed.push((table, former, image::object(&key)));
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

    /// A baseline begins: rows that it does not have are deleted.
    fn start_baseline(&mut self, part: &Part, header: &Change) -> Result<()> {
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
            for change in Change::parse_all(&text.flatten().unwrap_or_default())? {
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
    fn baseline_row(&mut self, target: &mut Target, change: &Change, fresh: bool) -> Result<()> {
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

/// The claimed key of the row found last, if claims are enabled here and the row is claimed.
fn claimed_key(target: &mut Target) -> Option<(pg_sys::Oid, String)> {
    let table = target.table()?;
    let row = target.values();
    row.get(table.owner_column)?;
    Some((table.root, codec::key_text(&table, row)))
}

/// A JSON value in a message.
fn shown(raw: &str) -> String {
    const LONGEST: usize = 60;
    match raw.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &raw[..end]),
        None => raw.to_owned(),
    }
}

/// What the server says of a row whose unique values another row has here.
fn taken(place: &Place, report: &ErrorReportWithLevel) -> Option<Error> {
    let code = report.sql_error_code();
    let unique = [PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, PgSqlErrorCode::ERRCODE_EXCLUSION_VIOLATION];
    if place.table.is_empty() || !unique.contains(&code) {
        return None;
    }
    let which = report.detail().map_or_else(String::new, |detail| format!(": {}", detail.trim_end_matches('.')));
    Some(Error::ReplayDiverged(Box::new(Divergence {
        journal: place.journal.clone(),
        seq: place.seq,
        table: place.table.clone(),
        key: Some(place.key.clone()),
        problem: format!("{}{which}", report.message()),
        hint: "Repair the other row; replay goes on by itself.".into(),
        ..Divergence::default()
    })))
}

/// Notes a failure for `rowclaim.replay`, outside of the transaction that it ends.
fn note_failure(place: &Place, message: &str) {
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
        if let (Some(journal), Some(part)) = (row.get(0), Part::of_values(row)) {
            if !check(arrived(text(journal), &part)) {
                return pg_sys::Datum::from(0);
            }
        }
    }
    call.proceed()
}
