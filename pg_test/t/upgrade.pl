# From every released version to the present one, in a database with live claims, open drafts and a journal: nothing is lost, the
# schema becomes that of a fresh installation, work goes on. Killed in the middle, the old version is intact.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use InUse;
use OwnServer;
use RowClaim 'kill_backend';
use Schema;

my ($server, $extensions) = own_server($PostgreSQL::Test::Utils::tmp_check . '/own_server');
my $control = slurp_file("$extensions/rowclaim.control");
my ($present) = $control =~ /^default_version = '(.*)'/m;
my @released = sort map { m{/rowclaim--(.*)\.sql$} } glob 'upgrade/rowclaim--*.sql';
system_or_bail('cp', '--remove-destination', glob('upgrade/rowclaim--*.sql'), $extensions) unless grep { $_ eq $present } @released;
my $node = PostgreSQL::Test::Cluster->new('upgrade', install_path => $server);
$node->init(extra => [ '--no-sync', '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', "restart_after_crash = on\nautovacuum = off");
$node->start;

sub version { return $node->safe_psql($_[0], q{SELECT extversion FROM pg_extension WHERE extname = 'rowclaim'}) }

# A database as it was under a release.
sub old_database
{
	my ($db, $version) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE EXTENSION rowclaim VERSION '$version'");
	$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', "upgrade/data--$version.sql", '-d', $node->connstr($db) ],
		"$db: the data of $version is there");
	is(version($db), $version, "$db: under $version");
	return;
}

# Is there a process of that id that is not merely waited for?
sub runs
{
	my ($pid) = @_;
	open my $stat, '<', "/proc/$pid/stat" or return kill(0, $pid) && !-d '/proc/self';
	return <$stat> !~ /\) Z /;
}

sub same_schema
{
	my ($db, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (%here, %there);
	$here{$_}++ for split /\n(?=\S+ .*?: )/, schema($node, $db);
	$there{$_}++ for split /\n(?=\S+ .*?: )/, $expected;
	is(join("\n", grep { !$there{$_} } sort keys %here), '', "$name: nothing more or else than it should have");
	is(join("\n", grep { !$here{$_} } sort keys %there), '', "$name: nothing missing");
	return;
}

$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION rowclaim');
is(version('fresh'), $present, "a fresh installation is $present");
my $fresh = schema($node, 'fresh');
cmp_ok(scalar(split /\n/, $fresh), '>', 300, 'its schema is known');

for my $version (grep { $_ ne $present } @released)
{
	(my $db = "from_$version") =~ s/\W/_/g;
	old_database($db, $version);
	my $before = state($node, $db);
	is($node->safe_psql($db, qq{SELECT path IS NOT NULL FROM pg_extension_update_paths('rowclaim') WHERE source = '$version' AND target = '$present'}), 't', "$version: there is a way");
	$node->safe_psql($db, 'ALTER EXTENSION rowclaim UPDATE');
	is(version($db), $present, "$version: updated to $present");
	is(state($node, $db), $before, "$version: claims, drafts, tokens, journal, settings and rows are the same");
	same_schema($db, $fresh, $version);
	goes_on($node, $db, $version);
	# What an updated database dumps can be restored.
	$node->safe_psql('postgres', "CREATE DATABASE again_$db");
	my $file = $node->basedir . '/dump.sql';
	$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr($db) ], "$version: can be dumped");
	$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', $file, '-d', $node->connstr("again_$db") ], "$version: and restored");
	is(state_of_measure("again_$db"), state_of_measure($db), "$version: as it was");
}

sub state_of_measure
{
	my ($db) = @_;
	return $node->safe_psql($db, q{SELECT to_jsonb(m) FROM measure m UNION ALL SELECT to_jsonb(j) FROM rowclaim.journal j ORDER BY 1});
}

# The server is killed while the update is at its end: first a backend, then all of it.
my ($version) = grep { $_ ne $present } reverse @released;
if ($version)
{
	my $script = "$extensions/rowclaim--$version--$present.sql";
	my $text = slurp_file($script);
	unlink $script;
	append_to_file($script, "$text\nSELECT pg_catalog.pg_sleep(3600);\n");
	old_database('killed', $version);
	my ($before, $schema) = (state($node, 'killed'), schema($node, 'killed'));
	for my $victim ('backend', 'server')
	{
		my ($out, $err) = ('', '');
		my $update = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('killed'), '-c', 'ALTER EXTENSION rowclaim UPDATE' ], '<', \undef, '>', \$out, '2>', \$err);
		my $asleep = q{FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query = 'ALTER EXTENSION rowclaim UPDATE'};
		$node->poll_query_until('postgres', "SELECT count(*) = 1 $asleep") or die 'the update does not come to its end';
		my $pid = $node->safe_psql('postgres', "SELECT pid $asleep");
		if ($victim eq 'backend')
		{
			kill_backend($node, $pid);
		}
		else
		{
			my $file = $node->data_dir . '/postmaster.pid';
			my @pids = (slurp_file($file) =~ /^(\d+)/, split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity'));
			$node->kill9;
			kill 'KILL', @pids;
			# The memory they share is free when the last one is gone; its process id may stay where nobody waits for it.
			for (1 .. 1800) { last unless grep { runs($_) } @pids; usleep(100_000) }
			unlink $file, $node->host . '/.s.PGSQL.' . $node->port . '.lock';
			$node->start;
		}
		$update->finish;
		isnt($err, '', "$victim killed: the update fails");
		is(version('killed'), $version, "$victim killed: still $version");
		is(schema($node, 'killed'), $schema, "$victim killed: the schema is the old one");
		is(state($node, 'killed'), $before, "$victim killed: nothing is lost");
	}
	unlink $script;
	append_to_file($script, $text);
	$node->safe_psql('killed', 'ALTER EXTENSION rowclaim UPDATE');
	is(state($node, 'killed'), $before, 'updated after all: nothing is lost');
	same_schema('killed', $fresh, 'updated after all');
	goes_on($node, 'killed', 'updated after all', recovered => 1);
}

$node->stop;
done_testing();
