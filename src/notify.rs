//! Announcements on the channel `rowclaim` of what transactions that commit have done.

use crate::draft;
use crate::image::push_json_string;
use crate::journal::Journal;
use crate::pg::announcer::{self, Changeset};
use crate::pg::ffi;
use crate::pg::lock::{Lock, Mode};
use crate::records;
use crate::settings::{self, Notify};
use crate::table::Table;
use serde_json::json;
use std::fmt::Write;

/// NOTIFY payloads are shorter than this.
const PAYLOAD_MAX: usize = 7_999;

/// What is to be announced at the commit of a transaction.
pub enum Notice {
    Commit {
        journal_id: i32,
        journal: String,
        seq: i64,
        actor: String,
    },
    /// Something else, as it will be sent.
    Other(String),
}

impl Notice {
    fn payload(&self) -> String {
        match self {
            Notice::Commit { journal, seq, actor, .. } => commit_payload(journal, *seq, actor),
            Notice::Other(payload) => payload.clone(),
        }
    }

    fn changeset(&self) -> Option<Changeset> {
        match self {
            Notice::Commit { journal_id, seq, .. } => Some((*journal_id, *seq)),
            Notice::Other(_) => None,
        }
    }
}

/// Announces what a transaction that is about to commit has done: as part of the commit, unless it would have
/// to wait there for another one's flush. Then changesets are announced right after it.
pub fn send(notices: &[Notice]) {
    if notices.is_empty() {
        return;
    }
    if !Lock::Notify.try_acquire(Mode::AccessExclusive) {
        // With other things they go out together, in order.
        let changesets: Option<Vec<Changeset>> = notices.iter().map(Notice::changeset).collect();
        if changesets.is_some_and(announcer::promise) {
            return;
        }
    }
    notices.iter().for_each(|notice| ffi::notify(c"rowclaim", &notice.payload()));
}

/// Announces a changeset that was committed, unless it has been pruned since.
pub fn announce((journal_id, seq): Changeset) {
    let Some(journal) = records::journal_name(journal_id) else { return };
    if let Some(actor) = records::actor(&journal, seq) {
        ffi::notify(c"rowclaim", &commit_payload(&journal, seq, &actor));
    }
}

fn commit_payload(journal: &str, seq: i64, actor: &str) -> String {
    let mut payload = String::from("{\"event\":\"commit\",\"journal\":");
    push_json_string(&mut payload, journal);
    let _ = write!(payload, ",\"seq\":{seq},\"actor\":");
    push_json_string(&mut payload, actor);
    payload.push('}');
    payload
}

/// A changeset was appended.
pub fn commit(journal: &Journal, seq: i64, actor: &str) {
    match settings::notify() {
        Notify::Off => {}
        Notify::Commits => draft::announce(Notice::Commit {
            journal_id: journal.id,
            journal: journal.name.clone(),
            seq,
            actor: actor.to_owned(),
        }),
        Notify::All => draft::announce(Notice::Other(commit_payload(&journal.name, seq, actor))),
    }
}

/// A row changed hands. The payload names the row by its key, which every listener can read;
/// `all` is for databases where that is no secret.
pub fn row(event: &str, table: &Table, key: &str, actor: &str) {
    if settings::notify() == Notify::All {
        let key: serde_json::Value = serde_json::from_str(key).unwrap_or_default();
        let mut payload = json!({"event": event, "table": table.name(), "key": key, "actor": actor});
        if payload.to_string().len() > PAYLOAD_MAX {
            payload["key"] = serde_json::Value::Null;
        }
        draft::announce(Notice::Other(payload.to_string()));
    }
}
