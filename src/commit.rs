//! From draft to changeset: compares base images with the present rows and appends the net
//! changes to the journal.

use crate::actor;
use crate::captured::{Captured, Event};
use crate::codec;
use crate::depend::{Changed, Depends};
use crate::diff::{self, Op};
use crate::draft;
use crate::entry::{self, Entry};
use crate::error::{check, Error, Result};
use crate::holder;
use crate::image;
use crate::journal::{self, Head, Journal};
use crate::key::key_datums;
use crate::net::Net;
use crate::notify::{self, Notice};
use crate::order::Order;
use crate::ownership::{version_datum, version_of};
use crate::pg::lock::{Lock, Mode};
use crate::pg::memory::{check_in_loop, ensure, granted, owned, Scratch};
use crate::pg::owner::{caller, AsOwner};
use crate::pg::row::{Look, Rows};
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::spool::Spool;
use crate::pg::store::{self, Index, Layout, Store};
use crate::pg::xact::{self, ActiveSnapshot, Moment};
use crate::release;
use crate::replay;
use crate::settings;
use crate::table::Table;
use pgrx::pg_sys;
use std::collections::hash_map::Entry as Slot;
use std::collections::HashMap;

/// A touched row: where it is now and what it was when the draft began.
pub struct Touched {
    pub root: pg_sys::Oid,
    pub key: String,
    pub base: Option<String>,
    pub version: Option<i64>,
    /// The version that the row must exceed: of a row that had its key before.
    pub exceeds: Option<i64>,
    /// What has become of it, if that is known.
    pub change: Option<String>,
}

/// Collects net changes in the order of capture, with what is needed to order them.
#[derive(Default)]
struct Changes {
    tables: HashMap<u32, Source>,
    spool: Spool,
    order: Order,
    depends: Depends,
    /// Deleted rows, whose claims end with the commit, and rows that get a version, because their keys had a higher one before.
    settled: Spool,
}

/// A table changes come from.
struct Source {
    rows: Rows,
    name: String,
}

impl Source {
    fn open(root: pg_sys::Oid) -> Result<Source> {
        let rows = Rows::open(root)?;
        let name = rows.table.name();
        Ok(Source { name, rows })
    }
}

impl Changes {
    fn source(&mut self, root: pg_sys::Oid) -> Result<&mut Source> {
        Ok(match self.tables.entry(root.to_u32()) {
            Slot::Occupied(open) => open.into_mut(),
            Slot::Vacant(free) => free.insert(Source::open(root)?),
        })
    }

    /// Compares a touched row with its base and keeps the change, if any.
    fn add(&mut self, touched: &Touched) -> Result<()> {
        if let Some(change) = &touched.change {
            self.spool.push(change);
            return Ok(());
        }
        let number = self.spool.len() as u32;
        let source = self.source(touched.root)?;
        let table = source.rows.table.clone();
        let key = key_datums(&table, &touched.key)?;
        let mut present = source.rows.find(&key, Look::Latest)?.is_some();
        // A key may be equal and yet another row's, written differently: 1.0 after 1.00 was deleted.
        present = present && codec::key_text(&source.rows.leaf_table(), source.rows.values()) == touched.key;
        let base = touched.base.as_deref().map(image::parse_image).transpose()?;
        let mut text = String::new();
        let mut version = touched.version.unwrap_or_default();
        let mut raised = false;
        if present {
            let leaf = source.rows.leaf_table();
            let values = source.rows.values();
            codec::push_row(&mut text, &leaf, values, |_, column| match &base {
                // Only what the draft may have touched is read at all.
                Some(base) => !column.untracked && image::value(base, &column.name).is_some(),
                None => true,
            });
            version = version_of(&leaf, values).unwrap_or_default();
            raised = touched.exceeds.is_some_and(|former| version <= former);
            if let (true, Some(former)) = (raised, touched.exceeds) {
                version = former.saturating_add(1);
            }
        }
        // Former and present values, and the change that has both.
        ensure(3 * (text.len() + touched.base.as_ref().map_or(0, String::len)));
        let place = present.then(|| (source.rows.leaf_table(), source.rows.values()));
        let now = if present { Some(image::parse_image(&text)?) } else { None };
        let (op, key, old, new) = match (&base, &now) {
            (None, None) => {
                self.settle(touched, None);
                return Ok(());
            }
            (None, Some(now)) => (Op::Insert, codec::key_in_image(&table, now), None, Some(image::object(now))),
            (Some(base), None) => (
                Op::Delete,
                codec::key_in_image(&table, base),
                Some(image::object(&codec::tracked(&table, base))),
                None,
            ),
            (Some(base), Some(now)) => {
                let (old, new) = diff::changed(base, now);
                if new.is_empty() {
                    if raised {
                        self.settle(touched, Some(version));
                    }
                    return Ok(());
                }
                (Op::Update, codec::key_in_image(&table, base), Some(image::object(&old)), Some(image::object(&new)))
            }
        };
        let change = diff::change(op, &source.name, &key, old.as_deref(), new.as_deref(), version);
        for (index, constraint) in table.constraints().iter().enumerate() {
            if base.as_ref().zip(now.as_ref()).is_some_and(|(base, now)| !constraint.is_touched(base, now)) {
                continue;
            }
            let mut values = |image| self.depends.conditions.values(&table, constraint, image);
            let former = base.as_ref().map(&mut values).transpose()?.flatten();
            let present = now.as_ref().map(&mut values).transpose()?.flatten();
            if former == present {
                continue;
            }
            let row = place.as_ref().map(|(leaf, values)| (&**leaf, *values));
            let changed = Changed { table: &table, key: &touched.key, present: row };
            self.depends.note(&changed, index, constraint, former.as_deref(), present.as_deref())?;
            for (values, role) in [(former, constraint.out), (present, constraint.into)] {
                if let Some(values) = values {
                    granted(self.order.note(number, role, constraint.id, &values));
                }
            }
        }
        codec::check_size(&table, &change);
        self.spool.push(&change);
        if op == Op::Delete {
            self.settle(touched, None);
        } else if raised {
            self.settle(touched, Some(version));
        }
        Ok(())
    }

    /// Appends everything as one changeset.
    fn append(mut self, journal: &Journal, head: &Head) -> Result<i64> {
        self.settle_rows()?;
        self.tables.clear();
        let order = granted(std::mem::take(&mut self.order).solve(self.spool.len()));
        let seq = journal.append(head, &mut self.spool, order.as_deref())?;
        notify::commit(journal, seq, head.actor);
        Ok(seq)
    }

    /// Notes that the row is deleted, or gets a version.
    fn settle(&mut self, touched: &Touched, version: Option<i64>) {
        let version = version.map(|version| version.to_string()).unwrap_or_default();
        self.settled.push(&format!("{}\n{version}\n{}", touched.root.to_u32(), touched.key));
    }

    /// Claims end with their row; a key's versions never fall.
    fn settle_rows(&mut self) -> Result<()> {
        let mut settled = std::mem::take(&mut self.settled);
        let (scratch, mut text) = (Scratch::new(), String::new());
        for number in 0..settled.len() {
            check_in_loop();
            let _entered = scratch.enter();
            text.clear();
            settled.read(number, &mut text);
            let mut fields = text.splitn(3, '\n');
            let root = fields.next().and_then(|root| root.parse::<u32>().ok()).unwrap_or_default().into();
            let (version, key) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let Ok(version) = version.parse() else {
                holder::forget(root, key);
                continue;
            };
            let source = self.source(root)?;
            let key = key_datums(&source.rows.table, key)?;
            if source.rows.find(&key, Look::Latest)?.is_some() {
                let leaf = source.rows.leaf_table();
                source.rows.write(&[(leaf.version_column, Some(version_datum(&leaf, version)?))]);
            }
        }
        Ok(())
    }
}

/// `commit_changes()`: the whole draft of the current actor in a journal as one changeset.
///
/// Returns its seq, or `None` when there was nothing to commit.
pub fn commit_changes(message: Option<String>, base: Option<i64>, journal: &str, release: bool) -> Result<Option<i64>> {
    let caller = caller();
    let _owner = AsOwner::enter();
    let actor = actor::current();
    let journal = Journal::find(journal)?;
    xact::bump_command();
    let serial = base.is_some() || journal.require_current;
    let drafts = draft::take_drafts(&actor, journal.id);
    let mut seq = None;
    if !drafts.is_empty() {
        let mode = if serial { Mode::Exclusive } else { Mode::Share };
        Lock::Base { journal: journal.id }.acquire(mode);
        if serial {
            check_base(&journal, base.unwrap_or(0), &actor)?;
        }
    }
    if !drafts.is_empty() {
        let mut changes = Changes::default();
        changes.depends.incomplete = draft::holds_earlier(journal.id);
        let mut taken = Captured::default();
        entry::take(&drafts, |root, key, Entry { version, base, .. }| {
            taken.push(&Event::Base { root, group: 0, version, key, base: base.as_deref(), change: None });
        })?;
        let (scratch, mut text) = (Scratch::new(), String::new());
        for number in 0..taken.len() as u32 {
            check_in_loop();
            let Event::Base { root, version, key, base, .. } = taken.event(number, &mut text) else { continue };
            let (key, base) = (owned(key), base.map(owned));
            let touched = Touched { root, key, base, version, exceeds: None, change: None };
            let _entered = scratch.enter();
            changes.add(&touched)?;
        }
        std::mem::take(&mut changes.depends).check(journal.id, Some(caller))?;
        draft::close_drafts(&drafts);
        if changes.spool.len() > 0 {
            let head = Head { kind: "changeset", actor: &actor, base, message };
            seq = Some(changes.append(&journal, &head)?);
        } else {
            changes.settle_rows()?;
        }
    }
    if release {
        release::release_journal(&actor, &journal.name)?;
    }
    warn_of_stash(&actor, &journal.name);
    Ok(seq)
}

fn check_base(journal: &Journal, base: i64, actor: &str) -> Result<()> {
    let newer = spi::first(
        "SELECT seq, actor FROM rowclaim.journal
         WHERE journal = $1 AND seq > $2 AND part = 1 AND kind = 'changeset' AND actor <> $3 ORDER BY seq LIMIT 1",
        &[Arg::str(&journal.name), Arg::i64(base), Arg::str(actor)],
        Sees::Latest,
        |row| (row.i64(1).unwrap_or_default(), row.text(2).unwrap_or_default()),
    );
    match newer {
        None => Ok(()),
        Some((seq, actor)) => Err(Error::JournalBehind { journal: journal.name.clone(), base, seq, actor }),
    }
}

static STASH: Layout = Layout {
    table: c"stash",
    indexes: &[
        Index { name: c"stash_pkey", columns: &[0], unique: true, only: None },
        Index { name: c"stash_actor", columns: &[1, 2], unique: false, only: None },
    ],
};
/// `rowclaim.stash.announced`.
const ANNOUNCED: usize = 12;

/// A commit that follows the loss of a row says so: it does not contain the lost changes.
fn warn_of_stash(actor: &str, journal: &str) {
    let mut count = 0;
    Store::open(&STASH).each(1, &[store::Key::Text(actor), store::Key::Text(journal)], &Moment::now(), |row| {
        count += u64::from(row.get(ANNOUNCED).is_some_and(|announced| announced.value() == 0));
        true
    });
    if count > 0 {
        spi::run(
            "UPDATE rowclaim.stash SET announced = true WHERE actor = $1 AND journal = $2 AND NOT announced",
            &[Arg::str(actor), Arg::str(journal)],
        );
        pgrx::warning!("{count} of your changes went to the stash and are not in this commit; see rowclaim.stashes");
    }
}

/// The changes of `transaction` tables, as changesets of their journals and actors, just before
/// the transaction commits.
fn commit_transaction(mut captured: Captured) -> Result<()> {
    let _snapshot = ActiveSnapshot::latest();
    // Changes that are known need neither user code nor SQL.
    let mut owner = None;
    xact::bump_command();
    let net = Net::of(&mut captured);
    for (group, (journal, actor)) in captured.groups.clone().into_iter().enumerate() {
        let journal = Journal::find(&journal)?;
        Lock::Base { journal: journal.id }.acquire(Mode::Share);
        let mut changes = Changes::default();
        let scratch = Scratch::new();
        net.each(&mut captured, group as u32, |touched| {
            check_in_loop();
            if touched.change.is_none() {
                owner.get_or_insert_with(AsOwner::enter);
            }
            let _entered = scratch.enter();
            // A table dropped or disabled since has nothing to say.
            match Table::find(touched.root)? {
                Some(_) => changes.add(touched),
                None => Ok(()),
            }
        })?;
        std::mem::take(&mut changes.depends).check(journal.id, None)?;
        if changes.spool.len() > 0 {
            let head = Head { kind: "changeset", actor: &actor, base: None, message: settings::message() };
            changes.append(&journal, &head)?;
        } else {
            changes.settle_rows()?;
        }
    }
    Ok(())
}

/// What is left to do just before commit or PREPARE TRANSACTION; what is to be announced.
pub fn before_commit(prepare: bool) -> Vec<Notice> {
    replay::before_commit(prepare);
    let captured = draft::take_captured();
    if captured.len() > 0 {
        check(commit_transaction(captured));
    }
    if prepare {
        // Whether what was appended will ever be there is not known when this transaction ends here.
        journal::forget();
    }
    draft::take_notices()
}
