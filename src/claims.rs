//! Claiming many rows at once: all of them or none.
//!
//! All rows are looked at before the first is written, so that a refusal leaves nothing behind. Then the
//! free ones are written where they were seen, in the order of their keys, and their claims are inserted
//! in batches. A row that needs more than that, or is not as it was seen, is claimed as by `claim_row()`.

use crate::claim::{next_token, Claimer, Outcome, Wish};
use crate::error::Result;
use crate::holder::Claim;
use crate::key::Key;
use crate::pg::memory::{check_in_loop, push, room, Scratch};
use crate::pg::owner::AsOwner;
use crate::pg::row::{Place, Written};
use crate::pg::xact::{self, Moment};
use pgrx::pg_sys;

/// Rows that are claimed under one snapshot and command.
const BATCH: usize = 1_000;

/// A key that was asked for.
struct Asked {
    position: usize,
    key: Key,
    /// Its canonical text.
    text: String,
    /// The row's own, where the caller's is equal and yet written differently.
    own: Option<String>,
    version: Option<i64>,
    answer: Answer,
}

enum Answer {
    /// The row can be claimed: at once where nobody has anything to do with it.
    Free { version: i64, place: Option<Place> },
    /// With the token, as part of a batch.
    Granted { version: i64, token: i64, batch: usize },
    /// As `claim_row()` has it.
    Whole(Box<Outcome>),
}

impl Asked {
    fn row_text(&self) -> &str {
        self.own.as_deref().unwrap_or(&self.text)
    }

    fn is_free(&self) -> bool {
        matches!(self.answer, Answer::Free { .. })
    }

    fn is_denied(&self) -> bool {
        matches!(&self.answer, Answer::Whole(outcome) if outcome.status == "denied")
    }
}

/// When the rows of a batch were claimed, and until when.
type Times = (i64, Option<i64>);

/// `claim_rows()`: hands out one outcome per key, in the order asked.
pub fn claim_rows(
    target: pg_sys::Oid,
    keys: Vec<Key>,
    versions: Option<Vec<Option<pg_sys::Datum>>>,
    wish: &Wish,
    mut answer: impl FnMut(&str, &Outcome),
) -> Result<()> {
    let mut claimer = Claimer::new(target)?;
    let _owner = AsOwner::enter();
    let table = claimer.table();
    let mut versions = versions.unwrap_or_default().into_iter();
    let mut asked: Vec<Asked> = Vec::new();
    room(&mut asked, keys.len());
    for (position, key) in keys.into_iter().enumerate() {
        check_in_loop();
        let (text, version) = (key.text(&table), versions.next().flatten().map(|version| version.value() as i64));
        let answer = Answer::Free { version: 0, place: None };
        asked.push(Asked { position, key, text, own: None, version, answer });
    }
    // One order for everybody, so that two callers cannot deadlock; numbers in theirs, which often is that of the table.
    asked.sort_unstable_by(|a, b| (a.text.len(), &a.text, a.position).cmp(&(b.text.len(), &b.text, b.position)));
    let batches = claim_or_wait(&mut claimer, &mut asked, wish)?;
    asked.sort_unstable_by_key(|asked| asked.position);
    let scratch = Scratch::new();
    for asked in &asked {
        check_in_loop();
        let _entered = scratch.enter();
        match &asked.answer {
            Answer::Whole(outcome) => answer(&asked.text, outcome),
            Answer::Free { version, .. } => answer(&asked.text, &claimer.free(asked.row_text(), *version)),
            Answer::Granted { version, token, batch } => {
                let (claimed_at, expires_at) = batches[*batch];
                let claim = Claim { owner: claimer.me().to_owned(), token: *token, claimed_at, expires_at };
                answer(&asked.text, &claimer.result(asked.row_text(), &claim, *version));
            }
        }
    }
    Ok(())
}

/// Claims all rows, or finds out why not, waiting up to `wish.wait` for their holders.
fn claim_or_wait(claimer: &mut Claimer, asked: &mut [Asked], wish: &Wish) -> Result<Vec<Times>> {
    let deadline = xact::clock().saturating_add(wish.wait);
    let mut pause = 2;
    loop {
        xact::bump_command();
        look(claimer, asked, wish)?;
        if asked.iter().all(Asked::is_free) {
            claimer.let_go();
            let mut refused = None;
            let granted = xact::in_subtransaction(|| {
                let granted = claim_all(claimer, asked, wish, &mut refused);
                claimer.let_go();
                granted
            })?;
            if let Some(batches) = granted {
                return Ok(batches);
            }
            // Somebody was faster: say how every row stands now.
            look(claimer, asked, wish)?;
            if asked.iter().all(Asked::is_free) {
                // Or it only shows in the attempt that a row cannot be had.
                match refused.filter(|(_, outcome)| outcome.status == "denied") {
                    Some((place, outcome)) => asked[place].answer = Answer::Whole(Box::new(outcome)),
                    None => continue,
                }
            }
        }
        if !asked.iter().any(Asked::is_denied) || xact::clock() >= deadline {
            return Ok(Vec::new());
        }
        xact::pause(pause.min(1 + (deadline - xact::clock()).max(0) / 1_000));
        pause = (pause * 2).min(50);
    }
}

/// What a claim of each row would meet now; grants nothing and waits for nobody.
fn look(claimer: &mut Claimer, asked: &mut [Asked], wish: &Wish) -> Result<()> {
    let mut wish = wish.clone();
    let scratch = Scratch::new();
    for asked in asked {
        check_in_loop();
        let _entered = scratch.enter();
        wish.version = asked.version;
        asked.answer = match claimer.sight(&asked.key)? {
            None => Answer::Whole(Box::new(claimer.absent(&asked.key))),
            Some(standing) => match claimer.refusal(&standing, &wish) {
                Some(refusal) => Answer::Whole(Box::new(refusal)),
                None => {
                    let (version, place) = (standing.version(), claimer.place(&standing));
                    asked.own = (standing.text != asked.text).then_some(standing.text);
                    Answer::Free { version, place }
                }
            },
        };
    }
    Ok(())
}

/// Claims every row, in order. `None`: one of them cannot be had any more, the one that is `refused`.
fn claim_all(
    claimer: &mut Claimer,
    asked: &mut [Asked],
    wish: &Wish,
    refused: &mut Option<(usize, Outcome)>,
) -> Result<Option<Vec<Times>>> {
    let mut batches = Vec::new();
    let mut done = 0;
    while done < asked.len() {
        let times = (xact::clock(), wish.expiry());
        let start = done;
        let tokens = write(claimer, &mut asked[start..], batches.len())?;
        done += tokens.len();
        let claims: Vec<_> = asked[start..done].iter().map(Asked::row_text).zip(tokens).collect();
        claimer.grant_all(&claims, times, wish.reason.as_deref());
        push(&mut batches, times);
        if done - start < BATCH && done < asked.len() {
            let next = &mut asked[done];
            let outcome = claimer.attempt(&next.key, &Wish { version: next.version, ..wish.clone() })?;
            if outcome.status != "granted" {
                *refused = Some((done, outcome));
                return Ok(None);
            }
            next.answer = Answer::Whole(Box::new(outcome));
            done += 1;
        }
    }
    Ok(Some(batches))
}

/// Makes rows mine, up to the first that must be claimed alone; their tokens.
fn write(claimer: &mut Claimer, asked: &mut [Asked], batch: usize) -> Result<Vec<i64>> {
    let moment = Moment::now();
    let scratch = Scratch::new();
    let mut tokens = Vec::new();
    for asked in asked.iter_mut().take(BATCH) {
        check_in_loop();
        let _entered = scratch.enter();
        let Answer::Free { version, place: Some(place) } = asked.answer else { break };
        if claimer.take(place, &moment)? == Written::Changed {
            break;
        }
        let token = next_token();
        asked.answer = Answer::Granted { version, token, batch };
        tokens.push(token);
    }
    Ok(tokens)
}
