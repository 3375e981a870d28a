# The targets of a PGXS extension, built by cargo pgrx. PG_CONFIG chooses the server.
#
#   make               build (into build/pgNN)             make demo      see it work
#   make install       copy it into the server             make psql      try it on a private cluster
#   make installcheck  test the running server             make test      run every test (T=name: only that one)
#   make bench         compare speed with bare tables and hand-written triggers (QUICK=1, ONLY=W1,W9)
#   make test-all      every test on every server here     make servers   build PostgreSQL 17 and 18 for it
#   make test-clients  run docs/clients with the real drivers and pgbouncer
#   make test-model    random statements, compared with a model (SEED, STEPS, DURATION; see pg_test/model)
#   make test-concurrency   random statements of 16 sessions at once, checked afterwards (SEED, DURATION, CLIENTS)
#   make test-attack   try to get past the extension in hundreds of ways (T=text ROLE=mallory: only some)
#   make test-fuzz     fuzz what reads journal entries and keys (T=changes DURATION=60: one target, seconds for each)
#   make test-leaks    do the same thing very often and watch memory (ROWS, COMMITS, T)
#   make test-sqlsmith random queries on claims, drafts and journals (SEED, DURATION)
#   make test-valgrind the tests of T under valgrind, on a server built for that
#   make test-preloaded   PostgreSQL's own regression suite with the library loaded
#   make package       pack build/*.tar.gz and build/*.deb; make test-package installs that in clean systems
#   make dist          pack the sources for PGXN           make deps      install what is missing

EXTENSION := $(basename $(wildcard *.control))
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
SOURCES := $(wildcard *.control Cargo.* build.rs .cargo/*) $(shell find src sql -type f)

override PG_CONFIG := $(shell PG_CONFIG='$(PG_CONFIG)' pg_test/which-server)
PGVER := pg$(shell $(or $(PG_CONFIG),:) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
STAGE := build/$(PGVER)

# pgrx looks up the server in its home: one of our own needs no `cargo pgrx init` and leaves the user's alone.
export PGRX_HOME := $(abspath $(or $(CARGO_TARGET_DIR),target)/pgrx-$(PGVER))
unexport PGRX_PG_CONFIG_PATH
export PG_CONFIG T STAGES QUICK ONLY SEED STEPS DURATION CLIENTS ROWS COMMITS

AS_ROOT = $(if $(DESTDIR),,$(shell test -w "`$(PG_CONFIG) --pkglibdir`" || echo sudo))

all: $(STAGE).built

# Cargo gives the library of every version the same name, and would take another one's for its own.
$(STAGE).built: $(SOURCES) $(PGRX_HOME)/config.toml
	@rm -rf $(STAGE)
	@rm -f $(or $(CARGO_TARGET_DIR),target)/release/deps/lib$(EXTENSION).so
	cargo pgrx package --no-default-features --features $(PGVER) --pg-config $(PG_CONFIG) --out-dir $(STAGE)
	@touch $@

# Rewritten when the server's minor version changes: bindings must match its headers, and pgrx watches only this file.
$(PGRX_HOME)/config.toml: FORCE
	@test -n "$(PG_CONFIG)" || { echo "no PostgreSQL server with headers found: run 'make deps' or set PG_CONFIG"; exit 1; }
	@mkdir -p $(@D)
	@printf '# %s\n[configs]\n%s = "%s"\n' "`$(PG_CONFIG) --version`" $(PGVER) $(PG_CONFIG) >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# Only what differs, so that a second install costs nothing.
install: all
	@cd $(STAGE) && find . -type f | while read -r file; do \
	  cmp -s "$$file" "$(DESTDIR)/$$file" && continue; \
	  $(AS_ROOT) install -D -m 644 "$$file" "$(DESTDIR)/$$file" </dev/null || exit 1; \
	  echo "installed $(DESTDIR)$${file#.}"; \
	done

uninstall: all
	@cd $(STAGE) && find . -type f | while read -r file; do $(AS_ROOT) rm -f "$(DESTDIR)/$$file" </dev/null; done

installcheck:
	@pg_test/run --installcheck

package: all
	tar -C $(STAGE) --owner=0 --group=0 -czf build/$(EXTENSION)-$(VERSION)-$(PGVER)-$(shell uname -m).tar.gz .
	@pg_test/deb $(STAGE)

# What is committed, as PGXN wants it.
dist:
	@mkdir -p build
	git archive --format=zip --prefix=$(EXTENSION)-$(VERSION)/ -o build/$(EXTENSION)-$(VERSION).zip HEAD

# In a second make, which sees the server that deps may have installed.
test test-all test-attack test-package test-clients test-model test-concurrency test-leaks test-sqlsmith test-preloaded bench demo psql: deps
	@$(MAKE) --no-print-directory do-$@

do-test: $(PGRX_HOME)/config.toml
	+@pg_test/run

do-test-all:
	+@pg_test/all $(VERSIONS)

do-test-package:
	+@pg_test/package

do-test-attack: install
	@pg_test/attack/on-cluster

do-test-leaks do-test-sqlsmith do-test-preloaded: install
	@pg_test/$(@:do-test-%=%)

test-fuzz:
	@pg_test/fuzz/run

test-valgrind:
	@pg_test/valgrind

do-test-clients: install
	@pg_test/clients

do-test-model do-test-concurrency: install
	@pg_test/model/run $(@:do-test-%=%)

do-bench: install
	@pg_test/bench/run

do-demo: install
	@pg_test/demo

do-psql: install
	@pg_test/cluster psql

servers:
	@pg_test/servers

deps:
	@pg_test/deps

clean:
	rm -rf build

distclean: clean
	cargo clean

FORCE:
.PHONY: all install uninstall installcheck package dist test test-all test-attack test-package test-clients test-model \
  test-concurrency test-leaks test-sqlsmith test-preloaded test-fuzz test-valgrind bench demo psql do-test do-test-all \
  do-test-attack do-test-package do-test-clients do-test-model do-test-concurrency do-test-leaks do-test-sqlsmith \
  do-test-preloaded do-bench do-demo do-psql servers deps clean distclean FORCE
