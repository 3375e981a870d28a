# Ten actors increment one row thirty times each, reading and writing under a claim: the row ends at exactly 300.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('increments');
$node->safe_psql('postgres', q{
	CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL);
	INSERT INTO counter VALUES (1, 0);
	SELECT enable_claims('counter');
	CREATE TABLE grants (token bigint PRIMARY KEY, actor text);
	-- Asks again until it has the claim.
	CREATE PROCEDURE claim_with_retry() LANGUAGE plpgsql AS $$
	DECLARE claim claim_result;
	BEGIN
		LOOP
			claim := claim_row('counter', 1);
			IF claim.status = 'granted' THEN
				INSERT INTO grants VALUES (claim.token, claim.owner);
				COMMIT;
				RETURN;
			END IF;
			COMMIT;
			PERFORM pg_sleep(0.001);
		END LOOP;
	END $$});

my $increment = q{
	SELECT n FROM counter WHERE id = 1 \gset
	UPDATE counter SET n = :n + 1 WHERE id = 1;
	SELECT commit_changes(release => true);
};
finish_pgbench(start_pgbench($node, {
	retry => "SET rowclaim.actor = 'actor :client_id';\nCALL claim_with_retry();\n$increment",
	wait => "SET rowclaim.actor = 'actor :client_id';\n"
	  . "INSERT INTO grants SELECT token, owner FROM claim_row('counter', 1, wait => '1 hour');\n$increment"
}, '-c', 10, '-j', 2, '-t', 30), 'ten actors');

is($node->safe_psql('postgres', 'SELECT n, row_version FROM counter'), '300|301', 'no increment is lost');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT actor), min((old ->> 'n')::int), max((new ->> 'n')::int) FROM rowclaim.changes}),
	'300|10|0|300', 'each is a changeset');
is($node->safe_psql('postgres', q{SELECT count(*) FROM rowclaim.changes WHERE (old ->> 'n')::int <> seq - 1 OR (new ->> 'n')::int <> seq}),
	0, 'in the order in which they happened');
is($node->safe_psql('postgres', 'SELECT count(*) FROM grants'), 300, 'each grant had a token of its own');

$node->stop;
done_testing();
