# pgbench's own script on enabled tables (auto, transaction): no update is lost, and the journal replays to the same tables.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('tpcb');
my @tables = qw(pgbench_accounts pgbench_branches pgbench_tellers pgbench_history);
$node->command_ok([ 'pgbench', '-i', '-q', '-s', 1, 'postgres' ], 'pgbench -i');
isnt($node->psql('postgres', q{SELECT enable_claims('pgbench_history')}), 0, 'pgbench_history has no primary key');
$node->safe_psql('postgres', join ';', 'ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY', 'CREATE SCHEMA copy',
	(map { "CREATE TABLE copy.$_ (LIKE $_ INCLUDING ALL); INSERT INTO copy.$_ TABLE $_" } @tables),
	(map { "SELECT enable_claims('$_', claiming => 'auto', committing => 'transaction')" } @tables));

# As one actor, then as eight.
finish_pgbench(start_pgbench($node, {}, '-b', 'tpcb-like', '-c', 8, '-j', 2, '-t', 60), 'one actor');
finish_pgbench(start_pgbench($node, { actors => q{
	\set aid random(1, 20)
	\set tid random(1, 3)
	\set delta random(-5000, 5000)
	BEGIN;
	SET LOCAL rowclaim.actor = 'actor :client_id';
	UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
	UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
	UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
	INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, :delta, clock_timestamp());
	END;
} }, '-c', 8, '-j', 2, '-t', 60), 'eight actors');

is($node->safe_psql('postgres', q{
	SELECT count(DISTINCT s), (SELECT count(*) FROM pgbench_history) FROM (
		SELECT sum(abalance) FROM pgbench_accounts UNION ALL SELECT sum(bbalance) FROM pgbench_branches
		UNION ALL SELECT sum(tbalance) FROM pgbench_tellers UNION ALL SELECT sum(delta) FROM pgbench_history) AS sums (s)}),
	'1|960', 'no update is lost');
is($node->safe_psql('postgres', 'SELECT count(*), max(seq) FROM rowclaim.changesets'), '960|960', 'each transaction is a changeset');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT actor) FROM rowclaim.changesets'), 9, 'of its actor');
# A transaction with delta 0 changes fewer rows.
like(replay($node, 'copy'), qr/^38[0-4][0-9]$/, 'the journal can be replayed');
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT row_to_json(c) AS c FROM copy.$_ c) c
	FULL JOIN (SELECT (to_jsonb(t) - '{row_owner,row_version,row_draft}'::text[]) AS t FROM $_ t) t ON c.c::jsonb = t.t WHERE c IS NULL OR t IS NULL"),
	0, "$_ is reproduced") for @tables;
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'no deadlock');

$node->stop;
done_testing();
