//! What event triggers are told of a command.

use pgrx::pg_sys;
use pgrx::PgList;
use std::ffi::CStr;

/// Does an ALTER TABLE give the column new values by `TYPE … USING`? `command` is a `pg_ddl_command`.
pub fn computes(command: pg_sys::Datum, column: &str) -> bool {
    // SAFETY: such a value points to the command that the running event trigger is about; its parse
    // tree lives as long, and the tags tell what its nodes are.
    unsafe {
        let command = command.cast_mut_ptr::<pg_sys::CollectedCommand>();
        let statement = (*command).parsetree;
        if (*command).type_ != pg_sys::CollectedCommandType::SCT_AlterTable
            || !pgrx::is_a(statement, pg_sys::NodeTag::T_AlterTableStmt)
        {
            return false;
        }
        PgList::<pg_sys::AlterTableCmd>::from_pg((*statement.cast::<pg_sys::AlterTableStmt>()).cmds).iter_ptr().any(
            |cmd| {
                (*cmd).subtype == pg_sys::AlterTableType::AT_AlterColumnType
                    && CStr::from_ptr((*cmd).name).to_bytes() == column.as_bytes()
                    && !(*(*cmd).def.cast::<pg_sys::ColumnDef>()).raw_default.is_null()
            },
        )
    }
}
