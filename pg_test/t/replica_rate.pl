# How fast replay is beside PostgreSQL's own logical replication of the same UPDATEs: prints rows per second and the CPU time of the
# apply worker, and compares the rows. The ratios are judged by `make bench ONLY=W12`.
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
$replica->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_subscription WHERE pid IS NOT NULL}) or die 'no workers';

# The CPU time of a process in seconds, as exactly as the system tells it.
sub cpu
{
	my ($pid) = @_;
	return (split ' ', slurp_file("/proc/$pid/schedstat"))[0] / 1e9 if -r "/proc/$pid/schedstat";
	return 0 unless -r "/proc/$pid/stat";
	my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr;
	return ($fields[11] + $fields[12]) / 100;
}

# Applies what $sql does to the table on the hub: seconds, and CPU seconds of the worker. It all waits at a lock until the hub is done.
sub apply
{
	my ($table, $sql) = @_;
	my $pid = $replica->safe_psql('postgres', "SELECT pid FROM pg_stat_subscription WHERE subname = '$table'");
	my $gate = session($replica, 'gate');
	$gate->query_safe("BEGIN; LOCK TABLE $table IN SHARE ROW EXCLUSIVE MODE");
	$hub->safe_psql('postgres', $sql =~ s/%s/$table/gr, timeout => 300);
	my $last = $hub->safe_psql('postgres', "SELECT stock FROM $table WHERE id = $rows");
	$replica->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE pid = $pid AND NOT granted") or die 'nothing arrives';
	my ($start, $used) = (time, cpu($pid));
	$gate->query_safe('COMMIT');
	$gate->query_safe(qq{
		SET statement_timeout = '180s';
		DO \$\$ BEGIN
			WHILE (SELECT stock <> $last FROM $table WHERE id = $rows) LOOP PERFORM pg_sleep(0.001); END LOOP;
		END \$\$});
	my @took = (time - $start, cpu($pid) - $used);
	$gate->quit;
	return @took;
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
		for my $table ('by_server', 'by_journal')
		{
			my ($seconds, $cpu) = apply($table, $sql);
			push @{ $seconds{$table} }, $seconds;
			push @{ $cpu{$table} }, $cpu;
		}
	}
	for my $table ('by_server', 'by_journal')
	{
		note sprintf '%s, %s: %.0f rows/s, %.2f µs of CPU time per row', $name, $table, $changed / median(@{ $seconds{$table} }),
			median(@{ $cpu{$table} }) / $changed * 1e6;
	}
	note sprintf '%s: rate × %.2f, CPU time × %.2f', $name, median(@{ $seconds{by_server} }) / median(@{ $seconds{by_journal} }),
		median(@{ $cpu{by_journal} }) / (median(@{ $cpu{by_server} }) || 1);
	same_rows($hub, $replica, 'by_journal', name => "$name: the same rows");
	same_rows($hub, $replica, 'by_server', name => "$name: and by PostgreSQL's own replication");
}
is($replica->safe_psql('postgres', 'SELECT sum(price), sum(stock) FROM by_journal'), $hub->safe_psql('postgres', 'SELECT sum(price), sum(stock) FROM by_server'),
	'both got the same changes');

$_->stop for $hub, $replica;
done_testing();
