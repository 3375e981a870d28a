"""What tables, claims, drafts and journals must be after each statement, written down independently of the extension.

A statement is a tuple (session, kind, arguments...). `World.run` says which outcomes are right and moves on to the state
after it. The state is small and made of immutable rows, so that transactions and savepoints are copies of it.
"""

from typing import NamedTuple, Optional

# Tables: their columns after id, journal, whether rows must be claimed, whether changesets are transactions.
COLUMNS = {"doc": ("code", "v", "views"), "line": ("doc", "code", "v"), "memo": ("v",), "move": ("doc", "v")}
JOURNAL = {"doc": "main", "line": "main", "memo": "side", "move": "main"}
REQUIRED = {"doc"}
TRANSACTION = {"move"}
UNTRACKED = {"doc": {"views"}}
UNIQUE = {"doc": ("code",)}
# child column -> (parent table, referenced column)
REFERENCES = {"line": {"doc": ("doc", "id"), "code": ("doc", "code")}, "move": {"doc": ("doc", "id")}}

HELD, NOT_CLAIMED, DIRTY, UNIQUE_BROKEN, REFERENCE_BROKEN = "55P03", "55000", "55006", "23505", "23503"


class Row(NamedTuple):
    values: tuple
    version: int = 1
    owner: Optional[str] = None


class Entry(NamedTuple):
    """A dirty row: whose it is and what it was."""
    actor: str
    base: Optional[tuple]
    version: Optional[int]
    base_key: Optional[int] = None  # the key it had, if it has another now


class Refused(Exception):
    """The statement must fail with one of these SQLSTATEs."""

    def __init__(self, *states):
        super().__init__(*states)
        self.states = set(states)


def tracked(table, values):
    return {c: v for c, v in zip(COLUMNS[table], values) if c not in UNTRACKED.get(table, ())}


def whole(key, entry):
    """What a dirty row was, with its key; None: it did not exist."""
    return None if entry.base is None else (key if entry.base_key is None else entry.base_key, *entry.base)


def broken(tables):
    """SQLSTATEs of the constraints that these rows break: {table: {key: values}}."""
    states = set()
    for table, columns in UNIQUE.items():
        for column in columns:
            at = COLUMNS[table].index(column)
            values = [values[at] for values in tables[table].values() if values[at] is not None]
            if len(values) != len(set(values)):
                states.add(UNIQUE_BROKEN)
    for table, references in REFERENCES.items():
        for column, (parent, target) in references.items():
            at = COLUMNS[table].index(column)
            there = set(tables[parent]) if target == "id" else {
                values[COLUMNS[parent].index(target)] for values in tables[parent].values()}
            if any(v[at] is not None and v[at] not in there for v in tables[table].values()):
                states.add(REFERENCE_BROKEN)
    return states


class State:
    def __init__(self):
        self.rows = {t: {} for t in COLUMNS}
        self.entries = {t: {} for t in COLUMNS}
        self.claims = {t: {} for t in COLUMNS}  # key -> (owner, expired)
        self.committed = {t: {} for t in COLUMNS}
        self.changesets = []  # those of this statement or transaction
        self.stash = {}  # id -> (actor, table, key, op, base, mine)
        self.captured = {}  # of `transaction` tables, (table, key) -> (base with key, version, what version it exceeds)
        self.left = {}  # (table, key) -> the version with which a row of those has left its key

    def copy(self):
        other = State.__new__(State)
        for name in ("rows", "entries", "claims", "committed"):
            setattr(other, name, {t: dict(d) for t, d in getattr(self, name).items()})
        other.changesets = list(self.changesets)
        other.stash = dict(self.stash)
        other.captured, other.left = dict(self.captured), dict(self.left)
        return other

    def values(self):
        return {t: {k: r.values for k, r in rows.items()} for t, rows in self.rows.items()}

    def check_constraints(self):
        states = broken(self.values())
        if states:
            raise Refused(*states)

    # Claims

    def rekey_claim(self, table, old, new):
        claims = self.claims[table]
        if old in claims and new not in claims:
            claims[new] = claims.pop(old)

    def exchange_claim(self, table, old, new, former):
        """A row moves to the key of a deleted one."""
        claims = self.claims[table]
        if old not in claims:
            claims.pop(new, None)
        elif new not in claims:
            self.rekey_claim(table, old, new)
        elif former is None:
            claims.pop(old)
        else:
            self.rekey_claim(table, old, former)

    # Writes

    def hold(self, table, key, me):
        """The row must be the actor's to write; SQLSTATEs if not."""
        row, entry = self.rows[table][key], self.entries[table].get(key)
        if entry and entry.actor != me or row.owner not in (None, me):
            return {HELD}
        free = row.owner is None and not (entry or (table, key) in self.captured)
        return {NOT_CLAIMED} if free and table in REQUIRED else set()

    def taken_by_other(self, table, key, me):
        """Somebody else's deleted row has this key, or a row of theirs had it."""
        return any(e.actor != me and key in (k, e.base_key) for k, e in self.entries[table].items())

    def touch(self, table, key, me):
        """The row is about to change: its base is kept."""
        row = self.rows[table][key]
        if table in TRANSACTION:
            self.captured.setdefault((table, key), ((key, *row.values), row.version, 0))
        elif key not in self.entries[table]:
            self.entries[table][key] = Entry(me, row.values, row.version)
        else:
            self.entries[table][key] = self.entries[table][key]._replace(actor=me)

    def update(self, me, table, keys, changes):
        keys = [k for k in keys if k in self.rows[table]]
        errors, count = set(), len(keys)
        new_key = changes.get("id")
        for key in keys:
            row = self.rows[table][key]
            values = tuple(changes.get(c, v) for c, v in zip(COLUMNS[table], row.values))
            moves = new_key is not None and new_key != key
            same = not moves and tracked(table, values) == tracked(table, row.values)
            # Who changes nothing but untracked columns needs no claim.
            if not same or values == row.values:
                errors |= self.hold(table, key, me)
            if same:
                self.rows[table][key] = row._replace(values=values)
                continue
            self.touch(table, key, me)
            row = row._replace(values=values, version=row.version + 1)
            if not moves:
                self.rows[table][key] = row
                continue
            if new_key in self.rows[table]:
                errors.add(UNIQUE_BROKEN)
            if self.taken_by_other(table, new_key, me):
                errors.add(HELD)
            del self.rows[table][key]
            if table not in TRANSACTION:
                former = self.entries[table].get(new_key)
                former = former.version or 0 if former else self.left_by_entry(table, new_key)
                row = row._replace(version=max(row.version, former + 1))
            self.rows[table][new_key] = row
            (self.move_captured if table in TRANSACTION else self.move_entry)(table, key, new_key)
        if errors:
            raise Refused(*errors | broken(self.values()))
        self.check_constraints()
        return count

    def left_by_entry(self, table, key):
        """The version with which a dirty row has left the key."""
        return max((e.version for e in self.entries[table].values() if e.base_key == key), default=0)

    def move_captured(self, table, old, new):
        """What takes a deleted row's place is a change of that one, and is itself deleted."""
        if (table, new) in self.captured:
            base, version, exceeds = self.captured[table, new]
            self.captured[table, new] = base, version, max(exceeds, version or 0)
        else:
            base, version, exceeds = self.captured.pop((table, old))
            self.captured[table, new] = base, version, max(exceeds, self.left.get((table, new), 0))
            if version:
                self.left.setdefault((table, old), version)
        self.exchange_claim(table, old, new, old)

    def move_entry(self, table, old, new):
        entries = self.entries[table]
        entry, dead = entries.pop(old), entries.get(new)
        former = entry.base_key if entry.base_key is not None else old
        if dead is None:
            base_key = former if entry.base is not None and former != new else None
            entries[new] = entry._replace(base_key=base_key)
            self.rekey_claim(table, old, new)
            return
        # The row takes the place of the deleted one; what it was is deleted. If another row has moved there meanwhile, that
        # one takes the place in turn.
        entries[new] = dead._replace(actor=entry.actor)
        while entry.base is not None:
            there = entries.get(former)
            if there is None:
                entries[former] = entry._replace(base_key=None)
                self.exchange_claim(table, old, new, former)
                return
            entries[former] = there._replace(base=entry.base, version=entry.version, base_key=None)
            entry = entry._replace(base=there.base, version=there.version)
            former = there.base_key if there.base_key is not None else former
        self.exchange_claim(table, old, new, None)

    def delete(self, me, table, keys):
        keys = [k for k in keys if k in self.rows[table]]
        errors = set().union(*[self.hold(table, key, me) for key in keys])
        for key in keys:
            self.touch(table, key, me)
            del self.rows[table][key]
            if table not in TRANSACTION and self.entries[table][key].base is None:
                del self.entries[table][key]
                self.claims[table].pop(key, None)
        if errors:
            raise Refused(*errors | broken(self.values()))
        self.check_constraints()
        return len(keys)

    def insert(self, me, table, key, values):
        errors = set()
        if key in self.rows[table]:
            errors.add(UNIQUE_BROKEN)
        if self.taken_by_other(table, key, me):
            errors.add(HELD)
        row = Row(values)
        if table in TRANSACTION:
            base, version, exceeds = self.captured.get((table, key), (None, None, self.left.get((table, key), 0)))
            self.captured[table, key] = base, version, max(exceeds, version or 0)
            row = Row(values, owner=self.claims[table].get(key, (None,))[0])
        elif key in self.entries[table]:
            entry = self.entries[table][key]
            owner = self.claims[table].get(key, (None,))[0]
            row = Row(values, (entry.version or 0) + 1, owner if owner == me else None)
            self.entries[table][key] = entry._replace(actor=me)
        else:
            row = Row(values, 1 + self.left_by_entry(table, key))
            self.entries[table][key] = Entry(me, None, None)
        self.rows[table][key] = row
        if errors:
            raise Refused(*errors | broken(self.values()))
        self.check_constraints()
        return 1

    # Drafts

    def commit(self, me, journal, release):
        mine = [(t, k, e) for t in COLUMNS if JOURNAL[t] == journal for k, e in self.entries[t].items() if e.actor == me]
        count = self.append(me, journal, [(t, k, whole(k, e), 0) for t, k, e in mine])
        for table, key, _ in mine:
            del self.entries[table][key]
        if release:
            for table in (t for t in COLUMNS if JOURNAL[t] == journal):
                self.release(me, table, keep_dirty=True)
        return count > 0

    def append(self, me, journal, touched):
        """One changeset of rows (table, key, base, what version it exceeds); how many changes."""
        changes, after = [], {t: dict(d) for t, d in self.committed.items()}
        arrive, depends = [], False
        parts = {(table, key) for table, key, *_ in touched}
        for table, key, base, exceeds in touched:
            row = self.rows[table].get(key)
            was = dict(zip(("id",) + COLUMNS[table], base)) if base else None
            if row is None:
                self.claims[table].pop(key, None)
            if base is None and row is None:
                continue
            if base is not None:
                del after[table][base[0]]
            if row is None:
                changes.append(("delete", table, base[0], None))
                continue
            row = self.rows[table][key] = row._replace(version=max(row.version, exceeds + 1))
            now = {"id": key, **dict(zip(COLUMNS[table], row.values))}
            depends |= any(value != (was or {}).get(column) and self.refers_to_draft(table, column, value, parts)
                           for column, value in now.items())
            if base is None:
                changes.append(("insert", table, key, now))
                arrive.append((table, key, row.values))
                continue
            # Untracked columns stay as they were inserted.
            left_out = UNTRACKED.get(table, ())
            new = {c: v for c, v in now.items() if c not in left_out and was[c] != v}
            if new:
                changes.append(("update", table, base[0], new))
            before = self.committed[table][base[0]]
            arrive.append((table, key, tuple(
                old if c in left_out else v for c, old, v in zip(COLUMNS[table], before, row.values))))
        for table, key, values in arrive:
            after[table][key] = values
        if depends or broken(after):
            raise Refused(DIRTY)
        self.committed = after
        if changes:
            self.changesets.append((journal, me, sorted(changes, key=repr)))
        return len(changes)

    def refers_to_draft(self, table, column, value, parts):
        """Is the row that this reference means now, only so because of a draft that is not part of the commit?"""
        parent, target = REFERENCES.get(table, {}).get(column, (None, None))
        if parent is None or value is None:
            return False
        at = 0 if target == "id" else 1 + COLUMNS[parent].index(target)
        key = next((k for k, row in self.rows[parent].items() if (k, *row.values)[at] == value), None)
        entry = self.entries[parent].get(key) if (parent, key) not in parts else None
        return entry is not None and (entry.base is None or whole(key, entry)[at] != value)

    def end_transaction(self, me):
        """What `transaction` tables say at COMMIT."""
        if self.captured:
            touched = [(table, key, base, exceeds) for (table, key), (base, _, exceeds) in self.captured.items()]
            self.captured, self.left = {}, {}
            self.append(me, "main", touched)

    def put_back(self, selected, owner=None):
        """Rows (table, key, entry) are as committed; claims follow."""
        back, moved = [], []
        for table, key, entry in selected:
            del self.entries[table][key]
            row = self.rows[table].pop(key, None)
            claim = self.claims[table].pop(key, None)
            if entry.base is None:
                continue
            values = entry.base
            if row:
                values = tuple(now if c in UNTRACKED.get(table, ()) else was
                               for c, was, now in zip(COLUMNS[table], entry.base, row.values))
            base_key = entry.base_key if entry.base_key is not None else key
            if claim:
                moved.append((table, base_key, claim))
            back.append((table, base_key, Row(values, entry.version, owner or (claim[0] if claim else None))))
        for table, key, claim in moved:
            self.claims[table][key] = claim
        for table, key, row in back:
            if key in self.entries[table] and key not in self.rows[table]:
                raise Refused(DIRTY)
            if key in self.rows[table]:
                raise Refused(DIRTY)
            self.rows[table][key] = row
        states = broken(self.values())
        if states:
            # Foreign keys are looked at last.
            raise Refused(DIRTY if UNIQUE_BROKEN in states else REFERENCE_BROKEN)

    def discard(self, me, journal, table, key):
        selected = [(t, k, e) for t in COLUMNS if JOURNAL[t] == journal and table in (None, t)
                    for k, e in self.entries[t].items() if e.actor == me and key in (None, k)]
        self.put_back(selected)
        return len(selected)

    def to_stash(self, table, key, entry):
        row = self.rows[table].get(key)
        op = "insert" if entry.base is None else "update" if row else "delete"
        base = whole(key, entry)
        mine = (key, *row.values) if row else None
        number = max(self.stash, default=0) + 1
        self.stash[number] = (entry.actor, table, key, op, base, mine)

    def restore(self, me, number):
        if number not in self.stash or self.stash[number][0] != me:
            raise Refused("22023")
        _, table, key, op, base, mine = self.stash.pop(number)
        names = ("id",) + COLUMNS[table]
        if op == "insert":
            return self.insert(me, table, mine[0], mine[1:])
        if op == "delete":
            count = self.delete(me, table, [base[0]])
        else:
            changes = {c: now for c, was, now in zip(names, base, mine) if was != now}
            count = self.update(me, table, [base[0]], changes) if changes else 1
        if count == 0:
            raise Refused(DIRTY)
        return count

    # Claims

    def claim(self, me, table, key, version, steal):
        row, entry = self.rows[table].get(key), self.entries[table].get(key)
        other_draft = entry.actor if entry and entry.actor != me else None
        if row is None and not (other_draft and entry.base is not None):
            return "not_found"
        owner = row.owner if row else self.claims[table].get(key, (None,))[0]
        who = owner if owner not in (None, me) else other_draft
        if who and not steal:
            if not (owner == who and self.claims[table][key][1]):
                return "denied"
        standing = entry.version if other_draft and entry.version is not None else row.version if row else entry.version
        if version is not None and version != standing:
            return "stale"
        before = self.copy()
        self.claims[table].pop(key, None)
        if other_draft:
            self.to_stash(table, key, entry)
            base_key = entry.base_key if entry.base_key is not None else key
            try:
                self.put_back([(table, key, entry)], owner=me)
            except Refused:
                # It cannot be put back alone.
                self.__dict__.update(before.__dict__)
                return "denied"
            if entry.base is None:
                return "not_found"
            key = base_key
        else:
            self.rows[table][key] = row._replace(owner=me)
        self.claims[table][key] = (me, False)
        return "granted"

    def release_row(self, me, table, key):
        row, entry = self.rows[table].get(key), self.entries[table].get(key)
        if entry and entry.actor != me or row and row.owner not in (None, me):
            raise Refused(HELD)
        if entry:
            raise Refused(DIRTY)
        if self.claims[table].get(key, (None,))[0] != me:
            return False
        # What commits with the transaction does so without the claim.
        del self.claims[table][key]
        if row:
            self.rows[table][key] = row._replace(owner=None)
        return True

    def release(self, me, table, keep_dirty=False):
        count = 0
        for key in [k for k, (owner, _) in self.claims[table].items() if owner == me]:
            try:
                count += self.release_row(me, table, key)
            except Refused:
                if not keep_dirty:
                    raise
        return count

    def release_actor(self, who):
        selected = [(t, k, e) for t in COLUMNS for k, e in self.entries[t].items() if e.actor == who]
        for item in selected:
            self.to_stash(*item)
        for journal in ("main", "side"):
            self.put_back([item for item in selected if JOURNAL[item[0]] == journal])
        for table in COLUMNS:
            self.release(who, table)


class World:
    """The state, and that of the open transaction, if any: only one session has one at a time."""

    def __init__(self):
        self.state = State()
        self.session = None
        self.saved = []  # (name, state): the first is what ROLLBACK goes back to

    def run(self, session, kind, *args):
        """The result of the statement. Raises Refused if it must fail; then nothing has changed."""
        me = session[0]
        if kind == "begin":
            self.session, self.saved = session, [(None, self.state.copy())]
            return None
        if kind == "savepoint":
            self.saved.append((args[0], self.state.copy()))
            return None
        if kind == "rollback_to":
            while self.saved[-1][0] != args[0]:
                self.saved.pop()
            self.state = self.saved[-1][1].copy()
            return None
        if kind == "rollback":
            self.state = self.saved[0][1]
            self.session, self.saved = None, []
            return None
        if kind == "commit_transaction":
            before = self.saved[0][1]
            self.session, self.saved = None, []
            try:
                self.state.end_transaction(me)
            except Refused:
                self.state = before
                raise
            return None
        after = self.state.copy()
        result = getattr(self, kind)(after, me, *args)
        if self.session is None:
            after.end_transaction(me)
        self.state = after
        return result

    def insert(self, state, me, table, key, values):
        return state.insert(me, table, key, values)

    def update(self, state, me, table, keys, changes):
        return state.update(me, table, keys, dict(changes))

    def delete(self, state, me, table, keys):
        return state.delete(me, table, keys)

    def claim(self, state, me, table, key, version):
        return state.claim(me, table, key, version, False)

    def steal(self, state, me, table, key):
        return state.claim(me, table, key, None, True)

    def expire(self, state, _me, table, key):
        if key in state.claims[table]:
            state.claims[table][key] = (state.claims[table][key][0], True)

    def renew(self, _state, _me):
        return None

    def release_row(self, state, me, table, key):
        return state.release_row(me, table, key)

    def release_rows(self, state, me, table):
        return state.release(me, table)

    def release_actor(self, state, _me, who):
        state.release_actor(who)

    def commit_changes(self, state, me, journal, release):
        return state.commit(me, journal, release)

    def discard_changes(self, state, me, journal, table, key):
        return state.discard(me, journal, table, key)

    def restore_stash(self, state, me, number):
        return state.restore(me, number)
