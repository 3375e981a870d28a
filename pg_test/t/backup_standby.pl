# Base backup with point-in-time recovery, and a physical standby: all views can be read there, writing functions say that they
# cannot; after promotion work goes on without a gap.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use InUse;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1, has_archiving => 1, extra => [ '--no-sync', '--encoding=UTF8', '--locale=C' ]);
$primary->append_conf('postgresql.conf', 'autovacuum = off');
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION rowclaim');
$primary->backup('early');

# What happens after the backup comes from the archive.
put_to_use($primary, 'postgres');
my $before = state($primary, 'postgres');
my $target = $primary->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('late');
$standby->init_from_backup($primary, 'late', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'hot_standby_feedback = on');
$standby->start;

# What the point in time is to undo.
act($primary, 'postgres', 'alice', q{SELECT commit_changes('too early'); SELECT discard_changes('side'); SELECT release_rows()});
$primary->safe_psql('postgres', 'SELECT release_actor($$bob$$)');
$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
isnt(state($primary, 'postgres'), $before, 'the primary has moved on');

my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($primary, 'early', has_restoring => 1, standby => 0);
$restored->append_conf('postgresql.conf', "recovery_target_lsn = '$target'\nrecovery_target_action = promote");
$restored->start;
$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'recovery does not end';
is(state($restored, 'postgres'), $before, 'restored to the point in time: claims, drafts, tokens, journal, settings and rows are the same');
goes_on($restored, 'postgres', 'restored', recovered => 1);
$restored->stop;

# The standby.
$primary->wait_for_catchup($standby);
my $now = state($primary, 'postgres');
is(state($standby, 'postgres'), $now, 'the standby has the same');
my @views = split /\n/, $standby->safe_psql('postgres', q{
	SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'rowclaim' WHERE c.relkind = 'v' ORDER BY 1});
cmp_ok(scalar(@views), '>=', 10, 'there are views');
for my $view (@views)
{
	my $query = "SELECT count(*) FROM $view v";
	is($standby->safe_psql('postgres', $query), $primary->safe_psql('postgres', $query), "$view can be read on the standby");
}
is($standby->safe_psql('postgres', q{SELECT count(*) FROM verify_journal('main')}), 0, 'the journal can be verified there');
is($standby->safe_psql('postgres', 'SELECT current_actor()'), $primary->safe_psql('postgres', 'SELECT current_actor()'), 'so can the actor');
my %call = (
	'claim_row()' => q{claim_row('"odd schema"."Part"', 1)},
	'claim_rows()' => q{claim_rows('"odd schema"."Part"', ARRAY[1])},
	'release_row()' => q{release_row('"odd schema"."Part"', 1)},
	'release_rows()' => q{release_rows()},
	'renew_claims()' => q{renew_claims('1 h')},
	'commit_changes()' => q{commit_changes()},
	'discard_changes()' => q{discard_changes()},
	'pull_changes()' => q{* FROM pull_changes('replica')},
	'enable_claims()' => q{enable_claims('tally')});
for my $name (sort keys %call)
{
	my (undef, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT $call{$name}");
	like($error, qr/ERROR:  25006: cannot execute \Q$name\E (?:during recovery|in a read-only transaction)/, "$name says why it cannot work there");
}

# A fresh state, then the primary is gone.
$primary->safe_psql('postgres', q{DROP TABLE "odd schema"."Part", measure, tally; DROP SCHEMA "odd schema"; DROP EXTENSION rowclaim CASCADE; CREATE EXTENSION rowclaim});
put_to_use($primary, 'postgres');
$before = state($primary, 'postgres');
$primary->wait_for_catchup($standby);
$primary->stop('immediate');
is(state($standby, 'postgres'), $before, 'the standby has what the primary had');
$standby->promote;
is(state($standby, 'postgres'), $before, 'so it has after promotion');
goes_on($standby, 'postgres', 'promoted', recovered => 1);

$standby->stop;
done_testing();
