# Proof: what `make check` and its sisters run. tests/run.py holds the order and the sums.
PY := python3
SECONDS ?= 60
ENGINE     := build/release/bench/fixed_engine
AARCH64_CC := aarch64-linux-gnu-gcc
CROSS_INC  := build/cross/include
TOOL_OBJ   := $(patsubst %.c,$(B)/%.o,$(wildcard tools/*/*.c))

.PHONY: bench-routing e2e soak cross cross-objects cross-include fuzzers bench-setup

setup:
	$(Q)tools/setup.sh

check:
	$(Q)tools/setup.sh check
	$(Q)$(PY) tests/run.py check

style:
	$(Q)$(PY) tests/style.py

# Also VARIANT=asan or tsan: the same tests before a sanitized sluiced.
e2e: all
	$(Q)$(if $(filter release,$(VARIANT)),,$(MAKE) --no-print-directory VARIANT=release all)
	$(Q)SLUICE_VARIANT=$(VARIANT) $(PY) tests/run.py e2e

# The abuse at its full counts; prints what others felt of it and what memory came back.
soak: all $(ENGINE)
	$(Q)SLUICE_SOAK=1 $(PY) tests/run.py soak

fuzzers: $(FUZZ)

# SECONDS of each fuzzer, from the committed corpus; finds go to build/fuzz.
fuzz: fuzzers
	$(Q)$(PY) tests/run.py fuzz $(SECONDS)

bench:
	$(Q)tools/setup.sh bench
	$(Q)$(MAKE) --no-print-directory all bench-bins $(if $(wildcard tests/bench/fixed_engine.c),$(ENGINE))
	$(Q)$(PY) tests/bench/compare.py
	$(Q)$(PY) tests/bench/pd.py
	$(Q)$(PY) tests/bench/pd_fleet.py
	$(Q)$(PY) tests/bench/paths.py

# The order of routing policies, end to end against virtual time: about four minutes.
bench-routing: all
	$(Q)$(PY) tests/bench/routing.py

build/release/bench/fixed_engine: tests/bench/fixed_engine.c
	$(call say,CC,$<)mkdir -p $(@D) && $(CC) $(CPPFLAGS) -O2 -g -std=gnu17 $(WARN) -pthread -o $@ $<

demo: setup
	$(Q)$(MAKE) --no-print-directory all
	$(Q)KEEP=$(KEEP) $(firstword $(wildcard tools/demo.sh tools/demo/demo.sh tools/sluice-sim/demo.sh tests/demo/demo.sh tests/demo/demo.py tools/demo.py))

# aarch64: every object compiles. Libraries' headers are the same for both machines, so that the
# host's stand in for them, linked into one directory; libc's and the kernel's are the cross ones.
cross-include:
	$(Q)mkdir -p $(CROSS_INC) && cd $(CROSS_INC) && for h in bpf liburing liburing.h libelf.h gelf.h \
		elfutils xxhash.h xxh3.h jansson.h yaml.h yajl zlib.h zmq.h msgpack.h msgpack libnl3 netlink; do \
		test -e /usr/include/$$h && ln -sfn /usr/include/$$h $$h; done; \
	for h in jansson_config.h zconf.h; do test -e /usr/include/$$h && ln -sfn /usr/include/$$h $$h; \
		test -e /usr/include/x86_64-linux-gnu/$$h && \
		ln -sfn /usr/include/x86_64-linux-gnu/$$h $$h; done; true

cross-objects: $(OBJ) $(TOOL_OBJ) $(if $(wildcard user/main.c),$(B)/user/main.o)

cross: $(SKEL) cross-include
	$(Q)$(MAKE) --no-print-directory VARIANT=aarch64 CC="$(AARCH64_CC) -isystem $(CROSS_INC)" cross-objects
