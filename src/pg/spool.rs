//! Texts kept in a temporary file of the server (bounded by `temp_file_limit`), so that a
//! changeset of any size needs little memory.

use super::ffi::{file_close, file_create, file_read, file_write};
use super::memory::{ensure, push, room};
use pgrx::pg_sys;

/// Kept in memory up to this many bytes, then in a file.
const IN_MEMORY: usize = 8 << 20;

#[derive(Default)]
pub struct Spool {
    memory: Vec<u8>,
    file: Option<*mut pg_sys::BufFile>,
    /// Start of each text; the last entry is the end.
    ends: Vec<u64>,
}

impl Spool {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Size in bytes of text `index`.
    pub fn size(&self, index: usize) -> usize {
        (self.ends[index] - self.start(index)) as usize
    }

    fn start(&self, index: usize) -> u64 {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    pub fn push(&mut self, text: &str) {
        let end = self.ends.last().copied().unwrap_or(0) + text.len() as u64;
        match self.file {
            Some(file) => file_write(file, self.ends.last().copied().unwrap_or(0), text.as_bytes()),
            None if self.memory.len() + text.len() > IN_MEMORY => {
                let file = file_create();
                file_write(file, 0, &self.memory);
                file_write(file, self.memory.len() as u64, text.as_bytes());
                self.file = Some(file);
                self.memory = Vec::new();
            }
            None => {
                room(&mut self.memory, text.len());
                self.memory.extend_from_slice(text.as_bytes());
            }
        }
        push(&mut self.ends, end);
    }

    /// Forgets all texts but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        // The file keeps its length; what is pushed next takes the place.
        self.memory.truncate(self.ends.last().map_or(0, |&end| end as usize));
    }

    /// Forgets the file without closing it: the transaction that owned it is over.
    pub fn abandon(&mut self) {
        self.file = None;
    }

    /// Appends text `index` to `out`.
    pub fn read(&mut self, index: usize, out: &mut String) {
        let (start, size) = (self.start(index), self.size(index));
        ensure(2 * (out.len() + size) + size);
        let mut buffer = Vec::new();
        let bytes: &[u8] = match self.file {
            Some(file) => {
                buffer.resize(size, 0);
                file_read(file, start, &mut buffer);
                &buffer
            }
            None => &self.memory[start as usize..start as usize + size],
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => out.push_str(text),
            Err(_) => pgrx::error!("temporary file of a changeset is damaged"),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let (Some(file), false) = (self.file, std::thread::panicking()) {
            file_close(file);
        }
    }
}
