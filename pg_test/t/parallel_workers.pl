# Eight workers under one role, each editing and committing its own rows in one transaction, do not meet.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('workers');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, worker int, n int NOT NULL DEFAULT 0);
	INSERT INTO part SELECT i, i / 10 FROM generate_series(0, 79) i;
	CREATE TABLE tally (LIKE part INCLUDING ALL);
	INSERT INTO tally SELECT * FROM part;
	CREATE SCHEMA copy;
	CREATE TABLE copy.part AS TABLE part;
	CREATE TABLE copy.tally AS TABLE tally;
	SELECT enable_claims('part');
	SELECT enable_claims('tally', claiming => 'auto', committing => 'transaction')});

# Everybody has committed a changeset in a transaction that stays open: nobody waited.
my @workers = map { session($node, 'crew') } 1 .. 8;
my $worker = 0;
for my $session (@workers)
{
	my $row = 10 * $worker++;
	my $seq = $session->query_safe(qq{
		SET lock_timeout = '5s';
		BEGIN;
		UPDATE tally SET n = n + 1 WHERE id = $row;
		DO \$\$ BEGIN PERFORM claim_row('part', $row); END \$\$;
		UPDATE part SET n = n + 1 WHERE id = $row;
		SELECT commit_changes()});
	is($seq, $worker, "worker $worker draws number $worker while the others are in their transactions");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM rowclaim.changesets'), 0, 'none is visible yet');
$_->query_safe('COMMIT') for reverse @workers;
$workers[0]->query_safe('SELECT release_rows()');
is($node->safe_psql('postgres', 'SELECT count(*), max(seq) FROM rowclaim.changesets'), '16|16', 'all are visible in the end');
$_->quit for @workers;

# Many times, as fast as they can.
finish_pgbench(start_pgbench($node, { work => q{
	\set first 10 * :client_id
	\set row random(:first, :first + 9)
	\set other random(:first, :first + 9)
	BEGIN;
	SELECT status FROM claim_row('part', :row);
	UPDATE part SET n = n + 1 WHERE id = :row;
	UPDATE tally SET n = n + 1 WHERE id = :other;
	SELECT commit_changes();
	SELECT release_row('part', :row);
	COMMIT;
} }, '-c', 8, '-j', 2, '-t', 100), 'eight workers');

is($node->safe_psql('postgres', 'SELECT (SELECT sum(n) FROM part), (SELECT sum(n) FROM tally)'), '808|808', 'nothing is lost');
is($node->safe_psql('postgres', q{SELECT kind, count(*) FROM rowclaim.journal GROUP BY kind ORDER BY kind}), "changeset|1616\nseal|1",
	'one changeset for each commit');
is($node->safe_psql('postgres', q{SELECT rowclaim.stable_seq('main')}), 1617, 'without a gap');
is($node->safe_psql('postgres', q{SELECT count(*) FROM rowclaim.changes WHERE seq IN (SELECT seq FROM rowclaim.changes GROUP BY seq HAVING count(*) > 1)}),
	0, 'nobody committed the change of another worker');
is($node->safe_psql('postgres', 'SELECT count(*) FROM rowclaim.drafts'), 0, 'nothing is left dirty');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');
is(replay($node, 'copy'), 1616, 'it can be replayed');
is($node->safe_psql('postgres', 'SELECT count(*) FROM part FULL JOIN copy.part c USING (id, worker, n) WHERE c IS NULL OR part IS NULL'),
	0, 'and reproduces the table');
no_lock_trouble($node);

$node->stop;
done_testing();
