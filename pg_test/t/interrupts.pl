# Every function of the API cancelled, terminated and timed out at random moments: what it did is undone, and the same call works
# in the same session right afterwards. ROWCLAIM_SEED: another seed. ROWCLAIM_ROUNDS: interruptions of each function.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use RowClaim;

my $seed = $ENV{ROWCLAIM_SEED} // time ^ $$;
my $rounds = $ENV{ROWCLAIM_ROUNDS} // 3;
srand $seed;
note "ROWCLAIM_SEED=$seed";

my $node = new_node('interrupts', 'wal_level = logical');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, v text, n int);
	INSERT INTO part SELECT i, 'old', 0 FROM generate_series(1, 1000) i;
	SELECT enable_claims('part', claiming => 'auto');
	CREATE TABLE plain (id int PRIMARY KEY, v text);
	INSERT INTO plain SELECT i FROM generate_series(1, 1000) i;
	-- All there is, but for the numbers that failed commits have used up.
	CREATE FUNCTION state() RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		t     text;
		one   text;
		state text := '';
	BEGIN
		FOREACH t IN ARRAY ARRAY['part', 'plain', 'pg_publication', 'rowclaim.claim', 'rowclaim.draft', 'rowclaim.draft_row', 'rowclaim.stash',
			'rowclaim.consumer', 'rowclaim.enabled_table', 'rowclaim.journal_config', '(SELECT tgrelid, tgname FROM pg_trigger WHERE NOT tgisinternal)',
			$q$(SELECT * FROM rowclaim.journal WHERE kind <> 'void')$q$]
		LOOP
			EXECUTE format('SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM %s t', t) INTO one;
			state := state || t || coalesce(one, '') || chr(10);
		END LOOP;
		RETURN state;
	END $$});

my $dirty = q{SET LOCAL rowclaim.actor = 'me'; UPDATE part SET v = v || '+', n = n + 1};
# name => [ what comes before, as superuser; the call of the actor "me", as superuser too ]
my %calls = (
	claim_row => [ '', q{SELECT claim_row('part', i) FROM generate_series(1, 200) i} ],
	claim_rows => [ '', q{SELECT claim_rows('part', array_agg(id)) FROM part} ],
	release_row => [ q{SET LOCAL rowclaim.actor = 'me'; SELECT claim_rows('part', array_agg(id)) FROM part WHERE id <= 200},
		q{SELECT release_row('part', i) FROM generate_series(1, 200) i} ],
	release_rows => [ q{SET LOCAL rowclaim.actor = 'me'; SELECT claim_rows('part', array_agg(id)) FROM part}, q{SELECT release_rows()} ],
	renew_claims => [ q{SET LOCAL rowclaim.actor = 'me'; SELECT claim_rows('part', array_agg(id)) FROM part}, q{SELECT renew_claims('1 day')} ],
	steal_row => [ q{SET LOCAL rowclaim.actor = 'you'; UPDATE part SET v = 'yours' WHERE id <= 50}, q{SELECT steal_row('part', i) FROM generate_series(1, 50) i} ],
	take_over => [ q{SET LOCAL rowclaim.actor = 'you'; SELECT claim_row('part', i, ttl => '1 us') FROM generate_series(1, 50) i; UPDATE part SET v = 'yours' WHERE id <= 50},
		q{SELECT claim_row('part', i) FROM generate_series(1, 50) i} ],
	release_actor => [ $dirty, q{SELECT release_actor('me')} ],
	restore_stash => [ qq{$dirty WHERE id <= 100; SELECT release_actor('me')}, q{SELECT restore_stash(id) FROM rowclaim.stash WHERE actor = 'me'} ],
	update => [ '', q{UPDATE part SET v = v || '+'} ],
	update_again => [ $dirty, q{UPDATE part SET v = v || '+'} ],
	delete => [ '', q{DELETE FROM part WHERE id > 500} ],
	insert => [ '', q{INSERT INTO part SELECT i, 'new' FROM generate_series(1001, 1500) i} ],
	commit_changes => [ $dirty, q{SELECT commit_changes('all', release => true)} ],
	commit_base => [ $dirty, q{SELECT commit_changes('all', base => (SELECT max(seq) FROM rowclaim.changesets))} ],
	discard_changes => [ $dirty, q{SELECT discard_changes()} ],
	discard_inserts => [ q{SET LOCAL rowclaim.actor = 'me'; DELETE FROM part WHERE id > 500; INSERT INTO part SELECT i, 'new' FROM generate_series(1001, 1500) i},
		q{SELECT discard_changes()} ],
	pull_changes => [ qq{$dirty; SELECT commit_changes()}, q{SELECT count(*) FROM pull_changes('consumer', max_changesets => 3)} ],
	baseline_table => [ '', q{SELECT baseline_table('part')} ],
	seal_journal => [ qq{$dirty WHERE id = 1; SELECT commit_changes()}, q{SELECT seal_journal()} ],
	verify_journal => [ '', q{SELECT * FROM verify_journal()} ],
	prune_journal => [ q{SELECT detach_consumer('consumer'), baseline_table('part')}, q{SELECT prune_journal('main', keep => 1000000)} ],
	enable_claims => [ '', q{SELECT enable_claims('plain')} ],
	disable_claims => [ q{SELECT enable_claims('plain', claiming => 'auto'); SET LOCAL rowclaim.actor = 'me'; UPDATE plain SET v = 'x'},
		q{SELECT disable_claims('plain', drop_columns => true, force => true)} ],
	create_journal => [ '', q{SELECT create_journal('journal ' || i) FROM generate_series((SELECT count(*) FROM rowclaim.journal_config), (SELECT count(*) + 20 FROM rowclaim.journal_config)) i} ],
	create_journal_publication => [ 'DROP PUBLICATION IF EXISTS p', q{SELECT create_journal_publication('p')} ]);

my ($me, $pid);
sub connect_me
{
	$me = session($node, 'me');
	$pid = $me->query_safe('SELECT pg_backend_pid()');
	return;
}
connect_me();
my $admin = session($node, 'admin');
my (%interrupted, @trouble);

sub sound
{
	my ($what) = @_;
	my $found = $admin->query_safe(q{
		SELECT 'claim without owner or the other way round', c.key, c.owner, p.row_owner
		FROM (SELECT * FROM rowclaim.claim WHERE relid = 'part'::regclass) c
		FULL JOIN (SELECT * FROM part WHERE row_owner IS NOT NULL) p ON p.id = (c.key::json ->> 'id')::int
		WHERE c.owner IS DISTINCT FROM p.row_owner
		  AND NOT EXISTS (SELECT FROM rowclaim.draft_row d WHERE d.relid = c.relid AND d.key = c.key AND d.op = 'd')
		UNION ALL
		SELECT 'dirty row without row or the other way round', d.key, d.draft::text, p.row_draft::text
		FROM (SELECT * FROM rowclaim.draft_row WHERE relid = 'part'::regclass AND op <> 'd') d
		FULL JOIN (SELECT * FROM part WHERE row_draft IN (SELECT id FROM rowclaim.draft)) p ON p.id = (d.key::json ->> 'id')::int
		WHERE d.draft IS DISTINCT FROM p.row_draft
		UNION ALL
		SELECT 'draft row without draft', d.key, d.draft::text, NULL FROM rowclaim.draft_row d WHERE d.draft NOT IN (SELECT id FROM rowclaim.draft)
		UNION ALL
		SELECT 'journal', problem, seq::text, part::text FROM verify_journal()});
	push @trouble, "$what: $found" if $found ne '';
	return;
}

sub prepare
{
	my ($before) = @_;
	$admin->query_safe(q{BEGIN; SET LOCAL rowclaim.enforce = off; SELECT release_actor('me'), release_actor('you'); DELETE FROM rowclaim.stash;
		SELECT disable_claims('plain', drop_columns => true, force => true) WHERE EXISTS (SELECT FROM rowclaim.tables WHERE target = 'plain'::regclass); COMMIT});
	$admin->query_safe("BEGIN; $before; COMMIT") if $before;
	return $admin->query_safe('SELECT state()');
}

for my $name (sort keys %calls)
{
	my ($before, $call) = @{ $calls{$name} };
	my $transaction = "BEGIN; $call; COMMIT";
	my $length;
	for my $round (0 .. $rounds)
	{
		my $state = prepare($before);
		if ($round > 0)
		{
			my $how = ('cancel', 'terminate', 'timeout')[ $round % 3 ];
			my $wait = rand $length;
			my $ms = 1 + int($wait * 1000);
			# Were BEGIN interrupted, psql would send the rest on its own.
			$me->query_safe('BEGIN');
			send_query($me, $how eq 'timeout' ? "SET LOCAL statement_timeout = $ms; $call; COMMIT" : "$call; COMMIT");
			if ($how ne 'timeout')
			{
				usleep $wait * 1e6;
				kill $how eq 'cancel' ? 'INT' : 'TERM', $pid;
			}
			my (undef, $error) = eval { receive($me) };
			if ($how eq 'terminate')
			{
				$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid") or die 'it does not end';
				eval { $me->quit };
				connect_me();
				# The session may have ended after its commit, and say so all the same.
				$error = $admin->query_safe('SELECT state()') eq $state ? 'terminated' : '';
			}
			else
			{
				# An interruption that came late may hit the next statements, too.
				1 while try($me, 'ROLLBACK') ne '' or try($me, q{SET statement_timeout = '60s'}) ne '';
			}
			if (($error // '') ne '')
			{
				$interrupted{$how}++;
				push @trouble, "$name, $how: something is left behind of: $error" if $admin->query_safe('SELECT state()') ne $state;
				sound("$name, $how");
			}
			else
			{
				sound("$name, $how too late");
				prepare($before);
			}
		}
		# The same call in the same session.
		my $start = time;
		my $error = try($me, $transaction);
		$length //= time - $start;
		push @trouble, "$name fails afterwards: $error" if $error ne '';
		sound("$name, afterwards");
	}
}
is(join("\n", @trouble), '', 'whatever is interrupted is undone, and the next call works');
note join ', ', map { "$interrupted{$_} by $_" } sort keys %interrupted;
cmp_ok($interrupted{cancel} // 0, '>', keys(%calls) / 8, 'calls were cancelled');
cmp_ok($interrupted{terminate} // 0, '>', keys(%calls) / 8, 'calls were terminated');
unlike(slurp_file($node->logfile), qr/\b(PANIC|XX000|internal|terminated by signal)\b|tuple concurrently|invisible tuple|leak/, 'no internal error in the log');

eval { $_->quit } for $me, $admin;
$node->stop;
done_testing();
