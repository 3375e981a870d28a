//! Heavyweight locks on journals and journal numbers. They share the advisory lock type but use
//! key classes that no SQL function can reach, so users cannot take or block them. And the server's lock for `NOTIFY`.

use pgrx::pg_sys;

/// What is locked. The discriminant is the key class (the SQL functions use 1 and 2).
#[derive(Clone, Copy)]
pub enum Lock {
    /// Around the draw of a number in share mode, exclusively by whoever wants no number to be just being drawn.
    Draw { journal: i32 },
    /// Held by every commit in share mode, by a commit with `base` exclusively.
    Base { journal: i32 },
    /// Held by the transaction that drew a number until it ends.
    Number { journal: i32, seq: i64 },
    /// Held by the transaction that writes a seal.
    Seal { journal: i32 },
    /// Held by the transaction that receives entries of a journal, by the hash of its name.
    Replay { journal: i32 },
    /// The server's own: held by a transaction that notifies until it has committed and flushed.
    Notify,
}

#[derive(Clone, Copy)]
pub enum Mode {
    Share,
    Exclusive,
    AccessExclusive,
}

/// Locks a relation to the end of the transaction; waits for that.
pub fn lock_relation(relid: pg_sys::Oid, mode: u32) {
    // SAFETY: takes the lock, whatever the OID belongs to, or raises an error.
    unsafe { pg_sys::LockRelationOid(relid, mode as pg_sys::LOCKMODE) };
}

impl Lock {
    fn tag(self) -> pg_sys::LOCKTAG {
        let (class, journal, seq) = match self {
            Lock::Draw { journal } => (0x7001, journal, 0),
            Lock::Base { journal } => (0x7002, journal, 0),
            Lock::Seal { journal } => (0x7003, journal, 0),
            Lock::Number { journal, seq } => (0x7004, journal, seq),
            Lock::Replay { journal } => (0x7005, journal, 0),
            // As PreCommit_Notify() in commands/async.c takes it: object 0 of pg_database.
            Lock::Notify => {
                return pg_sys::LOCKTAG {
                    locktag_field1: pg_sys::InvalidOid.to_u32(),
                    locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
                    locktag_field3: 0,
                    locktag_field4: 0,
                    locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
                    locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
                }
            }
        };
        // SAFETY: a plain read of this backend's database id.
        let database = unsafe { pg_sys::MyDatabaseId };
        // The upper half of the number is folded into the journal word: equal tags for two live
        // numbers would need two numbers 2^32 apart in flight at once.
        pg_sys::LOCKTAG {
            locktag_field1: database.to_u32(),
            locktag_field2: (journal as u32) ^ ((seq >> 32) as u32).rotate_left(16),
            locktag_field3: seq as u32,
            locktag_field4: class,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        }
    }

    /// Takes the lock to the end of the transaction; waits for it.
    pub fn acquire(self, mode: Mode) {
        // SAFETY: a transaction-level lock, released by the server.
        unsafe { pg_sys::LockAcquire(&self.tag(), mode.number(), false, false) };
    }

    /// Takes the lock to the end of the transaction if nobody else holds it.
    pub fn try_acquire(self, mode: Mode) -> bool {
        // SAFETY: as above, without waiting.
        let result = unsafe { pg_sys::LockAcquire(&self.tag(), mode.number(), false, true) };
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }

    /// Does nobody else hold the lock?
    pub fn is_free(self) -> bool {
        let free = self.try_acquire(Mode::Exclusive);
        if free {
            self.release(Mode::Exclusive);
        }
        free
    }

    /// Takes the lock for the length of `body` only.
    pub fn hold<T>(self, mode: Mode, body: impl FnOnce() -> T) -> T {
        self.acquire(mode);
        let result = body();
        // If body raises an error the transaction's abort releases it.
        self.release(mode);
        result
    }

    /// Gives up a lock before the transaction ends.
    pub fn release(self, mode: Mode) {
        // SAFETY: warns if the lock is not held.
        unsafe { pg_sys::LockRelease(&self.tag(), mode.number(), false) };
    }
}

impl Mode {
    fn number(self) -> i32 {
        match self {
            Mode::Share => pg_sys::ShareLock as i32,
            Mode::Exclusive => pg_sys::ExclusiveLock as i32,
            Mode::AccessExclusive => pg_sys::AccessExclusiveLock as i32,
        }
    }
}
