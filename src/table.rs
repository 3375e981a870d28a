//! What rowclaim knows about an enabled table: attribute numbers, key, policy and columns, cached
//! per relation until the server says the relation changed.

use crate::constraint::{self, Constraint};
use crate::error::{Error, Result, RowName};
use crate::hash::ByNumber;
use crate::pg::ffi::{attribute, partition_ancestors};
use crate::pg::fixed::FixedOutput;
use crate::pg::layout;
use crate::pg::session::Kept;
use crate::pg::shape::{self, Input, Shape};
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::store;
use crate::replay;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::ops::Deref;
use std::rc::Rc;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Claiming {
    Required,
    Auto,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Committing {
    Explicit,
    Transaction,
}

/// An enabled table, or a partition of one.
pub struct Table {
    shape: Rc<Shape>,
    /// The enabled table; differs from `relid` in a partition.
    pub root: pg_sys::Oid,
    pub partitioned: bool,
    pub claiming: Claiming,
    pub committing: Committing,
    pub journal: Rc<str>,
    pub journal_id: i32,
    pub owner_column: usize,
    pub version_column: usize,
    pub version_is_int4: bool,
    /// The constant default of the version column: what a new row starts with.
    pub version_default: i64,
    pub draft_column: usize,
    constraints: OnceCell<Vec<Constraint>>,
    giving: OnceCell<Vec<usize>>,
    tied: OnceCell<Vec<usize>>,
}

impl Deref for Table {
    type Target = Shape;
    fn deref(&self) -> &Shape {
        &self.shape
    }
}

thread_local! {
    // The table of drafts, to notice that the extension went away.
    static HOME: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static FORGET: Cell<Option<fn()>> = const { Cell::new(None) };
    // None: looked up and not enabled.
    static CACHE: Kept<HashMap<u32, Option<Rc<Table>>, ByNumber>> = Kept::default();
    static NAMES: Kept<BTreeMap<u32, String>> = const { Kept::new(BTreeMap::new()) };
    // How often names were forgotten: one that was looked up across that may be old.
    static NAMES_FORGOTTEN: Cell<u64> = const { Cell::new(0) };
    static DEFINITIONS: Cell<u64> = const { Cell::new(0) };
}

#[pg_guard]
unsafe extern "C-unwind" fn on_relcache(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    // Runs inside catalogue look-ups: it may only forget. No borrow is held across server calls.
    layout::forget(relid);
    replay::forget(relid);
    CACHE.with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            let known = if relid == pg_sys::InvalidOid {
                cache.clear();
                true
            } else {
                cache.remove(&relid.to_u32()).is_some_and(|table| table.is_some())
            };
            if known {
                redefined();
            }
        }
    });
    forget_name(relid);
    store::forget(relid);
    if relid == pg_sys::InvalidOid || relid == HOME.with(Cell::get) {
        // The extension may have been dropped and created anew: ids start again.
        if let Some(forget) = FORGET.with(Cell::get) {
            forget();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_namespace(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    forget_name(pg_sys::InvalidOid);
    redefined();
}

fn redefined() {
    DEFINITIONS.with(|count| count.set(count.get() + 1));
}

/// How often an enabled table may have got another definition or name.
pub fn definitions() -> u64 {
    DEFINITIONS.with(Cell::get)
}

/// Forgets the name of a relation, or all names.
fn forget_name(relid: pg_sys::Oid) {
    NAMES_FORGOTTEN.with(|count| count.set(count.get() + 1));
    NAMES.with(|names| {
        if let Ok(mut names) = names.try_borrow_mut() {
            if relid == pg_sys::InvalidOid {
                names.clear();
            } else {
                names.remove(&relid.to_u32());
            }
        }
    });
}

/// Registers the cache callbacks; called once per backend. `forget` drops what other
/// modules have learnt about this installation of the extension.
pub fn register(forget: fn()) {
    FORGET.with(|cell| cell.set(Some(forget)));
    // SAFETY: static functions and no argument.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relcache), pg_sys::Datum::from(0));
        let namespaces = pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
        pg_sys::CacheRegisterSyscacheCallback(namespaces, Some(on_namespace), pg_sys::Datum::from(0));
    }
}

/// Notes which installation of the extension this backend has learnt things about.
pub fn remember_home() {
    // SAFETY: look-ups by name.
    HOME.with(|home| unsafe {
        let schema = pg_sys::get_namespace_oid(c"rowclaim".as_ptr(), false);
        home.set(pg_sys::get_relname_relid(c"draft".as_ptr(), schema));
    });
}

/// Forgets everything, when settings of a table changed.
pub fn forget_all() {
    let old = CACHE.with(|cache| std::mem::take(&mut *cache.borrow_mut()));
    drop(old);
    redefined();
}

/// The schema-qualified name of a relation, quoted as PostgreSQL would.
pub fn qualified_name(relid: pg_sys::Oid) -> String {
    let _fixed = FixedOutput::enter(false);
    // SAFETY: the returned strings are palloc'd copies.
    unsafe {
        let name = pg_sys::get_rel_name(relid);
        if name.is_null() {
            return relid.to_u32().to_string();
        }
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relid));
        let quoted = pg_sys::quote_qualified_identifier(schema, name);
        CStr::from_ptr(quoted).to_string_lossy().into_owned()
    }
}

impl Table {
    /// The enabled table behind an open or lockable relation, or `None`.
    pub fn find(relid: pg_sys::Oid) -> Result<Option<Rc<Table>>> {
        if let Some(known) = CACHE.with(|cache| cache.borrow().get(&relid.to_u32()).cloned()) {
            return Ok(known);
        }
        let built = build(relid)?.map(Rc::new);
        CACHE.with(|cache| cache.borrow_mut().insert(relid.to_u32(), built.clone()));
        Ok(built)
    }

    /// As [`Table::find`], with an error when claims are not enabled.
    pub fn enabled(relid: pg_sys::Oid) -> Result<Rc<Table>> {
        Table::find(relid)?.ok_or_else(|| Error::ClaimsNotEnabled { table: qualified_name(relid) })
    }

    /// The enabled table's qualified name.
    pub fn name(&self) -> String {
        let root = self.root.to_u32();
        if let Some(known) = NAMES.with(|names| names.borrow().get(&root).cloned()) {
            return known;
        }
        let forgotten = NAMES_FORGOTTEN.with(Cell::get);
        let name = qualified_name(self.root);
        if forgotten == NAMES_FORGOTTEN.with(Cell::get) {
            NAMES.with(|names| names.borrow_mut().insert(root, name.clone()));
        }
        name
    }

    /// What its rows look like.
    pub fn shape(&self) -> Rc<Shape> {
        self.shape.clone()
    }

    /// May `user` see key values? As in PostgreSQL's own foreign key errors: not under row
    /// security, and only with SELECT on the key columns.
    pub fn key_visible_to(&self, user: pg_sys::Oid) -> bool {
        // SAFETY: privilege look-ups by OID.
        unsafe {
            if pg_sys::check_enable_rls(self.root, user, true) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
                return false;
            }
            let select = pg_sys::ACL_SELECT as pg_sys::AclMode;
            pg_sys::pg_class_aclcheck(self.root, user, select) == pg_sys::AclResult::ACLCHECK_OK
                || self.key.iter().all(|&index| {
                    pg_sys::pg_attribute_aclcheck(self.relid, index as i16 + 1, user, select)
                        == pg_sys::AclResult::ACLCHECK_OK
                })
        }
    }

    /// May `user` read or write the table at all?
    pub fn reachable_by(&self, user: pg_sys::Oid) -> bool {
        let any = pg_sys::ACL_SELECT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE;
        // SAFETY: a privilege look-up by OID.
        unsafe {
            pg_sys::pg_class_aclmask(self.root, user, any as pg_sys::AclMode, pg_sys::AclMaskHow::ACLMASK_ANY) != 0
        }
    }

    /// The row's name for errors shown to `user`.
    pub fn row_name(&self, key: &str, user: pg_sys::Oid) -> RowName {
        RowName { table: self.name(), key: self.key_visible_to(user).then(|| key.to_owned()) }
    }

    /// May rows be in drafts? If not, a stamp means nothing once its transaction has ended, though its id may be that of a
    /// draft: of what the same transaction has changed in other tables.
    pub fn has_drafts(&self) -> bool {
        self.committing == Committing::Explicit
    }

    /// What ties rows of this table together; looked up at the first commit.
    pub fn constraints(&self) -> &[Constraint] {
        self.constraints.get_or_init(|| constraint::constraints(self.root))
    }

    /// Attribute indexes of unique and referring columns: whoever changes them or deletes the row gives
    /// up values that the commits of others may need.
    pub fn giving(&self) -> &[usize] {
        self.giving.get_or_init(|| {
            // Uncommitted changes of other tables are the server's business.
            if self.committing == Committing::Transaction {
                return Vec::new();
            }
            self.columns_of(Constraint::gives)
        })
    }

    /// Attribute indexes of columns whose values tie rows together by more than the primary key.
    pub fn tied(&self) -> &[usize] {
        self.tied.get_or_init(|| self.columns_of(|constraint| !constraint.primary))
    }

    fn columns_of(&self, wanted: impl Fn(&Constraint) -> bool) -> Vec<usize> {
        let columns = self.constraints().iter().filter(|c| wanted(c)).flat_map(|c| c.all_columns());
        let mut columns: Vec<_> = columns.filter_map(|name| self.column_named(name)).map(|(index, _)| index).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}

struct Settings {
    root: pg_sys::Oid,
    claiming: String,
    committing: String,
    journal: String,
    journal_id: i32,
    untracked: Vec<String>,
    owner: String,
    version: String,
    version_default: i64,
    draft: String,
}

fn settings(relid: pg_sys::Oid) -> Option<Settings> {
    let mut family = vec![relid];
    family.extend(partition_ancestors(relid));
    for root in family {
        let found = spi::first(
            "SELECT t.claiming, t.committing, t.journal, t.untracked::text[], t.owner_column::text,
                    t.version_column::text, t.draft_column::text, j.id,
                    (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a
                     ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attrelid = t.relid AND a.attname = t.version_column)
             FROM rowclaim.enabled_table t JOIN rowclaim.journal_config j ON j.name = t.journal
             WHERE t.relid = $1",
            &[Arg::oid(root)],
            Sees::Latest,
            |row| Settings {
                root,
                claiming: row.text(1).unwrap_or_default(),
                committing: row.text(2).unwrap_or_default(),
                journal: row.text(3).unwrap_or_default(),
                untracked: row.get::<Vec<String>>(4).unwrap_or_default(),
                owner: row.text(5).unwrap_or_default(),
                version: row.text(6).unwrap_or_default(),
                draft: row.text(7).unwrap_or_default(),
                journal_id: row.get::<i32>(8).unwrap_or_default(),
                version_default: row.text(9).and_then(|expression| expression.parse().ok()).unwrap_or(1),
            },
        );
        if found.is_some() {
            return found;
        }
    }
    None
}

fn build(relid: pg_sys::Oid) -> Result<Option<Table>> {
    remember_home();
    // SAFETY: the relation is opened, and so locked, before its settings are read; what is kept of
    // its descriptor is copied.
    unsafe {
        let relation = pg_sys::try_relation_open(relid, pg_sys::AccessShareLock as i32);
        if relation.is_null() {
            return Ok(None);
        }
        let result = settings(relid).map(|settings| describe(relation, settings));
        pg_sys::relation_close(relation, pg_sys::AccessShareLock as i32);
        result.transpose()
    }
}

/// # Safety
/// `relation` is open.
unsafe fn describe(relation: pg_sys::Relation, settings: Settings) -> Result<Table> {
    let relid = (*relation).rd_id;
    let names = shape::attribute_names(relation);
    let attribute_named = |name: &str| {
        names.iter().position(|n| n.as_deref() == Some(name)).ok_or_else(|| Error::UnsupportedTable {
            table: qualified_name(relid),
            problem: format!("column {name} is missing"),
            hint: "Call disable_claims() and enable_claims() again.".into(),
        })
    };
    let (owner, version, draft) =
        (attribute_named(&settings.owner)?, attribute_named(&settings.version)?, attribute_named(&settings.draft)?);
    let typ = |index: usize| (*attribute((*relation).rd_att, index as i32)).atttypid;
    let fits = typ(owner) == pg_sys::TEXTOID
        && [pg_sys::INT8OID, pg_sys::INT4OID].contains(&typ(version))
        && typ(draft) == pg_sys::INT8OID;
    if !fits {
        return Err(Error::UnsupportedTable {
            table: qualified_name(relid),
            problem: "its ownership columns have other types than text, bigint and bigint".into(),
            hint: "Give the columns their types back.".into(),
        });
    }
    let shape = Shape::describe(relation, &[owner, version, draft], &settings.untracked, Input::Base);
    if shape.key_index == pg_sys::InvalidOid {
        return Err(Error::UnsupportedTable {
            table: qualified_name(relid),
            problem: "it has no primary key".into(),
            hint: "Add a primary key, then call enable_claims() again.".into(),
        });
    }
    Ok(Table {
        root: settings.root,
        partitioned: (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE,
        claiming: if settings.claiming == "auto" { Claiming::Auto } else { Claiming::Required },
        committing: if settings.committing == "transaction" { Committing::Transaction } else { Committing::Explicit },
        journal: settings.journal.into(),
        journal_id: settings.journal_id,
        owner_column: owner,
        version_column: version,
        version_is_int4: typ(version) == pg_sys::INT4OID,
        version_default: settings.version_default,
        draft_column: draft,
        constraints: OnceCell::new(),
        giving: OnceCell::new(),
        tied: OnceCell::new(),
        shape: Rc::new(shape),
    })
}
