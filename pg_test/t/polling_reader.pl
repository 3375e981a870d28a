# Readers that poll while many actors commit and roll back, in both modes: each entry once, in order, nothing appears later below.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('reader');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO part SELECT i FROM generate_series(0, 79) i;
	CREATE TABLE tally (LIKE part INCLUDING ALL);
	INSERT INTO tally SELECT * FROM part;
	SELECT enable_claims('part', claiming => 'auto'), enable_claims('tally', claiming => 'auto', committing => 'transaction')});

my $bench = start_pgbench($node, { edit => q{
	SET rowclaim.actor = 'actor :client_id';
	\set row 10 * :client_id + random(0, 9)
	\set tally random(0, 79)
	\set end random(1, 4)
	BEGIN;
	UPDATE part SET n = n + 1 WHERE id = :row;
	SELECT commit_changes();
	\if :end = 1
	ROLLBACK;
	\elif :end = 2
	SAVEPOINT a;
	UPDATE part SET n = n + 1 WHERE id = :row;
	SELECT commit_changes();
	ROLLBACK TO a;
	COMMIT;
	\elif :end = 3
	UPDATE tally SET n = n + 1 WHERE id = :tally;
	COMMIT;
	\else
	COMMIT;
	\endif
} }, '-c', 8, '-j', 2, '-t', 100);

my ($puller, $viewer, $idle) = map { session($node, $_) } 'puller', 'viewer', 'idle';
$idle->query_safe('BEGIN; SELECT pg_current_xact_id(), count(*) FROM part');
my (@pulled, @viewed);
my ($position, $polls) = (0, 0);
while (1)
{
	my $running = $bench->{run}->pumpable;
	$bench->{run}->pump_nb if $running;
	my @seqs = split /\n/, $puller->query_safe(q{SELECT seq FROM pull_changes('r', max_changesets => 7)});
	$puller->query_safe("SELECT ack_changes('r', $seqs[-1])") if @seqs;
	push @pulled, @seqs;
	# One row per change: here each changeset has one.
	my @changes = split /\n/, $viewer->query_safe("SELECT seq FROM rowclaim.changes WHERE seq > $position ORDER BY seq");
	$position = $changes[-1] if @changes;
	push @viewed, @changes;
	$polls++;
	last if !$running && !@seqs && !@changes;
}
finish_pgbench($bench, 'eight actors');

my $committed = join ' ', split /\n/, $node->safe_psql('postgres', q{SELECT seq FROM rowclaim.journal WHERE kind = 'changeset' ORDER BY seq});
is("@pulled", $committed, 'pull_changes() returned each changeset exactly once, in order');
is("@viewed", $committed, 'so did rowclaim.changes');
cmp_ok($polls, '>', 5, 'while they were being committed');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM rowclaim.journal WHERE kind = 'void'}), '>', 20, 'among failed commits');
is($node->safe_psql('postgres', q{SELECT max(seq) - rowclaim.stable_seq('main') FROM rowclaim.journal}), 0, 'nothing is left in doubt');
is($node->safe_psql('postgres', 'SELECT (SELECT sum(n) FROM part) + (SELECT sum(n) FROM tally) - (SELECT count(*) FROM rowclaim.changesets)'),
	0, 'what is in the tables is in the journal');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');
no_lock_trouble($node);

$_->quit for $puller, $viewer, $idle;
$node->stop;
done_testing();
