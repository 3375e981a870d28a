# Memory that runs out at any allocation of every function of the API, of writes, of commits and of replay: an error (53200), after
# which the session goes on; nothing is left behind. alloc_failures.c, loaded into the server, makes allocations fail.
# ROWCLAIM_SEED: another seed. ROWCLAIM_SECONDS: how long for each call. ROWCLAIM_CALL: only this one, or replay.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';
use Replica;
use RowClaim;

my $seed = $ENV{ROWCLAIM_SEED} // time ^ $$;
my $seconds = $ENV{ROWCLAIM_SECONDS} // 1.5;
srand $seed;
note "ROWCLAIM_SEED=$seed";

# The library, and the file through which it is told what to do.
my $dir = PostgreSQL::Test::Utils::tempdir();
system('cc', '-shared', '-fPIC', '-O2', '-o', "$dir/alloc_failures.so", 't/alloc_failures.c') == 0 or die 'cannot compile alloc_failures.c';
open my $control, '+>', "$dir/control" or die $!;
binmode $control;

sub set_control { sysseek $control, 0, 0; syswrite($control, pack 'q7', @_) == 56 or die $!; return }

# How many allocations there were, and how many of them failed.
sub counts { sysseek $control, 0, 0; sysread($control, my $state, 56) == 56 or die $!; return (unpack 'q7', $state)[ 4, 5 ] }

set_control((0) x 7);
my ($node, $replica);
{
	local @ENV{qw(LD_PRELOAD ROWCLAIM_ALLOC)} = ("$dir/alloc_failures.so", "$dir/control");
	# What is wrong is told at the end.
	($node, $replica) = new_pair(hub => [ 'restart_after_crash = on', 'log_error_verbosity = verbose' ], replica => ['restart_after_crash = on']);
}
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, v text, n int UNIQUE DEFERRABLE);
	INSERT INTO part SELECT i, 'old', i FROM generate_series(1, 20) i;
	CREATE TABLE piece (id int PRIMARY KEY, part int REFERENCES part, v text);
	INSERT INTO piece SELECT i, i, 'old' FROM generate_series(1, 20) i;
	CREATE TABLE log (id int PRIMARY KEY, v text);
	INSERT INTO log SELECT i, 'old' FROM generate_series(1, 20) i;
	CREATE TABLE plain (id int PRIMARY KEY, v text);
	INSERT INTO plain SELECT i FROM generate_series(1, 20) i;
	SELECT enable_claims('part', claiming => 'auto'), enable_claims('piece', claiming => 'auto'), enable_claims('log', 'auto', 'transaction');
	-- All there is, but for the numbers that failed commits have used up.
	CREATE FUNCTION state() RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		t     text;
		one   text;
		state text := '';
	BEGIN
		FOREACH t IN ARRAY ARRAY['part', 'piece', 'log', 'plain', 'pg_publication', 'rowclaim.claim', 'rowclaim.draft', 'rowclaim.draft_row',
			'rowclaim.stash', 'rowclaim.consumer', 'rowclaim.enabled_table', 'rowclaim.journal_config',
			'(SELECT tgrelid, tgname FROM pg_trigger WHERE NOT tgisinternal)', $q$(SELECT * FROM rowclaim.journal WHERE kind <> 'void')$q$]
		LOOP
			EXECUTE format('SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM %s t', t) INTO one;
			state := state || t || coalesce(one, '') || chr(10);
		END LOOP;
		RETURN state;
	END $$});

my $dirty = q{SET LOCAL rowclaim.actor = 'me'; UPDATE part SET v = v || '+', n = n + 100; UPDATE piece SET v = v || '+'};
my $claimed = q{SET LOCAL rowclaim.actor = 'me'; SELECT claim_rows('part', array_agg(id)) FROM part};
my $theirs = q{SET LOCAL rowclaim.actor = 'you'; UPDATE part SET v = 'yours' WHERE id <= 5};
# name => [ what comes before; the call of the actor "me", both as superuser ]
my %calls = (
	claim_row => [ '', q{SELECT claim_row('part', 1)} ],
	claim_row_held => [ $theirs, q{SELECT claim_row('part', 1)} ],
	claim_rows => [ '', q{SELECT claim_rows('part', array_agg(id)) FROM part} ],
	release_row => [ $claimed, q{SELECT release_row('part', 2)} ],
	release_rows => [ $claimed, q{SELECT release_rows()} ],
	renew_claims => [ $claimed, q{SELECT renew_claims('1 day')} ],
	steal_row => [ $theirs, q{SELECT steal_row('part', 3)} ],
	take_over => [ q{SET LOCAL rowclaim.actor = 'you'; SELECT claim_row('part', i, ttl => '1 us') FROM generate_series(1, 5) i; UPDATE part SET v = 'yours' WHERE id <= 5},
		q{SELECT claim_row('part', i) FROM generate_series(1, 5) i} ],
	release_actor => [ $dirty, q{SELECT release_actor('me')} ],
	restore_stash => [ qq{$dirty; SELECT release_actor('me')}, q{SELECT restore_stash(id) FROM rowclaim.stash WHERE actor = 'me'} ],
	update => [ '', q{UPDATE part SET v = v || '+'} ],
	update_again => [ $dirty, q{UPDATE part SET v = v || '+', n = n + 1000} ],
	update_key => [ qq{$dirty; INSERT INTO part SELECT i, 'new', i FROM generate_series(201, 205) i}, q{UPDATE part SET id = id + 1000 WHERE id BETWEEN 201 AND 205} ],
	delete => [ '', q{DELETE FROM piece WHERE id > 10} ],
	insert => [ '', q{INSERT INTO part SELECT i, 'new', i FROM generate_series(101, 110) i} ],
	transaction => [ '', q{UPDATE log SET v = v || '+'\; UPDATE log SET id = id + 100 WHERE id BETWEEN 16 AND 20\; DELETE FROM log WHERE id = 1\; INSERT INTO log VALUES (1, 'new')\; UPDATE log SET id = id - 100 WHERE id > 100} ],
	savepoints => [ '', q{UPDATE part SET v = 'a' WHERE id < 5\; SAVEPOINT s\; UPDATE part SET v = 'b' WHERE id < 9\; RELEASE s\; SAVEPOINT s\; UPDATE part SET v = 'c'\; ROLLBACK TO s} ],
	transaction_savepoints => [ '', q{UPDATE log SET v = 'a' WHERE id < 5\; SAVEPOINT s\; UPDATE log SET v = 'b' WHERE id < 9\; RELEASE s\; SAVEPOINT s\; UPDATE log SET v = 'c'\; ROLLBACK TO s} ],
	commit_changes => [ $dirty, q{SELECT commit_changes('all', release => true)} ],
	commit_base => [ $dirty, q{SELECT commit_changes('all', base => (SELECT max(seq) FROM rowclaim.changesets))} ],
	discard_changes => [ $dirty, q{SELECT discard_changes()} ],
	discard_inserts => [ q{SET LOCAL rowclaim.actor = 'me'; DELETE FROM piece WHERE id > 5; INSERT INTO part SELECT i, 'new', i FROM generate_series(101, 110) i},
		q{SELECT discard_changes()} ],
	pull_changes => [ qq{$dirty; SELECT commit_changes()}, q{SELECT count(*) FROM pull_changes('consumer', max_changesets => 3)} ],
	baseline_table => [ '', q{SELECT baseline_table('part')} ],
	seal_journal => [ qq{$dirty; SELECT commit_changes()}, q{SELECT seal_journal()} ],
	verify_journal => [ '', q{SELECT * FROM verify_journal()} ],
	check_claims => [ $dirty, q{SELECT * FROM check_claims()} ],
	prune_journal => [ q{SELECT detach_consumer('consumer'), baseline_table('part'), baseline_table('piece'), baseline_table('log')},
		q{SELECT prune_journal('main', keep => 1000000)} ],
	enable_claims => [ '', q{SELECT enable_claims('plain')} ],
	disable_claims => [ q{SELECT enable_claims('plain', claiming => 'auto'); SET LOCAL rowclaim.actor = 'me'; UPDATE plain SET v = 'x'},
		q{SELECT disable_claims('plain', drop_columns => true, force => true)} ]);

# How allocations fail: one, or all until the client is told; any or the extension's; in a session that has made the call before or not.
my %ways = (
	'one' => { count => 1 },
	'all' => { count => 1 << 40 },
	q{all of the extension's} => { count => 1 << 40, own => 1 },
	'all of a new session' => { count => 1 << 40, new => 1 });

my $admin = session($node, 'admin');
my ($me, $pid);
my (%tried, %errors, %allocations, @trouble);
# PostgreSQL 15 ends the session when it has no memory for the settings of a function ("SET search_path = ..."), and may have none to tell
# how it came to that. That is its own doing; the others live on.
my $servers_own = qr/^[^\n]* FATAL:  53200: out of memory\n(?:[^\n]* DETAIL:  Failed on request of size \d+ in memory context "ErrorContext"|(?:[^\n]* CONTEXT:  [^\n]*\n(?:\t[^\n]*\n)*)?[^\n]* LOCATION:  guc_(?:malloc|strdup), )/m;
my $ended = 0;

sub trouble
{
	push @trouble, @_;
	diag @_;
	return;
}

sub connect_me
{
	eval { $me->quit } if $me;
	$me = session($node, 'me');
	$pid = $me->query_safe('SELECT pg_backend_pid() FROM rowclaim.is_loaded()');
	# A library whose loading fails in the middle cannot be loaded again, PL/pgSQL's either.
	$me->query_safe(q{LOAD 'plpgsql'; \set VERBOSITY sqlstate});
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

# Lets a random allocation of the call fail.
sub fail_in
{
	my ($name, $how) = @_;
	my ($before, $call) = @{ $calls{$name} };
	my $way = $ways{$how} // {};
	my $state = prepare($before);
	connect_me() if $way->{new};
	# The first time they are counted.
	my $allocations = $allocations{$name}{$how};
	my $first = $allocations ? 1 + int rand $allocations : 1 << 40;
	# One message: what is sent with it is part of it.
	my $transaction = "BEGIN\\; $call\\; COMMIT";
	set_control($pid, $way->{own} // 0, $first, $way->{count} // 0, 0, 0, 0);
	my $offset = -s $node->logfile;
	my $error = eval { try($me, $transaction) } // "no answer: $@";
	my ($calls, $failed) = counts();
	set_control((0) x 7);
	$allocations{$name}{$how} //= $calls;
	my $what = "$name, $how from $first of $calls";
	$tried{$how}++ if $failed;
	if ($error =~ /^no answer/ && slurp_file($node->logfile, $offset) =~ $servers_own)
	{
		$ended++;
		connect_me();
	}
	elsif ($error =~ /^no answer/)
	{
		trouble("$what: $error");
		$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
		$admin = session($node, 'admin');
		connect_me();
	}
	elsif ($error ne '')
	{
		trouble("$what: $error") if !$failed || $error !~ /^(psql:\S+ )?ERROR:  53200\s*$/;
		$errors{$how}++;
		try($me, 'ROLLBACK');
	}
	if ($error ne '')
	{
		trouble("$what: something is left behind") if $admin->query_safe('SELECT state()') ne $state;
		my $again = try($me, $transaction);
		trouble("$what: it fails afterwards: $again") if $again ne '';
	}
	trouble("$what: the session has ended") if $me->query_safe('SELECT pg_backend_pid()') ne $pid;
	return;
}

for my $name (sort keys %calls)
{
	next if $ENV{ROWCLAIM_CALL} && $name ne $ENV{ROWCLAIM_CALL};
	connect_me();
	my $end = time + $seconds;
	# So that caches are filled, for the ways that count on it.
	fail_in($name, 'warm');
	fail_in($name, $_) for (sort keys %ways) x 2;
	while (time < $end) { fail_in($name, (sort keys %ways)[ rand keys %ways ]) }
	my $found = $admin->query_safe(q{SELECT 'claims', c::text FROM check_claims() c UNION ALL SELECT 'journal', v::text FROM verify_journal() v});
	trouble("$name: $found") if $found ne '';
	note "$name: allocations ", join ', ', map { "$_ $allocations{$name}{$_}" } sort keys %ways;
}

# The apply worker ends with the error, and the next one goes on.
if (!$ENV{ROWCLAIM_CALL} || $ENV{ROWCLAIM_CALL} eq 'replay')
{
	my $table = q{CREATE TABLE copied (id int PRIMARY KEY, v text, n int UNIQUE DEFERRABLE); INSERT INTO copied SELECT i, 'old', i FROM generate_series(1, 30) i};
	$_->safe_psql('postgres', $table) for $node, $replica;
	$node->safe_psql('postgres', q{SELECT create_journal('copies'), enable_claims('copied', claiming => 'auto', journal => 'copies'), create_journal_publication('pub', ARRAY['copies'])});
	subscribe($node, $replica);
	my ($workers, $failures, @allocations, $end) = (0, 0);
	for (my $round = 0; $round < 4 || time < $end; $round++)
	{
		$end //= time + 8 * $seconds;
		my $own = $round % 2;
		my $worker = q{FROM pg_stat_subscription WHERE relid IS NULL AND pid IS NOT NULL};
		$replica->poll_query_until('postgres', "SELECT count(*) = 1 $worker") or die 'no worker';
		my $first = $allocations[$own] ? 1 + int rand $allocations[$own] : 1 << 40;
		my $pid = $replica->safe_psql('postgres', "SELECT pid $worker") || next;
		set_control($pid, $own, $first, rand() < 0.3 ? 1 : 1 << 40, 0, 0, 0);
		my $error = act($node, 'me', q{DELETE FROM copied WHERE id % 3 = 0; UPDATE copied SET v = v || '+', n = n + 1;
			INSERT INTO copied SELECT i, 'new', -i FROM generate_series(3, 30, 3) i; SELECT commit_changes(journal => 'copies') IS NULL});
		trouble("replay: $error") if $error ne 'f';
		wait_applied($node, $replica, journal => 'copies');
		my ($calls, $failed) = counts();
		set_control((0) x 7);
		$allocations[$own] //= $calls;
		$failures++ if $failed;
		$workers++ if $failed && $replica->safe_psql('postgres', "SELECT count(*) $worker AND pid = $pid") eq '0';
	}
	note "replay: $allocations[0] allocations, $allocations[1] of them the extension's; $failures failures, $workers workers ended";
	same_rows($node, $replica, 'copied');
	is($replica->safe_psql('postgres', q{SELECT * FROM verify_journal('copies')}), '', 'the journal there is sound');
	is_deeply([ grep { !/^53200 out of memory$/ } log_errors($replica, 0) ], [], 'no other error there');
	unlike(slurp_file($replica->logfile), qr/\b(PANIC|terminated by signal)\b/, 'and no crash');
}

is(join("\n", @trouble), '', 'whatever lacks memory is undone, and the next call works');
note "$_: $tried{$_} tried, ", $errors{$_} // 0, ' errors' for sort keys %tried;
note "the server ended the session $ended times";
unlike(slurp_file($node->logfile) =~ s/$servers_own//gr, qr/\b(PANIC|FATAL|XX000|terminated by signal)\b/, 'no internal error in the log');
eval { $_->quit } for $me, $admin;
$_->stop for $node, $replica;
done_testing();
