# What is heard on the channel rowclaim with rowclaim.notify = commits: every changeset once it is committed, exactly once, from a
# background worker that comes and goes; where there is none to be had, as part of the commit.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('announcements');
$node->safe_psql('postgres', q{
	SELECT create_journal('other "journal"');
	CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO t SELECT i FROM generate_series(1, 100) i;
	CREATE TABLE x (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO x SELECT i FROM generate_series(1, 100) i;
	CREATE TABLE o (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO o SELECT i FROM generate_series(1, 100) i;
	SELECT enable_claims('t', claiming => 'auto');
	SELECT enable_claims('x', claiming => 'auto', committing => 'transaction');
	SELECT enable_claims('o', claiming => 'auto', committing => 'transaction', journal => 'other "journal"')});

# A session that listens, and what it has heard: [payload, process id].
sub listener
{
	my $session = session($node, 'listener');
	$session->query_safe('LISTEN rowclaim');
	return { session => $session, heard => [] };
}

sub hear
{
	my ($listener) = @_;
	my $text = $listener->{session}->query_safe('SELECT 1');
	push @{ $listener->{heard} }, [ $1, $2 ]
		while $text =~ /^Asynchronous notification "rowclaim" with payload "(.*)" received from server process with PID (\d+)\.$/mg;
	return;
}

# The next $count payloads, and those that are there already.
sub payloads
{
	my ($listener, $count) = @_;
	my $end = time + 3 * $PostgreSQL::Test::Utils::timeout_default;
	hear($listener) until @{ $listener->{heard} } >= $count || time > $end;
	my @payloads = map { $_->[0] } @{ $listener->{heard} };
	$listener->{heard} = [];
	return join("\n", @payloads);
}

sub event
{
	my ($seq, $actor, $journal) = @_;
	return sprintf '{"event":"commit","journal":"%s","seq":%d,"actor":"%s"}', $journal // 'main', $seq, $actor;
}

my $worker = q{FROM pg_stat_activity WHERE backend_type = 'rowclaim announcer'};
my $listener = listener();
my ($ann, $bob) = map { session($node, $_) } 'ann', 'bob';

# What comes after is heard after: nothing else was announced before.
$ann->query_safe('UPDATE t SET n = n + 1 WHERE id = 1');
$ann->query_safe('SELECT commit_changes()');
is(payloads($listener, 1), event(1, 'ann'), 'commit_changes() is announced');
$ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1');
is(payloads($listener, 1), event(2, 'ann'), 'a transaction of its own, too');
$ann->query_safe('BEGIN; UPDATE x SET n = n + 1 WHERE id = 1; UPDATE t SET n = n + 1 WHERE id = 1; SELECT commit_changes(); ROLLBACK');
$ann->query_safe('BEGIN; UPDATE t SET n = n + 1 WHERE id = 1; SAVEPOINT a; SELECT commit_changes(); ROLLBACK TO a; COMMIT');
$ann->query_safe('SET rowclaim.notify = off; UPDATE x SET n = n + 1 WHERE id = 2; RESET rowclaim.notify');
$ann->query_safe(q{SELECT status FROM claim_row('t', 2); SELECT release_row('t', 2)});
my $seq = $ann->query_safe(q{SELECT max(seq) FROM rowclaim.journal WHERE journal = 'main' AND kind = 'changeset'});
$ann->query_safe('BEGIN; UPDATE o SET n = n + 1 WHERE id = 1; UPDATE x SET n = n + 1 WHERE id = 1; SELECT commit_changes(); COMMIT');
is(join("\n", sort split /\n/, payloads($listener, 3)),
	join("\n", event($seq + 1, 'ann'), event($seq + 2, 'ann'), event(1, 'ann', 'other \"journal\"')),
	'nothing that was rolled back, nor with notify off, nor claims; then all changesets of a transaction');

# Somebody who listens only once the other's transaction is under way.
$bob->query_safe('BEGIN; UPDATE x SET n = n + 1 WHERE id = 3');
my $late = listener();
$bob->query_safe('COMMIT');
is(payloads($late, 1), event($seq + 3, 'bob'), 'whoever listens before the commit hears of it');
payloads($listener, 1);

# Many at once: more than the queue has room for, while the worker stands still.
my $pid;
until ($pid = $node->safe_psql('postgres', "SELECT pid $worker"))
{
	$ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1');
	payloads($_, 1) for $listener, $late;
}
$seq = $node->safe_psql('postgres', q{SELECT max(seq) FROM rowclaim.journal WHERE journal = 'main'});
kill 'STOP', $pid;
finish_pgbench(start_pgbench($node, {
	crowd => "\\set id random(1, 100)\nUPDATE x SET n = n + 1 WHERE id = :id;\n" },
	'-c', 8, '-t', 140), 'crowd');
kill 'CONT', $pid;
# Seals have numbers, too, and are not announced.
my @seqs = split /\n/, $node->safe_psql('postgres',
	"SELECT seq FROM rowclaim.journal WHERE journal = 'main' AND seq > $seq AND kind = 'changeset' ORDER BY seq");
my $name = $node->safe_psql('postgres', 'SELECT current_user');
is(join("\n", sort split /\n/, payloads($listener, 8 * 140)), join("\n", sort map { event($_, $name) } @seqs),
	'each of a crowd exactly once');
payloads($late, 8 * 140);

# The worker is not in the way of anybody for long, and is back when it is needed.
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 $worker"), 'the worker leaves');
$seq = $seqs[-1];
$ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1');
is(payloads($listener, 1), event($seq + 1, 'ann'), 'and another one comes');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) $worker");
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 $worker"), 'it can be terminated');
$ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1');
is(payloads($listener, 1), event($seq + 2, 'ann'), 'which loses nothing');
$_->{session}->quit for $listener, $late;
$_->quit for $ann, $bob;

# No worker is to be had.
$node->append_conf('postgresql.conf', "max_worker_processes = 0\nmax_logical_replication_workers = 0");
$node->restart;
$listener = listener();
$ann = session($node, 'ann');
my $committer = $ann->query_safe('SELECT pg_backend_pid()');
$ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1');
hear($listener) until @{ $listener->{heard} };
is($listener->{heard}[0][1], $committer, 'without a worker the commit itself announces');
is(payloads($listener, 1), event($seq + 3, 'ann'), 'the same');
is($node->safe_psql('postgres', 'SELECT count(*) FROM verify_journal()'), 0, 'the journal is sound');
$_->quit for $listener->{session}, $ann;
$node->stop;
done_testing();
