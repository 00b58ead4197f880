# sparsecast - the two commands of the README. `make run` and `make test` install what is missing on Debian 12 (apt-get, through
# sudo when not root), build, and do their job. Everything else is CMake: cmake -S . -B build.

BUILD   ?= build
JOBS    ?= $(shell nproc)
CUDA    ?= $(if $(wildcard /dev/nvidiactl),ON,OFF)
LISTEN  ?= 127.0.0.1:8080
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)

RUN_PACKAGES  := gcc g++ cmake make pkg-config libmicrohttpd-dev libwebsockets-dev libturbojpeg0-dev libcjson-dev libsentencepiece-dev libsystemd-dev libxxhash-dev libavformat-dev
TEST_PACKAGES := libcmocka-dev libopenblas0-pthread chromium curl clang libclang-rt-dev

.PHONY: all run test deps test-deps build sanitized browser-deps bench clean
all: build

# An installed package costs one dpkg-query; apt-get is only asked for what is missing.
define install
	@missing=""; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; $(SUDO) apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
endef

deps:
	$(call install,$(RUN_PACKAGES))

test-deps: deps
	$(call install,$(TEST_PACKAGES))
	@command -v node >/dev/null && command -v npm >/dev/null || { $(SUDO) apt-get update -qq; DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; }

build: deps
	@cmake -S . -B $(BUILD) -DSC_CUDA=$(CUDA) >/dev/null
	@cmake --build $(BUILD) -j$(JOBS) -- --no-print-directory

run: build
	@exec $(BUILD)/server/sparsecastd --listen $(LISTEN) --model models/pocket

# The same tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitized: test-deps
	@cmake -S . -B $(BUILD)-asan -DSC_CUDA=OFF -DSC_SANITIZE=address,undefined >/dev/null
	@cmake --build $(BUILD)-asan -j$(JOBS) -- --no-print-directory

browser-deps: test-deps
	@for d in tests/integration tests/browser; do (cd $$d && [ -d node_modules ] || npm ci --silent --no-audit --no-fund); done

test: test-deps build sanitized browser-deps
	@tests/run_all.sh $(BUILD) $(BUILD)-asan

bench: build
	@$(BUILD)/cli/sparsecast bench --model models/pocket

clean:
	rm -rf $(BUILD) $(BUILD)-asan
