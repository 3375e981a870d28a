//! The BEFORE trigger of every enabled table: rejects a write to a row the actor does not hold,
//! or lets it go on with the next version and the stamp of a draft. Runs once per written row.

use crate::actor;
use crate::capture;
use crate::codec;
use crate::draft::{self, Moving, Stamp, Touch};
use crate::error::{check, Error, Result};
use crate::holder::held_by;
use crate::ownership::{changes, draft_of, gives, is_owner, same, version_datum, version_of, Ownership};
use crate::pg::ffi::{attribute_name, trigger_depth};
use crate::pg::owner;
use crate::pg::trigger::{in_apply_worker, Call, Event, Values};
use crate::pg::xact;
use crate::settings;
use crate::table::{Claiming, Committing, Table};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::rc::Rc;

#[no_mangle]
pub extern "C" fn pg_finfo_rowclaim_guard() -> &'static pg_sys::Pg_finfo_record {
    const INFO: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &INFO
}

/// `BEFORE UPDATE OR DELETE … FOR EACH ROW`.
///
/// # Safety
/// Called by the trigger manager.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn rowclaim_guard(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let call = Call::new(fcinfo, "rowclaim.guard");
    if in_apply_worker() {
        return call.proceed();
    }
    check(match call.event() {
        Event::Update if call.is_before_row() => update(&call),
        Event::Delete if call.is_before_row() => delete(&call),
        _ => Err(Error::OperationRefused {
            table: crate::table::qualified_name(call.relid()),
            problem: "rowclaim.guard() is a BEFORE UPDATE OR DELETE row trigger".into(),
            hint: "enable_claims() creates it.".into(),
        }),
    })
}

/// The trigger that needs not see updates of which the guard knows how they are written.
const CAPTURE: &CStr = c"rowclaim_capture";

/// Says whether the capture trigger has to look at the row. In the statement that loads this library it is called anyway,
/// and finds that nobody wanted it.
fn queue_capture(call: &Call, wanted: bool) {
    if wanted {
        draft::watch(call.relid());
    }
    call.queue_update(CAPTURE, wanted);
}

/// Refuses the write unless `me` holds the row or may take it by writing.
fn check_hold(table: &Table, row: Values, stamp: &Stamp, me: &Rc<str>, free_is_fine: bool) -> Result<()> {
    let mine = is_owner(table, row, me);
    let key = || codec::key_text(table, row);
    let other = match (stamp, mine) {
        (Stamp::Other(who), _) => Some(who.clone()),
        (_, Some(false)) => Ownership::of(table, row).owner,
        _ => None,
    };
    match other {
        Some(who) => Err(held_by(table, &key(), &who, stamp, &Ownership::of(table, row))),
        None if mine.is_none() && *stamp == Stamp::Clean && table.claiming == Claiming::Required && !free_is_fine => {
            Err(Error::RowNotClaimed { row: table.row_name(&key(), owner::user()) })
        }
        None => Ok(()),
    }
}

/// A row of a `transaction` table that is not clean was touched by this transaction.
fn note_again(table: &Table, stamp: &Stamp) {
    if table.committing == Committing::Transaction && *stamp != Stamp::Clean {
        draft::touch_again(table.root);
    }
}

fn update(call: &Call) -> Result<pg_sys::Datum> {
    let table = Table::enabled(call.relid())?;
    let (old, new) = (call.row(), call.new_row());
    let me = actor::current();
    let (version, draft) = (version_of(&table, old).unwrap_or_default(), draft_of(&table, old));
    let changed = changes(&table, old, new);
    // A generated key column has its new value only once the row is written.
    let key_known = !changed.key && table.key.iter().all(|&index| table.column(index).is_some());
    let given = version_of(&table, new);
    let next = version.checked_add(1);
    let takes_owner = !same(&table, table.owner_column, old, new);
    let takes_draft = !same(&table, table.draft_column, old, new);
    // Who counts the version himself has changed the row: he must find his number there.
    let counts = changed.tracked || next.is_some() && given == next;
    let mut stamp = match counts {
        true => draft::status_to_write(&table, draft, &me),
        false => draft::status(&table, draft, &me),
    };
    note_again(&table, &stamp);
    let only_untracked = changed.untracked && !counts;
    if settings::enforce() && !only_untracked {
        check_hold(&table, old, &stamp, &me, takes_owner || takes_draft)?;
    }
    let row_name = || table.row_name(&codec::key_text(&table, old), owner::user());
    for (takes, column) in [(takes_owner, table.owner_column), (takes_draft, table.draft_column)] {
        if takes {
            return Err(Error::ProtectedColumn { row: row_name(), column: attribute_name(call.relid(), column) });
        }
    }
    if given != Some(version) && (given.is_none() || given != next) {
        return Err(Error::StaleRowVersion { row: row_name(), given, current: version });
    }
    // What follows, or shows only once the row is written, is for the AFTER trigger to judge.
    let unsettled = !key_known || !call.is_last_before_update();
    if !counts {
        queue_capture(call, unsettled);
        return Ok(call.proceed());
    }

    if stamp == Stamp::Mine && draft::touch((draft.unwrap_or_default(), table.journal_id)) == Touch::Closed {
        stamp = Stamp::Clean;
    }
    let id = match &stamp {
        Stamp::Clean => draft::current_id(&me),
        Stamp::Current if changed.key || changed.external => draft::start(&me),
        Stamp::Mine => {
            let old_id = draft.unwrap_or_default();
            let stays = draft::touch((old_id, table.journal_id)) == Touch::Keep && !changed.key && !changed.external;
            if stays {
                old_id
            } else {
                draft::current_id(&me)
            }
        }
        // Maintenance (rowclaim.enforce = off) joins the holder's draft.
        Stamp::Other(who) if changed.key || changed.external => draft::start(&who.as_str().into()),
        Stamp::Current | Stamp::Other(_) => draft.unwrap_or_default(),
    };
    if changed.key && table.relid != table.root {
        let tid = call.tid();
        draft::key_changes(Moving {
            relid: table.relid,
            tid: place(tid),
            command: xact::current_command(),
            old_key: codec::key_text(&table, old),
            new_key: codec::key_text(&table, new),
        });
    }
    let Some(next) = next else {
        return Err(Error::StaleRowVersion { row: row_name(), given, current: version });
    };
    // The image can be saved here, without an event, where the executor writes the row as it leaves this trigger or fails.
    // What a foreign key does to a row comes after the row that it follows.
    let first = stamp == Stamp::Clean
        && table.committing == Committing::Explicit
        && !unsettled
        && !call.is_partition()
        && trigger_depth() == 1
        && call.queue_update(CAPTURE, false);
    if first {
        capture::first_touch(&table, old, new, false, id, &me)?;
    } else {
        queue_capture(call, unsettled || draft != Some(id) || gives(&table, old, new));
    }
    if given == Some(next) && draft == Some(id) {
        return Ok(call.proceed());
    }
    let set = [(table.version_column, version_datum(&table, next)?), (table.draft_column, pg_sys::Datum::from(id))];
    Ok(call.proceed_with(&table.storage, set))
}

fn delete(call: &Call) -> Result<pg_sys::Datum> {
    let table = Table::enabled(call.relid())?;
    let old = call.row();
    let me = actor::current();
    let draft = draft_of(&table, old);
    let stamp = draft::status(&table, draft, &me);
    note_again(&table, &stamp);
    if settings::enforce() {
        check_hold(&table, old, &stamp, &me, false)?;
    }
    if let (Stamp::Mine, Some(id)) = (&stamp, draft) {
        draft::touch((id, table.journal_id));
    }
    if table.relid != table.root {
        draft::maybe_moves(table.relid, place(call.tid()), table.root);
    }
    Ok(call.proceed())
}

fn place(tid: pg_sys::ItemPointerData) -> (u32, u16) {
    ((u32::from(tid.ip_blkid.bi_hi) << 16) | u32::from(tid.ip_blkid.bi_lo), tid.ip_posid)
}
