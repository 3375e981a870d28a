# What runs out: disk space for tables, temporary files and WAL, locks, memory. The call fails, nothing is lost or half done, and it
# works once there is room. pg_test/run gives a small file system of its own in ROWCLAIM_SMALL_DISK (it takes root to mount one).
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'usleep';
use RowClaim;

my $disk = $ENV{ROWCLAIM_SMALL_DISK} or plan skip_all => 'only root can mount a small file system';

# Nearly fills the small file system; free_space() ends that.
sub fill_space
{
	my ($leave) = @_;
	my $free = (split ' ', `df --output=avail -B1 $disk | tail -n 1`)[0];
	open my $out, '>', "$disk/filler" or die $!;
	my $block = 'x' x 65536;
	for (my $written = 0; $written + 65536 <= $free - $leave; $written += 65536) { print $out $block or last }
	close $out;
	return;
}

sub free_space { unlink "$disk/filler"; return }

# SQLSTATE and message of a statement that fails.
sub error_of
{
	my ($session, $sql) = @_;
	send_query($session, "\\set VERBOSITY verbose\n$sql");
	my (undef, $error) = receive($session);
	return $error =~ /ERROR:  (\w{5}): ([^\n]*)/ ? "$1 $2" : "no error: $error";
}

sub sound
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', q{
		SELECT 'claim', c.key, c.owner, p.row_owner FROM rowclaim.claim c
		FULL JOIN (SELECT * FROM part WHERE row_owner IS NOT NULL) p ON p.id = (c.key::json ->> 'id')::int
		WHERE c.owner IS DISTINCT FROM p.row_owner
		UNION ALL
		SELECT 'draft', d.key, d.draft::text, p.row_draft::text FROM rowclaim.draft_row d
		FULL JOIN (SELECT * FROM part WHERE row_draft IN (SELECT id FROM rowclaim.draft)) p ON p.id = (d.key::json ->> 'id')::int
		WHERE d.draft IS DISTINCT FROM p.row_draft
		UNION ALL
		SELECT 'journal', problem, seq::text, part::text FROM verify_journal()
		UNION ALL
		SELECT 'stall', max(seq)::text, rowclaim.stable_seq('main')::text, NULL FROM rowclaim.journal HAVING max(seq) > rowclaim.stable_seq('main')}),
		'', "$name: claims, drafts and journal agree");
	return;
}

my $tables = q{
	CREATE TABLE part (id int PRIMARY KEY, v text);
	ALTER TABLE part ALTER v SET STORAGE EXTERNAL;
	INSERT INTO part SELECT i, 'old' FROM generate_series(1, 2000) i;
	CREATE TABLE log (id int PRIMARY KEY, v text);
	SELECT enable_claims('part', claiming => 'auto'), enable_claims('log', 'auto', 'transaction');
	CREATE FUNCTION noise(bytes int) RETURNS text LANGUAGE sql AS $$
		SELECT string_agg(md5(random()::text), '') FROM generate_series(1, bytes / 32)
	$$};
# Text of its own in each row, so that compression does not help.
my $write = q{UPDATE part SET v = noise(8000) || id};

# Tables and temporary files.
{
	my $node = new_node('disk', 'temp_file_limit = -1');
	mkdir "$disk/space" or die $!;
	$node->safe_psql('postgres', $tables);
	$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$disk/space'");
	my $me = session($node, 'me');
	$me->query_safe($write);

	$node->safe_psql('postgres', 'ALTER TABLE rowclaim.journal SET TABLESPACE small');
	fill_space(4_000_000);
	like(error_of($me, 'SELECT commit_changes()'), qr/^53100 could not extend file/, 'a commit needs space');
	is($me->query_safe('SELECT count(*) FROM rowclaim.drafts'), 2000, 'the draft is as before');
	sound($node, 'commit');
	free_space();
	$me->query_safe('SELECT commit_changes()');
	is($me->query_safe('SELECT sum(changes) FROM rowclaim.changesets'), 2000, 'with space the commit works');
	sound($node, 'commit with space');

	fill_space(4_000_000);
	like(error_of($me, q{SELECT baseline_table('part')}), qr/^53100 could not extend file/, 'a baseline needs space');
	sound($node, 'baseline');
	free_space();
	my $seq = $me->query_safe(q{SELECT baseline_table('part')});
	is($me->query_safe("SELECT sum(json_array_length(changes)) - 1 FROM rowclaim.journal WHERE seq = $seq"), 2000, 'with space it is complete');
	$node->safe_psql('postgres', 'ALTER TABLE rowclaim.journal SET TABLESPACE pg_default');

	$node->safe_psql('postgres', 'ALTER TABLE rowclaim.draft_row SET TABLESPACE small');
	fill_space(100_000);
	like(error_of($me, q{UPDATE part SET v = 'not kept'}), qr/^53100 could not extend file/, 'a draft needs space');
	is($me->query_safe(q{SELECT count(*) FROM part WHERE v = 'not kept'}), 0, 'nothing is written');
	sound($node, 'draft');
	free_space();
	$me->query_safe(q{UPDATE part SET v = 'kept'; SELECT commit_changes()});
	$node->safe_psql('postgres', 'ALTER TABLE rowclaim.draft_row SET TABLESPACE pg_default');

	$node->safe_psql('postgres', 'ALTER TABLE rowclaim.claim SET TABLESPACE small');
	fill_space(20_000);
	like(error_of($me, q{SELECT claim_rows('part', array_agg(id)) FROM part}), qr/^53100 could not extend file/, 'claims need space');
	is($me->query_safe('SELECT count(*) FROM rowclaim.claims'), 0, 'none is granted');
	sound($node, 'claims');
	free_space();
	is($me->query_safe(q{SELECT count(*) FROM claim_rows('part', (SELECT array_agg(id) FROM part)) WHERE status = 'granted'}), 2000, 'with space all are');
	$me->query_safe('SELECT release_rows()');

	$me->query_safe('SET temp_tablespaces = small');
	fill_space(1_000_000);
	like(error_of($me, q{INSERT INTO log SELECT i, noise(4000) FROM generate_series(1, 4000) i}),
		qr/^53100 could not write to file .*pgsql_tmp/, 'what a transaction captured needs space');
	is($me->query_safe('SELECT count(*) FROM log'), 0, 'nothing is written');
	free_space();
	$me->query_safe(q{INSERT INTO log SELECT i, noise(4000) FROM generate_series(1, 4000) i});
	sound($node, 'temporary files');
	unlike(slurp_file($node->logfile), qr/\b(PANIC|XX000|terminated by signal)\b/, 'no internal error in the log');
	$me->quit;
	$node->stop;
	system 'rm', '-rf', "$disk/space";
}

# WAL: the server stops, and goes on when there is room.
{
	my $node = PostgreSQL::Test::Cluster->new('wal');
	$node->init(extra => [ '--no-sync', '--encoding=UTF8', '--locale=C', '--wal-segsize=1', '--waldir', "$disk/wal" ]);
	$node->append_conf('postgresql.conf', "max_wal_size = 1GB\nmin_wal_size = 2MB\nautovacuum = off\nrestart_after_crash = on\n");
	$node->start;
	$node->safe_psql('postgres', "CREATE EXTENSION rowclaim; $tables");
	my $me = session($node, 'me');
	$me->query_safe("UPDATE part SET v = 'dirty'");
	$me->query_safe(q{SELECT commit_changes('before')});
	$me->query_safe($write);
	my $acknowledged = $me->query_safe('SELECT max(seq) FROM rowclaim.changesets');
	fill_space(3_000_000);
	send_query($me, q{BEGIN; SELECT commit_changes('too much');
		CREATE TABLE filler AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 100000) i; COMMIT});
	eval { receive($me) };
	my $panic = qr/PANIC:  .*No space left on device/;
	my $tries = 1800;
	usleep 100_000 until slurp_file($node->logfile) =~ $panic or !$tries--;
	like(slurp_file($node->logfile), $panic, 'the server stops when WAL has no space');
	eval { $me->quit };
	free_space();
	$node->stop('immediate', fail_ok => 1);
	$node->start;
	is($node->safe_psql('postgres', 'SELECT max(seq) FROM rowclaim.changesets'), $acknowledged, 'what was committed before is there, the failed commit is not');
	sound($node, 'WAL');
	$me = session($node, 'me');
	is($me->query_safe('SELECT count(*) FROM rowclaim.drafts'), 2000, 'the draft is as before');
	$me->query_safe(q{SELECT commit_changes('again')});
	is($me->query_safe('SELECT changes FROM rowclaim.changesets ORDER BY seq DESC LIMIT 1'), 2000, 'and can be committed');
	sound($node, 'after the crash');
	$me->quit;
	$node->stop;
}

# Locks: every commit of a transaction takes one for its number.
{
	my $node = new_node('locks', 'max_locks_per_transaction = 10', 'max_connections = 5', 'max_prepared_transactions = 0');
	$node->safe_psql('postgres', $tables);
	my $me = session($node, 'me');
	like(error_of($me, q{DO $$ BEGIN FOR i IN 1 .. 2000 LOOP UPDATE part SET v = v || i WHERE id = i; PERFORM commit_changes(); END LOOP; END $$}),
		qr/^53200 out of shared memory/, 'one transaction cannot take any number of locks');
	is($me->query_safe(q{SELECT count(*) FROM part WHERE v <> 'old'}), 0, 'it is undone');
	$me->query_safe(q{UPDATE part SET v = 'new'; SELECT commit_changes()});
	# The numbers that failed before it are accounted for a hundred at a time, in the background.
	ok($node->poll_query_until('postgres', 'SELECT changes FROM rowclaim.changesets', '2000'), 'the session goes on');
	sound($node, 'locks');
	$me->quit;
	$node->stop;
}

# Memory of one backend.
{
	my $node = new_node('memory');
	$node->safe_psql('postgres', $tables);
	my $me = session($node, 'me');
	my $pid = $me->query_safe('SELECT pg_backend_pid()');
	$me->query_safe(q{UPDATE part SET v = repeat('x', 60000000) WHERE id <= 2});
	slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m or die 'no VmSize';
	my $more = ($1 + 90_000) * 1024;
	system('prlimit', "--pid=$pid", "--as=$more:") == 0 or die 'prlimit fails';
	like(error_of($me, 'SELECT commit_changes()'), qr/^53200 out of memory/, 'a commit needs memory');
	system('prlimit', "--pid=$pid", '--as=unlimited:') == 0 or die 'prlimit fails';
	is($me->query_safe('SELECT count(*) FROM rowclaim.drafts'), 2, 'the draft is as before');
	sound($node, 'memory');
	$me->query_safe('SELECT commit_changes()');
	is($me->query_safe('SELECT changes FROM rowclaim.changesets'), 2, 'with memory the commit works');
	unlike(slurp_file($node->logfile), qr/\b(PANIC|XX000|terminated by signal)\b/, 'no crash');
	$me->quit;
	$node->stop;
}

done_testing();
