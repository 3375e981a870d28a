//! Announcements on the channel `rowclaim`, sent when the transaction commits.

use crate::draft;
use crate::pg::spi::{self, Arg};
use crate::settings::{self, Notify};
use crate::table::Table;
use serde_json::json;

/// NOTIFY payloads are shorter than this.
const PAYLOAD_MAX: usize = 7_999;

/// Sends a payload with the transaction that is about to commit.
pub fn send(payload: &str) {
    spi::run("SELECT pg_catalog.pg_notify('rowclaim', $1)", &[Arg::str(payload)]);
}

/// A changeset was appended.
pub fn commit(journal: &str, seq: i64, actor: &str) {
    if settings::notify() != Notify::Off {
        draft::announce(json!({"event": "commit", "journal": journal, "seq": seq, "actor": actor}).to_string());
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
        draft::announce(payload.to_string());
    }
}
