# A changeset too large for logical_decoding_work_mem is sent while its transaction is in progress: into a file of the apply
# worker or, from PostgreSQL 16 on, to a parallel worker. Others commit meanwhile, before and after its number, and nobody waits.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;
use Replica;

my ($hub, $replica) = new_pair(
	hub => ['logical_decoding_work_mem = 64kB'],
	replica => ['deadlock_timeout = 1s', 'log_lock_waits = on']);
my $parallel = $hub->safe_psql('postgres', 'SHOW server_version_num') >= 160000;

my $ddl = 'CREATE TABLE part (id int PRIMARY KEY, n int NOT NULL, filler text); CREATE TABLE tally (id int PRIMARY KEY, n int NOT NULL)';
$hub->safe_psql('postgres', qq{
	$ddl;
	SELECT enable_claims('part', claiming => 'auto'), enable_claims('tally', claiming => 'auto')});
$replica->safe_psql('postgres', $ddl);
subscribe($hub, $replica, with => 'streaming = ' . ($parallel ? 'parallel' : 'on'));
act($hub, 'setup', q{
	INSERT INTO part SELECT i, 0, repeat(md5(i::text), 3) FROM generate_series(1, 6000) i;
	INSERT INTO tally VALUES (1, 0), (2, 0);
	SELECT commit_changes()});
wait_applied($hub, $replica);

# Changes rows of its own and draws a number; the transaction stays open until enough of it has been sent.
my $slot = q{FROM pg_stat_replication_slots WHERE slot_name = 'sub'};
sub start
{
	my ($actor, $first, $last) = @_;
	my $session = session($hub, $actor);
	my $before = $hub->safe_psql('postgres', "SELECT coalesce(sum(stream_count), 0) $slot");
	my $seq = $session->query_safe("BEGIN; UPDATE part SET n = n + 1 WHERE id BETWEEN $first AND $last; SELECT commit_changes()");
	$hub->poll_query_until('postgres', "SELECT coalesce(sum(stream_count), 0) > $before $slot") or die 'the transaction is not streamed';
	return ($session, $seq);
}
my $small = sub { act($hub, 'quick', "UPDATE tally SET n = n + 1 WHERE id = $_[0]; SELECT commit_changes()") };
my $applied = sub { $replica->safe_psql('postgres', q{SELECT applied_seq FROM rowclaim.replay_position WHERE journal = 'main'}) };
# All that the hub has committed is received, be it applied or not.
my $received = sub {
	my $sent = $hub->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	$hub->poll_query_until('postgres', "SELECT confirmed_flush_lsn >= '$sent' FROM pg_replication_slots WHERE slot_name = 'sub'")
	  or die 'the replica does not receive';
};

my ($first, $first_seq) = start('first', 1, 2000);
if ($parallel)
{
	ok($replica->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_stat_subscription WHERE leader_pid IS NOT NULL'),
		'a parallel worker receives the transaction');
}
is($small->(1), $first_seq + 1, 'somebody else commits the next number first');
my ($second, $second_seq) = start('second', 2001, 4000);
is($small->(2), $second_seq + 1, 'and again, with a second large transaction in progress');
$received->();
is($applied->(), $first_seq - 1, 'what has a later number waits');
$second->query_safe('COMMIT');
$received->();
is($applied->(), $first_seq - 1, 'also a large transaction that commits first');
$first->query_safe('COMMIT');
wait_applied($hub, $replica);
is($applied->(), $second_seq + 1, 'all is applied when the first number has arrived');
same_rows($hub, $replica, 'part');
same_rows($hub, $replica, 'tally');

# One that fails after it was sent, as a whole and in part.
my ($failing, $failed_seq) = start('first', 1, 2000);
$small->(1);
$failing->query_safe('ROLLBACK');
my ($partly, $partly_seq) = start('second', 2001, 4000);
$partly->query_safe("SAVEPOINT s; UPDATE part SET n = n + 10 WHERE id BETWEEN 4001 AND 6000; SELECT commit_changes(); ROLLBACK TO s; COMMIT");
$small->(2);
wait_applied($hub, $replica);
same_rows($hub, $replica, 'part', name => 'after a rollback: part is the same');
same_rows($hub, $replica, 'tally', name => 'after a rollback: tally is the same');
is($hub->safe_psql('postgres', "SELECT kind FROM rowclaim.journal WHERE seq = $failed_seq"), 'void', 'its number is accounted for');

# Many at once.
finish_pgbench(start_pgbench($hub, { large => q{
	\set low 500 * :client_id + 1
	\set high 500 * (:client_id + 1)
	SET rowclaim.actor = 'client :client_id';
	BEGIN;
	UPDATE part SET n = n + 1 WHERE id BETWEEN :low AND :high;
	SELECT commit_changes();
	COMMIT;
} }, '-c', 8, '-j', 2, '-t', 10), 'eight clients');
wait_applied($hub, $replica);
same_rows($hub, $replica, 'part', name => 'after many at once: part is the same');
is($replica->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal arrived as it was sent');
my $log = slurp_file($replica->logfile);
unlike($log, qr/deadlock detected/, 'no deadlock');
# A parallel worker waits for what is still to be sent by a lock on the remote transaction.
unlike($log, qr/still waiting for \w+ on (?!remote transaction)/, 'no long wait for another lock');
is(join("\n", log_errors($replica, 0)), '', 'the replica had no error');

$_->quit for $first, $second, $failing, $partly;
$hub->stop;
$replica->stop;
done_testing();
