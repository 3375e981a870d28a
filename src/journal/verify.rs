//! `verify_journal()`: every altered, missing or reordered entry.

use super::part::{hex, Part};
use super::{pruned, Journal};
use crate::error::Result;
use crate::pg::lock::Lock;
use crate::pg::memory::push;
use crate::pg::spi::{self, Arg};
use sha2::{Digest, Sha256};

/// One finding of `verify_journal`.
pub struct Finding {
    pub seq: i64,
    pub part: Option<i32>,
    pub problem: String,
}

/// What is known of a missing entry that no seal covers: of many failed commits in a row, the next ones account a hundred at a
/// time.
const NO_ENTRY: &str = "entry is missing, or its commit has failed and is still to be accounted for";

/// Checks every entry: hashes, parts, gaps and seals. Numbers after the last entry are not
/// judged: a commit in flight, a failed one and a removed one look the same until a seal.
pub fn verify(name: &str) -> Result<Vec<Finding>> {
    let journal = Journal::find(name)?;
    let pruned = pruned(name);
    let mut chain = Chain { journal: journal.id, seq: pruned, pruned, sealed: journal.sealed(), ..Chain::default() };
    let mut cursor = spi::Cursor::open(
        "SELECT seq, part, parts, kind, actor, base, xid::text, message, committed_at, changes::text, hash
         FROM rowclaim.journal WHERE journal = $1 ORDER BY seq, part",
        &[Arg::str(name)],
    );
    while cursor.fetch(100, |row| chain.check(&Part::read(name, row))) > 0 {}
    chain.end_entry();
    Ok(chain.findings)
}

/// What verification knows while it walks through a journal.
#[derive(Default)]
struct Chain {
    findings: Vec<Finding>,
    journal: i32,
    /// Entries up to this number were pruned.
    pruned: i64,
    /// Seals say of the numbers up to this one that they have entries.
    sealed: i64,
    seq: i64,
    part: i32,
    parts: i32,
    broken: bool,
    previous: Vec<u8>,
    last_seal: Vec<u8>,
    since_seal: Vec<(i64, Vec<u8>)>,
}

impl Chain {
    fn report(&mut self, seq: i64, part: Option<i32>, problem: impl Into<String>) {
        push(&mut self.findings, Finding { seq, part, problem: problem.into() });
    }

    fn end_entry(&mut self) {
        for missing in self.part + 1..=self.parts {
            self.report(self.seq, Some(missing), "part is missing");
        }
    }

    fn check(&mut self, this: &Part) {
        let (seq, part, parts) = (this.seq, this.part, this.parts);
        if seq != self.seq {
            self.end_entry();
            for missing in self.seq + 1..seq {
                // A commit may still bring it.
                if (Lock::Number { journal: self.journal, seq: missing }).is_free() {
                    self.report(missing, None, if missing > self.sealed { NO_ENTRY } else { "entry is missing" });
                }
            }
            (self.seq, self.part, self.parts, self.broken) = (seq, 0, parts, false);
            self.previous.clear();
        }
        for missing in self.part + 1..part {
            self.report(seq, Some(missing), "part is missing");
            self.broken = true;
        }
        self.part = part;
        // What follows a missing part cannot be checked: its hash is chained to the missing one.
        if parts != self.parts {
            self.report(seq, Some(part), "part does not belong to the entry");
        } else if !self.broken && !this.is_authentic(&self.previous) {
            self.report(seq, Some(part), "content does not match its hash");
        } else if this.kind == "seal" {
            match self.seal_range(&this.changes) {
                Some((_, _, true)) => {}
                // Nothing is left to compare with what was pruned.
                Some((from, _, false)) if from <= self.pruned => {}
                // Damage that was found by itself explains a seal that does not match.
                Some((from, to, false)) if self.findings.iter().any(|f| (from..=to).contains(&f.seq)) => {}
                Some((from, to, false)) => {
                    self.report(seq, Some(part), format!("seal does not match entries {from} to {to}"))
                }
                None => self.report(seq, Some(part), "seal cannot be read"),
            }
        }
        if this.kind == "seal" {
            self.last_seal.clone_from(&this.hash);
        }
        push(&mut self.since_seal, (seq, this.hash.clone()));
        self.previous.clone_from(&this.hash);
    }

    /// The entries a seal covers and whether its chain matches them.
    fn seal_range(&mut self, changes: &str) -> Option<(i64, i64, bool)> {
        let seal: serde_json::Value = serde_json::from_str(changes).ok()?;
        let (from, to) = (seal[0]["from"].as_i64()?, seal[0]["to"].as_i64()?);
        let mut chain = Sha256::new();
        chain.update(&self.last_seal);
        for (_, hash) in self.since_seal.iter().filter(|(seq, _)| (from..=to).contains(seq)) {
            chain.update(hash);
        }
        self.since_seal.retain(|(seq, _)| *seq > to);
        Some((from, to, Some(hex(&chain.finalize()).as_str()) == seal[0]["chain"].as_str()))
    }
}
