# What the tests of upgrades, dumps, backups and standbys share: a database in use (upgrade/in_use.sql), what must be the same
# in every copy of it, and work that goes on there.
package InUse;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use RowClaim;
use Test::More;

our @EXPORT = qw(put_to_use act state goes_on);

# Runs SQL for an actor; output and error text.
sub act
{
	my ($node, $db, $actor, $sql) = @_;
	my (undef, $out, $error) = $node->psql($db, "SET rowclaim.actor = '$actor'; SET client_min_messages = error; SET statement_timeout = '120s'; $sql",
		on_error_stop => 1);
	return $out . $error;
}

# Makes a database with the extension one that is in use.
sub put_to_use
{
	my ($node, $db) = @_;
	$node->psql($db, slurp_file('upgrade/in_use.sql'), on_error_die => 1);
	return;
}

# Everything users can rely on, as text, with tables by name. What a restored database numbers anew is left out.
sub state
{
	my ($node, $db) = @_;
	return $node->safe_psql($db, q{
		SET rowclaim.actor = 'alice';
		SELECT 'table', to_jsonb(t) AS is FROM rowclaim.tables t
		UNION ALL SELECT 'journal', jsonb_build_object('name', c.name, 'id', c.id, 'require_current', c.require_current, 'stable', rowclaim.stable_seq(c.name))
			FROM rowclaim.journal_config c
		UNION ALL SELECT 'entry', to_jsonb(j) FROM (SELECT journal, seq, part, parts, kind, actor, base, xid, message, committed_at, changes, hash FROM rowclaim.journal) j
		UNION ALL SELECT 'claim', to_jsonb(c) FROM (SELECT target, key, owner, token, claimed_at, expires_at, expired, reason, dirty, mine FROM rowclaim.claims) c
		UNION ALL SELECT 'draft', to_jsonb(d) FROM (SELECT actor, journal, target, key, op, since FROM rowclaim.drafts) d
		UNION ALL SELECT 'base', to_jsonb(d) FROM (SELECT relid, key, draft, op, base, base_version, base_key FROM rowclaim.draft_row) d
		UNION ALL SELECT 'stash', to_jsonb(s) FROM (SELECT id, actor, journal, target, key, op, base, mine, cause, reason, stashed_by, stashed_at FROM rowclaim.stashes) s
		UNION ALL SELECT 'consumer', to_jsonb(c) FROM (SELECT consumer, journal, position, lag, role, last_seen FROM rowclaim.consumers) c
		UNION ALL SELECT 'change', to_jsonb(c) FROM (SELECT journal, seq, change, actor, committed_at, op, target, key, old, new, version FROM rowclaim.changes) c
		-- A crash may leave tokens out, but never gives one again.
		UNION ALL SELECT 'token', to_jsonb(last_value >= (SELECT max(token) FROM rowclaim.claim)) FROM rowclaim.token_seq
		UNION ALL SELECT 'part', to_jsonb(p) FROM "odd schema"."Part" p
		UNION ALL SELECT 'measure', to_jsonb(m) || jsonb_build_object('leaf', m.tableoid::regclass) FROM measure m
		UNION ALL SELECT 'tally', to_jsonb(t) FROM tally t
		ORDER BY 1, 2});
}

# Work goes on: tokens, numbers, drafts, consumers, DDL. Ends with no claim left. After a crash or a promotion the server's sequences
# have skipped values (option recovered): the numbers are accounted for by void entries.
sub goes_on
{
	my ($node, $db, $name, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $alice = sub { act($node, $db, 'alice', $_[0]) };
	my $bob = sub { act($node, $db, 'bob', $_[0]) };
	my $last_token = $node->safe_psql($db, 'SELECT max(token) FROM rowclaim.claim');
	is($bob->(q{SELECT status, owner FROM claim_row('"odd schema"."Part"', 2)}), 'denied|alice', "$name: alice still holds her row");
	is($bob->(qq{SELECT status, token > $last_token FROM claim_row('"odd schema"."Part"', 5)}), 'granted|t', "$name: a new token is larger");
	like($bob->(q{UPDATE "odd schema"."Part" SET v = 'bob' WHERE id = 2}), qr/is held by alice/, "$name: writes are still guarded");
	my $tally = $bob->(q{UPDATE tally SET n = n + 1; SELECT max(seq) FROM rowclaim.changesets WHERE journal = 'main'});
	my $second = $alice->(q{SELECT commit_changes('second')});
	if ($options{recovered})
	{
		cmp_ok($tally, '>', 4, "$name: the next number is larger");
		cmp_ok($second, '>', $tally, "$name: the draft can be committed");
	}
	else
	{
		is($tally, 5, "$name: the next number is the next");
		is($second, 6, "$name: the draft can be committed");
	}
	is($alice->(qq{SELECT op, key, old, new FROM rowclaim.changes WHERE journal = 'main' AND seq = $second ORDER BY change}),
		qq(update|{"id":2}|{"v":"old"}|{"v":"dirty"}\ndelete|{"id":3}|{"id":3,"v":"old"}|\ninsert|{"id":7}||{"id":7,"v":"new"}), "$name: as it was made");
	is($alice->(q{SELECT discard_changes('side')}), 3, "$name: the draft in another journal can be discarded");
	is($alice->(q{SELECT id, v, tableoid::regclass FROM measure ORDER BY id}),
		"1|1|measure_2026\n2|2|measure_rest\n3|4|measure_rest\n4|4|measure_rest\n5|5|measure_rest\n6|6|measure_rest", "$name: and the rows are back in their partitions");
	my $side = $alice->(q{UPDATE measure SET v = 0 WHERE id = 1; SELECT commit_changes(journal => 'side')});
	cmp_ok($side, '>', 2, "$name: the other journal goes on, too");
	my $third = $alice->(q{SELECT claim_row('"odd schema"."Part"', 6); UPDATE "odd schema"."Part" SET v = 'x' WHERE id = 6; SELECT commit_changes()}) =~ s/.*\n//sr;
	is($alice->(qq{SELECT op, key, new FROM rowclaim.changes WHERE journal = 'main' AND seq = $third}), 'update|{"id":6}|{"v":"x"}', "$name: new drafts do not mix with old ones");
	is($node->safe_psql($db, q{SELECT create_journal('later'); SELECT id > 3 FROM rowclaim.journal_config WHERE name = 'later'}), "\nt", "$name: a new journal can be created");
	is($bob->(q{SELECT seq FROM pull_changes('replica')}), "2\n4\n$tally\n$second\n$third", "$name: the consumer goes on where it was");
	cmp_ok($alice->(q{ALTER TABLE measure ADD COLUMN extra int; ALTER TABLE measure RENAME COLUMN v TO value; UPDATE measure SET value = 9, extra = 1 WHERE id = 1;
		SELECT commit_changes(journal => 'side')}), '>', $side, "$name: the table can be altered");
	is($alice->(q{SELECT new FROM rowclaim.changes WHERE journal = 'side' ORDER BY seq DESC LIMIT 1}), q({"value":9,"extra":1}), "$name: and written");
	is($node->safe_psql($db, q{SELECT count(*) FROM (SELECT verify_journal('main') UNION ALL SELECT verify_journal('side')) v}), 0, "$name: the journals are sound");
	is($node->safe_psql($db, q{SELECT journal, count(*) - max(seq), max(seq) - rowclaim.stable_seq(journal) FROM rowclaim.journal WHERE part = 1 GROUP BY 1 ORDER BY 1}),
		"main|0|0\nside|0|0", "$name: and have no gap");
	is($alice->(q{SELECT release_rows() > 0}), 't', "$name: claims can be released");
	is($bob->(q{SELECT release_row('"odd schema"."Part"', 4)}), 't', "$name: the stolen row, too");
	is($alice->(q{SELECT claim_row('"odd schema"."Part"', 4); SELECT restore_stash(id) FROM rowclaim.stashes; SELECT v FROM "odd schema"."Part" WHERE id = 4}) =~ s/.*\n//sr,
		'dirty', "$name: the stash can be taken back");
	return;
}

1;
