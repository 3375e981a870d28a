# Three commits in flight end in every order and with every outcome; two readers poll all the time. Each sees every changeset
# exactly once, in order, and never waits for the idle transaction beside them.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('numbers');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO part SELECT i FROM generate_series(0, 3) i;
	SELECT enable_claims('part', claiming => 'auto')});
my @committers = map { session($node, "actor $_") } 0 .. 2;
my ($reader, $idle) = map { session($node, $_) } 'reader', 'idle';
$idle->query_safe('BEGIN; UPDATE part SET n = n + 1 WHERE id = 3; SELECT pg_current_xact_id()');

my (@pulled, @viewed);
my $position = 0;

sub poll
{
	my @seqs = split /\n/, $reader->query_safe('SELECT seq FROM pull_changes($$r$$)');
	$reader->query_safe("SELECT ack_changes('r', $seqs[-1])") if @seqs;
	push @pulled, @seqs;
	@seqs = split /\n/, $reader->query_safe("SELECT seq FROM rowclaim.changesets WHERE seq > $position ORDER BY seq");
	$position = $seqs[-1] if @seqs;
	push @viewed, @seqs;
	return;
}

my @orders = ([ 0, 1, 2 ], [ 0, 2, 1 ], [ 1, 0, 2 ], [ 1, 2, 0 ], [ 2, 0, 1 ], [ 2, 1, 0 ]);
my (@committed, $drawn);
for my $outcome (0 .. 7)
{
	for my $order (@orders)
	{
		my @seqs = map { $committers[$_]->query_safe("BEGIN; UPDATE part SET n = n + 1 WHERE id = $_; SELECT commit_changes()") } 0 .. 2;
		push @committed, map { $seqs[$_] } grep { $outcome & (1 << $_) } 0 .. 2;
		$drawn = $seqs[-1];
		for my $who (@$order)
		{
			$committers[$who]->query_safe($outcome & (1 << $who) ? 'COMMIT' : 'ROLLBACK');
			poll();
		}
	}
}
poll();

is("@pulled", "@committed", 'pull_changes() returns each changeset exactly once, in order');
is("@viewed", "@committed", 'so does rowclaim.changesets to a reader that asks for what is above the last it saw');
is($drawn, 144, 'every number was drawn once');
is($node->safe_psql('postgres', q{SELECT kind, count(*), min(seq) FROM rowclaim.journal GROUP BY kind ORDER BY kind}),
	"changeset|72|19\nvoid|72|1", 'and every one has an entry');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');
is($node->safe_psql('postgres', 'SELECT sum(n) FROM part'), 72, 'half of the changes were committed');

# Many failures share their workers: others still get theirs.
$committers[0]->query_safe('BEGIN; UPDATE part SET n = n + 1 WHERE id = 0; SELECT commit_changes(); ROLLBACK') for 1 .. 60;
my $plan = $node->safe_psql('postgres', q{
	CREATE TABLE big AS SELECT generate_series(1, 10000) AS i;
	SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 3;
	ALTER TABLE big SET (parallel_workers = 3);
	EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT count(*) FROM big});
like($plan, qr/Workers Launched: 3/, 'background workers are left after many failures');
# The last one is accounted for by the next commit.
$committers[0]->query_safe('UPDATE part SET n = n + 1 WHERE id = 0; SELECT commit_changes()');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'and each number is accounted for');

$_->quit for @committers, $reader, $idle;
$node->stop;

# More failed numbers than the server has locks for, and no background worker to account for them.
$node = new_node('many', 'max_locks_per_transaction = 10', 'max_connections = 5', 'max_prepared_transactions = 0', 'max_worker_processes = 0');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO part VALUES (1);
	SELECT enable_claims('part', claiming => 'auto');
	CREATE FUNCTION fail() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE part SET n = n + 1;
		PERFORM commit_changes();
		RAISE EXCEPTION 'undone';
	EXCEPTION WHEN raise_exception THEN
		RETURN;
	END $$});
my $locks = $node->safe_psql('postgres', q{SELECT current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int + 20)});
$node->safe_psql('postgres', "SELECT fail() FROM generate_series(1, 3 * $locks)");
is($node->safe_psql('postgres', 'UPDATE part SET n = n + 1; SELECT commit_changes()'), 3 * $locks + 1, 'a commit after them succeeds');
$node->safe_psql('postgres', 'SELECT count(*) FROM pull_changes($$r$$)') for 1 .. 3 * $locks / 100;
is($node->safe_psql('postgres', 'SELECT seq FROM pull_changes($$r$$)'), 3 * $locks + 1, 'and readers come to see it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');
$node->stop;

# Sessions share how far the journal is complete, but not what may still be undone.
$node = new_node('shared');
my $make = q{
	CREATE TABLE part (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO part SELECT i FROM generate_series(1, 3) i;
	SELECT enable_claims('part', claiming => 'auto')};
$node->safe_psql('postgres', $make);
my ($one, $two) = map { session($node, "actor $_") } 1, 2;
sub change { my ($id) = @_; return "UPDATE part SET n = n + 1 WHERE id = $id; SELECT commit_changes()" }
sub journal
{
	return $node->safe_psql('postgres', q{SELECT string_agg(seq || ' ' || kind, ', ' ORDER BY seq) FROM rowclaim.journal});
}

is($one->query_safe(change(1)) . $two->query_safe(change(2)), '12', 'two sessions commit');
is($one->query_safe('BEGIN; ' . change(1) . '; ' . change(1)), "3\n4", 'one commits twice in a transaction');
is($two->query_safe(change(2)), 5, 'another after it');
$one->query_safe('ROLLBACK');
is($two->query_safe(change(2)), 6, 'and again once that was rolled back');
is(journal(), '1 changeset, 2 changeset, 3 void, 4 void, 5 changeset, 6 changeset', 'which has accounted for both numbers');
is($one->query_safe('BEGIN; ' . change(1) . '; SAVEPOINT s; ' . change(1) . '; ROLLBACK TO s; COMMIT; ' . change(1)), "7\n8\n9",
	'one commits, undoes another commit, and commits again');
is($two->query_safe(change(2)), 10, 'another after it');
is(journal() =~ s/.*(?=7)//r, '7 changeset, 8 void, 9 changeset, 10 changeset', 'and the one undone is accounted for');
is($two->query_safe('BEGIN; ' . change(2)), 11, 'a number in flight');
is($one->query_safe('BEGIN; ' . change(1)), 12, 'does not delay another one');
$two->query_safe('COMMIT');
is($one->query_safe(change(1)), 13, 'which goes on when the first is there');
$one->query_safe('ROLLBACK');
is($two->query_safe(change(2)), 14, 'but is undone');
is(journal() =~ s/.*(?=11)//r, '11 changeset, 12 void, 13 void, 14 changeset', 'and accounted for');

# What is removed by hand, as before another dump is restored, is only missed by a session that has seen nothing yet.
$node->safe_psql('postgres', 'DELETE FROM rowclaim.journal WHERE seq = 5');
is($node->safe_psql('postgres', 'SET rowclaim.actor = $$actor 3$$; ' . change(3)), 15, 'a new session commits');
is($two->query_safe(change(2)), 16, 'and one that was there');
is($node->safe_psql('postgres', 'SELECT kind FROM rowclaim.journal WHERE seq = 5'), 'void', 'and the entry was missed');

# A new installation has new journals.
$node->safe_psql('postgres', "DROP EXTENSION rowclaim CASCADE; DROP TABLE part; CREATE EXTENSION rowclaim; $make");
is($one->query_safe('BEGIN; ' . change(1)), 1, 'the numbers of a new installation');
$one->query_safe('ROLLBACK');
is($two->query_safe(change(2)), 2, 'begin again');
is(journal(), '1 void, 2 changeset', 'and are accounted for');
$_->quit for $one, $two;
$node->stop;
done_testing();
