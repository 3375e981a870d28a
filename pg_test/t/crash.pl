# Claims, drafts and the journal over an immediate restart; a backend killed between commit_changes() and COMMIT.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('crash', 'restart_after_crash = on');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, v text);
	INSERT INTO part SELECT i, 'old' FROM generate_series(1, 6) i;
	SELECT enable_claims('part');
	CREATE VIEW state AS
		SELECT 'claim' AS what, to_jsonb(c) AS is FROM rowclaim.claims c
		UNION ALL SELECT 'draft', to_jsonb(d) FROM rowclaim.drafts d
		UNION ALL SELECT 'stash', to_jsonb(s) FROM rowclaim.stashes s
		UNION ALL SELECT 'journal', to_jsonb(j) FROM rowclaim.journal j
		UNION ALL SELECT 'consumer', to_jsonb(c) FROM rowclaim.consumers c
		UNION ALL SELECT 'row', to_jsonb(p) FROM part p
		ORDER BY 1, 2});
my ($alice, $bob) = map { session($node, $_) } 'alice', 'bob';
$alice->query_safe(q{SELECT claim_rows('part', ARRAY[1, 2, 3], ttl => '1 day', reason => 'price review')});
$alice->query_safe(q{UPDATE part SET v = 'alice' WHERE id = 1; SELECT commit_changes('first')});
$alice->query_safe(q{UPDATE part SET v = 'dirty' WHERE id = 2; DELETE FROM part WHERE id = 3; INSERT INTO part VALUES (7, 'new')});
$alice->query_safe(q{SELECT claim_row('part', 4); UPDATE part SET v = 'dirty' WHERE id = 4});
$bob->query_safe(q{SELECT steal_row('part', 4); SELECT * FROM pull_changes('replica'); SELECT ack_changes('replica', 1)});
my $before = $node->safe_psql('postgres', 'SELECT * FROM state');

# What is in a transaction that does not end is gone.
$bob->query_safe(q{BEGIN; SELECT claim_row('part', 5); UPDATE part SET v = 'lost' WHERE id = 5; SELECT commit_changes()});

$node->stop('immediate');
$node->start;
eval { $_->quit } for $alice, $bob;
is($node->safe_psql('postgres', 'SELECT * FROM state'), $before, 'claims, drafts, stash, journal and consumers are as before');

($alice, $bob) = map { session($node, $_) } 'alice', 'bob';
is($bob->query_safe(q{SELECT status, owner FROM claim_row('part', 2)}), 'denied|alice', 'alice still holds her row');
is($alice->query_safe(q{SELECT status, token = (SELECT token FROM rowclaim.claims WHERE key = '{"id": 2}') FROM claim_row('part', 2)}), 'granted|t', 'with the same token');
is($bob->query_safe(q{SELECT status, token > (SELECT max(token) FROM rowclaim.claims WHERE owner = 'alice') FROM claim_row('part', 5)}), 'granted|t',
	'the row of the lost transaction is free, a new token is larger');
$alice->query_safe('SELECT discard_changes(target => $$part$$, key => $$2$$)');
is($node->safe_psql('postgres', 'SELECT v FROM part WHERE id = 2'), 'old', 'her draft knows what the row was');
cmp_ok($alice->query_safe(q{SELECT commit_changes('second')}), '>', 1, 'the rest of it can be committed');
is($node->safe_psql('postgres', q{SELECT op, key ->> 'id' FROM rowclaim.changes WHERE seq > 1 ORDER BY 2}), "delete|3\ninsert|7", 'and nothing else is');
is($node->safe_psql('postgres', q{SELECT count(*) - max(seq) FROM rowclaim.journal}), 0, 'every number has an entry');
is($node->safe_psql('postgres', q{SELECT max(seq) - rowclaim.stable_seq('main') FROM rowclaim.journal}), 0, 'nothing is stalled');

# A backend that ends between commit_changes() and COMMIT: terminated, then killed.
$bob->query_safe(q{UPDATE part SET v = 'bob' WHERE id = 5});
for my $signal ('SIGTERM', 'SIGKILL')
{
	my $victim = session($node, 'carol');
	$victim->query_safe(q{BEGIN; SELECT claim_row('part', 6); UPDATE part SET v = 'carol' WHERE id = 6});
	my $seq = $victim->query_safe('SELECT commit_changes()');
	my $pid = $victim->query_safe('SELECT pg_backend_pid()');
	my $next = $bob->query_safe(q{UPDATE part SET v = v || '+' WHERE id = 5; SELECT commit_changes()});
	is($next, $seq + 1, "$signal: a commit beside it draws the next number");
	is($bob->query_safe(q{SELECT max(seq) < } . $seq . q{ FROM rowclaim.changesets}), 't', "$signal: and stays invisible");
	if ($signal eq 'SIGTERM')
	{
		$bob->query_safe("SELECT pg_terminate_backend($pid, 10000)");
	}
	else
	{
		kill_backend($node, $pid);
		eval { $_->quit } for $alice, $bob;
		($alice, $bob) = map { session($node, $_) } 'alice', 'bob';
	}
	eval { $victim->quit };
	is($bob->query_safe("SELECT count(*) FROM pull_changes('late') WHERE seq = $next"), 1, "$signal: a reader goes on");
	is($node->safe_psql('postgres', "SELECT kind FROM rowclaim.journal WHERE seq = $seq"), 'void', "$signal: the number is void");
	is($bob->query_safe(q{SELECT status FROM claim_row('part', 6)}), 'granted', "$signal: the row is free");
	$bob->query_safe(q{SELECT release_row('part', 6)});
}
cmp_ok($bob->query_safe(q{UPDATE part SET v = 'end' WHERE id = 5; SELECT commit_changes()}), '>', 4, 'numbers go on');
is($node->safe_psql('postgres', q{SELECT max(seq) - rowclaim.stable_seq('main') FROM rowclaim.journal}), 0, 'and are all accounted for');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');

$_->quit for $alice, $bob;
$node->stop;
done_testing();
