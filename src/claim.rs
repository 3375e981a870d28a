//! Claims: granting, renewing, releasing and taking over the right to write a row.
//!
//! The owner column of the user's row is what the guard reads; `rowclaim.claim` has the rest (token,
//! expiry, reason). Both change together, always the row first, so that two claimers meet at the row.

use crate::actor;
use crate::codec;
use crate::draft::{self, DraftKey, Stamp};
use crate::entry::{entries, Entry};
use crate::error::{spaced, Error, Result};
use crate::holder::{self, claim_of, draft_holder, find, holder, owner, Claim};
use crate::key::Key;
use crate::lease::Ttl;
use crate::notify;
use crate::ownership::Ownership;
use crate::pg::ffi::nextval;
use crate::pg::memory::check_in_loop;
use crate::pg::owner::{caller, AsCaller, AsOwner};
use crate::pg::row::{wait_for, Look, Place, Rows, Written};
use crate::pg::spi::{self, Arg, Sees};
use crate::pg::store::sequence;
use crate::pg::value::text_datum;
use crate::pg::xact::{self, Moment};
use crate::restore;
use crate::settings;
use crate::table::Table;
use pgrx::pg_sys;
use std::rc::Rc;

/// What a caller asks for. Times are microseconds.
#[derive(Clone, Default)]
pub struct Wish {
    pub ttl: Option<Ttl>,
    pub version: Option<i64>,
    pub wait: i64,
    pub reason: Option<String>,
    pub steal: bool,
}

/// The fields of `claim_result`.
#[derive(Clone, Default)]
pub struct Outcome {
    pub status: &'static str,
    pub owner: Option<String>,
    pub token: Option<i64>,
    pub claimed_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub row_version: Option<i64>,
    pub message: String,
}

/// The token of a new grant.
pub fn next_token() -> i64 {
    nextval(sequence(c"token_seq"))
}

impl Wish {
    /// When a claim wished for now ends.
    pub fn expiry(&self) -> Option<i64> {
        let ttl = self.ttl.or_else(|| {
            settings::default_ttl().map(|seconds| Ttl { months: 0, days: 0, micros: seconds * 1_000_000 })
        })?;
        Some(ttl.after(xact::clock()))
    }
}

/// How a row stands when somebody asks for it.
pub struct Standing {
    /// The row's own key: the caller's may be equal and yet written differently.
    pub text: String,
    held: Ownership,
    stamp: Stamp,
    /// The committed version, if somebody else's draft has gone on from it.
    committed: Option<i64>,
    /// A transaction in progress on the row.
    pending: Option<pg_sys::TransactionId>,
    /// False for a row deleted in somebody else's draft.
    present: bool,
}

impl Standing {
    /// The version a claim would start from.
    pub fn version(&self) -> i64 {
        self.committed.unwrap_or(self.held.version)
    }

    /// Somebody else's draft the row is in.
    fn draft(&self, table: &Table) -> Option<DraftKey> {
        self.held.draft.filter(|_| matches!(self.stamp, Stamp::Other(_))).map(|id| (id, table.journal_id))
    }
}

/// Does row security apply to what `user` does with the table?
fn policies_apply(root: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    // SAFETY: a look-up by OID that raises no error.
    unsafe { pg_sys::check_enable_rls(root, user, true) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 }
}

/// Does row security hide the row from the caller?
pub fn is_hidden(table: &Table, key: &Key) -> bool {
    policies_apply(table.root, caller().0) && !Claimer::new(table.root).is_ok_and(|claimer| claimer.policies_allow(key))
}

/// One call's view of a table: who asks, and what the policies let them see.
pub struct Claimer {
    rows: Rows,
    me: Rc<str>,
    caller: (pg_sys::Oid, i32),
    policies: bool,
}

impl Claimer {
    /// Checks that the caller may write the table at all.
    pub fn new(target: pg_sys::Oid) -> Result<Claimer> {
        let caller = caller();
        let table = Table::enabled(target)?;
        // SAFETY: privilege look-ups by OID.
        let allowed = unsafe {
            let write = (pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) as pg_sys::AclMode;
            pg_sys::pg_class_aclmask(table.root, caller.0, write, pg_sys::AclMaskHow::ACLMASK_ANY) != 0
                || pg_sys::pg_attribute_aclcheck_all(
                    table.root,
                    caller.0,
                    pg_sys::ACL_UPDATE as pg_sys::AclMode,
                    pg_sys::AclMaskHow::ACLMASK_ANY,
                ) == pg_sys::AclResult::ACLCHECK_OK
        };
        if !allowed {
            return Err(Error::Privilege { problem: format!("permission denied for table {}", table.name()) });
        }
        let policies = policies_apply(table.root, caller.0);
        Ok(Claimer { rows: Rows::open(table.root)?, me: actor::current(), caller, policies })
    }

    pub fn table(&self) -> Rc<Table> {
        self.rows.table.clone()
    }

    /// Row security: may the caller see and update the row? Asked of the executor, as the caller.
    fn policies_allow(&self, key: &Key) -> bool {
        if !self.policies {
            return true;
        }
        let (condition, args) = key.condition(&self.rows.table);
        // SAFETY: a privilege look-up by OID.
        let update = unsafe {
            pg_sys::pg_class_aclcheck(self.rows.table.root, self.caller.0, pg_sys::ACL_UPDATE as pg_sys::AclMode)
                == pg_sys::AclResult::ACLCHECK_OK
        };
        let lock = if update { " FOR NO KEY UPDATE" } else { "" };
        let sql = format!("SELECT 1 FROM {} WHERE {condition}{lock}", self.rows.table.name());
        let _caller = AsCaller::enter(self.caller);
        spi::run_as_is(&sql, &args, |_| {}) > 0
    }

    /// How a row stands: the row itself, or what a draft says of a deleted one. `None`: there is no
    /// such row.
    fn standing(&mut self, key: &Key, look: Look) -> Result<Option<Standing>> {
        if let Some(pending @ (None | Some((_, false)))) = self.rows.find(&key.datums, look)? {
            let leaf = self.rows.leaf_table();
            let values = self.rows.values();
            let held = Ownership::of(&leaf, values);
            let stamp = draft::status(&leaf, held.draft, &self.me);
            let text = codec::key_text(&leaf, values);
            let committed = match stamp {
                Stamp::Other(_) => entries().find(leaf.root, &text).and_then(|found| Entry::of(&found).version),
                _ => None,
            };
            let pending = pending.map(|(xid, _)| xid);
            return Ok(Some(Standing { text, committed, held, stamp, pending, present: true }));
        }
        let table = self.rows.table.clone();
        let text = key.text(&table);
        let Some(found) = entries().find(table.root, &text) else { return Ok(None) };
        let entry = Entry::of(&found);
        let stamp = draft::status(&table, Some(entry.draft), &self.me);
        if entry.base.is_none() || !matches!(stamp, Stamp::Other(_)) {
            return Ok(None);
        }
        let held = Ownership {
            owner: owner(table.root, &text),
            version: entry.version.unwrap_or_default(),
            draft: Some(entry.draft),
        };
        Ok(Some(Standing { text, committed: entry.version, held, stamp, pending: None, present: false }))
    }

    /// How a row that the caller may see stands in what is committed; waits for nobody.
    pub fn sight(&mut self, key: &Key) -> Result<Option<Standing>> {
        if self.policies_allow(key) {
            self.standing(key, Look::Latest)
        } else {
            Ok(None)
        }
    }

    /// Where the row that was seen last is, if nobody has anything to do with it.
    pub fn place(&mut self, standing: &Standing) -> Option<Place> {
        let free = standing.present && standing.held.owner.is_none() && !matches!(standing.stamp, Stamp::Other(_));
        free.then(|| self.rows.place())
    }

    /// Makes the row at a place mine, if it is still as it was at that moment.
    pub fn take(&mut self, place: Place, moment: &Moment) -> Result<Written> {
        if !self.rows.fetch(place, moment)? {
            return Ok(Written::Changed);
        }
        let column = self.rows.leaf_table().owner_column;
        Ok(self.rows.write(&[(column, Some(text_datum(&self.me)))]))
    }

    /// Closes what is open, before a subtransaction starts or ends.
    pub fn let_go(&mut self) {
        self.rows.let_go();
    }

    pub fn me(&self) -> &str {
        &self.me
    }

    /// The answer for a row that could be claimed.
    pub fn free(&self, key: &str, version: i64) -> Outcome {
        Outcome {
            status: "free",
            row_version: Some(version),
            message: self.say(key, " can be claimed"),
            ..Outcome::default()
        }
    }

    /// Why the row cannot be claimed as it stands, if so.
    pub fn refusal(&self, standing: &Standing, wish: &Wish) -> Option<Outcome> {
        if let Some(who) = self.other(standing) {
            if !self.may_take_over(standing, &who, wish) {
                return Some(self.denied(standing, &who));
            }
        }
        let asked = wish.version.filter(|version| *version != standing.version())?;
        Some(Outcome {
            status: "stale",
            owner: standing.held.owner.clone(),
            row_version: Some(standing.version()),
            message: format!(
                "{} is at version {}, not {asked}: read it again",
                self.name(&standing.text),
                standing.version()
            ),
            ..Outcome::default()
        })
    }

    fn name(&self, key: &str) -> String {
        self.say(key, "")
    }

    /// The row's name and what there is to say of it.
    fn say(&self, key: &str, what: &str) -> String {
        ["row ", &self.rows.table.name(), " ", &spaced(key), what].concat()
    }

    /// Who else holds the row.
    fn other(&self, standing: &Standing) -> Option<String> {
        match (&standing.stamp, &standing.held.owner) {
            (_, Some(owner)) if **owner != *self.me => Some(owner.clone()),
            (Stamp::Other(who), _) => Some(who.clone()),
            _ => None,
        }
    }

    fn may_take_over(&self, standing: &Standing, who: &str, wish: &Wish) -> bool {
        if wish.steal {
            return true;
        }
        if standing.held.owner.as_deref() == Some(who) {
            return find(self.rows.table.root, &standing.text).is_some_and(|claim| claim.expired());
        }
        match (standing.draft(&self.rows.table), settings::draft_ttl()) {
            (Some(draft), Some(ttl)) => {
                draft::header(draft).is_some_and(|(_, touched)| xact::clock() - touched > ttl * 1_000_000)
            }
            _ => false,
        }
    }

    fn denied(&self, standing: &Standing, who: &str) -> Outcome {
        let root = self.rows.table.root;
        let claim = find(root, &standing.text).filter(|claim| claim.owner == who);
        let since = match (&claim, standing.draft(&self.rows.table)) {
            (None, Some(draft)) => draft_holder(draft, who).since,
            _ => holder(root, &standing.text).and_then(|holder| holder.since),
        };
        let since = since.map(|time| format!(" since {time}")).unwrap_or_default();
        Outcome {
            status: "denied",
            owner: Some(who.to_owned()),
            claimed_at: claim.as_ref().map(|c| c.claimed_at),
            expires_at: claim.as_ref().and_then(|c| c.expires_at),
            row_version: Some(standing.held.version),
            message: format!("{} is held by {who}{since}", self.name(&standing.text)),
            ..Outcome::default()
        }
    }

    pub fn absent(&self, key: &Key) -> Outcome {
        let message = format!("there is no {}", self.name(&key.text(&self.rows.table)));
        Outcome { status: "not_found", message, ..Outcome::default() }
    }

    /// Claims a row, waiting up to `wish.wait` for its holder.
    pub fn claim(&mut self, key: &Key, wish: &Wish) -> Result<Outcome> {
        let deadline = xact::clock().saturating_add(wish.wait);
        let mut pause = 2;
        loop {
            let outcome = self.attempt(key, wish)?;
            if outcome.status != "denied" || xact::clock() >= deadline {
                return Ok(outcome);
            }
            xact::pause(pause.min(1 + (deadline - xact::clock()).max(0) / 1_000));
            pause = (pause * 2).min(50);
        }
    }

    /// Claims a row now; waits only for a transaction in progress on a row that looks free.
    pub fn attempt(&mut self, key: &Key, wish: &Wish) -> Result<Outcome> {
        if !self.policies_allow(key) {
            return Ok(self.absent(key));
        }
        loop {
            check_in_loop();
            xact::bump_command();
            let Some(standing) = self.standing(key, Look::Dirty)? else { return Ok(self.absent(key)) };
            if let Some(refusal) = self.refusal(&standing, wish) {
                return Ok(refusal);
            }
            let other = self.other(&standing);
            if other.is_none() && standing.held.owner.is_some() {
                if let Some(outcome) = self.renew(&standing.text, &standing.held, wish) {
                    return Ok(outcome);
                }
            }
            if let Some(xid) = standing.pending {
                wait_for(xid);
                continue;
            }
            if let Some(who) = other {
                match self.take_over(key, &standing, &who, wish)? {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                }
            }
            let leaf = self.rows.leaf_table();
            if self.rows.write(&[(leaf.owner_column, Some(text_datum(&self.me)))]) == Written::Changed {
                continue;
            }
            return Ok(self.granted(&standing.text, standing.held.version, wish));
        }
    }

    /// I hold the claim already: the same token, a new expiry.
    fn renew(&mut self, key: &str, held: &Ownership, wish: &Wish) -> Option<Outcome> {
        let expires_at = wish.expiry();
        let claim = spi::first(
            "UPDATE rowclaim.claim SET expires_at = $3, reason = coalesce($4, reason)
             WHERE relid = $1 AND key = $2 AND owner = $5 RETURNING owner, token, claimed_at, expires_at",
            &[
                Arg::oid(self.rows.table.root),
                Arg::str(key),
                Arg::timestamp(expires_at),
                Arg::text(wish.reason.clone()),
                Arg::str(&self.me),
            ],
            Sees::Latest,
            claim_of,
        )?;
        Some(self.result(key, &claim, held.version))
    }

    /// Enters the claims on rows that were just taken, by key and token.
    pub fn grant_all(&self, rows: &[(&str, i64)], (claimed_at, expires_at): (i64, Option<i64>), reason: Option<&str>) {
        let claim = Claim { owner: self.me.to_string(), token: 0, claimed_at, expires_at };
        holder::insert_all(self.rows.table.root, rows, &claim, reason);
        xact::bump_command();
        for (key, _) in rows {
            notify::row("claim", &self.rows.table, key, &self.me);
        }
    }

    fn granted(&mut self, key: &str, version: i64, wish: &Wish) -> Outcome {
        let claim = Claim {
            owner: self.me.to_string(),
            token: next_token(),
            claimed_at: xact::clock(),
            expires_at: wish.expiry(),
        };
        holder::insert(self.rows.table.root, key, &claim, wish.reason.as_deref());
        xact::bump_command();
        notify::row("claim", &self.rows.table, key, &self.me);
        self.result(key, &claim, version)
    }

    pub fn result(&self, key: &str, claim: &Claim, version: i64) -> Outcome {
        Outcome {
            status: "granted",
            owner: Some(claim.owner.clone()),
            token: Some(claim.token),
            claimed_at: Some(claim.claimed_at),
            expires_at: claim.expires_at,
            row_version: Some(version),
            message: self.say(key, " is yours"),
        }
    }

    /// Takes a row from `who`: an expired claim, an abandoned draft, or a steal. Their uncommitted
    /// changes on it go to the stash. It is denied where the row cannot be put back without others. `None`: the holder was
    /// faster, look again.
    fn take_over(&mut self, key: &Key, standing: &Standing, who: &str, wish: &Wish) -> Result<Option<Outcome>> {
        let _owner = AsOwner::enter();
        self.rows.let_go();
        let taken =
            xact::where_constraints_allow(|| xact::in_subtransaction(|| self.take_over_now(key, standing, who, wish)));
        let why = match taken {
            Ok(Err(Error::InTheWay(dependency))) => dependency.in_the_way(),
            Ok(taken) => return taken,
            Err(problem) => problem,
        };
        Ok(Some(Outcome {
            message: format!("{} cannot be taken from {who} alone: {why}", self.name(&standing.text)),
            ..self.denied(standing, who)
        }))
    }

    /// All of it, or nothing if that is not what it returns.
    fn take_over_now(&mut self, key: &Key, standing: &Standing, who: &str, wish: &Wish) -> Result<Option<Outcome>> {
        let root = self.rows.table.root;
        let text = &standing.text;
        let draft = standing.draft(&self.rows.table);
        let cause = if wish.steal { "stolen" } else { "expired" };
        // The holder's commit and other sessions hold this lock while they work on the draft.
        if draft.is_some_and(|draft| !lock_header(draft)) {
            return Ok(None);
        }
        let lost = spi::run(
            "DELETE FROM rowclaim.claim WHERE relid = $1 AND key = $2 AND owner = $3
             AND ($4 OR expires_at <= clock_timestamp())",
            &[Arg::oid(root), Arg::str(text), Arg::str(who), Arg::bool(wish.steal)],
        ) > 0;
        if standing.held.owner.is_some() && !lost {
            return Ok(None);
        }
        let mut rows = Rows::open(root)?;
        match (standing.present, rows.find(&key.datums, Look::Dirty)?) {
            (true, Some(None)) => {
                let leaf = rows.leaf_table();
                if Ownership::of(&leaf, rows.values()).draft != standing.held.draft {
                    return Ok(None);
                }
            }
            (false, None) => {}
            _ => return Ok(None),
        }
        let Some(found) = draft.and_then(|_| entries().find(root, text)) else {
            if !standing.present {
                return Ok(None);
            }
            let column = rows.leaf_table().owner_column;
            if rows.write(&[(column, Some(text_datum(&self.me)))]) == Written::Changed {
                return Ok(None);
            }
            return Ok(Some(self.granted(text, standing.held.version, wish)));
        };
        // The holder's other sessions wait for the row from here on.
        if standing.present {
            if rows.write(&[]) == Written::Changed {
                return Ok(None);
            }
            xact::bump_command();
        }
        let entry = Entry::of(&found);
        restore::stash(&mut rows, text, &entry, who, cause, wish.reason.as_deref())?;
        entries().delete(&found);
        drop(rows);
        self.restored(key, text, &entry, wish).map(Some)
    }

    /// Puts the committed state back and grants the row.
    fn restored(&mut self, key: &Key, text: &str, entry: &Entry, wish: &Wish) -> Result<Outcome> {
        xact::bump_command();
        let root = self.rows.table.root;
        let me = self.me.clone();
        let mut batch = restore::Batch::default();
        let back = batch.put_back(root, text, entry, restore::Owner::Set(&me))?;
        batch.finish()?;
        xact::bump_command();
        Ok(match back {
            Some(committed) => self.granted(&committed, entry.version.unwrap_or(1), wish),
            None => self.absent(key),
        })
    }
}

fn lock_header(draft: DraftKey) -> bool {
    spi::run(
        "SELECT 1 FROM rowclaim.draft WHERE id = $1 AND journal_id = $2 FOR UPDATE",
        &[Arg::i64(draft.0), Arg::i32(draft.1)],
    ) > 0
}
