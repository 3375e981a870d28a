//! Replay on a replica: entries that logical replication brings into `rowclaim.journal` are applied
//! to the tables in the order of their numbers, in the transaction that brings them.
//!
//! An entry whose turn it is is applied as it arrives; one whose predecessors are missing waits in
//! the journal, and is looked at again before a transaction that brings others commits. So whatever
//! has arrived without a gap has been applied: the journal itself is the position, and an entry is
//! applied exactly once whatever happens. Constraints hold at the end of every changeset; rows that
//! swap unique values are set aside on the way.

mod baseline;
mod divergence;
mod entries;
mod rows;
mod state;

use crate::error::{check, Error, Result};
use crate::journal::Part;
use crate::pg::owner::AsOwner;
use crate::pg::session::Kept;
use crate::pg::spi::{self, Sees};
use crate::pg::target::Target;
use crate::pg::trigger::{in_apply_worker, in_parallel_worker, Call};
use crate::pg::value::text;
use crate::pg::xact::ActiveSnapshot;
use crate::settings::{self, Mismatch, Missing};
use baseline::Baseline;
use divergence::Place;
use pgrx::pg_sys;
use pgrx::prelude::*;
use state::{is_known, State};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

pub use state::{forget, wait_for};

thread_local! {
    // The journals this transaction has received entries of.
    static ACTIVE: Kept<Vec<Replay>> = const { Kept::new(Vec::new()) };
    // The entries that this transaction of a parallel worker has received, by journal.
    static RECEIVED: Kept<BTreeMap<String, Vec<i64>>> = const { Kept::new(BTreeMap::new()) };
    // Is this a worker that copies whole tables?
    static COPIES: Cell<Option<bool>> = const { Cell::new(None) };
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

/// What belongs to the transaction that has ended.
pub fn after_transaction(aborted: bool) {
    let active = ACTIVE
        .with(|active| active.try_borrow_mut().map(|mut active| std::mem::take(&mut *active)).unwrap_or_default());
    RECEIVED.with(|received| received.borrow_mut().clear());
    if aborted {
        forget(pg_sys::InvalidOid);
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
        replay.keep();
    }
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
