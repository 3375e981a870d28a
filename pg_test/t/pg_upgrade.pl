# pg_upgrade of a database in use: everything is there, and work goes on. From the server that OLD_PG_CONFIG names (make test-all: the
# oldest one), or from the same one.
use strict;
use warnings;
use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use InUse;

# (name, directory of the programs, version) of the server of a pg_config.
sub server
{
	my ($pg_config) = @_;
	chomp(my ($bin, $version) = (scalar qx{$pg_config --bindir}, scalar qx{$pg_config --version}));
	return ($bin, $version =~ /(\d+)\.(\d+)/);
}

my ($old_bin, $old_major, $old_minor) = server($ENV{OLD_PG_CONFIG} // 'pg_config');
my ($new_bin, $new_major, $new_minor) = server('pg_config');
note "from $old_major.$old_minor to $new_major.$new_minor";
my %nodes;
for my $name ('old', 'new')
{
	$nodes{$name} = PostgreSQL::Test::Cluster->new($name, install_path => dirname($name eq 'old' ? $old_bin : $new_bin));
	# Checksums: a default that differs between versions.
	$nodes{$name}->init(extra => [ '--no-sync', '--encoding=UTF8', '--locale=C', '--data-checksums' ]);
	$nodes{$name}->append_conf('postgresql.conf', 'autovacuum = off');
}
my ($old, $new) = @nodes{ 'old', 'new' };
$old->start;
$old->safe_psql('postgres', 'CREATE DATABASE shop');
$old->safe_psql('shop', 'CREATE SCHEMA api; CREATE EXTENSION rowclaim SCHEMA api; ALTER DATABASE shop SET search_path = public, api');
# Where there is lz4, the journal is compressed with it. A server that is built without it can take over no such column.
$old->safe_psql('shop', 'ALTER TABLE rowclaim.journal ALTER COLUMN changes SET COMPRESSION pglz') unless qx{$new_bin/pg_config --configure} =~ /--with-lz4/;
put_to_use($old, 'shop');
my $before = state($old, 'shop');

# PostgreSQL 15.20 notes an option in pg_attribute that other majors know from 17.12 and 18.7 on: pg_upgrade to older ones fails,
# whatever the database. Without the option it is what it was before 15.20.
my %knows = (15 => 20, 16 => 999, 17 => 12, 18 => 7);
if ($old_major == 15 && $old_minor >= 20 && $new_minor < ($knows{$new_major} // 0))
{
	for my $db ('postgres', 'template1', 'shop')
	{
		$old->safe_psql($db, q{
			SET allow_system_table_mods = on;
			UPDATE pg_attribute SET attoptions = NULLIF(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), '{}')
			WHERE attoptions::text LIKE '%pg_attver=%'});
	}
}
$old->stop;

my $dir = $new->basedir;
chdir $dir or die "$dir: $!";
{
	local %ENV = $new->_get_env;
	my ($out, $err) = ('', '');
	my $done = IPC::Run::run([ "$new_bin/pg_upgrade", '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $old_bin, '-B', $new_bin,
			'-s', $new->host, '-p', $old->port, '-P', $new->port ], '>', \$out, '2>', \$err);
	ok($done, 'pg_upgrade succeeds') or diag "$out\n$err\n", map { slurp_file($_) } glob $new->data_dir . '/pg_upgrade_output.d/*/log/*.log';
}
chdir $PostgreSQL::Test::Utils::tmp_check . '/..' or die $!;

$new->start;
is($new->safe_psql('postgres', 'SELECT current_setting($$server_version_num$$)::int / 10000'), $new_major, 'the server is the new one');
is(state($new, 'shop'), $before, 'claims, drafts, tokens, journal, settings and rows are the same');
is($new->safe_psql('shop', 'SELECT target, key, problem FROM check_claims()'), '', 'nothing is damaged');
goes_on($new, 'shop', 'upgraded', recovered => 1);
# The new server can be dumped.
$new->command_ok([ "$new_bin/pg_dump", '-f', "$dir/dump", $new->connstr('shop') ], 'it can be dumped');
$new->safe_psql('postgres', 'CREATE DATABASE again');
$new->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', "$dir/dump", '-d', $new->connstr('again') ], 'and restored');
my $journal = 'SELECT to_jsonb(j) FROM rowclaim.journal j ORDER BY journal, seq, part';
is($new->safe_psql('again', $journal), $new->safe_psql('shop', $journal), 'with its journal');

$new->stop;
done_testing();
