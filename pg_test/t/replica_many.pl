# Publications of many journals, subscribers to some of them; a replica of a replica; and journals that come by two ways.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;
use Replica;

my ($hub, $replica) = new_pair(replica => [ 'max_wal_senders = 20', 'max_replication_slots = 20' ]);
my $second = new_node('second', 'wal_level = logical', 'wal_retrieve_retry_interval = 200ms', 'log_error_verbosity = verbose',
	'max_logical_replication_workers = 20', 'max_worker_processes = 40');
my @journals = ('a', 'b', 'c', q{it's "d"});
my @tables = map { "part_$_" } 'a' .. 'd';
for my $node ($hub, $replica, $second)
{
	$node->safe_psql('postgres', "CREATE TABLE $_ (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)") for @tables;
}
my @quoted = map { "'" . s/'/''/gr . "'" } @journals;
$hub->safe_psql('postgres', "SELECT create_journal($quoted[$_]); SELECT enable_claims('$tables[$_]', claiming => 'auto', committing => 'transaction', journal => $quoted[$_])") for 0 .. 3;
$hub->safe_psql('postgres', "INSERT INTO $_ SELECT generate_series(1, 10)") for @tables;

# The rows of these tables are as on the hub.
sub same
{
	my ($node, $name, @arrived) = @_;
	wait_applied($hub, $node, journal => $quoted[$_] =~ s/^'|'$//gr) for @arrived;
	same_rows($hub, $node, $tables[$_], name => "$name: $tables[$_] is the same") for @arrived;
	return;
}
sub journals { my ($node) = @_; return $node->safe_psql('postgres', q{SELECT string_agg(journal, ',' ORDER BY journal) FROM rowclaim.replay}) }

# Some journals -----------------------------------------------------------------------------------

$hub->safe_psql('postgres', "SELECT create_journal_publication('a_and_d', ARRAY['a', $quoted[3]]), create_journal_publication('only_b', '{b}')");
subscribe($hub, $replica, name => 'ad', publication => 'a_and_d');
same($replica, 'two of four journals', 0, 3);
# One transaction writes to all journals.
$hub->safe_psql('postgres', 'BEGIN; ' . join('; ', map { "UPDATE $_ SET n = n + 1" } @tables) . '; COMMIT');
same($replica, 'a transaction of four journals', 0, 3);
is(journals($replica), q{a,it's "d"}, 'only they are received');
is($replica->safe_psql('postgres', 'SELECT (SELECT count(*) FROM part_b), (SELECT count(*) FROM part_c)'), '0|0', 'nothing of the others arrives');
# A worker for each subscription; they share nothing but the server.
subscribe($hub, $replica, name => 'b', publication => 'only_b');
same($replica, 'another subscription for another journal', 1);
$hub->safe_psql('postgres', 'BEGIN; ' . join('; ', map { "UPDATE $_ SET n = n + 1" } @tables) . '; COMMIT');
same($replica, 'both subscriptions', 0, 1, 3);
# What is wrong in one journal does not hold up the other subscription.
$replica->safe_psql('postgres', 'UPDATE part_b SET n = 100 WHERE id = 1');
my $seq = $hub->safe_psql('postgres', q{UPDATE part_b SET n = 5; UPDATE part_a SET n = 5; SELECT max(seq) FROM rowclaim.journal WHERE journal = 'b'});
wait_failing($replica, $seq, journal => 'b');
same($replica, 'the journal of the other subscription', 0);
$replica->safe_psql('postgres', 'UPDATE part_b SET n = 2 WHERE id = 1');
same($replica, 'repaired', 1);
# A subscription that is made later brings the journal from its beginning on.
$hub->safe_psql('postgres', q{SELECT create_journal_publication('only_c', '{c}')});
subscribe($hub, $replica, name => 'c', publication => 'only_c');
same($replica, 'a third subscription', 2);
is(journals($replica), q{a,b,c,it's "d"}, 'all journals are received');

# A replica of the replica ------------------------------------------------------------------------

subscribe($replica, $second, name => 'cascade', publication => 'everything');
same($second, 'a replica of the replica', 0 .. 3);
my $bench = start_pgbench($hub, { map { ("up$_" => "\\set id random(1, 10)\nUPDATE $tables[$_] SET n = n + 1 WHERE id = :id;\n") } 0 .. 3 }, '-c', 4, '-t', 100, '--max-tries=100');
finish_pgbench($bench, 'load for the cascade');
same($replica, 'after load, the replica', 0 .. 3);
same($second, 'after load, the replica of the replica', 0 .. 3);
is($second->safe_psql('postgres', "SELECT count(*) FROM verify_journal($_)"), 0, "journal $_ is sound there") for @quoted;
$replica->stop('immediate');
$hub->safe_psql('postgres', "UPDATE $_ SET n = n + 1") for @tables;
$replica->start;
same($second, 'after a crash in the middle', 0 .. 3);

# The same journal by two ways --------------------------------------------------------------------

# From the hub and from the replica; each brings what the other one has brought.
my $offset = -s $second->logfile;
my $replica_offset = -s $replica->logfile;
subscribe($hub, $second, name => 'direct', publication => 'a_and_d');
subscribe($hub, $replica, name => 'again', publication => 'a_and_d', with => 'copy_data = false');
same($second, 'by two ways', 0, 3);
for my $round (1 .. 3)
{
	$bench = start_pgbench($hub, { map { ("two$_" => "\\set id random(1, 10)\nUPDATE $tables[$_] SET n = n + 1 WHERE id = :id;\n") } 0, 3 }, '-c', 4, '-t', 100, '--max-tries=100');
	finish_pgbench($bench, "round $round");
	same($_, "round $round by two ways, " . $_->name, 0, 3) for $replica, $second;
	# One of the two falls behind and comes back with what is known.
	my ($node, $name) = @{ ([ $second, 'direct' ], [ $replica, 'ad' ], [ $second, 'cascade' ])[ $round - 1 ] };
	$node->safe_psql('postgres', "ALTER SUBSCRIPTION $name DISABLE");
	$hub->safe_psql('postgres', "UPDATE $_ SET n = n + 1") for @tables[ 0, 3 ];
	same($_, "round $round, one way is closed, " . $_->name, 0, 3) for $replica, $second;
	$node->safe_psql('postgres', "ALTER SUBSCRIPTION $name ENABLE");
	$hub->safe_psql('postgres', "UPDATE $_ SET n = n + 1") for @tables[ 0, 3 ];
	same($_, "round $round, open again, " . $_->name, 0, 3) for $replica, $second;
}
# Both ways have brought all of it: each has come to where the hub is.
for my $from ([ $hub, 'direct' ], [ $hub, 'again' ], [ $hub, 'ad' ], [ $replica, 'cascade' ])
{
	$from->[0]->wait_for_catchup($from->[1]);
}
is(join("\n", log_errors($second, $offset, 1)), '', 'no error on the second replica');
is(join("\n", log_errors($replica, $replica_offset, 1)), '', 'no error on the first');
is($_->safe_psql('postgres', 'SELECT bool_and(applied_seq = received_seq AND waiting = 0 AND failing_seq IS NULL) FROM rowclaim.replay'), 't', $_->name . ': nothing waits or fails')
	for $replica, $second;
for my $journal (@quoted)
{
	my $hashes = "SELECT md5(string_agg(encode(hash, 'hex'), '' ORDER BY seq, part)), count(*) FROM rowclaim.journal WHERE journal = $journal";
	is($_->safe_psql('postgres', $hashes), $hub->safe_psql('postgres', $hashes), "journal $journal has arrived entry by entry on " . $_->name) for $replica, $second;
}

$_->stop for $second, $replica, $hub;
done_testing();
