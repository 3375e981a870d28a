# A commit never goes ahead of what it depends on, even while another session keeps part of the same actor's draft open.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('dependency');
$node->safe_psql('postgres', q{
	CREATE TABLE parent (id int PRIMARY KEY, v text, u text UNIQUE);
	CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
	INSERT INTO parent VALUES (1, 'old', 'one');
	CREATE SCHEMA copy;
	CREATE TABLE copy.parent (LIKE parent INCLUDING ALL);
	INSERT INTO copy.parent TABLE parent;
	CREATE TABLE copy.child (id int PRIMARY KEY, parent int REFERENCES copy.parent);
	SELECT enable_claims('parent', claiming => 'auto'), enable_claims('child', claiming => 'auto')});
my ($first, $second, $bob) = map { session($node, $_) } 'alice', 'alice', 'bob';

# commit_changes() may wait for the other session or leave things out; in the end all is committed.
sub commit_beside
{
	my ($other, $what) = @_;
	send_query($first, 'SELECT commit_changes()');
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity
		WHERE query LIKE 'SELECT commit_changes()%' AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'});
	$other->query_safe('COMMIT');
	my (undef, $error) = receive($first);
	is($error, '', "$what: commit_changes() beside an open transaction");
	$first->query_safe('SELECT commit_changes()');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM rowclaim.drafts'), 0, "$what: all is committed in the end");
	return;
}

# A child of a parent whose row another session is writing to.
$first->query_safe(q{INSERT INTO parent VALUES (2, 'new', 'two')});
$first->query_safe('INSERT INTO child VALUES (1, 2)');
$second->query_safe(q{BEGIN; UPDATE parent SET v = 'newer' WHERE id = 2});
commit_beside($second, 'foreign key');

# A unique value that is given up in a row another session is writing to.
$first->query_safe(q{UPDATE parent SET u = 'three' WHERE id = 1});
$first->query_safe(q{INSERT INTO parent VALUES (3, 'new', 'one')});
$second->query_safe(q{BEGIN; UPDATE parent SET v = 'newer' WHERE id = 1});
commit_beside($second, 'unique value');

# Somebody else's steal, not yet committed, of a row in the draft.
$first->query_safe(q{INSERT INTO parent VALUES (4, 'new', 'four'); UPDATE parent SET v = 'mine' WHERE id = 1});
$first->query_safe('INSERT INTO child VALUES (4, 4)');
$bob->query_safe(q{BEGIN; SELECT steal_row('parent', 1)});
commit_beside($bob, 'steal');

is(replay($node, 'copy'), 6, 'the journal can be replayed in order');
is($node->safe_psql('postgres', 'SELECT count(*) FROM parent FULL JOIN copy.parent c USING (id, v, u) WHERE c IS NULL OR parent IS NULL'),
	0, 'and reproduces the table');

$_->quit for $first, $second, $bob;
$node->stop;
done_testing();
