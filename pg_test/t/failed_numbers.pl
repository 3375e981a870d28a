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

$_->quit for @committers, $reader, $idle;
$node->stop;
done_testing();
