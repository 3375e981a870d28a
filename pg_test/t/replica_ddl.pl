# Tables altered on the hub first or on the replica first: replay goes on, or stops with an error that names the column and what
# to do, and goes on by itself when that is done. Nothing is dropped silently.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;
use Replica;

my ($hub, $replica) = new_pair();
my $ddl = 'CREATE TABLE part (id int PRIMARY KEY, v text, n int)';
$hub->safe_psql('postgres', "$ddl; SELECT enable_claims('part', claiming => 'auto')");
$replica->safe_psql('postgres', $ddl);
subscribe($hub, $replica);

my $table = 'part';
sub hub { my ($sql) = @_; $hub->safe_psql('postgres', $sql); return }
sub replica { my ($sql) = @_; $replica->safe_psql('postgres', $sql); return }
sub commit { my ($sql) = @_; my $seq = act($hub, 'alice', "$sql; SELECT commit_changes()"); die "$sql: $seq" if $seq !~ /^\d+$/; return $seq }
sub same { my ($name, %options) = @_; wait_applied($hub, $replica); same_rows($hub, $replica, $table, %options, name => "$name: the same rows"); return }

# The changeset cannot be applied: what the log and rowclaim.replay say.
my $offset = 0;
sub stops
{
	my ($name, $sql, $what, $detail, $hint, %options) = @_;
	$offset = -s $replica->logfile;
	my $seq = commit($sql);
	my ($target, $key, $failure) = split /\|/, wait_failing($replica, $seq), 3;
	my ($state, $message) = ($options{state} // '55000', $options{message} // "changeset $seq of journal main does not fit " . ($detail->{key} ? 'row ' : 'table ') . "$detail->{table}" . ($detail->{key} ? " $detail->{key}" : '') . ": $what");
	is($failure, $message, "$name: rowclaim.replay says what is wrong");
	is("$target $key", "$detail->{table} " . ($options{key} // $detail->{key}), "$name: and where");
	my @errors = log_errors($replica, $offset, 1);
	my $column = $detail->{column} ? "\"$detail->{column}\"" : 'null';
	my $json = $detail->{key} =~ s/ //gr || 'null';
	my $values = join '', map { exists $detail->{$_} ? ",\"$_\":$detail->{$_}" : '' } 'expected', 'found';
	is($options{state} ? $errors[0] =~ s/\n.*//sr : $errors[0], "$state $message" . ($options{state} ? '' : "\nDETAIL:  {\"reason\":\"replay_diverged\",\"journal\":\"main\",\"seq\":$seq,\"table\":" . quoted($detail->{table}) . ",\"key\":$json,\"column\":$column$values}\nHINT:  $hint"),
		"$name: the log says so, too");
	is(scalar(@errors), 1, "$name: and nothing else") or diag join "\n", @errors;
	return $seq;
}
sub quoted { my ($s) = @_; $s =~ s/(["\\])/\\$1/g; return "\"$s\"" }
sub goes_on { my ($name, $sql, %options) = @_; replica($sql); same("$name, repaired", %options); return }
my $add = sub { "Add or rename the column so that $_[0] exists, or set rowclaim.replay_missing = skip to leave its values out." };

commit(q{INSERT INTO part SELECT i, 'part ' || i, i FROM generate_series(1, 20) i});
same('before');

# ADD COLUMN -------------------------------------------------------------------------------------

hub('ALTER TABLE part ADD color text');
commit(q{UPDATE part SET n = n + 1 WHERE id < 5; DELETE FROM part WHERE id = 20});
same('added on the hub, changes of other columns', columns => 'id, v, n');
stops('added on the hub, an update', q{UPDATE part SET color = 'red' WHERE id = 1}, 'there is no column color here', { table => 'public.part', key => '{"id": 1}', column => 'color' }, $add->('color'));
goes_on('added on the hub, an update', 'ALTER TABLE part ADD color text');
hub('ALTER TABLE part ADD size int DEFAULT 5');
stops('added on the hub, an insert', q{INSERT INTO part (id) VALUES (21)}, 'there is no column size here', { table => 'public.part', key => '{"id": 21}', column => 'size' }, $add->('size'));
goes_on('added on the hub, an insert', 'ALTER TABLE part ADD size int DEFAULT 5');
replica('ALTER TABLE part ADD mine text, ADD yours int NOT NULL DEFAULT 3');
commit(q{UPDATE part SET n = 0 WHERE id = 2; INSERT INTO part (id) VALUES (22)});
same('added on the replica');
replica('ALTER TABLE part ADD must int; UPDATE part SET must = 1; ALTER TABLE part ALTER must SET NOT NULL');
commit(q{UPDATE part SET n = 0 WHERE id = 3; DELETE FROM part WHERE id = 22});
same('added on the replica without a default, other changes than inserts');
stops('added on the replica without a default', q{INSERT INTO part (id) VALUES (23)}, 'column must must have a value here and the journal has none',
	{ table => 'public.part', key => '{"id": 23}', column => 'must' }, 'Give column must a default, allow NULL in it, or drop it.');
goes_on('added on the replica without a default', 'ALTER TABLE part ALTER must SET DEFAULT 2');
is($replica->safe_psql('postgres', 'SELECT must FROM part WHERE id = 23'), 2, 'the default is taken');
# On both, the replica first, with changes in between.
replica('ALTER TABLE part ADD weight numeric');
commit(q{UPDATE part SET n = 1 WHERE id = 4});
hub('ALTER TABLE part ADD weight numeric');
commit(q{UPDATE part SET weight = 1.50 WHERE id = 4});
same('added on the replica, then on the hub');

# While a transaction adds the column on the replica, replay waits for it.
my $altering = session($replica, 'dba');
$altering->query_safe('BEGIN; ALTER TABLE part ADD late text');
hub('ALTER TABLE part ADD late text');
my $waiting = commit(q{UPDATE part SET late = 'x' WHERE id = 5});
$replica->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND l.relation = 'part'::regclass AND a.backend_type ~ '^logical replication (apply )?worker$'}) or die;
$altering->query_safe('COMMIT');
$altering->quit;
same('added by a transaction in progress');
is($replica->safe_psql('postgres', "SELECT count(*) FROM rowclaim.replay_failure WHERE seq = $waiting"), 0, 'without an error in between');

# DROP COLUMN ------------------------------------------------------------------------------------

hub('ALTER TABLE part DROP color');
commit(q{INSERT INTO part (id, v) VALUES (24, 'no color'); UPDATE part SET v = 'changed' WHERE id = 1; DELETE FROM part WHERE id = 23});
same('dropped on the hub');
is($replica->safe_psql('postgres', 'SELECT id, color FROM part WHERE id IN (1, 24) ORDER BY id'), "1|red\n24|", 'the replica keeps what it has');
replica(q{UPDATE part SET color = '' WHERE color IS NULL; ALTER TABLE part ALTER color SET NOT NULL});
stops('dropped on the hub, NOT NULL on the replica', q{INSERT INTO part (id) VALUES (25)}, 'column color must have a value here and the journal has none',
	{ table => 'public.part', key => '{"id": 25}', column => 'color' }, 'Give column color a default, allow NULL in it, or drop it.');
goes_on('dropped on the hub, NOT NULL on the replica', 'ALTER TABLE part DROP color');
replica('ALTER TABLE part DROP size');
commit(q{UPDATE part SET n = 7 WHERE id = 6; DELETE FROM part WHERE id = 25});
same('dropped on the replica, changes of other columns', columns => 'id, v, n');
stops('dropped on the replica', q{UPDATE part SET n = 8, size = 9 WHERE id = 6}, 'there is no column size here', { table => 'public.part', key => '{"id": 6}', column => 'size' }, $add->('size'));
hub('ALTER TABLE part DROP size');
commit(q{UPDATE part SET n = 9 WHERE id = 6});
is($replica->safe_psql('postgres', 'SELECT n FROM part WHERE id = 6'), 7, 'dropped on the replica: what comes later waits');
goes_on('dropped on the replica', 'ALTER TABLE part ADD size int DEFAULT 5');
replica('ALTER TABLE part DROP size');
commit(q{INSERT INTO part (id) VALUES (26)});
same('dropped on both');

# RENAME -----------------------------------------------------------------------------------------

hub('ALTER TABLE part RENAME v TO value');
commit(q{UPDATE part SET n = 1 WHERE id = 7});
stops('renamed on the hub', q{UPDATE part SET value = 'renamed' WHERE id = 7}, 'there is no column value here', { table => 'public.part', key => '{"id": 7}', column => 'value' }, $add->('value'));
goes_on('renamed on the hub', 'ALTER TABLE part RENAME v TO value');
replica('ALTER TABLE part RENAME value TO text');
stops('renamed on the replica', q{INSERT INTO part (id, value) VALUES (27, 'x')}, 'there is no column value here', { table => 'public.part', key => '{"id": 27}', column => 'value' }, $add->('value'));
goes_on('renamed on the replica', 'ALTER TABLE part RENAME text TO value');
hub('ALTER TABLE part RENAME id TO number');
stops('a key renamed on the hub', q{DELETE FROM part WHERE number = 27}, 'there is no column number here', { table => 'public.part', key => '{"number": 27}', column => 'number' }, $add->('number'));
goes_on('a key renamed on the hub', 'ALTER TABLE part RENAME id TO number');
replica('ALTER TABLE part RENAME number TO id');
stops('a key renamed on the replica', q{INSERT INTO part (number) VALUES (28)}, 'there is no column number here', { table => 'public.part', key => '{"number": 28}', column => 'number' }, $add->('number'));
goes_on('a key renamed on the replica', 'ALTER TABLE part RENAME id TO number');
# Two columns exchange their names: the values tell.
hub('ALTER TABLE part ADD m int DEFAULT 100');
replica('ALTER TABLE part ADD m int DEFAULT 100');
hub('ALTER TABLE part RENAME n TO x; ALTER TABLE part RENAME m TO n; ALTER TABLE part RENAME x TO m');
stops('names exchanged on the hub', q{UPDATE part SET n = n + 1 WHERE number = 8}, 'column n is 8 here, not 100', { table => 'public.part', key => '{"number": 8}', column => 'n', expected => 100, found => 8 },
	'Repair the row; replay goes on by itself. rowclaim.replay_mismatch = overwrite takes the journal\'s word.');
goes_on('names exchanged on the hub', 'ALTER TABLE part RENAME n TO x; ALTER TABLE part RENAME m TO n; ALTER TABLE part RENAME x TO m');

# What else the replica's table may be -----------------------------------------------------------

hub('ALTER TABLE part ADD g int');
replica('ALTER TABLE part ADD g int GENERATED ALWAYS AS (NULL::int) STORED');
stops('generated on the replica', q{UPDATE part SET g = 18 WHERE number = 9}, 'column g is generated here', { table => 'public.part', key => '{"number": 9}', column => 'g' }, 'Drop the expression of column g, or generate the column at the source too.');
goes_on('generated on the replica', 'ALTER TABLE part ALTER g DROP EXPRESSION');
replica('ALTER TABLE part ADD CONSTRAINT small CHECK (n < 1000)');
stops('a CHECK of the replica', q{UPDATE part SET n = 2000 WHERE number = 9}, '', { table => 'public.part', key => '{"number": 9}' }, '', state => '23514', message => 'new row for relation "part" violates check constraint "small"');
goes_on('a CHECK of the replica', 'ALTER TABLE part DROP CONSTRAINT small');
replica(q{UPDATE part SET value = '' WHERE value IS NULL; ALTER TABLE part ALTER value SET NOT NULL; UPDATE part SET value = NULL WHERE false});
stops('NOT NULL on the replica', q{UPDATE part SET value = NULL WHERE number = 9}, '', { table => 'public.part', key => '{"number": 9}' }, '', state => '23502', message => 'null value in column "value" of relation "part" violates not-null constraint');
goes_on('NOT NULL on the replica', q{ALTER TABLE part ALTER value DROP NOT NULL; UPDATE part SET value = NULL WHERE value = ''});
hub('ALTER TABLE part ALTER n TYPE bigint');
stops('a wider type on the hub', q{UPDATE part SET n = 3000000000 WHERE number = 9}, '', { table => 'public.part', key => '{"number": 9}' }, '', state => '22003', message => 'value "3000000000" is out of range for type integer');
goes_on('a wider type on the hub', 'ALTER TABLE part ALTER n TYPE bigint');
# The key of the replica's table goes and comes back as another.
replica('ALTER TABLE part DROP CONSTRAINT part_pkey');
commit(q{UPDATE part SET number = number + 100 WHERE number IN (10, 11); DELETE FROM part WHERE number = 12});
same('without a key on the replica');
replica('ALTER TABLE part ADD serial bigserial PRIMARY KEY; CREATE INDEX ON part (number)');
commit(q{UPDATE part SET number = number - 100, n = 5 WHERE number IN (110, 111)});
same('with another key on the replica');
replica('ALTER TABLE part DROP serial; ALTER TABLE part ADD PRIMARY KEY (number)');

# Tables -----------------------------------------------------------------------------------------

my $missing = 'Create the table, or set rowclaim.replay_missing = skip to leave its changes out.';
hub(q{CREATE SCHEMA "new one"; CREATE TABLE "new one"."T ""1""" (id int PRIMARY KEY, v text); SELECT enable_claims('"new one"."T ""1"""', claiming => 'auto')});
stops('a table that is not there', q{INSERT INTO "new one"."T ""1""" VALUES (1, 'x'); UPDATE part SET n = 6 WHERE number = 10}, 'there is no such table here', { table => '"new one"."T ""1"""', key => '' }, $missing, key => '{"id": 1}');
goes_on('a table that is not there', q{CREATE SCHEMA "new one"; CREATE TABLE "new one"."T ""1""" (id int PRIMARY KEY, v text)});
$table = '"new one"."T ""1"""';
same('a table that is not there');
hub(q{ALTER TABLE "new one"."T ""1""" RENAME TO t2});
$table = '"new one".t2';
stops('a table renamed on the hub', q{UPDATE "new one".t2 SET v = 'y'}, 'there is no such table here', { table => '"new one".t2', key => '' }, $missing, key => '{"id": 1}');
goes_on('a table renamed on the hub', q{ALTER TABLE "new one"."T ""1""" RENAME TO t2});
replica(q{ALTER TABLE "new one".t2 RENAME TO t3});
stops('a table renamed on the replica', q{INSERT INTO "new one".t2 VALUES (2, 'z')}, 'there is no such table here', { table => '"new one".t2', key => '' }, $missing, key => '{"id": 2}');
goes_on('a table renamed on the replica', q{ALTER TABLE "new one".t3 RENAME TO t2});
hub('ALTER SCHEMA "new one" RENAME TO other; ALTER TABLE other.t2 SET SCHEMA public');
$table = 'public.t2';
stops('a table in another schema', q{DELETE FROM t2 WHERE id = 2}, 'there is no such table here', { table => 'public.t2', key => '' }, $missing, key => '{"id": 2}');
replica('CREATE VIEW t2 AS TABLE "new one".t2');
$replica->poll_query_until('postgres', q{SELECT failure LIKE '%: it is not a table' FROM rowclaim.replay}) or die;
pass('a view of that name is not it');
goes_on('a table in another schema', 'DROP VIEW t2; ALTER TABLE "new one".t2 SET SCHEMA public');
replica('DROP TABLE t2; CREATE TABLE t2 (v text, id int) PARTITION BY RANGE (id); CREATE TABLE t2_1 PARTITION OF t2 FOR VALUES FROM (0) TO (10)');
replica(q{INSERT INTO t2 (id, v) VALUES (1, 'y')});
stops('no partition for a row', q{INSERT INTO t2 VALUES (100, 'far')}, '', { table => 'public.t2', key => '{"id": 100}' }, '', state => '23514', message => 'no partition of relation "t2" found for row');
goes_on('no partition for a row', 'CREATE TABLE t2_2 PARTITION OF t2 FOR VALUES FROM (10) TO (1000)');
commit(q{UPDATE t2 SET id = 101 WHERE id = 1; UPDATE t2 SET id = 1 WHERE id = 100});
same('after a partition was added');

# replay_missing = skip --------------------------------------------------------------------------

my $skipped = $replica->safe_psql('postgres', 'SELECT skipped FROM rowclaim.replay');
is($skipped, 0, 'nothing was skipped so far');
hub(q{CREATE TABLE gone (id int PRIMARY KEY); SELECT enable_claims('gone', claiming => 'auto'); ALTER TABLE t2 ADD extra int, ADD more int});
my $seq = commit(q{INSERT INTO gone SELECT generate_series(1, 3); UPDATE t2 SET v = 'kept', extra = 1, more = 1 WHERE id = 1; INSERT INTO t2 (id, v, extra) VALUES (5, 'five', 5)});
wait_failing($replica, $seq);
# The worker that fails starts again and again, so it reads the setting without further ado.
replica(q{ALTER DATABASE postgres SET rowclaim.replay_missing = skip});
same('skipping', columns => 'id, v');
is($replica->safe_psql('postgres', 'SELECT skipped FROM rowclaim.replay'), 7, 'three rows and four values were skipped, and counted');
is($replica->safe_psql('postgres', 'SELECT failing_seq, failure FROM rowclaim.replay'), '|', 'nothing fails any more');
commit(q{UPDATE t2 SET v = 'again', extra = 2 WHERE id = 1; UPDATE gone SET id = 4 WHERE id = 1; DELETE FROM gone WHERE id = 2});
same('skipping on', columns => 'id, v');
is($replica->safe_psql('postgres', 'SELECT skipped, overwritten FROM rowclaim.replay'), '10|0', 'they are counted');
# What exists is not skipped, and what does not fit is an error still.
replica('CREATE TABLE gone (id int PRIMARY KEY)');
stops('a table that appears', q{INSERT INTO gone VALUES (9); DELETE FROM gone WHERE id = 3}, 'the row is not there', { table => 'public.gone', key => '{"id": 3}', column => '' }, 'Repair the row; replay goes on by itself. rowclaim.replay_mismatch = overwrite takes the journal\'s word.');
replica('INSERT INTO gone VALUES (3), (4)');
$table = 'gone';
same('a table that appears, repaired');
replica('ALTER DATABASE postgres RESET rowclaim.replay_missing');
$replica->restart;
stops('not skipping any more', q{UPDATE t2 SET extra = 3 WHERE id = 1}, 'there is no column extra here', { table => 'public.t2', key => '{"id": 1}', column => 'extra' }, $add->('extra'));
replica('ALTER TABLE t2 ADD extra int');
$replica->poll_query_until('postgres', q{SELECT failure LIKE '%: column extra is null here, not 2' FROM rowclaim.replay}) or die;
pass('what was skipped is missed');
$table = 't2';
goes_on('not skipping any more', 'UPDATE t2 SET extra = 2 WHERE id = 1', columns => 'id, v');
is($replica->safe_psql('postgres', 'SELECT skipped, overwritten FROM rowclaim.replay'), '10|0', 'nothing more was skipped');
is($hub->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}) . $replica->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), '00', 'both journals are sound');

$_->stop for $hub, $replica;
done_testing();
