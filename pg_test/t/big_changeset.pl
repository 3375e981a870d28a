# 200,000 changed rows in one changeset: many parts, bounded memory.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $rows = 200_000;
my $node = new_node('big', 'shared_buffers = 16MB', 'max_wal_size = 4GB', 'checkpoint_timeout = 1h');
$node->safe_psql('postgres', qq{
	CREATE TABLE part (id int PRIMARY KEY, name text, price numeric);
	INSERT INTO part SELECT i, 'part ' || i || repeat('x', 200), i FROM generate_series(1, $rows) i;
	CREATE TABLE tally (LIKE part INCLUDING ALL);
	INSERT INTO tally TABLE part;
	SELECT enable_claims('part', claiming => 'auto'), enable_claims('tally', claiming => 'auto', committing => 'transaction')});

# The most memory a session's server process ever had, in MB.
sub peak
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 / 1024 : 0;
}
my $measurable = -r "/proc/$$/status";

for my $case ([ 'part', 'SELECT commit_changes(release => true)', 1 ], [ 'tally', 'SELECT 2', 2 ])
{
	my ($table, $commit, $seq) = @$case;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	# Warm up in a transaction that leaves nothing, also no number.
	$session->query_safe("BEGIN; UPDATE $table SET price = price + 1 WHERE id <= 100; ROLLBACK");
	my $before = peak($pid);
	$session->query_safe("UPDATE $table SET price = price + 1");
	my $updated = peak($pid);
	is($session->query_safe($commit), $seq, "$table: committed");
	my $committed = peak($pid);
	note sprintf '%s: %d MB, after UPDATE %d MB, after commit %d MB', $table, $before, $updated, $committed;
	SKIP:
	{
		skip 'no /proc', 1 unless $measurable;
		# All images of the rows together are about 60 MB, in memory more than 100 MB.
		cmp_ok($committed - $before, '<', 96, "$table: in bounded memory");
	}
	is($node->safe_psql('postgres', qq{
		SELECT count(*), min(part), max(part), min(parts), max(parts), sum(json_array_length(changes)), max(json_array_length(changes)),
			bool_and(octet_length(changes::text) <= 4 << 20)
		FROM rowclaim.journal WHERE seq = $seq}),
		"200|1|200|200|200|$rows|1000|t", "$table: 200 parts of 1,000 changes");
	$session->quit;
}
is($node->safe_psql('postgres', 'SELECT seq, changes FROM rowclaim.changesets ORDER BY seq'), "1|$rows\n2|$rows", 'two changesets');
is($node->safe_psql('postgres', q{
	SELECT count(*), count(DISTINCT c.value -> 'key' ->> 'id'),
		bool_and((c.value -> 'new' ->> 'price')::numeric = (c.value -> 'key' ->> 'id')::int + 1)
	FROM rowclaim.journal j, json_array_elements(j.changes) c WHERE j.seq = 1}), "$rows|$rows|t", 'each row is in it once');
is($node->safe_psql('postgres', q{SELECT seq, count(*), array_agg(part) = array_agg(part ORDER BY part) FROM pull_changes('r', max_changesets => 1) GROUP BY seq}),
	'1|200|t', 'pull_changes() returns it whole');
# What a savepoint takes back is gone from the file, too; rows that are deleted, inserted again and get another key come to one
# change each.
$node->safe_psql('postgres', q{
	BEGIN;
	UPDATE tally SET price = -1 WHERE id <= 60000;
	SAVEPOINT s;
	UPDATE tally SET price = -2 WHERE id BETWEEN 50001 AND 100000;
	ROLLBACK TO s;
	UPDATE tally SET price = -3 WHERE id BETWEEN 100001 AND 120000;
	CREATE TEMP TABLE kept AS SELECT id, name, price FROM tally WHERE id BETWEEN 119001 AND 130000;
	DELETE FROM tally WHERE id BETWEEN 119001 AND 130000;
	INSERT INTO tally (id, name, price) SELECT id, name, price - 4 FROM kept;
	UPDATE tally SET id = -id WHERE id BETWEEN 119501 AND 120500;
	COMMIT}, timeout => 600);
is($node->safe_psql('postgres', q{
	SELECT c.value ->> 'op', count(*), count(DISTINCT c.value -> 'key' ->> 'id'), min((c.value -> 'key' ->> 'id')::int), max((c.value -> 'key' ->> 'id')::int),
		count(c.value -> 'new' -> 'id'), sum((c.value -> 'new' ->> 'price')::numeric - (c.value -> 'old' ->> 'price')::numeric)
	FROM rowclaim.journal j, json_array_elements(j.changes) c WHERE j.seq = 3 GROUP BY 1 ORDER BY 1}), 'update|90000|90000|1|130000|1000|-4000284000', 'one change per row');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');

$node->stop;
done_testing();
