//! Seals: entries that chain the hashes of everything since the seal before.

use super::account::InFlight;
use super::part::hex;
use super::{verify, Head, Journal, SEEN};
use crate::error::{Error, Result};
use crate::pg::lock::{Lock, Mode};
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::spool::Spool;
use crate::pg::xact;
use crate::records;
use sha2::{Digest, Sha256};

/// A seal is due after this many entries.
const SEAL_EVERY: i64 = 1_000;

impl Journal {
    /// The last number under a seal, or the last one pruned: everything below is contiguous.
    pub(super) fn sealed(&self) -> i64 {
        spi::first("SELECT rowclaim.sealed_seq($1)", &[Arg::str(&self.name)], Sees::Latest, |row| row.i64(1))
            .flatten()
            .unwrap_or(0)
    }

    pub(super) fn seal_if_due(&self) -> Result<()> {
        if !self.seems_due() {
            return Ok(());
        }
        // Others have sealed since: to ask how far costs less than to find out what there is to seal.
        if let Some(sealed) = SEEN.with(|seen| seen.borrow().get(&self.id).map(|seen| seen.sealed)) {
            self.note_sealed(records::sealed_to(&self.name, sealed).unwrap_or(sealed));
        }
        if self.seems_due() && (Lock::Seal { journal: self.id }).try_acquire(Mode::Exclusive) {
            let (sealed, stable) = (self.sealed(), self.stable());
            if stable - sealed >= SEAL_EVERY {
                self.seal(sealed, stable, None)?;
            }
            self.note_sealed(self.sealed());
        }
        Ok(())
    }

    fn seems_due(&self) -> bool {
        let seen = SEEN.with(|seen| seen.borrow().get(&self.id).copied());
        seen.is_some_and(|seen| seen.prefix - seen.sealed >= SEAL_EVERY)
    }

    fn note_sealed(&self, sealed: i64) {
        SEEN.with(|all| {
            if let Some(seen) = all.borrow_mut().get_mut(&self.id) {
                seen.sealed = sealed;
            }
        });
    }

    /// Appends a seal over everything after the seal before; its number, or `None` when there is
    /// nothing to seal. Waits for a seal in progress; a damaged journal is not sealed.
    pub fn seal_now(&self) -> Result<Option<i64>> {
        let (sealed, stable) = self.ready_to_seal()?;
        let anything = spi::run(
            "SELECT 1 FROM rowclaim.journal WHERE journal = $1 AND seq > $2 AND seq <= $3 AND kind <> 'seal' LIMIT 1",
            &[Arg::str(&self.name), Arg::i64(sealed), Arg::i64(stable)],
        );
        if anything == 0 {
            return Ok(None);
        }
        self.seal(sealed, stable, None).map(Some)
    }

    /// Appends a seal that says where the journal begins once the entries up to `pruned` are gone.
    /// If it can, it ends there, so that later seals can still be checked.
    pub fn seal_pruned(&self, pruned: i64) -> Result<i64> {
        let (sealed, stable) = self.ready_to_seal()?;
        self.seal(sealed, if pruned > sealed { pruned } else { stable }, Some(pruned))
    }

    /// The last sealed and the last complete number, of a journal that is whole.
    fn ready_to_seal(&self) -> Result<(i64, i64)> {
        self.check_writable()?;
        Lock::Seal { journal: self.id }.acquire(Mode::Exclusive);
        self.fill_gaps(self.last_entry())?;
        xact::bump_command();
        let stable = self.stable();
        if let Some(finding) = verify(&self.name)?.iter().find(|finding| finding.seq <= stable) {
            let part = finding.part.map(|part| format!(" part {part}")).unwrap_or_default();
            let problem = format!("entry {}{part}: {}", finding.seq, finding.problem);
            return Err(Error::JournalCorrupt { journal: self.name.clone(), problem });
        }
        Ok((self.sealed(), stable))
    }

    fn seal(&self, after: i64, upto: i64, pruned: Option<i64>) -> Result<i64> {
        let mut chain = Sha256::new();
        let previous = spi::first(
            "SELECT hash FROM rowclaim.journal WHERE journal = $1 AND kind = 'seal' ORDER BY seq DESC LIMIT 1",
            &[Arg::str(&self.name)],
            Sees::Latest,
            |row| row.get::<Vec<u8>>(1),
        );
        chain.update(previous.flatten().unwrap_or_default());
        let entries = spi::query(
            "SELECT hash FROM rowclaim.journal WHERE journal = $1 AND seq > $2 AND seq <= $3 ORDER BY seq, part",
            &[Arg::str(&self.name), Arg::i64(after), Arg::i64(upto)],
            Sees::Latest,
            |row| chain.update(row.get::<Vec<u8>>(1).unwrap_or_default()),
        );
        let mut content = Spool::default();
        content.push(&format!(
            "{{\"op\":\"seal\",\"from\":{},\"to\":{upto},\"entries\":{entries},\"chain\":\"{}\"{}}}",
            after + 1,
            hex(&chain.finalize()),
            pruned.map(|pruned| format!(",\"pruned\":{pruned}")).unwrap_or_default()
        ));
        let seq = self.draw();
        let head = Head { kind: "seal", actor: "", base: None, message: None };
        self.write(seq, &head, &mut content, None);
        self.account(seq, InFlight::Stop)?;
        Ok(seq)
    }
}
