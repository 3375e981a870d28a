# Eight clients edit, commit, steal and discard at random, in both committing modes; a replica starts amidst and follows. In the end
# it has the hub's committed state, row by row, and nothing of the drafts that are open. ROWCLAIM_SEED: another seed for pgbench.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Load;
use Replica;
use RowClaim;

my ($hub, $replica) = new_pair(hub => ['deadlock_timeout = 100ms']);
prepare_load($hub);
$replica->safe_psql('postgres', $load_tables);
my $bench = start_pgbench($hub, load_scripts(), '-c', 8, '-j', 2, '-T', 10, '--max-tries', 20, '--random-seed', $ENV{ROWCLAIM_SEED} // 1);
$hub->poll_query_until('postgres', 'SELECT count(*) > 50 FROM rowclaim.journal') or die 'nothing is committed';
subscribe($hub, $replica);
finish_pgbench($bench, 'eight clients');
leave_drafts($hub);
note $hub->safe_psql('postgres', 'SELECT journal, kind, count(*), max(seq), sum(json_array_length(changes)) AS changes FROM rowclaim.journal GROUP BY 1, 2 ORDER BY 1, 2');
cmp_ok($hub->safe_psql('postgres', q{SELECT count(*) FROM rowclaim.changesets WHERE journal = 'main'}), '>', 100, 'there are changesets');
is($hub->safe_psql('postgres', q{SELECT count(DISTINCT actor) FROM rowclaim.changesets WHERE actor LIKE 'client %'}), 8, 'of every client');
same_committed($hub, $replica);
same_journals($hub, $replica);
is_deeply([ log_errors($replica, 0) ], [], 'no error on the replica');

$_->stop for $replica, $hub;
done_testing();
