# Numbers whose transactions end in another order, late or never: nothing waits longer than it must, no number is left out, and the
# rows are the same.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Replica;
use RowClaim;
use Scenario;

my ($hub, $replica) = servers(hub => [ 'restart_after_crash = on', 'max_worker_processes = 20' ], replica => ['max_replication_slots = 50']);

# Three commits end in the opposite order of their numbers; one of them has several parts.
scenario('opposite');
start();
wait_all();
my @open = map { open_commit($_, $_) } 1 .. 3;
my $long = session($hub, 'long', dbname => $db);
$long->{seq} = $long->query_safe(q{BEGIN; INSERT INTO part SELECT 100 + i, 'long' FROM generate_series(1, 2500) i; SELECT commit_changes()});
is(join(' ', map { $_->{seq} } @open, $long), '2 3 4 5', 'opposite: the numbers drawn');
$long->query_safe('COMMIT');
replay_is('1|5|2|1', 'the last one has come first and waits');
$open[2]->query_safe('COMMIT');
replay_is('1|5|2|2', 'so does the one before it');
$open[1]->query_safe('COMMIT');
replay_is('1|5|2|3', 'and the one before that');
is(on_replica(q{SELECT wait_for_changeset(2, timeout => '100ms'), count(*), bool_and(v = 'old') FROM part}), 'f|9|t', 'opposite: nothing is applied');
$open[0]->query_safe('COMMIT');
replay_is('5|5||0', 'the first one lets them all go on');
same();
applied_exactly_once(5);
$_->quit for @open, $long;

# A number in flight for long: whatever comes meanwhile waits in the journal and is then applied in one go.
scenario('in_flight');
start();
wait_all();
my $slow = open_commit('slow', 1);
commit('fast', 2) for 1 .. 50;
replay_is('1|52|2|50', '50 changesets wait for one');
$slow->query_safe('COMMIT');
replay_is('52|52||0', 'and are applied with it');
same();
$slow->quit;

# Commits that fail after drawing their number, and nobody commits or pulls afterwards.
scenario('failed');
start();
wait_all();
my @failing = map { my $session = open_commit("failing $_", $_, $_ == 3 ? 'BEGIN; SAVEPOINT a' : 'BEGIN'); commit('fine', 5 + $_); $session } 1 .. 3;
is(join(' ', map { $_->{seq} } @failing), '2 4 6', 'failed: the numbers drawn');
replay_is('1|7|2|3', 'the others wait');
my $pid = $failing[1]->query_safe('SELECT pg_backend_pid()');
$failing[0]->query_safe('ROLLBACK');
on_hub("SELECT pg_terminate_backend($pid, 60000)");
# The third one stays open, without what drew the number.
$failing[2]->query_safe('ROLLBACK TO a; SELECT pg_current_xact_id()');
replay_is('7|7||0', 'void entries come by themselves');
is(on_replica('SELECT seq, kind FROM rowclaim.journal WHERE kind <> $$changeset$$ ORDER BY seq'), "2|void\n4|void\n6|void", 'failed: for the failed numbers');
same();
# One that goes on after such a failure keeps nobody else from committing.
my $again = open_commit('again', 1, 'BEGIN; SAVEPOINT a');
commit('fine', 6);
$again->query_safe(q{ROLLBACK TO a; UPDATE part SET v = 'again' WHERE id = 1; SELECT commit_changes()});
my %answers;
# Longer than the void entry's delay.
for (1 .. 40)
{
	$answers{act($hub, 'fine', q{SET lock_timeout = '2s'; UPDATE part SET v = v || '.' WHERE id = 6; SELECT commit_changes() > 1}, dbname => $db)}++;
	usleep 100_000;
}
is_deeply(\%answers, { t => 40 }, 'failed: a session that goes on after a failure keeps nobody from committing');
$again->query_safe('COMMIT');
my $last = open_commit('last', 1);
$last->query_safe('ROLLBACK');
my $next = commit('fine', 6);
is($next, $last->{seq} + 1, 'failed: a number fails that is the last one');
replay_is("$next|$next||0", 'the next commit accounts for it');
same();
$failing[2]->query_safe('ROLLBACK');
$_->quit for @failing[ 0, 2 ], $again, $last;

# Transactions that stay open, on both sides: neither stalls replay.
scenario('idle');
start();
wait_all();
my ($writer, $reader) = map { session($_, 'idle', dbname => $db) } $hub, $replica;
$writer->query_safe(q{BEGIN; INSERT INTO other VALUES (1); UPDATE part SET v = 'idle' WHERE id = 1});
$reader->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO other VALUES (1); SELECT v FROM part});
is(join(' ', map { commit('busy', $_) } 2 .. 9), '2 3 4 5 6 7 8 9', 'idle: commits beside idle transactions');
replay_is('9|9||0', 'they are applied');
is($reader->query_safe(q{SELECT count(*) FROM part WHERE v = 'old'}), 9, 'idle: an old snapshot on the replica stays what it was');
$reader->query_safe('COMMIT');
$writer->query_safe(q{COMMIT; SELECT commit_changes()});
replay_is('10|10||0', 'what was idle on the hub comes later');
same();
# A row that somebody has locked on the replica is waited for.
$reader->query_safe('BEGIN; SELECT FROM part WHERE id = 2 FOR UPDATE');
commit('busy', 2);
$replica->poll_query_until($db, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type ~ '^logical replication (apply )?worker$' AND wait_event_type = 'Lock'})
	or die 'replay does not wait';
$reader->query_safe('COMMIT');
replay_is('11|11||0', 'a lock on the replica delays, no more');
same();
$_->quit for $writer, $reader;

# Prepared transactions, ended in another order, over a restart of the hub.
scenario('prepared');
start();
wait_all();
for my $name (1 .. 4)
{
	is(act($hub, "actor $name", "BEGIN; UPDATE part SET v = 'prepared' WHERE id = $name; SELECT commit_changes(); PREPARE TRANSACTION '$db $name'", dbname => $db), $name + 1,
		"prepared: changeset $name");
}
commit('busy', 9);
replay_is('1|6|2|1', 'a later commit waits for them');
on_hub(qq{COMMIT PREPARED '$db 3'});
replay_is('1|6|2|2', 'so does the third');
$hub->restart;
on_hub(qq{ROLLBACK PREPARED '$db 2'});
on_hub(qq{COMMIT PREPARED '$db 1'});
replay_is('2|6|3|2', 'the first is applied');
$next = commit('busy', 9);
$replica->poll_query_until($db, 'SELECT applied_seq = 4 FROM rowclaim.replay');
on_hub(qq{COMMIT PREPARED '$db 4'});
is(wait_all(), $next, 'prepared: all are applied');
same();
is(on_replica('SELECT string_agg(id::text, $$ $$) FROM part WHERE v = $$prepared$$'), '1 3 4', 'prepared: but the one that was rolled back');
applied_exactly_once($next);

# The hub stops in every way, with a number in flight and later ones committed. Numbers its sequence had reserved are skipped, too.
# Nobody commits afterwards: whoever uses the extension first lets replay go on.
scenario('stopped');
start();
$last = wait_all();
my $changesets = 1;
my %stops = (
	crash => sub { $hub->stop('immediate'); $hub->start },
	killed => sub {
		kill_backend($hub, $_[0]->query_safe('SELECT pg_backend_pid()'));
	},
	restart => sub { $hub->restart });
my %uses = (
	crash => 'SELECT max(seq) FROM rowclaim.changesets',
	killed => 'SELECT count(*) FROM rowclaim.claims',
	restart => 'SELECT 1');
# With this, whatever any session does is a use.
my $preload = "ALTER DATABASE $db SET session_preload_libraries = 'rowclaim'";
for my $how (sort keys %stops)
{
	my $lost = open_commit("lost in $how", 1);
	my $fine = commit('fine', 5);
	is($fine, $lost->{seq} + 1, "stopped: $how: a commit beside the one that is lost");
	replay_is("$last|$fine|" . ($last + 1) . '|1', "$how: it waits");
	$stops{$how}->($lost);
	eval { $lost->quit };
	on_hub($preload) if $how eq 'restart';
	on_hub($uses{$how});
	replay_is("$fine|$fine||0", "$how: the first to use the extension lets it go on");
	is(on_hub("SELECT kind FROM rowclaim.journal WHERE seq = $lost->{seq}"), 'void', "stopped: $how: the number is void");
	is(on_hub('SELECT server_start = rowclaim.server_start() FROM rowclaim.recovered'), 't', "stopped: $how: once");
	($last, $changesets) = ($fine, $changesets + 1);
}
$next = commit('fine', 1);
is(wait_all(), $next, 'stopped: the next commit is applied');
same();
applied_exactly_once($next);
is(on_replica(q{SELECT count(*) FROM rowclaim.journal WHERE kind = 'void'}), $next - $changesets - 1, 'stopped: there are void entries for what was lost or skipped');

$_->stop for $replica, $hub;
done_testing();
