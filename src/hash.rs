//! A fast hash for numbers that the server gave out (OIDs, draft ids). No PostgreSQL in here.

use std::hash::{BuildHasherDefault, Hasher};

pub type ByNumber = BuildHasherDefault<NumberHasher>;

/// Multiplies and folds; nobody can choose these numbers to make them collide.
#[derive(Default)]
pub struct NumberHasher(u64);

impl NumberHasher {
    fn add(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ 0x9e37_79b9_7f4a_7c15) * 0xf39c_c060_5ced_c835;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.add(u64::from(*byte)));
    }
    fn write_u32(&mut self, number: u32) {
        self.add(u64::from(number));
    }
    fn write_i32(&mut self, number: i32) {
        self.add(number as u64);
    }
    fn write_i64(&mut self, number: i64) {
        self.add(number as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    #[test]
    fn consecutive_drafts_spread() {
        let low: HashSet<u64> = (0..1_000i64).map(|id| ByNumber::default().hash_one((id, 1i32)) & 0x3ff).collect();
        assert!(low.len() > 500, "{}", low.len());
    }
}
