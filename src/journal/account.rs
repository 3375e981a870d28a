//! What has become of numbers without an entry: those of commits that failed get a `void` entry.

use super::{Head, Journal, Seen, DRAWN, SEEN};
use crate::error::Result;
use crate::pg::lock::{Lock, Mode};
use crate::pg::progress;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::spool::Spool;
use crate::pg::worker;
use crate::records;

/// So many failed numbers are accounted for at a time: each takes a lock to the end of the transaction.
const VOIDS_MAX: i64 = 100;

/// What a number in flight, of a transaction that may still fail, means to who accounts for failed ones.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum InFlight {
    /// Those behind it are looked at.
    Pass,
    /// They can wait: nothing is stable from here on, and whoever commits later looks again.
    Stop,
}

/// What has become of a number.
enum Fate {
    InFlight,
    Written,
    Failed,
}

/// The worker's statement. It does nothing if the journal is another one by then, with the id of one that was dropped.
pub(super) fn write_void(journal: i32, sequence: u32, seq: i64) -> String {
    format!("SELECT rowclaim.write_void({journal}, {seq}) FROM pg_catalog.pg_class WHERE oid = {sequence}")
}

impl Journal {
    /// Writes a `void` entry for the numbers below `before` whose transactions have failed, the first
    /// hundred of them.
    ///
    /// Returns how many were written.
    pub fn fill_gaps(&self, before: i64) -> Result<i64> {
        self.account(before, InFlight::Pass)
    }

    /// The numbers below `before` that have no entry here; with `InFlight::Stop` only those below one in flight.
    fn missing(&self, before: i64, in_flight: InFlight) -> (Seen, Vec<i64>) {
        let known = SEEN.with(|seen| seen.borrow().get(&self.id).copied());
        let mut seen = known.unwrap_or_else(|| {
            let sealed = self.sealed();
            Seen { prefix: sealed, committed: sealed, sealed }
        });
        // What others have seen is not read again, but for once in each session: it may have been removed by hand.
        let shared = progress::share(self.sequence, known.map_or(0, |seen| seen.committed));
        if known.is_some() && shared > seen.prefix && shared < before {
            (seen.prefix, seen.committed) = (shared, shared);
        }
        let stops = |seq| in_flight == InFlight::Stop && !Lock::Number { journal: self.id, seq }.is_free();
        let mut expected = seen.prefix + 1;
        let mut missing = Vec::new();
        let mut stop = expected < before && stops(expected);
        if !stop {
            records::each_number(&self.name, expected, before, |seq, own| {
                stop = seq > expected && stops(expected);
                if stop {
                    return false;
                }
                missing.extend(expected..seq);
                if seen.prefix == seq - 1 {
                    if seen.committed == seen.prefix && !own {
                        seen.committed = seq;
                    }
                    seen.prefix = seq;
                }
                expected = seq + 1;
                true
            });
        }
        if !stop {
            missing.extend(expected..before);
        }
        match known {
            None if seen.committed < shared => progress::correct(self.sequence, seen.committed),
            _ if seen.committed > shared => drop(progress::share(self.sequence, seen.committed)),
            _ => {}
        }
        (seen, missing)
    }

    pub(super) fn account(&self, before: i64, in_flight: InFlight) -> Result<i64> {
        if self.replayed {
            return Ok(0);
        }
        let (seen, missing) = self.missing(before, in_flight);
        let (mut written, mut pruned) = (0, None);
        for seq in missing {
            if written == VOIDS_MAX || pruned.is_some_and(|pruned| seq <= pruned) {
                continue;
            }
            match self.take_failed(seq) {
                Fate::InFlight if in_flight == InFlight::Stop => break,
                Fate::InFlight | Fate::Written => continue,
                Fate::Failed => {}
            }
            // What was pruned has no entry either. Read after the entries, this covers what went meanwhile.
            if seq <= *pruned.get_or_insert_with(|| super::pruned(&self.name)) {
                continue;
            }
            let head = Head { kind: "void", actor: "", base: None, message: None };
            self.write(seq, &head, &mut Spool::default(), None);
            written += 1;
        }
        let mut prefix = seen.prefix.max(pruned.unwrap_or(0));
        // What this transaction appends just after the prefix is part of it: a rollback forgets all this.
        if prefix == before - 1
            && DRAWN.with(|drawn| drawn.borrow().iter().any(|n| (n.journal, n.seq) == (self.id, before)))
        {
            prefix = before;
        }
        SEEN.with(|all| all.borrow_mut().insert(self.id, Seen { prefix, ..seen }));
        Ok(written)
    }

    /// What has become of a number that was missing; one that failed is locked by this transaction from now on.
    fn take_failed(&self, seq: i64) -> Fate {
        let number = Lock::Number { journal: self.id, seq };
        let look = || {
            if !number.try_acquire(Mode::Exclusive) {
                return Fate::InFlight;
            }
            if self.has(seq) {
                number.release(Mode::Exclusive);
                return Fate::Written;
            }
            Fate::Failed
        };
        match look() {
            Fate::Failed => {
                // Unless it is just being drawn, and still to be locked.
                number.release(Mode::Exclusive);
                Lock::Draw { journal: self.id }.hold(Mode::Exclusive, || ());
                look()
            }
            fate => fate,
        }
    }

    /// Writes the `void` entry of a number whose transaction is failing, once it has, and those of
    /// others that failed meanwhile. Not if no later number was drawn: then nobody waits, and the
    /// next commit sees to it.
    pub fn write_void(&self, seq: i64) -> Result<()> {
        // Whoever holds the number is writing the entry.
        if !(Lock::Number { journal: self.id, seq }).try_acquire(Mode::Exclusive) {
            return Ok(());
        }
        // To the end of this short transaction: whoever draws next sees the entries.
        Lock::Draw { journal: self.id }.acquire(Mode::Exclusive);
        let last = spi::first(
            "SELECT pg_catalog.pg_sequence_last_value($1::pg_catalog.regclass)",
            &[Arg::oid(self.sequence)],
            Sees::Latest,
            |row| row.i64(1),
        );
        if self.fill_gaps(last.flatten().unwrap_or(0))? == VOIDS_MAX {
            worker::run(&write_void(self.id, self.sequence.to_u32(), seq), 0);
        }
        Ok(())
    }
}
