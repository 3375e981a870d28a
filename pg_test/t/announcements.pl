# What is heard on the channel rowclaim with rowclaim.notify = commits: every changeset once it is committed, exactly once. As part
# of the commit; while another transaction that notifies is committing, from a background worker that comes and goes.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

# Commits wait for a standby that never comes where a session asks for it: it keeps the server's lock for NOTIFY meanwhile.
my $node = new_node('announcements', q{synchronous_standby_names = 'nobody'}, 'synchronous_commit = local',
	'wal_level = replica', 'max_wal_senders = 1');
$node->safe_psql('postgres', q{
	CREATE TABLE busy (t text);
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

# Runs $body while a transaction that has notified is committing.
sub while_busy
{
	my ($body) = @_;
	my $busy = session($node, 'busy');
	$busy->query_safe('SET statement_timeout = 0; SET synchronous_commit = on');
	send_query($busy, q{INSERT INTO busy SELECT pg_notify('elsewhere', '')::text});
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'}) or die 'not busy';
	$body->();
	$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
	receive($busy);
	$busy->quit;
	return;
}

my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'rowclaim announcer'};
my $listener = listener();
my ($ann, $bob) = map { session($node, $_) } 'ann', 'bob';
my %pid = map { $_->query_safe('SELECT pg_backend_pid()') => 1 } $ann, $bob;

# What comes after is heard after: nothing else was announced before.
sub announcements
{
	my ($how) = @_;
	my $seq = $ann->query_safe(q{SELECT coalesce(max(seq), 0) FROM rowclaim.journal WHERE journal = 'main'});
	my $other = $ann->query_safe(q{SELECT coalesce(max(seq), 0) FROM rowclaim.journal WHERE journal <> 'main'});
	$ann->query_safe('UPDATE t SET n = n + 1 WHERE id = 1');
	$ann->query_safe('SELECT commit_changes()');
	$ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1');
	$ann->query_safe('BEGIN; UPDATE x SET n = n + 1 WHERE id = 1; UPDATE t SET n = n + 1 WHERE id = 1; SELECT commit_changes(); ROLLBACK');
	$ann->query_safe('BEGIN; UPDATE t SET n = n + 1 WHERE id = 1; SAVEPOINT a; SELECT commit_changes(); ROLLBACK TO a; COMMIT');
	$ann->query_safe('SET rowclaim.notify = off; UPDATE x SET n = n + 1 WHERE id = 2; RESET rowclaim.notify');
	$ann->query_safe(q{SELECT status FROM claim_row('t', 2); SELECT release_row('t', 2)});
	my $next = 1 + $ann->query_safe(q{SELECT max(seq) FROM rowclaim.journal WHERE journal = 'main' AND kind = 'changeset'});
	$ann->query_safe('BEGIN; UPDATE o SET n = n + 1 WHERE id = 1; UPDATE x SET n = n + 1 WHERE id = 1; SELECT commit_changes(); COMMIT');
	$bob->query_safe('UPDATE x SET n = n + 1 WHERE id = 3');
	return join("\n", sort map({ event($seq + $_, 'ann') } 1, 2), map({ event($next + $_, 'ann') } 0, 1),
		event($other + 1, 'ann', 'other \"journal\"'), event($next + 2, 'bob'));
}

my $expected = announcements();
hear($listener);
is((grep { !$pid{ $_->[1] } } @{ $listener->{heard} }), 0, 'the sessions that commit announce themselves');
is(join("\n", sort split /\n/, payloads($listener, 6)), $expected,
	'commit_changes() and transactions are announced, nothing that was rolled back, nor with notify off, nor claims');
is($node->safe_psql('postgres', $workers), 0, 'no worker was needed');

while_busy(sub {
	$expected = announcements();
	hear($listener);
	is(scalar @{ $listener->{heard} }, 0, 'nobody waits for a commit that holds others up, and nothing is heard before');
	is($node->safe_psql('postgres', $workers), 1, 'a worker has come');
});
is(join("\n", sort split /\n/, payloads($listener, 6)), $expected, 'and announces the same');

# Somebody who listens only once the other's transaction is under way.
my $late;
my $seq = $node->safe_psql('postgres', q{SELECT max(seq) FROM rowclaim.journal WHERE journal = 'main'});
while_busy(sub {
	$bob->query_safe('BEGIN; UPDATE x SET n = n + 1 WHERE id = 3');
	$late = listener();
	$bob->query_safe('COMMIT');
});
is(payloads($late, 1), event($seq + 1, 'bob'), 'whoever listens before the commit hears of it');
payloads($listener, 1);

# More than the queue has room for: who finds none waits as with any NOTIFY.
my $crowd = 8 * 140;
while_busy(sub {
	my $bench = start_pgbench($node, { crowd => "\\set id random(1, 100)\nUPDATE x SET n = n + 1 WHERE id = :id;\n" }, '-c', 8, '-t', 140);
	$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE NOT l.granted AND l.locktype = 'object' AND a.backend_type = 'client backend'}) or die 'nobody waits';
	$late->{bench} = $bench;
});
finish_pgbench($late->{bench}, 'crowd');
# Seals have numbers, too, and are not announced.
my @seqs = split /\n/, $node->safe_psql('postgres',
	"SELECT seq FROM rowclaim.journal WHERE journal = 'main' AND seq > $seq + 1 AND kind = 'changeset' ORDER BY seq");
my $name = $node->safe_psql('postgres', 'SELECT current_user');
is(join("\n", sort split /\n/, payloads($listener, $crowd)), join("\n", sort map { event($_, $name) } @seqs),
	'each of a crowd exactly once');
payloads($late, $crowd);

# The worker is in nobody's way for long, and is back when it is needed.
ok($node->poll_query_until('postgres', "SELECT ($workers) = 0"), 'the worker leaves');
$seq = $seqs[-1];
while_busy(sub { $ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1') });
is(payloads($listener, 1), event($seq + 1, 'ann'), 'and another one comes');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'rowclaim announcer'});
ok($node->poll_query_until('postgres', "SELECT ($workers) = 0"), 'it can be terminated');
while_busy(sub { $ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1') });
is(payloads($listener, 1), event($seq + 2, 'ann'), 'which loses nothing');

# The worker that waits for another transaction's commit.
sub waiting_worker
{
	my $waiting = q{FROM pg_stat_activity WHERE backend_type = 'rowclaim announcer' AND wait_event_type = 'Lock'};
	$node->poll_query_until('postgres', "SELECT count(*) = 1 $waiting") or die 'no worker waits';
	return $node->safe_psql('postgres', "SELECT pid $waiting");
}

sub fail_worker
{
	my $worker = waiting_worker();
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($worker)");
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $worker") or die 'the worker does not fail';
	return;
}

# A worker that fails: what it had to announce is left to another one, which nobody waits for.
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET lock_timeout = '1ms'});
my $offset = -s $node->logfile;
while_busy(sub {
	$ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1');
	for (1, 2)
	{
		fail_worker();
		$bob->query_safe('UPDATE x SET n = n + 1 WHERE id = 3');
	}
});
is(payloads($listener, 3), join("\n", event($seq + 3, 'ann'), event($seq + 4, 'bob'), event($seq + 5, 'bob')),
	'nothing is lost with workers that fail, and everything comes once, in order');
is(join("\n", slurp_file($node->logfile, $offset) =~ /ERROR:  (.*)/g), join("\n", ('canceling statement due to user request') x 2),
	'each failure is in the log once, and there is no other');
while_busy(sub {
	$ann->query_safe('UPDATE x SET n = n + 1 WHERE id = 1');
	$node->safe_psql('postgres', 'SELECT pg_terminate_backend(' . waiting_worker() . ')');
});
is(payloads($listener, 1), event($seq + 6, 'ann'), 'nor with one that is terminated');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET lock_timeout');
$_->{session}->quit for $listener, $late;
$_->quit for $ann, $bob;

# No worker is to be had.
$node->append_conf('postgresql.conf', "max_worker_processes = 0\nmax_logical_replication_workers = 0");
$node->restart;
$listener = listener();
$ann = session($node, 'ann');
my $committer = $ann->query_safe('SELECT pg_backend_pid()');
while_busy(sub {
	send_query($ann, 'UPDATE x SET n = n + 1 WHERE id = 1');
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE pid = $committer AND NOT granted") or die 'ann does not wait';
});
receive($ann);
hear($listener) until @{ $listener->{heard} };
is($listener->{heard}[0][1], $committer, 'without a worker the commit itself announces, and waits');
is(payloads($listener, 1), event($seq + 7, 'ann'), 'the same');
is($node->safe_psql('postgres', 'SELECT count(*) FROM verify_journal()'), 0, 'the journal is sound');
$_->quit for $listener->{session}, $ann;
$node->stop;
done_testing();
