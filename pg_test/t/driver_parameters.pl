# Parameters as drivers send them: without a type (extended protocol), and with the type of the key column.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use RowClaim;

my $node = new_node('drivers');
$node->safe_psql('postgres', q{
	CREATE TABLE part (id int PRIMARY KEY, v text);
	INSERT INTO part SELECT i, 'old' FROM generate_series(1, 9) i;
	CREATE TABLE line (doc int, line int, v text, PRIMARY KEY (doc, line));
	INSERT INTO line VALUES (1, 1, 'old'), (1, 2, 'old');
	CREATE TABLE doc (id text PRIMARY KEY);
	INSERT INTO doc VALUES ('7'), ('{"id": 7}'), ('');
	CREATE TABLE outcome (n serial, key text, status text);
	SELECT enable_claims('part'), enable_claims('line'), enable_claims('doc')});

# pgbench sends its variables as parameters without a type.
for my $protocol ('extended', 'prepared')
{
	finish_pgbench(start_pgbench($node, { untyped => q{
		\set id 3
		INSERT INTO outcome (key, status) SELECT :id, status FROM claim_row('part', :id);
		UPDATE part SET v = 'changed ' || :id WHERE id = :id;
		SELECT commit_changes(:message);
		SELECT release_row('part', :id);
		SELECT steal_row('part', :id);
		INSERT INTO outcome (key, status) SELECT :line, status FROM claim_row('line', :line);
		SELECT release_rows();
	} }, '-M', $protocol, '-c', 1, '-t', 1, '-D', 'line={"doc": 1, "line": 2}', '-D', 'message=from a driver'), "untyped parameters, $protocol");
}
is($node->safe_psql('postgres', 'SELECT key, status FROM outcome ORDER BY n'), join("\n", ('3|granted', '{"doc": 1, "line": 2}|granted') x 2),
	'untyped parameters are read as the key column or as a JSON object');
is($node->safe_psql('postgres', 'SELECT seq, message FROM rowclaim.changesets'), '1|from a driver', 'so is text');

# Typed parameters.
my @cases = (
	[ 'int', '4', 'part', 'granted' ], [ 'bigint', '4', 'part', 'granted' ], [ 'smallint', '4', 'part', 'granted' ],
	[ 'text', q{'4'}, 'part', 'granted' ], [ 'varchar', q{'4'}, 'part', 'granted' ], [ 'jsonb', q{'{"id": 4}'}, 'part', 'granted' ],
	[ 'json', q{'{"id": 4}'}, 'part', 'granted' ], [ 'part', q{'(4,old)'}, 'part', 'granted', ],
	[ 'jsonb', q{'{"doc": 1, "line": 1}'}, 'line', 'granted' ], [ 'text', q{'{"line": 1, "doc": 1}'}, 'line', 'granted' ],
	[ 'text', q{'7'}, 'doc', 'granted' ], [ 'int', '7', 'doc', 'granted' ], [ 'text', q{'{"id": 7}'}, 'doc', 'granted' ], [ 'text', q{''}, 'doc', 'granted' ],
	[ 'int', '10', 'part', 'not_found' ], [ 'bigint', '4', 'part', 'granted', 'oid' ], [ 'int', '4', 'part', 'granted', 'text' ]);
for my $case (@cases)
{
	my ($type, $value, $table, $expected, $target) = @$case;
	my $regclass = $target ? "\$1::$target" : '$1';
	$target //= 'regclass';
	$value = "row(4, 'old', NULL, 1, NULL)::part" if $type eq 'part';
	is($node->safe_psql('postgres', qq{PREPARE p ($target, $type) AS SELECT status FROM claim_row(${regclass}::regclass, \$2);
		EXECUTE p ('$table'::regclass::$target, $value)}),
		$expected, "claim_row($target, $type) for $value of $table");
}
is($node->safe_psql('postgres', q{PREPARE p (regclass, int[]) AS SELECT key, status FROM claim_rows($1, $2); EXECUTE p ('part', '{5,6}')}),
	qq({"id": 5}|granted\n{"id": 6}|granted), 'claim_rows(regclass, int[])');
is($node->safe_psql('postgres', q{PREPARE p (regclass, text[]) AS SELECT key, status FROM claim_rows($1, $2); EXECUTE p ('part', '{5,6}')}),
	qq({"id": 5}|granted\n{"id": 6}|granted), 'claim_rows(regclass, text[])');

$node->stop;
done_testing();
