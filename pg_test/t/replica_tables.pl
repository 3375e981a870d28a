# What a table may be on the replica: plain, enabled, partitioned in another way, with other columns in another order, with triggers,
# owned by somebody who may not even read it; and what replay never writes to.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;
use Replica;

my ($hub, $replica) = new_pair();
sub hub { my ($sql) = @_; $hub->safe_psql('postgres', $sql); return }
sub replica { my ($sql) = @_; $replica->safe_psql('postgres', $sql); return }
sub here { my ($sql) = @_; return $replica->safe_psql('postgres', $sql) }
sub commit { my ($sql) = @_; my $seq = act($hub, 'alice', "$sql; SELECT commit_changes()"); die "$sql: $seq" if $seq !~ /^\d+$/; return $seq }

# The tables of the hub by name: how they are partitioned there.
my %hub = (columns => '', enabled => '', at_once => '', by_region => '', by_hash => '', deep => '', triggers => '', unreadable => '',
	unpartitioned => 'PARTITION BY RANGE (id)', otherwise => 'PARTITION BY RANGE (id)');
for my $table (sort keys %hub)
{
	hub("CREATE TABLE $table (id int PRIMARY KEY, region text NOT NULL DEFAULT 'north', v text, n int) $hub{$table}");
	hub("CREATE TABLE ${table}_$_ PARTITION OF $table FOR VALUES FROM (${_}00) TO (${_}99)") for $hub{$table} ? (0 .. 3) : ();
	hub("SELECT enable_claims('$table', claiming => 'auto')");
}
my @regions = ('north', 'south', 'east');
my %replica = (
	columns => q{CREATE TABLE columns (gone int, extra text, n int, mine int NOT NULL DEFAULT 7, v text, made timestamptz DEFAULT now(), region text, id int PRIMARY KEY,
		twice int GENERATED ALWAYS AS (n * 2) STORED, serial bigint GENERATED ALWAYS AS IDENTITY); ALTER TABLE columns DROP gone},
	enabled => q{CREATE TABLE enabled (id int PRIMARY KEY, region text, v text, n int); SELECT enable_claims('enabled', claiming => 'auto', journal => 'local')},
	at_once => q{CREATE TABLE at_once (id int PRIMARY KEY, region text, v text, n int); SELECT enable_claims('at_once', 'auto', 'transaction', 'local')},
	# The journal's key is no key here, and does not say which partition.
	by_region => join(';', 'CREATE TABLE by_region (region text, id int NOT NULL, n int, v text) PARTITION BY LIST (region)',
		map { "CREATE TABLE by_region_$_ PARTITION OF by_region FOR VALUES IN ('$_')" } @regions),
	by_hash => join(';', 'CREATE TABLE by_hash (id int PRIMARY KEY, region text, v text, n int) PARTITION BY HASH (id)',
		map { "CREATE TABLE by_hash_$_ PARTITION OF by_hash FOR VALUES WITH (MODULUS 3, REMAINDER $_)" } 0 .. 2),
	# Two levels; a leaf whose columns stand in another order.
	deep => q{CREATE TABLE deep (id int, region text, v text, n int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
		CREATE TABLE deep_north PARTITION OF deep FOR VALUES IN ('north') PARTITION BY RANGE (id);
		CREATE TABLE deep_low PARTITION OF deep_north FOR VALUES FROM (MINVALUE) TO (10);
		CREATE TABLE deep_high (n int, gone int, v text, region text NOT NULL, id int NOT NULL); ALTER TABLE deep_high DROP gone;
		ALTER TABLE deep_north ATTACH PARTITION deep_high FOR VALUES FROM (10) TO (MAXVALUE);
		CREATE TABLE deep_rest PARTITION OF deep DEFAULT},
	triggers => 'CREATE TABLE triggers (id int PRIMARY KEY, region text, v text, n int)',
	unreadable => 'CREATE ROLE keeper; CREATE TABLE unreadable (id int, region text, v text, n int); ALTER TABLE unreadable OWNER TO keeper; REVOKE ALL ON unreadable FROM keeper',
	unpartitioned => 'CREATE TABLE unpartitioned (id int PRIMARY KEY, region text, v text, n int)',
	otherwise => q{CREATE TABLE otherwise (id int PRIMARY KEY, region text, v text, n int) PARTITION BY RANGE (id);
		CREATE TABLE otherwise_1 PARTITION OF otherwise FOR VALUES FROM (MINVALUE) TO (150); CREATE TABLE otherwise_2 PARTITION OF otherwise FOR VALUES FROM (150) TO (MAXVALUE)});
replica(q{SELECT create_journal('local')});
replica($replica{$_}) for sort keys %replica;

# Triggers: who fires, and as whom.
replica(q{
	CREATE ROLE craftsman;
	GRANT CREATE ON SCHEMA public TO craftsman;
	ALTER TABLE triggers OWNER TO craftsman;
	CREATE TABLE fired (n int GENERATED ALWAYS AS IDENTITY, name text, op text, who text, old text, new text);
	GRANT ALL ON fired TO craftsman;
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.fired (name, op, who, old, new) VALUES (TG_NAME, TG_OP, current_user, CASE WHEN TG_OP <> 'INSERT' THEN OLD.v END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.v END);
		RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
	END $$;
	CREATE FUNCTION note_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.fired (name) VALUES ('statement'); RETURN NULL; END $$;
	CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := NEW.n + 1000; RETURN NEW; END $$;
	CREATE TRIGGER a_plain AFTER INSERT OR UPDATE OR DELETE ON triggers FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER b_replica AFTER INSERT OR UPDATE OR DELETE ON triggers FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER c_always BEFORE INSERT OR UPDATE OR DELETE ON triggers FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER d_off AFTER INSERT OR UPDATE OR DELETE ON triggers FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER e_when AFTER UPDATE ON triggers FOR EACH ROW WHEN (OLD.v IS DISTINCT FROM NEW.v) EXECUTE FUNCTION note();
	CREATE CONSTRAINT TRIGGER f_deferred AFTER INSERT ON triggers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
	ALTER TABLE triggers ENABLE REPLICA TRIGGER b_replica, ENABLE ALWAYS TRIGGER c_always, DISABLE TRIGGER d_off, ENABLE ALWAYS TRIGGER e_when, ENABLE REPLICA TRIGGER f_deferred});

# Rows come, change, change their region and key, exchange keys, and go.
my @tables = sort keys %hub;
sub all { my ($sql) = @_; return join '; ', map { $sql =~ s/%s/$_/gr } @tables }
commit(all(q{INSERT INTO %s SELECT i, CASE i % 3 WHEN 0 THEN 'north' WHEN 1 THEN 'south' ELSE 'east' END, 'row ' || i, i FROM generate_series(1, 30) i}));
# Only the one journal: others get a subscription of their own.
hub(q{SELECT create_journal_publication('pub', '{main}')});
subscribe($hub, $replica);
sub same
{
	my ($name) = @_;
	wait_applied($hub, $replica);
	same_rows($hub, $replica, $_, name => "$name: $_") for @tables;
	return;
}
same('inserted');
commit(all(q{UPDATE %s SET v = upper(v), n = NULL WHERE id BETWEEN 1 AND 20; DELETE FROM %s WHERE id > 25}));
same('updated and deleted');
commit(all(q{UPDATE %s SET region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END WHERE id < 15}));
same('moved to other regions');
commit(all(q{UPDATE %s SET id = id + 100 WHERE id IN (1, 2, 3); UPDATE %s SET id = 200, v = NULL WHERE id = 20}));
same('with other keys');
commit(all(q{UPDATE %s SET id = 50 WHERE id = 4; UPDATE %s SET id = 4 WHERE id = 5; UPDATE %s SET id = 5 WHERE id = 50}));
same('with exchanged keys');
commit(all(q{DELETE FROM %s WHERE id = 6; INSERT INTO %s VALUES (6, 'east', 'again', 6); UPDATE %s SET n = id}));
same('deleted and inserted again');
is(here('SELECT count(*), count(extra), min(mine), max(mine), count(made), count(serial), bool_and(twice IS NOT DISTINCT FROM n * 2) FROM columns'), '25|0|7|7|25|25|t',
	'columns of the replica alone have their defaults, generated ones their values');
is(here(q{SELECT string_agg(tableoid::regclass::text || ' ' || region, ', ' ORDER BY region) FROM (SELECT DISTINCT tableoid, region FROM by_region) t}),
	'by_region_east east, by_region_north north, by_region_south south', 'each row is in the partition it belongs into');
is(here(q{SELECT string_agg(DISTINCT tableoid::regclass::text, ', ') FROM deep}), 'deep_high, deep_low, deep_rest', 'also two levels deep');

# Triggers ----------------------------------------------------------------------------------------

replica('TRUNCATE fired');
commit(q{UPDATE triggers SET v = 'fire' WHERE id = 7});
commit(q{UPDATE triggers SET n = 8 WHERE id = 7});
commit(q{INSERT INTO triggers VALUES (300, 'north', 'new', 1)});
commit(q{DELETE FROM triggers WHERE id = 300});
wait_applied($hub, $replica);
is(here(q{SELECT string_agg(concat_ws(' ', name, op, who, old, new), E'\n' ORDER BY n) FROM fired}), join("\n",
	'c_always UPDATE craftsman ROW 7 fire', 'b_replica UPDATE craftsman ROW 7 fire', 'e_when UPDATE craftsman ROW 7 fire',
	'c_always UPDATE craftsman fire fire', 'b_replica UPDATE craftsman fire fire',
	'c_always INSERT craftsman new', 'b_replica INSERT craftsman new', 'f_deferred INSERT craftsman new',
	'c_always DELETE craftsman new', 'b_replica DELETE craftsman new'),
	'REPLICA and ALWAYS triggers fire, in order and as the owner; others do not');
same('with triggers');
# A trigger may change what is written.
replica('CREATE TRIGGER stamp BEFORE INSERT ON triggers FOR EACH ROW EXECUTE FUNCTION stamp(); ALTER TABLE triggers ENABLE REPLICA TRIGGER stamp');
commit(q{INSERT INTO triggers VALUES (301, 'north', 'stamped', 1)});
wait_applied($hub, $replica);
is(here('SELECT n FROM triggers WHERE id = 301'), 1001, 'a BEFORE trigger changes the row');
replica('DROP TRIGGER stamp ON triggers; UPDATE triggers SET n = 1 WHERE id = 301');

# Enabled on the replica, too ---------------------------------------------------------------------

is(act($replica, 'bob', q{SELECT status FROM claim_row('enabled', 8)}), 'granted', 'a row is claimed on the replica');
commit(q{UPDATE enabled SET v = 'over a claim', region = 'east' WHERE id = 8; UPDATE enabled SET v = 'twice' WHERE id = 9});
commit(q{UPDATE enabled SET v = 'twice more' WHERE id = 9; UPDATE enabled SET id = 308 WHERE id = 8});
same('over a claim');
is(here(q{SELECT string_agg(concat_ws(' ', id, row_owner), ', ' ORDER BY id) FROM enabled WHERE id IN (9, 308)}), '9, 308 bob', 'the claim stays, and goes with its row');
my $version = "SELECT string_agg(id || ' ' || row_version, ', ' ORDER BY id) FROM enabled";
is(here($version), $hub->safe_psql('postgres', $version), 'rows have the versions they have on the hub');
is(here('SELECT count(*) FROM rowclaim.drafts'), 0, 'replay leaves no drafts');
# Uncommitted changes stand in the way: replay would be undone with them.
act($replica, 'carol', q{UPDATE enabled SET v = 'mine' WHERE id = 10});
my $offset = -s $replica->logfile;
my $seq = commit('UPDATE enabled SET n = 99 WHERE id = 10');
like(wait_failing($replica, $seq), qr/does not fit row public\.enabled \{"id": 10\}: it has uncommitted changes of carol here$/, 'a row with uncommitted changes is not replayed');
like(join("\n", log_errors($replica, $offset, 1)), qr/^55000 [^\n]*\nDETAIL:  \{"reason":"replay_diverged"[^\n]*\nHINT:  Replay goes on when carol has committed or discarded them\.$/, 'the log says so');
is(act($replica, 'carol', q{SELECT discard_changes('local')}), 1, 'carol discards them');
same('uncommitted changes discarded');
# What was committed with a transaction does not, whatever else that transaction has put into a draft.
act($replica, 'carol', q{BEGIN; UPDATE enabled SET v = 'mine' WHERE id = 10; UPDATE at_once SET v = v || '!' WHERE id = 10;
	UPDATE at_once SET v = rtrim(v, '!') WHERE id = 10; COMMIT});
is(here(q{SELECT count(*) FROM at_once t JOIN rowclaim.draft d ON d.id = t.row_draft WHERE d.actor = 'carol'}), 1, 'a row has the number of a draft that it is not in');
commit('UPDATE at_once SET n = 99 WHERE id = 10');
wait_applied($hub, $replica);
is(here('SELECT n FROM at_once WHERE id = 10'), 99, 'and is replayed');
is(act($replica, 'carol', q{SELECT discard_changes('local')}), 1, 'the draft has the other row');
same('both kinds of tables in one transaction');

# An owner without privileges ---------------------------------------------------------------------

is(here(q{SELECT has_table_privilege('keeper', 'unreadable', 'SELECT')}), 'f', 'the owner of a table without an index may not read it, and it was replayed');
replica(q{CREATE ROLE reader_of_nothing; ALTER TABLE by_hash OWNER TO reader_of_nothing; REVOKE ALL ON by_hash FROM reader_of_nothing});
commit(q{UPDATE by_hash SET n = n + 1; DELETE FROM by_hash WHERE id = 11});
same('a partitioned table whose owner may not read it');
hub(q{CREATE ROLE landlord; CREATE ROLE tenant; ALTER TABLE otherwise OWNER TO landlord; REVOKE ALL ON otherwise FROM landlord; GRANT SELECT, UPDATE ON otherwise TO tenant});
is($hub->safe_psql('postgres', q{SET SESSION AUTHORIZATION tenant; SELECT status FROM claim_row('otherwise', 12); UPDATE otherwise SET n = 1200 WHERE id = 12; SELECT commit_changes(release => true) IS NOT NULL}),
	"granted\nt", 'on the hub, too, others work with such a table');
same('a table whose owner may not read it on the hub');

# What is never written ---------------------------------------------------------------------------

# Entries that a superuser of the hub has made up, each in a journal of its own.
my $number = 0;
for my $case ([ 'pg_catalog.pg_authid', 'rolname', 'postgres', 'it is a table of the server' ],
	[ 'information_schema.sql_features', 'feature_id', 'B011', 'it is a table of the server' ],
	[ 'rowclaim.journal_config', 'name', 'main', 'it is a table of rowclaim' ],
	[ 'public.a_view', 'id', '1', 'it is not a table' ],
	[ 'public.fired_n_seq', 'last_value', '1', 'it is not a table' ])
{
	my ($target, $column, $value, $problem) = @$case;
	my $journal = 'forged_' . ++$number;
	replica('CREATE VIEW a_view AS SELECT 1 AS id') if $number == 1;
	my $changes = qq([{"op":"delete","table":"$target","key":{"$column":"$value"},"old":{}}]);
	hub(qq{
		SELECT create_journal('$journal'), create_journal_publication('$journal', '{$journal}');
		INSERT INTO rowclaim.journal (journal, seq, part, parts, kind, actor, xid, committed_at, changes, hash)
		SELECT '$journal', 1, 1, 1, 'changeset', 'mallory', xid, at, '$changes',
			sha256(convert_to(format(E'["$journal",1,1,1,"changeset","mallory",null,"%s",null,%s]\\n%s', xid,
				(extract(epoch FROM at - timestamptz '2000-01-01 00:00:00Z') * 1000000)::bigint, '$changes'), 'UTF8'))
		FROM (SELECT pg_current_xact_id() AS xid, timestamptz '2026-01-01 00:00:00Z' AS at) t});
	$offset = -s $replica->logfile;
	subscribe($hub, $replica, name => $journal, publication => $journal);
	my $message = "changeset 1 of journal $journal does not fit table $target: $problem";
	is(wait_failing($replica, 1, journal => $journal), "$target|{\"$column\": \"$value\"}|$message", "$target is not written");
	like(join("\n", log_errors($replica, $offset, 1)),
		qr/^55000 \Q$message\E\nDETAIL:  \Q{"reason":"replay_diverged","journal":"$journal","seq":1,"table":"$target","key":null,"column":null}\E\nHINT:  Replay writes users' tables only/m, "$target: the log says why");
	$replica->safe_psql('postgres', "ALTER SUBSCRIPTION $journal DISABLE; ALTER SUBSCRIPTION $journal SET (slot_name = NONE); DROP SUBSCRIPTION $journal");
}
is(here(q{SELECT count(*) FROM pg_roles WHERE rolname = 'postgres'}) . here(q{SELECT count(*) FROM rowclaim.journal_config WHERE name = 'main'}), '11', 'nothing of it was done');
commit('UPDATE columns SET n = 0 WHERE id = 9');
same('other journals go on');

$_->stop for $hub, $replica;
done_testing();
