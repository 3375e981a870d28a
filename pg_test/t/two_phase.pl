# PREPARE TRANSACTION of claims, drafts and changesets, with restarts before COMMIT PREPARED and ROLLBACK PREPARED.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('two_phase');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, v text);
	INSERT INTO part SELECT i, 'old' FROM generate_series(1, 5) i;
	CREATE TABLE tally (id int PRIMARY KEY, n int);
	INSERT INTO tally VALUES (1, 0), (2, 0), (3, 0);
	SELECT enable_claims('part'), enable_claims('tally', claiming => 'auto', committing => 'transaction')});
sub as
{
	my ($actor, $sql) = @_;
	my (undef, $out, $error) = $node->psql('postgres', "SET rowclaim.actor = '$actor'; SET client_min_messages = error; $sql", on_error_stop => 1);
	return join '', $out, $error;
}

# A claim and a draft in a prepared transaction.
is(as('alice', q{BEGIN; SELECT status FROM claim_row('part', 1); UPDATE part SET v = 'prepared' WHERE id = 1; PREPARE TRANSACTION 'draft'}), 'granted', 'a draft is prepared');
like(as('bob', q{SET lock_timeout = '100ms'; SELECT claim_row('part', 1)}), qr/lock timeout/, 'its row is taken');
is(as('bob', q{SELECT status FROM claim_row('part', 2)}), 'granted', 'others are not');
is(as('alice', 'SELECT commit_changes()'), '', 'its actor has nothing to commit yet');
$node->stop('immediate');
$node->start;
like(as('bob', q{SET lock_timeout = '100ms'; SELECT claim_row('part', 1)}), qr/lock timeout/, 'nor after a restart');
as('postgres', q{COMMIT PREPARED 'draft'});
is(as('bob', q{SELECT status, owner FROM claim_row('part', 1)}), 'denied|alice', 'the claim is committed');
is($node->safe_psql('postgres', q{SELECT actor, op, key FROM rowclaim.drafts}), 'alice|update|{"id": 1}', 'so is the draft');
is(as('alice', 'SELECT commit_changes()'), 1, 'its actor can commit it');

# commit_changes() in a prepared transaction: its number stays in flight.
as('alice', q{BEGIN; UPDATE part SET v = 'twice' WHERE id = 1; SELECT commit_changes(); PREPARE TRANSACTION 'changeset'});
is(as('bob', q{UPDATE part SET v = 'bob' WHERE id = 2; SELECT commit_changes()}), 3, 'another commit goes on');
is(as('bob', q{SELECT seq FROM pull_changes('reader')}), 1, 'readers stop below the prepared number');
$node->stop('immediate');
$node->start;
is(as('bob', q{SELECT seq FROM pull_changes('reader')}), 1, 'also after a restart');
my $next = as('bob', q{UPDATE part SET v = 'bob again' WHERE id = 2; SELECT commit_changes()});
cmp_ok($next, '>', 3, 'commits still go on');
is(as('bob', q{SELECT max(seq) FROM pull_changes('reader')}), 1, 'readers still wait');
as('postgres', q{COMMIT PREPARED 'changeset'});
is(as('bob', q{SELECT seq FROM pull_changes('reader')}), "1\n2\n3\n$next", 'until it is committed');

# A transaction table.
is(as('alice', q{BEGIN; UPDATE tally SET n = n + 1 WHERE id = 1; PREPARE TRANSACTION 'tally'}), '', 'a transaction that commits its changes is prepared');
is(as('bob', q{UPDATE tally SET n = n + 1 WHERE id = 2; SELECT count(*) FROM rowclaim.changes WHERE target = 'public.tally'}), 0, 'it holds back what comes later');
$node->stop('immediate');
$node->start;
as('postgres', q{COMMIT PREPARED 'tally'});
is(as('bob', q{UPDATE tally SET n = n + 1 WHERE id = 2; SELECT string_agg(actor, ' ' ORDER BY seq) FROM rowclaim.changes WHERE target = 'public.tally'}),
	'alice bob bob', 'it is journaled first when committed');

# Rolled back: void, and nothing stalls.
is(as('alice', q{BEGIN; UPDATE tally SET n = n + 1 WHERE id = 3; UPDATE part SET v = 'no' WHERE id = 1; PREPARE TRANSACTION 'no'}), '', 'another one is prepared');
$node->stop('immediate');
$node->start;
as('postgres', q{ROLLBACK PREPARED 'no'});
is(as('bob', q{UPDATE tally SET n = n + 1 WHERE id = 2; SELECT string_agg(actor, ' ' ORDER BY seq) FROM rowclaim.changes WHERE target = 'public.tally'}),
	'alice bob bob bob', 'rolled back it leaves no change');
is($node->safe_psql('postgres', q{SELECT n FROM tally ORDER BY id}), "1\n3\n0", 'in the table neither');
is($node->safe_psql('postgres', q{SELECT count(*) FROM rowclaim.drafts}), 0, 'nor a draft');
is($node->safe_psql('postgres', q{SELECT max(seq) - rowclaim.stable_seq('main'), max(seq) - count(*) FROM rowclaim.journal}), '0|0', 'every number is accounted for');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');

# The session that prepared it has not committed it either.
is(as('alice', q{BEGIN; UPDATE tally SET n = n + 1 WHERE id = 3; PREPARE TRANSACTION 'no'; ROLLBACK PREPARED 'no';
	UPDATE tally SET n = n + 1 WHERE id = 3; UPDATE tally SET n = n + 1 WHERE id = 3;
	SELECT string_agg(kind, ' ' ORDER BY seq) FROM (SELECT seq, kind FROM rowclaim.journal ORDER BY seq DESC LIMIT 3) s}),
	'void changeset changeset', 'its own session accounts for the number');
is($node->safe_psql('postgres', q{SELECT max(seq) - rowclaim.stable_seq('main') FROM rowclaim.journal}), 0, 'no number is left');

# Nor do others learn from it that it has.
my ($one, $two) = map { $node->background_psql('postgres', on_error_stop => 1) } 1, 2;
my $add = 'UPDATE tally SET n = n + 1 WHERE id =';
$_->query_safe('SET client_min_messages = error') for $one, $two;
$one->query_safe("$add 1");
$two->query_safe("$add 2");
$one->query_safe("BEGIN; $add 1; PREPARE TRANSACTION 'no'");
$one->query_safe("ROLLBACK PREPARED 'no'");
$two->query_safe("$add 2");
is($node->safe_psql('postgres', q{SELECT string_agg(kind, ' ' ORDER BY seq) FROM (SELECT seq, kind FROM rowclaim.journal ORDER BY seq DESC LIMIT 3) s}),
	'changeset void changeset', 'the next commit accounts for the number');
$one->query_safe("BEGIN; $add 1; PREPARE TRANSACTION 'no'");
$one->query_safe("$add 3");
$two->query_safe("$add 2");
$one->query_safe("ROLLBACK PREPARED 'no'");
$two->query_safe("$add 2");
is($node->safe_psql('postgres', q{SELECT max(seq) - rowclaim.stable_seq('main') FROM rowclaim.journal}), 0, 'also behind others');
$_->quit for $one, $two;

$node->stop;
done_testing();
