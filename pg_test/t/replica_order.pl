# Entries reach the replica in another order than that of their numbers, twice or late: they are applied in order, once.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Replica;
use RowClaim;
use Scenario;

my ($hub, $replica) = servers(replica => ['max_replication_slots = 50']);

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
			-- In one transaction, the rollbacks above would trip an assertion of PostgreSQL's own (heap_update, 18.6).
			COMMIT;
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
commit('late', $_ % 6 + 1) for 1 .. 30;
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
