//! Reaching user rows through the table access method: found by primary key, written without the
//! user's triggers. The data is the extension's own business here, so no user code runs except
//! foreign key checks where a row's data is put back.

use super::leaf::{begin_checks, Fire, InProgress, Leaf};
use super::lock::lock_relation;
use super::memory::room;
use super::owner::{AsOwner, AsTableOwner};
use super::spi::{self, Arg};
use super::trigger::Values;
use super::xact::Moment;
use crate::error::Result;
use crate::table::Table;
use pgrx::pg_sys;
use std::rc::Rc;

pub use super::leaf::{wait_for, Look, Written};

/// A plain enabled table or a leaf partition of one.
struct Part {
    table: Rc<Table>,
    leaf: Leaf,
}

/// Where a version of a row is: its leaf table and its place there.
#[derive(Clone, Copy)]
pub struct Place {
    leaf: pg_sys::Oid,
    tid: pg_sys::ItemPointerData,
}

/// An enabled table with whatever partitions are needed on the way.
pub struct Rows {
    pub table: Rc<Table>,
    /// By OID. Most tables have but one.
    parts: Vec<Part>,
    /// Which is that of the row found last.
    current: usize,
    in_query: bool,
}

impl Rows {
    /// Opens an enabled table. The lock (ROW EXCLUSIVE) is kept to the end of the transaction.
    pub fn open(root: pg_sys::Oid) -> Result<Rows> {
        lock_relation(root, pg_sys::RowExclusiveLock);
        let table = Table::enabled(root)?;
        Ok(Rows { current: 0, table, parts: Vec::new(), in_query: false })
    }

    fn leaf(&mut self, relid: pg_sys::Oid) -> Result<&mut Leaf> {
        self.current = match self.parts.binary_search_by_key(&relid.to_u32(), |part| part.table.relid.to_u32()) {
            Ok(at) => at,
            Err(at) => {
                let table = if relid == self.table.relid { self.table.clone() } else { Table::enabled(relid)? };
                room(&mut self.parts, 1);
                // SAFETY: closed in Drop.
                let leaf = unsafe { Leaf::open(relid, table.shape(), Some(table.key_index), Fire::Checks) };
                self.parts.insert(at, Part { table, leaf });
                at
            }
        };
        Ok(self.at())
    }

    /// The part that [`Rows::find`] found its row in.
    fn part(&mut self) -> &mut Part {
        self.parts.get_mut(self.current).unwrap_or_else(|| pgrx::error!("leaf table not open"))
    }

    fn at(&mut self) -> &mut Leaf {
        &mut self.part().leaf
    }

    /// The leaf table of the row found last, with its own attribute numbers.
    pub fn leaf_table(&mut self) -> Rc<Table> {
        self.part().table.clone()
    }

    /// Looks a row up by its key values (in key order).
    ///
    /// Returns `None` when there is no such row, else the transaction in progress on it, if any:
    /// its id and whether the row itself is uncommitted.
    pub fn find(&mut self, key: &[pg_sys::Datum], look: Look) -> Result<Option<InProgress>> {
        let leaf = if self.table.partitioned { self.locate(key)? } else { Some(self.table.relid) };
        match leaf {
            Some(leaf) => Ok(self.leaf(leaf)?.find(key, look)),
            None => Ok(None),
        }
    }

    /// The partition that holds a key, by the executor's own pruning.
    fn locate(&mut self, key: &[pg_sys::Datum]) -> Result<Option<pg_sys::Oid>> {
        let mut condition = Vec::new();
        let mut args = Vec::new();
        for (i, &index) in self.table.key.iter().enumerate() {
            let Some(column) = self.table.column(index) else {
                continue;
            };
            condition.push(format!(
                "{} {} ${}",
                pgrx::spi::quote_identifier(&column.name),
                self.table.equality(i),
                i + 1
            ));
            args.push(Arg(column.base_type, key.get(i).copied()));
        }
        let sql = format!("SELECT tableoid FROM {} WHERE {}", self.table.name(), condition.join(" AND "));
        let _path = AsOwner::enter();
        let _owner = AsTableOwner::restricted(self.table.owner);
        let mut found = None;
        spi::look_up(&sql, &args, |row| found = row.oid(1));
        Ok(found)
    }

    /// Closes what is open, before a subtransaction starts or ends; the locks stay.
    pub fn let_go(&mut self) {
        while let Some(part) = self.parts.pop() {
            // SAFETY: not used again.
            unsafe { part.leaf.close() };
        }
    }

    /// As [`Rows::find`] in what is committed, and locks the row against concurrent writers.
    pub fn find_and_lock(&mut self, key: &[pg_sys::Datum]) -> Result<bool> {
        while self.find(key, Look::Latest)?.is_some() {
            if self.at().lock() == Written::Done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The place of the row found last.
    pub fn place(&mut self) -> Place {
        Place { leaf: self.part().table.relid, tid: self.at().place() }
    }

    /// Looks at a place where a row was found in this statement; false if the row has changed by that
    /// moment.
    pub fn fetch(&mut self, place: Place, moment: &Moment) -> Result<bool> {
        Ok(self.leaf(place.leaf)?.fetch_at(place.tid, moment))
    }

    /// The row found last.
    pub fn values(&mut self) -> Values {
        self.at().values()
    }

    /// Updates ownership columns of the row found last, without any trigger, waiting for a
    /// transaction that is changing it.
    pub fn write(&mut self, set: &[(usize, Option<pg_sys::Datum>)]) -> Written {
        let leaf = self.at();
        leaf.fill(set);
        leaf.overwrite()
    }

    /// Puts data back into the row found last; foreign keys are checked at [`Rows::finish`].
    pub fn restore(&mut self, set: &[(usize, Option<pg_sys::Datum>)]) {
        let leaf = self.begin_query();
        leaf.fill(set);
        leaf.update();
    }

    /// Deletes the row found last; foreign keys act as for a DELETE at [`Rows::finish`].
    pub fn delete(&mut self) {
        self.begin_query().delete();
    }

    /// Inserts a row into a plain table or the given leaf partition.
    pub fn insert(&mut self, leaf: pg_sys::Oid, set: &[(usize, Option<pg_sys::Datum>)]) -> Result<()> {
        self.leaf(leaf)?;
        let leaf = self.begin_query();
        leaf.fill_new(set);
        leaf.insert();
        Ok(())
    }

    /// Does another row have a unique value of a row that is to be inserted? Then that is the row found last, and what is
    /// returned is the index that says so.
    pub fn find_occupant(
        &mut self,
        leaf: pg_sys::Oid,
        set: &[(usize, Option<pg_sys::Datum>)],
    ) -> Result<Option<pg_sys::Oid>> {
        let leaf = self.leaf(leaf)?;
        leaf.fill_new(set);
        let Some((tid, index)) = leaf.occupant() else { return Ok(None) };
        Ok(leaf.fetch_at(tid, &Moment::with_own_writes()).then_some(index))
    }

    /// See [`Leaf::park`].
    pub fn park(&mut self) -> pg_sys::ItemPointerData {
        self.at().park()
    }

    /// Inserts the restored version of a parked row and queues the foreign key checks of an UPDATE.
    pub fn unpark(
        &mut self,
        leaf: pg_sys::Oid,
        tid: pg_sys::ItemPointerData,
        set: &[(usize, Option<pg_sys::Datum>)],
    ) -> Result<()> {
        self.leaf(leaf)?;
        let leaf = self.begin_query();
        leaf.fill_new(set);
        leaf.unpark(tid);
        Ok(())
    }

    /// Attribute indexes of columns in any unique index of the row found last.
    pub fn unique_columns(&mut self) -> Vec<usize> {
        self.at().unique_columns()
    }

    /// The current leaf, ready to be written.
    fn begin_query(&mut self) -> &mut Leaf {
        if !std::mem::replace(&mut self.in_query, true) {
            begin_checks();
        }
        self.at()
    }

    /// Fires the foreign key checks of what was put back. Must follow restore, delete and insert.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.in_query) {
            self.at().end_checks();
        }
    }
}

impl Drop for Rows {
    /// Where [`Rows::finish`] was not reached an error is on its way: what was put back is rolled back, and a check of it
    /// would only raise another error in place of that one.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.let_go();
        }
    }
}
