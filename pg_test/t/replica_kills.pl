# 50 times kill -9 at random moments while eight clients work on the hub: an apply worker (its server restarts by itself), the whole
# replica server, the whole hub server. Nothing is lost, nothing is applied twice, and all goes on without a manual step.
# ROWCLAIM_SEED: the seed to repeat.
# heavy: 50 restarts under load take two minutes.
use strict;
use warnings;
use List::Util 'shuffle';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Load;
use Replica;
use RowClaim;

my $seed = $ENV{ROWCLAIM_SEED} // int(time);
srand $seed;
note "ROWCLAIM_SEED=$seed";
# pgbench's output does not matter: its clients die with the hub.
my ($hub, $replica) = new_pair(hub => [ 'deadlock_timeout = 100ms', 'restart_after_crash = on' ], replica => ['restart_after_crash = on']);
prepare_load($hub);
$replica->safe_psql('postgres', $load_tables);
subscribe($hub, $replica);
wait_applied($hub, $replica);
$replica->poll_query_until('postgres', q{SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel}) or die 'the copy does not end';

my $bench;
sub load_on
{
	$bench->{run}->pump_nb if $bench;
	return if $bench and $bench->{run}->pumpable;
	load_off();
	$bench = start_pgbench($hub, load_scripts(), '-c', 8, '-j', 2, '-T', 600, '-R', 300, '--max-tries', 20, '--random-seed', int rand 1e9);
	return;
}

sub load_off
{
	return unless $bench;
	$bench->{run}->kill_kill;
	undef $bench;
	return;
}

my %kills = (
	worker => sub { kill_worker($replica, 'relid IS NULL') },
	replica => sub { kill_server($replica) },
	hub => sub { kill_server($hub) });
my @order = shuffle(('worker') x 20, ('replica') x 15, ('hub') x 15);
my (%count, $before);
my $start = time;
for my $victim (@order)
{
	load_on();
	# The moment is random: while the load begins, in its midst, or when what has been missed is caught up with.
	usleep rand 1_000_000;
	$kills{$victim}->();
	$count{$victim}++;
}
load_on();
note join ', ', map { "$count{$_} x $_" } sort keys %count;
note sprintf '%.0f s', time - $start;
is_deeply(\%count, { worker => 20, replica => 15, hub => 15 }, '50 kills');
usleep 1_000_000;
load_off();

# Whoever uses the hub first accounts for numbers that the last kill has left in flight.
leave_drafts($hub);
note $hub->safe_psql('postgres', 'SELECT journal, kind, count(*), max(seq), sum(json_array_length(changes)) AS changes FROM rowclaim.journal GROUP BY 1, 2 ORDER BY 1, 2');
same_committed($hub, $replica);
same_journals($hub, $replica);
my @errors = log_errors($replica, 0);
is_deeply([ grep { !/^(08|57P|55006|53400|53300)/ } @errors ], [], 'no error on the replica but lost connections') or diag join "\n", @errors;
is($replica->safe_psql('postgres', q{SELECT string_agg(srsubstate, '') FROM pg_subscription_rel}), 'rr', 'the subscription is what it was');

$_->stop for $replica, $hub;
done_testing();
