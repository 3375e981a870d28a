# How fast replay is beside PostgreSQL's own logical replication of the same UPDATEs, and beside what it costs to store the same journal
# without replaying it: prints rows per second and the CPU time of the apply worker, and compares the rows. The ratios are judged by
# `make bench ONLY=W12`.
# heavy: it measures, and one version is enough for that.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';
use RowClaim;
use Replica;

my $rows = 200_000;
my ($hub, $replica) = new_pair(map { $_ => [ 'max_wal_size = 4GB', 'checkpoint_timeout = 1h', 'shared_buffers = 256MB',
	'wal_sender_timeout = 0', 'wal_receiver_timeout = 0' ] } 'hub', 'replica');
for my $node ($hub, $replica)
{
	$node->safe_psql('postgres', qq{
		CREATE TABLE by_server (id int PRIMARY KEY, name text, price numeric, stock int) WITH (fillfactor = 70);
		INSERT INTO by_server SELECT i, 'part ' || i, i / 10.0, i FROM generate_series(1, $rows) i;
		CREATE TABLE by_journal (LIKE by_server INCLUDING ALL) WITH (fillfactor = 70);
		INSERT INTO by_journal TABLE by_server;
		CREATE TABLE gate (id int PRIMARY KEY, n int);
		INSERT INTO gate VALUES (1, 0)}, timeout => 300);
}
$hub->safe_psql('postgres', q{
	SELECT enable_claims('by_journal', claiming => 'auto', committing => 'transaction');
	CREATE PUBLICATION by_server FOR TABLE by_server;
	SELECT create_journal_publication('by_journal')});
subscribe($hub, $replica, name => $_, publication => $_, with => 'copy_data = false, streaming = off') for 'by_server', 'by_journal';
# The floor: a database that gets the journal's entries and leaves it at that.
$replica->safe_psql('postgres', 'CREATE DATABASE stored');
$replica->safe_psql('stored', 'CREATE EXTENSION rowclaim; ALTER TABLE rowclaim.journal DISABLE TRIGGER receive');
subscribe($hub, $replica, name => 'stored', publication => 'by_journal', dbname => 'stored', hub_dbname => 'postgres', with => 'copy_data = false, streaming = off');
$replica->poll_query_until('postgres', q{SELECT count(*) = 3 FROM pg_stat_activity WHERE backend_type = 'logical replication worker'}) or die 'no workers';

# The CPU time of a process in seconds, as exactly as the system tells it.
sub cpu
{
	my ($pid) = @_;
	return (split ' ', slurp_file("/proc/$pid/schedstat"))[0] / 1e9 if -r "/proc/$pid/schedstat";
	return 0 unless -r "/proc/$pid/stat";
	my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr;
	return ($fields[11] + $fields[12]) / 100;
}

# The ways a change of a table takes: subscription, database, table the worker waits for, and when it is done.
sub ways
{
	my ($table) = @_;
	my ($stock, $seq) = split /\|/, $hub->safe_psql('postgres', "SELECT stock, (SELECT max(seq) FROM rowclaim.journal) FROM $table WHERE id = $rows");
	my @ways = ([ $table, 'postgres', $table, "SELECT stock = $stock FROM $table WHERE id = $rows" ]);
	push @ways, [ 'stored', 'stored', 'rowclaim.journal', "SELECT count(*) = max(parts) FROM rowclaim.journal WHERE seq = $seq" ] if $table eq 'by_journal';
	return @ways;
}

# Applies what $sql does to the table on the hub: by subscription, seconds and CPU seconds of the worker. All of them wait at a lock until
# the hub is done, and have the machine to themselves then.
sub apply
{
	my ($table, $sql) = @_;
	my (%gates, %took);
	for (ways($table))
	{
		my ($way, $dbname, $target) = @$_;
		$gates{$way} = session($replica, 'gate', dbname => $dbname);
		$gates{$way}->query_safe("BEGIN; LOCK TABLE $target IN SHARE ROW EXCLUSIVE MODE");
	}
	$hub->safe_psql('postgres', $sql =~ s/%s/$table/gr, timeout => 300);
	for (ways($table))
	{
		my ($way, $dbname, $target, $done) = @$_;
		my $pid = $replica->safe_psql('postgres', "SELECT pid FROM pg_stat_subscription WHERE subname = '$way'");
		$replica->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE pid = $pid AND NOT granted") or die 'nothing arrives';
		my ($start, $used) = (time, cpu($pid));
		$gates{$way}->query_safe('COMMIT');
		$gates{$way}->query_safe(qq{
			SET statement_timeout = '180s';
			DO \$\$ BEGIN
				WHILE ($done) IS NOT TRUE LOOP PERFORM pg_sleep(0.001); END LOOP;
			END \$\$});
		$took{$way} = [ time - $start, cpu($pid) - $used ];
		$gates{$way}->quit;
	}
	return %took;
}

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[ @sorted / 2 ] }

my $only = $ENV{ROWCLAIM_RATE_CASE} // '.';
for my $case ([ 'one transaction of 200,000 rows', 2, $rows, 'UPDATE %s SET stock = stock + 1, price = price + 0.01' ],
	[ 'transactions of 100 rows', 3, 20_000, q{DO $$ BEGIN FOR i IN REVERSE 199..0 LOOP
		UPDATE %s SET stock = stock + 1, price = price + 0.01 WHERE id BETWEEN 200000 - i * 100 - 99 AND 200000 - i * 100; COMMIT; END LOOP; END $$} ],
	[ 'transactions of one row', 3, 4_000, q{DO $$ BEGIN FOR i IN REVERSE 3999..0 LOOP
		UPDATE %s SET stock = stock + 1, price = price + 0.01 WHERE id = 200000 - i; COMMIT; END LOOP; END $$} ])
{
	my ($name, $rounds, $changed, $sql) = @$case;
	next if $name !~ /$only/;
	my (%seconds, %cpu);
	for my $round (1 .. $rounds)
	{
		my %took = (apply('by_server', $sql), apply('by_journal', $sql));
		for my $way (keys %took)
		{
			push @{ $seconds{$way} }, $took{$way}[0];
			push @{ $cpu{$way} }, $took{$way}[1];
		}
	}
	for my $way ('by_server', 'stored', 'by_journal')
	{
		note sprintf '%s, %s: %.0f rows/s, %.2f µs of CPU time per row', $name, $way, $changed / median(@{ $seconds{$way} }),
			median(@{ $cpu{$way} }) / $changed * 1e6;
	}
	for my $way ('stored', 'by_journal')
	{
		note sprintf '%s, %s: rate × %.2f, CPU time × %.2f', $name, $way, median(@{ $seconds{by_server} }) / median(@{ $seconds{$way} }),
			median(@{ $cpu{$way} }) / (median(@{ $cpu{by_server} }) || 1);
	}
	same_rows($hub, $replica, 'by_journal', name => "$name: the same rows");
	same_rows($hub, $replica, 'by_server', name => "$name: and by PostgreSQL's own replication");
}
is($replica->safe_psql('postgres', 'SELECT sum(price), sum(stock) FROM by_journal'), $hub->safe_psql('postgres', 'SELECT sum(price), sum(stock) FROM by_server'),
	'both got the same changes');

$_->stop for $hub, $replica;
done_testing();
