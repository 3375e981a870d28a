# What the TAP tests share: a server with the extension, sessions that act for somebody, replaying a journal.
package RowClaim;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'usleep';

our @EXPORT = qw(new_node session send_query receive try kill_backend start_pgbench finish_pgbench replay no_lock_trouble);

# A server with the extension in database postgres.
sub new_node
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(extra => [ '--no-sync', '--encoding=UTF8', '--locale=C' ]);
	$node->append_conf('postgresql.conf', join "\n", 'max_prepared_transactions = 10', 'log_lock_waits = on', 'autovacuum = off', @settings, '');
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION rowclaim');
	return $node;
}

# A connection that acts for $actor.
sub session
{
	my ($node, $actor, %options) = @_;
	my $session = $node->background_psql($options{dbname} // 'postgres', on_error_stop => 0);
	# The time limit is for each query, not for all of them.
	$session->set_query_timer_restart;
	$session->query_safe("SET rowclaim.actor = '$actor'; SET client_min_messages = error; SET statement_timeout = '60s'");
	return $session;
}

# Starts a query without waiting for its result; receive() waits.
sub send_query
{
	my ($session, $query) = @_;
	$session->{timeout}->start;
	$session->{stdin} .= "$query;\n\\echo <done>\n\\warn <done>\n";
	$session->{run}->pump_nb;
	return;
}

# (output, error text) of the query sent.
sub receive
{
	my ($session) = @_;
	$session->{run}->pump until $session->{stdout} =~ /<done>\n/ && $session->{stderr} =~ /<done>\n/ or $session->{timeout}->is_expired;
	die 'no answer' if $session->{timeout}->is_expired;
	my ($output, $error) = map { s/\n?<done>\n//r } $session->{stdout}, $session->{stderr};
	$session->{stdout} = $session->{stderr} = '';
	return ($output, $error);
}

# The error of a query, '' if there is none.
sub try
{
	my ($session, $query) = @_;
	send_query($session, $query);
	my (undef, $error) = receive($session);
	return $error;
}

# Kills a server process and waits until the server, which restarts all others, accepts connections again.
sub kill_backend
{
	my ($node, $pid) = @_;
	kill 'KILL', $pid;
	my @ready = ('pg_isready', '-q', '-h', $node->host, '-p', $node->port);
	for (1 .. 1800)
	{
		return if !kill(0, $pid) && system(@ready) == 0;
		usleep(100_000);
	}
	die 'the server does not come back';
}

# Runs pgbench in the background with @options; %scripts: name => text.
sub start_pgbench
{
	my ($node, $scripts, @options) = @_;
	my @files;
	for my $name (sort keys %$scripts)
	{
		my $file = $node->basedir . "/$name.pgbench";
		open my $out, '>', $file or die $!;
		print $out $scripts->{$name};
		close $out;
		push @files, '-f', $file;
	}
	my ($stdout, $stderr) = ('', '');
	local %ENV = $node->_get_env;
	my $run = IPC::Run::start([ 'pgbench', '-n', @files, @options, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'<', \undef, '>', \$stdout, '2>', \$stderr);
	return { run => $run, stdout => \$stdout, stderr => \$stderr };
}

# Waits for pgbench; every transaction must have succeeded.
sub finish_pgbench
{
	my ($bench, $what) = @_;
	my $success = $bench->{run}->finish;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($success, "$what: pgbench succeeds") or diag ${ $bench->{stderr} };
	like(${ $bench->{stdout} }, qr/number of failed transactions: 0 /, "$what: no transaction failed");
	return;
}

# Applies the journal to the tables of the same name in schema $schema, each entry and change in order. Each must find the row
# as its old values say. Returns the number of changes applied, or the error.
sub replay
{
	my ($node, $schema) = @_;
	my (undef, $applied, $error) = $node->psql(
		'postgres', qq{
		DO \$do\$
		DECLARE change json; target text; columns text; found text; hits bigint; applied bigint := 0;
		BEGIN
			FOR change IN
				SELECT c.value FROM rowclaim.journal j CROSS JOIN LATERAL json_array_elements(j.changes) WITH ORDINALITY c(value, n)
				WHERE j.kind = 'changeset' ORDER BY j.seq, j.part, c.n
			LOOP
				target := format('%I.%I', '$schema', split_part(change ->> 'table', '.', 2));
				found := (SELECT string_agg(format('t.%I = k.%1\$I', k), ' AND ') FROM json_object_keys(change -> 'key') k)
					|| ' AND to_jsonb(t) \@> \$3';
				columns := (SELECT string_agg(quote_ident(k), ', ') FROM json_object_keys(change -> 'new') k);
				EXECUTE format(CASE change ->> 'op'
					WHEN 'insert' THEN 'INSERT INTO %1\$s (%2\$s) SELECT %2\$s FROM json_populate_record(NULL::%1\$s, \$2)'
					WHEN 'update' THEN 'UPDATE %1\$s t SET (%2\$s) = (SELECT %2\$s FROM json_populate_record(NULL::%1\$s, \$2))
						FROM json_populate_record(NULL::%1\$s, \$1) k WHERE %3\$s'
					ELSE 'DELETE FROM %1\$s t USING json_populate_record(NULL::%1\$s, \$1) k WHERE %3\$s' END, target, columns, found)
				USING change -> 'key', change -> 'new', (change -> 'old')::jsonb;
				GET DIAGNOSTICS hits = ROW_COUNT;
				IF hits <> 1 THEN
					RAISE EXCEPTION 'change % does not fit', change;
				END IF;
				applied := applied + 1;
			END LOOP;
			CREATE TABLE $schema.applied AS SELECT applied AS n;
		END \$do\$;
		SELECT n FROM $schema.applied}, on_error_stop => 1);
	return $error || $applied;
}

# The server log has no deadlock and no lock wait of more than deadlock_timeout.
sub no_lock_trouble
{
	my ($node) = @_;
	my $log = slurp_file($node->logfile);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	unlike($log, qr/deadlock detected/, 'no deadlock');
	unlike($log, qr/still waiting for/, 'no long wait for a lock');
	return;
}

1;
