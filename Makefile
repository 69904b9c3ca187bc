PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## */  make \1|/' | awk -F'|' '{printf "%-26s %s\n", $$1, $$2}'

.PHONY: install
install: $(READY)  ## the project and its tools, into .venv

# torch first and by itself: its exact pin decides which build is taken.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else "bilevel-cli needs Python 3.11 to 3.13, got " + sys.version.split()[0] + ". Use make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: run
run: $(READY)  ## IAPTT learns to classify unseen digits, 5-way 1-shot, in about two minutes
	$(BIN)/bilevel-run task=meta method=iaptt outer_steps=300

.PHONY: check
check: $(READY)  ## format, lint, types, and what may import what
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: test
test: check  ## format, lint, types and the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: test-slow
test-slow: $(READY)  ## the tests that take minutes: packaging, kill -9, reproductions
	$(BIN)/python -m pytest -m slow

.PHONY: test-faults
test-faults: $(READY)  ## runs under faults: killed, out of disk, damaged, misused, attacked; within 40 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "faults or hostile" -n auto --dist worksteal

.PHONY: test-timing
test-timing: $(READY)  ## bounds on seconds, for a quiet machine like that of docs/benchmarks.md
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m timing

.PHONY: test-browser
test-browser: $(READY)  ## the pages of bilevel-report in Chromium, off the network
	$(BIN)/python -m pytest -m browser

.PHONY: test-slurm
test-slurm: $(READY)  ## sweeps on a SLURM of one node, started and stopped here: Debian, as root
	$(PIP) install --quiet --constraint constraints.txt --editable '.[slurm]'
	command -v slurmctld slurmdbd munged mariadbd > /dev/null || \
		apt-get install --yes --no-install-recommends slurm-wlm slurmdbd munge mariadb-server
	dir=$$(mktemp -d) && trap "tests/slurm/stop.sh $$dir; rm -rf $$dir" EXIT INT TERM && \
		tests/slurm/start.sh $$dir && \
		SLURM_CONF=$$dir/slurm.conf OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm tests/sweeps/test_slurm.py

# The launcher without what it asks for: cloudpickle below 3, where joblib 1.6 asks for 3.
.PHONY: test-ray
test-ray: $(READY)  ## a sweep on a Ray cluster of its own, which listens on every interface, by token
	grep -v '^python-dateutil=' constraints.txt > $(VENV)/ray.txt  # boto3 wants it below 3
	$(PIP) install --quiet --constraint $(VENV)/ray.txt 'ray[default]>=2.60' 'aiohttp<4' boto3
	$(PIP) install --quiet --no-deps hydra-ray-launcher==1.2.2
	$(BIN)/python -m pytest -m ray tests/sweeps/test_ray.py

# The default tests in an environment of its own, with given constraints.
define test_with
	$(PYTHON) -m venv $(VENV)/$(1)
	$(VENV)/$(1)/bin/python -m pip --disable-pip-version-check install --quiet $(2) torch
	$(VENV)/$(1)/bin/python -m pip --disable-pip-version-check install --quiet $(2) --editable '.[dev]'
	OMP_NUM_THREADS=1 $(VENV)/$(1)/bin/python -m pytest -n auto --dist worksteal
endef

.PHONY: test-oldest
test-oldest: $(READY)  ## the default tests with the oldest dependencies allowed; downloads torch
	$(call test_with,oldest,--constraint tests/oldest.txt)

.PHONY: test-newest
test-newest: $(READY)  ## the same with the newest ones that pip finds
	$(call test_with,newest,--upgrade)

.PHONY: audit
audit: $(READY)  ## whether all is pinned, and known vulnerabilities of pins and lower bounds
	$(BIN)/python tests/helpers/audit.py

.PHONY: test-ranks
test-ranks: $(READY)  ## runs by several processes: stopped, killed, and a hundred in a row
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/runs/test_ranks.py tests/runs/test_minibatches.py

.PHONY: test-device
test-device: $(READY)  ## every pair of task and method on a CUDA device, a simulated one where there is none
	OMP_NUM_THREADS=1 $(BIN)/python tests/gpu/every_pair.py

.PHONY: test-gpu
test-gpu: $(READY)  ## the tests that need a CUDA device, on a real one; by default they have a simulated one
	$(BIN)/python -m pytest -m "gpu and not slow"

# Of the Python that is given: torch with CUDA is on that machine, and no network.
.PHONY: verify-gpu
verify-gpu:  ## on a machine with a GPU, offline, in under 10 minutes: is it right there, and how fast
	$(PYTHON) -m benchmarks.verify --out outputs/verify-gpu $(ARGS)

.PHONY: golden
golden: $(READY)  ## write the golden trajectories anew, after a change that should move them
	$(BIN)/python tests/methods/test_golden.py

BENCHED := $(VENV)/.bench

# Of boat-torch and betty-ml without what they ask for: numpy below 2, and torchvision unused.
$(BENCHED): $(READY)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	$(PIP) install --quiet --no-deps boat-torch==1.1.1 betty-ml==0.1.1
	touch $@

.PHONY: bench
bench: $(BENCHED)  ## time and memory against published implementations, into docs/benchmarks.md
	$(BIN)/python -m benchmarks all --others $(wildcard outputs/benchmarks_avx2)

LIMITED := ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2

.PHONY: bench-avx2
bench-avx2: $(BENCHED)  ## its times with AVX2 alone, for make bench to show beside its own
	$(LIMITED) $(BIN)/python -m benchmarks time --folder outputs/benchmarks_avx2

.PHONY: bench-quick
bench-quick: $(BENCHED)  ## the same on smaller problems, in under 5 minutes; prints the tables
	$(BIN)/python -m benchmarks all --size quick --rounds 3 --seconds 6

REPRODUCED := $(VENV)/.report

$(REPRODUCED): $(READY)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[report]'
	touch $@

.PHONY: reproduce-quick
reproduce-quick: $(REPRODUCED)  ## the papers' experiments that fit into 25 minutes, into docs/reproductions.md
	$(BIN)/python -m reproductions quick

.PHONY: reproduce
reproduce: $(REPRODUCED)  ## the longer ones too, in about five hours of a core; downloads MNIST
	$(BIN)/python -m reproductions full

DATA := null
SECONDS := 7200
.PHONY: reproduce-benchmark
reproduce-benchmark: $(REPRODUCED)  ## go on with the bilevel benchmark: DATA=/my/data SECONDS=7200, into docs/benchmark.md
	$(BIN)/python -m reproductions.bilevel run --data $(DATA) --seconds $(SECONDS)
	$(BIN)/python -m reproductions.bilevel page

.PHONY: scaling
scaling: $(REPRODUCED)  ## how time and memory grow with every size, into docs/scaling.md, in 20 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks scaling

.PHONY: scaling-quick
scaling-quick: $(REPRODUCED)  ## the same on small sizes, into outputs/, in two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks scaling --size quick

CHECKED := quadratic ridge logistic
# A problem small enough to hold every method with every solver, in a box that bounds some of z.
SMALL := task.inner_dim=6 task.outer_dim=3 +suggest.inner_low=-0.2 +suggest.inner_high=0.2

.PHONY: docs
docs: $(READY)  ## measure the tables of docs/methods.md and docs/measured/ anew, in about half an hour
	mkdir -p outputs/docs
	for task in $(CHECKED); do $(BIN)/bilevel-check task=$$task --csv outputs/docs/$$task.csv || exit 1; done
	$(BIN)/python docs/generate.py check $(foreach task,$(CHECKED),$(task)=outputs/docs/$(task).csv)
	$(BIN)/bilevel-check task=quadratic $(SMALL) 'solver=glob(*,exclude=adam)' --csv outputs/docs/solvers.csv
	$(BIN)/bilevel-check task=quadratic $(SMALL) solver=adam solver.lr=0.02 'method=glob(*,exclude=bvfsm)' \
		--csv outputs/docs/adam.csv
	$(BIN)/bilevel-check task=quadratic $(SMALL) solver=adam method=bvfsm --csv outputs/docs/bvfsm.csv
	$(BIN)/python docs/generate.py solvers outputs/docs/solvers.csv adam=outputs/docs/adam.csv adam=outputs/docs/bvfsm.csv
	$(BIN)/bilevel-run -m 'method=glob(*,exclude=forward)' task=reweight data=digits device=cpu budget=15000 \
		outer_steps=100000 log_every=100 eval_every=100 save_every=100000 \
		hydra.sweep.dir=outputs/docs/methods || true  # methods that refuse are part of the table
	$(BIN)/python docs/generate.py budget outputs/docs/methods
	$(BIN)/python docs/generate.py related

.PHONY: simulate
simulate: $(READY)  ## how often intervals and comparisons of a report hold, into docs/report.md, in a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.comparisons

.PHONY: site
site: $(READY)  ## the pages of docs/ with notebooks and reference, into build/site; off the network
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going \
		--jobs 2 --quiet --doctree-dir build/doctrees docs build/site
	$(BIN)/python docs/sitemaker/offline.py build/site

.PHONY: format
format: $(READY)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean:  ## remove what was installed and cached; outputs/ stays
	rm -rf $(VENV) build dist docs/reference/generated .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
