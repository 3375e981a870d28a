//! What a transaction has done to rows, in order of happening, for its changesets: kept as texts, for they may be millions.

use crate::pg::memory::room;
use crate::pg::spool::Spool;
use crate::plain::push_integer;
use crate::table;
use pgrx::pg_sys;
use std::rc::Rc;

/// In place of a group, of events that have none.
const REKEY: i64 = -1;

/// One captured fact of a `transaction` table, in order of happening.
pub enum Event<'a> {
    /// A row was touched for the first time in this transaction; no `base`: it did not exist; no `version`: this only adds
    /// values stored out of line to the image. `change`: what becomes of the row in the journal if nothing else is done to it.
    Base {
        root: pg_sys::Oid,
        group: u32,
        version: Option<i64>,
        key: &'a str,
        base: Option<&'a str>,
        change: Option<&'a str>,
    },
    /// A row's key changed.
    Rekey { root: pg_sys::Oid, old: &'a str, new: &'a str },
}

/// What a transaction captured for its changesets, or takes from drafts: events are texts of a spool.
#[derive(Default)]
pub struct Captured {
    events: Spool,
    /// The tables that have events, with the number of their first one.
    roots: Vec<(pg_sys::Oid, usize)>,
    /// Journal and actor of each changeset to be.
    pub groups: Vec<(Rc<str>, Rc<str>)>,
    /// Tables with rows that were touched again.
    again: Vec<pg_sys::Oid>,
    /// As which definitions of tables the events are written: [`table::definitions`].
    definitions: u64,
}

impl Event<'_> {
    fn root(&self) -> pg_sys::Oid {
        match self {
            Event::Base { root, .. } | Event::Rekey { root, .. } => *root,
        }
    }

    /// As a text: numbers, the last two of which are lengths, and texts.
    fn text(&self) -> String {
        let (group, version, first, second, third) = match *self {
            Event::Base { group, version, key, base, change, .. } => {
                (i64::from(group), version, key, base.unwrap_or_default(), change.unwrap_or_default())
            }
            Event::Rekey { old, new, .. } => (REKEY, None, old, new, ""),
        };
        let mut text = String::new();
        room(&mut text, first.len() + second.len() + third.len() + 80);
        let root = i64::from(self.root().to_u32());
        for number in [Some(root), Some(group), version, Some(first.len() as i64), Some(second.len() as i64)] {
            if let Some(number) = number {
                push_integer(&mut text, number);
            }
            text.push(' ');
        }
        [first, second, third].into_iter().for_each(|part| text.push_str(part));
        text
    }

    fn read(text: &str) -> Option<Event<'_>> {
        let mut rest = text;
        // A number, or nothing, and a space.
        let mut number = || {
            let (number, more) = rest.split_at(rest.bytes().position(|byte| byte == b' ')?);
            rest = &more[1..];
            Some(number.parse::<i64>().ok())
        };
        let root = u32::try_from(number()??).ok()?.into();
        let (group, version) = (number()??, number()?);
        let (first, second) = (usize::try_from(number()??).ok()?, usize::try_from(number()??).ok()?);
        let (first, rest) = rest.split_at_checked(first)?;
        let (second, third) = rest.split_at_checked(second)?;
        Some(match group {
            REKEY => Event::Rekey { root, old: first, new: second },
            _ => Event::Base {
                root,
                group: group.try_into().ok()?,
                version,
                key: first,
                base: Some(second).filter(|base| !base.is_empty()),
                change: Some(third).filter(|change| !change.is_empty()),
            },
        })
    }
}

impl Captured {
    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn push(&mut self, event: &Event) {
        let root = event.root();
        if self.len() == 0 {
            self.definitions = table::definitions();
        }
        if !self.has(root) {
            self.roots.push((root, self.events.len()));
        }
        self.events.push(&event.text());
    }

    /// Forgets all events but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.events.truncate(len);
        self.roots.retain(|(_, first)| *first < len);
    }

    /// Is there an event of this table?
    pub fn has(&self, root: pg_sys::Oid) -> bool {
        self.roots.iter().any(|(of, _)| *of == root)
    }

    /// A row of this table is touched that this transaction has touched before.
    pub fn touch_again(&mut self, root: pg_sys::Oid) {
        if !self.again.contains(&root) {
            self.again.push(root);
        }
    }

    /// Is a row of this table what its only event has made of it? Not if another one was changed without an event, or the
    /// definition of a table meanwhile.
    pub fn is_settled(&self, root: pg_sys::Oid) -> bool {
        self.definitions == table::definitions() && !self.again.contains(&root)
    }

    /// The transaction is over: the server closes the file itself after a rollback.
    pub fn abandon(&mut self) {
        self.events.abandon();
    }

    /// An event by its number; `text` is what it is read into.
    pub fn event<'a>(&mut self, number: u32, text: &'a mut String) -> Event<'a> {
        text.clear();
        self.events.read(number as usize, text);
        match Event::read(text) {
            Some(event) => event,
            None => pgrx::error!("temporary file of a changeset is damaged"),
        }
    }

    /// Visits all events, with their numbers.
    pub fn each(&mut self, mut visit: impl FnMut(u32, Event)) {
        let mut text = String::new();
        for number in 0..self.len() as u32 {
            let event = self.event(number, &mut text);
            visit(number, event);
        }
    }
}
