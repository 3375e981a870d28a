//! Drafts: which draft a stamp belongs to, the draft id of this transaction, and what the
//! transaction has learnt or done that a rollback to a savepoint must forget.
//!
//! Every writing transaction stamps the rows it touches with one id per actor. For tables with
//! `committing => 'explicit'` the id gets a header row per journal; while the header exists the
//! row is dirty. Tables with `committing => 'transaction'` have no header: their stamp means
//! something only to the transaction that set it.

use crate::captured::{Captured, Event};
use crate::hash::ByNumber;
use crate::notify::Notice;
use crate::pg::ffi::nextval;
use crate::pg::memory::{push, room};
use crate::pg::session::Kept;
use crate::pg::store::{sequence, Found, Index, Key, Layout, Locked, Store};
use crate::pg::value::text_datum;
use crate::pg::xact::{self, Moment, SubId};
use crate::table::{Committing, Table};
use pgrx::pg_sys;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// A draft as rows name it: id and journal.
pub type DraftKey = (i64, i32);

/// What a row's stamp means to the current actor.
#[derive(Debug, Clone, PartialEq)]
pub enum Stamp {
    /// No uncommitted changes.
    Clean,
    /// Dirty under a draft of mine that this transaction started.
    Current,
    /// Dirty under an earlier draft of mine.
    Mine,
    /// Dirty under somebody else's draft.
    Other(String),
}

/// How a row dirty under an earlier draft of mine may be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Touch {
    /// The draft is ours until this transaction ends; the row keeps its stamp.
    Keep,
    /// Another session of this actor has the draft: the row moves to this transaction's draft.
    Move,
    /// The draft was committed meanwhile.
    Closed,
}

struct Current {
    id: i64,
    actor: Rc<str>,
    sub: SubId,
    headers: Vec<(i32, SubId)>,
}

/// The source half of a row that moves between partitions.
#[derive(Clone)]
pub struct Moving {
    pub relid: pg_sys::Oid,
    pub tid: (u32, u16),
    pub command: pg_sys::CommandId,
    pub old_key: String,
    pub new_key: String,
}

#[derive(Default)]
struct Transaction {
    current: Vec<Current>,
    touched: HashMap<DraftKey, (Touch, SubId), ByNumber>,
    closed: Vec<(DraftKey, SubId)>,
    captured: Captured,
    /// Number of events when a subtransaction captured its first one.
    marks: Vec<(SubId, usize)>,
    /// Announcements to send at commit.
    notices: Vec<(Notice, SubId)>,
    moving: Option<Moving>,
    /// Relations whose updated rows the capture trigger has to look at.
    watched: HashSet<u32, ByNumber>,
    /// `transaction` tables with rows that have left their keys.
    vacated: HashSet<u32, ByNumber>,
    moved: HashMap<(u32, String), (String, SubId)>,
}

impl Transaction {
    /// Has this transaction closed a draft with this id itself? Then nothing new joins it.
    fn has_closed(&self, id: i64) -> bool {
        self.closed.iter().any(|(draft, _)| draft.0 == id)
    }
}

/// Drafts known to be closed; they never reopen. Bounded, because ids are many.
const CLOSED_MAX: usize = 100_000;

thread_local! {
    static TRANSACTION: Kept<Transaction> = Kept::default();
    static CLOSED: Kept<HashSet<DraftKey, ByNumber>> = Kept::default();
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

fn with<T>(body: impl FnOnce(&mut Transaction) -> T) -> T {
    BUSY.with(|busy| busy.set(true));
    TRANSACTION.with(|tx| body(&mut tx.borrow_mut()))
}

/// The draft id for rows written now by `who`; drawn at the first use in a transaction.
pub fn current_id(who: &Rc<str>) -> i64 {
    let known = with(|tx| tx.current.iter().rev().find(|d| d.actor == *who && !tx.has_closed(d.id)).map(|d| d.id));
    known.unwrap_or_else(|| start(who))
}

/// A further draft id of `who` in this transaction. A row that changes its key gets one, so that
/// its stamp changes and the change is captured.
pub fn start(who: &Rc<str>) -> i64 {
    let id = nextval(sequence(c"draft_id_seq"));
    let sub = xact::current_sub();
    with(|tx| tx.current.push(Current { id, actor: who.clone(), sub, headers: Vec::new() }));
    id
}

/// Is this an id of this transaction, of whatever actor?
pub fn is_current(id: i64) -> bool {
    with(|tx| tx.current.iter().any(|d| d.id == id) && !tx.has_closed(id))
}

/// Makes the draft visible to others once this transaction commits.
pub fn ensure_header(table: &Table, id: i64) {
    if table.committing == Committing::Transaction {
        return;
    }
    let sub = xact::current_sub();
    let owner = with(|tx| {
        let draft = tx.current.iter_mut().find(|d| d.id == id)?;
        if draft.headers.iter().any(|(journal, _)| *journal == table.journal_id) {
            return None;
        }
        draft.headers.push((table.journal_id, sub));
        Some(draft.actor.clone())
    });
    if let Some(owner) = owner {
        let now = Some(pg_sys::Datum::from(xact::clock()));
        let (id, journal) = (pg_sys::Datum::from(id), pg_sys::Datum::from(table.journal_id));
        headers().insert(&[Some(id), Some(journal), Some(text_datum(&owner)), now, now]);
    }
}

static DRAFT: Layout = Layout {
    table: c"draft",
    indexes: &[
        Index { name: c"draft_pkey", columns: &[0, 1], unique: true, only: None },
        Index { name: c"draft_actor", columns: &[2, 1], unique: false, only: None },
    ],
};
/// `rowclaim.draft.touched_at`.
const TOUCHED_AT: usize = 4;

/// The headers of open drafts: `rowclaim.draft`.
fn headers() -> Store {
    Store::open(&DRAFT)
}

fn find_header(store: &Store, draft: DraftKey) -> Option<Found> {
    store.find_by(0, &[Key::I64(draft.0), Key::I32(draft.1)])
}

/// The actor of an open draft and when it was touched last (microseconds since 2000-01-01 UTC).
pub fn header(draft: DraftKey) -> Option<(String, i64)> {
    let found = find_header(&headers(), draft)?;
    Some((found.text(2).unwrap_or_default(), found.i64(TOUCHED_AT).unwrap_or_default()))
}

/// What the stamp of a row of `table` means to the actor `me`.
pub fn status(table: &Table, stamp: Option<i64>, me: &Rc<str>) -> Stamp {
    status_and(table, stamp, me, |_, _, _| {})
}

/// As [`status`] of a row that `me` is about to write: an earlier draft of mine is taken, as by [`touch`].
pub fn status_to_write(table: &Table, stamp: Option<i64>, me: &Rc<str>) -> Stamp {
    status_and(table, stamp, me, |store, draft, header| {
        take(store, draft, Some(header));
    })
}

/// `mine` is told of a draft of mine that is seen for the first time.
fn status_and(table: &Table, stamp: Option<i64>, me: &Rc<str>, mine: impl FnOnce(&Store, DraftKey, Found)) -> Stamp {
    let Some(id) = stamp else { return Stamp::Clean };
    // What commits with the transaction has no header that could be closed.
    let known = with(|tx| {
        let draft = tx.current.iter().find(|d| d.id == id)?;
        (table.committing == Committing::Transaction || !tx.has_closed(id)).then(|| draft.actor.clone())
    });
    if let Some(owner) = known {
        return if owner == *me { Stamp::Current } else { Stamp::Other(owner.to_string()) };
    }
    if table.committing == Committing::Transaction {
        return Stamp::Clean;
    }
    let draft = (id, table.journal_id);
    if CLOSED.with(|closed| closed.borrow().contains(&draft)) {
        return Stamp::Clean;
    }
    match with(|tx| tx.touched.get(&draft).map(|t| t.0)) {
        Some(Touch::Closed) => return Stamp::Clean,
        Some(_) => return Stamp::Mine,
        None => {}
    }
    let store = headers();
    let Some(header) = find_header(&store, draft) else {
        // What this transaction closed itself is open again if it rolls back.
        if !with(|tx| tx.closed.iter().any(|(d, _)| *d == draft)) {
            CLOSED.with(|closed| {
                let mut closed = closed.borrow_mut();
                if closed.len() >= CLOSED_MAX {
                    closed.clear();
                }
                closed.insert(draft);
            });
        }
        return Stamp::Clean;
    };
    let owner = header.text(2).unwrap_or_default();
    if owner != **me {
        return Stamp::Other(owner);
    }
    mine(&store, draft, header);
    Stamp::Mine
}

/// Takes an earlier draft of mine for this transaction, once per transaction and draft, so that a
/// commit from another session waits for this one. Never waits itself: parallel sessions of one
/// actor that write to rows of one draft do not meet.
pub fn touch(draft: DraftKey) -> Touch {
    match with(|tx| tx.touched.get(&draft).map(|t| t.0)) {
        Some(touch) => touch,
        None => take(&headers(), draft, None),
    }
}

/// [`touch`] for the first time; `header` was found already.
fn take(store: &Store, draft: DraftKey, mut header: Option<Found>) -> Touch {
    let touch = loop {
        let Some(found) = header.take().or_else(|| find_header(store, draft)) else { break Touch::Closed };
        let mut row = found.row();
        row[TOUCHED_AT] = Some(pg_sys::Datum::from(xact::clock()));
        match store.try_update(&found, &row) {
            Locked::Done => break Touch::Keep,
            Locked::Taken => break Touch::Move,
            Locked::Changed => {}
        }
    };
    let sub = xact::current_sub();
    with(|tx| tx.touched.insert(draft, (touch, sub)));
    touch
}

/// Has this transaction taken an earlier draft in a journal?
pub fn holds_earlier(journal_id: i32) -> bool {
    with(|tx| tx.touched.iter().any(|(draft, t)| draft.1 == journal_id && t.0 == Touch::Keep))
}

/// The open drafts of an actor in a journal.
///
/// Waits for other sessions of the actor that are writing to one of them, because later changes may
/// depend on it. A transaction that has taken an earlier draft itself leaves theirs out instead:
/// two such sessions would wait for each other.
pub fn take_drafts(actor: &str, journal_id: i32) -> Vec<DraftKey> {
    xact::bump_command();
    let store = headers();
    let mut open = Vec::new();
    let keys = [Key::Text(actor), Key::I32(journal_id)];
    store.each_found(1, &keys, &Moment::of_transaction(), |header| {
        push(&mut open, header);
        true
    });
    open.sort_by_key(|header| header.i64(0));
    let wait = !holds_earlier(journal_id);
    let mut drafts = Vec::new();
    for header in open {
        let draft = (header.i64(0).unwrap_or_default(), journal_id);
        if take_header(&store, draft, header, wait) {
            drafts.push(draft);
        }
    }
    drafts
}

/// Locks a header to the end of the transaction; false if it is gone or, without `wait`, taken.
fn take_header(store: &Store, draft: DraftKey, mut header: Found, wait: bool) -> bool {
    loop {
        match if wait { store.lock(&header) } else { store.try_lock(&header) } {
            Locked::Done => return true,
            Locked::Taken => return false,
            Locked::Changed => xact::check_one_snapshot(),
        }
        match find_header(store, draft) {
            Some(now) => header = now,
            None => return false,
        }
    }
}

/// Deletes the headers, which are taken: every row stamped with them is clean from now on.
pub fn close_drafts(drafts: &[DraftKey]) {
    let store = headers();
    for draft in drafts {
        if let Some(header) = find_header(&store, *draft) {
            store.delete(&header);
        }
    }
    closed_here(drafts);
}

/// Remembers that this transaction deleted these headers: new writes need a new id.
fn closed_here(drafts: &[DraftKey]) {
    let sub = xact::current_sub();
    with(|tx| {
        for draft in drafts {
            tx.closed.push((*draft, sub));
            tx.touched.remove(draft);
            // Rows of `transaction` tables may have the stamp, and are ours until the end.
            if tx.captured.len() == 0 {
                tx.current.retain(|d| d.id != draft.0);
            }
        }
    });
}

/// Notes that a row of a `transaction` table leaves its key: deleted, or moved to another one.
pub fn vacate(root: pg_sys::Oid) {
    with(|tx| tx.vacated.insert(root.to_u32()));
}

/// May a new row of the table have the key of one that this transaction has deleted?
pub fn has_vacated(root: pg_sys::Oid) -> bool {
    with(|tx| tx.vacated.contains(&root.to_u32()))
}

/// Records that a row of a `transaction` table was touched, what it was and, if known, what becomes of it.
pub fn record_base(
    table: &Table,
    actor: &Rc<str>,
    key: &str,
    base: Option<&str>,
    version: Option<i64>,
    change: Option<&str>,
) {
    record(|captured| {
        let known = captured.groups.iter().position(|g| g.0 == table.journal && g.1 == *actor);
        let group = known.unwrap_or_else(|| {
            captured.groups.push((table.journal.clone(), actor.clone()));
            captured.groups.len() - 1
        });
        Event::Base { root: table.root, group: group as u32, version, key, base, change }
    });
}

/// Records that a row of a `transaction` table has another key.
pub fn record_rekey(table: &Table, old: &str, new: &str) {
    record(|_| Event::Rekey { root: table.root, old, new });
}

fn record<'a>(event: impl FnOnce(&mut Captured) -> Event<'a>) {
    let sub = xact::current_sub();
    with(|tx| {
        if tx.marks.last().is_none_or(|mark| mark.0 != sub) {
            tx.marks.push((sub, tx.captured.len()));
        }
        let event = event(&mut tx.captured);
        tx.captured.push(&event);
    });
}

/// Notes that a row of a `transaction` table is touched that this transaction has touched before.
pub fn touch_again(root: pg_sys::Oid) {
    with(|tx| tx.captured.touch_again(root));
}

/// What `transaction` tables captured; asked for once, before commit.
pub fn take_captured() -> Captured {
    if !BUSY.with(Cell::get) {
        return Captured::default();
    }
    with(|tx| {
        tx.marks.clear();
        std::mem::take(&mut tx.captured)
    })
}

/// What the rows of a `transaction` table that this transaction has changed were before, by their
/// present keys; `None`: the row did not exist.
pub fn captured_bases(root: pg_sys::Oid) -> HashMap<String, Option<String>> {
    let mut bases = HashMap::new();
    if !BUSY.with(Cell::get) {
        return bases;
    }
    with(|tx| {
        tx.captured.each(|_, event| match event {
            Event::Base { root: of, key, base, .. } if of == root => {
                room(&mut bases, 1);
                bases.entry(key.to_owned()).or_insert_with(|| base.map(str::to_owned));
            }
            Event::Rekey { root: of, old, new } if of == root => {
                if let Some(base) = bases.remove(old) {
                    bases.insert(new.to_owned(), base);
                }
            }
            _ => {}
        })
    });
    bases
}

/// Has this transaction changed a `transaction` table?
pub fn has_captured(root: pg_sys::Oid) -> bool {
    BUSY.with(Cell::get) && with(|tx| tx.captured.has(root))
}

/// What is to be announced at commit.
pub fn take_notices() -> Vec<Notice> {
    if !BUSY.with(Cell::get) {
        return Vec::new();
    }
    with(|tx| std::mem::take(&mut tx.notices)).into_iter().map(|(notice, _)| notice).collect()
}

/// Notes that the guard left something to do, or to check, for updated rows of a relation.
pub fn watch(relid: pg_sys::Oid) {
    with(|tx| tx.watched.insert(relid.to_u32()));
}

/// Has the guard seen nothing but changes of dirty rows in this transaction, as they were written?
pub fn is_quiet(relid: pg_sys::Oid) -> bool {
    with(|tx| !tx.watched.contains(&relid.to_u32()))
}

/// Notes that the guard let an UPDATE change the key of a partition's row; the row may be about
/// to move to another partition.
pub fn key_changes(moving: Moving) {
    with(|tx| tx.moving = Some(moving));
}

/// The guard sees a DELETE: is it the first half of a move between partitions?
pub fn maybe_moves(relid: pg_sys::Oid, tid: (u32, u16), root: pg_sys::Oid) {
    let (command, sub) = (xact::current_command(), xact::current_sub());
    with(|tx| {
        if let Some(moving) = tx.moving.take() {
            if moving.relid == relid && moving.tid == tid && moving.command == command {
                room(&mut tx.moved, 1);
                tx.moved.insert((root.to_u32(), moving.new_key), (moving.old_key, sub));
            }
        }
    });
}

/// The former key of a row that has just arrived in a partition.
pub fn moved_from(root: pg_sys::Oid, key: &str) -> Option<String> {
    with(|tx| {
        if tx.moved.is_empty() {
            return None;
        }
        tx.moved.remove(&(root.to_u32(), key.to_owned())).map(|(old, _)| old)
    })
}

/// Queues an announcement for the commit; rolled back with its subtransaction.
pub fn announce(notice: Notice) {
    let sub = xact::current_sub();
    with(|tx| tx.notices.push((notice, sub)));
}

/// Forgets which drafts are closed; called from a cache callback.
pub fn forget_closed() {
    CLOSED.with(|closed| {
        if let Ok(mut closed) = closed.try_borrow_mut() {
            closed.clear();
        }
    });
}

/// The transaction ended.
pub fn after_transaction() {
    if BUSY.with(|busy| busy.replace(false)) {
        let mut old = TRANSACTION.with(|tx| std::mem::take(&mut *tx.borrow_mut()));
        old.captured.abandon();
    }
}

/// A subtransaction ended: committed into `parent`, or rolled back.
pub fn after_sub(sub: SubId, parent: Option<SubId>) {
    if !BUSY.with(Cell::get) {
        return;
    }
    with(|tx| match parent {
        Some(parent) => {
            let relabel = |s: &mut SubId| {
                if *s == sub {
                    *s = parent;
                }
            };
            for draft in &mut tx.current {
                relabel(&mut draft.sub);
                draft.headers.iter_mut().for_each(|h| relabel(&mut h.1));
            }
            tx.touched.values_mut().for_each(|t| relabel(&mut t.1));
            tx.closed.iter_mut().for_each(|c| relabel(&mut c.1));
            tx.notices.iter_mut().for_each(|n| relabel(&mut n.1));
            tx.moved.values_mut().for_each(|m| relabel(&mut m.1));
            if tx.marks.last().is_some_and(|m| m.0 == sub) {
                let below = tx.marks.len().checked_sub(2).map(|i| tx.marks[i].0);
                if below == Some(parent) {
                    tx.marks.pop();
                } else if let Some(mark) = tx.marks.last_mut() {
                    mark.0 = parent;
                }
            }
        }
        None => {
            tx.current.retain(|d| d.sub != sub);
            tx.current.iter_mut().for_each(|d| d.headers.retain(|h| h.1 != sub));
            tx.touched.retain(|_, t| t.1 != sub);
            tx.closed.retain(|c| c.1 != sub);
            tx.notices.retain(|n| n.1 != sub);
            if tx.marks.last().is_some_and(|m| m.0 == sub) {
                if let Some((_, len)) = tx.marks.pop() {
                    tx.captured.truncate(len);
                }
            }
            tx.moved.retain(|_, m| m.1 != sub);
        }
    });
}
