# An entry whose content is not what its hash says is not replayed, neither from the initial copy nor as it streams; the right entry is.
use strict;
use warnings;
use Test::More;
use RowClaim;
use Replica;

my ($hub, $replica) = new_pair();
my $table = 'CREATE TABLE part (id int PRIMARY KEY, v text)';
$hub->safe_psql('postgres', "$table; SELECT enable_claims('part', claiming => 'auto')");
$replica->safe_psql('postgres', $table);

act($hub, 'alice', q{INSERT INTO part VALUES (1, 'one'); SELECT commit_changes('first')});
$hub->safe_psql('postgres', q{UPDATE rowclaim.journal SET changes = replace(changes::text, 'one', 'two')::json WHERE seq = 1});
subscribe($hub, $replica);
is(wait_failing($replica, 1), '||journal main is damaged: entry 1 part 1: content does not match its hash', 'an altered entry is not copied');
is($replica->safe_psql('postgres', 'SELECT count(*) FROM part'), 0, 'nor replayed');
my ($error) = grep { /damaged/ } log_errors($replica, 0, 1);
like($error, qr/^XX001 .*\n.*"reason":"journal_corrupt","journal":"main"/, 'the error has its SQLSTATE and reason');
$hub->safe_psql('postgres', q{UPDATE rowclaim.journal SET changes = replace(changes::text, 'two', 'one')::json WHERE seq = 1});
wait_applied($hub, $replica);
same_rows($hub, $replica, 'part');

# A forged entry with a number of its own: whoever can write it cannot know the hash without doing as rowclaim does.
$hub->safe_psql('postgres', q{
	INSERT INTO rowclaim.journal (journal, seq, part, parts, kind, actor, xid, committed_at, changes, hash)
	SELECT journal, 2, 1, 1, kind, 'mallory', xid, committed_at, changes, hash FROM rowclaim.journal WHERE seq = 1});
is(wait_failing($replica, 2), '||journal main is damaged: entry 2 part 1: content does not match its hash', 'a forged entry does not stream in');
same_rows($hub, $replica, 'part');

# Another entry under a number that the replica has.
$replica->safe_psql('postgres', 'DROP SUBSCRIPTION sub');
$hub->safe_psql('postgres', 'DELETE FROM rowclaim.journal WHERE seq = 2');
subscribe($hub, $replica, with => 'copy_data = false');
my $offset = -s $replica->logfile;
$hub->safe_psql('postgres', q{
	SELECT * INTO TEMP gone FROM rowclaim.journal WHERE seq = 1;
	DELETE FROM rowclaim.journal WHERE seq = 1;
	INSERT INTO rowclaim.journal SELECT journal, seq, part, parts, kind, 'mallory', base, xid, message, committed_at, changes, sha256('other') FROM gone});
$replica->wait_for_log(qr/another entry has this number here/, $offset);
($error) = grep { /another entry/ } log_errors($replica, $offset, 1);
like($error, qr/^55000 .*\n.*"reason":"replay_diverged","journal":"main","seq":1\b/, 'another entry under a known number stops replay');

$_->stop for $replica, $hub;
done_testing();
