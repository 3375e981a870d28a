//! How replay writes a row, or sets it aside until a unique value is free.

use super::find::{By, Lookup};
use super::{Attributes, Target};
use crate::error::Result;
use crate::ownership::version_datum;
use crate::pg::ffi::attribute;
use crate::pg::memory::push;
use crate::pg::owner::AsTableOwner;
use crate::table::Table;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// A row set aside until the unique value it is to have is free.
pub(super) struct Parked {
    part: u32,
    /// Where its former version was; `None`: it is new.
    tid: Option<pg_sys::ItemPointerData>,
    row: pg_sys::HeapTuple,
    /// As its change names it.
    key: String,
}

impl Target {
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
                push(&mut self.parked, Parked { part, tid, row, key: key.to_owned() });
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
            push(&mut self.parked, Parked { part: relid, tid: None, row, key: key.to_owned() });
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
                let att = attribute((*self.relation).rd_att, index as i32);
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
}

/// Dropped and generated columns have no default to fill in.
unsafe fn is_left_alone(relation: pg_sys::Relation, index: usize) -> bool {
    let att = attribute((*relation).rd_att, index as i32);
    (*att).attisdropped || (*att).attgenerated != 0
}
