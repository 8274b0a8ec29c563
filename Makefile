# Supernode. `make help` lists what there is to make.
#
# Sources are found by wildcard, one folder a room; object files, tests and tools go to $(B) only. SAN=address,undefined
# or SAN=thread builds everything again beside it with that sanitizer; CROSS=aarch64 builds what needs no third-party
# library (base, ops, the forward pass) for Arm.

comma   := ,
SAN     ?=
CROSS   ?=
B       := build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))$(if $(CROSS),/$(CROSS))
PREFIX  ?= /usr/local
PORT    ?= 8000
MODEL   ?= models/tiny
THREADS ?=

VERSION := 0.1.0
CC      := $(if $(CROSS),$(CROSS)-linux-gnu-gcc,gcc)
ARCH    := $(if $(CROSS),$(CROSS),$(shell uname -m))

# Libraries by pkg-config; a missing one is named when something that needs it is built.
PKGS    := libevent libevent_pthreads libevent_openssl jansson libpcre2-8 libutf8proc libssl libcrypto yaml-0.1 libxxhash liburing zlib
PKG_CHECK = pkg-config --exists $(1) || { echo "supernode: library $(1) is missing (pkg-config $(1)): run tools/install-deps" >&2; exit 1; }

WARN    := -Wall -Wextra -Wconversion -Wshadow -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes $(if $(CI),-Werror)
# No contraction and no errno: results are the same on every machine, and sqrtf and rintf become instructions.
CFLAGS  := -std=gnu11 -D_GNU_SOURCE -O3 -g -ffp-contract=off -fno-math-errno -pthread -fstack-protector-strong $(WARN) \
           -DSUPERNODE_VERSION='"$(VERSION)"' -Isrc -MMD -MP
# "undefined" leaves out numbers too large for the integer they become.
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN)$(if $(findstring undefined,$(SAN)),$(comma)float-cast-overflow) -fno-omit-frame-pointer -fno-sanitize-recover=all)
LDFLAGS := -pthread $(if $(SAN),-fsanitize=$(SAN))
LDLIBS  := -lm

ROOMS   := base ops ops/ref model text bus pool engine cluster serve sim/core sim
ifeq ($(ARCH),x86_64)
  ROOMS  += ops/avx2 ops/avx512
  CFLAGS += -march=x86-64-v3
else
  ROOMS  += ops/neon
endif
SRCS    := $(foreach r,$(ROOMS),$(wildcard src/$(r)/*.c))
ifneq ($(CROSS),)
  # What the Arm test links: everything that includes no third-party header.
  SRCS  := $(shell grep -LE '<(jansson|event2/|openssl/|pcre2|utf8proc|yaml)|base/json.h' $(foreach r,base ops ops/ref ops/neon model,$(wildcard src/$(r)/*.c)))
else
  CFLAGS += $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
  LDLIBS += $(shell pkg-config --libs $(PKGS) 2>/dev/null)
endif
OBJS    := $(SRCS:%.c=$(B)/%.o)
CLI     := $(patsubst %.c,$(B)/%.o,$(wildcard src/cli/*.c))
LIB     := $(B)/libsupernode.a
BIN     := $(B)/supernode

TESTS   := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/*/test_*.c))
FUZZERS := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 3
SOAK_SECONDS ?= 600

.PHONY: all serve check test deps bench fuzz soak asan tsan arm install format lint clean help
.DELETE_ON_ERROR:

all: $(BIN)

help:
	@echo "make serve [MODEL=DIR|ORG/NAME] [PORT=8000]  install packages, build, serve on 127.0.0.1"
	@echo "make check      install packages, build, run all tests"
	@echo "make all        build/supernode"
	@echo "make test       the tests alone, packages present;  SAN=address,undefined | SAN=thread: with a sanitizer"
	@echo "make fuzz       every parser, FUZZ_SECONDS=$(FUZZ_SECONDS) each;  make arm: the forward pass under qemu-aarch64"
	@echo "make soak       a server under bad clients, SOAK_SECONDS=$(SOAK_SECONDS); SAN= as above"
	@echo "make bench      measurements beside the limits of this machine"
	@echo "make install PREFIX=/usr/local    make format    make lint    make clean    V=1 shows the commands"

deps:
	@tools/install-deps

serve: deps
	@begun=$$(date +%s); $(MAKE) --no-print-directory -s -j$$(nproc) all && \
	printf 'build      $(BIN) %s MB  (%s s)\n' $$(du -k $(BIN) | awk '{printf "%.1f", $$1 / 1024}') $$(($$(date +%s) - begun))
	@exec $(BIN) serve $(MODEL) --port $(PORT) $(if $(THREADS),--threads $(THREADS))

check:
	@tools/install-deps --tests
	@$(MAKE) --no-print-directory -j$$(nproc) all tests
	@$(MAKE) --no-print-directory test

# One short line a file; V=1 shows the commands.
Q       := $(if $(V),,@)
SAY      = @$(if $(V)$(findstring s,$(firstword -$(MAKEFLAGS))),:,printf '  %-5s %s\n' $(1) $(2))

# --- building -------------------------------------------------------------------------------------------------

$(B)/src/ops/avx2/%.o: ISA := -march=x86-64-v3
$(B)/src/ops/avx512/%.o: ISA := -march=x86-64-v4 -mavx512vbmi -mprefer-vector-width=512
ifeq ($(ARCH),x86_64)
$(B)/src/pool/sum_avx512.o: ISA := -march=x86-64-v4 -mprefer-vector-width=512
endif
$(B)/src/ops/neon/%.o: ISA := -march=armv8-a
# The kernels stay bare under sanitizers: their tests have guard pages, and instrumented they take minutes to compile.
$(B)/src/ops/avx2/%.o $(B)/src/ops/avx512/%.o: SANFLAGS :=

# They embed them.
$(B)/src/serve/page.o: $(wildcard src/serve/page/*)
$(B)/src/sim/embedded.o: $(wildcard hardware/*.yaml)
$(B)/src/sim/paper.o: published/cloudmatrix.yaml

$(B)/%.o: %.c Makefile | $(if $(CROSS),,$(B)/packages)
	@mkdir -p $(@D)
	$(call SAY,cc,$<)
	$(Q)$(CC) $(CFLAGS) $(SANFLAGS) $(ISA) -c $< -o $@

$(B)/packages:
	@mkdir -p $(@D)
	@$(foreach p,$(PKGS),$(call PKG_CHECK,$(p));)
	@touch $@

$(LIB): $(OBJS)
	@rm -f $@
	$(call SAY,ar,$@)
	$(Q)ar rcs $@ $^

$(BIN): $(CLI) $(LIB)
	$(call SAY,link,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# --- testing --------------------------------------------------------------------------------------------------

.PHONY: tests
tests: $(TESTS)

$(B)/tests/%: $(B)/tests/%.o $(LIB)
	@$(if $(CROSS),,$(call PKG_CHECK,cmocka))
	$(call SAY,link,$@)
	$(Q)$(CC) $(LDFLAGS) $(filter %.o,$^) $(LIB) $(LDLIBS) $(if $(CROSS),,$$(pkg-config --libs cmocka)) -o $@

# The model without the published numbers, beside the binary that has them.
$(B)/tests/sim/test_unpublished: $(B)/tests/sim/test_unpublished.o $(filter-out $(B)/src/sim/paper.o,$(OBJS)) | $(BIN)
	$(call SAY,link,$@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) $$(pkg-config --libs cmocka) -o $@

# It stands between our code and the allocator.
$(B)/tests/model/test_nomem: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,malloc calloc realloc strdup mmap munmap)

test: all tests
	@tests/run $(B)

asan: ; @$(MAKE) --no-print-directory SAN=address,undefined test
tsan: ; @$(MAKE) --no-print-directory SAN=thread test

# A server under clients that hang up, dawdle and lie, and a cluster whose parts break; SAN=address,undefined or SAN=thread makes it stricter.
soak: all $(B)/tests/engine/test_engine $(B)/tests/engine/test_one_answer $(B)/tests/pool/test_history $(B)/tests/cluster/test_cluster_sim
	@FLAT=100000 SEEDS=20000 $(B)/tests/engine/test_engine > $(B)/soak.log 2>&1 || { tail -20 $(B)/soak.log; exit 1; }
	@SEEDS=200 $(B)/tests/engine/test_one_answer > $(B)/soak.log 2>&1 || { tail -20 $(B)/soak.log; exit 1; }
	@SEEDS=5000 $(B)/tests/pool/test_history > $(B)/soak.log 2>&1 || { tail -20 $(B)/soak.log; exit 1; }
	@SEEDS=100000 $(B)/tests/cluster/test_cluster_sim > $(B)/soak.log 2>&1 || { tail -20 $(B)/soak.log; exit 1; }
	@echo "soak: 100,000 clusters under faults and 100,000 undisturbed, in virtual time: passed"
	@echo "soak: 10,000 histories of the memory pool: passed"
	@echo "soak: 100,000 requests and 20,000 histories on the stand-in, 200 mixes on a model: passed"
	@tests/soak/soak.py --bin $(BIN) --seconds $(SOAK_SECONDS)
	@tests/soak/break.py --bin $(BIN) --requests 10000
	@SUPERNODE_BIN=$(abspath $(BIN)) BREAK_ROUNDS=100 build/venv/bin/python -m pytest -q -p no:cacheprovider tests/e2e/test_break.py -k hand_overs

# Plain programs (no cmocka for Arm), which the native build runs among its tests too.
ARM_CC  := aarch64-linux-gnu
arm:
	@command -v $(ARM_CC)-gcc qemu-aarch64 >/dev/null || { echo "supernode: make arm needs gcc-aarch64-linux-gnu and qemu-user: run tools/install-deps --tests" >&2; exit 1; }
	@$(MAKE) --no-print-directory CROSS=aarch64 arm-run
# The forward pass over golden cases, the same source for both machines; tests/e2e/test_arm.py compares what they write.
$(B)/tests/arm/forward: $(B)/tests/arm/flat.o
.PHONY: arm-run
arm-run: $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/arm/test_*.c))
	@for t in $^; do echo "$$t"; qemu-aarch64 -L /usr/$(ARM_CC) $$t || exit 1; done

# libFuzzer is clang's; the library is built again with its coverage.
FUZZ_B  := build/fuzz
FUZZ_CC := clang-14
fuzz:
	@$(MAKE) --no-print-directory -j$$(nproc) fuzz-run B=$(FUZZ_B) CC=$(FUZZ_CC) CI= SAN=fuzzer-no-link,address,undefined
.PHONY: fuzz-run
fuzz-run: $(FUZZERS)
	@tests/fuzz/run $(FUZZ_SECONDS) $(FUZZERS)
$(FUZZ_B)/tests/fuzz/%: $(FUZZ_B)/tests/fuzz/%.o $(LIB)
	$(CC) -pthread -fsanitize=fuzzer,address,undefined $^ $(LDLIBS) -o $@

bench: all
	@bench/run

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/supernode/models
	install -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/supernode
	cp -r models/tiny $(DESTDIR)$(PREFIX)/share/supernode/models/

format:
	clang-format-14 -i $$(git ls-files '*.c' '*.h')
lint:
	clang-format-14 --dry-run -Werror $$(git ls-files '*.c' '*.h')

clean:
	rm -rf build

-include $(OBJS:.o=.d) $(CLI:.o=.d) $(wildcard $(B)/tests/*/*.d)
