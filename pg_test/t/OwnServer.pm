# A server installation of the test's own: the real one's files, with an extension directory that the test can write to.
package OwnServer;

use strict;
use warnings;
use Exporter 'import';
use File::Basename qw(basename dirname);
use File::Path qw(make_path);
use PostgreSQL::Test::Utils;

our @EXPORT = qw(own_server);

# (path for PostgreSQL::Test::Cluster's install_path, its extension directory).
sub own_server
{
	my ($root) = @_;
	my %dir = map { chomp(my $path = qx{pg_config --$_}); $_ => $path } 'bindir', 'libdir', 'pkglibdir', 'sharedir';
	# A server finds its directories from where its program is. That is a copy, since links would be followed.
	make_path("$root$dir{bindir}");
	system_or_bail('cp', '-L', glob("$dir{bindir}/*"), "$root$dir{bindir}");
	for my $name ('pkglibdir', 'libdir')
	{
		make_path(dirname("$root$dir{$name}"));
		symlink $dir{$name}, "$root$dir{$name}" unless -e "$root$dir{$name}";
	}
	make_path("$root$dir{sharedir}/extension");
	for my $file (glob("$dir{sharedir}/*"), glob("$dir{sharedir}/extension/*"))
	{
		my $place = $root . dirname($file) . '/' . basename($file);
		symlink $file, $place unless -e $place;
	}
	return (dirname("$root$dir{bindir}"), "$root$dir{sharedir}/extension");
}

1;
