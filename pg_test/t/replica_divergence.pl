# Local damage on a replica stops replay with an error that names changeset, table, key and column; repairing the row lets it go
# on by itself. rowclaim.replay_mismatch = overwrite takes the journal's word, and counts what it overwrites or has to skip.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;
use Replica;

my ($hub, $replica) = new_pair();
my $ddl = 'CREATE TABLE part (id int PRIMARY KEY, name text, price numeric, code int UNIQUE)';
$hub->safe_psql('postgres', "$ddl; SELECT enable_claims('part', claiming => 'auto')");
$replica->safe_psql('postgres', $ddl);
subscribe($hub, $replica);

sub replica { my ($sql) = @_; $replica->safe_psql('postgres', $sql); return }
sub commit { my ($sql) = @_; my $seq = act($hub, 'alice', "$sql; SELECT commit_changes()"); die "$sql: $seq" if $seq !~ /^\d+$/; return $seq }
sub same { my ($name) = @_; wait_applied($hub, $replica); same_rows($hub, $replica, 'part', name => "$name: the same rows"); return }
my $repair = q{Repair the row; replay goes on by itself. rowclaim.replay_mismatch = overwrite takes the journal's word.};

# The replica is damaged by $damage, and the changeset made by $sql cannot be applied: once as it says in DETAIL. The counter of
# attempts goes up; $repair lets replay go on.
sub stops
{
	my ($name, $damage, $sql, $key, $problem, $more, $cure, %options) = @_;
	replica($damage);
	my $offset = -s $replica->logfile;
	my $seq = commit($sql);
	my $message = "changeset $seq of journal main does not fit row public.part $key: $problem";
	is(wait_failing($replica, $seq), "public.part|$key|$message", "$name: rowclaim.replay says where and what");
	my $json = $key =~ s/ //gr;
	is(join("\n", log_errors($replica, $offset, 1)),
		qq(55000 $message\nDETAIL:  {"reason":"replay_diverged","journal":"main","seq":$seq,"table":"public.part","key":$json,"column":$more}\nHINT:  )
			. ($options{hint} // $repair), "$name: and so does the log, and nothing else");
	is($replica->safe_psql('postgres', q{SELECT applied_seq, missing_seq, waiting, attempts > 0 FROM rowclaim.replay}), ($seq - 1) . '||0|t',
		"$name: the changeset before is the last one applied");
	commit('UPDATE part SET price = price + 1 WHERE id IN (1, 2)');
	replica($cure);
	same("$name, repaired");
	is($replica->safe_psql('postgres', 'SELECT failing_seq, failing_target, failing_key, failure FROM rowclaim.replay'), '|||', "$name: nothing fails any more");
	return;
}

commit(q{INSERT INTO part SELECT i, 'part ' || i, i + 0.10, i FROM generate_series(1, 3000) i});
same('before');

stops('a changed value', q{UPDATE part SET name = 'mine' WHERE id = 10}, q{UPDATE part SET name = 'theirs', price = 7 WHERE id = 10},
	'{"id": 10}', 'column name is "mine" here, not "part 10"', '"name","expected":"part 10","found":"mine"', q{UPDATE part SET name = 'part 10' WHERE id = 10});
stops('a number of the same size, written otherwise', 'UPDATE part SET price = 20.1 WHERE id = 20', 'UPDATE part SET price = 3 WHERE id = 20',
	'{"id": 20}', 'column price is 20.1 here, not 20.10', '"price","expected":20.10,"found":20.1', 'UPDATE part SET price = 20.10 WHERE id = 20');
stops('a value that is null', 'UPDATE part SET name = NULL WHERE id = 11', 'DELETE FROM part WHERE id = 11',
	'{"id": 11}', 'column name is null here, not "part 11"', '"name","expected":"part 11","found":null', q{UPDATE part SET name = 'part 11' WHERE id = 11});
stops('a deleted row that is updated', 'DELETE FROM part WHERE id = 12', 'UPDATE part SET price = 0 WHERE id = 12',
	'{"id": 12}', 'the row is not there', 'null', q{INSERT INTO part VALUES (12, 'part 12', 12.10, 12)});
stops('a deleted row that is deleted', 'DELETE FROM part WHERE id = 13', 'DELETE FROM part WHERE id = 13',
	'{"id": 13}', 'the row is not there', 'null', q{INSERT INTO part VALUES (13, 'part 13', 13.10, 13)});
stops('a changed key', 'UPDATE part SET id = 9014 WHERE id = 14', 'UPDATE part SET price = 0 WHERE id = 14',
	'{"id": 14}', 'the row is not there', 'null', 'UPDATE part SET id = 14 WHERE id = 9014');
stops('an extra row', q{INSERT INTO part VALUES (4001, 'mine', 1, 4001)}, q{INSERT INTO part VALUES (4001, 'theirs', 2, 4001)},
	'{"id": 4001}', 'the row is there already', 'null', 'DELETE FROM part WHERE id = 4001');
stops('a value of another row that must be unique', q{INSERT INTO part VALUES (5000, 'mine', 1, 4002)}, q{INSERT INTO part VALUES (4002, 'theirs', 2, 4002)},
	'{"id": 4002}', 'duplicate key value violates unique constraint "part_code_key": Key (code)=(4002) already exists', 'null', 'DELETE FROM part WHERE id = 5000',
	hint => 'Repair the other row; replay goes on by itself.');
stops('a key of another row', q{INSERT INTO part VALUES (4003, 'mine', 1, 4003)}, q{UPDATE part SET id = 4003 WHERE id = 15},
	'{"id": 15}', 'duplicate key value violates unique constraint "part_pkey": Key (id)=(4003) already exists', 'null', 'DELETE FROM part WHERE id = 4003',
	hint => 'Repair the other row; replay goes on by itself.');
# The last of three parts: what the first two did is undone.
stops('the last row of a large changeset', 'UPDATE part SET price = 0 WHERE id = 3000', 'UPDATE part SET price = price + 1 WHERE id BETWEEN 501 AND 3000',
	'{"id": 3000}', 'column price is 0 here, not 3000.10', '"price","expected":3000.10,"found":0', 'UPDATE part SET price = 3000.10 WHERE id = 3000');

# Two rows of one changeset: the second one is told when the first is repaired.
replica(q{UPDATE part SET name = 'x' WHERE id IN (101, 102)});
my $seq = commit(q{UPDATE part SET name = upper(name) WHERE id IN (101, 102)});
like(wait_failing($replica, $seq), qr/^public\.part\|\{"id": 101\}/, 'the first of two rows');
replica(q{UPDATE part SET name = 'part 101' WHERE id = 101});
$replica->poll_query_until('postgres', q{SELECT failing_key ->> 'id' = '102' FROM rowclaim.replay}) or die;
is($replica->safe_psql('postgres', 'SELECT name FROM part WHERE id = 101'), 'part 101', 'then the second one; nothing of the changeset is visible');
replica(q{UPDATE part SET name = 'part 102' WHERE id = 102});
same('two rows');
is($replica->safe_psql('postgres', 'SELECT overwritten, skipped FROM rowclaim.replay'), '0|0', 'nothing was overwritten or skipped');

# What no change touches may differ.
replica(q{UPDATE part SET name = 'local' WHERE id = 103});
commit('UPDATE part SET price = 5 WHERE id = 103');
wait_applied($hub, $replica);
is($replica->safe_psql('postgres', 'SELECT name, price FROM part WHERE id = 103'), 'local|5', 'columns that do not change are not compared');
replica(q{UPDATE part SET name = 'part 103' WHERE id = 103});

# The journal's word ------------------------------------------------------------------------------

# The worker that fails starts again and again, so it reads the setting without further ado.
replica(q{UPDATE part SET name = 'mine', price = 1 WHERE id = 201; INSERT INTO part VALUES (6001, 'mine', 1, 6001); DELETE FROM part WHERE id IN (202, 203)});
$seq = commit(q{UPDATE part SET name = 'theirs' WHERE id = 201; INSERT INTO part VALUES (6001, 'theirs', 2, 6001);
	UPDATE part SET name = 'gone' WHERE id = 202; DELETE FROM part WHERE id = 203; UPDATE part SET name = 'fits' WHERE id = 204});
wait_failing($replica, $seq);
replica('ALTER DATABASE postgres SET rowclaim.replay_mismatch = overwrite');
wait_applied($hub, $replica);
is($replica->safe_psql('postgres', 'SELECT string_agg(concat_ws(\' \', id, name, price::float8), \', \' ORDER BY id) FROM part WHERE id IN (201, 202, 203, 204, 6001)'),
	'201 theirs 1, 204 fits 204.1, 6001 theirs 2', 'the journal has the last word on what it changes');
is($replica->safe_psql('postgres', 'SELECT overwritten, skipped FROM rowclaim.replay'), '2|2', 'two rows are overwritten, two changes have no row: counted');
replica(q{UPDATE part SET name = 'mine' WHERE id = 205});
commit('DELETE FROM part WHERE id = 205');
wait_applied($hub, $replica);
is($replica->safe_psql('postgres', 'SELECT (SELECT count(*) FROM part WHERE id = 205), overwritten, skipped FROM rowclaim.replay'), '0|3|2', 'a row that differs is deleted, and counted');
replica(q{UPDATE part SET price = 201.10 WHERE id = 201});
replica(q{INSERT INTO part SELECT 202, 'gone', 202.10, 202});
is($replica->safe_psql('postgres', 'SELECT count(*) FROM part'), $hub->safe_psql('postgres', 'SELECT count(*) FROM part'), 'what was skipped is all that lacked');
# Errors again.
replica('ALTER DATABASE postgres RESET rowclaim.replay_mismatch');
$replica->restart;
replica(q{UPDATE part SET name = 'mine' WHERE id = 206});
$seq = commit(q{UPDATE part SET name = 'theirs' WHERE id = 206});
like(wait_failing($replica, $seq), qr/column name is "mine" here, not "part 206"$/, 'without the setting a difference is an error again');
replica(q{UPDATE part SET name = 'part 206' WHERE id = 206});
wait_applied($hub, $replica);
is($replica->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');

$_->stop for $hub, $replica;
done_testing();
