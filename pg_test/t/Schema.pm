# The extension's objects as the catalogue has them, to compare an upgraded installation with a fresh one.
package Schema;

use strict;
use warnings;
use Exporter 'import';

our @EXPORT = qw(schema);

# One line per fact, in order.
sub schema
{
	my ($node, $db) = @_;
	return $node->safe_psql($db, q{
		SET search_path = pg_catalog;
		CREATE TEMP VIEW member AS
			SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS name
			FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
			WHERE e.extname = 'rowclaim' AND d.deptype = 'e';
		CREATE TEMP VIEW relation AS
			SELECT m.name, c.* FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid;
		CREATE TEMP VIEW fact(object, fact) AS
			SELECT name, 'member' FROM member
			UNION ALL SELECT m.name, 'comment ' || d.description
				FROM member m JOIN pg_description d ON d.classoid = m.classid AND d.objoid = m.objid AND d.objsubid = 0
			UNION ALL SELECT m.name, 'init privileges ' || i.objsubid || ' ' || i.initprivs::text
				FROM member m JOIN pg_init_privs i ON i.classoid = m.classid AND i.objoid = m.objid
			UNION ALL SELECT m.name, pg_get_functiondef(p.oid) || coalesce(p.proacl::text, 'default acl')
				FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
			UNION ALL SELECT m.name, 'acl ' || coalesce(n.nspacl::text, 'default')
				FROM member m JOIN pg_namespace n ON m.classid = 'pg_namespace'::regclass AND n.oid = m.objid
			UNION ALL SELECT m.name, format('%s %s %s %s %s', e.evtevent, e.evtenabled, e.evttags, e.evtfoid::regproc, e.evtname)
				FROM member m JOIN pg_event_trigger e ON m.classid = 'pg_event_trigger'::regclass AND e.oid = m.objid
			UNION ALL SELECT name, format('%s acl %s options %s persistence %s replica identity %s row security %s', relkind, relacl, reloptions, relpersistence,
				relreplident, relrowsecurity) FROM relation
			UNION ALL SELECT name, pg_get_viewdef(oid) FROM relation WHERE relkind = 'v'
			UNION ALL SELECT r.name, format('column %s %s %s notnull %s default %s collation %s identity %s generated %s compression %s acl %s comment %s',
					row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
					pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation, a.attidentity, a.attgenerated, a.attcompression, a.attacl,
					col_description(a.attrelid, a.attnum))
				FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
				LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
			UNION ALL SELECT r.name, format('constraint %s %s', k.conname, pg_get_constraintdef(k.oid)) FROM relation r JOIN pg_constraint k ON k.conrelid = r.oid
			UNION ALL SELECT r.name, format('%s %s', pg_get_indexdef(i.indexrelid), x.reloptions)
				FROM relation r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class x ON x.oid = i.indexrelid
			UNION ALL SELECT r.name, format('%s %s', pg_get_triggerdef(t.oid), t.tgenabled) FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
			UNION ALL SELECT r.name, format('%s %s %s %s %s %s %s', s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
				FROM relation r JOIN pg_sequence s ON s.seqrelid = r.oid
			UNION ALL SELECT 'extension', format('%s %s %s', e.extversion, e.extrelocatable, e.extnamespace::regnamespace) FROM pg_extension e WHERE e.extname = 'rowclaim'
			UNION ALL SELECT 'extension', format('dumped %s %s', c::regclass, e.extcondition[n])
				FROM pg_extension e, unnest(e.extconfig) WITH ORDINALITY c(c, n) WHERE e.extname = 'rowclaim';
		-- Sequences of further journals are members, too; how many there are is the database's business.
		SELECT object || ': ' || fact FROM fact WHERE object !~ '^sequence rowclaim.journal_[0-9]+_seq$' OR object ~ '_1_'
		ORDER BY (object || ': ' || fact) COLLATE "C"});
}

1;
