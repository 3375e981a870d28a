"""Django models on claimed tables: an integer version field, and writes without the claim are database errors."""
# pip install 'Django>=4.2' 'psycopg[binary]==3.*'
import json
import os
from contextlib import contextmanager
from decimal import Decimal

import django
from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, models, transaction

settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": os.environ["PGDATABASE"],
    "DISABLE_SERVER_SIDE_CURSORS": True,  # for pgbouncer
}})
django.setup()


class Versioned(models.Model):
    """save() sends the version that was read; rowclaim refuses it when the row has moved on, or counts it up."""

    def save(self, **options):
        if not self._state.adding:
            options["force_update"] = True  # a row that is gone is an error, not an INSERT
            if options.get("update_fields") is not None:
                options["update_fields"] = {*options["update_fields"], "version"}
        with transaction.atomic():  # nobody can write the row between the two
            super().save(**options)
            self.refresh_from_db(fields=["version"])

    class Meta:
        abstract = True


class Customer(Versioned):
    """Every transaction is a changeset."""
    name = models.TextField()
    visits = models.IntegerField(default=0)
    version = models.IntegerField(default=1)

    class Meta:
        app_label, db_table, managed = "shop", "customers", False


class Part(models.Model):
    """Must be claimed. No mixin: this is what Django's own save() does."""
    id = models.IntegerField(primary_key=True)
    name = models.TextField()
    price = models.DecimalField(max_digits=8, decimal_places=2)

    class Meta:
        app_label, db_table, managed = "shop", "parts", False


@contextmanager
def acting_as(actor):
    """A transaction for one user, for a middleware. set_config(..., true) is SET LOCAL with a parameter."""
    with transaction.atomic():
        query("SELECT set_config('rowclaim.actor', %s, true)", actor)
        yield


def query(sql, *params):
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()


def refusal(actor, write):
    """Runs a write that is refused: its SQLSTATE, and DETAIL, which is a JSON object."""
    try:
        with acting_as(actor):
            write()
    except OperationalError as error:
        return error.__cause__.sqlstate, json.loads(error.__cause__.diag.message_detail)
    raise AssertionError("not refused")


# Every way Django has to write a row that is there.
def change(**save_options):
    part = Part.objects.get(pk=1)
    part.price += 1
    part.save(**save_options)

other = {"name": "other", "price": Decimal(9)}
writes = {
    "save": change,
    "save(force_update)": lambda: change(force_update=True),
    "save(update_fields)": lambda: change(update_fields=["price"]),
    "save of a new object": lambda: Part(pk=1, **other).save(),
    "filter.update": lambda: Part.objects.filter(pk=1).update(price=models.F("price") + 1),
    "bulk_update": lambda: Part.objects.bulk_update([Part(pk=1, **other)], ["price"]),
    "bulk_create(update_conflicts)": lambda: Part.objects.bulk_create(
        [Part(pk=1, **other)], update_conflicts=True, unique_fields=["id"], update_fields=["price"]),
    "update_or_create": lambda: Part.objects.update_or_create(pk=1, defaults=other),
    "delete": lambda: Part.objects.get(pk=1).delete(),
    "filter.delete": lambda: Part.objects.filter(pk=1).delete(),
}
before = list(Part.objects.order_by("pk").values_list())
for name, write in writes.items():
    sqlstate, detail = refusal("bob", write)
    assert sqlstate == "55000", name
    assert detail == {"reason": "row_not_claimed", "table": "public.parts", "key": {"id": 1}}, name
with acting_as("alice"):
    assert query("SELECT status, owner FROM claim_row('parts', %s)", 1) == [("granted", "alice")]
    assert query("SELECT key ->> 'id', status FROM claim_rows('parts', %s)", [4, 1]) == [
        ("4", "granted"), ("1", "granted")]
    assert query("SELECT release_row('parts', %s)", "4") == [(True,)]
for name, write in writes.items():
    sqlstate, detail = refusal("bob", write)
    assert (sqlstate, detail["reason"], detail["owner"]) == ("55P03", "row_held", "alice"), name
assert list(Part.objects.order_by("pk").values_list()) == before
assert query("SELECT count(*) FROM rowclaim.drafts") == [(0,)]
print(len(writes), "ways to write a row: refused without a claim, refused while alice holds it, nothing changed")

# The holder's save() is an UPDATE. The row she deleted does not come back as somebody else's INSERT.
with acting_as("alice"):
    change()
assert Part.objects.get(pk=1).price == Decimal("1.25")
with acting_as("bob"):
    bobs = Part.objects.get(pk=1)
with acting_as("alice"):
    Part.objects.get(pk=1).delete()
assert refusal("bob", bobs.save)[1]["reason"] == "row_held"
assert not Part.objects.filter(pk=1).exists()
with acting_as("alice"):
    seq, = query("SELECT commit_changes('without bolts')")[0]
assert query("SELECT actor, op, key ->> 'id' FROM rowclaim.changes WHERE seq = %s", seq) == [("alice", "delete", "1")]
try:
    with acting_as("bob"):
        bobs.save(force_update=True)
    raise AssertionError("not refused")
except DatabaseError as error:
    print("the deleted row stays deleted:", error)
assert not Part.objects.filter(pk=1).exists()

# Optimistic, by hand: UPDATE ... WHERE version = what was read. Nothing updated: somebody was faster.
def rename(actor, customer, name):
    with acting_as(actor):
        return Customer.objects.filter(pk=customer.pk, version=customer.version).update(
            name=name, version=customer.version + 1)

alices, bobs = Customer.objects.get(pk=1), Customer.objects.get(pk=1)
assert rename("bob", bobs, "Miller & Sons") == 1
assert rename("alice", alices, "Mill") == 0
alices.refresh_from_db()
assert (alices.name, alices.version) == ("Miller & Sons", 2)
assert rename("alice", alices, "Mill") == 1
alices.refresh_from_db()
assert rename("alice", alices, "Mill") == 1  # the same name: the version that was written counts all the same
assert Customer.objects.get(pk=1).version == alices.version + 1
print("filter(version=1).update(): 1 row for bob, 0 for alice; after reading again 1")

# Optimistic, by save(): a stale version is a database error, also with update_fields.
alices, bobs = Customer.objects.get(pk=1), Customer.objects.get(pk=1)
for name in ("Miller Ltd", "Miller Inc"):
    bobs.name = name
    with acting_as("bob"):
        bobs.save()
assert bobs.version == 6
alices.name = "Mill"
for save in (alices.save, lambda: alices.save(update_fields=["name"])):
    sqlstate, detail = refusal("alice", save)
    assert (sqlstate, detail["reason"], detail["row_version"], detail["given"]) == ("40001", "stale_row_version", 6, 4)
print("save() of a stale object:", sqlstate, detail["reason"], detail["given"], "instead of", detail["row_version"])
with acting_as("bob"):
    bobs.save()  # without a change
    assert bobs.version == 6
    bobs.visits = 1  # an untracked column
    bobs.save(update_fields=["visits"])
    assert bobs.version == 6
    smith = Customer.objects.create(name="Smith")
    assert smith.version == 1
with acting_as("alice"):
    Customer.objects.get(pk=smith.pk).delete()
try:
    with acting_as("bob"):
        smith.save()
    raise AssertionError("not refused")
except DatabaseError as error:
    assert "did not affect any rows" in str(error)
assert not Customer.objects.filter(pk=smith.pk).exists()
history = query("""SELECT actor, op, new ->> 'name' FROM rowclaim.changes
                   WHERE target = 'public.customers' ORDER BY seq""")
assert history == [("bob", "update", "Miller & Sons"), ("alice", "update", "Mill"), ("bob", "update", "Miller Ltd"),
                   ("bob", "update", "Miller Inc"), ("bob", "insert", "Smith"), ("alice", "delete", None)], history
print("journal:", ", ".join(f"{actor} {op}" for actor, op, _ in history))
