//! Parts of entries as they are stored, and what their hash is made of.

use crate::pg::memory::{ensure, owned};
use crate::pg::spi;
use crate::pg::trigger::Values;
use crate::pg::value::{bytes, text};
use sha2::{Digest, Sha256};

/// Journal, seq, part, parts, kind, actor, base, xid, message, microseconds of `committed_at`.
type Header<'a> =
    (&'a str, i64, i32, i32, &'a str, &'a str, Option<i64>, Option<&'a str>, Option<&'a str>, Option<i64>);

pub(super) fn entry_header(header: Header) -> String {
    // A text doubles its room as it grows, and more so with what must be escaped.
    ensure(header.8.map_or(0, |message| 4 * message.len()));
    serde_json::to_string(&header).unwrap_or_default()
}

/// SHA-256 over the entry's header (a JSON array), a line feed, its changes as stored, and the
/// hash of the part before (nothing for part 1).
pub fn entry_hash(header: &str, changes: &str, previous: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(header);
    hash.update("\n");
    hash.update(changes);
    hash.update(previous);
    hash.finalize().to_vec()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A stored part of an entry.
pub struct Part {
    pub seq: i64,
    pub part: i32,
    pub parts: i32,
    pub kind: String,
    pub changes: String,
    pub hash: Vec<u8>,
    header: String,
}

impl Part {
    /// From a row of `rowclaim.journal` in a trigger.
    pub fn of_values(row: Values) -> Option<Part> {
        // SAFETY: the attributes of rowclaim.journal, in order, with their types.
        unsafe {
            let journal = text(row.get(0)?);
            let (seq, part, parts) =
                (row.get(1)?.value() as i64, row.get(2)?.value() as i32, row.get(3)?.value() as i32);
            let (kind, actor) = (text(row.get(4)?), text(row.get(5)?));
            let (base, message) = (row.get(6).map(|d| d.value() as i64), row.get(8).map(|d| text(d)));
            let (xid, at) = (row.get(7)?.value() as u64, row.get(9)?.value() as i64);
            let header =
                entry_header((journal, seq, part, parts, kind, actor, base, Some(&xid.to_string()), message, Some(at)));
            let hash = bytes(row.get(11)?);
            Some(Part { seq, part, parts, kind: kind.to_owned(), changes: owned(text(row.get(10)?)), hash, header })
        }
    }

    /// From (seq, part, parts, kind, actor, base, xid::text, message, committed_at, changes::text, hash).
    pub fn read(journal: &str, row: &spi::Row) -> Part {
        let seq = row.i64(1).unwrap_or_default();
        let (part, parts) = (row.get::<i32>(2).unwrap_or_default(), row.get::<i32>(3).unwrap_or_default());
        let kind = row.text(4).unwrap_or_default();
        let (actor, base, xid, message) = (row.text(5), row.i64(6), row.text(7), row.text(8));
        let header = entry_header((
            journal,
            seq,
            part,
            parts,
            &kind,
            actor.as_deref().unwrap_or_default(),
            base,
            xid.as_deref(),
            message.as_deref(),
            row.timestamp(9),
        ));
        let changes = row.text(10).unwrap_or_default();
        let hash = row.get::<Vec<u8>>(11).unwrap_or_default();
        Part { seq, part, parts, kind, changes, hash, header }
    }

    /// Is the content what it was hashed as? `previous`: the hash of the part before.
    pub fn is_authentic(&self, previous: &[u8]) -> bool {
        entry_hash(&self.header, &self.changes, previous) == self.hash
    }
}
