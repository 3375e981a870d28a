//! Announcements on the channel `rowclaim`, sent when the transaction commits.

use crate::draft;
use crate::image::push_json_string;
use crate::pg::ffi;
use crate::settings::{self, Notify};
use crate::table::Table;
use serde_json::json;
use std::fmt::Write;

/// NOTIFY payloads are shorter than this.
const PAYLOAD_MAX: usize = 7_999;

/// Sends a payload with the transaction that is about to commit.
pub fn send(payload: &str) {
    ffi::notify(c"rowclaim", payload);
}

/// A changeset was appended.
pub fn commit(journal: &str, seq: i64, actor: &str) {
    if settings::notify() != Notify::Off {
        let mut payload = String::from("{\"event\":\"commit\",\"journal\":");
        push_json_string(&mut payload, journal);
        let _ = write!(payload, ",\"seq\":{seq},\"actor\":");
        push_json_string(&mut payload, actor);
        payload.push('}');
        draft::announce(payload);
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
