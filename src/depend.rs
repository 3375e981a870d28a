//! What a changeset may not depend on: rows of drafts that are not part of it. Applied on top of all
//! changesets before it, each one must leave foreign keys and unique values whole.
//!
//! The tables satisfy their constraints with everybody's drafts in them, and every prefix of the journal
//! does. So only three things can go wrong, each between a change that is to be committed and a row of
//! another draft: the change refers to what only that draft made, gives up what the row referred to
//! before its draft, or takes a unique value that the row had before. For the last two, drafts mark
//! the rows that gave something up (`draft_row.gives`). PostgreSQL itself makes each such pair wait for
//! one another until the other's entry can be seen.

use crate::actor;
use crate::codec;
use crate::constraint::{Conditions, Constraint};
use crate::draft::{self, DraftKey};
use crate::entry::{by_base_key, entries, gave, Entry};
use crate::error::{Dependency, Error, Result};
use crate::image::{self, Image};
use crate::order::{token, Role};
use crate::pg::memory::{check_in_loop, push, room};
use crate::pg::owner::{user, AsCaller, AsTableOwner};
use crate::pg::spi::{self, Arg};
use crate::pg::trigger::Values;
use crate::table::{Committing, Table};
use pgrx::pg_sys;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// A row a commit changes: its table and its key in the changeset.
#[derive(Clone)]
struct Mine {
    root: pg_sys::Oid,
    key: Rc<str>,
}

/// A referenced value that is gone: where from, and what refers to it.
struct Removed {
    constraint: usize,
    values: Vec<String>,
    mine: Mine,
}

/// The values that the changes of a commit take, give up and refer to.
#[derive(Default)]
pub struct Depends {
    taken: HashMap<u64, Mine>,
    removed: HashMap<u64, Mine>,
    created: HashSet<u64>,
    /// References found to be fine.
    referred: HashSet<u64>,
    /// Values other than primary keys that foreign keys referred to.
    retaken: HashMap<u64, Removed>,
    /// Tables whose rows in other drafts may stand in the way.
    tables: BTreeSet<u32>,
    /// Drafts of the same actor are left out.
    pub incomplete: bool,
    deferrable: BTreeSet<String>,
    pub conditions: Conditions,
    /// What this transaction has changed in tables that commit with it, by table and key.
    captured: HashMap<u32, HashMap<String, Option<String>>>,
}

/// A changed row while its change is being made.
pub struct Changed<'a> {
    pub table: &'a Table,
    pub key: &'a str,
    /// The present row, as its (leaf) table has it.
    pub present: Option<(&'a Table, Values)>,
}

impl Depends {
    /// Notes what a change does to one constraint: `former` and `present` are its values.
    pub fn note(
        &mut self,
        changed: &Changed,
        index: usize,
        constraint: &Constraint,
        former: Option<&[&str]>,
        present: Option<&[&str]>,
    ) -> Result<()> {
        self.deferrable.extend(constraint.deferrable.clone());
        let mine = || Mine { root: changed.table.root, key: changed.key.into() };
        room(&mut self.referred, 1);
        match (constraint.into, former, present) {
            (Role::Takes, _, Some(_)) if constraint.primary => self.check_key(changed, constraint)?,
            (Role::Takes, _, Some(present)) => {
                room(&mut self.taken, 1);
                self.taken.insert(token(constraint.id, present), mine());
                self.tables.insert(changed.table.root.to_u32());
            }
            (Role::Refers, _, Some(present)) if self.referred.insert(token(constraint.id, present)) => {
                self.check_reference(changed, constraint, present)?;
            }
            (Role::Creates, former, present) => {
                room(&mut self.created, 1);
                self.created.extend(present.map(|values| token(constraint.id, values)));
                if let (Some(former), Some(other)) = (former, same_journal(changed.table, constraint.other)?) {
                    let token = token(constraint.id, former);
                    self.tables.insert(other.root.to_u32());
                    if !constraint.by_key {
                        let values = former.iter().map(|v| v.to_string()).collect();
                        room(&mut self.retaken, 1);
                        self.retaken.insert(token, Removed { constraint: index, values, mine: mine() });
                    }
                    room(&mut self.removed, 1);
                    self.removed.insert(token, mine());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Drafts guard primary keys against other actors. Another draft of the same actor may have left a key.
    fn check_key(&self, changed: &Changed, constraint: &Constraint) -> Result<()> {
        if !self.incomplete {
            return Ok(());
        }
        let root = changed.table.root;
        let entries = entries();
        let found = entries.find(root, changed.key).or_else(|| by_base_key(&entries, root, changed.key));
        let Some(entry) = found.as_ref().map(Entry::of).filter(|entry| entry.base.is_some()) else { return Ok(()) };
        let mine = Mine { root, key: changed.key.into() };
        let actor = draft_actor((entry.draft, changed.table.journal_id));
        Err(refusal(&mine, changed.table, changed.key, &actor, constraint))
    }

    /// A reference must not be to a row that only another draft has made what it is.
    fn check_reference(&mut self, changed: &Changed, constraint: &Constraint, values: &[&str]) -> Result<()> {
        let Some(parent) = same_journal(changed.table, constraint.other)? else { return Ok(()) };
        let key = if constraint.by_key {
            let by_name =
                |name: &str| constraint.other_columns.iter().position(|c| c == name).and_then(|i| values.get(i));
            let key = parent.key.iter().filter_map(|&index| {
                let column = parent.column(index)?;
                Some((column.name.as_str().into(), *by_name(&column.name)?))
            });
            image::object(&key.collect())
        } else {
            let Some((leaf, row)) = changed.present else { return Ok(()) };
            match referenced(&parent, constraint, leaf, row)? {
                Some(key) => key,
                None => return Ok(()),
            }
        };
        let Some(other) = self.other(&parent, &key)? else { return Ok(()) };
        let before = match &other.base {
            // A column the image lacks has not been touched.
            Some(base) => {
                constraint.values(&constraint.other_columns, &with_missing(base, constraint, values)?).map(owned)
            }
            None => None,
        };
        if before.as_deref().is_some_and(|before| before.iter().eq(values)) {
            return Ok(());
        }
        let mine = Mine { root: changed.table.root, key: changed.key.into() };
        Err(refusal(&mine, &parent, &key, &other.actor, constraint))
    }

    /// Refuses what needs another draft to be committed first. `caller` is who called the commit.
    pub fn check(mut self, journal_id: i32, caller: Option<(pg_sys::Oid, i32)>) -> Result<()> {
        if let (Some(caller), false) = (caller, self.deferrable.is_empty()) {
            let names: Vec<&str> = self.deferrable.iter().map(String::as_str).collect();
            let _caller = AsCaller::enter(caller);
            spi::run_as_is(&format!("SET CONSTRAINTS {} IMMEDIATE", names.join(", ")), &[], |_| {});
        }
        for root in std::mem::take(&mut self.tables) {
            let Some(table) = Table::find(root.into())? else { continue };
            let mut result = Ok(());
            gave(table.root, |key, entry| {
                result = self.check_given(&table, key, entry.base_key.as_deref(), entry.base.as_deref(), || {
                    draft_actor((entry.draft, journal_id))
                });
                result.is_ok()
            });
            result?;
            for (key, base) in &std::mem::take(self.captured(&table)) {
                check_in_loop();
                self.check_given(&table, key, None, base.as_deref(), || actor::current().to_string())?;
            }
        }
        self.check_retaken()
    }

    fn captured(&mut self, table: &Table) -> &mut HashMap<String, Option<String>> {
        self.captured.entry(table.root.to_u32()).or_insert_with(|| match table.committing {
            Committing::Explicit => HashMap::new(),
            Committing::Transaction => draft::captured_bases(table.root),
        })
    }

    /// A row as another draft has it. `None`: it is as committed, or part of the commit.
    fn other(&mut self, table: &Table, key: &str) -> Result<Option<Other>> {
        // The entries of the drafts being committed are gone already.
        if let Some(found) = entries().find(table.root, key) {
            let entry = Entry::of(&found);
            return Ok(Some(Other { base: entry.base, actor: draft_actor((entry.draft, table.journal_id)) }));
        }
        let base = self.captured(table).get(key).cloned();
        Ok(base.map(|base| Other { base, actor: actor::current().to_string() }))
    }

    /// What a row of another draft was before must neither refer to what is gone nor have what is taken.
    fn check_given(
        &mut self,
        table: &Table,
        key: &str,
        base_key: Option<&str>,
        base: Option<&str>,
        actor: impl Fn() -> String,
    ) -> Result<()> {
        let Some(base) = base else { return Ok(()) };
        let base = image::parse_image(base)?;
        for constraint in table.constraints().iter().filter(|c| c.gives()) {
            let Some(values) = constraint.values(&constraint.columns, &base) else { continue };
            let token = token(constraint.id, &values);
            let mine = match constraint.out {
                Role::Frees => self.taken.get(&token),
                _ => self.removed.get(&token).filter(|_| !self.created.contains(&token)),
            };
            let Some(mine) = mine else { continue };
            if self.conditions.values(table, constraint, &base)?.is_some() {
                return Err(refusal(mine, table, base_key.unwrap_or(key), &actor(), constraint));
            }
        }
        Ok(())
    }

    /// A referenced value (no primary key) that a row of another draft has taken over: what referred to
    /// mine refers to that row now, which is not committed.
    fn check_retaken(&mut self) -> Result<()> {
        for (token, removed) in &std::mem::take(&mut self.retaken) {
            if self.created.contains(token) {
                continue;
            }
            let parent = Table::enabled(removed.mine.root)?;
            let Some(constraint) = parent.constraints().get(removed.constraint) else { continue };
            let child = Table::enabled(constraint.other)?;
            let values: Vec<&str> = removed.values.iter().map(String::as_str).collect();
            let mut args = Vec::new();
            for (name, raw) in constraint.columns.iter().zip(&values) {
                let Some((_, column)) = parent.column_named(name) else { return Ok(()) };
                args.push(Arg(column.base_type, codec::read_value(column, raw)?));
            }
            let condition = |columns: &[String], swap: bool| {
                let terms = columns.iter().zip(&constraint.operators).enumerate().map(|(i, (column, operator))| {
                    let column = pgrx::spi::quote_identifier(column);
                    let place = format!("${}", i + 1);
                    match swap {
                        true => format!("{place} {operator} {column}"),
                        false => format!("{column} OPERATOR(pg_catalog.=) {place}"),
                    }
                });
                terms.collect::<Vec<_>>().join(" AND ")
            };
            for key in keys_where(&child, &condition(&constraint.other_columns, true), &args) {
                let committed = match self.other(&child, &key)? {
                    None => true,
                    Some(Other { base: None, .. }) => false,
                    Some(Other { base: Some(base), .. }) => {
                        let before = with_missing(&base, constraint, &values)?;
                        constraint.values(&constraint.other_columns, &before).is_some_and(|before| before == values)
                    }
                };
                if !committed {
                    continue;
                }
                for taker in keys_where(&parent, &condition(&constraint.columns, false), &args) {
                    if let Some(other) = self.other(&parent, &taker)? {
                        return Err(refusal(&removed.mine, &parent, &taker, &other.actor, constraint));
                    }
                }
            }
        }
        Ok(())
    }
}

/// An image with the other end's columns it lacks: those are as `values` say.
fn with_missing<'a>(base: &'a str, constraint: &'a Constraint, values: &[&'a str]) -> Result<Image<'a>> {
    let mut image = image::parse_image(base)?;
    for (column, value) in constraint.other_columns.iter().zip(values) {
        if image::value(&image, column).is_none() {
            image.push((column.as_str().into(), value));
        }
    }
    Ok(image)
}

fn owned(values: Vec<&str>) -> Vec<String> {
    values.into_iter().map(str::to_owned).collect()
}

/// A row as a draft has it that is not being committed: in another draft, or changed by this transaction
/// in a table that commits with it.
struct Other {
    base: Option<String>,
    actor: String,
}

fn draft_actor(draft: DraftKey) -> String {
    draft::header(draft).map_or_else(|| actor::current().to_string(), |header| header.0)
}

/// The table at the other end of a foreign key, if its changes are in the same journal. Nothing can be
/// promised between journals: each has an order of its own.
fn same_journal(table: &Table, other: pg_sys::Oid) -> Result<Option<Rc<Table>>> {
    Ok(Table::find(other)?.filter(|other| other.journal_id == table.journal_id))
}

/// The key of the row that the present row refers to by columns that are not the primary key.
fn referenced(parent: &Table, constraint: &Constraint, leaf: &Table, row: Values) -> Result<Option<String>> {
    let (mut terms, mut args) = (Vec::new(), Vec::new());
    for ((name, other), operator) in constraint.columns.iter().zip(&constraint.other_columns).zip(&constraint.operators)
    {
        let Some((index, column)) = leaf.column_named(name) else { return Ok(None) };
        args.push(Arg(column.base_type, row.get(index)));
        terms.push(format!("{} {operator} ${}", pgrx::spi::quote_identifier(other), args.len()));
    }
    Ok(keys_where(parent, &terms.join(" AND "), &args).pop())
}

/// The keys of the rows that are there now and satisfy a condition.
fn keys_where(table: &Table, condition: &str, args: &[Arg]) -> Vec<String> {
    let columns: Vec<String> =
        table.key.iter().filter_map(|&i| table.column(i)).map(|c| pgrx::spi::quote_identifier(&c.name)).collect();
    let sql = format!("SELECT {} FROM {} WHERE {condition}", columns.join(", "), table.name());
    let mut keys = Vec::new();
    let _owner = AsTableOwner::restricted(table.owner);
    spi::run_as_is(&sql, args, |row| {
        let datums = row.datums(columns.len() as i32);
        let value = |index| table.key.iter().position(|k| *k == index).and_then(|i| datums.get(i).copied().flatten());
        push(&mut keys, codec::key_text_of(table, value));
    });
    keys
}

fn refusal(mine: &Mine, other: &Table, key: &str, actor: &str, constraint: &Constraint) -> Error {
    let row = match Table::find(mine.root) {
        Ok(Some(table)) => table.row_name(&mine.key, user()),
        _ => Default::default(),
    };
    Error::DependsOnDraft(Box::new(Dependency {
        row,
        other: other.row_name(key, user()),
        actor: actor.to_owned(),
        constraint: constraint.name.clone(),
    }))
}
