//! The functions applications and DBAs call, from SQL arguments to the modules that do the work.

use crate::actor;
use crate::baseline;
use crate::claim::{Claimer, Outcome, Wish};
use crate::claims;
use crate::codec;
use crate::commit;
use crate::draft;
use crate::enable;
use crate::error::{shortened, Error, Result};
use crate::journal::{self, Journal};
use crate::key::{key_datums, Key};
use crate::lease::Ttl;
use crate::pg::call::SqlCall;
use crate::pg::ddl;
use crate::pg::ffi::role_name;
use crate::pg::memory::{check_in_loop, collect, room};
use crate::pg::owner::{user, AsOwner};
use crate::pg::row::{Look, Rows};
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::trigger::in_apply_worker;
use crate::pg::value::text_datum;
use crate::pg::xact;
use crate::release;
use crate::replay;
use crate::restore;
use crate::settings::{self, ACTOR_MAX};
use crate::sql_function;
use crate::table::Table;
use pgrx::pg_sys;
use pgrx::IntoDatum;

const DAY: i64 = 86_400_000_000;
/// Longer times to live and waits are taken for mistakes.
const LONGEST: i64 = 1_000 * YEAR;
/// A year of 365.25 days; a month is a twelfth of it.
const YEAR: i64 = 31_557_600_000_000;

pub fn invalid(parameter: &'static str, problem: impl Into<String>) -> Error {
    Error::InvalidParameter { parameter, problem: problem.into() }
}

/// The relation argument of a call.
pub fn target(call: SqlCall, n: usize) -> Result<pg_sys::Oid> {
    call.arg::<pg_sys::Oid>(n).ok_or_else(|| invalid("target", "the target table is null"))
}

/// An interval in microseconds, with months and days at their nominal length.
fn span(parameter: &'static str, (months, days, micros): (i32, i32, i64)) -> Result<i64> {
    let total = i64::from(months)
        .checked_mul(YEAR / 12)
        .and_then(|m| m.checked_add(i64::from(days) * DAY))
        .and_then(|t| t.checked_add(micros));
    total
        .filter(|t| t.abs() <= LONGEST)
        .ok_or_else(|| invalid(parameter, format!("{parameter} is longer than 1000 years")))
}

fn ttl(call: SqlCall, n: usize) -> Result<Option<Ttl>> {
    let Some(parts) = call.interval(n) else {
        return Ok(None);
    };
    if span("ttl", parts)? <= 0 {
        return Err(invalid("ttl", "ttl must be positive"));
    }
    Ok(Some(Ttl { months: parts.0, days: parts.1, micros: parts.2 }))
}

fn wait(call: SqlCall, n: usize) -> Result<i64> {
    let Some(parts) = call.interval(n) else {
        return Ok(0);
    };
    match span("wait", parts)? {
        wait if wait < 0 => Err(invalid("wait", "wait must not be negative")),
        wait => Ok(wait),
    }
}

/// The key argument: `text` overload or `anynonarray` overload.
fn key(call: SqlCall, n: usize, table: &Table) -> Result<Key> {
    Key::from_datum(table, call.datum(n), call.arg_type(n as i32))
}

fn fields(outcome: &Outcome) -> [Option<pg_sys::Datum>; 7] {
    [
        Some(text_datum(outcome.status)),
        outcome.owner.as_deref().map(text_datum),
        outcome.token.and_then(IntoDatum::into_datum),
        outcome.claimed_at.and_then(IntoDatum::into_datum),
        outcome.expires_at.and_then(IntoDatum::into_datum),
        outcome.row_version.and_then(IntoDatum::into_datum),
        Some(text_datum(&shortened(outcome.message.clone()))),
    ]
}

fn grant(call: SqlCall, wish: impl FnOnce() -> Result<Wish>) -> Result<pg_sys::Datum> {
    xact::writes(c"claim_row()");
    let mut claimer = Claimer::new(target(call, 0)?)?;
    let key = key(call, 1, &claimer.table())?;
    let wish = wish()?;
    let outcome = claimer.claim(&key, &wish)?;
    Ok(call.row(fields(&outcome)))
}

sql_function! {
    /// `claim_row(target, key, ttl, version, wait, reason)`.
    pg_finfo_rowclaim_claim_row, rowclaim_claim_row, |call| grant(call, || Ok(Wish {
        ttl: ttl(call, 2)?,
        version: call.arg(3),
        wait: wait(call, 4)?,
        reason: call.text(5),
        steal: false,
    }))
}

sql_function! {
    /// `steal_row(target, key, reason, ttl)`.
    pg_finfo_rowclaim_steal_row, rowclaim_steal_row, |call| grant(call, || Ok(Wish {
        ttl: ttl(call, 3)?,
        reason: call.text(2),
        steal: true,
        ..Wish::default()
    }))
}

/// The elements of an array argument with their type.
fn elements(call: SqlCall, n: usize) -> Option<(Vec<Option<pg_sys::Datum>>, pg_sys::Oid)> {
    let datum = call.datum(n)?;
    // SAFETY: the argument is declared anyarray; the arrays written belong to this call's context.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let typ = (*array).elemtype;
        let (mut len, mut by_value, mut align) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(typ, &mut len, &mut by_value, &mut align);
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(array, typ, len.into(), by_value, align, &mut values, &mut nulls, &mut count);
        let list = (0..count as usize).map(|i| (!*nulls.add(i)).then(|| *values.add(i)));
        Some((collect(list), typ))
    }
}

/// More keys than this in one call are refused: every claim is a row lock and a table row.
const KEYS_MAX: usize = 500_000;

fn claim_rows(call: SqlCall) -> Result<pg_sys::Datum> {
    xact::writes(c"claim_rows()");
    let relid = target(call, 0)?;
    let table = Claimer::new(relid)?.table();
    let Some((list, typ)) = elements(call, 1) else {
        return Err(invalid("keys", "the array of keys is null"));
    };
    if list.len() > KEYS_MAX {
        return Err(invalid("keys", format!("{} keys in one call are more than {KEYS_MAX}", list.len())));
    }
    let versions = elements(call, 3).map(|(versions, _)| versions);
    if versions.as_ref().is_some_and(|v| v.len() != list.len()) {
        return Err(invalid("versions", "versions must have one element per key"));
    }
    let mut keys = Vec::new();
    room(&mut keys, list.len());
    for datum in list {
        check_in_loop();
        keys.push(Key::from_datum(&table, datum, typ)?);
    }
    let wish = Wish { ttl: ttl(call, 2)?, wait: wait(call, 4)?, reason: call.text(5), ..Wish::default() };
    let set = call.set();
    claims::claim_rows(relid, keys, versions, &wish, |key, outcome| {
        let [status, owner, token, claimed_at, expires_at, row_version, message] = fields(outcome);
        let key = Some(crate::key::jsonb(key));
        set.push(&[key, status, owner, token, claimed_at, expires_at, row_version, message]);
    })?;
    Ok(call.null())
}

sql_function! {
    /// `claim_rows(target, keys, ttl, versions, wait, reason)`.
    pg_finfo_rowclaim_claim_rows, rowclaim_claim_rows, |call| claim_rows(call)
}

sql_function! {
    /// `release_row(target, key)`.
    pg_finfo_rowclaim_release_row, rowclaim_release_row, |call| (|| {
        xact::writes(c"release_row()");
        let table = Table::enabled(target(call, 0)?)?;
        let key = key(call, 1, &table)?;
        Ok(call.value(release::release_row(table.root, &key)?))
    })()
}

sql_function! {
    /// `release_rows(target)`.
    pg_finfo_rowclaim_release_rows, rowclaim_release_rows, |call| (|| {
        xact::writes(c"release_rows()");
        Ok(call.value(release::release_rows(call.arg(0))?))
    })()
}

sql_function! {
    /// `renew_claims(ttl, target)`.
    pg_finfo_rowclaim_renew_claims, rowclaim_renew_claims, |call| (|| {
        xact::writes(c"renew_claims()");
        Ok(call.value(release::renew_claims(ttl(call, 0)?, call.arg(1))?))
    })()
}

sql_function! {
    /// `release_actor(actor, reason)`.
    pg_finfo_rowclaim_release_actor, rowclaim_release_actor, |call| (|| {
        xact::writes(c"release_actor()");
        let who = call.text(0).ok_or_else(|| invalid("actor", "the actor is null"))?;
        if who.is_empty() || who.len() > ACTOR_MAX || who.chars().any(char::is_control) {
            return Err(invalid("actor", "an actor is 1 to 255 bytes without control characters"));
        }
        Ok(call.value(release::release_actor(&who, call.text(1).as_deref())?))
    })()
}

fn journal_name(call: SqlCall, n: usize) -> Result<String> {
    call.text(n).ok_or_else(|| invalid("journal", "the journal is null"))
}

sql_function! {
    /// `commit_changes(message, base, journal, release)`.
    pg_finfo_rowclaim_commit_changes, rowclaim_commit_changes, |call| (|| {
        xact::writes(c"commit_changes()");
        let base: Option<i64> = call.arg(1);
        if base.is_some_and(|base| base < 0) {
            return Err(invalid("base", "base must not be negative"));
        }
        let seq = commit::commit_changes(call.text(0), base, &journal_name(call, 2)?, call.arg(3).unwrap_or(false))?;
        Ok(call.value(seq))
    })()
}

sql_function! {
    /// `discard_changes(journal, target, key)`.
    pg_finfo_rowclaim_discard_changes, rowclaim_discard_changes, |call| (|| {
        xact::writes(c"discard_changes()");
        let key = call.text(2);
        Ok(call.value(restore::discard_changes(&journal_name(call, 0)?, call.arg(1), key.as_deref())?))
    })()
}

sql_function! {
    /// `restore_stash(id)`.
    pg_finfo_rowclaim_restore_stash, rowclaim_restore_stash, |call| (|| {
        xact::writes(c"restore_stash()");
        let id = call.arg(0).ok_or_else(|| invalid("id", "the id is null"))?;
        Ok(call.value(restore::restore_stash(id)?))
    })()
}

sql_function! {
    /// `current_actor()`.
    pg_finfo_rowclaim_current_actor, rowclaim_current_actor, |call| Ok(call.value(actor::current().to_string()))
}

sql_function! {
    /// The setting `rowclaim.enforce`, also when the library was not loaded before.
    pg_finfo_rowclaim_enforced, rowclaim_enforced, |call| Ok(call.value(settings::enforce()))
}

sql_function! {
    /// The default of the draft column: this transaction's draft id.
    pg_finfo_rowclaim_draft_stamp, rowclaim_draft_stamp, |call| {
        // Replicated rows are clean, also where only the column's default has come along.
        match in_apply_worker() {
            true => Ok(call.null()),
            false => Ok(call.value(draft::current_id(&actor::current()))),
        }
    }
}

sql_function! {
    /// `enable_claims(…)`.
    pg_finfo_rowclaim_enable_claims, rowclaim_enable_claims, |call| (|| {
        xact::writes(c"enable_claims()");
        let name = |n, what| call.text(n).ok_or_else(|| invalid(what, format!("{what} is null")));
        let column = |n, what| {
            call.datum(n)
                .map(enable::name_text)
                .filter(|name| !name.is_empty())
                .ok_or_else(|| invalid(what, format!("{what} is null or empty")))
        };
        let untracked = elements(call, 4)
            .map(|(list, _)| list.into_iter().flatten().map(enable::name_text).collect())
            .unwrap_or_default();
        enable::enable(target(call, 0)?, &enable::Wanted {
            claiming: name(1, "claiming")?,
            committing: name(2, "committing")?,
            journal: name(3, "journal")?,
            untracked,
            owner: column(5, "owner_column")?,
            version: column(6, "version_column")?,
            draft: column(7, "draft_column")?,
        })?;
        Ok(call.null())
    })()
}

sql_function! {
    /// `disable_claims(target, drop_columns, force)`.
    pg_finfo_rowclaim_disable_claims, rowclaim_disable_claims, |call| (|| {
        xact::writes(c"disable_claims()");
        enable::disable(target(call, 0)?, call.arg(1).unwrap_or(false), call.arg(2).unwrap_or(false))?;
        Ok(call.null())
    })()
}

sql_function! {
    /// `create_journal(name, require_current)`.
    pg_finfo_rowclaim_create_journal, rowclaim_create_journal, |call| (|| {
        xact::writes(c"create_journal()");
        let name = call.text(0).ok_or_else(|| invalid("name", "the name is null"))?;
        enable::create_journal(&name, call.arg(1).unwrap_or(false))?;
        Ok(call.null())
    })()
}

sql_function! {
    /// `seal_journal(journal)`.
    pg_finfo_rowclaim_seal_journal, rowclaim_seal_journal, |call| (|| {
        xact::writes(c"seal_journal()");
        let _owner = AsOwner::enter();
        Ok(call.value(Journal::find(&journal_name(call, 0)?)?.seal_now()?))
    })()
}

sql_function! {
    /// `rowclaim.seal_pruned(journal, pruned)`.
    pg_finfo_rowclaim_seal_pruned, rowclaim_seal_pruned, |call| (|| {
        let _owner = AsOwner::enter();
        Ok(call.value(Journal::find(&journal_name(call, 0)?)?.seal_pruned(call.arg::<i64>(1).unwrap_or_default())?))
    })()
}

sql_function! {
    /// `rowclaim.write_void(journal_id, seq)`: for the background worker of a failed commit.
    pg_finfo_rowclaim_write_void, rowclaim_write_void, |call| (|| {
        let _owner = AsOwner::enter();
        let journal = Journal::with_id(call.arg::<i32>(0).unwrap_or_default())?;
        journal.write_void(call.arg::<i64>(1).unwrap_or_default())?;
        Ok(call.null())
    })()
}

sql_function! {
    /// `rowclaim.is_loaded()`: true.
    pg_finfo_rowclaim_is_loaded, rowclaim_is_loaded, |call| Ok(call.value(true))
}

sql_function! {
    /// `baseline_table(target)`.
    pg_finfo_rowclaim_baseline_table, rowclaim_baseline_table, |call| (|| {
        xact::writes(c"baseline_table()");
        Ok(call.value(baseline::baseline_table(target(call, 0)?)?))
    })()
}

sql_function! {
    /// `wait_for_changeset(seq, journal, timeout)`.
    pg_finfo_rowclaim_wait_for_changeset, rowclaim_wait_for_changeset, |call| (|| {
        let seq: i64 = call.arg(0).ok_or_else(|| invalid("seq", "seq is null"))?;
        let timeout = call.interval(2).map(|parts| span("timeout", parts)).transpose()?;
        if timeout.is_some_and(|timeout| timeout < 0) {
            return Err(invalid("timeout", "timeout is negative"));
        }
        Ok(call.value(replay::wait_for(&journal_name(call, 1)?, seq, timeout)?))
    })()
}

sql_function! {
    /// Writes the `void` entries that are due before a consumer reads.
    pg_finfo_rowclaim_fill_gaps, rowclaim_fill_gaps, |call| (|| {
        let _owner = AsOwner::enter();
        let journal = Journal::find(&journal_name(call, 0)?)?;
        Ok(call.value(journal.fill_gaps(journal.last_entry())?))
    })()
}

sql_function! {
    /// `verify_journal(journal)`.
    pg_finfo_rowclaim_verify_journal, rowclaim_verify_journal, |call| (|| {
        let findings = journal::verify(&journal_name(call, 0)?)?;
        let set = call.set();
        for finding in findings {
            set.push(&[finding.seq.into_datum(), finding.part.into_datum(), Some(text_datum(&finding.problem))]);
        }
        Ok(call.null())
    })()
}

/// The name of the role a call runs as.
pub fn caller_name() -> String {
    role_name(user())
}

fn pull(call: SqlCall) -> Result<pg_sys::Datum> {
    xact::writes(c"pull_changes()");
    let caller = caller_name();
    let set = call.set();
    // The position may move and gaps may be filled: a statement that writes.
    spi::query(
        "SELECT seq, part, parts, actor, committed_at, message, changes
         FROM rowclaim.pull($1::text::name, $2, $3, $4)",
        &[
            Arg::str(&caller),
            Arg::text(call.text(0)),
            Arg::text(journal_name(call, 1)?),
            Arg(pg_sys::INT4OID, call.datum(2)),
        ],
        Sees::Latest,
        |row| set.push(&row.datums(7)),
    );
    Ok(call.null())
}

sql_function! {
    /// `pull_changes(consumer, journal, max_changesets)`.
    pg_finfo_rowclaim_pull_changes, rowclaim_pull_changes, |call| pull(call)
}

sql_function! {
    /// `ack_changes(consumer, seq, journal)`.
    pg_finfo_rowclaim_ack_changes, rowclaim_ack_changes, |call| (|| {
        xact::writes(c"ack_changes()");
        let caller = caller_name();
        spi::run("SELECT rowclaim.ack($1::text::name, $2, $3, $4)", &[
            Arg::str(&caller),
            Arg::text(call.text(0)),
            Arg::i64(call.arg::<i64>(1)),
            Arg::text(journal_name(call, 2)?),
        ]);
        Ok(call.null())
    })()
}

sql_function! {
    /// `detach_consumer(consumer, journal)`.
    pg_finfo_rowclaim_detach_consumer, rowclaim_detach_consumer, |call| (|| {
        xact::writes(c"detach_consumer()");
        let detached = spi::first(
            "SELECT rowclaim.detach($1::text::name, $2, $3)",
            &[Arg::str(&caller_name()), Arg::text(call.text(0)), Arg::text(journal_name(call, 1)?)],
            Sees::Latest,
            |row| row.get::<bool>(1),
        );
        Ok(call.value(detached.flatten().unwrap_or(false)))
    })()
}

sql_function! {
    /// Filters the changes of a journal entry for the caller.
    pg_finfo_rowclaim_visible_changes, rowclaim_visible_changes, |call| {
        let caller = caller_name();
        let visible = call.datum(0).and_then(|changes| spi::first(
            "SELECT rowclaim.visible_changes($1::text::name, $2, false)::text",
            &[Arg::str(&caller), Arg(pg_sys::JSONOID, Some(changes))],
            Sees::Latest,
            |row| row.text(1),
        ));
        Ok(visible.flatten().map_or_else(|| call.null(), |text| text_datum(&text)))
    }
}

sql_function! {
    /// The present row under a canonical key as JSON.
    pg_finfo_rowclaim_row_image, rowclaim_row_image, |call| (|| {
        let key = call.text(1).ok_or_else(|| invalid("key", "the key is null"))?;
        let mut rows = Rows::open(target(call, 0)?)?;
        let datums = key_datums(&rows.table, &key)?;
        if rows.find(&datums, Look::Latest)?.is_none() {
            return Ok(call.null());
        }
        let mut image = String::new();
        let leaf = rows.leaf_table();
        codec::push_row(&mut image, &leaf, rows.values(), |_, _| true);
        Ok(text_datum(&image))
    })()
}

sql_function! {
    /// A row image as the present column types write it.
    pg_finfo_rowclaim_recode_image, rowclaim_recode_image, |call| (|| {
        let table = Table::enabled(target(call, 0)?)?;
        let image = call.text(1).ok_or_else(|| invalid("image", "the image is null"))?;
        Ok(text_datum(&codec::recode(&table, &image)?))
    })()
}

sql_function! {
    /// Does an ALTER TABLE give the column new values?
    pg_finfo_rowclaim_computes, rowclaim_computes, |call| {
        let column = call.datum(1).map(enable::name_text);
        Ok(call.value(call.datum(0).zip(column).is_some_and(|(command, column)| ddl::computes(command, &column))))
    }
}

sql_function! {
    /// Does any row of a relation have an owner or a stamp? Asked as the relation's owner.
    pg_finfo_rowclaim_is_owned, rowclaim_is_owned, |call| (|| {
        let name = |n| call.datum(n).map(enable::name_text).unwrap_or_default();
        Ok(call.value(enable::is_owned(target(call, 0)?, &name(1), &name(2))))
    })()
}
