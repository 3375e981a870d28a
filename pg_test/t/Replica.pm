# What the replica tests share: a hub and a replica, waiting until everything is applied, comparing tables row by row.
package Replica;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use RowClaim;
use Test::More;
use Time::HiRes 'usleep';

our @EXPORT = qw(new_pair act subscribe wait_applied wait_failing kill_worker kill_server log_errors same_rows);

# (hub, replica), with further settings: new_pair(hub => [ ... ], replica => [ ... ]).
sub new_pair
{
	my (%settings) = @_;
	return (
		new_node('hub', 'wal_level = logical', 'max_wal_senders = 20', 'max_replication_slots = 20', @{ $settings{hub} // [] }),
		new_node('replica', 'wal_level = logical', 'wal_retrieve_retry_interval = 200ms', 'log_error_verbosity = verbose', 'max_logical_replication_workers = 20',
			'max_worker_processes = 40', 'max_sync_workers_per_subscription = 4', @{ $settings{replica} // [] }));
}

# Runs SQL for an actor; output and error text.
sub act
{
	my ($node, $actor, $sql, %options) = @_;
	my (undef, $out, $error) = $node->psql($options{dbname} // 'postgres',
		"SET rowclaim.actor = '$actor'; SET client_min_messages = error; SET statement_timeout = '120s'; $sql", on_error_stop => 1);
	return $out . $error;
}

# Subscribes the replica to a publication, which is made (of all journals) if it is not there.
# Options: publication, name (of the subscription), dbname, hub_dbname, with (WITH options).
sub subscribe
{
	my ($hub, $replica, %options) = @_;
	my ($publication, $dbname) = ($options{publication} // 'pub', $options{dbname} // 'postgres');
	my $hub_dbname = $options{hub_dbname} // $dbname;
	$hub->safe_psql($hub_dbname, "SELECT create_journal_publication('$publication') WHERE NOT EXISTS (SELECT FROM pg_publication WHERE pubname = '$publication')");
	my $name = $options{name} // 'sub';
	my $with = $options{with} ? "WITH ($options{with})" : '';
	$replica->safe_psql($dbname, "CREATE SUBSCRIPTION $name CONNECTION '" . $hub->connstr($hub_dbname) =~ s/'/''/gr . "' PUBLICATION $publication $with");
	return;
}

# Waits until the replica has applied what is in the hub's journal now; dies with what is in the way. Options: journal, dbname, hub_dbname.
sub wait_applied
{
	my ($hub, $replica, %options) = @_;
	my ($journal, $dbname) = ($options{journal} // 'main', $options{dbname} // 'postgres');
	my $seq = $hub->safe_psql($options{hub_dbname} // $dbname, "SELECT coalesce(max(seq), 0) FROM rowclaim.journal WHERE journal = '$journal'");
	return $seq if $replica->safe_psql($dbname, "SELECT wait_for_changeset($seq, '$journal', '240s')") eq 't';
	diag $replica->safe_psql($dbname, 'SELECT to_json(r) FROM rowclaim.replay r');
	diag substr(slurp_file($replica->logfile), -3000);
	die "changeset $seq of journal $journal is not applied";
}

# Waits until replay fails at $seq: what rowclaim.replay says about it (failing_target, failing_key, failure). Options: journal, dbname.
sub wait_failing
{
	my ($replica, $seq, %options) = @_;
	my ($journal, $dbname) = ($options{journal} // 'main', $options{dbname} // 'postgres');
	my $failing = "FROM rowclaim.replay WHERE journal = '$journal' AND failing_seq = $seq";
	$replica->poll_query_until($dbname, "SELECT count(*) = 1 $failing") or die "replay does not fail at $seq";
	return $replica->safe_psql($dbname, "SELECT failing_target, failing_key, failure $failing");
}

# Kills the subscription worker which is like this in pg_stat_subscription, as soon as there is one. Its server ends all others, too,
# and restarts by itself.
sub kill_worker
{
	my ($replica, $condition) = @_;
	for (1 .. 1800)
	{
		my (undef, $pid) = $replica->psql('postgres', "SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL AND $condition");
		return kill 'KILL', $pid if $pid;
		usleep 100_000;
	}
	die "no worker with $condition";
}

# Kills a postmaster and all its children; and starts it again.
sub kill_server
{
	my ($node) = @_;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my @processes = ($postmaster, map { /^(\d+) \(.*\) \S (\d+)/s && $2 == $postmaster ? $1 : () } map { eval { slurp_file($_) } // '' } glob '/proc/[0-9]*/stat');
	$node->kill9;
	kill 'KILL', @processes;
	# It does not start before they are gone.
	for (1 .. 600) { last unless kill 0, @processes; usleep 100_000 }
	$node->start;
	return;
}

# The errors in a server's log from $offset on, each once and in order: "SQLSTATE message", with DETAIL and HINT if $more. Without
# those of a worker that starts before the one before has ended, or whose publisher stops.
sub log_errors
{
	my ($node, $offset, $more) = @_;
	my (@errors, %seen);
	my $log = slurp_file($node->logfile, $offset);
	while ($log =~ /^[^\n]*? ERROR:  (?:(\w{5}): )?([^\n]*)\n((?:[^\n]* (?:DETAIL|HINT):  [^\n]*\n)*)/mg)
	{
		my ($code, $message, $rest) = ($1, $2, $3);
		next if $message =~ /^replication origin with ID|^could not .*(?:WAL stream|publisher|primary)/;
		my $error = ($code ? "$code " : '') . $message;
		$error .= "\n$1" while $more and $rest =~ / ((?:DETAIL|HINT):  [^\n]*)\n/g;
		push @errors, $error unless $seen{$error}++;
	}
	return @errors;
}

# The table has the same rows on both. Options: columns (a list for SELECT; all of the hub's that the extension does not maintain),
# as (its name on the replica), hub (what to read on the hub instead of the table), dbname, hub_dbname.
sub same_rows
{
	my ($hub, $replica, $table, %options) = @_;
	my $dbname = $options{dbname} // 'postgres';
	my $hub_dbname = $options{hub_dbname} // $dbname;
	my $columns = $options{columns} // $hub->safe_psql($hub_dbname, qq{
		SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute a
		WHERE attrelid = \$q\$$table\$q\$::regclass AND attnum > 0 AND NOT attisdropped
		  AND NOT EXISTS (SELECT FROM rowclaim.tables t WHERE t.target = a.attrelid AND attname IN (owner_column, version_column, draft_column))});
	my $rows = sub { "COPY (SELECT * FROM (SELECT $columns FROM $_[0]) t ORDER BY (t.*)::text COLLATE \"C\") TO STDOUT" };
	my $there = $hub->safe_psql($hub_dbname, $rows->($options{hub} // $table));
	my $here = $replica->safe_psql($dbname, $rows->($options{as} // $table));
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $name = $options{name} // "$table is the same";
	return pass($name) if $here eq $there;
	# The first differences say more than thousands of rows.
	my (%there, %here);
	$there{$_}++ for split /\n/, $there;
	$here{$_}++ for split /\n/, $here;
	my @lost = grep { ($there{$_} // 0) > ($here{$_} // 0) } sort keys %there;
	my @extra = grep { ($here{$_} // 0) > ($there{$_} // 0) } sort keys %here;
	diag scalar(@lost) . " rows only on the hub:\n" . join("\n", grep { defined } @lost[0 .. 4]);
	diag scalar(@extra) . " rows only on the replica:\n" . join("\n", grep { defined } @extra[0 .. 4]);
	return fail($name);
}

1;
