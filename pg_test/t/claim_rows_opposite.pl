# claim_rows in opposite orders by two actors, 1,000 times: no deadlock, and all or nothing.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('opposite', 'deadlock_timeout = 200ms');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, n int);
	INSERT INTO part SELECT i, 0 FROM generate_series(1, 8) i;
	SELECT enable_claims('part');
	CREATE TABLE outcome (actor text, granted bool)});

finish_pgbench(start_pgbench($node, { claim => q{
	\if :client_id = 0
	SET rowclaim.actor = 'alice';
	BEGIN;
	INSERT INTO outcome SELECT current_actor(), bool_and(status = 'granted') FROM claim_rows('part', ARRAY[1, 2, 3, 4, 5, 6, 7, 8]) HAVING bool_and(status = 'granted') OR NOT bool_or(status = 'granted');
	SELECT pg_sleep(0.0001);
	COMMIT;
	\else
	SET rowclaim.actor = 'bob';
	BEGIN;
	INSERT INTO outcome SELECT current_actor(), bool_and(status = 'granted') FROM claim_rows('part', ARRAY[8, 7, 6, 5, 4, 3, 2, 1]) HAVING bool_and(status = 'granted') OR NOT bool_or(status = 'granted');
	SELECT pg_sleep(0.0001);
	COMMIT;
	\endif
	SELECT release_rows();
} }, '-c', 2, '-j', 2, '-t', 1000), 'two actors');

is($node->safe_psql('postgres', 'SELECT actor, count(*) FROM outcome GROUP BY actor ORDER BY actor'), "alice|1000\nbob|1000", 'each call grants all or nothing');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT actor) FROM outcome WHERE granted'), 2, 'both had their turn');
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM rowclaim.claims) + (SELECT count(row_owner) FROM part)'), 0, 'all is released');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'no deadlock');

$node->stop;
done_testing();
