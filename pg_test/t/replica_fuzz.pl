# Changesets that are nearly right, with a right hash: a replica replays them as they say, or refuses them with an error that has a
# proper SQLSTATE. It never crashes and never meets an internal error. ROWCLAIM_SEED: another seed than 1. ROWCLAIM_DURATION: seconds (15).
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use RowClaim;
use Replica;

my $seed = $ENV{ROWCLAIM_SEED} // 1;
srand $seed;
note "ROWCLAIM_SEED=$seed";

my ($hub, $replica) = new_pair(replica => [ 'wal_retrieve_retry_interval = 1ms', 'restart_after_crash = off' ]);
my $columns = '(id bigint PRIMARY KEY, i int, n numeric(10, 2), f float8, b bool, t text, c char(4), d date, y bytea, j jsonb, a int[])';
# What the journal says they are: plain, with claims, partitioned, with a key of two columns and a name to be quoted.
my @tables = ('public.plain', 'public.claimed', 'public.split', 'public."a ""b"""');
my $tables = qq{
	CREATE TABLE plain $columns;
	CREATE TABLE claimed $columns;
	CREATE TABLE split (id bigint, i int, n numeric(10, 2), f float8, b bool, t text, c char(4), d date, y bytea, j jsonb, a int[], PRIMARY KEY (id)) PARTITION BY RANGE (id);
	CREATE TABLE split_low PARTITION OF split FOR VALUES FROM (MINVALUE) TO (1000);
	CREATE TABLE split_high PARTITION OF split FOR VALUES FROM (1000) TO (MAXVALUE);
	CREATE TABLE "a ""b""" (k text DEFAULT 'k', LIKE plain INCLUDING DEFAULTS, PRIMARY KEY (id, k));
	CREATE FUNCTION fill(first int, last int) RETURNS void LANGUAGE sql AS \$\$
		INSERT INTO plain SELECT i, i, 1.50, 0.1, true, 'text', 'c', '2026-01-01', '\\x00', '{"a": [1]}', '{1,NULL}' FROM generate_series(first, last) i;
		INSERT INTO claimed SELECT * FROM plain WHERE id BETWEEN first AND last;
		INSERT INTO split SELECT * FROM plain WHERE id BETWEEN first AND last;
		INSERT INTO "a ""b""" SELECT 'k', * FROM plain WHERE id BETWEEN first AND last;
	\$\$};
$hub->safe_psql('postgres', $tables);
$replica->safe_psql('postgres', qq{$tables; CREATE VIEW seen AS SELECT * FROM plain; CREATE SEQUENCE counter; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id});
# An entry with the hash it must have. False if the text is not JSON for the server.
$hub->safe_psql('postgres', q{
	CREATE FUNCTION forge(journal text, seq bigint, part int, parts int, kind text, changes text) RETURNS bool LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO rowclaim.journal (journal, seq, part, parts, kind, actor, xid, committed_at, changes, hash)
		SELECT journal, seq, part, parts, kind, 'forger', '700', '2026-01-01 00:00Z', changes::json, sha256(convert_to(concat('[',
			concat_ws(',', to_json(journal), seq, part, parts, to_json(kind), '"forger"', 'null', '"700"', 'null',
				(extract(epoch FROM '2026-01-01 00:00Z' - '2000-01-01 00:00Z'::timestamptz) * 1000000)::bigint), E']\n', changes), 'UTF8')
			|| coalesce((SELECT j.hash FROM rowclaim.journal j WHERE j.journal = forge.journal AND j.seq = forge.seq AND j.part = forge.part - 1), ''));
		RETURN true;
	EXCEPTION WHEN data_exception OR statement_too_complex THEN
		RETURN false;
	END $$});
subscribe($hub, $replica);

# The rows that change number $n is about, before any.
my $rows = 0;
sub more_rows
{
	my ($first, $last) = ($rows + 1, $rows + 200);
	$rows = $last;
	$_->safe_psql('postgres', "SELECT fill($first, $last)") for $hub, $replica;
	# Each in a journal of its own, so that none waits for another; a good entry comes first.
	$hub->safe_psql('postgres', "SELECT forge('j' || i, 1, 1, 1, 'void', '[]') FROM generate_series($first, $last) i");
	return;
}
$replica->safe_psql('postgres', "SELECT enable_claims('claimed', 'auto')");

my @values = ('null', 'true', 'false', '0', '-0', '-1', '1.5', '1e3', '1e400', '-1e-400', '9223372036854775808', '170141183460469231731687303715884105728',
	'1' . '0' x 400, '"NaN"', '"-Infinity"', '""', '"x"', '"\ud800"', '"\ud83d\ude00"', '"\\\\"', '"\"' . 'é' x 3 . '"', '"2026-13-45"', '"infinity"', '"\\\\x0g"', '"{"',
	'"{1,2}"', '"[0:1]={1,2}"', '[]', '{}', '[1]', '{"a":1}', '[' x 500 . ']' x 500, '"' . 'y' x 70_000 . '"', '"294277-01-01"', '"\u0001"', '" 1 "');
my @names = ('id', 'i', 'n', 'f', 'b', 't', 'c', 'd', 'y', 'j', 'a', 'k', 'row_owner', 'row_version', 'row_draft', 'ctid', 'tableoid', 'no such', '', '"', 'a' x 70, 'op', 'key');
my @targets = (@tables, 'public.split_low', 'public.seen', 'public.counter', 'public.kept', 'pg_catalog.pg_class', 'pg_catalog.pg_authid', 'rowclaim.journal', 'rowclaim.draft_row',
	'information_schema.tables', 'public.plain_pkey', 'public.no_such', 'plain', 'public.plain.x', '"public".plain', 'public."', '.', '', 'pg_temp.plain', '"' . 'x' x 100 . '".y',
	'pg_toast.pg_toast_1255');

sub pick { return $_[ rand @_ ] }
sub text { my ($text) = @_; $text =~ s/(["\\])/\\$1/g; return "\"$text\"" }
sub object { return '{' . join(',', map { text($_->[0]) . ':' . $_->[1] } @_) . '}' }

my %present = (i => undef, n => '1.50', f => '0.1', b => 'true', t => '"text"', c => '"c   "', d => '"2026-01-01"', y => '"\\\\x00"', j => '"{\"a\": [1]}"', a => '"{1,NULL}"');
my %other = (i => '7', n => '2.25', f => '1e+300', b => 'false', t => '"other é \\" \\n"', c => '"abcd"', d => 'null', y => '"\\\\xff"', j => '"[]"', a => '"{}"');

# A right change, as [name, JSON]: it can be replayed if the ones before are of other rows.
sub change
{
	my ($id) = @_;
	my $table = pick(@tables);
	my @key = ([ id => $id ], $table =~ /"/ ? ([ k => '"k"' ]) : ());
	my $op = pick('insert', 'update', 'update', 'delete');
	my @some = grep { rand() < 0.4 } sort keys %other;
	@some = ('t') if !@some;
	my @change = ([ op => text($op) ], [ table => text($table) ]);
	my $is = sub { my ($name) = @_; return [ $name => $present{$name} // $id ] };
	if ($op eq 'insert')
	{
		$key[0] = [ id => $id + 1_000_000 ];
		push @change, [ key => object(@key) ], [ new => object(@key, map { [ $_ => $other{$_} ] } sort keys %other) ];
	}
	elsif ($op eq 'update')
	{
		my @move = rand() < 0.1 ? ([ id => $id + 2_000_000 ]) : ();
		push @change, [ key => object(@key) ], [ old => object((map { [ id => $id ] } @move), map { $is->($_) } @some) ],
			[ new => object(@move, map { [ $_ => $other{$_} ] } @some) ];
	}
	else
	{
		push @change, [ key => object(@key) ], [ old => object(@key, map { $is->($_) } sort keys %other) ];
	}
	return (@change, [ version => 2 ]);
}

# Something is changed in the text of a JSON object that has no object in it.
sub worse
{
	my ($json) = @_;
	my $how = int rand 5;
	my $name = text(pick(@names));
	my $value = pick(@values);
	if ($how == 0) { $json =~ s/"(\w+)":/$name:/ }
	elsif ($how == 1) { my $at = int rand 3; my $seen = 0; $json =~ s/:((?:"(?:[^"\\]|\\.)*"|[^,}"])*)/$seen++ == $at ? ":$value" : ":$1"/ge }
	elsif ($how == 2) { $json =~ s/\}$/,$name:$value}/ }
	elsif ($how == 3) { $json =~ s/"\w+":(?:"(?:[^"\\]|\\.)*"|[^,}"]*),?// }
	else { return $value }
	return $json;
}

# kind, part, parts and changes of entry number $n.
sub forged
{
	my ($n) = @_;
	my @changes = map { [ change($n) ] } 1 .. pick(1, 1, 1, 1, 2);
	my @head = ('changeset', 1, 1);
	for (1 .. pick(1, 1, 1, 2, 3))
	{
		my $change = pick(@changes);
		my $field = pick(@$change);
		my $how = int rand 12;
		if ($how <= 4) { $field->[1] = worse($field->[1]) if $field->[0] =~ /key|old|new/ }
		elsif ($how == 5) { ($_->[0] eq 'table') and $_->[1] = text(pick(@targets)) for @$change }
		elsif ($how == 6) { ($_->[0] eq 'op') and $_->[1] = text(pick('insert', 'update', 'delete', 'baseline', 'seal', '', 'no such')) for @$change }
		elsif ($how == 7) { $field->[1] = pick(@values) }
		elsif ($how == 8) { $field->[0] = pick(@names) }
		elsif ($how == 9) { @$change = grep { $_ != $field } @$change if @$change > 1 }
		elsif ($how == 10) { push @$change, [ pick('rows', 'version', 'key', 'old', 'new') => pick(@values, -1, 5) ] }
		else { @head = (pick('changeset', 'baseline', 'baseline', 'void', 'seal', 'no such', ''), pick(1, 1, 1, 2, 0, -1), pick(1, 1, 2, 0, -1)) }
	}
	unshift @changes, [ [ op => '"baseline"' ], [ table => text(pick(@tables)) ], [ rows => pick(1, 1, 0, 2, -1, '1e3', 'null', '9223372036854775807') ] ] if $head[0] eq 'baseline' && rand() < 0.7;
	my $text = '[' . join(',', map { object(@$_) } @changes) . ']';
	# Now and then the bytes themselves; most of it is no JSON any more.
	if (rand() < 0.15)
	{
		my $at = int rand length $text;
		substr($text, $at, 1) = pick('', '"', '\\', '{', '}', '[', ']', ',', ':', ' ', '0', 'e', '-', "\t", 'null');
	}
	return (@head, $text);
}

# Waits until the subscription has come that far, but not for long. It looks on from here; psql takes its time to start.
$hub->safe_psql('postgres', q{
	CREATE FUNCTION settled(upto pg_lsn) RETURNS bool LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. 40 LOOP
			PERFORM pg_stat_clear_snapshot();
			IF EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'sub' AND replay_lsn >= upto) THEN RETURN true; END IF;
			PERFORM pg_sleep(0.005);
		END LOOP;
		RETURN false;
	END $$;
	-- What an entry says, by plain SQL on the same tables: empty, or why it cannot be done.
	CREATE FUNCTION reference(changes json) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE change json; target text; key text; hits bigint; old text; new text; names text;
	BEGIN
		FOR change IN SELECT value FROM json_array_elements(changes) LOOP
			target := change ->> 'table';
			SELECT string_agg(CASE WHEN o ~ '^null$' THEN format('%I IS NULL', k) ELSE format('%I = (%L)::%s', k, change -> 'key' ->> k, typ) END, ' AND '
				ORDER BY k) INTO STRICT key
			FROM (SELECT k, change -> 'key' -> k #>> '{}' AS o, coalesce(format_type(atttypid, atttypmod), 'nothing') AS typ FROM json_object_keys(change -> 'key') k
				LEFT JOIN pg_attribute ON attrelid = to_regclass(target) AND attname = k AND attnum > 0) k;
			SELECT coalesce(string_agg(format('(%I)::text IS NOT DISTINCT FROM ((%L)::%s)::text', k, change -> 'old' ->> k, typ), ' AND '), 'true') INTO old
			FROM (SELECT k, format_type(atttypid, atttypmod) AS typ FROM json_object_keys(nullif((change -> 'old')::text, 'null')::json) k JOIN pg_attribute ON attrelid = to_regclass(target) AND attname = k AND attnum > 0) k;
			SELECT string_agg(quote_ident(k), ', '), string_agg(format('(%L)::%s', change -> 'new' ->> k, typ), ', ') INTO names, new
			FROM (SELECT DISTINCT k, coalesce(format_type(atttypid, atttypmod), 'nothing') AS typ FROM json_object_keys(nullif((change -> 'new')::text, 'null')::json) k
				LEFT JOIN pg_attribute ON attrelid = to_regclass(target) AND attname = k AND attnum > 0) k;
			EXECUTE CASE change ->> 'op'
				WHEN 'insert' THEN format('INSERT INTO %s (%s) VALUES (%s)', target, names, new)
				WHEN 'update' THEN CASE WHEN names IS NULL THEN format('SELECT 1 FROM %s WHERE %s AND %s', target, key, old)
					ELSE format('UPDATE %s SET (%s) = ROW (%s) WHERE %s AND %s', target, names, new, key, old) END
				WHEN 'delete' THEN format('DELETE FROM %s WHERE %s AND %s', target, key, old) END;
			GET DIAGNOSTICS hits = ROW_COUNT;
			IF hits <> 1 THEN
				RAISE EXCEPTION '% rows', hits;
			END IF;
		END LOOP;
		RETURN '';
	EXCEPTION WHEN OTHERS THEN
		RETURN SQLERRM;
	END $$});

my (%outcome, @trouble);
my ($tried, $offset, $skipped) = (0, -s $replica->logfile, '');
my $last_error = '';
my ($here, $there) = (session($hub, 'forger'), session($replica, 'monitor'));

# Waits until the replica has what was committed up to $lsn, and skips what it refuses. False: it has crashed.
sub settle
{
	my ($lsn) = @_;
	for (my $patience = time + 300; time < $patience;)
	{
		return 1 if $here->query_safe("SELECT settled('$lsn')") eq 't';
		my $log = slurp_file($replica->logfile, $offset);
		return 0 if $log =~ /terminated by signal|PANIC|TRAP:/;
		# The last error, and where the transaction ends that met it.
		my ($error, $end) = $log =~ /.*^[^\n]*? ERROR:  (\w{5}: [^\n]*)\n.*?finished at (\w+\/\w+)/ms or next;
		next if $end eq $skipped;
		$patience = time + 300;
		$outcome{ substr $error, 0, 5 }++;
		$last_error = $error;
		push @trouble, $error if $error =~ /^XX/ && $error !~ /^XX001: journal j\d+ is damaged/;
		$there->query_safe("ALTER SUBSCRIPTION sub SKIP (lsn = '$end')");
		$skipped = $end;
	}
	die 'the replica neither applies nor refuses an entry';
}

# Baselines that are none: what they would delete stays. Each with the error it must meet.
my $row = '{"op":"insert","table":"public.plain","key":{"id":1},"new":{"id":1},"version":1}';
my $header = sub { my ($rows) = @_; return "{\"op\":\"baseline\",\"table\":\"public.plain\"$rows}" };
my @baselines = (
	[ 'a header in a changeset', 'the header of a baseline, and nothing else, is its first part', [ 'changeset', $header->(',"rows":1'), $row ] ],
	[ 'two headers', 'the header of a baseline, and nothing else, is its first part', [ 'baseline', $header->(',"rows":0'), $header->(',"rows":0') ] ],
	[ 'no header', 'the header of a baseline, and nothing else, is its first part', [ 'baseline', $row ] ],
	[ 'a header in the second part', 'the header of a baseline, and nothing else, is its first part', [ 'baseline', $header->(',"rows":0') ], [ 'baseline', $header->(',"rows":0') ] ],
	[ 'no number of rows', 'a baseline does not say how many rows it has', [ 'baseline', $header->('') ] ],
	[ 'less than no rows', 'a baseline does not say how many rows it has', [ 'baseline', $header->(',"rows":-1') ] ],
	[ 'too few rows', 'a baseline lacks 2 of its rows', [ 'baseline', $header->(',"rows":3') ], [ 'baseline', $row ] ]);
more_rows();
for my $case (@baselines)
{
	my ($name, $problem, @parts) = @$case;
	my $n = ++$tried;
	my $parts = @parts;
	my $sql = 'BEGIN;';
	for my $part (1 .. $parts)
	{
		my ($kind, @changes) = @{ $parts[$part - 1] };
		$sql .= "SELECT forge('j$n', 2, $part, $parts, '$kind', '[" . join(',', @changes) . "]');";
	}
	$here->query_safe("$sql COMMIT");
	settle($here->query_safe('SELECT pg_current_wal_flush_lsn()')) or die 'the server crashed';
	is($last_error, "22023: invalid changeset: $problem", "$name is refused");
}
is($there->query_safe('SELECT count(*) FROM plain'), 200, 'no row is gone');

my $until = time + ($ENV{ROWCLAIM_DURATION} // 15);
while (time < $until and !@trouble)
{
	more_rows() if $tried + 10 > $rows;
	my @forged;
	for (1 .. 10)
	{
		my ($kind, $part, $parts, $text) = forged(++$tried);
		my $quoted = $text =~ s/'/''/gr;
		$here->query_safe("SELECT forge('j$tried', 2, $part, $parts, '$kind', '$quoted')");
	}
	my $lsn = $here->query_safe('SELECT pg_current_wal_flush_lsn()');
	push @trouble, "the server crashed at an entry after $tried" if !settle($lsn);
}
$outcome{forged} = $here->query_safe('SELECT count(*) FROM rowclaim.journal WHERE seq = 2');
note join ', ', map { "$_: $outcome{$_}" } sort keys %outcome;
is(join("\n", @trouble), '', 'no crash and no internal error');

# What was replayed.
if (!@trouble)
{
	my @replayed = split /\n/, $there->query_safe("SELECT journal FROM rowclaim.journal WHERE seq = 2 AND kind = 'changeset' AND part = 1 AND parts = 1 ORDER BY substr(journal, 2)::int");
	note scalar(@replayed) . ' changesets were replayed';
	my $list = join ',', @replayed;
	is($here->query_safe(qq{
		WITH done AS MATERIALIZED (SELECT journal, reference(changes) AS problem, left(changes::text, 500) AS changes FROM rowclaim.journal WHERE seq = 2 AND journal = ANY ('{$list}'))
		SELECT journal, problem, changes FROM done WHERE problem <> '' ORDER BY substr(journal, 2)::int}), '', 'what is replayed can be done by plain SQL, too');
	same_rows($hub, $replica, $_, columns => 'id, i, n, f, b, t, c, d, y, j, a', name => "$_: with the same result") for @tables;
}

$_->quit for $here, $there;
$_->stop for $replica, $hub;
done_testing();
