//! A table that replay writes to: plain or partitioned in any way, enabled or not, with columns in
//! any order and columns of its own. Rows are found by the journal's key columns.

mod find;
mod write;

pub use find::Hits;

use super::layout::Layout;
use super::leaf::{Fire, Leaf};
use super::lock::lock_relation;
use super::route::Router;
use super::scan::scan_places;
use super::shape::Shape;
use super::spi::{self, Arg, Sees};
use super::trigger::Values;
use crate::error::Result;
use crate::table::Table;
use find::Lookup;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::CString;
use std::rc::Rc;
use write::Parked;

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
                lock_relation(relid, pg_sys::RowExclusiveLock);
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
