//! What replay knows about the tables and partitions it writes, kept until the server says that one
//! has changed: a transaction of one row must not pay for describing its table.

use super::leaf::Leaf;
use super::session::Kept;
use super::shape::{attribute_names, Input, Shape};
use crate::error::Result;
use crate::table::Table;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

pub struct Layout {
    /// Without the ownership columns the table may have.
    pub shape: Rc<Shape>,
    /// By attribute index; `None`: dropped.
    names: Vec<Option<String>>,
    /// What was found for the key columns asked for last.
    key_index: RefCell<Option<(Vec<usize>, Option<KeyIndex>)>>,
}

/// A unique index and the place of each of its columns among the key columns asked for.
pub type KeyIndex = (pg_sys::Oid, Vec<usize>);

thread_local! {
    static KNOWN: Kept<HashMap<u32, Rc<Layout>>> = Kept::default();
}

/// The relation has changed; `InvalidOid`: any may have. Called inside catalogue look-ups.
pub fn forget(relid: pg_sys::Oid) {
    KNOWN.with(|known| {
        if let Ok(mut known) = known.try_borrow_mut() {
            if relid == pg_sys::InvalidOid {
                known.clear();
            } else {
                known.remove(&relid.to_u32());
            }
        }
    });
}

impl Layout {
    /// # Safety
    /// `relation` is open and locked.
    pub unsafe fn of(relation: pg_sys::Relation) -> Result<Rc<Layout>> {
        let relid = (*relation).rd_id;
        if let Some(known) = KNOWN.with(|known| known.borrow().get(&relid.to_u32()).cloned()) {
            return Ok(known);
        }
        let table = Table::find(relid)?;
        let ownership = table.map_or_else(Vec::new, |t| vec![t.owner_column, t.version_column, t.draft_column]);
        let layout = Rc::new(Layout {
            shape: Rc::new(Shape::describe(relation, &ownership, &[], Input::Declared)),
            names: attribute_names(relation),
            key_index: RefCell::default(),
        });
        KNOWN.with(|known| known.borrow_mut().insert(relid.to_u32(), layout.clone()));
        Ok(layout)
    }

    /// The unique index on these attributes of the relation, if there is one.
    ///
    /// # Safety
    /// `relation` is the open relation of this layout.
    pub unsafe fn index_on(&self, relation: pg_sys::Relation, columns: &[usize]) -> Option<KeyIndex> {
        if let Some((known, index)) = &*self.key_index.borrow() {
            if known == columns {
                return index.clone();
            }
        }
        let index = Leaf::index_on(relation, columns);
        *self.key_index.borrow_mut() = Some((columns.to_vec(), index.clone()));
        index
    }

    /// The attribute indexes of `root` for those of this partition of it, or of `root` itself.
    pub fn places_in(&self, root: &Layout) -> Vec<Option<usize>> {
        let place = |index: usize, name: &Option<String>| {
            name.as_ref()?;
            let same = root.names.get(index) == Some(name);
            same.then_some(index).or_else(|| root.names.iter().position(|other| other == name))
        };
        self.names.iter().enumerate().map(|(index, name)| place(index, name)).collect()
    }
}
