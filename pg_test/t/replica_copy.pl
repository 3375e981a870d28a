# kill -9 in the midst of the initial copy, and of the catching up that follows it in the worker that copies: it begins again by
# itself, and every entry is applied once. What PostgreSQL itself cannot resume is resumed by a new subscription.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Replica;
use RowClaim;

my ($hub, $replica) = new_pair(hub => ['restart_after_crash = on'], replica => ['restart_after_crash = on']);
my $ddl = 'CREATE TABLE part (id int PRIMARY KEY, n int)';
$hub->safe_psql('postgres', "$ddl; SELECT enable_claims('part', 'auto')");
# What arrives waits at the gate before entry gate.seq.
$replica->safe_psql('postgres', "$ddl;" . q{
	CREATE TABLE gate (seq bigint);
	INSERT INTO gate VALUES (100);
	CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NEW.seq = (SELECT seq FROM public.gate) LOOP
			PERFORM pg_sleep(0.01);
		END LOOP;
		RETURN NEW;
	END $$;
	CREATE TRIGGER a_gate BEFORE INSERT ON rowclaim.journal FOR EACH ROW EXECUTE FUNCTION wait_at_gate();
	ALTER TABLE rowclaim.journal ENABLE REPLICA TRIGGER a_gate});

sub commit
{
	my $seq = act($hub, 'alice', 'INSERT INTO part SELECT max(id) + 1, 0 FROM part; UPDATE part SET n = n + 1; SELECT commit_changes()');
	return $seq =~ /^\d+$/ ? $seq : die $seq;
}

my $copies = "relid = 'rowclaim.journal'::regclass";

# Waits until the copy of the journal is at the gate, in this state of it.
sub at_gate
{
	my ($state) = @_;
	$replica->poll_query_until('postgres', qq{
		SELECT count(*) = 1 FROM pg_stat_subscription s JOIN pg_stat_activity USING (pid) JOIN pg_subscription_rel r ON r.srrelid = s.relid
		WHERE $copies AND wait_event = 'PgSleep' AND srsubstate = '$state'}) or die "the copy does not come to the gate in state $state";
	# Writes to disk what it has committed so far.
	$replica->safe_psql('postgres', 'UPDATE gate SET seq = seq');
	return;
}

# In turn: the worker that copies, the replica, the hub. Whatever is killed, the copy comes to the gate again.
sub kill_each
{
	my ($state, $expected, $what) = @_;
	for my $victim ('worker', 'replica', 'hub')
	{
		at_gate($state);
		commit() if $state eq 'd';
		kill_worker($replica, $copies) if $victim eq 'worker';
		kill_server($replica) if $victim eq 'replica';
		if ($victim eq 'hub')
		{
			kill_server($hub);
			# At the gate it does not notice that it has lost its connection.
			$replica->safe_psql('postgres', "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_subscription WHERE $copies");
		}
		at_gate($state);
		is($replica->safe_psql('postgres', q{SELECT count(*) FROM part}), $expected, "$what: $victim killed, and there it is again");
	}
	return;
}

$hub->safe_psql('postgres', q{
	DO $$ BEGIN FOR i IN 1 .. 200 LOOP INSERT INTO part VALUES (i, 0); UPDATE part SET n = n + 1; PERFORM commit_changes(); END LOOP; END $$});
subscribe($hub, $replica);
kill_each('d', 0, 'the copy');
# These come after the copy, to the same worker; it has what was committed when it began.
my $last = commit();
commit();
$replica->safe_psql('postgres', "UPDATE gate SET seq = $last");
kill_each('f', 203, 'catching up');
$replica->safe_psql('postgres', 'UPDATE gate SET seq = NULL');
is(wait_applied($hub, $replica), $last + 1, 'everything is applied');
same_rows($hub, $replica, $_) for 'part', 'rowclaim.journal';

# When the copy has caught up, PostgreSQL drops its slot on the hub before it commits that it has: a crash between the two leaves a
# copy that needs a slot which is gone.
$replica->safe_psql('postgres', 'UPDATE gate SET seq = 100; DROP SUBSCRIPTION sub; TRUNCATE part, rowclaim.journal, rowclaim.replay_state');
subscribe($hub, $replica);
at_gate('d');
$last = commit();
$replica->safe_psql('postgres', "UPDATE gate SET seq = $last");
at_gate('f');
my $log = -s $replica->logfile;
kill_worker($replica, $copies);
my $slot = 'slot_name LIKE $$pg\_%\_sync\_%$$';
$hub->poll_query_until('postgres', "SELECT count(pg_drop_replication_slot(slot_name)) = 1 FROM pg_replication_slots WHERE $slot AND NOT active")
	or die 'the slot cannot be dropped';
$replica->wait_for_log(qr/replication slot "pg_\d+_sync_\d+_\d+" does not exist/, $log);
commit();
$replica->safe_psql('postgres', 'UPDATE gate SET seq = NULL; DROP SUBSCRIPTION sub');
subscribe($hub, $replica);
is(wait_applied($hub, $replica), $last + 1, 'a new subscription goes on where the old one could not');
same_rows($hub, $replica, $_) for 'part', 'rowclaim.journal';

$_->stop for $replica, $hub;
done_testing();
