# Entries reach the replica in another order than that of their numbers, twice, late, or never because their commit failed: they are
# applied in order, once, and nothing waits longer than it must. Every scenario has a database of its own.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Replica;
use RowClaim;

my ($hub, $replica) = new_pair(hub => [ 'log_statement = none', 'max_worker_processes = 20' ], replica => ['max_replication_slots = 50']);
my ($db, @idle);

# Databases with tables part (enabled on the hub, rows 1 to 9, changeset 1) and other.
sub scenario
{
	($db) = @_;
	note "scenario $db";
	for my $node ($hub, $replica)
	{
		$node->safe_psql('postgres', "CREATE DATABASE $db");
		$node->safe_psql($db, q{CREATE EXTENSION rowclaim; CREATE TABLE part (id int PRIMARY KEY, v text); CREATE TABLE other (id int)});
	}
	on_hub(q{SELECT enable_claims('part', claiming => 'auto'); INSERT INTO part SELECT i, 'old' FROM generate_series(1, 9) i; SELECT commit_changes()});
	return;
}

sub on_hub { return $hub->safe_psql($db, $_[0]) }
sub on_replica { return $replica->safe_psql($db, $_[0]) }
sub start { subscribe($hub, $replica, dbname => $db, name => "sub_$db", @_); return }
sub drop { on_replica("DROP SUBSCRIPTION sub_$db"); return }
sub wait_all { return wait_applied($hub, $replica, dbname => $db) }
sub same { return same_rows($hub, $replica, $_[0] // 'part', dbname => $db, name => "$db: " . ($_[1] // 'the same rows')) }

# A session of the hub that has changed a row and drawn a number for it.
sub open_commit
{
	my ($actor, $row, $begin) = @_;
	my $session = session($hub, $actor, dbname => $db);
	$session->{seq} = $session->query_safe(($begin // 'BEGIN') . "; UPDATE part SET v = '$actor' WHERE id = $row; SELECT commit_changes()");
	return $session;
}

sub commit
{
	my ($actor, $row) = @_;
	my $seq = act($hub, $actor, "UPDATE part SET v = v || '+' WHERE id = $row; SELECT commit_changes()", dbname => $db);
	return $seq =~ /^\d+$/ ? $seq : die $seq;
}

# Waits until rowclaim.replay says: applied, received, missing, waiting.
sub replay_is
{
	my ($expected, $name) = @_;
	my $sql = 'SELECT applied_seq, received_seq, missing_seq, waiting, failing_seq FROM rowclaim.replay';
	$replica->poll_query_until($db, $sql, "$expected|");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(on_replica($sql), "$expected|", "$db: $name");
}

sub applied_exactly_once
{
	my ($seq) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(on_replica('SELECT applied_seq, missing_seq, waiting, overwritten, skipped FROM rowclaim.replay'), "$seq||0|0|0", "$db: everything is applied");
	same('rowclaim.journal', 'the same journal');
	is(on_replica(q{SELECT count(*) FROM verify_journal('main')}), 0, "$db: which is sound");
	return;
}

# A late subscriber copies a journal whose rows are in random order on disk.
scenario('shuffled');
$_->safe_psql($db, q{
	CREATE TABLE line (id int, part int REFERENCES part ON UPDATE CASCADE, place int UNIQUE DEFERRABLE, PRIMARY KEY (id, part))}) for $hub, $replica;
on_hub(q{
	SELECT enable_claims('line', claiming => 'auto');
	DO $$
	BEGIN
		FOR i IN 1 .. 200 LOOP
			CASE i % 8
				WHEN 0 THEN INSERT INTO part VALUES (100 + i, 'new'); INSERT INTO line VALUES (i, 100 + i, i);
				WHEN 1 THEN UPDATE part SET v = v || i WHERE id <= 9;
				WHEN 2 THEN UPDATE line SET place = 1000 - place WHERE place <> 500;
				WHEN 3 THEN UPDATE line SET place = (SELECT min(place) + max(place) FROM line) - place WHERE place IN (SELECT min(place) FROM line UNION SELECT max(place) FROM line);
				WHEN 4 THEN UPDATE part SET id = id + 1000 WHERE id = 100 + i - 4;
				WHEN 5 THEN DELETE FROM line WHERE id = i - 21; DELETE FROM part WHERE v = 'new' AND id NOT IN (SELECT part FROM line);
				WHEN 6 THEN INSERT INTO part SELECT 10000 + i * 10 + j, 'many' FROM generate_series(1, 9) j;
				ELSE BEGIN UPDATE part SET v = 'void'; PERFORM commit_changes(); RAISE EXCEPTION ''; EXCEPTION WHEN raise_exception THEN END;
			END CASE;
			PERFORM commit_changes();
		END LOOP;
	END $$;
	INSERT INTO part SELECT 100000 + i, repeat('x', 100) FROM generate_series(1, 2500) i;
	SELECT commit_changes(), seal_journal('main');
	CREATE TEMP TABLE shuffled AS SELECT * FROM rowclaim.journal ORDER BY md5(seq || ' ' || part);
	DELETE FROM rowclaim.journal;
	INSERT INTO rowclaim.journal TABLE shuffled});
is(on_hub(q{SELECT count(*) FILTER (WHERE seq < before) > 50, count(DISTINCT kind) FROM (SELECT seq, kind, lag(seq) OVER (ORDER BY ctid) AS before FROM rowclaim.journal) s}), 't|3',
	'shuffled: the rows are out of order');
start();
my $seq = wait_all();
same($_, "$_ has the same rows") for 'part', 'line';
applied_exactly_once($seq);

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
eval { $_->quit } for @failing, $again, $last;

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
$replica->poll_query_until($db, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'logical replication worker' AND wait_event_type = 'Lock'})
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

# A subscription made anew brings everything again, and what was committed in between.
scenario('again');
start();
commit('early', 1);
on_hub(q{SELECT claim_row('part', 8), claim_row('part', 9)});
wait_all();
my $claims = 'SELECT target, key, owner FROM rowclaim.claims ORDER BY target, key';
$replica->poll_query_until($db, $claims, on_hub($claims));
drop();
# A row changed here would be noticed if anything were applied again.
on_replica(q{UPDATE part SET v = 'local' WHERE id = 1});
commit('between', 2);
on_hub(q{SELECT release_row('part', 8), claim_row('part', 7)});
start();
is(wait_all(), 3, 'again: what was committed in between is applied');
is(on_replica('SELECT v FROM part WHERE id IN (1, 2) ORDER BY id'), "local\nold+", 'again: nothing is applied twice');
on_replica(q{UPDATE part SET v = 'old+' WHERE id = 1});
commit('late', 1);
applied_exactly_once(wait_all());
same();
ok($replica->poll_query_until($db, $claims, on_hub($claims)), 'again: and the present claims');
# Twice at the same time: the one that comes too late is told so and begins again.
is_deeply([ log_errors($replica, 0) ], [], 'no error on the replica so far');
start(name => 'sub_twice');
commit('late', $_) for 1 .. 6;
applied_exactly_once(wait_all());
same();
on_replica('DROP SUBSCRIPTION sub_twice');
my $log = -s $replica->logfile;

# Without the copy, from the middle: replay waits for the beginning and says so.
scenario('middle');
commit('early', $_) for 1 .. 3;
start(with => 'copy_data = off');
commit('late', 4);
replay_is('|5|1|1', 'the beginning is missing');
is(on_replica(q{SELECT wait_for_changeset(5, timeout => '100ms'), (SELECT count(*) FROM part)}), 'f|0', 'middle: nothing is applied');
# A seal says what was complete on the hub, not what has come here.
is(on_hub(q{SELECT seal_journal('main')}), 6, 'middle: the hub seals its journal');
commit('late', 5);
replay_is('|7|1|3', 'the beginning is still missing');
drop();
start();
is(wait_all(), 7, 'middle: a subscription with the copy brings it');
same();
drop();
commit('missed', 6);
start(with => 'copy_data = off');
commit('late', 6);
replay_is('7|9|8|1', 'a gap is as good as a missing beginning');
drop();
start();
applied_exactly_once(wait_all());
same();

# A crash of the hub with numbers in flight skips them and those the sequence had reserved.
scenario('crash');
start();
wait_all();
my @lost = map { my $session = open_commit("lost $_", $_); commit('fine', 5 + $_); $session } 1 .. 3;
replay_is('1|7|2|3', 'later commits wait');
$hub->stop('immediate');
$hub->start;
eval { $_->quit } for @lost;
cmp_ok($next = commit('fine', 1), '>', 8, "crash: numbers go on at $next");
is(wait_all(), $next, 'crash: everything is applied after the next commit');
same();
applied_exactly_once($next);
is(on_replica(q{SELECT count(*) FROM rowclaim.journal WHERE kind = 'void'}), $next - 5, 'crash: with void entries for what was lost or skipped');

is_deeply([ grep { !/^(08|53400|55006)/ } log_errors($replica, $log) ], [], 'nor later, but for the crash of the hub');

# Prepared on the replica, an entry would keep later ones waiting for it: refused.
scenario('two_phase');
start(with => 'two_phase = on');
wait_all();
$replica->poll_query_until($db, q{SELECT subtwophasestate = 'e' FROM pg_subscription WHERE subname = 'sub_two_phase'}) or die 'two_phase is not on';
$log = -s $replica->logfile;
act($hub, 'alice', "BEGIN; UPDATE part SET v = 'prepared' WHERE id = 1; SELECT commit_changes(); PREPARE TRANSACTION '$db'", dbname => $db);
commit('bob', 2);
$replica->wait_for_log(qr/ERROR:  55006: /, $log);
is_deeply([ log_errors($replica, $log, 1) ], [
	qq(55006 entries of a journal cannot be replayed by a prepared transaction\n)
		. qq(DETAIL:  {"reason":"operation_refused","table":"rowclaim.journal"}\n)
		. 'HINT:  Create the subscription again without two_phase.' ], 'two_phase: refused with the way out');
on_hub(qq{COMMIT PREPARED '$db'});
drop();
start();
applied_exactly_once(wait_all());
same();

$_->stop for $replica, $hub;
done_testing();
