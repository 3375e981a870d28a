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
done_testing();
