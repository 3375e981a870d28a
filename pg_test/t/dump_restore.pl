# pg_dump and pg_restore of a database in use, in every format: everything is there, and work goes on where it was. What the
# schema alone, the data alone and a single table give is said in the README.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use InUse;
use RowClaim;

my $node = new_node('dump');
put_to_use($node, 'postgres');
my $before = state($node, 'postgres');
my $dir = $node->basedir;
my $source = $node->connstr('postgres');

# Runs a program that must succeed and say nothing of errors.
sub run_ok
{
	my ($name, @command) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($out, $err) = ('', '');
	local %ENV = $node->_get_env;
	ok(IPC::Run::run(\@command, '>', \$out, '2>', \$err), $name) or diag $err;
	unlike($err, qr/error|warning/i, "$name: without complaint");
	return;
}

sub new_database
{
	my ($db) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	return $node->connstr($db);
}

sub problems { return $node->safe_psql($_[0], 'SELECT target, key, problem FROM check_claims()') }

my @psql = ('psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null');
run_ok('plain', 'pg_dump', '-f', "$dir/plain", $source);
run_ok('custom', 'pg_dump', '-Fc', '-f', "$dir/custom", $source);
run_ok('tar', 'pg_dump', '-Ft', '-f', "$dir/tar", $source);
run_ok('directory, parallel', 'pg_dump', '-Fd', '-j', '3', '-f', "$dir/directory", $source);
run_ok('inserts', 'pg_dump', '--inserts', '-f', "$dir/inserts", $source);
run_ok('schema only', 'pg_dump', '--schema-only', '-f', "$dir/schema", $source);
run_ok('data only', 'pg_dump', '--data-only', '-Fc', '-f', "$dir/data", $source);
run_ok('a single table', 'pg_dump', '-t', 'measure*', '-Fc', '-f', "$dir/table", $source);

my %restore = (
	plain => sub { @psql, '-f', "$dir/plain", '-d', $_[0] },
	custom => sub { 'pg_restore', '--exit-on-error', '-d', $_[0], "$dir/custom" },
	one_transaction => sub { 'pg_restore', '--single-transaction', '-d', $_[0], "$dir/custom" },
	tar => sub { 'pg_restore', '--exit-on-error', '-d', $_[0], "$dir/tar" },
	parallel => sub { 'pg_restore', '--exit-on-error', '-j', '3', '-d', $_[0], "$dir/directory" },
	inserts => sub { @psql, '-f', "$dir/inserts", '-d', $_[0] });
for my $way (sort keys %restore)
{
	run_ok("$way: restored", $restore{$way}->(new_database($way)));
	is(state($node, $way), $before, "$way: claims, drafts, tokens, journal, settings and rows are the same");
	is(problems($way), '', "$way: nothing is damaged");
}
goes_on($node, $_, $_) for 'custom', 'parallel';

# A restored database can be dumped and restored again.
run_ok('again: dumped', 'pg_dump', '-f', "$dir/plain", $node->connstr('plain'));
run_ok('again: restored', @psql, '-f', "$dir/plain", '-d', new_database('again'));
is(state($node, 'again'), $before, 'again: all is the same');
goes_on($node, 'again', 'again');

# The schema alone: the tables as they are, without claims; enable_claims() works at once.
run_ok('schema only: restored', @psql, '-f', "$dir/schema", '-d', new_database('schema_only'));
is($node->safe_psql('schema_only', 'SELECT (SELECT count(*) FROM rowclaim.tables), (SELECT count(*) FROM rowclaim.journal)'), '0|0', 'schema only: nothing is enabled');
$node->safe_psql('schema_only', q{SELECT enable_claims('"odd schema"."Part"'), enable_claims('measure', 'auto')});
is(problems('schema_only'), '', 'schema only: enabled again, nothing is damaged');
is(act($node, 'schema_only', 'alice', q{INSERT INTO measure VALUES (1, '2026-05-05', 1), (2, '2027-05-05', 2); SELECT commit_changes(); UPDATE measure SET v = 3; SELECT discard_changes();
	SELECT v FROM measure ORDER BY id}), "1\n2\n1\n2", 'schema only: and works');
like(act($node, 'schema_only', 'alice', q{TRUNCATE measure_rest}), qr/cannot truncate/, 'schema only: also in partitions');

# The data alone goes into the schema, triggers off; what is left to do is what check_claims() says.
run_ok('data only: the schema', @psql, '-f', "$dir/schema", '-d', new_database('data_only'));
{
	local $ENV{PGOPTIONS} = '-c rowclaim.enforce=off';
	run_ok('data only: restored', 'pg_restore', '--exit-on-error', '--disable-triggers', '-d', $node->connstr('data_only'), "$dir/data");
}
$node->safe_psql('data_only', "SELECT repair FROM check_claims() \\gexec");
is(problems('data_only'), '', 'data only: what it says repairs all there is');
is(state($node, 'data_only'), $before, 'data only: claims, drafts, tokens, journal, settings and rows are the same');
goes_on($node, 'data_only', 'data only');

# A single table: its rows, without claims and drafts. It is enabled when its owners and stamps are gone.
new_database('one_table');
$node->safe_psql('one_table', 'CREATE EXTENSION rowclaim');
run_ok('a single table: restored', 'pg_restore', '--exit-on-error', '-d', $node->connstr('one_table'), "$dir/table");
is(problems('one_table'), '', 'a single table: nothing is damaged');
my $rows = 'SELECT id, day, v, row_version FROM measure ORDER BY 1';
is($node->safe_psql('one_table', $rows), $node->safe_psql('postgres', $rows), 'a single table: the rows are there');
$node->safe_psql('one_table', q{
	ALTER TABLE measure DROP COLUMN row_owner, DROP COLUMN row_draft;
	SELECT enable_claims('measure', claiming => 'auto')});
is(problems('one_table'), '', 'a single table: enabled, nothing is damaged');
is(act($node, 'one_table', 'alice', q{UPDATE measure SET v = 0 WHERE id = 1; SELECT commit_changes(); SELECT v, row_version FROM measure WHERE id = 1}), "1\n0|3", 'a single table: and works, with its versions');

$node->stop;
done_testing();
