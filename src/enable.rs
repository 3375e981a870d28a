//! Enabling and disabling claims on a table, and creating journals.

use crate::error::{Error, Result};
use crate::key::key_datums;
use crate::pg::lock::lock_relation;
use crate::pg::owner::{user, AsOwner, AsTableOwner};
use crate::pg::row::{Look, Rows};
use crate::pg::spi::{self, Arg, Sees};
use crate::restore;
use crate::table::{forget_all, qualified_name, Table};
use pgrx::pg_sys;
use pgrx::spi::quote_identifier;
use std::ffi::CStr;

/// The settings of `enable_claims()`.
pub struct Wanted {
    pub claiming: String,
    pub committing: String,
    pub journal: String,
    pub untracked: Vec<String>,
    pub owner: String,
    pub version: String,
    pub draft: String,
}

/// The text of a `name` datum.
pub fn name_text(datum: pg_sys::Datum) -> String {
    // SAFETY: the argument is declared as name.
    unsafe { CStr::from_ptr((*datum.cast_mut_ptr::<pg_sys::NameData>()).data.as_ptr()).to_string_lossy().into_owned() }
}

const TRIGGERS: [&str; 3] = ["rowclaim_guard", "rowclaim_capture", "rowclaim_truncate"];

/// Only the table's owner may; superusers are owners of everything.
pub fn check_owner(relid: pg_sys::Oid) -> Result<()> {
    let user = user();
    let _owner = AsOwner::enter();
    let owns = spi::first(
        "SELECT pg_has_role($1, relowner, 'USAGE') FROM pg_class WHERE oid = $2",
        &[Arg::oid(user), Arg::oid(relid)],
        Sees::Latest,
        |row| row.get::<bool>(1).unwrap_or(false),
    );
    match owns {
        Some(true) => Ok(()),
        Some(false) => Err(Error::Privilege { problem: format!("must be owner of table {}", qualified_name(relid)) }),
        None => Err(Error::InvalidParameter {
            parameter: "target",
            problem: format!("relation {} does not exist", relid.to_u32()),
        }),
    }
}

/// Why a relation cannot be enabled, if so.
fn unsupported(relid: pg_sys::Oid) -> Option<(String, String)> {
    spi::first("SELECT problem, hint FROM rowclaim.unsupported($1)", &[Arg::oid(relid)], Sees::Latest, |row| {
        Some((row.text(1)?, row.text(2).unwrap_or_default()))
    })
    .flatten()
}

/// A column as the catalogue has it.
struct Existing {
    typ: pg_sys::Oid,
    not_null: bool,
    has_default: bool,
    generated: bool,
}

fn existing(relid: pg_sys::Oid, name: &str) -> Option<Existing> {
    spi::first(
        "SELECT atttypid, attnotnull, atthasdef, attgenerated <> '' OR attidentity <> ''
         FROM pg_attribute WHERE attrelid = $1 AND attname = $2 AND attnum > 0 AND NOT attisdropped",
        &[Arg::oid(relid), Arg::str(name)],
        Sees::Latest,
        |row| Existing {
            typ: row.oid(1).unwrap_or(pg_sys::InvalidOid),
            not_null: row.get(2).unwrap_or(false),
            has_default: row.get(3).unwrap_or(false),
            generated: row.get(4).unwrap_or(false),
        },
    )
}

/// The role that owns a relation.
fn owner_of(relid: pg_sys::Oid) -> pg_sys::Oid {
    spi::first("SELECT relowner FROM pg_class WHERE oid = $1", &[Arg::oid(relid)], Sees::Latest, |row| row.oid(1))
        .flatten()
        .unwrap_or(pg_sys::InvalidOid)
}

/// A command on a user's table. It runs as the table's owner, because planning it and checking its
/// constraints may run the owner's code.
fn ddl(relid: pg_sys::Oid, sql: &str) {
    let _owner = AsTableOwner::restricted(owner_of(relid));
    spi::run_as_is(sql, &[], |_| {});
}

fn any(relid: pg_sys::Oid, sql: &str) -> bool {
    let _owner = AsTableOwner::restricted(owner_of(relid));
    spi::run_as_is(sql, &[], |_| {}) > 0
}

/// Does any row of a relation have an owner or a stamp already?
pub fn is_owned(relid: pg_sys::Oid, owner: &str, draft: &str) -> bool {
    let (owner, draft) = (quote_identifier(owner), quote_identifier(draft));
    any(
        relid,
        &format!("SELECT FROM {} WHERE {owner} IS NOT NULL OR {draft} IS NOT NULL LIMIT 1", qualified_name(relid)),
    )
}

/// Stamps beyond this are no stamps; taking them over would use the sequence up.
const STAMP_MAX: i64 = 1 << 53;

/// `enable_claims()`.
pub fn enable(relid: pg_sys::Oid, wanted: &Wanted) -> Result<()> {
    check_owner(relid)?;
    // The strongest lock at once, so that nothing is upgraded later.
    lock_relation(relid, pg_sys::AccessExclusiveLock);
    let _owner = AsOwner::enter();
    let table = qualified_name(relid);
    check_settings(wanted)?;
    if already(relid, wanted)? {
        if !intact(relid) {
            repair(relid, &table, wanted)?;
        }
        return Ok(());
    }
    if let Some((problem, hint)) = unsupported(relid) {
        return Err(Error::UnsupportedTable { table, problem, hint });
    }
    check_columns(relid, &table, wanted)?;
    add_columns(relid, &table, wanted, false)?;
    add_triggers(relid, &table);
    spi::run(
        "INSERT INTO rowclaim.enabled_table
                (relid, claiming, committing, journal, untracked, owner_column, version_column, draft_column,
                 key_columns, columns)
         VALUES ($1, $2, $3, $4, $5::name[], $6::name, $7::name, $8::name,
                 rowclaim.key_columns($1), rowclaim.column_map($1))",
        &[
            Arg::oid(relid),
            Arg::str(&wanted.claiming),
            Arg::str(&wanted.committing),
            Arg::str(&wanted.journal),
            Arg::texts(wanted.untracked.clone()),
            Arg::str(&wanted.owner),
            Arg::str(&wanted.version),
            Arg::str(&wanted.draft),
        ],
    );
    spi::run("SELECT rowclaim.remember_names()", &[]);
    spi::run("SELECT rowclaim.guard_partitions($1)", &[Arg::oid(relid)]);
    forget_all();
    Ok(())
}

fn check_settings(wanted: &Wanted) -> Result<()> {
    let bad = |parameter, problem: String| Err(Error::InvalidParameter { parameter, problem });
    if !["required", "auto"].contains(&wanted.claiming.as_str()) {
        return bad("claiming", format!("claiming must be required or auto, not {}", wanted.claiming));
    }
    if !["explicit", "transaction"].contains(&wanted.committing.as_str()) {
        return bad("committing", format!("committing must be explicit or transaction, not {}", wanted.committing));
    }
    let current = spi::first(
        "SELECT require_current FROM rowclaim.journal_config WHERE name = $1",
        &[Arg::str(&wanted.journal)],
        Sees::Latest,
        |row| row.get::<bool>(1).unwrap_or(false),
    );
    match current {
        None => bad("journal", format!("there is no journal {}", wanted.journal)),
        Some(true) if wanted.committing == "transaction" => {
            bad("committing", format!("journal {} requires a base, which transactions cannot give", wanted.journal))
        }
        _ => Ok(()),
    }
}

fn already(relid: pg_sys::Oid, wanted: &Wanted) -> Result<bool> {
    let same = spi::first(
        "SELECT claiming = $2 AND committing = $3 AND journal = $4 AND untracked::text[] = $5
            AND owner_column = $6 AND version_column = $7 AND draft_column = $8
         FROM rowclaim.enabled_table WHERE relid = $1",
        &[
            Arg::oid(relid),
            Arg::str(&wanted.claiming),
            Arg::str(&wanted.committing),
            Arg::str(&wanted.journal),
            Arg::texts(wanted.untracked.clone()),
            Arg::str(&wanted.owner),
            Arg::str(&wanted.version),
            Arg::str(&wanted.draft),
        ],
        Sees::Latest,
        |row| row.get::<bool>(1).unwrap_or(false),
    );
    match same {
        None => Ok(false),
        Some(true) => Ok(true),
        Some(false) => Err(Error::OperationRefused {
            table: qualified_name(relid),
            problem: format!("claims are enabled for {} with other settings", qualified_name(relid)),
            hint: "Call disable_claims() first; the columns stay.".into(),
        }),
    }
}

fn check_columns(relid: pg_sys::Oid, table: &str, wanted: &Wanted) -> Result<()> {
    let bad = |parameter, problem: String| Err(Error::InvalidParameter { parameter, problem });
    if wanted.owner == wanted.version || wanted.owner == wanted.draft || wanted.version == wanted.draft {
        return bad("owner_column", "the three ownership columns need three names".into());
    }
    let key = spi::first(
        "SELECT ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey))
         FROM pg_index i WHERE i.indrelid = $1 AND i.indisprimary",
        &[Arg::oid(relid)],
        Sees::Latest,
        |row| row.get::<Vec<String>>(1).unwrap_or_default(),
    )
    .unwrap_or_default();
    for name in [&wanted.owner, &wanted.version, &wanted.draft] {
        if key.contains(name) {
            return bad("owner_column", format!("column {name} is part of the primary key"));
        }
    }
    for name in &wanted.untracked {
        match existing(relid, name) {
            None => return bad("untracked", format!("table {table} has no column {name}")),
            Some(_) if key.contains(name) => {
                return bad("untracked", format!("column {name} is part of the primary key"))
            }
            Some(_) if [&wanted.owner, &wanted.version, &wanted.draft].contains(&name) => {
                return bad("untracked", format!("column {name} is an ownership column"))
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// `again`: the table has claims already, so that owners and stamps are what they should be.
fn add_columns(relid: pg_sys::Oid, table: &str, wanted: &Wanted, again: bool) -> Result<()> {
    let unsupported = |problem: String, hint: &str| {
        Err(Error::UnsupportedTable { table: table.to_owned(), problem, hint: hint.into() })
    };
    let (owner, version, draft) =
        (quote_identifier(&wanted.owner), quote_identifier(&wanted.version), quote_identifier(&wanted.draft));
    match existing(relid, &wanted.owner) {
        None => ddl(relid, &format!("ALTER TABLE {table} ADD COLUMN {owner} text")),
        Some(c) if c.typ != pg_sys::TEXTOID || c.generated || c.not_null || c.has_default => {
            return unsupported(
                format!("column {} exists and is not a plain nullable text column", wanted.owner),
                "Choose another owner_column.",
            )
        }
        Some(_) if !again && any(relid, &format!("SELECT FROM {table} WHERE {owner} IS NOT NULL LIMIT 1")) => {
            return unsupported(
                format!("column {} has values already", wanted.owner),
                "Choose another owner_column, or set the column to NULL.",
            )
        }
        Some(_) => {}
    }
    match existing(relid, &wanted.version) {
        None => ddl(relid, &format!("ALTER TABLE {table} ADD COLUMN {version} bigint NOT NULL DEFAULT 1")),
        Some(c) if ![pg_sys::INT8OID, pg_sys::INT4OID].contains(&c.typ) || c.generated => {
            return unsupported(
                format!("column {} is not a plain bigint or integer column", wanted.version),
                "Choose another version_column.",
            )
        }
        Some(c) => {
            if !c.not_null {
                if any(relid, &format!("SELECT FROM {table} WHERE {version} IS NULL LIMIT 1")) {
                    return unsupported(
                        format!("column {} has NULLs", wanted.version),
                        "UPDATE the table to give every row a version, 1 for instance.",
                    );
                }
                ddl(relid, &format!("ALTER TABLE {table} ALTER COLUMN {version} SET NOT NULL"));
            }
            if !c.has_default {
                ddl(relid, &format!("ALTER TABLE {table} ALTER COLUMN {version} SET DEFAULT 1"));
            }
        }
    }
    match existing(relid, &wanted.draft) {
        None => ddl(relid, &format!("ALTER TABLE {table} ADD COLUMN {draft} bigint")),
        Some(c) if c.typ != pg_sys::INT8OID || c.generated || c.not_null => {
            return unsupported(
                format!("column {} exists and is not a plain nullable bigint column", wanted.draft),
                "Choose another draft_column.",
            )
        }
        Some(_) if again => {}
        // Stamps of an earlier installation must not look like drafts to come.
        Some(_) => {
            let mut last = None;
            {
                let _owner = AsTableOwner::restricted(owner_of(relid));
                spi::run_as_is(&format!("SELECT pg_catalog.max({draft}) FROM {table}"), &[], |row| last = row.i64(1));
            }
            if last.is_some_and(|last| !(0..=STAMP_MAX).contains(&last)) {
                return unsupported(
                    format!("column {} has values that are no stamps", wanted.draft),
                    "Choose another draft_column, or set the column to NULL.",
                );
            }
            // Nor must a row seem to be in somebody's draft who never touched it.
            let open = spi::first(
                "SELECT string_agg(DISTINCT id::text, ',') FROM rowclaim.draft WHERE id <= $1",
                &[Arg::i64(last)],
                Sees::Latest,
                |row| row.text(1),
            );
            if let Some(open) = open.flatten() {
                if any(relid, &format!("SELECT FROM {table} WHERE {draft} IN ({open}) LIMIT 1")) {
                    return unsupported(
                        format!("column {} has stamps of open drafts", wanted.draft),
                        "Set the column to NULL in these rows, or wait until the drafts are committed or discarded.",
                    );
                }
            }
            spi::run(
                "SELECT setval('rowclaim.draft_id_seq', $1) FROM rowclaim.draft_id_seq WHERE $1 >= last_value",
                &[Arg::i64(last)],
            );
        }
    }
    ddl(relid, &format!("ALTER TABLE {table} ALTER COLUMN {draft} SET DEFAULT rowclaim.draft_stamp()"));
    Ok(())
}

fn add_triggers(relid: pg_sys::Oid, table: &str) {
    // No WHEN conditions: the server would parse them anew for every statement. They may be there already, from the
    // schema of a dump.
    for (name, when, level, function) in [
        ("rowclaim_guard", "BEFORE UPDATE OR DELETE", "ROW", "guard"),
        ("rowclaim_capture", "AFTER INSERT OR UPDATE OR DELETE", "ROW", "capture"),
        ("rowclaim_truncate", "BEFORE TRUNCATE", "STATEMENT", "capture"),
    ] {
        ddl(
            relid,
            &format!(
                "CREATE OR REPLACE TRIGGER {name} {when} ON {table}
                 FOR EACH {level} EXECUTE FUNCTION rowclaim.{function}()"
            ),
        );
        ddl(relid, &format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"));
    }
}

/// Has the table everything that enforcement needs?
fn intact(relid: pg_sys::Oid) -> bool {
    spi::run("SELECT rowclaim.table_problems($1)", &[Arg::oid(relid)]) == 0
}

/// Puts back what was dropped, renamed, retyped, disabled or altered. Claims and drafts stay.
fn repair(relid: pg_sys::Oid, table: &str, wanted: &Wanted) -> Result<()> {
    // Set aside, so that the event triggers do not judge what is half repaired.
    spi::run("UPDATE rowclaim.enabled_table SET relid = 0 WHERE relid = $1", &[Arg::oid(relid)]);
    let mut commands = Vec::new();
    spi::query(
        "SELECT rowclaim.column_repairs($1, t) FROM rowclaim.enabled_table t WHERE t.relid = 0",
        &[Arg::oid(relid)],
        Sees::Latest,
        |row| commands.extend(row.text(1)),
    );
    for command in commands {
        ddl(relid, &command);
    }
    add_columns(relid, table, wanted, true)?;
    add_triggers(relid, table);
    spi::run("SELECT rowclaim.guard_again($1)", &[Arg::oid(relid)]);
    spi::run(
        "UPDATE rowclaim.enabled_table SET relid = $1, partitions = ARRAY(
             SELECT t.relid FROM pg_partition_tree($1) t WHERE t.relid <> $1) WHERE relid = 0",
        &[Arg::oid(relid)],
    );
    forget_all();
    Ok(())
}

/// `disable_claims()`.
pub fn disable(relid: pg_sys::Oid, drop_columns: bool, force: bool) -> Result<()> {
    check_owner(relid)?;
    lock_relation(relid, pg_sys::AccessExclusiveLock);
    let _owner = AsOwner::enter();
    let table = Table::enabled(relid)?;
    if table.root != relid {
        return Err(Error::OperationRefused {
            table: qualified_name(relid),
            problem: format!("{} is a partition of {}", qualified_name(relid), table.name()),
            hint: "Call disable_claims() for the partitioned table.".into(),
        });
    }
    let count = |sql| spi::first(sql, &[Arg::oid(relid)], Sees::Latest, |row| row.i64(1)).flatten().unwrap_or(0);
    let dirty = count("SELECT count(*) FROM rowclaim.draft_row WHERE relid = $1");
    let claimed = count("SELECT count(*) FROM rowclaim.claim WHERE relid = $1");
    if !force && dirty > 0 {
        return Err(Error::UncommittedChanges {
            table: table.name(),
            row: None,
            what: format!("{} has uncommitted changes in {dirty} row(s)", table.name()),
            hint: "Commit or discard them, or call disable_claims(…, force => true): they go to the stash.",
        });
    }
    if !force && claimed > 0 {
        return Err(Error::OperationRefused {
            table: table.name(),
            problem: format!("{} has {claimed} claimed row(s)", table.name()),
            hint: "Release them, or call disable_claims(…, force => true).".into(),
        });
    }
    restore::stash_table(relid)?;
    release_everybody(relid)?;
    let name = table.name();
    let columns = spi::first(
        "DELETE FROM rowclaim.enabled_table WHERE relid = $1
         RETURNING owner_column::text, version_column::text, draft_column::text",
        &[Arg::oid(relid)],
        Sees::Latest,
        |row| [1, 2, 3].map(|i| quote_identifier(row.text(i).unwrap_or_default())),
    );
    forget_all();
    spi::run("SELECT rowclaim.unguard_partitions($1)", &[Arg::oid(relid)]);
    for trigger in TRIGGERS {
        ddl(relid, &format!("DROP TRIGGER IF EXISTS {trigger} ON {name}"));
    }
    if let Some([owner, version, draft]) = columns {
        if drop_columns {
            ddl(relid, &format!("ALTER TABLE {name} DROP COLUMN {owner}, DROP COLUMN {version}, DROP COLUMN {draft}"));
        } else {
            ddl(relid, &format!("ALTER TABLE {name} ALTER COLUMN {draft} DROP DEFAULT"));
        }
    }
    Ok(())
}

fn release_everybody(relid: pg_sys::Oid) -> Result<()> {
    let mut keys = Vec::new();
    spi::query("DELETE FROM rowclaim.claim WHERE relid = $1 RETURNING key", &[Arg::oid(relid)], Sees::Latest, |row| {
        keys.extend(row.text(1))
    });
    let mut rows = Rows::open(relid)?;
    for key in keys {
        let key = key_datums(&rows.table, &key)?;
        if rows.find(&key, Look::Latest)?.is_some() {
            let column = rows.leaf_table().owner_column;
            rows.write(&[(column, None)]);
        }
    }
    Ok(())
}

/// `create_journal()`.
pub fn create_journal(name: &str, require_current: bool) -> Result<()> {
    let _owner = AsOwner::enter();
    let bad = |problem: String| Err(Error::InvalidParameter { parameter: "name", problem });
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        return bad("a journal's name is 1 to 255 bytes without control characters".into());
    }
    let created = spi::first(
        "INSERT INTO rowclaim.journal_config (name, require_current) VALUES ($1, $2)
         ON CONFLICT (name) DO NOTHING RETURNING rowclaim.journal_sequence(id)",
        &[Arg::str(name), Arg::bool(require_current)],
        Sees::Latest,
        |_| (),
    );
    match created {
        Some(()) => Ok(()),
        None => bad(format!("journal {name} exists already")),
    }
}
