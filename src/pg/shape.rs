//! What the rows of a relation look like: attributes, key, and how values are read and written.

use super::ffi::{attribute, primary_key_index};
use super::spi::{self, Arg, Sees};
use super::value::Storage;
use pgrx::pg_sys;
use std::cell::{OnceCell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;

/// How a column's values are written as JSON.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form {
    Int2,
    Int4,
    Int8,
    Oid,
    Float,
    Numeric,
    Bool,
    Text,
    Char,
    Timestamp,
    TimestampTz,
    Other,
}

pub struct Column {
    pub name: String,
    /// The name as a JSON string with its colon: `"price":`.
    pub label: String,
    pub form: Form,
    /// Reading a value checks the constraints of a domain.
    pub domain: bool,
    /// Reading a value may run code of a user, or depends on who reads.
    pub foreign: bool,
    pub storage: Storage,
    pub typmod: i32,
    pub io_param: pg_sys::Oid,
    pub base_type: pg_sys::Oid,
    /// The table's owner: code of the type (domains inside it) runs as this role.
    pub owner: pg_sys::Oid,
    /// Out of the journal and free of claims when changed alone.
    pub untracked: bool,
    pub output: RefCell<pg_sys::FmgrInfo>,
    pub input: RefCell<pg_sys::FmgrInfo>,
}

impl Column {
    /// Is every text a value as it is?
    pub fn takes_any_text(&self) -> bool {
        !self.domain && self.typmod == -1 && [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&self.base_type)
    }
}

/// Which input function reads a column's values.
#[derive(Clone, Copy, PartialEq)]
pub enum Input {
    /// That of the type below domains: for values that were in the table before.
    Base,
    /// The declared type's, which checks domain constraints.
    Declared,
}

/// A plain or partitioned table, or a partition.
pub struct Shape {
    pub relid: pg_sys::Oid,
    /// The role that owns the relation.
    pub owner: pg_sys::Oid,
    pub natts: usize,
    /// Attribute indexes (0-based) of the primary key, in key order.
    pub key: Vec<usize>,
    /// Invalid without a primary key.
    pub key_index: pg_sys::Oid,
    /// The equality functions of its columns, once a row was looked for.
    pub key_equal: OnceCell<Rc<[pg_sys::Oid]>>,
    /// By attribute index; `None` for dropped, generated and ownership columns.
    pub columns: Vec<Option<Column>>,
    /// The names of generated columns.
    pub generated: Vec<String>,
    pub storage: Vec<Storage>,
    /// Some column's text form depends on settings that only a GUC change reaches.
    pub settings_matter: bool,
    memory: pg_sys::MemoryContext,
}

impl Drop for Shape {
    fn drop(&mut self) {
        // SAFETY: holds only what the columns' function look-ups cached, unused from now on.
        unsafe { pg_sys::MemoryContextDelete(self.memory) };
    }
}

impl Shape {
    /// Describes a relation, leaving out the columns at the indexes in `ownership`.
    ///
    /// # Safety
    /// `relation` is open.
    pub unsafe fn describe(
        relation: pg_sys::Relation,
        ownership: &[usize],
        untracked: &[String],
        input: Input,
    ) -> Shape {
        let memory = pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"rowclaim table".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        let desc = (*relation).rd_att;
        let natts = (*desc).natts as usize;
        let (mut columns, mut storage) = (Vec::with_capacity(natts), Vec::with_capacity(natts));
        let (mut matters, mut generated) = (false, Vec::new());
        for index in 0..natts {
            let att = attribute(desc, index as i32);
            let align = match (*att).attalign as u8 {
                pg_sys::TYPALIGN_CHAR => 1,
                pg_sys::TYPALIGN_SHORT => 2,
                pg_sys::TYPALIGN_INT => 4,
                _ => 8,
            };
            storage.push(Storage { by_value: (*att).attbyval, len: (*att).attlen, align });
            if !(*att).attisdropped && (*att).attgenerated != 0 {
                generated.push(name_of(att));
            }
            if (*att).attisdropped || (*att).attgenerated != 0 || ownership.contains(&index) {
                columns.push(None);
                continue;
            }
            let name = name_of(att);
            let (base, base_typmod) = base_type((*att).atttypid, (*att).atttypmod);
            let (read, typmod) = match input {
                Input::Base => (base, base_typmod),
                Input::Declared => ((*att).atttypid, (*att).atttypmod),
            };
            let (mut out, mut input, mut io_param, mut varlena) =
                (pg_sys::InvalidOid, pg_sys::InvalidOid, pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(base, &mut out, &mut varlena);
            pg_sys::getTypeInputInfo(read, &mut input, &mut io_param);
            let look_up = |function: pg_sys::Oid| {
                let mut info = pg_sys::FmgrInfo::default();
                pg_sys::fmgr_info_cxt(function, &mut info, memory);
                RefCell::new(info)
            };
            let depends = settings_matter(base);
            matters |= depends;
            columns.push(Some(Column {
                label: format!("{}:", serde_json::Value::from(name.as_str())),
                untracked: untracked.contains(&name),
                name,
                form: form_of(base),
                domain: read != base,
                foreign: read != base || depends || base.to_u32() >= pg_sys::FirstNormalObjectId,
                storage: storage[index],
                typmod,
                io_param,
                base_type: base,
                owner: (*(*relation).rd_rel).relowner,
                output: look_up(out),
                input: look_up(input),
            }));
        }
        let key_index = primary_key_index(relation);
        Shape {
            relid: (*relation).rd_id,
            owner: (*(*relation).rd_rel).relowner,
            natts,
            key: if key_index == pg_sys::InvalidOid { Vec::new() } else { index_columns(key_index) },
            key_index,
            key_equal: OnceCell::new(),
            columns,
            generated,
            storage,
            settings_matter: matters,
            memory,
        }
    }

    /// The column at an attribute index, if its values are recorded.
    pub fn column(&self, index: usize) -> Option<&Column> {
        self.columns.get(index).and_then(Option::as_ref)
    }

    /// As [`Shape::column_named`], looking from attribute `hint` on first: images have columns in order.
    pub fn column_after(&self, hint: usize, name: &str) -> Option<(usize, &Column)> {
        let at = |index: usize| self.column(index).filter(|column| column.name == name).map(|column| (index, column));
        (hint..self.natts).find_map(at).or_else(|| (0..hint.min(self.natts)).find_map(at))
    }

    /// Attribute index and column of the recorded column with this name.
    pub fn column_named(&self, name: &str) -> Option<(usize, &Column)> {
        self.columns.iter().enumerate().find_map(|(i, c)| c.as_ref().filter(|c| c.name == name).map(|c| (i, c)))
    }

    pub fn has_key_column(&self, index: usize) -> bool {
        self.key.contains(&index)
    }
    /// The qualified equality operator of a key column.
    pub fn equality(&self, position: usize) -> String {
        // SAFETY: the index is opened while its operator family is read.
        let operator = unsafe {
            let index = pg_sys::relation_open(self.key_index, pg_sys::AccessShareLock as i32);
            let typ = *(*index).rd_opcintype.add(position);
            let operator = pg_sys::get_opfamily_member(
                *(*index).rd_opfamily.add(position),
                typ,
                typ,
                pg_sys::BTEqualStrategyNumber as i16,
            );
            pg_sys::relation_close(index, pg_sys::AccessShareLock as i32);
            operator
        };
        operator_name(operator)
    }
}

/// An operator as SQL names it whatever the `search_path`.
pub fn operator_name(operator: pg_sys::Oid) -> String {
    spi::first(
        "SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
         FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE o.oid = $1",
        &[Arg::oid(operator)],
        Sees::Latest,
        |row| row.text(1).unwrap_or_default(),
    )
    .unwrap_or_else(|| "OPERATOR(pg_catalog.=)".into())
}

unsafe fn name_of(att: *const pg_sys::FormData_pg_attribute) -> String {
    CStr::from_ptr((*att).attname.data.as_ptr()).to_string_lossy().into_owned()
}

/// The names of a relation's attributes, `None` for dropped ones.
///
/// # Safety
/// `relation` is open.
pub unsafe fn attribute_names(relation: pg_sys::Relation) -> Vec<Option<String>> {
    let desc = (*relation).rd_att;
    (0..(*desc).natts)
        .map(|index| {
            let att = attribute(desc, index);
            (!(*att).attisdropped).then(|| name_of(att))
        })
        .collect()
}

/// The base type and typmod below any number of domains.
fn base_type(typ: pg_sys::Oid, typmod: i32) -> (pg_sys::Oid, i32) {
    let mut typmod = typmod;
    // SAFETY: a syscache look-up.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(typ, &mut typmod) };
    (base, typmod)
}

fn form_of(base: pg_sys::Oid) -> Form {
    match base {
        pg_sys::INT2OID => Form::Int2,
        pg_sys::INT4OID => Form::Int4,
        pg_sys::INT8OID => Form::Int8,
        pg_sys::OIDOID => Form::Oid,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => Form::Float,
        pg_sys::NUMERICOID => Form::Numeric,
        pg_sys::BOOLOID => Form::Bool,
        // xml is stored as text; its output function would leave the declaration out.
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::XMLOID => Form::Text,
        pg_sys::CHAROID => Form::Char,
        pg_sys::TIMESTAMPOID => Form::Timestamp,
        pg_sys::TIMESTAMPTZOID => Form::TimestampTz,
        _ => Form::Other,
    }
}

/// Does the text form depend on `search_path` or `lc_monetary`, for all we know?
fn settings_matter(typ: pg_sys::Oid) -> bool {
    let (base, _) = base_type(typ, -1);
    // SAFETY: syscache look-ups.
    unsafe {
        let element = pg_sys::get_element_type(base);
        if element != pg_sys::InvalidOid {
            return settings_matter(element);
        }
        match pg_sys::get_typtype(base) as u8 {
            pg_sys::TYPTYPE_ENUM => false,
            pg_sys::TYPTYPE_RANGE => settings_matter(pg_sys::get_range_subtype(base)),
            pg_sys::TYPTYPE_BASE => {
                base.to_u32() >= pg_sys::FirstNormalObjectId
                    || matches!(
                        base,
                        pg_sys::MONEYOID
                            | pg_sys::REGCLASSOID
                            | pg_sys::REGPROCOID
                            | pg_sys::REGPROCEDUREOID
                            | pg_sys::REGOPEROID
                            | pg_sys::REGOPERATOROID
                            | pg_sys::REGTYPEOID
                            | pg_sys::REGROLEOID
                            | pg_sys::REGNAMESPACEOID
                            | pg_sys::REGCONFIGOID
                            | pg_sys::REGDICTIONARYOID
                            | pg_sys::REGCOLLATIONOID
                    )
            }
            _ => true,
        }
    }
}

/// The 0-based attribute indexes an index is on.
pub fn index_columns(index: pg_sys::Oid) -> Vec<usize> {
    // SAFETY: the index is opened while its descriptor is read.
    unsafe {
        let relation = pg_sys::index_open(index, pg_sys::AccessShareLock as i32);
        let form = (*relation).rd_index;
        let keys = (*form).indkey.values.as_slice((*form).indnkeyatts as usize);
        let result = keys.iter().map(|&attnum| attnum as usize - 1).collect();
        pg_sys::index_close(relation, pg_sys::AccessShareLock as i32);
        result
    }
}
