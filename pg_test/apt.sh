# shellcheck shell=bash
# Sourced by the scripts that need something of another Debian release: where to ask for it and where to keep it.

cache=$("$(dirname "${BASH_SOURCE[0]}")/which-server" --cache)

# mirror SUITE: prints the machine's own mirror for it.
mirror() {
  local archive=main
  [[ $1 != *-security ]] || archive=security
  apt-get indextargets --format "\$(RELEASE) \$(REPO_URI)" 'Created-By: Packages' |
    awk -v want=$archive '($1 ~ /-security/) == (want == "security") { print $2; exit }'
}
