# docs/monitoring: the queries run as a member of pg_monitor and return what they declare; exporter, dashboard and view agree on
# every figure.
use strict;
use warnings;
use CPAN::Meta::YAML;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use InUse;
use RowClaim;

my $docs = 'monitoring';
my $node = new_node('monitoring');
put_to_use($node, 'postgres');
$node->safe_psql('postgres', q{
	INSERT INTO rowclaim.journal_config (name) VALUES ('received');
	INSERT INTO rowclaim.replay_state (journal) VALUES ('received');
	CREATE ROLE watcher LOGIN IN ROLE pg_monitor});
my @as = (extra_params => [ '-U', 'watcher' ]);
my %known = map { my ($name, $labels) = split /\|/; $name => $labels } split /\n/, $node->safe_psql('postgres',
	q{SELECT DISTINCT name, (SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(labels) k) FROM rowclaim.metrics}, @as);
cmp_ok(scalar(keys %known), '>=', 15, 'the view has figures of every kind');

my ($sections) = @{ CPAN::Meta::YAML->read_string(slurp_file("$docs/postgres_exporter.yaml")) };
my %exported;
for my $section (sort keys %$sections)
{
	my (%type, $labels);
	for my $metric (@{ $sections->{$section}{metrics} })
	{
		my ($column) = keys %$metric;
		$type{$column} = $metric->{$column}{usage};
		ok($metric->{$column}{description}, "$section: $column is described");
	}
	$labels = join ',', sort grep { $type{$_} eq 'LABEL' } keys %type;
	my $rows = decode_json($node->safe_psql('postgres', "SELECT json_agg(q) FROM ($sections->{$section}{query}) q", @as));
	cmp_ok(scalar(@$rows), '>', 0, "$section: the query returns rows");
	is_deeply([ sort keys %{ $rows->[0] } ], [ sort keys %type ], "$section: it has the columns that are declared");
	for my $column (grep { $type{$_} ne 'LABEL' } sort keys %type)
	{
		$exported{"${section}_$column"} = $labels;
		is(scalar(grep { !defined $_->{$column} || $_->{$column} !~ /^[0-9.e+-]+$/ } @$rows), 0, "$section: $column is always a number");
	}
	my %seen;
	is(scalar(grep { $seen{ join '|', @$_{ split /,/, $labels } }++ } @$rows), 0, "$section: the labels identify a row");
}
is_deeply(\%exported, \%known, 'the exporter has the figures of the view, all of them, with their labels');

my ($collector) = @{ CPAN::Meta::YAML->read_string(slurp_file("$docs/sql_exporter.collector.yml")) };
my %collected;
for my $metric (@{ $collector->{metrics} })
{
	my $name = $metric->{metric_name};
	like($metric->{type}, qr/^(gauge|counter)$/, "$name has a type");
	ok($metric->{help}, "$name is described");
	my @labels = sort @{ $metric->{key_labels} };
	$collected{$name} = join ',', @labels;
	my $rows = decode_json($node->safe_psql('postgres', "SELECT json_agg(q) FROM ($metric->{query}) q", @as));
	is_deeply([ sort keys %{ $rows->[0] } ], [ sort @labels, @{ $metric->{values} } ], "$name: the query has the columns that are declared");
	is($node->safe_psql('postgres', "SELECT count(*) FROM rowclaim.metrics WHERE name = '$name'", @as), scalar(@$rows), "$name: and every row of the figure");
}
is_deeply(\%collected, \%known, 'the collector has the figures of the view, all of them, with their labels');

my $dashboard = decode_json(slurp_file("$docs/grafana.json"));
my %shown;
for my $panel (@{ $dashboard->{panels} })
{
	for my $target (@{ $panel->{targets} })
	{
		my @names = $target->{expr} =~ /\b(rowclaim_\w+)/g;
		cmp_ok(scalar(@names), '>', 0, "panel $panel->{title} shows a figure");
		$shown{$_} = 1 for @names;
		my @labels = $target->{legendFormat} =~ /\{\{(\w+)\}\}/g;
		is(scalar(grep { my $label = $_; grep { !grep { $_ eq $label } split /,/, $known{$_} // '' } @names } @labels), 0, "and legends it with labels it has");
	}
}
is_deeply([ sort keys %shown ], [ sort keys %known ], 'the dashboard shows every figure and no other');

# What it costs: nothing of a user's table is read or locked.
my $locker = session($node, 'postgres');
$locker->query_safe(q{BEGIN; LOCK TABLE "odd schema"."Part", measure, tally IN ACCESS EXCLUSIVE MODE});
is($node->safe_psql('postgres', q{SET statement_timeout = '60s'; SELECT count(*) > 0 FROM rowclaim.metrics}, @as), 't', 'locked tables are not waited for');
$locker->quit;

$node->stop;
done_testing();
