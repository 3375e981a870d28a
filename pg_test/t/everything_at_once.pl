# Random writes, key changes, commits, discards, steals, savepoints and rollbacks by sessions that share actors: whatever happens, the
# committed state is what the journal says. ROWCLAIM_SEED: another seed for pgbench.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('chaos', 'deadlock_timeout = 100ms');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, v text);
	INSERT INTO part SELECT i, 'old' FROM generate_series(1, 20) i;
	CREATE SCHEMA copy;
	CREATE TABLE copy.part (LIKE part INCLUDING ALL);
	INSERT INTO copy.part TABLE part;
	SELECT enable_claims('part', claiming => 'auto');
	-- One random action; what other sessions rule out at the moment is skipped.
	CREATE FUNCTION act(what int, this int, other int) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		IF what <= 5 THEN
			UPDATE part SET v = v || '+' WHERE id = this;
		ELSIF what = 6 THEN
			UPDATE part SET v = 'two' WHERE id IN (this, other);
		ELSIF what = 7 THEN
			DELETE FROM part WHERE id = this;
		ELSIF what <= 9 THEN
			INSERT INTO part VALUES (this, 'new') ON CONFLICT (id) DO UPDATE SET v = 'again';
		ELSIF what = 10 THEN
			UPDATE part SET id = 20 + other WHERE id = this;
		ELSIF what = 11 THEN
			UPDATE part SET id = this WHERE id = 20 + other;
		ELSIF what = 12 THEN
			PERFORM steal_row('part', this);
		ELSIF what = 13 THEN
			PERFORM claim_row('part', this, ttl => '1 microsecond');
		ELSIF what = 14 THEN
			PERFORM discard_changes(target => 'part', key => this::text);
		ELSIF what = 15 THEN
			PERFORM release_row('part', this);
		ELSE
			PERFORM commit_changes(release => what = 18);
		END IF;
		RETURN 'done';
	EXCEPTION WHEN lock_not_available OR object_in_use OR unique_violation OR deadlock_detected THEN
		RETURN SQLSTATE;
	END $$});

my $one = "\\set what random(1, 18)\n\\set row random(1, 20)\n\\set other random(1, 20)\nSELECT act(:what, :row, :other);\n";
my $actor = "\\set who random(1, 2)\nSET rowclaim.actor = 'actor :who';\nSET client_min_messages = error;\n";
finish_pgbench(start_pgbench($node, {
	single => $actor . $one,
	commit => $actor . "BEGIN;\n" . $one x 3 . "COMMIT;\n",
	rollback => $actor . "BEGIN;\n" . $one x 2 . "ROLLBACK;\n",
	savepoint => $actor . "BEGIN;\n${one}SAVEPOINT a;\n$one${one}ROLLBACK TO a;\n${one}COMMIT;\n"
}, '-c', 6, '-j', 2, '-t', 200, '--max-tries', 20, '--random-seed', $ENV{ROWCLAIM_SEED} // 1), 'six sessions of two actors');

cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM rowclaim.changesets'), '>', 50, 'there are changesets');
is($node->safe_psql('postgres', q{SELECT d.target, d.key FROM rowclaim.drafts d LEFT JOIN part p ON p.id = (d.key ->> 'id')::int
	WHERE (p.id IS NULL) <> (d.op = 'delete')}), '', 'dirty rows are there, deleted ones are not');
is($node->safe_psql('postgres', q{SELECT c.key, c.owner, p.row_owner FROM rowclaim.claims c FULL JOIN (SELECT * FROM part WHERE row_owner IS NOT NULL) p
	ON p.id = (c.key ->> 'id')::int WHERE c.owner IS DISTINCT FROM p.row_owner
	AND NOT EXISTS (SELECT FROM rowclaim.drafts d WHERE d.key = c.key AND d.op = 'delete')}), '', 'claims and owner columns agree');

# The committed state: what is left uncommitted goes to the stash.
$node->safe_psql('postgres', q{SELECT release_actor('actor 1'), release_actor('actor 2')});
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM rowclaim.drafts) + (SELECT count(*) FROM rowclaim.claims) + (SELECT count(row_owner) FROM part)'),
	0, 'nothing is left held');
like(replay($node, 'copy'), qr/^\d+$/, 'the journal can be replayed');
is($node->safe_psql('postgres', 'SELECT p.id, p.v, c.id, c.v FROM part p FULL JOIN copy.part c USING (id, v) WHERE c IS NULL OR p IS NULL'),
	'', 'and gives the committed state');
is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal is sound');
unlike(slurp_file($node->logfile), qr/\b(PANIC|XX000|internal|terminated by signal)\b|tuple concurrently|invisible tuple/, 'no internal error in the log');

$node->stop;
done_testing();
