# shellcheck shell=bash
# Sourced by the scripts here: the server to use and private clusters on it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PG_CONFIG=$("$root/pg_test/which-server")
[ -n "$PG_CONFIG" ] || { echo "no PostgreSQL server found: run 'make deps' or set PG_CONFIG" >&2; exit 1; }
export PG_CONFIG
PATH=$("$PG_CONFIG" --bindir):$PATH

# PostgreSQL refuses to run as root, so then its processes run as an ordinary user.
server_user=
[ "$(id -u)" != 0 ] || server_user=${SERVER_USER:-postgres}

as_server() {
  if [ -n "$server_user" ]; then runuser -u "$server_user" -- "$@"; else "$@"; fi
}

# server_dir NAME: prints a new directory for the server: in build/, or in /var/tmp where build/ is out of that
# user's reach or its path is too long for a socket.
server_dir() {
  local dir
  mkdir -p "$root/build"
  dir=$(mktemp -d "$root/build/$1.XXXXXX")
  [ -z "$server_user" ] || chown "$server_user" "$dir"
  if [ ${#dir} -gt 70 ] || ! as_server test -w "$dir"; then
    rmdir "$dir"
    dir=$(cd / && as_server mktemp -d "/var/tmp/$1.XXXXXX")
  fi
  echo "$dir"
}

# cluster_start DIR [setting=value...]: a fresh cluster in DIR and libpq's environment for it (superuser postgres).
# Nobody else can reach it: its only socket is in DIR, which has mode 700.
cluster_start() {
  local dir=$1
  shift
  unset PGHOSTADDR PGPASSWORD PGSERVICE PGOPTIONS PGDATA
  export PGHOST=$dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
  # shellcheck disable=SC2015
  cd "$dir" &&
    as_server initdb -N -A trust -U postgres --encoding=UTF8 --locale=C -D data >/dev/null &&
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$dir'" "port = 5432" \
      "wal_level = logical" "max_prepared_transactions = 10" "$@" | as_server tee -a data/postgresql.conf >/dev/null &&
    as_server pg_ctl -D data -l server.log -w start >/dev/null &&
    cd - >/dev/null || { tail -n 20 "$dir/server.log" >&2; return 1; }
}

# cluster_stop DIR: stops every server that runs below DIR and removes DIR.
cluster_stop() {
  local pid
  find "$1" -name postmaster.pid | while read -r pid; do
    (cd / && as_server pg_ctl -D "${pid%/*}" -m immediate -w stop >/dev/null) </dev/null || true
  done
  rm -rf "$1"
}

# python_with PACKAGE: prints the interpreter of a virtual environment in build/ that has the PyPI package.
python_with() {
  local venv=$root/build/python
  if ! "$venv/bin/python" -c "import $1" 2>/dev/null; then
    python3 -m venv "$venv" && PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/pip" -q install "$1[binary]" >&2 ||
      { echo "could not install $1 into $venv (Debian: apt-get install python3-venv)" >&2; return 1; }
  fi
  echo "$venv/bin/python"
}
