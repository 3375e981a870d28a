# What the tests of order and numbers share: scenarios on one hub and one replica, each in a database of its own.
package Scenario;

use strict;
use warnings;
use Exporter 'import';
use Replica;
use RowClaim;
use Test::More;

our @EXPORT = qw($db servers scenario on_hub on_replica start drop wait_all same open_commit commit replay_is applied_exactly_once);

our $db;
my ($hub, $replica);

# Starts the servers, with settings as new_pair() has them.
sub servers
{
	($hub, $replica) = new_pair(@_);
	return ($hub, $replica);
}

# Databases with tables part (enabled on the hub, rows 1 to 9, changeset 1) and other.
sub scenario
{
	($db) = @_;
	note "scenario $db";
	for my $node ($hub, $replica)
	{
		$node->safe_psql('postgres', "CREATE DATABASE $db");
		$node->safe_psql($db, q{CREATE EXTENSION rowclaim; CREATE TABLE part (id int PRIMARY KEY, v text); CREATE TABLE other (id int)});
	}
	on_hub(q{SELECT enable_claims('part', claiming => 'auto'); INSERT INTO part SELECT i, 'old' FROM generate_series(1, 9) i; SELECT commit_changes()});
	return;
}

sub on_hub { return $hub->safe_psql($db, $_[0]) }
sub on_replica { return $replica->safe_psql($db, $_[0]) }
sub start { subscribe($hub, $replica, dbname => $db, name => "sub_$db", @_); return }
sub drop { on_replica("DROP SUBSCRIPTION sub_$db"); return }
sub wait_all { return wait_applied($hub, $replica, dbname => $db) }
sub same { return same_rows($hub, $replica, $_[0] // 'part', dbname => $db, name => "$db: " . ($_[1] // 'the same rows')) }

# A session of the hub that has changed a row and drawn a number for it.
sub open_commit
{
	my ($actor, $row, $begin) = @_;
	my $session = session($hub, $actor, dbname => $db);
	$session->{seq} = $session->query_safe(($begin // 'BEGIN') . "; UPDATE part SET v = '$actor' WHERE id = $row; SELECT commit_changes()");
	return $session;
}

sub commit
{
	my ($actor, $row) = @_;
	my $seq = act($hub, $actor, "UPDATE part SET v = v || '+' WHERE id = $row; SELECT commit_changes()", dbname => $db);
	return $seq =~ /^\d+$/ ? $seq : die $seq;
}

# Waits until rowclaim.replay says: applied, received, missing, waiting.
sub replay_is
{
	my ($expected, $name) = @_;
	my $sql = 'SELECT applied_seq, received_seq, missing_seq, waiting, failing_seq FROM rowclaim.replay';
	$replica->poll_query_until($db, $sql, "$expected|");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(on_replica($sql), "$expected|", "$db: $name");
}

sub applied_exactly_once
{
	my ($seq) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(on_replica('SELECT applied_seq, missing_seq, waiting, overwritten, skipped FROM rowclaim.replay'), "$seq||0|0|0", "$db: everything is applied");
	same('rowclaim.journal', 'the same journal');
	is(on_replica(q{SELECT count(*) FROM verify_journal('main')}), 0, "$db: which is sound");
	return;
}

1;
