//! Draft entries on their way into `rowclaim.draft_row`: what a statement's AFTER triggers save is written in batches.
//!
//! Nobody sees the difference. Whatever reads the table finds the entries, as if each had been written by the command
//! that saved it: [`crate::entry::entries`] writes them first, and so does the executor hook of statements that read
//! the table. They belong to the subtransaction that saved them: written in one below that is rolled back, they wait
//! again.

use crate::capture;
use crate::entry::{self, by_base_key, Entry};
use crate::error::{check, Result};
use crate::pg::executor;
use crate::pg::memory::{collect, push, Scratch};
use crate::pg::session::{Kept, Session};
use crate::pg::store::Fresh;
use crate::pg::xact::{self, ActiveSnapshot, SubId};
use pgrx::pg_sys;
use std::cell::Cell;
use std::rc::Rc;

/// An entry to be written.
#[derive(Clone)]
struct Waiting {
    root: pg_sys::Oid,
    key: String,
    entry: Entry,
    command: pg_sys::CommandId,
}

impl Waiting {
    fn size(&self) -> usize {
        self.key.len() + self.entry.base.as_ref().map_or(0, String::len)
    }
}

/// Entries of one actor and subtransaction.
#[derive(Clone)]
struct Batch {
    actor: Rc<str>,
    sub: SubId,
    rows: Vec<Waiting>,
    size: usize,
}

/// How much is written at once: rows, and bytes of their keys and images.
const ROWS: usize = 1_000;
const BYTES: usize = 1 << 20;

/// A batch of a subtransaction that was written in one below, which may yet be rolled back.
struct Written {
    batch: Rc<Batch>,
    within: SubId,
    waited: Option<executor::Waiting>,
}

thread_local! {
    static BATCH: Kept<Option<Rc<Batch>>> = const { Kept::new(None) };
    static WRITTEN: Kept<Vec<Written>> = const { Kept::new(Vec::new()) };
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Saves an entry for `key` of the enabled table `root`. The key of a row that did not exist may be that of a deleted
/// row's entry, which it then takes over.
pub fn add(root: pg_sys::Oid, key: String, entry: Entry, actor: &Rc<str>) -> Result<()> {
    let sub = xact::current_sub();
    if BATCH.with_borrow(|batch| batch.as_ref().is_some_and(|batch| batch.sub != sub || *batch.actor != **actor)) {
        flush()?;
    }
    let row = Waiting { root, key, entry, command: xact::writing_command() };
    let full = BATCH.with_borrow_mut(|batch| {
        let batch = batch
            .get_or_insert_with(|| Rc::new(Batch { actor: actor.clone(), sub, rows: Vec::with_capacity(16), size: 0 }));
        let batch = Rc::make_mut(batch);
        batch.size += row.size();
        push(&mut batch.rows, row);
        batch.rows.len() >= ROWS || batch.size >= BYTES
    });
    BUSY.set(true);
    executor::wait(entry::table());
    if full || !executor::may_wait() {
        flush()?;
    }
    Ok(())
}

/// Writes what waits.
pub fn flush() -> Result<()> {
    if !BUSY.get() {
        return Ok(());
    }
    let Some(batch) = BATCH.take() else { return Ok(()) };
    let (waited, within) = (executor::take_waiting(), xact::current_sub());
    if within != batch.sub {
        WRITTEN.with_borrow_mut(|written| written.push(Written { batch: batch.clone(), within, waited }));
    }
    write(&batch)
}

fn write(batch: &Batch) -> Result<()> {
    // None is active between statements.
    let _snapshot = ActiveSnapshot::latest();
    let store = entry::open();
    let scratch = Scratch::new();
    let entered = scratch.enter();
    // A row has left this key in an open draft: whose it is, is a longer story.
    let mut roots: Vec<_> = batch.rows.iter().filter(|row| row.entry.is_new()).map(|row| row.root).collect();
    roots.dedup();
    roots.retain(|&root| entry::has_base_keys(&store, root));
    let is_left = |row: &&Waiting| {
        row.entry.is_new() && roots.contains(&row.root) && by_base_key(&store, row.root, &row.key).is_some()
    };
    let (mut alone, together): (Vec<_>, Vec<_>) = batch.rows.iter().partition(is_left);
    let fresh = |row: &&Waiting| Fresh {
        row: row.entry.row(row.root, &row.key),
        command: row.command,
        yields: row.entry.is_new(),
    };
    let left_out = store.insert_all(&collect(together.iter().map(fresh)));
    alone.extend(left_out.into_iter().filter_map(|place| together.get(place)));
    drop(entered);
    for row in alone {
        capture::enter_new(row.entry.leaf, &row.key, row.entry.draft, &batch.actor)?;
    }
    Ok(())
}

/// [`flush`] where errors can only be raised.
pub fn flush_or_raise() {
    check(flush());
}

/// The transaction ended.
pub fn after_transaction() {
    if BUSY.replace(false) {
        BATCH.take();
        WRITTEN.take();
        executor::take_waiting();
    }
}

/// A subtransaction is about to be committed.
pub fn before_sub_commit() {
    if BUSY.get() && BATCH.with_borrow(|batch| batch.as_ref().is_some_and(|batch| batch.sub == xact::current_sub())) {
        flush_or_raise();
    }
}

/// A subtransaction ended: committed into `parent`, or rolled back.
pub fn after_sub(sub: SubId, parent: Option<SubId>) {
    if !BUSY.get() {
        return;
    }
    WRITTEN.with_borrow_mut(|written| {
        if let Some(parent) = parent {
            written.iter_mut().filter(|w| w.within == sub).for_each(|w| w.within = parent);
            written.retain(|w| w.within != w.batch.sub);
            return;
        }
        if BATCH.with_borrow(|batch| batch.as_ref().is_some_and(|batch| batch.sub == sub)) {
            BATCH.take();
            executor::take_waiting();
        }
        // Those of one subtransaction are written in one below at most once before something else happens there.
        for again in written.extract_if(.., |w| w.within == sub) {
            if let Some(waited) = again.waited {
                executor::wait_again(waited);
            }
            BATCH.with_borrow_mut(|batch| *batch = Some(again.batch));
        }
    });
}
