# rowclaim.claims on a replica shows who holds what on the hub, from the first copy on and after every way in which claims begin,
# change and end. It is for reading only.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Replica;
use RowClaim;

my ($hub, $replica) = new_pair();
my $ddl = q{
	CREATE TABLE part (id int PRIMARY KEY, v text);
	CREATE SCHEMA "My shop";
	CREATE TABLE "My shop"."Ord""er" (no numeric, line text, PRIMARY KEY (no, line));
	CREATE ROLE reader;
	GRANT SELECT ON part TO reader};
$_->safe_psql('postgres', $ddl) for $hub, $replica;
$hub->safe_psql('postgres', q{
	CREATE TABLE elsewhere (id int PRIMARY KEY);
	INSERT INTO elsewhere VALUES (1);
	SELECT create_journal('second');
	SELECT enable_claims('part'), enable_claims('"My shop"."Ord""er"', journal => 'second'), enable_claims('elsewhere');
	SET rowclaim.enforce = off;
	INSERT INTO part SELECT i, 'part' FROM generate_series(1, 9) i;
	INSERT INTO "My shop"."Ord""er" SELECT 7.50, 'line ' || i FROM generate_series(1, 3) i;
	SELECT commit_changes(), commit_changes(journal => 'second')});

my $claims = q{SELECT target, key, owner, token, claimed_at, expires_at, expired, reason, mine 
	FROM rowclaim.claims WHERE target::text <> 'elsewhere'};

# The replica comes to show what the hub shows.
sub shows
{
	my ($count, $name) = @_;
	my $there = $hub->safe_psql('postgres', "$claims ORDER BY token");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(() = $there =~ /^/mg, $count, "$name: on the hub") or diag $there;
	$replica->poll_query_until('postgres', "$claims ORDER BY token", $there);
	return is($replica->safe_psql('postgres', "$claims ORDER BY token"), $there, "$name: and on the replica");
}

sub as
{
	my ($actor, $sql) = @_;
	my $result = act($hub, $actor, $sql);
	die "$sql: $result" if $result =~ /ERROR/;
	return $result;
}

as('alice', q{SELECT claim_row('part', 1, reason => 'it''s "mine"'), claim_row('elsewhere', 1)});
as('bob', q{SELECT claim_row('"My shop"."Ord""er"', '{"no": 7.5, "line": "line 1"}', ttl => '1 day')});
subscribe($hub, $replica);
shows(2, 'claims before the subscription');
as('alice', q{SELECT claim_rows('part', ARRAY[2, 3, 4])});
as('carol', q{SELECT claim_rows('"My shop"."Ord""er"', ARRAY['{"no": 7.5, "line": "line 2"}', '{"no": 7.5, "line": "line 3"}']::jsonb[])});
shows(7, 'claimed');
as('bob', q{SELECT renew_claims('2 days')});
as('carol', q{SELECT claim_row('"My shop"."Ord""er"', '{"no": 7.5, "line": "line 2"}', ttl => '1 hour', reason => 'again')});
shows(7, 'renewed');
as('bob', q{SELECT steal_row('part', 2, 'urgent')});
shows(7, 'stolen');
as('alice', q{SELECT release_row('part', 3)});
shows(6, 'released');
as('alice', q{BEGIN; SELECT claim_row('part', 5); SAVEPOINT a; SELECT release_row('part', 1); ROLLBACK TO a; SELECT claim_row('part', 6); ROLLBACK});
shows(6, 'rolled back');
as('alice', q{SELECT claim_row('part', 7, ttl => '1 second')});
ok($_->poll_query_until('postgres', 'SELECT count(*) = 1 FROM rowclaim.claims WHERE expired'), 'a claim expires on the ' . $_->name) for $hub, $replica;
shows(7, 'expired');
as('bob', q{SELECT claim_row('part', 7)});
shows(7, 'taken over');
as('bob', q{UPDATE part SET id = 70 WHERE id = 7; SELECT commit_changes()});
shows(7, 'under another key');
as('bob', q{DELETE FROM part WHERE id = 70; SELECT commit_changes()});
shows(6, 'gone with its row');
as('alice', q{UPDATE part SET v = 'new' WHERE id = 1; SELECT commit_changes(release => true)});
shows(4, 'released with a commit');
$hub->safe_psql('postgres', q{SELECT release_actor('bob')});
shows(2, 'an actor released');
is_deeply([ log_errors($replica, 0) ], [], 'no error on the replica');

# For reading.
as('alice', q{SELECT claim_row('part', 8)});
shows(3, 'claimed again');
is($replica->safe_psql('postgres', q{SET ROLE reader; SELECT target, key FROM rowclaim.claims}), 'part|{"id": 8}', 'a role sees claims of tables that it may read');
for my $sql (q{DELETE FROM rowclaim.claims}, q{UPDATE rowclaim.claims SET owner = 'me'}, q{DELETE FROM rowclaim.published_claim},
	q{INSERT INTO rowclaim.published_claim (journal, target, key) VALUES ('main', 'part', '{"id": 8}')})
{
	my (undef, undef, $error) = $replica->psql('postgres', "SET ROLE reader; $sql");
	like($error, qr/ERROR:  (?:permission denied for|cannot (?:update|delete from)) (?:view|table)/, "$sql is refused");
}
like(act($replica, 'alice', q{SELECT release_row('part', 8)}), qr/ERROR:.*\n.*"reason":"claims_not_enabled"/, 'and release_row(), too');
like(act($replica, 'bob', q{SELECT steal_row('part', 8)}), qr/ERROR:.*\n.*"reason":"claims_not_enabled"/, 'and steal_row()');
shows(3, 'nothing has changed');
$hub->safe_psql('postgres', q{SELECT disable_claims('"My shop"."Ord""er"', force => true)});
shows(1, 'claims disabled');

$_->stop for $replica, $hub;
done_testing();
