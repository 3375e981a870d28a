//! A table that replay writes to: plain or partitioned in any way, enabled or not, with columns in
//! any order and columns of its own. Rows are found by the journal's key columns.

use super::layout::Layout;
use super::leaf::{wait_for, Fire, Leaf, Written};
use super::owner::AsTableOwner;
use super::route::Router;
use super::scan::scan_places;
use super::shape::{operator_name, Shape};
use super::spi::{self, Arg, Prepared, Sees};
use super::trigger::Values;
use crate::error::Result;
use crate::ownership::version_datum;
use crate::table::{qualified_name, Table};
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::collections::HashMap;
use std::ffi::CString;
use std::rc::Rc;

/// Values by attribute index (0-based).
pub type Attributes = Vec<(usize, Option<pg_sys::Datum>)>;

pub struct Target {
    pub shape: Rc<Shape>,
    layout: Rc<Layout>,
    relation: pg_sys::Relation,
    router: Option<Router>,
    parts: Vec<Part>,
    /// Where they are by relation.
    places: HashMap<u32, usize>,
    /// The part of the row found last, or to be written.
    current: usize,
    lookup: Option<Lookup>,
    defaults: Option<Vec<(usize, *mut pg_sys::ExprState)>>,
    parked: Vec<Parked>,
    /// The part whose triggers wait for the end of the query.
    in_query: Option<usize>,
}

/// The table itself, or a leaf partition.
struct Part {
    relid: u32,
    leaf: Leaf,
    /// If claims are enabled here.
    table: Option<Rc<Table>>,
    /// The root's attribute index for each of the leaf's.
    from_root: Vec<Option<usize>>,
}

/// How rows are found by certain key columns.
struct Lookup {
    key: Vec<usize>,
    by: By,
}

enum By {
    /// A unique index of the plain table, with the place of each of its columns in the key.
    Index(Vec<usize>),
    /// What the planner makes of it: partitions to look into, perhaps no index.
    Plan(Prepared),
}

/// A row set aside until the unique value it is to have is free.
struct Parked {
    part: u32,
    /// Where its former version was; `None`: it is new.
    tid: Option<pg_sys::ItemPointerData>,
    row: pg_sys::HeapTuple,
    /// As its change names it.
    key: String,
}

/// How many rows a key found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Hits {
    None,
    One,
    Several,
}

/// What is behind a name.
pub enum Opened {
    Table(Box<Target>),
    Nothing,
    /// Something that replay does not write to: what it is.
    Refused(&'static str),
}

impl Target {
    /// Opens a table by schema and name. The lock (ROW EXCLUSIVE) is kept to the end of the transaction.
    pub fn open(schema: &str, name: &str) -> Result<Opened> {
        let (Ok(c_schema), Ok(c_name)) = (CString::new(schema), CString::new(name)) else {
            return Ok(Opened::Nothing);
        };
        // SAFETY: look-ups by name. A rename between look-up and lock is noticed by looking up again.
        let relation = unsafe {
            let look_up = || match pg_sys::get_namespace_oid(c_schema.as_ptr(), true) {
                pg_sys::InvalidOid => pg_sys::InvalidOid,
                schema => pg_sys::get_relname_relid(c_name.as_ptr(), schema),
            };
            let mut relid = look_up();
            loop {
                if relid == pg_sys::InvalidOid {
                    return Ok(Opened::Nothing);
                }
                pg_sys::LockRelationOid(relid, pg_sys::RowExclusiveLock as i32);
                let again = look_up();
                if again == relid {
                    break;
                }
                relid = again;
            }
            pg_sys::relation_open(relid, pg_sys::NoLock as i32)
        };
        // SAFETY: the relation is open; closed here or in Drop, and the router in Drop.
        unsafe {
            if let Some(what) = refusal(relation, schema) {
                pg_sys::relation_close(relation, pg_sys::NoLock as i32);
                return Ok(Opened::Refused(what));
            }
            let layout = Layout::of(relation)?;
            let shape = layout.shape.clone();
            let partitioned = (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE;
            Ok(Opened::Table(Box::new(Target {
                router: partitioned.then(|| Router::open(relation, shape.owner)),
                current: 0,
                shape,
                layout,
                relation,
                parts: Vec::new(),
                places: HashMap::new(),
                lookup: None,
                defaults: None,
                parked: Vec::new(),
                in_query: None,
            })))
        }
    }

    /// Makes the table itself or a partition the current one.
    fn enter(&mut self, relid: u32, index: Option<pg_sys::Oid>) -> Result<&mut Part> {
        self.current = match self.places.get(&relid) {
            Some(&at) => at,
            None => {
                let oid = pg_sys::Oid::from(relid);
                let layout = if oid == self.shape.relid {
                    self.layout.clone()
                } else {
                    // SAFETY: the partition is closed again; the lock stays.
                    unsafe {
                        let relation = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
                        let layout = Layout::of(relation);
                        pg_sys::table_close(relation, pg_sys::NoLock as i32);
                        layout?
                    }
                };
                let table = Table::find(oid)?;
                // SAFETY: closed in Drop.
                let leaf = unsafe { Leaf::open(oid, layout.shape.clone(), index, Fire::Users) };
                let from_root = layout.places_in(&self.layout);
                self.parts.push(Part { relid, leaf, table, from_root });
                self.places.insert(relid, self.parts.len() - 1);
                self.parts.len() - 1
            }
        };
        Ok(self.part())
    }

    /// The part of the row found last.
    fn part(&mut self) -> &mut Part {
        match self.parts.get_mut(self.current) {
            Some(part) => part,
            None => pgrx::error!("table not open"),
        }
    }

    /// The columns of the row found last, with its own attribute numbers.
    pub fn row_shape(&mut self) -> Rc<Shape> {
        self.part().leaf.shape.clone()
    }

    /// The row found last.
    pub fn values(&mut self) -> Values {
        self.part().leaf.values()
    }

    /// Where the row found last is: relation, block, offset.
    pub fn place(&mut self) -> (u32, u32, u16) {
        let part = self.part();
        let tid = part.leaf.place();
        (part.relid, u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo), tid.ip_posid)
    }

    /// Finds the row with these values (attribute index of the root, not null); waits for a
    /// transaction in progress on it.
    pub fn find(&mut self, key: &[(usize, pg_sys::Datum)]) -> Result<Hits> {
        if self.lookup.as_ref().is_none_or(|lookup| !lookup.key.iter().eq(key.iter().map(|(index, _)| index))) {
            self.choose_lookup(key)?;
        }
        let Some(Lookup { by, .. }) = &self.lookup else { return Ok(Hits::None) };
        match by {
            By::Index(places) => {
                let datums: Vec<_> = places.iter().map(|&place| key[place].1).collect();
                // A plain table is its only part.
                self.current = 0;
                loop {
                    let leaf = &mut self.part().leaf;
                    match leaf.seek(&datums) {
                        None => return Ok(Hits::None),
                        Some(Some((xid, _))) => wait_for(xid),
                        Some(None) if leaf.lock_for_triggers() == Written::Done => return Ok(Hits::One),
                        Some(None) => {}
                    }
                }
            }
            By::Plan(plan) => {
                let args: Vec<_> = key
                    .iter()
                    .map(|(index, datum)| {
                        Arg(self.shape.column(*index).map_or(pg_sys::InvalidOid, |c| c.base_type), Some(*datum))
                    })
                    .collect();
                let mut found: Vec<(u32, pg_sys::ItemPointerData)> = Vec::new();
                let _owner = AsTableOwner::restricted(self.shape.owner);
                plan.run(&args, |row| {
                    let place = row.get::<pg_sys::ItemPointerData>(2).unwrap_or_default();
                    found.push((row.oid(1).unwrap_or(pg_sys::InvalidOid).to_u32(), place));
                });
                drop(_owner);
                match found[..] {
                    [] => Ok(Hits::None),
                    [(relid, tid)] => {
                        let leaf = &mut self.enter(relid, None)?.leaf;
                        let fetched = leaf.fetch(tid) && leaf.lock_for_triggers() == Written::Done;
                        Ok(if fetched { Hits::One } else { Hits::None })
                    }
                    _ => Ok(Hits::Several),
                }
            }
        }
    }

    fn choose_lookup(&mut self, key: &[(usize, pg_sys::Datum)]) -> Result<()> {
        self.flush();
        let columns: Vec<usize> = key.iter().map(|(index, _)| *index).collect();
        let index = match self.router {
            // SAFETY: the relation is open.
            None => unsafe { self.layout.index_on(self.relation, &columns) },
            Some(_) => None,
        };
        let by = match index {
            Some((index, places)) => {
                let relid = self.shape.relid.to_u32();
                self.places.clear();
                if let Some(part) = self.parts.pop() {
                    // The executor state of default expressions goes with it.
                    self.defaults = None;
                    // SAFETY: not used again.
                    unsafe { part.leaf.close() };
                }
                self.enter(relid, Some(index))?;
                By::Index(places)
            }
            None => By::Plan(self.plan(&columns)),
        };
        self.lookup = Some(Lookup { key: columns, by });
        Ok(())
    }

    fn plan(&self, columns: &[usize]) -> Prepared {
        let known = columns.iter().filter_map(|&index| self.shape.column(index));
        let condition: Vec<_> = known
            .clone()
            .enumerate()
            .map(|(i, column)| {
                // SAFETY: the entry lives as long as the backend.
                let equal =
                    unsafe { (*pg_sys::lookup_type_cache(column.base_type, pg_sys::TYPECACHE_EQ_OPR as i32)).eq_opr };
                format!("{} {} ${}", pgrx::spi::quote_identifier(&column.name), operator_name(equal), i + 1)
            })
            .collect();
        let only = if self.router.is_some() { "" } else { "ONLY " };
        let table = qualified_name(self.shape.relid);
        let sql = format!("SELECT tableoid, ctid FROM {only}{table} WHERE {} LIMIT 2", condition.join(" AND "));
        let args: Vec<_> = known.map(|column| Arg(column.base_type, None)).collect();
        let _owner = AsTableOwner::restricted(self.shape.owner);
        Prepared::new(&sql, &args)
    }

    /// Updates the row found last; it moves to another partition if it must. A row whose unique
    /// value is still another's waits for [`Target::unpark`].
    ///
    /// `set` has attribute indexes of the row's own table; `key` is what the change calls the row.
    pub fn update(&mut self, mut set: Attributes, version: Option<i64>, key: &str) -> Result<()> {
        let routed = self.router.is_some();
        let natts = self.shape.natts;
        // Found by its plan, a row would be one of several until the one with its key has moved on.
        let key_moves = match &self.lookup {
            Some(Lookup { key, by: By::Plan(_) }) => {
                let names: Vec<_> = key.iter().filter_map(|&i| self.shape.column(i)).map(|c| c.name.clone()).collect();
                let row = self.row_shape();
                set.iter().any(|(index, _)| row.column(*index).is_some_and(|column| names.contains(&column.name)))
            }
            _ => false,
        };
        let part = self.begin_query();
        if let (Some(table), Some(version)) = (&part.table, version) {
            set.push((table.version_column, Some(version_datum(table, version)?)));
        }
        part.leaf.fill(&set);
        if routed && !part.leaf.belongs() {
            let row = part.root_row(natts);
            part.leaf.delete();
            return self.insert_row(&row, key, true, key_moves);
        }
        if key_moves || part.leaf.conflicts(true) {
            if part.leaf.before_update() {
                let row = part.leaf.copy_fresh();
                let tid = Some(part.leaf.park());
                let part = part.relid;
                self.parked.push(Parked { part, tid, row, key: key.to_owned() });
            }
        } else {
            part.leaf.update();
        }
        Ok(())
    }

    /// Deletes the row found last.
    pub fn delete(&mut self) {
        self.begin_query().leaf.delete();
    }

    /// Inserts a row; columns without a value get their default. `parking`: it may have to wait
    /// for a unique value that another row still has.
    ///
    /// `set` has attribute indexes of the root; `key` is what the change calls the row.
    pub fn insert(&mut self, set: &Attributes, version: Option<i64>, key: &str, parking: bool) -> Result<()> {
        let mut row: Vec<Option<pg_sys::Datum>> = vec![None; self.shape.natts];
        let mut given = vec![false; self.shape.natts];
        for (index, value) in set {
            (row[*index], given[*index]) = (*value, true);
        }
        let root = Table::find(self.shape.relid)?;
        if let Some(table) = &root {
            for index in [table.owner_column, table.draft_column, table.version_column] {
                given[index] = true;
            }
            row[table.version_column] = Some(version_datum(table, version.unwrap_or(1))?);
        }
        self.add_defaults(&mut row, &given)?;
        self.insert_row(&row, key, parking, false)
    }

    /// Inserts a row given by all attributes of the root: now, or in any case (`later`) or where it
    /// must (`parking`) with the rows that are set aside.
    fn insert_row(&mut self, row: &[Option<pg_sys::Datum>], key: &str, parking: bool, later: bool) -> Result<()> {
        let relid = match &mut self.router {
            Some(router) => router.partition(row).to_u32(),
            None => self.shape.relid.to_u32(),
        };
        self.enter(relid, None)?;
        let part = self.begin_query();
        let set: Attributes =
            part.from_root.iter().enumerate().filter_map(|(index, from)| Some((index, row[(*from)?]))).collect();
        part.leaf.fill_new(&set);
        if later || parking && part.leaf.conflicts(false) {
            let row = part.leaf.copy_fresh();
            self.parked.push(Parked { part: relid, tid: None, row, key: key.to_owned() });
        } else {
            part.leaf.insert();
        }
        Ok(())
    }

    /// Fills in the defaults of columns that were not given.
    fn add_defaults(&mut self, row: &mut [Option<pg_sys::Datum>], given: &[bool]) -> Result<()> {
        let relid = self.shape.relid.to_u32();
        let estate = match &self.router {
            Some(router) => router.estate,
            None => self.enter(relid, None)?.leaf.estate(),
        };
        let _owner = AsTableOwner::restricted(self.shape.owner);
        let relation = self.relation;
        let shape = self.shape.clone();
        let defaults = self.defaults.get_or_insert_with(|| {
            // SAFETY: the expressions live in the estate's context, as long as the target.
            unsafe {
                let outer = std::mem::replace(
                    &mut *std::ptr::addr_of_mut!(pg_sys::CurrentMemoryContext),
                    (*estate).es_query_cxt,
                );
                let defaults = (0..shape.natts)
                    .filter(|&index| !is_left_alone(relation, index))
                    .filter_map(|index| {
                        let default = pg_sys::build_column_default(relation, index as i32 + 1);
                        (!default.is_null()).then(|| {
                            let planned = pg_sys::expression_planner(default.cast());
                            (index, pg_sys::ExecInitExpr(planned, std::ptr::null_mut()))
                        })
                    })
                    .collect();
                pg_sys::CurrentMemoryContext = outer;
                defaults
            }
        });
        for (index, state) in defaults.iter().filter(|(index, _)| !given[*index]) {
            // SAFETY: the state was made by ExecInitExpr; its value outlives the insertion in the
            // caller's context.
            unsafe {
                if (*estate).es_per_tuple_exprcontext.is_null() {
                    pg_sys::MakePerTupleExprContext(estate);
                }
                let context = (*estate).es_per_tuple_exprcontext;
                let mut null = true;
                let value = pg_guard_ffi_boundary(|| match (**state).evalfunc {
                    Some(evaluate) => evaluate(*state, context, &mut null),
                    None => pg_sys::Datum::from(0),
                });
                row[*index] = (!null).then_some(value);
            }
        }
        Ok(())
    }

    /// Columns that must have a value and get none: not given, NOT NULL, no default.
    pub fn lacks(&self, set: &Attributes) -> Option<String> {
        self.shape.columns.iter().enumerate().find_map(|(index, column)| {
            let column = column.as_ref()?;
            // SAFETY: the relation is open.
            let needed = unsafe {
                let att = super::ffi::attribute((*self.relation).rd_att, index as i32);
                (*att).attnotnull && !(*att).atthasdef && (*att).attidentity == 0
            };
            (needed && !set.iter().any(|(i, _)| *i == index)).then(|| column.name.clone())
        })
    }

    /// Are rows set aside?
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Writes the rows that were set aside: by now others have given their unique values up. `next` is told each row's key
    /// before.
    pub fn unpark(&mut self, mut next: impl FnMut(&str)) -> Result<()> {
        for Parked { part, tid, row, key } in std::mem::take(&mut self.parked) {
            next(&key);
            self.enter(part, None)?;
            let leaf = &mut self.begin_query().leaf;
            leaf.fill_copy(row);
            match tid {
                Some(tid) => leaf.unpark(tid),
                None => leaf.insert(),
            }
        }
        Ok(())
    }

    /// The table of the row found last, if claims are enabled here.
    pub fn table(&mut self) -> Option<Rc<Table>> {
        self.part().table.clone()
    }

    /// The part of the row found or to be written, ready to be written.
    fn begin_query(&mut self) -> &mut Part {
        let current = self.current;
        if self.in_query != Some(current) {
            self.flush();
            self.in_query = Some(current);
        }
        let part = self.part();
        part.leaf.begin_query();
        part
    }

    /// Fires the triggers of what was written, and makes it visible to what follows.
    pub fn flush(&mut self) {
        if let Some(part) = self.in_query.take().and_then(|at| self.parts.get_mut(at)) {
            part.leaf.end_query();
        }
    }

    /// The table itself or its leaf partitions.
    pub fn leaves(&self) -> Vec<u32> {
        if self.router.is_none() {
            return vec![self.shape.relid.to_u32()];
        }
        let mut leaves = Vec::new();
        spi::query(
            "SELECT t.relid::oid FROM pg_catalog.pg_partition_tree($1) t WHERE t.isleaf",
            &[Arg::oid(self.shape.relid)],
            Sees::Latest,
            |row| leaves.extend(row.oid(1).map(|oid| oid.to_u32())),
        );
        leaves
    }

    /// Is there no row at all?
    pub fn is_empty(&mut self) -> Result<bool> {
        for relid in self.leaves() {
            let relation = self.enter(relid, None)?.leaf.relation;
            let mut any = false;
            scan_places(relation, |_| {
                any = true;
                false
            });
            if any {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes every row whose place `keep` does not want; how many.
    pub fn delete_except(&mut self, keep: impl Fn(u32, u32, u16) -> bool) -> Result<u64> {
        let mut count = 0;
        for relid in self.leaves() {
            self.enter(relid, None)?;
            let leaf = &mut self.begin_query().leaf;
            let relation = leaf.relation;
            scan_places(relation, |tid| {
                let block = u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo);
                if !keep(relid, block, tid.ip_posid) && leaf.fetch(tid) {
                    leaf.delete();
                    count += 1;
                }
                true
            });
        }
        Ok(count)
    }
}

impl Part {
    /// The filled row by all attributes of the root.
    fn root_row(&self, natts: usize) -> Vec<Option<pg_sys::Datum>> {
        let values = self.leaf.fresh_values();
        let mut row = vec![None; natts];
        for (index, from) in self.from_root.iter().enumerate() {
            if let Some(from) = from {
                row[*from] = values.get(index);
            }
        }
        row
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.flush();
            for part in self.parts.drain(..) {
                // SAFETY: not used again.
                unsafe { part.leaf.close() };
            }
            // SAFETY: as above; the lock stays.
            unsafe {
                if let Some(router) = self.router.take() {
                    router.close();
                }
                pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
            }
        }
    }
}

/// Is the relation none that replay writes to? An entry may name anything, and the worker may do anything.
unsafe fn refusal(relation: pg_sys::Relation, schema: &str) -> Option<&'static str> {
    let form = (*relation).rd_rel;
    if ![pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&((*form).relkind as u8)) {
        return Some("it is not a table");
    }
    if (*relation).rd_id.to_u32() < pg_sys::FirstNormalObjectId {
        return Some("it is a table of the server");
    }
    if schema == "rowclaim" {
        return Some("it is a table of rowclaim");
    }
    ((*form).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP).then_some("it is a temporary table")
}

/// Dropped and generated columns have no default to fill in.
unsafe fn is_left_alone(relation: pg_sys::Relation, index: usize) -> bool {
    let att = super::ffi::attribute((*relation).rd_att, index as i32);
    (*att).attisdropped || (*att).attgenerated != 0
}
