//! The AFTER triggers of every enabled table: they save the base image of a row at its first touch, where the guard
//! could not tell yet how it is written, and refuse what slipped past the guard (forged ownership columns, triggers that
//! fire after it).

use crate::actor;
use crate::codec;
use crate::draft::{self, Stamp, Touch};
use crate::entry::{by_base_key, entries, Entry};
use crate::error::{check, Error, Result};
use crate::holder::{self, held_by};
use crate::image;
use crate::key::key_datums;
use crate::once;
use crate::ownership::{changes, gives, same, version_datum, version_of, Ownership};
use crate::pending;
use crate::pg::ffi::attribute_name;
use crate::pg::owner;
use crate::pg::row::{Look, Rows};
use crate::pg::scan::scan_all;
use crate::pg::spi::{self, Arg};
use crate::pg::store::{Found, Store};
use crate::pg::trigger::{in_apply_worker, Call, Event, Values};
use crate::pg::value::is_external;
use crate::pg::value::text_datum;
use crate::pg::xact;
use crate::settings;
use crate::table::{Committing, Table};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::rc::Rc;

#[no_mangle]
pub extern "C" fn pg_finfo_rowclaim_capture() -> &'static pg_sys::Pg_finfo_record {
    const INFO: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &INFO
}

/// `AFTER INSERT OR UPDATE OR DELETE … FOR EACH ROW` and `BEFORE TRUNCATE`.
///
/// # Safety
/// Called by the trigger manager.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn rowclaim_capture(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let call = Call::new(fcinfo, "rowclaim.capture");
    if !in_apply_worker() {
        check(match call.event() {
            Event::Insert if call.is_after_row() => insert(&call),
            Event::Update if call.is_after_row() => update(&call),
            Event::Delete if call.is_after_row() => delete(&call),
            Event::Truncate => truncate(&call),
            _ => {
                Err(refused(&call, "rowclaim.capture() is an AFTER row trigger".into(), "enable_claims() creates it."))
            }
        });
    }
    pg_sys::Datum::from(0)
}

fn refused(call: &Call, problem: String, hint: &str) -> Error {
    let root = Table::find(call.relid()).ok().flatten().map_or(call.relid(), |table| table.root);
    Error::OperationRefused { table: crate::table::qualified_name(root), problem, hint: hint.into() }
}

/// The base image of a row. Values stored out of line that `new` keeps are left out: the draft
/// has not touched them.
fn base_image(table: &Table, old: Values, new: Option<Values>) -> String {
    let mut image = String::with_capacity(256);
    codec::push_row(&mut image, table, old, |index, column| {
        let Some(new) = new else { return true };
        if column.storage.len != -1 {
            return true;
        }
        match (old.get(index), new.get(index)) {
            // SAFETY: non-null varlenas of the column.
            (Some(a), Some(b)) => unsafe { !(is_external(a) && crate::pg::value::same_image(column.storage, a, b)) },
            _ => true,
        }
    });
    codec::check_size(table, &image);
    image
}

fn record_base(table: &Table, key: &str, base: Option<String>, version: Option<i64>, change: Option<String>) {
    draft::record_base(table, &actor::current(), key, base.as_deref(), version, change.as_deref());
}

/// The entry under a key, to be changed by the actor; `None` when there is none or its draft was
/// committed meanwhile. Somebody else's entry (of a deleted row) is `row_held`.
fn own_entry(table: &Table, store: &Store, key: &str, me: &Rc<str>) -> Result<Option<Found>> {
    let Some(found) = store.find(table.root, key) else { return Ok(None) };
    let draft = Entry::of(&found).draft;
    let stamp = draft::status(table, Some(draft), me);
    match &stamp {
        Stamp::Other(who) if settings::enforce() => {
            let held = Ownership { owner: None, version: 0, draft: Some(draft) };
            Err(held_by(table, key, who, &stamp, &held))
        }
        Stamp::Mine if draft::touch((draft, table.journal_id)) != Touch::Keep => {
            // Another session of the actor has the draft and may be committing it: wait for its word.
            let still = spi::run(
                "SELECT 1 FROM rowclaim.draft_row WHERE relid = $1 AND key = $2 AND draft = $3 FOR UPDATE",
                &[Arg::oid(table.root), Arg::str(key), Arg::i64(draft)],
            );
            Ok(if still > 0 { store.find(table.root, key) } else { None })
        }
        _ => Ok(Some(found)),
    }
}

/// A key that a row has left in somebody else's draft is theirs until they commit. Returns the version with which a row
/// has left it in a draft of mine.
fn check_base_key(table: &Table, store: &Store, key: &str, me: &Rc<str>) -> Result<Option<i64>> {
    let Some(found) = by_base_key(store, table.root, key) else { return Ok(None) };
    let Entry { draft, version, .. } = Entry::of(&found);
    let stamp = draft::status(table, Some(draft), me);
    match &stamp {
        Stamp::Other(who) if settings::enforce() => {
            let held = Ownership { owner: None, version: 0, draft: Some(draft) };
            Err(held_by(table, key, who, &stamp, &held))
        }
        _ => Ok(version),
    }
}

fn insert(call: &Call) -> Result<()> {
    let table = match Table::enabled(call.relid()) {
        // The rows are as they were dumped.
        Err(_) if call.is_being_restored() => return Ok(()),
        table => table?,
    };
    let row = call.row();
    let me = actor::current();
    let key = codec::key_text(&table, row);
    let given = Ownership::of(&table, row);
    let protected = |index: usize| Error::ProtectedColumn {
        row: table.row_name(&key, owner::user()),
        column: attribute_name(call.relid(), index),
    };
    let moved = draft::moved_from(table.root, &key);
    if let Some(owner) = &given.owner {
        if moved.is_none() || **owner != *me && settings::enforce() {
            return Err(protected(table.owner_column));
        }
    }
    // New rows start at the column's default; optimistic ORMs write 0 or 1 themselves.
    if moved.is_none() && ![0, 1, table.version_default].contains(&given.version) {
        return Err(protected(table.version_column));
    }
    let id = match given.draft {
        Some(id) if draft::is_current(id) => id,
        Some(_) => return Err(protected(table.draft_column)),
        None => draft::current_id(&me),
    };
    draft::ensure_header(&table, id);
    if let Some(old_key) = moved {
        return rekey(&table, &old_key, &key, id, None, &me);
    }
    if table.committing == Committing::Transaction {
        record_base(&table, &key, None, None, once::inserted(&table, row));
        // The claim of a row that this transaction has deleted serves the one that takes its place.
        let owner = if draft::has_vacated(table.root) { holder::owner(table.root, &key) } else { None };
        return owner.map_or(Ok(()), |owner| complete(&table, &key, &[(Own::Owner, Some(text_datum(&owner)))]));
    }
    if given.draft.is_none() {
        return enter(&table, &key, id, &me, Some((Own::Draft, Some(pg_sys::Datum::from(id)))));
    }
    pending::add(table.root, key, Entry::inserted(id, table.relid), &me)?;
    if call.has_company_after_insert() {
        // It finds the row completed.
        pending::flush()?;
    }
    Ok(())
}

/// Enters a new row whose key may be that of an entry.
pub fn enter_new(leaf: pg_sys::Oid, key: &str, id: i64, me: &Rc<str>) -> Result<()> {
    enter(&Table::enabled(leaf)?, key, id, me, None)
}

/// Enters a new row, or makes the entry of a deleted one its own; `unstamped`: it still lacks its stamp.
fn enter(
    table: &Rc<Table>,
    key: &str,
    id: i64,
    me: &Rc<str>,
    unstamped: Option<(Own, Option<pg_sys::Datum>)>,
) -> Result<()> {
    let store = entries();
    let mut set = Vec::from_iter(unstamped);
    match own_entry(table, &store, key, me)? {
        None => {
            let left = check_base_key(table, &store, key, me)?;
            store.insert(&Entry::inserted(id, table.relid).row(table.root, key));
            if let Some(version) = left.and_then(|v| v.checked_add(1)) {
                set.push((Own::Version, Some(version_datum(table, version)?)));
            }
        }
        Some(found) => {
            let former = Entry::of(&found);
            let op = if former.base.is_some() { b'u' } else { b'i' };
            let version = former.version;
            store.update(&found, &Entry { op, draft: id, ..former }.row(table.root, key));
            // The row is the former one changed: its claim and its version go on.
            if let Some(owner) = holder::owner(table.root, key).filter(|owner| **owner == **me) {
                set.push((Own::Owner, Some(text_datum(&owner))));
            }
            if let Some(version) = version.and_then(|v| v.checked_add(1)) {
                set.push((Own::Version, Some(version_datum(table, version)?)));
            }
        }
    }
    if set.is_empty() {
        Ok(())
    } else {
        complete(table, key, &set)
    }
}

/// The ownership columns by their role.
#[derive(Clone, Copy)]
enum Own {
    Owner,
    Version,
    Draft,
}

/// Writes ownership columns that an INSERT left out into the row it made.
fn complete(table: &Rc<Table>, key: &str, set: &[(Own, Option<pg_sys::Datum>)]) -> Result<()> {
    xact::bump_command();
    let mut rows = Rows::open(table.root)?;
    if rows.find(&key_datums(&rows.table, key)?, Look::Latest)?.is_some() {
        let leaf = rows.leaf_table();
        let column = |own| match own {
            Own::Owner => leaf.owner_column,
            Own::Version => leaf.version_column,
            Own::Draft => leaf.draft_column,
        };
        let set: Vec<_> = set.iter().map(|(own, value)| (column(*own), *value)).collect();
        rows.write(&set);
        xact::bump_command();
    }
    Ok(())
}

fn update(call: &Call) -> Result<()> {
    if draft::is_quiet(call.relid()) {
        return Ok(());
    }
    let table = Table::enabled(call.relid())?;
    let (old, new) = (call.row(), call.new_row());
    let me = actor::current();
    let next = version_of(&table, old).and_then(|version| version.checked_add(1));
    if next.is_some()
        && version_of(&table, new) == next
        && same(&table, table.draft_column, old, new)
        && same(&table, table.owner_column, old, new)
        && table.key.iter().all(|&index| same(&table, index, old, new))
        && !gives(&table, old, new)
        && draft::status(&table, old.get(table.draft_column).map(|d| d.value() as i64), &me) != Stamp::Clean
    {
        // Dirty before, and its draft knows what it was.
        return Ok(());
    }
    let (before, after) = (Ownership::of(&table, old), Ownership::of(&table, new));
    let old_key = codec::key_text(&table, old);
    let protected = |index: usize| Error::ProtectedColumn {
        row: table.row_name(&old_key, owner::user()),
        column: attribute_name(call.relid(), index),
    };
    if before.owner != after.owner {
        return Err(protected(table.owner_column));
    }
    if after.version != before.version && Some(after.version) != before.version.checked_add(1) {
        return Err(protected(table.version_column));
    }
    let changed = changes(&table, old, new);
    let stamp = draft::status(&table, before.draft, &me);
    let first = stamp == Stamp::Clean;
    if first && changed.tracked && before.draft == after.draft && after.version != before.version {
        return Err(protected(table.draft_column));
    }
    if before.draft == after.draft || changed.tracked && after.version == before.version {
        if changed.tracked && after.version == before.version || changed.key {
            return Err(refused(
                call,
                format!("a trigger that fires after rowclaim_guard changed {}", table.name()),
                "Rename that trigger so that its name sorts before rowclaim_guard.",
            ));
        }
        return if changed.tracked && gives(&table, old, new) { mark_giving(&table, &old_key) } else { Ok(()) };
    }
    let id = match after.draft {
        Some(id) if draft::is_current(id) => id,
        _ => return Err(protected(table.draft_column)),
    };
    let new_key = if changed.key { codec::key_text(&table, new) } else { old_key.clone() };
    if table.committing == Committing::Transaction {
        if first || changed.external {
            let base = base_image(&table, old, (!changed.key).then_some(new));
            let change = if first && !changed.key { once::updated(&table, old, new) } else { None };
            record_base(&table, &old_key, Some(base), first.then_some(before.version), change);
        }
        return if changed.key { rekey(&table, &old_key, &new_key, id, None, &me) } else { Ok(()) };
    }
    if first {
        first_touch(&table, old, new, changed.key, id, &me)?;
        return if changed.key { rekey(&table, &old_key, &new_key, id, None, &me) } else { Ok(()) };
    }
    draft::ensure_header(&table, id);
    let images = Images { old, new, version: before.version, inserted_here: stamp == Stamp::Current };
    rekey(&table, &old_key, &new_key, id, Some(images), &me)
}

/// Saves what a clean row was before the UPDATE that stamps it with the draft `id`.
pub fn first_touch(table: &Table, old: Values, new: Values, rekeyed: bool, id: i64, me: &Rc<str>) -> Result<()> {
    draft::ensure_header(table, id);
    // A row that moves to another key may leave its image there, where nothing completes it.
    let base = base_image(table, old, (!rekeyed).then_some(new));
    let version = version_of(table, old).unwrap_or_default();
    let entry = Entry::touched(b'u', id, base, Some(version), table.relid, gives(table, old, new));
    pending::add(table.root, codec::key_text(table, old), entry, me)
}

/// Notes that of a row that is dirty already. A row this statement has inserted gives nothing up.
fn mark_giving(table: &Table, key: &str) -> Result<()> {
    let store = entries();
    if let Some(found) = store.find(table.root, key) {
        let entry = Entry::of(&found);
        if !entry.gives && entry.base.is_some() {
            store.update(&found, &Entry { gives: true, ..entry }.row(table.root, key));
        }
    }
    Ok(())
}

/// The two versions of an updated row.
struct Images {
    old: Values,
    new: Values,
    version: i64,
    /// The row may have been inserted by the running statement, its own event still to come.
    inserted_here: bool,
}

/// The entry of a row follows it to a new key, to another draft, or gains values stored out of
/// line that it did not have.
fn rekey(table: &Table, old_key: &str, new_key: &str, id: i64, images: Option<Images>, me: &Rc<str>) -> Result<()> {
    if table.committing == Committing::Transaction {
        if old_key != new_key {
            draft::vacate(table.root);
            holder::exchange(table.root, old_key, new_key, Some(old_key));
        }
        draft::record_rekey(table, old_key, new_key);
        return Ok(());
    }
    let store = entries();
    let giving = images.as_ref().is_some_and(|images| gives(table, images.old, images.new));
    if old_key != new_key {
        if let Some(version) = check_base_key(table, &store, new_key, me)? {
            exceed(table, new_key, version)?;
        }
    }
    let Some(found) = own_entry(table, &store, old_key, me)? else {
        let (base, version) = match images {
            // Another session committed the draft: this is the first touch of a clean row.
            Some(Images { old, new, version, inserted_here: false }) => {
                (Some(base_image(table, old, Some(new))), Some(version))
            }
            // The row was inserted by this statement: its own event is to come.
            _ => (None, None),
        };
        if store.find(table.root, new_key).is_none() {
            let mut entry = match base {
                Some(base) => Entry::touched(b'u', id, base, version, table.relid, giving),
                None => Entry::inserted(id, table.relid),
            };
            entry.base_key = (entry.base.is_some() && old_key != new_key).then(|| old_key.to_owned());
            store.insert(&entry.row(table.root, new_key));
        }
        if old_key != new_key {
            holder::rekey(table.root, old_key, new_key);
        }
        return Ok(());
    };
    let mut entry = Entry { draft: id, ..Entry::of(&found) };
    if entry.op == b'd' {
        entry.op = if entry.base.is_some() { b'u' } else { b'i' };
    }
    entry.gives |= giving;
    if let (Some(base), Some(images)) = (&entry.base, images) {
        entry.base = Some(match old_key == new_key {
            true => add_missing(table, base, images.old, images.new)?,
            false => image::fill_missing(base, &base_image(table, images.old, None))?,
        });
    }
    let taken = if old_key == new_key { None } else { own_entry(table, &store, new_key, me)? };
    let Some(taken) = taken else {
        if old_key != new_key {
            // The key the row had when its draft began stays taken.
            let base_key = entry.base_key.take().or_else(|| entry.base.is_some().then(|| old_key.to_owned()));
            entry.base_key = base_key.filter(|base_key| base_key != new_key);
            holder::rekey(table.root, old_key, new_key);
        }
        store.update(&found, &entry.row(table.root, new_key));
        return Ok(());
    };
    let tombstone = Entry::of(&taken);
    if let Some(version) = tombstone.version {
        exceed(table, new_key, version)?;
    }
    let op = if tombstone.base.is_some() { b'u' } else { b'i' };
    store.update(&taken, &Entry { op, draft: id, ..tombstone }.row(table.root, new_key));
    // The row takes the place of the deleted one; what it was is now the deleted one.
    let mut former = entry.base_key.take().unwrap_or_else(|| old_key.to_owned());
    while entry.base.is_some() {
        let gives = !table.giving().is_empty();
        let Some(there) = own_entry(table, &store, &former, me)?.filter(|_| former != old_key) else {
            store.update(&found, &Entry { op: b'd', gives, ..entry }.row(table.root, &former));
            holder::exchange(table.root, old_key, new_key, Some(&former));
            return Ok(());
        };
        // A row has moved there meanwhile: it takes that place in turn.
        let mut moved = Entry::of(&there);
        std::mem::swap(&mut moved.base, &mut entry.base);
        std::mem::swap(&mut moved.version, &mut entry.version);
        std::mem::swap(&mut moved.leaf, &mut entry.leaf);
        let next = moved.base_key.take().unwrap_or_else(|| former.clone());
        store.update(&there, &Entry { op: b'u', gives, ..moved }.row(table.root, &former));
        former = next;
    }
    store.delete(&found);
    holder::exchange(table.root, old_key, new_key, None);
    Ok(())
}

/// The row that is at a key now has a higher version than the one before, lest who has read that takes it for the same.
fn exceed(table: &Table, key: &str, version: i64) -> Result<()> {
    xact::bump_command();
    let mut rows = Rows::open(table.root)?;
    if rows.find(&key_datums(&rows.table, key)?, Look::Latest)?.is_some() {
        let leaf = rows.leaf_table();
        let lower = version_of(&leaf, rows.values()).is_some_and(|present| present <= version);
        if let (true, Some(next)) = (lower, version.checked_add(1)) {
            rows.write(&[(leaf.version_column, Some(version_datum(&leaf, next)?))]);
            xact::bump_command();
        }
    }
    Ok(())
}

/// Adds the former values of changed columns that a base image lacks.
fn add_missing(table: &Table, base: &str, old: Values, new: Values) -> Result<String> {
    let image = image::parse_image(base)?;
    let has = |name: &str| image.iter().any(|(n, _)| n == name);
    let mut more = String::new();
    codec::push_row(&mut more, table, old, |index, column| {
        let differs = match (old.get(index), new.get(index)) {
            (None, None) => false,
            // SAFETY: non-null values of the column.
            (Some(a), Some(b)) => unsafe { !crate::pg::value::same_image(column.storage, a, b) },
            _ => true,
        };
        differs && !has(&column.name)
    });
    Ok(image::merge_objects(base, &more))
}

fn delete(call: &Call) -> Result<()> {
    let table = Table::enabled(call.relid())?;
    delete_row(&table, call.row(), &actor::current())
}

fn delete_row(table: &Table, row: Values, me: &Rc<str>) -> Result<()> {
    let key = codec::key_text(table, row);
    let held = Ownership::of(table, row);
    let stamp = draft::status(table, held.draft, me);
    if table.committing == Committing::Transaction {
        draft::vacate(table.root);
        if stamp == Stamp::Clean {
            record_base(table, &key, Some(base_image(table, row, None)), version_of(table, row), None);
        } else {
            // The image may lack values stored out of line; it gains them here.
            record_base(table, &key, Some(base_image(table, row, None)), None, None);
        }
        return Ok(());
    }
    let giving = !table.giving().is_empty();
    let first = |key| {
        let id = draft::current_id(me);
        draft::ensure_header(table, id);
        let base = base_image(table, row, None);
        let entry = Entry::touched(b'd', id, base, version_of(table, row), table.relid, giving);
        pending::add(table.root, key, entry, me)
    };
    if stamp == Stamp::Clean {
        return first(key);
    }
    let store = entries();
    let Some(found) = own_entry(table, &store, &key, me)? else {
        // Inserted by this very statement: its own event is to come and finds no row.
        return if stamp == Stamp::Current { Ok(()) } else { first(key) };
    };
    let mut entry = Entry::of(&found);
    let Some(base) = &entry.base else {
        // It never was: nor was the claim on it.
        store.delete(&found);
        holder::forget(table.root, &key);
        return Ok(());
    };
    // Values stored out of line that the draft never touched are still those of the base.
    let full = base_image(table, row, None);
    entry.base = Some(image::fill_missing(base, &full)?);
    entry.op = b'd';
    entry.gives = giving;
    if stamp == Stamp::Mine && draft::touch((entry.draft, table.journal_id)) == Touch::Move {
        entry.draft = draft::current_id(me);
        draft::ensure_header(table, entry.draft);
    }
    store.update(&found, &entry.row(table.root, &key));
    Ok(())
}

/// TRUNCATE is refused, or under maintenance recorded as the delete of every row.
fn truncate(call: &Call) -> Result<()> {
    let table = Table::enabled(call.relid())?;
    if settings::enforce() {
        return Err(refused(
            call,
            format!("cannot truncate {} while claims are enabled", table.name()),
            "Use DELETE, or SET rowclaim.enforce = off for maintenance.",
        ));
    }
    if table.partitioned {
        return Ok(());
    }
    let me = actor::current();
    scan_all(call.relid(), &xact::Moment::now(), |row| delete_row(&table, row, &me))
}
