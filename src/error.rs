//! Every error a user can meet, in one place: SQLSTATE, message, DETAIL (one JSON object whose
//! `reason` names the exact condition) and HINT.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{json, Map, Value};

/// The row an error is about. `key` is `None` when the caller may not SELECT it.
#[derive(Debug, Clone, Default)]
pub struct RowName {
    pub table: String,
    pub key: Option<String>,
}

impl RowName {
    /// The row as a message names it.
    pub fn people(&self) -> String {
        match &self.key {
            Some(key) => format!("row {} {}", self.table, spaced(key)),
            None => format!("a row of {}", self.table),
        }
    }

    fn detail(&self, detail: &mut Map<String, Value>) {
        detail.insert("table".into(), json!(self.table));
        detail.insert("key".into(), self.key.as_deref().map_or(Value::Null, raw));
    }
}

/// Who holds a row, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Holder {
    pub owner: String,
    pub since: Option<String>,
    pub expires_at: Option<String>,
    pub claim_reason: Option<String>,
}

#[derive(Debug)]
pub enum Error {
    RowHeld {
        row: RowName,
        holder: Box<Holder>,
    },
    RowNotClaimed {
        row: RowName,
    },
    StaleRowVersion {
        row: RowName,
        given: Option<i64>,
        current: i64,
    },
    UncommittedChanges {
        table: String,
        row: Option<RowName>,
        what: String,
        hint: &'static str,
    },
    DependsOnDraft(Box<Dependency>),
    InTheWay(Box<Dependency>),
    JournalBehind {
        journal: String,
        base: i64,
        seq: i64,
        actor: String,
    },
    ProtectedColumn {
        row: RowName,
        column: String,
    },
    ClaimsNotEnabled {
        table: String,
    },
    InvalidKey {
        table: String,
        problem: String,
    },
    InvalidChangeset {
        problem: String,
    },
    InvalidParameter {
        parameter: &'static str,
        problem: String,
    },
    UnsupportedTable {
        table: String,
        problem: String,
        hint: String,
    },
    OperationRefused {
        table: String,
        problem: String,
        hint: String,
    },
    JournalCorrupt {
        journal: String,
        problem: String,
    },
    /// A change of the journal that does not fit the replica.
    ReplayDiverged(Box<Divergence>),
    /// A journal that is written elsewhere.
    JournalReplayed {
        journal: String,
    },
    /// Not one of rowclaim's own conditions: a privilege the caller lacks.
    Privilege {
        problem: String,
    },
}

/// `row` cannot be committed or put back before `other`, which is in a draft of `actor`.
#[derive(Debug)]
pub struct Dependency {
    pub row: RowName,
    pub other: RowName,
    pub actor: String,
    pub constraint: String,
}

impl Dependency {
    /// Why the row cannot be put back.
    pub fn in_the_way(&self) -> String {
        format!(
            "uncommitted changes of {} in {} have taken its place ({})",
            self.actor,
            self.other.people(),
            self.constraint
        )
    }

    fn detail(&self, detail: &mut Map<String, Value>) {
        self.other.detail(detail);
        detail.insert("actor".into(), json!(self.actor));
        detail.insert("constraint".into(), json!(self.constraint));
        let mut needed_by = Map::new();
        self.row.detail(&mut needed_by);
        detail.insert("needed_by".into(), needed_by.into());
    }
}

/// Where replay stopped, and why.
#[derive(Debug, Default, Clone)]
pub struct Divergence {
    pub journal: String,
    pub seq: i64,
    pub table: String,
    pub key: Option<String>,
    pub column: Option<String>,
    /// JSON values: what the journal says the row was, and what it is here.
    pub expected: Option<String>,
    pub found: Option<String>,
    pub problem: String,
    pub hint: String,
}

pub type Result<T> = std::result::Result<T, Error>;

/// The JSON value of a key text; the extension wrote it, so anything unparsable is shown as text.
fn raw(key: &str) -> Value {
    serde_json::from_str(key).unwrap_or_else(|_| json!(key))
}

/// Adds the blanks psql users know from jsonb: `{"id": 42, "line": 1}`.
pub fn spaced(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 8);
    let (mut quoted, mut escaped) = (false, false);
    for c in key.chars() {
        out.push(c);
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ':' | ',' if !quoted => out.push(' '),
            _ => {}
        }
    }
    out
}

/// Messages quote what callers gave; a gigabyte of it helps nobody.
pub fn shortened(mut message: String) -> String {
    const LONGEST: usize = 1_000;
    if message.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

impl Error {
    /// Raises the error in PostgreSQL; never returns.
    pub fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("an ERROR report does not return")
    }
}

/// Raises the error of `result` or returns its value.
pub fn check<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| error.raise())
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        use PgSqlErrorCode::*;
        let mut detail = Map::new();
        let (code, reason, message, hint): (_, &str, String, String) = match error {
            Error::RowHeld { row, holder } => {
                row.detail(&mut detail);
                detail.insert("owner".into(), json!(holder.owner));
                detail.insert("since".into(), json!(holder.since));
                detail.insert("expires_at".into(), json!(holder.expires_at));
                detail.insert("claim_reason".into(), json!(holder.claim_reason));
                let since = holder.since.map(|t| format!(" since {t}")).unwrap_or_default();
                (
                    ERRCODE_LOCK_NOT_AVAILABLE,
                    "row_held",
                    format!("{} is held by {}{since}", row.people(), holder.owner),
                    "Wait until the holder commits and releases the row, or ask an administrator for steal_row()."
                        .into(),
                )
            }
            Error::RowNotClaimed { row } => {
                row.detail(&mut detail);
                (
                    ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "row_not_claimed",
                    format!("{} is not claimed", row.people()),
                    "Call claim_row() for the row before you write it.".into(),
                )
            }
            Error::StaleRowVersion { row, given, current } => {
                row.detail(&mut detail);
                detail.insert("row_version".into(), json!(current));
                detail.insert("given".into(), json!(given));
                (
                    ERRCODE_T_R_SERIALIZATION_FAILURE,
                    "stale_row_version",
                    format!("{} is at version {current}", row.people()),
                    "Read the row again and repeat the change on its current version.".into(),
                )
            }
            Error::UncommittedChanges { table, row, what, hint } => {
                match row {
                    Some(row) => row.detail(&mut detail),
                    None => drop(detail.insert("table".into(), json!(table))),
                }
                (ERRCODE_OBJECT_IN_USE, "uncommitted_changes", what, hint.into())
            }
            Error::DependsOnDraft(dependency) => {
                dependency.detail(&mut detail);
                let Dependency { row, other, actor, constraint } = *dependency;
                (
                    ERRCODE_OBJECT_IN_USE,
                    "uncommitted_changes",
                    format!(
                        "{} depends on uncommitted changes of {actor} in {} ({constraint})",
                        row.people(),
                        other.people()
                    ),
                    "Commit again when that draft is committed or discarded, or change your row.".into(),
                )
            }
            Error::InTheWay(dependency) => {
                dependency.detail(&mut detail);
                (
                    ERRCODE_OBJECT_IN_USE,
                    "uncommitted_changes",
                    format!("{} cannot be put back: {}", dependency.row.people(), dependency.in_the_way()),
                    "Discard or change that row first or, in one draft, discard both together. Where each is in the \
                     other's way, give one of them another value first."
                        .into(),
                )
            }
            Error::JournalBehind { journal, base, seq, actor } => {
                detail.insert("journal".into(), json!(journal));
                detail.insert("base".into(), json!(base));
                detail.insert("seq".into(), json!(seq));
                detail.insert("actor".into(), json!(actor));
                (
                    ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "journal_behind",
                    format!("base {base} is behind journal {journal}: {actor} committed changeset {seq}"),
                    "Look at the changesets after your base, then commit with the newest seq as base.".into(),
                )
            }
            Error::ProtectedColumn { row, column } => {
                row.detail(&mut detail);
                detail.insert("column".into(), json!(column));
                (
                    ERRCODE_GENERATED_ALWAYS,
                    "protected_column",
                    format!("column {column} of {} is maintained by rowclaim", row.people()),
                    "Leave the column out; claim_row(), release_row() and steal_row() change the owner.".into(),
                )
            }
            Error::ClaimsNotEnabled { table } => {
                detail.insert("table".into(), json!(table));
                (
                    ERRCODE_WRONG_OBJECT_TYPE,
                    "claims_not_enabled",
                    format!("claims are not enabled for table {table}"),
                    "The table's owner can call enable_claims() for it.".into(),
                )
            }
            Error::InvalidKey { table, problem } => {
                detail.insert("table".into(), json!(table));
                (
                    ERRCODE_INVALID_PARAMETER_VALUE,
                    "invalid_key",
                    format!("invalid key for table {table}: {problem}"),
                    "Give the primary key as a value, as a jsonb object with every key column, or as the row itself."
                        .into(),
                )
            }
            Error::InvalidChangeset { problem } => (
                ERRCODE_INVALID_PARAMETER_VALUE,
                "invalid_changeset",
                format!("invalid changeset: {problem}"),
                "The row image was not written by this extension; check what changed it.".into(),
            ),
            Error::InvalidParameter { parameter, problem } => {
                detail.insert("parameter".into(), json!(parameter));
                (
                    ERRCODE_INVALID_PARAMETER_VALUE,
                    "invalid_parameter",
                    problem,
                    format!("Correct the parameter {parameter}; the README lists what it accepts."),
                )
            }
            Error::UnsupportedTable { table, problem, hint } => {
                detail.insert("table".into(), json!(table));
                (
                    ERRCODE_FEATURE_NOT_SUPPORTED,
                    "unsupported_table",
                    format!("cannot enable claims for {table}: {problem}"),
                    hint,
                )
            }
            Error::OperationRefused { table, problem, hint } => {
                detail.insert("table".into(), json!(table));
                (ERRCODE_OBJECT_IN_USE, "operation_refused", problem, hint)
            }
            Error::JournalCorrupt { journal, problem } => {
                detail.insert("journal".into(), json!(journal));
                (
                    ERRCODE_DATA_CORRUPTED,
                    "journal_corrupt",
                    format!("journal {journal} is damaged: {problem}"),
                    "Run verify_journal() and compare with a backup or a replica.".into(),
                )
            }
            Error::ReplayDiverged(at) => {
                let row = RowName { table: at.table.clone(), key: at.key };
                detail.insert("journal".into(), json!(at.journal));
                detail.insert("seq".into(), json!(at.seq));
                row.detail(&mut detail);
                detail.insert("column".into(), json!(at.column));
                for (name, value) in [("expected", at.expected), ("found", at.found)] {
                    if let Some(value) = value {
                        detail.insert(name.into(), raw(&value));
                    }
                }
                let row = row.key.as_ref().map_or_else(|| format!("table {}", at.table), |_| row.people());
                (
                    ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "replay_diverged",
                    format!("changeset {} of journal {} does not fit {row}: {}", at.seq, at.journal, at.problem),
                    at.hint,
                )
            }
            Error::JournalReplayed { journal } => {
                detail.insert("journal".into(), json!(journal));
                (
                    ERRCODE_OBJECT_IN_USE,
                    "operation_refused",
                    format!("journal {journal} is replayed here and written elsewhere"),
                    "Commit where the journal comes from, or enable the table with a journal of this database.".into(),
                )
            }
            Error::Privilege { problem } => {
                return ErrorReport::new(ERRCODE_INSUFFICIENT_PRIVILEGE, problem, "rowclaim");
            }
        };
        let mut object = Map::new();
        object.insert("reason".into(), json!(reason));
        object.extend(detail);
        ErrorReport::new(code, shortened(message), "rowclaim")
            .set_detail(Value::Object(object).to_string())
            .set_hint(hint)
    }
}
