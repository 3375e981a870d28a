//! Where replay is, what it says when the replica differs from the journal, and how a failure is noted.

use super::Replay;
use crate::change::Change;
use crate::error::{check, shortened, Divergence, Error, Result};
use crate::pg::context::ErrorContext;
use crate::pg::shape::Shape;
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::worker;
use crate::settings::Mismatch;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport, ErrorReportWithLevel};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::fmt::{Display, Formatter};
use std::panic::AssertUnwindSafe;

/// Where replay is.
#[derive(Default)]
pub(super) struct Place {
    pub(super) journal: String,
    pub(super) seq: i64,
    pub(super) table: String,
    pub(super) key: String,
}

impl Place {
    pub(super) fn name(&mut self, table: &str, key: &str) {
        self.table.clear();
        self.table.push_str(table);
        self.key.clear();
        self.key.push_str(key);
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        write!(f, "replay of changeset {} of journal {}", self.seq, self.journal)?;
        if !self.table.is_empty() {
            write!(f, ", row {} {}", self.table, self.key)?;
        }
        Ok(())
    }
}

impl Replay {
    /// Runs a step. An error is noted for `rowclaim.replay`, then raised.
    pub(super) fn guarded(&mut self, step: impl FnOnce(&mut Replay) -> Result<()>) {
        let place = self.place.clone();
        let _context = ErrorContext::enter(place.clone());
        let mut step = AssertUnwindSafe(Some(step));
        let mut this = AssertUnwindSafe(self);
        let failed: RefCell<Option<CaughtError>> = RefCell::default();
        let keep = AssertUnwindSafe(&failed);
        PgTryBuilder::new(AssertUnwindSafe(|| {
            if let Some(step) = step.take() {
                check(step(&mut this));
            }
        }))
        .catch_others(|caught| drop(keep.replace(Some(caught))))
        .catch_rust_panic(|caught| drop(keep.replace(Some(caught))))
        .execute();
        let Some(caught) = failed.into_inner() else { return };
        let report = match &caught {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
            CaughtError::RustPanic { ereport, .. } => ereport,
        };
        let place = place.borrow();
        match taken(&place, report) {
            Some(error) => {
                let error = ErrorReport::from(error);
                note_failure(&place, error.message());
                error.report(PgLogLevel::ERROR);
            }
            None => {
                note_failure(&place, report.message());
                caught.rethrow()
            }
        }
    }

    pub(super) fn seq(&self) -> i64 {
        self.place.borrow().seq
    }

    pub(super) fn skip(&mut self) {
        self.skipped += 1;
        self.changed = true;
    }

    pub(super) fn overwrite(&mut self) {
        self.overwritten += 1;
        self.changed = true;
    }

    pub(super) fn diverged(&self, change: &Change, problem: impl Into<String>) -> Divergence {
        Divergence {
            journal: self.journal.clone(),
            seq: self.seq(),
            table: change.table.to_string(),
            key: change.key.map(|key| key.get().to_owned()),
            problem: problem.into(),
            hint: "Repair the row; replay goes on by itself. rowclaim.replay_mismatch = overwrite takes the journal's word."
                .into(),
            ..Divergence::default()
        }
    }

    /// A mismatch: an error, unless the journal's word is taken or a baseline of the table is on
    /// its way. True: go on and overwrite.
    pub(super) fn mismatch(&mut self, divergence: Divergence) -> Result<bool> {
        if self.mismatch == Mismatch::Overwrite {
            return Ok(true);
        }
        let baseline = spi::first(
            "SELECT max(seq) FROM rowclaim.journal
             WHERE journal = $1 AND seq > $2 AND kind = 'baseline' AND part = 1 AND changes -> 0 ->> 'table' = $3",
            &[Arg::str(&self.journal), Arg::i64(divergence.seq), Arg::str(&divergence.table)],
            Sees::Latest,
            |row| row.i64(1),
        );
        match baseline.flatten() {
            Some(seq) => {
                self.state.skips.insert(divergence.table, seq);
                self.changed = true;
                Ok(false)
            }
            None => Err(Error::ReplayDiverged(Box::new(divergence))),
        }
    }

    pub(super) fn no_column(&self, change: &Change, name: &str, shape: &Shape) -> Error {
        let generated = shape.generated.iter().any(|column| column == name);
        let problem = match generated {
            true => format!("column {name} is generated here"),
            false => format!("there is no column {name} here"),
        };
        Error::ReplayDiverged(Box::new(Divergence {
            column: Some(name.to_owned()),
            hint: match generated {
                true => format!("Drop the expression of column {name}, or generate the column at the source too."),
                false => format!(
                    "Add or rename the column so that {name} exists, or set rowclaim.replay_missing = skip to leave its values out."
                ),
            },
            ..self.diverged(change, problem)
        }))
    }
}

/// A JSON value in a message.
pub(super) fn shown(raw: &str) -> String {
    const LONGEST: usize = 60;
    match raw.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &raw[..end]),
        None => raw.to_owned(),
    }
}

/// What the server says of a row whose unique values another row has here.
fn taken(place: &Place, report: &ErrorReportWithLevel) -> Option<Error> {
    let code = report.sql_error_code();
    let unique = [PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, PgSqlErrorCode::ERRCODE_EXCLUSION_VIOLATION];
    if place.table.is_empty() || !unique.contains(&code) {
        return None;
    }
    let which = report.detail().map_or_else(String::new, |detail| format!(": {}", detail.trim_end_matches('.')));
    Some(Error::ReplayDiverged(Box::new(Divergence {
        journal: place.journal.clone(),
        seq: place.seq,
        table: place.table.clone(),
        key: Some(place.key.clone()),
        problem: format!("{}{which}", report.message()),
        hint: "Repair the other row; replay goes on by itself.".into(),
        ..Divergence::default()
    })))
}

/// Notes a failure for `rowclaim.replay`, outside of the transaction that it ends.
fn note_failure(place: &Place, message: &str) {
    let quote = |text: &str| pgrx::spi::quote_literal(text.replace('\0', ""));
    let nullable = |text: &str| if place.table.is_empty() { "NULL".to_owned() } else { quote(text) };
    worker::run(
        &format!(
            "SELECT rowclaim.note_failure({}, {}, {}, {}, {})",
            quote(&place.journal),
            place.seq,
            nullable(&place.table),
            nullable(&place.key),
            quote(&shortened(message.to_owned())),
        ),
        0,
    );
}
