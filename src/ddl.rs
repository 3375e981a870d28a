//! The event trigger before ALTER TABLE: an ownership column must not be dropped or retyped. The
//! server would refuse in its own words, because a trigger condition uses the column.

use crate::error::{check, Error, Result};
use crate::pg::trigger::EventCall;
use crate::sql_function;
use crate::table::{qualified_name, Table};
use pgrx::pg_sys;

sql_function! {
    /// `ON ddl_command_start WHEN TAG IN ('ALTER TABLE')`.
    pg_finfo_rowclaim_before_alter, rowclaim_before_alter, |call| {
        if let Some(event) = EventCall::of(call) {
            for (relid, column) in event.columns_lost() {
                check(refuse(relid, &column));
            }
        }
        Ok(call.null())
    }
}

fn refuse(relid: pg_sys::Oid, column: &str) -> Result<()> {
    let Some(table) = Table::find(relid)? else { return Ok(()) };
    let own = [table.owner_column, table.version_column, table.draft_column];
    if !own.iter().any(|&index| crate::pg::ffi::attribute_name(relid, index) == column) {
        return Ok(());
    }
    let name = qualified_name(table.root);
    Err(Error::OperationRefused {
        problem: format!("column {column} of {name} is maintained by rowclaim"),
        hint: format!("Call disable_claims('{}', drop_columns => true).", name.replace('\'', "''")),
        table: name,
    })
}
