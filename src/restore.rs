//! Putting rows back as they were committed: discard, and the loss of a row to somebody else,
//! whose changes go to the stash.

use crate::actor;
use crate::codec;
use crate::diff;
use crate::draft::{close_drafts, header, take_drafts, DraftKey};
use crate::entry::{entries, take_row, Entry};
use crate::error::{Dependency, Error, Result};
use crate::holder;
use crate::image::{self, Image};
use crate::journal::Journal;
use crate::key::{key_datums, Key};
use crate::notify;
use crate::ownership::{version_datum, Ownership};
use crate::pg::ffi::relation_name;
use crate::pg::fixed::FixedOutput;
use crate::pg::memory::{check_in_loop, ensure, push, Scratch};
use crate::pg::owner::{user, AsOwner};
use crate::pg::row::{Look, Rows};
use crate::pg::spi::{self, Arg, Cursor, Sees};
use crate::pg::value::text_datum;
use crate::pg::xact;
use crate::table::Table;
use pgrx::pg_sys;
use std::collections::hash_map::Entry as Slot;
use std::collections::HashMap;

/// Who owns a row after it was put back.
#[derive(Clone, Copy)]
pub enum Owner<'a> {
    /// Whoever has the claim on it.
    Claim,
    Set(&'a str),
}

/// A row set aside while others take the unique values it must get back.
struct Parked {
    leaf: pg_sys::Oid,
    /// Its key in the draft.
    key: String,
    /// Where it was, if it comes back to the same partition.
    tid: Option<pg_sys::ItemPointerData>,
    image: String,
    version: i64,
    owner: Option<String>,
}

/// Rows being put back together; constraints are checked at [`Batch::finish`].
#[derive(Default)]
pub struct Batch {
    tables: HashMap<u32, Rows>,
    parked: Vec<Parked>,
    /// Claims that follow their rows to former keys: table, present key, former key.
    rekeyed: Vec<(pg_sys::Oid, String, String)>,
}

type Attributes = Vec<(usize, Option<pg_sys::Datum>)>;

/// The recorded columns of an image as attributes of a (leaf) table.
fn attributes(table: &Table, image: &Image, wanted: impl Fn(usize) -> bool) -> Result<Attributes> {
    let _fixed = FixedOutput::enter(table.settings_matter);
    let mut set = Vec::with_capacity(image.len() + 3);
    for (name, raw) in image {
        if let Some((index, column)) = table.column_named(name) {
            if wanted(index) {
                set.push((index, codec::read_value(column, raw)?));
            }
        }
    }
    Ok(set)
}

/// Appends the ownership columns of a row that is clean again.
fn push_ownership(table: &Table, set: &mut Attributes, version: i64, owner: Option<&str>) -> Result<()> {
    set.push((table.draft_column, None));
    set.push((table.version_column, Some(version_datum(table, version)?)));
    set.push((table.owner_column, owner.map(text_datum)));
    Ok(())
}

impl Batch {
    fn rows(&mut self, root: pg_sys::Oid) -> Result<&mut Rows> {
        Ok(match self.tables.entry(root.to_u32()) {
            Slot::Occupied(open) => open.into_mut(),
            Slot::Vacant(free) => free.insert(Rows::open(root)?),
        })
    }

    /// Puts one row back. Returns its committed key, or `None` when it is gone again.
    ///
    /// A claim follows the row to its former key, or ends with a row that did not exist.
    pub fn put_back(&mut self, root: pg_sys::Oid, key: &str, entry: &Entry, owner: Owner) -> Result<Option<String>> {
        let table = self.rows(root)?.table.clone();
        let datums = key_datums(&table, key)?;
        let present = self.rows(root)?.find_and_lock(&datums)?;
        let Some(base_text) = &entry.base else {
            if present {
                self.rows(root)?.delete();
            }
            holder::forget(root, key);
            return Ok(None);
        };
        let base = image::parse_image(base_text)?;
        let base_key = Key::from_canonical(&table, &codec::key_in_image(&table, &base))?.text(&table);
        if base_key != key {
            push(&mut self.rekeyed, (root, key.to_owned(), base_key.clone()));
        }
        let claimed = match owner {
            Owner::Claim => holder::owner(root, key),
            Owner::Set(name) => Some(name.to_owned()),
        };
        let version = entry.version.unwrap_or(1);
        if !present {
            let leaf = Table::enabled(entry.leaf)?;
            let mut set = attributes(&leaf, &base, |_| true)?;
            add_missing_defaults(&leaf, &mut set);
            push_ownership(&leaf, &mut set, version, claimed.as_deref())?;
            self.check_free(&leaf, key, &set)?;
            self.rows(root)?.insert(entry.leaf, &set)?;
            return Ok(Some(base_key));
        }
        let rows = self.rows(root)?;
        let leaf = rows.leaf_table();
        let mut now = String::new();
        codec::push_row(&mut now, &leaf, rows.values(), |_, column| image::value(&base, &column.name).is_some());
        let now = image::parse_image(&now)?;
        let differs = |index: usize| {
            leaf.column(index)
                .is_some_and(|c| !c.untracked && image::value(&base, &c.name) != image::value(&now, &c.name))
        };
        let moves = entry.leaf != leaf.relid;
        if moves || rows.unique_columns().into_iter().any(differs) {
            let mut full = String::new();
            codec::push_row(&mut full, &leaf, rows.values(), |_, _| true);
            // Two images and what they come to.
            ensure(4 * (full.len() + base_text.len()));
            let image = image::fill_missing(&image::object(&codec::tracked(&table, &base)), &full)?;
            // In another partition it is another row to foreign keys, as its key is another.
            let tid = if moves {
                rows.delete();
                None
            } else {
                Some(rows.park())
            };
            let key = key.to_owned();
            push(&mut self.parked, Parked { leaf: entry.leaf, key, tid, image, version, owner: claimed });
            return Ok(Some(base_key));
        }
        let mut set = attributes(&leaf, &base, differs)?;
        push_ownership(&leaf, &mut set, version, claimed.as_deref())?;
        rows.restore(&set);
        Ok(Some(base_key))
    }

    /// Refuses to put a row back where a unique value of it is that of another row of a draft. `key`: its key in the draft.
    fn check_free(&mut self, leaf: &Table, key: &str, set: &Attributes) -> Result<()> {
        let rows = self.rows(leaf.root)?;
        let Some(index) = rows.find_occupant(leaf.relid, set)? else { return Ok(()) };
        let held = Ownership::of(leaf, rows.values());
        match actor_of(leaf, held.draft) {
            Some(actor) => Err(in_the_way(leaf, key, &codec::key_text(leaf, rows.values()), actor, index)),
            // What is committed is in the way: the server will say so.
            None => Ok(()),
        }
    }

    /// Brings parked rows back and checks foreign keys.
    pub fn finish(mut self) -> Result<()> {
        for parked in std::mem::take(&mut self.parked) {
            check_in_loop();
            let leaf = Table::enabled(parked.leaf)?;
            let image = image::parse_image(&parked.image)?;
            let mut set = attributes(&leaf, &image, |_| true)?;
            push_ownership(&leaf, &mut set, parked.version, parked.owner.as_deref())?;
            self.check_free(&leaf, &parked.key, &set)?;
            match parked.tid {
                Some(tid) => self.rows(leaf.root)?.unpark(parked.leaf, tid, &set)?,
                None => self.rows(leaf.root)?.insert(parked.leaf, &set)?,
            }
        }
        xact::bump_command();
        for (root, key, former) in &self.rekeyed {
            // A live row there was in the way already; this one was deleted.
            if let Some(found) = entries().find(*root, former) {
                let table = Table::enabled(*root)?;
                if let Some(actor) = actor_of(&table, Some(Entry::of(&found).draft)) {
                    return Err(in_the_way(&table, key, former, actor, table.key_index));
                }
            }
        }
        holder::rekey_all(&self.rekeyed);
        for rows in self.tables.values_mut() {
            rows.finish();
        }
        Ok(())
    }
}

/// Whose open draft it is.
fn actor_of(table: &Table, draft: Option<i64>) -> Option<String> {
    header((draft?, table.journal_id)).map(|(actor, _)| actor)
}

/// The row `key` cannot be put back before `other`, of a draft of `actor`.
fn in_the_way(table: &Table, key: &str, other: &str, actor: String, index: pg_sys::Oid) -> Error {
    Error::InTheWay(Box::new(Dependency {
        row: table.row_name(key, user()),
        other: table.row_name(other, user()),
        actor,
        constraint: relation_name(index),
    }))
}

/// Columns added after the image was taken have the value ADD COLUMN gave existing rows.
fn add_missing_defaults(table: &Table, set: &mut Attributes) {
    // SAFETY: the relation is open in the caller's Rows; its descriptor outlives the call.
    unsafe {
        let relation = pg_sys::relation_open(table.relid, pg_sys::NoLock as i32);
        for index in 0..table.natts {
            if table.column(index).is_some() && !set.iter().any(|(i, _)| *i == index) {
                let mut null = true;
                let value = pg_sys::getmissingattr((*relation).rd_att, index as i32 + 1, &mut null);
                set.push((index, (!null).then_some(value)));
            }
        }
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
    }
}

/// Keeps what `who` loses on a row: the change from base to present.
pub fn stash(rows: &mut Rows, key: &str, entry: &Entry, who: &str, cause: &str, reason: Option<&str>) -> Result<()> {
    let table = rows.table.clone();
    let datums = key_datums(&table, key)?;
    let mine = rows.find(&datums, Look::Latest)?.is_some().then(|| {
        let leaf = rows.leaf_table();
        let base = entry.base.as_deref().map(image::parse_image).and_then(Result::ok);
        let mut image = String::new();
        codec::push_row(&mut image, &leaf, rows.values(), |_, column| {
            base.as_ref().is_none_or(|base| image::value(base, &column.name).is_some())
        });
        image
    });
    let mine = mine.filter(|image| {
        let fits = image.len() <= codec::SIZE_MAX;
        if !fits {
            pgrx::warning!(
                "the lost change of {} takes {} bytes and is too large for the stash",
                table.name(),
                image.len()
            );
        }
        fits
    });
    spi::run(
        "INSERT INTO rowclaim.stash (actor, journal, relid, key, op, base, mine, cause, reason, stashed_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        &[
            Arg::str(who),
            Arg::str(&table.journal),
            Arg::oid(table.root),
            Arg::str(key),
            Arg::str(match (&entry.base, &mine) {
                (None, _) => "insert",
                (_, None) => "delete",
                _ => "update",
            }),
            Arg::text(entry.base.clone()),
            Arg::text(mine),
            Arg::str(cause),
            Arg::text(reason.map(str::to_owned)),
            Arg::str(&actor::current()),
        ],
    );
    notify::row("stash", &table, key, who);
    Ok(())
}

/// Which entries of drafts to put back.
struct Selection<'a> {
    drafts: &'a [DraftKey],
    target: Option<pg_sys::Oid>,
    /// Keep what is lost in the stash.
    stash: Option<Stash<'a>>,
}

/// Whose changes go to the stash, by draft, why, and the reason given.
struct Stash<'a> {
    owners: &'a HashMap<i64, String>,
    cause: &'a str,
    reason: Option<&'a str>,
}

impl Selection<'_> {
    /// Puts the selected rows back and removes their entries; how many there were.
    fn put_back(&self) -> Result<i64> {
        let Some(journal) = self.drafts.first().map(|d| d.1) else {
            return Ok(0);
        };
        let ids: Vec<i64> = self.drafts.iter().map(|d| d.0).collect();
        xact::bump_command();
        // Inserted rows go first, deleted ones come back last. Drafts that were chosen in the latest state have entries
        // that a transaction with one snapshot does not see.
        let mut cursor = Cursor::latest(
            "WITH gone AS (DELETE FROM rowclaim.draft_row r
                           USING rowclaim.enabled_table t JOIN rowclaim.journal_config j ON j.name = t.journal
                           WHERE r.draft = ANY ($1) AND t.relid = r.relid AND j.id = $2
                             AND ($3::oid IS NULL OR r.relid = $3)
                           RETURNING r.*)
             SELECT relid::oid, key, base, base_version, op, draft, leaf FROM gone ORDER BY base IS NOT NULL, op = 'd', key",
            &[
                Arg::ids(&ids),
                Arg::i32(journal),
                Arg(pg_sys::OIDOID, self.target.map(|t| pg_sys::Datum::from(t.to_u32()))),
            ],
        );
        let mut batch = Batch::default();
        let mut count = 0;
        let scratch = Scratch::new();
        loop {
            let mut entries = Vec::new();
            cursor.fetch(1_000, |row| {
                entries.push((
                    row.oid(1).unwrap_or(pg_sys::InvalidOid),
                    row.text(2).unwrap_or_default(),
                    Entry {
                        op: row.get::<i8>(5).map_or(b'u', |op| op as u8),
                        draft: row.i64(6).unwrap_or_default(),
                        base: row.text(3),
                        version: row.i64(4),
                        leaf: row.oid(7).unwrap_or(pg_sys::InvalidOid),
                        base_key: None,
                        gives: false,
                    },
                ));
            });
            if entries.is_empty() {
                break;
            }
            for (root, key, entry) in entries {
                check_in_loop();
                let _entered = scratch.enter();
                if let Some(Stash { owners, cause, reason }) = &self.stash {
                    let who = owners.get(&entry.draft).map_or("", String::as_str);
                    stash(batch.rows(root)?, &key, &entry, who, cause, *reason)?;
                }
                batch.put_back(root, &key, &entry, Owner::Claim)?;
                count += 1;
            }
        }
        drop(cursor);
        batch.finish()?;
        Ok(count)
    }
}

/// `discard_changes()`: the actor's dirty rows are again as committed; claims stay.
pub fn discard_changes(journal: &str, target: Option<pg_sys::Oid>, key: Option<&str>) -> Result<i64> {
    let _owner = AsOwner::enter();
    let table = target.map(Table::enabled).transpose()?;
    let key = match (&table, key) {
        (Some(table), Some(key)) => {
            let key = Key::from_text(table, key)?;
            let mut rows = Rows::open(table.root)?;
            // The row's own key: the caller's may be equal and yet written differently.
            Some(match rows.find(&key.datums, Look::Latest)? {
                Some(_) => {
                    let leaf = rows.leaf_table();
                    codec::key_text(&leaf, rows.values())
                }
                None => key.text(table),
            })
        }
        (None, Some(_)) => {
            return Err(Error::InvalidParameter { parameter: "key", problem: "a key needs a target table".into() })
        }
        _ => None,
    };
    let journal = Journal::find(journal)?;
    let drafts = take_drafts(&actor::current(), journal.id);
    if let (Some(table), Some(key)) = (&table, key) {
        return discard_row(&drafts, table.root, &key);
    }
    let target = table.as_ref().map(|t| t.root);
    let count = Selection { drafts: &drafts, target, stash: None }.put_back()?;
    if target.is_none() {
        close_drafts(&drafts);
    }
    Ok(count)
}

/// One row of drafts is again as committed; how many are.
fn discard_row(drafts: &[DraftKey], root: pg_sys::Oid, key: &str) -> Result<i64> {
    xact::bump_command();
    let Some(entry) = take_row(drafts, root, key)? else { return Ok(0) };
    xact::bump_command();
    let mut batch = Batch::default();
    batch.put_back(root, key, &entry, Owner::Claim)?;
    batch.finish()?;
    Ok(1)
}

/// The whole draft of an actor, in every journal, goes to the stash. Waits for the actor's open
/// transactions. Returns how many rows became free that had no claim.
pub fn stash_actor(who: &str, reason: Option<&str>) -> Result<i64> {
    let free = spi::first(
        "SELECT count(*) FROM rowclaim.draft d JOIN rowclaim.draft_row r ON r.draft = d.id
         WHERE d.actor = $1 AND NOT EXISTS (SELECT FROM rowclaim.claim c WHERE c.relid = r.relid AND c.key = r.key)",
        &[Arg::str(who)],
        Sees::Latest,
        |row| row.i64(1),
    );
    let mut drafts: HashMap<i32, Vec<DraftKey>> = HashMap::new();
    spi::query(
        "SELECT id, journal_id FROM rowclaim.draft WHERE actor = $1 ORDER BY journal_id, id FOR UPDATE",
        &[Arg::str(who)],
        Sees::Latest,
        |row| {
            let draft = (row.i64(1).unwrap_or_default(), row.get::<i32>(2).unwrap_or_default());
            drafts.entry(draft.1).or_default().push(draft);
        },
    );
    for drafts in drafts.values() {
        let owners = drafts.iter().map(|draft| (draft.0, who.to_owned())).collect();
        let stash = Some(Stash { owners: &owners, cause: "released", reason });
        Selection { drafts, target: None, stash }.put_back()?;
        close_drafts(drafts);
    }
    Ok(free.flatten().unwrap_or(0))
}

/// Everybody's draft rows of one table go to the stash: claims are being disabled by force.
pub fn stash_table(root: pg_sys::Oid) -> Result<i64> {
    // All drafts together: a row may have the key or the unique value that one of another of them had.
    let (mut drafts, mut owners) = (Vec::new(), HashMap::new());
    spi::query(
        "SELECT d.id, d.journal_id, d.actor FROM rowclaim.draft d
         WHERE d.id IN (SELECT draft FROM rowclaim.draft_row WHERE relid = $1) AND d.journal_id = $2 ORDER BY d.id FOR UPDATE",
        &[Arg::oid(root), Arg::i32(Table::enabled(root)?.journal_id)],
        Sees::Latest,
        |row| {
            let draft = (row.i64(1).unwrap_or_default(), row.get::<i32>(2).unwrap_or_default());
            drafts.push(draft);
            owners.insert(draft.0, row.text(3).unwrap_or_default());
        },
    );
    let stash = Some(Stash { owners: &owners, cause: "disabled", reason: None });
    Selection { drafts: &drafts, target: Some(root), stash }.put_back()
}

/// `restore_stash()`: applies a stashed change again, as an ordinary write of the caller: the guard
/// judges whether they hold the row. Returns the number of rows written.
pub fn restore_stash(id: i64) -> Result<i64> {
    struct Stashed {
        root: pg_sys::Oid,
        key: String,
        op: String,
        base: Option<String>,
        mine: Option<String>,
    }
    let me = actor::current();
    let found = spi::first(
        "SELECT relid::oid, key, op, base, mine FROM rowclaim.stash WHERE id = $1 AND actor = $2 FOR UPDATE",
        &[Arg::i64(id), Arg::str(&me)],
        Sees::Latest,
        |row| Stashed {
            root: row.oid(1).unwrap_or(pg_sys::InvalidOid),
            key: row.text(2).unwrap_or_default(),
            op: row.text(3).unwrap_or_default(),
            base: row.text(4),
            mine: row.text(5),
        },
    );
    let Some(stashed) = found else {
        return Err(Error::InvalidParameter { parameter: "id", problem: format!("you have no stash {id}") });
    };
    let table = Table::enabled(stashed.root)?;
    let base = stashed.base.as_deref().map(image::parse_image).transpose()?.unwrap_or_default();
    let mine = stashed.mine.as_deref().map(image::parse_image).transpose()?.unwrap_or_default();
    let columns: Image = match stashed.op.as_str() {
        "insert" => mine,
        "update" => diff::changed(&base, &mine).1,
        _ => Image::new(),
    };
    // A claimed row still has its committed key.
    let key = if stashed.op == "insert" { stashed.key.clone() } else { codec::key_in_image(&table, &base) };
    let key = Key { datums: key_datums(&table, &key)? };
    let written = write_as_caller(&table, &stashed.op, &key, &columns)?;
    if written == 0 {
        return Err(Error::OperationRefused {
            table: table.name(),
            problem: format!("stash {id} cannot be restored: row {} {} is gone", table.name(), key.text(&table)),
            hint: "Look at rowclaim.stashes and enter the change again by hand.".into(),
        });
    }
    spi::run("DELETE FROM rowclaim.stash WHERE id = $1", &[Arg::i64(id)]);
    Ok(written)
}

/// One INSERT, UPDATE or DELETE with the caller's rights, triggers and policies.
fn write_as_caller(table: &Table, op: &str, key: &Key, columns: &Image) -> Result<i64> {
    let (condition, mut args) = key.condition(table);
    let first = args.len();
    let mut names = Vec::new();
    let _fixed = FixedOutput::enter(table.settings_matter);
    for (name, raw) in columns {
        if let Some((_, column)) = table.column_named(name) {
            names.push(pgrx::spi::quote_identifier(name));
            args.push(Arg(column.base_type, codec::read_value(column, raw)?));
        }
    }
    drop(_fixed);
    let places: Vec<String> = (0..names.len()).map(|i| format!("${}", i + first + 1)).collect();
    let sql = match op {
        "insert" => {
            // The key's parameters are not used: the columns have it.
            format!(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} WHERE ${} IS NOT NULL",
                table.name(),
                names.join(", "),
                places.join(", "),
                1
            )
        }
        "update" if names.is_empty() => return Ok(1),
        "update" => {
            let set: Vec<String> = names.iter().zip(&places).map(|(n, p)| format!("{n} = {p}")).collect();
            format!("UPDATE {} SET {} WHERE {condition}", table.name(), set.join(", "))
        }
        _ => format!("DELETE FROM {} WHERE {condition}", table.name()),
    };
    Ok(spi::run_as_is(&sql, &args, |_| {}) as i64)
}
