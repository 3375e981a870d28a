# pg_dump | psql into a new database: everything is there, and work goes on where it was.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('dump');
$node->safe_psql('postgres', q{
	CREATE SCHEMA "odd schema";
	CREATE TABLE "odd schema"."Part" (id int PRIMARY KEY, v text);
	INSERT INTO "odd schema"."Part" SELECT i, 'old' FROM generate_series(1, 6) i;
	CREATE TABLE measure (id int, day date, v numeric, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
	-- A table made and dropped, so that OIDs and attribute numbers differ in the new database.
	CREATE TABLE gone (x int);
	CREATE TABLE measure_2026 PARTITION OF measure FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
	CREATE TABLE measure_rest PARTITION OF measure DEFAULT;
	DROP TABLE gone;
	ALTER TABLE measure ADD COLUMN gone int;
	ALTER TABLE measure DROP COLUMN gone;
	INSERT INTO measure SELECT i, date '2026-01-01' + i * 300, i FROM generate_series(1, 6) i;
	CREATE TABLE tally (id int PRIMARY KEY, n int, seen int);
	INSERT INTO tally VALUES (1, 0, 0);
	SELECT create_journal('side'), create_journal('strict', require_current => true);
	SELECT enable_claims('"odd schema"."Part"'), enable_claims('measure', claiming => 'auto', journal => 'side'),
		enable_claims('tally', claiming => 'auto', committing => 'transaction', untracked => '{seen}', owner_column => 'own', version_column => 'ver', draft_column => 'dra')});
my $as = sub { my ($db, $actor, $sql) = @_; (undef, my $out, my $error) = $node->psql($db, "SET rowclaim.actor = '$actor'; SET client_min_messages = error; $sql", on_error_stop => 1); join '', $out, $error };
my $alice = sub { $as->($_[0], 'alice', $_[1]) };
my $bob = sub { $as->($_[0], 'bob', $_[1]) };
$alice->('postgres', q{SELECT claim_rows('"odd schema"."Part"', ARRAY[1, 2, 3], ttl => '1 day', reason => 'price review')});
$alice->('postgres', q{UPDATE "odd schema"."Part" SET v = 'alice' WHERE id = 1; SELECT commit_changes('first')});
$alice->('postgres', q{UPDATE "odd schema"."Part" SET v = 'dirty' WHERE id = 2; DELETE FROM "odd schema"."Part" WHERE id = 3; INSERT INTO "odd schema"."Part" VALUES (7, 'new')});
$alice->('postgres', q{UPDATE measure SET v = v + 1 WHERE id = 1; DELETE FROM measure WHERE id = 2; DELETE FROM measure WHERE id = 5});
$bob->('postgres', q{UPDATE measure SET v = v + 1 WHERE id = 3; SELECT commit_changes(journal => 'side')});
$alice->('postgres', q{SELECT claim_row('"odd schema"."Part"', 4); UPDATE "odd schema"."Part" SET v = 'dirty' WHERE id = 4});
$bob->('postgres', q{SELECT steal_row('"odd schema"."Part"', 4); UPDATE tally SET n = n + 1});
# A commit that fails, so that numbers are ahead of the entries.
$bob->('postgres', q{BEGIN; UPDATE tally SET n = n + 1; UPDATE "odd schema"."Part" SET v = 'bob' WHERE id = 4; SELECT commit_changes(); ROLLBACK; UPDATE tally SET n = n + 1});
$bob->('postgres', q{SELECT * FROM pull_changes('replica'); SELECT ack_changes('replica', 1)});

# Everything, with tables by name.
my $state = q{
	SELECT 'journal_config', to_jsonb(t) AS state FROM rowclaim.journal_config t
	UNION ALL SELECT 'journal', to_jsonb(t) FROM rowclaim.journal t
	UNION ALL SELECT 'enabled_table', to_jsonb(t) - 'columns' FROM rowclaim.enabled_table t
	UNION ALL SELECT 'draft', to_jsonb(t) FROM rowclaim.draft t
	UNION ALL SELECT 'draft_row', to_jsonb(t) - 'leaf' FROM rowclaim.draft_row t
	UNION ALL SELECT 'claim', to_jsonb(t) FROM rowclaim.claim t
	UNION ALL SELECT 'stash', to_jsonb(t) FROM rowclaim.stash t
	UNION ALL SELECT 'consumer', to_jsonb(t) FROM rowclaim.consumer t
	UNION ALL SELECT 'part', to_jsonb(t) FROM "odd schema"."Part" t
	UNION ALL SELECT 'measure', to_jsonb(t) FROM measure t
	UNION ALL SELECT 'tally', to_jsonb(t) FROM tally t
	ORDER BY 1, 2};
my $before = $node->safe_psql('postgres', $state);
my $last_token = $node->safe_psql('postgres', 'SELECT max(token) FROM rowclaim.claim');

my $file = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr('postgres') ], 'pg_dump');
for my $db ('restored', 'again')
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $node->connstr($db) ], "$db: restored without an error");
	is($node->safe_psql($db, $state), $before, "$db: claims, drafts, tokens, journal, settings and rows are the same");
	$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr($db) ], "$db: can be dumped again");
}

for my $db ('postgres', 'again')
{
	is($bob->($db, q{SELECT status, owner FROM claim_row('"odd schema"."Part"', 2)}), 'denied|alice', "$db: alice still holds her row");
	is($bob->($db, qq{SELECT status, token > $last_token FROM claim_row('"odd schema"."Part"', 5)}), 'granted|t', "$db: a new token is larger");
	like($bob->($db, q{UPDATE "odd schema"."Part" SET v = 'bob' WHERE id = 2}), qr/is held by alice/, "$db: writes are still guarded");
	is($bob->($db, q{UPDATE tally SET n = n + 1; SELECT max(seq) FROM rowclaim.changesets WHERE journal = 'main'}), 5, "$db: the next number is the next");
	is($alice->($db, q{SELECT commit_changes('second')}), 6, "$db: the draft can be committed");
	is($alice->($db, q{SELECT op, key, old, new FROM rowclaim.changes WHERE seq = 6 ORDER BY change}),
		qq({"id":2}|{"v":"old"}|{"v":"dirty"}\n) =~ s/^/update|/r . qq(delete|{"id":3}|{"id":3,"v":"old"}|\ninsert|{"id":7}||{"id":7,"v":"new"}), "$db: as it was made");
	is($alice->($db, q{SELECT discard_changes('side')}), 3, "$db: the draft in another journal can be discarded");
	is($alice->($db, q{SELECT id, v, tableoid::regclass FROM measure ORDER BY id}),
		"1|1|measure_2026\n2|2|measure_rest\n3|4|measure_rest\n4|4|measure_rest\n5|5|measure_rest\n6|6|measure_rest", "$db: and the rows are back in their partitions");
	is($alice->($db, q{UPDATE measure SET v = 0 WHERE id = 1; SELECT commit_changes(journal => 'side')}), 2, "$db: the other journal goes on, too");
	is($alice->($db, q{SELECT claim_row('"odd schema"."Part"', 6); UPDATE "odd schema"."Part" SET v = 'x' WHERE id = 6; SELECT commit_changes()}) =~ s/.*\n//sr, 7, "$db: new drafts do not mix with old ones");
	is($node->safe_psql($db, q{SELECT create_journal('later'); SELECT name, id FROM rowclaim.journal_config ORDER BY id}),
		"\nmain|1\nside|2\nstrict|3\nlater|4", "$db: a new journal can be created");
	is($bob->($db, q{SELECT seq FROM pull_changes('replica')}), "2\n4\n5\n6\n7", "$db: the consumer goes on where it was");
	is($alice->($db, q{ALTER TABLE measure ADD COLUMN extra int; ALTER TABLE measure RENAME COLUMN v TO value; UPDATE measure SET value = 9, extra = 1 WHERE id = 1;
		SELECT commit_changes(journal => 'side'); SELECT new FROM rowclaim.changes WHERE journal = 'side' AND seq = 3}),
		qq(3\n{"value":9,"extra":1}), "$db: the table can be altered");
	is($node->safe_psql($db, q{SELECT count(*) FROM (SELECT verify_journal('main') UNION ALL SELECT verify_journal('side')) v}), 0, "$db: the journals are sound");
	is($alice->($db, q{SELECT release_rows() > 0}), 't', "$db: claims can be released");
	is($bob->($db, q{SELECT release_row('"odd schema"."Part"', 4)}), 't', "$db: the stolen row, too");
	is($alice->($db, q{SELECT claim_row('"odd schema"."Part"', 4); SELECT restore_stash(id) FROM rowclaim.stashes; SELECT v FROM "odd schema"."Part" WHERE id = 4}) =~ s/.*\n//sr,
		'dirty', "$db: the stash can be taken back");
}

$node->stop;
done_testing();
