"""SQLAlchemy's version_id_col on claimed tables, counted by the client and by the server."""
# pip install 'SQLAlchemy==2.*' 'psycopg[binary]==3.*'
import json
from decimal import Decimal

from sqlalchemy import FetchedValue, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError


class Base(DeclarativeBase):
    pass


class Customer(Base):
    """Every transaction is a changeset; SQLAlchemy counts the versions. The ownership columns are not mapped."""
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    visits: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}


class Part(Base):
    """Must be claimed; rowclaim counts the versions, SQLAlchemy reads them back with RETURNING."""
    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    price: Mapped[Decimal]
    row_version: Mapped[int] = mapped_column(server_default=FetchedValue(), server_onupdate=FetchedValue())
    __mapper_args__ = {"version_id_col": row_version, "version_id_generator": False}


# psycopg's prepared statements are off, so that it works through pgbouncer too.
engine = create_engine("postgresql+psycopg://", connect_args={"prepare_threshold": None})


sent = []  # what SQLAlchemy sends to the server


def acting_as(actor):
    return Session(engine, info={"actor": actor})


@event.listens_for(Session, "after_begin")
def set_actor(session, transaction, connection):
    connection.execute(text("SELECT set_config('rowclaim.actor', :actor, true)"), {"actor": session.info["actor"]})


@event.listens_for(engine, "before_cursor_execute")
def note(connection, cursor, statement, *rest):
    sent.append(" ".join(statement.split()))


def refusal(session):
    """Flushes a change that is refused: its SQLSTATE, and DETAIL, which is a JSON object."""
    try:
        session.flush()
    except DBAPIError as error:
        session.rollback()
        return error.orig.sqlstate, json.loads(error.orig.diag.message_detail)
    raise AssertionError("not refused")


def is_stale(session):
    """Flushes a change of a row that has moved on: SQLAlchemy's UPDATE finds no row of that version."""
    try:
        session.flush()
    except StaleDataError:
        session.rollback()
        return True
    return False


def read_by(actor, entity, key):
    """An object that was read in a session that has ended, as it waits in a form or a window."""
    with acting_as(actor) as session:
        row = session.get(entity, key)
        session.expunge(row)
        return row


def stored(table, key, columns):
    with engine.connect() as connection:
        return tuple(connection.execute(text(f"SELECT {columns} FROM {table} WHERE id = :key"), {"key": key}).one())


# Counted by SQLAlchemy.
miller, unwanted = read_by("alice", Customer, 1), read_by("alice", Customer, 1)
with acting_as("bob") as session:
    customer = session.get(Customer, 1)
    for name in ("Miller & Sons", "Miller Ltd"):
        customer.name = name
        session.flush()
    assert ", version=%(version)s" in sent[-1]
    session.commit()
    assert customer.version == 3
with acting_as("alice") as session:
    session.delete(unwanted)
    assert is_stale(session)
with acting_as("alice") as session:
    session.add(miller)
    miller.name = "Mill"
    assert is_stale(session)
    session.refresh(miller)
    assert (miller.name, miller.version) == ("Miller Ltd", 3)
    miller.name = "Mill"
    session.commit()
    assert miller.version == 4
assert stored("customers", 1, "name, version") == ("Mill", 4)
print("client-side: the stale write raised StaleDataError; after reading again version 4")

# SQLAlchemy counts a change of an untracked column too, and then the row's version is what SQLAlchemy believes.
with acting_as("alice") as session:
    session.expire_on_commit = False
    baker = session.get(Customer, 2)
    baker.visits = 1
    session.commit()
    assert stored("customers", 2, "visits, version") == (1, baker.version)
    baker.name = "Baker Inc"
    session.commit()
    assert stored("customers", 2, "name, version") == ("Baker Inc", baker.version)
with acting_as("alice") as session:
    session.add(Customer(name="Smith"))
    session.commit()
    smith = session.query(Customer).filter_by(name="Smith").one()
    assert smith.version == 1
    session.delete(smith)
    session.commit()
with engine.connect() as connection:
    history = connection.execute(text("""SELECT actor, op, new ->> 'name' AS name FROM rowclaim.changes
        WHERE target = 'public.customers' ORDER BY seq""")).all()
assert history == [("bob", "update", "Miller Ltd"), ("alice", "update", "Mill"), ("alice", "update", "Baker Inc"),
                   ("alice", "insert", "Smith"), ("alice", "delete", None)], history
print("journal:", ", ".join(f"{actor} {op}" for actor, op, _ in history))

# Counted by rowclaim. A write without the claim is a database error, whatever the session thinks.
with acting_as("bob") as session:
    bolt = session.get(Part, 1)
    bolt.price = Decimal("0.30")
    assert refusal(session) == ("55000", {"reason": "row_not_claimed", "table": "public.parts", "key": {"id": 1}})
    session.delete(session.get(Part, 1))
    assert refusal(session)[1]["reason"] == "row_not_claimed"
with acting_as("alice") as session:
    claim = session.execute(text("SELECT * FROM claim_row('parts', :key)"), {"key": 1}).one()
    assert (claim.status, claim.owner) == ("granted", "alice")
    claims = session.execute(text("SELECT key, status FROM claim_rows('parts', :keys)"), {"keys": [4, 1]}).all()
    assert claims == [({"id": 4}, "granted"), ({"id": 1}, "granted")]
    session.commit()
with acting_as("bob") as session:
    session.get(Part, 1).price = Decimal("0.30")
    sqlstate, detail = refusal(session)
    assert (sqlstate, detail["reason"], detail["owner"]) == ("55P03", "row_held", "alice")
    print("bob writes:", sqlstate, detail["reason"], detail["owner"])
    session.merge(Part(id=1, name="bolt", price=Decimal("0.30"), row_version=1))
    assert refusal(session)[1]["reason"] == "row_held"
assert stored("parts", 1, "price, row_version") == (Decimal("0.25"), 1)

# The claim keeps others out; the version keeps two windows of alice apart.
bolt = read_by("alice", Part, 1)
with acting_as("alice") as session:
    window = session.get(Part, 1)
    for price in ("0.30", "0.35"):
        window.price = Decimal(price)
        session.flush()
    assert window.row_version == 3
    assert ", row_version=" not in sent[-1] and sent[-1].endswith("RETURNING parts.row_version")
    session.commit()
with acting_as("alice") as session:
    session.add(bolt)
    bolt.price = Decimal("0.40")
    assert is_stale(session)
with acting_as("alice") as session:
    screw = Part(id=5, name="screw", price=Decimal("0.02"))
    session.add(screw)
    session.flush()
    assert screw.row_version == 1
    assert session.get(Part, 1).row_version == 3
    seq = session.scalar(text("SELECT commit_changes('parts', release => true)"))
    session.commit()
    changes = session.execute(text("SELECT op, new, version FROM rowclaim.changes WHERE seq = :seq ORDER BY op"),
                              {"seq": seq}).all()
assert changes == [("insert", {"id": 5, "name": "screw", "price": 0.02}, 1), ("update", {"price": 0.35}, 3)], changes
print("server-side: version 3 after two updates; a second window of the same user was stale")
