# Sluice. `make` builds, `make demo` shows, `make check` proves, `make bench` measures.
# Variants live beside each other: build/release, build/asan, build/tsan.

ifeq ($(origin CC),default)
CC       := gcc
endif
CLANG    ?= $(firstword $(shell command -v clang-19 clang 2>/dev/null) clang)
BPFTOOL  ?= $(firstword $(shell command -v bpftool /usr/sbin/bpftool 2>/dev/null) bpftool)
PREFIX   ?= /usr/local
VARIANT  ?= release
B        := build/$(VARIANT)
BIN      := $(if $(filter release,$(VARIANT)),build/bin,$(B)/bin)
GEN      := build/gen

V ?= 0
Q   := $(if $(filter 1,$(V)),,@)
say = $(Q)$(if $(filter 1,$(V)),,printf '  %-7s %s\n' $(1) $(2);) 

WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror
CFLAGS ?= -O2 -g
CFLAGS_release :=
CFLAGS_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CFLAGS_tsan := -O1 -fsanitize=thread -fno-omit-frame-pointer
CFLAGS_fuzz := -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
ifneq ($(VARIANT),release)
CC := $(CLANG)
endif
override CPPFLAGS += -D_GNU_SOURCE -Iinclude -Iuser -Itools -I$(GEN) -isystem /usr/include/libnl3
override CFLAGS += -std=gnu17 $(WARN) $(CFLAGS_$(VARIANT)) -pthread
LIBS := -lbpf -lelf -lz -lnl-route-3 -lnl-3 -luring -lxxhash -ljansson -lyaml -lzmq -lmsgpackc -pthread -lm

SRC   := $(filter-out user/main.c,$(wildcard user/*/*.c user/*/*/*.c))
OBJ   := $(SRC:%.c=$(B)/%.o)
LIB   := $(B)/libsluice.a
COMMON := $(patsubst %.c,$(B)/%.o,$(wildcard tools/common/*.c))
TOOLS := $(filter-out common,$(notdir $(patsubst %/,%,$(sort $(dir $(wildcard tools/*/*.c))))))
UNIT  := $(patsubst tests/unit/%.c,$(B)/unit/%,$(wildcard tests/unit/test_*.c))
BENCH := $(patsubst tests/bench/%.c,$(B)/bench/%,$(wildcard tests/bench/bench_*.c))
FUZZ  := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
# The views over the agent's maps are one skeleton; what attaches to traffic loads, and fails, alone.
BPF_ALONE := guard probe splice steer
BPF   := $(filter-out $(BPF_ALONE:%=bpf/%.bpf.c),$(wildcard bpf/*.bpf.c))
SKEL  := $(if $(BPF),$(GEN)/sluice.skel.h) $(BPF_ALONE:%=$(GEN)/%.skel.h)

all: $(if $(wildcard user/main.c),$(BIN)/sluiced) $(TOOLS:%=$(BIN)/%)

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all

$(B)/%.o: %.c | $(SKEL)
	$(call say,CC,$<)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(LIB): $(OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BIN)/sluiced: $(B)/user/main.o $(LIB)
	$(call say,LINK,$@)mkdir -p $(@D) && $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

define tool_rule
$(BIN)/$(1): $(patsubst %.c,$(B)/%.o,$(wildcard tools/$(1)/*.c)) $(COMMON) $(LIB)
	$$(call say,LINK,$$@) mkdir -p $$(@D) && $$(CC) $$(CFLAGS) $$(LDFLAGS) -o $$@ $$^ $$(LIBS)
endef
$(foreach t,$(TOOLS),$(eval $(call tool_rule,$(t))))

$(B)/unit/%: $(B)/tests/unit/%.o $(LIB)
	$(call say,LINK,$@)mkdir -p $(@D) && $(CC) $(CFLAGS) -o $@ $^ $(LIBS) -lcmocka

$(B)/bench/%: $(B)/tests/bench/%.o $(LIB)
	$(call say,LINK,$@)mkdir -p $(@D) && $(CC) $(CFLAGS) -o $@ $^ $(LIBS) -lyajl -lurcu-qsbr -lurcu-cds

# BPF: vmlinux.h of the running kernel, one object a file, one linked skeleton.
$(GEN)/vmlinux.h:
	$(Q)mkdir -p $(@D) && $(BPFTOOL) btf dump file /sys/kernel/btf/vmlinux format c > $@
$(GEN)/%.bpf.o: bpf/%.bpf.c $(GEN)/vmlinux.h $(wildcard bpf/*.h include/sluice/*.h)
	$(call say,BPF,$<)$(CLANG) -O2 -g -target bpf -mcpu=v3 -Wall -Werror -Iinclude -I$(GEN) -Ibpf -c -o $@ $<
$(GEN)/sluice.bpf.o: $(BPF:bpf/%.bpf.c=$(GEN)/%.bpf.o)
	$(Q)$(BPFTOOL) gen object $@ $^
$(GEN)/sluice.skel.h: $(GEN)/sluice.bpf.o
	$(call say,SKEL,$@)$(BPFTOOL) gen skeleton $< name sluice_bpf > $@
$(BPF_ALONE:%=$(GEN)/%.skel.h): $(GEN)/%.skel.h: $(GEN)/%.bpf.o
	$(call say,SKEL,$@)$(BPFTOOL) gen skeleton $< name $*_bpf > $@

-include $(shell find $(B) -name '*.d' 2>/dev/null)

# ---- proof -------------------------------------------------------------------------------------
.PHONY: check demo unit bench asan tsan fuzz style clean setup
unit: $(UNIT)
# Build everything with a sanitizer into build/asan or build/tsan, then run the unit tests there.
asan tsan:
	$(Q)$(MAKE) --no-print-directory VARIANT=$@ unit all
	$(Q)python3 tests/run.py units $@
unit-bins: $(UNIT)
bench-bins: $(BENCH)

# The library once for all fuzzers, however many are built at a time; they follow its changes.
build/fuzz/%: tests/fuzz/%.c build/fuzz/libsluice.a
	$(call say,FUZZ,$@)mkdir -p $(@D) && $(CLANG) $(CPPFLAGS) -std=gnu17 -g $(CFLAGS_fuzz) -fsanitize=fuzzer -o $@ $< build/fuzz/libsluice.a $(LIBS)
ifneq ($(VARIANT),fuzz)
build/fuzz/libsluice.a: fuzz-lib
	$(Q):
endif
fuzz-lib:
	$(Q)$(MAKE) --no-print-directory VARIANT=fuzz build/fuzz/libsluice.a
.PHONY: fuzz-lib

clean:
	$(Q)rm -rf build

-include tools/install.mk
-include tests/tests.mk
