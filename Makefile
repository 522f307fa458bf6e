# make demo    see it work: installs what it needs, builds, runs the demo on servers of its own
# make playground  a folder to work in, ./playground, beside a service that runs on it until Ctrl-C: for docs/sql-guide.md
# make test    everything that must hold before a change goes in, on real Kafka, MySQL and MariaDB
# make check   the part of it that needs no server: format, lints, licences
# make chaos   random faults on real servers from seeds: RUNS=50 SEED=.. JOBS=4
# make soak    one long run of faults on each server: MINUTES=10 SEED=..
# make mutants breaks the engine on purpose, patch by patch: the tests must notice
# make fuzz    every reader of untrusted text for SECONDS=60 each, guided by coverage; FUZZ=decode picks one
# make instructions  instructions per event on the hot paths, beside those recorded (valgrind): UPDATE=1 records anew
# make bench   how fast it is, beside the servers' own merge of the same run, into docs/performance.md: ONLY=latency,creates FULL=1
# make profile where the service's processor time goes, by station (perf)
#
# All of them build with one profile, one set of features and one target directory outside of the checkout, so DataFusion
# compiles once per machine. CARGO_TARGET_DIR moves it, AFTERIMAGE_CACHE moves the whole cache.

export AFTERIMAGE_CACHE ?= $(HOME)/.cache/afterimage
# For chaos and soak: handed on to the tests only where they are given.
export RUNS SEED JOBS SHARED MINUTES
# For bench.
export ONLY FULL SCALE REPEAT SERVERS
export CARGO_TARGET_DIR ?= $(AFTERIMAGE_CACHE)/target
# Tests of faults mostly wait: more of them at a time than there are processors.
export RUST_TEST_THREADS ?= 8
# rustup installs here, and a login shell may not have been opened since.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help demo playground test check lint chaos soak mutants fuzz bench profile instructions clean

help:
	@sed -n '/^# make/s/^# //p' Makefile

demo:
	@scripts/setup demo
	cargo run --locked -- demo

playground:
	@scripts/setup demo
	cargo run --locked -- demo --folder playground --events 5000

test:
	@scripts/setup test
	@$(MAKE) --no-print-directory lint
	cargo test --locked --no-fail-fast

check:
	@scripts/setup demo
	@$(MAKE) --no-print-directory lint

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	scripts/licenses
	scripts/features

chaos:
	@scripts/setup test
	cargo test --locked --test integration -- --ignored --nocapture --exact chaos::many_seeds_of_faults_cost_nothing

soak:
	@scripts/setup test
	cargo test --locked --test integration -- --ignored --nocapture --exact chaos::an_hour_of_faults_costs_nothing

mutants:
	@scripts/setup test
	scripts/mutants $(NAMES)

FUZZ ?= config decode events fixture lookup models schema
SECONDS ?= 60

fuzz:
	@scripts/setup demo
	scripts/fuzz $(SECONDS) $(FUZZ)

# Figures need this crate optimised; its dependencies are as ever, in the same directory.
bench profile: export CARGO_PROFILE_DEV_OPT_LEVEL = 3
bench profile: export BENCH_JSON = $(CARGO_TARGET_DIR)/figures.jsonl
# All benches but the one that puts their figures into its table.
MICRO ?= $(filter-out service instructions,$(shell sed -n '/^\[\[bench\]\]/{n;s/name = "\(.*\)"/\1/p}' Cargo.toml))

bench:
	@scripts/setup test
	@rm -f $(BENCH_JSON)
	cargo build --locked --bin afterimage
	cargo bench --locked --profile dev --no-run
	$(if $(ONLY),,cargo bench --locked --profile dev $(addprefix --bench ,$(MICRO)))
	cargo bench --locked --profile dev --bench service

profile:
	@scripts/setup test
	@rm -f $(BENCH_JSON)
	ONLY=profile cargo bench --locked --profile dev --bench service

# Nothing is timed: what is counted is the same on a busy machine.
instructions:
	@scripts/setup demo
	CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo bench --locked --profile dev --bench instructions

# Servers' software stays: it is in the cache, and fetching it again takes minutes.
clean:
	cargo clean --package afterimage
