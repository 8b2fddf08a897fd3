# gracerun: `make demo` shows what it is for, `make test` checks all of it.

VERSION ?=
ifeq ($(VERSION),)
VERSION := $(shell packaging/version)
endif
BIN     ?= bin
PREFIX  ?= /usr/local
DESTDIR ?=
PROGRAMS := gracerun gracemon gracelab gracerun-native

GO         ?= go
GO_LDFLAGS  = -s -w -X gracerun.io/internal/version.Version=$(VERSION)
GO_BUILD    = $(GO_EXPERIMENT) CGO_ENABLED=0 $(GO) build -trimpath $(GO_TAGS) -ldflags '$(GO_LDFLAGS)'
# Small spans without mark bits of their own: fewer pages that are touched by a
# process that is there once per container, or for a millisecond. Go 1.27 is to
# drop the choice.
FEWER_PAGES := $(shell GOEXPERIMENT=nogreenteagc $(GO) version >/dev/null 2>&1 && echo GOEXPERIMENT=nogreenteagc)
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.7.0

.PHONY: build install packages check test test-packages crio critest node-test conformance lint deps demo bench microbench soak clean

build: $(PROGRAMS:%=$(BIN)/%)

# Where the program begins: an idle supervisor stops there, before the Go runtime.
# Without it gracemon works, and stays awake (supervisor/slumber).
$(BIN)/gracemon: GO_LDFLAGS += -checklinkname=0 -E=gracerun.io/supervisor/slumber.entry
$(BIN)/gracemon: GO_TAGS = -tags slumber
$(BIN)/gracemon $(BIN)/gracerun: GO_EXPERIMENT = $(FEWER_PAGES)

$(BIN)/%: FORCE
	$(GO_BUILD) -o $@ ./cmd/$*
FORCE:

# libcontainer enters namespaces in C, so this one needs cgo. It is linked
# statically all the same; CRIU is left out. Whether there is a libseccomp is asked
# when it is built: deps may just have installed it.
NATIVE_SECCOMP = $(shell pkg-config --exists libseccomp 2>/dev/null && echo seccomp)
$(BIN)/gracerun-native: FORCE
	@test -n '$(NATIVE_SECCOMP)' || echo 'gracerun-native is built WITHOUT seccomp: libseccomp-dev or pkg-config is missing (make deps)'
	CGO_ENABLED=1 $(GO) build -trimpath -tags 'runc_nocriu netgo osusergo $(NATIVE_SECCOMP)' \
		-ldflags '$(GO_LDFLAGS) -extldflags -static' -o $@ ./cmd/gracerun-native

# What needs both has deps first, also with -j.
ifneq ($(filter demo test bench soak,$(MAKECMDGOALS)),)
$(PROGRAMS:%=$(BIN)/%): | deps
endif

install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(PROGRAMS:%=$(BIN)/%) $(DESTDIR)$(PREFIX)/bin
	$(if $(DESTDIR),,sh docs/deploy/gracerun-selinux add $(PREFIX)/bin)

# What the demo and the tests need from Debian; says what is missing if it cannot install.
deps:
	@./integration/install-deps

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these files'; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

# The inner loop: what needs no container and no other program.
NO_CONTAINER = $(GO) list ./... | grep -v -e '^gracerun.io/integration' -e '^gracerun.io/bench'
check:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these files'; exit 1; }
	$(GO) vet $$($(NO_CONTAINER))
	$(GO) test -short $$($(NO_CONTAINER))

# The exploration runs without the race detector, which would only slow a single
# goroutine down, and says what it visited. The emulated machine of the host tests
# comes last, alone: it needs the processors for itself, and ends itself when it makes
# no progress, so that -timeout is for what cannot be. Everything else runs with the
# race detector.
HOST = gracerun.io/integration/host
test: deps lint build crio
	$(GO) test -race -short -timeout 45m $$($(GO) list ./... | grep -v '^$(HOST)$$')
	$(GO) test -count=1 -v ./supervisor/lifecycle/explore
	$(GO) test -short -timeout 2h $(HOST)

# .deb and .rpm for amd64 and arm64, into .work/packages.
packages: deps
	packaging/build .work/packages

# What the package does to a clean Debian 12 and 13 with containers on it, and what
# containerd and Docker of these make of gracerun: five minutes, and five to install them.
test-packages: deps
	integration/install-deps rpm lintian gcc-aarch64-linux-gnu libc6-dev-arm64-cross
	GRACERUN_PACKAGES_TEST=1 $(GO) test -count=1 -v -timeout 1h ./integration/packages

# A real CRI-O and crictl for integration/crio, and what stands in for the rest of a
# node: five minutes of a processor the first time.
crio: deps
	@integration/crio/programs/build crio || echo 'CRI-O cannot be built here (Go 1.26.3 or later, the module proxy, gcc): integration/crio is skipped'

# The validation suite of the CRI over conmon and runc, and over ours: twenty minutes.
critest: deps build
	integration/crio/programs/build crio critest
	GRACERUN_CRITEST=1 $(GO) test -count=1 -v -timeout 3h ./integration/critest

# A kubelet and an API server over that CRI-O, stock and ours: pods that end in every
# way, drains of a node full of ledgers, and hosts with systemd that are powered off.
# Fourteen minutes, and six to build them.
node-test: deps build
	integration/crio/programs/build crio kubernetes
	GRACERUN_NODE_TEST=1 $(GO) test -count=1 -v -timeout 1h ./integration/node

# opencontainers/runtime-tools over runc alone and over gracerun: five to ten minutes.
conformance: deps
	integration/runtime-tools/run

demo: deps build
	bin/gracelab demo

# Ours and theirs side by side, as root; docs/performance.md is what comes out.
# QUICK=1 shows in a minute that all of it works, and leaves the document alone.
bench: deps build bin/gracebench bin/workload
	bin/gracebench -results .work/bench $(if $(QUICK),-quick,-document docs/performance.md)

bin/workload: FORCE
	$(GO_BUILD) -o $@ ./bench/workload

# What single functions cost.
microbench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

soak: deps build
	GRACERUN_SOAK=1 $(GO) test -count=1 -timeout 2h ./supervisor/lifecycle/... ./integration/...

clean:
	rm -rf bin .work
