//! The journal: numbers without gaps or serialised commits, entries in parts with a hash chain,
//! seals, and the `void` entries of commits that failed after drawing their number.

mod account;
mod part;
mod seal;
mod verify;

use crate::error::{Error, Result};
use crate::pg::ffi::nextval;
use crate::pg::lock::{Lock, Mode};
use crate::pg::memory::Scratch;
use crate::pg::session::Kept;
use crate::pg::sleeper;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::spool::Spool;
use crate::pg::xact::{self, SubId};
use crate::records::{self, Config, Record};
use account::{write_void, InFlight};
use part::entry_header;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ops::Range;

pub use part::{entry_hash, Part};
pub use verify::verify;

/// The most changes and bytes one part holds; a single larger change makes a part of its own.
pub const PART_CHANGES: usize = 1_000;
pub const PART_BYTES: usize = 4 << 20;
/// How long the next commit has to account for a failed number itself, in milliseconds.
const VOID_DELAY: u32 = 3_000;
#[derive(Clone)]
pub struct Journal {
    pub id: i32,
    pub name: String,
    pub require_current: bool,
    /// Received from another server: nothing is appended here.
    pub replayed: bool,
    sequence: pg_sys::Oid,
}

/// What an entry is about, besides its number and changes.
pub struct Head<'a> {
    pub kind: &'a str,
    pub actor: &'a str,
    pub base: Option<i64>,
    pub message: Option<String>,
}

thread_local! {
    static DRAWN: Kept<Vec<Drawn>> = Kept::default();
    static SEEN: Kept<HashMap<i32, Seen>> = Kept::default();
    // Those that numbers were drawn from here: they stay what they are, and are never received.
    static KNOWN: Kept<HashMap<String, Journal>> = Kept::default();
}

/// What this backend saw last of a journal: the end of the contiguous visible prefix, and of its
/// sealed part.
#[derive(Clone, Copy)]
struct Seen {
    prefix: i64,
    /// As far as others have written it, or this backend in transactions that were committed.
    committed: i64,
    sealed: i64,
}

/// Forgets what may have been rolled back.
pub fn forget() {
    SEEN.with(|seen| {
        if let Ok(mut seen) = seen.try_borrow_mut() {
            seen.clear();
        }
    });
    KNOWN.with(|known| {
        if let Ok(mut known) = known.try_borrow_mut() {
            known.clear();
        }
    });
}

/// A number drawn by the running transaction.
#[derive(Clone, Copy)]
struct Drawn {
    journal: i32,
    sequence: pg_sys::Oid,
    seq: i64,
    sub: SubId,
}

pub fn after_transaction(aborted: bool) {
    if aborted {
        forget();
        give_up(|_| true);
    } else if DRAWN.with(|drawn| !drawn.borrow().is_empty()) {
        SEEN.with(|seen| seen.borrow_mut().values_mut().for_each(|seen| seen.committed = seen.prefix));
    }
    DRAWN.with(|drawn| drawn.borrow_mut().clear());
}

pub fn after_sub(sub: SubId, parent: Option<SubId>) {
    match parent {
        Some(parent) => DRAWN.with(|drawn| {
            drawn.borrow_mut().iter_mut().filter(|number| number.sub == sub).for_each(|number| number.sub = parent)
        }),
        None => {
            forget();
            give_up(|number| number.sub == sub);
        }
    }
}

/// Numbers whose commit has failed must not hold up readers until somebody commits again: a
/// background worker accounts for them.
fn give_up(lost: impl Fn(&Drawn) -> bool) {
    let numbers: Vec<Drawn> = DRAWN.with(|drawn| {
        let (gone, kept) = drawn.borrow().iter().partition(|number| lost(number));
        drawn.replace(kept);
        gone
    });
    for Drawn { journal, sequence, seq, .. } in numbers {
        let sequence = sequence.to_u32();
        sleeper::run(sequence, &write_void(journal, sequence, seq), VOID_DELAY);
    }
}

impl Journal {
    /// The journal of this name; its number sequence is made to exist and to be ahead of the
    /// entries (they may have been restored from a dump).
    pub fn find(name: &str) -> Result<Journal> {
        if let Some(known) = KNOWN.with(|known| known.borrow().get(name).cloned()) {
            return Ok(known);
        }
        crate::table::remember_home();
        let Some(Config { id, require_current, replayed, sequence }) = records::config(name) else {
            return Err(Error::InvalidParameter {
                parameter: "journal",
                problem: format!("there is no journal {name}"),
            });
        };
        let journal = |sequence| Journal { id, name: name.to_owned(), require_current, replayed, sequence };
        if replayed {
            return Ok(journal(pg_sys::InvalidOid));
        }
        if sequence != pg_sys::InvalidOid && SEEN.with(|seen| seen.borrow().contains_key(&id)) {
            return Ok(journal(sequence));
        }
        let sequence = Lock::Draw { journal: id }.hold(Mode::Exclusive, || {
            spi::first("SELECT rowclaim.journal_sequence($1)::oid", &[Arg::i32(id)], Sees::Latest, |row| row.oid(1))
        });
        Ok(journal(sequence.flatten().unwrap_or(pg_sys::InvalidOid)))
    }

    /// Refuses to append to a journal that is received from another server.
    pub fn check_writable(&self) -> Result<()> {
        match self.replayed {
            true => Err(Error::JournalReplayed { journal: self.name.clone() }),
            false => Ok(()),
        }
    }

    /// Draws the next number. Whoever sees the number drawn, and has then had the lock of drawing for a moment, finds it
    /// locked by a live transaction or knows that its transaction has ended.
    fn draw(&self) -> i64 {
        sleeper::prepare();
        let seq = Lock::Draw { journal: self.id }.hold(Mode::Share, || {
            let seq = nextval(self.sequence);
            Lock::Number { journal: self.id, seq }.acquire(Mode::Exclusive);
            seq
        });
        DRAWN.with(|drawn| {
            drawn.borrow_mut().push(Drawn { journal: self.id, sequence: self.sequence, seq, sub: xact::current_sub() })
        });
        seq
    }

    /// Appends an entry with these changes, in `order`; returns its number.
    pub fn append(&self, head: &Head, changes: &mut Spool, order: Option<&[u32]>) -> Result<i64> {
        self.check_writable()?;
        self.seal_if_due()?;
        let seq = self.draw();
        self.write(seq, head, changes, order);
        self.account(seq, InFlight::Stop)?;
        KNOWN.with(|known| {
            if !known.borrow().contains_key(&self.name) {
                known.borrow_mut().insert(self.name.clone(), self.clone());
            }
        });
        Ok(seq)
    }

    fn write(&self, seq: i64, head: &Head, changes: &mut Spool, order: Option<&[u32]>) {
        let at = |i: usize| order.map_or(i, |order| order[i] as usize);
        let mut parts: Vec<Range<usize>> = Vec::new();
        parts.push(0..0);
        let mut bytes = 0;
        for i in 0..changes.len() {
            let size = changes.size(at(i)) + 1;
            let part = parts.last_mut().unwrap_or_else(|| pgrx::error!("a changeset has no part"));
            if part.len() == PART_CHANGES || part.start < part.end && bytes + size > PART_BYTES {
                parts.push(i..i + 1);
                bytes = size;
            } else {
                part.end = i + 1;
                bytes += size;
            }
        }
        let count = parts.len() as i32;
        let mut parts = parts.into_iter();
        self.write_parts(seq, head, count, || {
            let part = parts.next().unwrap_or_default();
            // Most are small; who reads large ones asks for memory first.
            let size: usize = part.clone().map(|i| changes.size(at(i)) + 1).sum();
            let mut text = String::with_capacity((size + 2).min(4 << 10));
            text.push('[');
            for i in part {
                if text.len() > 1 {
                    text.push(',');
                }
                changes.read(at(i), &mut text);
            }
            text.push(']');
            text
        });
    }

    /// Writes an entry whose parts are given as texts.
    fn write_parts(&self, seq: i64, head: &Head, count: i32, mut next: impl FnMut() -> String) {
        let mut previous = Vec::new();
        let scratch = Scratch::new();
        for number in 1..=count {
            let _entered = scratch.enter();
            previous = self.write_part(seq, number, count, head, &next(), &previous);
        }
    }

    /// Appends a baseline: `parts` are JSON arrays, completed by `finish` once every entry with a
    /// smaller number is there, and `header` comes first.
    pub fn append_baseline(
        &self,
        actor: &str,
        header: &str,
        parts: &mut Spool,
        finish: impl FnOnce(&mut Spool, i64) -> Result<()>,
    ) -> Result<i64> {
        self.check_writable()?;
        let seq = self.draw();
        self.wait_for_numbers(seq)?;
        finish(parts, seq)?;
        let head = Head { kind: "baseline", actor, base: None, message: None };
        let mut number = 0;
        self.write_parts(seq, &head, parts.len() as i32 + 1, || {
            let mut text = String::new();
            match number {
                0 => text.push_str(header),
                _ => parts.read(number - 1, &mut text),
            }
            number += 1;
            text
        });
        Ok(seq)
    }

    /// Waits until every number below `before` has its entry.
    fn wait_for_numbers(&self, before: i64) -> Result<()> {
        loop {
            self.fill_gaps(before)?;
            let prefix = SEEN.with(|seen| seen.borrow().get(&self.id).map_or(0, |seen| seen.prefix));
            let missing = (prefix + 1..before).find(|&seq| !self.has(seq));
            match missing {
                None => return Ok(()),
                Some(seq) => Lock::Number { journal: self.id, seq }.hold(Mode::Exclusive, || ()),
            }
        }
    }

    fn write_part(&self, seq: i64, part: i32, parts: i32, head: &Head, changes: &str, previous: &[u8]) -> Vec<u8> {
        let record = Record {
            journal: &self.name,
            seq,
            part,
            parts,
            kind: head.kind,
            actor: head.actor,
            base: head.base,
            xid: xact::xid(),
            message: head.message.as_deref(),
            committed_at: xact::clock(),
        };
        let header = entry_header((
            record.journal,
            seq,
            part,
            parts,
            record.kind,
            record.actor,
            record.base,
            Some(&record.xid.to_string()),
            record.message,
            Some(record.committed_at),
        ));
        let hash = entry_hash(&header, changes, previous);
        record.insert(changes, &hash);
        hash
    }

    /// The journal with this id.
    pub fn with_id(id: i32) -> Result<Journal> {
        let name = spi::first(
            "SELECT name FROM rowclaim.journal_config WHERE id = $1",
            &[Arg::i32(id)],
            Sees::Latest,
            |row| row.text(1),
        );
        Journal::find(&name.flatten().unwrap_or_default())
    }

    /// The last number that has an entry; gaps after it concern nobody yet.
    pub fn last_entry(&self) -> i64 {
        spi::first(
            "SELECT max(seq) FROM rowclaim.journal WHERE journal = $1",
            &[Arg::str(&self.name)],
            Sees::Latest,
            |row| row.i64(1),
        )
        .flatten()
        .unwrap_or(0)
    }

    fn has(&self, seq: i64) -> bool {
        records::has(&self.name, seq)
    }

    pub fn stable(&self) -> i64 {
        self.stable_at(Sees::Latest)
    }

    /// The end of the contiguous prefix that `sees` shows.
    pub fn stable_at(&self, sees: Sees) -> i64 {
        spi::first("SELECT rowclaim.stable_seq($1)", &[Arg::str(&self.name)], sees, |row| row.i64(1))
            .flatten()
            .unwrap_or(0)
    }
}

/// The last number that was pruned, as `rowclaim.pruned_seq()`: its plan is kept here.
pub fn pruned(journal: &str) -> i64 {
    spi::first(
        "SELECT least((SELECT j.seq - 1 FROM rowclaim.journal j WHERE j.journal = $1 ORDER BY j.seq LIMIT 1),
                      coalesce((SELECT (j.changes -> 0 ->> 'pruned')::bigint FROM rowclaim.journal j
                                WHERE j.journal = $1 AND j.kind = 'seal' AND (j.changes -> 0 ->> 'pruned') IS NOT NULL
                                ORDER BY j.seq DESC LIMIT 1), 0))",
        &[Arg::str(journal)],
        Sees::Latest,
        |row| row.i64(1),
    )
    .flatten()
    .unwrap_or(0)
}
