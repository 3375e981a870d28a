# One changeset of 1,000,000 changed rows: the replica's readers see none or all of it, and neither side's memory grows with it.
# heavy: a million rows on two servers.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;
use Replica;

my ($small, $big) = (50_000, 1_000_000);
# What a process touches of shared buffers counts as its memory, so these are few.
my ($hub, $replica) = new_pair(map { $_ => [ 'shared_buffers = 16MB', 'max_wal_size = 8GB', 'checkpoint_timeout = 1h', 'wal_receiver_timeout = 10min',
	'wal_sender_timeout = 10min', 'logical_decoding_work_mem = 1MB' ] } 'hub', 'replica');
my $ddl = 'CREATE TABLE part (id int PRIMARY KEY, n int) WITH (fillfactor = 50)';
$_->safe_psql('postgres', "$ddl; INSERT INTO part SELECT i, 0 FROM generate_series(1, $big) i") for $hub, $replica;
# A table with drafts, in a journal that is not published: here the commit alone is of interest.
$hub->safe_psql('postgres', q{
	CREATE TABLE draft_part (LIKE part INCLUDING ALL) WITH (fillfactor = 50);
	INSERT INTO draft_part TABLE part;
	SELECT create_journal('drafts');
	SELECT enable_claims('part', claiming => 'auto', committing => 'transaction'), enable_claims('draft_part', claiming => 'auto', journal => 'drafts'),
		create_journal_publication('pub', ARRAY['main'])});
subscribe($hub, $replica, with => 'copy_data = false, streaming = off');

# The most memory processes ever had, in MB.
my $measurable = -r "/proc/$$/status";
sub peaks { return map { $measurable && slurp_file("/proc/$_/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 / 1024 : 0 } @_ }

my $writer = $hub->background_psql('postgres', on_error_stop => 0, timeout => 900);
my $drafter = $hub->background_psql('postgres', on_error_stop => 0, timeout => 900);
my $reader = $replica->background_psql('postgres', on_error_stop => 0, timeout => 900);
$replica->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_stat_subscription WHERE pid IS NOT NULL') or die 'no worker';
$hub->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_stat_replication') or die 'no sender';
my %pid = (
	'committing backend' => $writer->query_safe('SELECT pg_backend_pid()'),
	'backend that commits a draft' => $drafter->query_safe('SELECT pg_backend_pid()'),
	'sender' => $hub->safe_psql('postgres', 'SELECT pid FROM pg_stat_replication'),
	'apply worker' => $replica->safe_psql('postgres', 'SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL'));
my @who = sort keys %pid;

# The hub changes $rows rows in one transaction while the replica is watched: how many of 1,000 rows all over the table have been
# changed, time and again from when the worker writes to the table until all are.
my $round = 0;
sub change
{
	my ($rows) = @_;
	$round++;
	$drafter->query_safe("UPDATE draft_part SET n = $round WHERE id <= $rows; SELECT commit_changes(journal => 'drafts')");
	$writer->query_safe("UPDATE part SET n = $round WHERE id <= $rows");
	my $seen = $reader->query_safe(qq{
		SET client_min_messages = error;
		DROP TABLE IF EXISTS seen;
		CREATE TEMP TABLE seen (changed int, times int);
		DO \$\$
		DECLARE
			now int;
		BEGIN
			WHILE NOT EXISTS (SELECT FROM pg_locks WHERE pid = $pid{'apply worker'} AND relation = 'part'::regclass) AND (SELECT n < $round FROM part WHERE id = 1) LOOP
				PERFORM pg_sleep(0.001);
			END LOOP;
			LOOP
				SELECT count(*) FILTER (WHERE n = $round) INTO now FROM part WHERE id IN (SELECT i * $rows / 1000 FROM generate_series(1, 1000) i);
				UPDATE seen SET times = times + 1 WHERE changed = now;
				IF NOT FOUND THEN
					INSERT INTO seen VALUES (now, 1);
				END IF;
				EXIT WHEN now = 1000;
				PERFORM pg_sleep(0.01);
			END LOOP;
		END \$\$;
		SELECT changed, times FROM seen ORDER BY changed});
	note "$rows rows, changed and how often seen: " . $seen =~ s/\n/, /gr;
	return $seen;
}

change($small);
my %before;
@before{@who} = peaks(@pid{@who});
my $seen = change($big);
like($seen, qr/^0\|(\d+)\n1000\|1$/, 'the replica shows all of the changeset or nothing');
cmp_ok($seen =~ /^0\|(\d+)/ ? $1 : 0, '>', 3, 'and was looked at while it was replayed');
my %after;
@after{@who} = peaks(@pid{@who});
wait_applied($hub, $replica);
SKIP:
{
	skip 'no /proc', scalar @who unless $measurable;
	# The entry takes about 90 bytes per row, so 20 times the rows would show. Backends that commit may take 80 bytes per row: the
	# places of its texts in temporary files, and what the server keeps to fire the triggers of the statement.
	my %most = map { $_ => /backend/ ? 16 + 80 * ($big - $small) / 1e6 : 16 } @who;
	for my $who (@who)
	{
		note sprintf '%s: %.1f MB after %d rows, %.1f MB after %d rows', $who, $before{$who}, $small, $after{$who}, $big;
		cmp_ok($after{$who} - $before{$who}, '<', $most{$who}, "$who: memory does not grow with the changeset" . ($who =~ /backend/ ? ', but for places' : ''));
	}
}
is($replica->safe_psql('postgres', 'SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL'), $pid{'apply worker'}, 'it was one worker all the time');
is($replica->safe_psql('postgres', "SELECT min(seq), min(parts), count(*), sum(json_array_length(changes)) FROM rowclaim.journal WHERE seq = (SELECT max(seq) FROM rowclaim.journal WHERE kind = 'changeset')"),
	"2|1000|1000|$big", 'one changeset of a thousand parts');
is($_->safe_psql('postgres', 'SELECT count(*), min(n), max(n) FROM part'), "$big|2|2", 'every row is as it should be on the ' . $_->name) for $hub, $replica;
is($hub->safe_psql('postgres', "SELECT seq, parts, sum(json_array_length(changes)) FROM rowclaim.journal WHERE journal = 'drafts' AND kind = 'changeset' GROUP BY 1, 2 ORDER BY 1"),
	"1|50|$small\n2|1000|$big", 'each draft is one changeset');

$_->quit for $writer, $drafter, $reader;
$_->stop for $hub, $replica;
done_testing();
