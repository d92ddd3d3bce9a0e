# Gantry. `make demo` shows the main job, `make test` is what must pass.

GO        ?= go
BIN       := bin
CACHE     := .cache
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
DEMO_SIZE ?= 1GiB
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -X github.com/gantry-ml/gantry/cmd/internal/version.Version=$(VERSION)

# go-nvml declares calls that NVIDIA's header calls deprecated; none is ours.
export CGO_CFLAGS ?= -g -O2 -Wno-deprecated-declarations

.PHONY: all build ort ort-cuda gateway demo test test-fakecuda test-gpu memory test-llama race chaos test-cluster purego vet lint generate generated-clean fuzz bench-index bench-load bench-quant clean

all: build

build:
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/gantry ./cmd/coordinator ./cmd/worker

# The ONNX Runtime library: GANTRY_ORT_LIB or an installed one is used where
# there is one, otherwise it is fetched from npm into $(CACHE), digest pinned.
ort:
	@scripts/ort.sh >/dev/null

# The same with its CUDA provider, for CUDA 13: docs/gpu.md.
ort-cuda:
	@scripts/ort-cuda.sh >/dev/null

demo: ort build
	@DEMO_SIZE=$(DEMO_SIZE) scripts/demo.sh

# The S3 service of the tests: a pinned module, built once into $(CACHE).
gateway:
	@scripts/versitygw.sh >/dev/null

test: ort gateway
	$(GO) test -timeout 15m ./...

# The memory of loads and sessions of MIB MiB; `make test` measures 512.
MIB ?= 1024
memory: ort
	GANTRY_MEMORY_MIB=$(MIB) $(GO) test ./tests/integration -run Memory -v -count 1

# Written GGUF files run in llama.cpp, whose libraries lie in $(GGML_LIB).
test-llama:
	GGML_LIB='$(GGML_LIB)' $(GO) test -tags llama -count 1 ./tests/llama

# The CUDA provider over our own CUDA runtime, on a machine without a GPU.
# Needs root, or user namespaces, to show a PCI device that is not there.
test-fakecuda:
	FAKECUDA_DEVICES=2 scripts/fakecuda.sh $(GO) test -tags fakecuda -count 1 ./tests/gpu

# The same suite on a real GPU.
test-gpu:
	GANTRY_ORT_LIB="$${GANTRY_ORT_LIB:-$$(scripts/ort-cuda.sh)}" $(GO) test -tags gpu -count 1 -v ./tests/gpu

race: ort gateway
	$(GO) test -race -timeout 40m ./...

# Loads with layouts, schemes and faults drawn from a seed. A failure names the
# trial's number: SEED=… FIRST=number LOADS=1 draws it again.
SEED  ?= 1
FIRST ?= 0
LOADS ?= 100
chaos: ort
	GANTRY_CHAOS_SEED=$(SEED) GANTRY_CHAOS_FIRST=$(FIRST) GANTRY_CHAOS_LOADS=$(LOADS) \
		$(GO) test -count 1 -timeout 60m -v -run '^TestChaos$$' ./tests/integration

# Each kind of fault at each point of a load, on real processes. Most of it is
# waiting, so that several tests run at once.
test-cluster: ort
	GANTRY_MATRIX=1 $(GO) test -count 1 -timeout 15m -parallel 3 -v -run '^Test(Matrix.*|Standby|NATSLost|Swap)$$' ./tests/integration

# Without assembly the portable kernels are all there is.
purego:
	$(GO) test -tags purego ./quant/... ./dtype/...

vet:
	$(GO) vet ./...
	$(GO) vet -tags purego ./quant/...
	$(GO) vet -tags fakecuda ./tests/gpu
	$(GO) vet -tags gpu ./tests/gpu
	GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./quant/... ./dtype/... ./shard/... ./checkpoint/... ./source/...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'lint: run gofmt on the files above'; exit 1; }
	$(GO) run $(STATICCHECK) ./...

generate:
	$(GO) generate ./...

# Generated files are what their generators make.
generated-clean: generate
	@git diff --exit-code --stat -- '*.pb.go' '*.s' '*_amd64.go' || { echo 'generated files differ: run make generate and commit'; exit 1; }

# Each fuzz target for FUZZTIME (default 10s).
FUZZTIME ?= 10s
fuzz:
	@scripts/fuzz.sh $(FUZZTIME)

# The kernels of quant against memcpy and, where GGML_LIB is a folder with
# libggml-base and libggml-cpu, against ggml's quantizers: docs/benchmarks.md.
BENCHTIME ?= 3x
KERNELS ?= .
bench-quant:
	$(GO) test ./quant -run '^$$' -bench 'BenchmarkEncode/$(KERNELS)' -benchtime $(BENCHTIME) -timeout 60m

# Whole loads beside memcpy: docs/benchmarks.md.
bench-load: ort
	$(GO) test ./loader -run '^$$' -bench BenchmarkWhole -benchtime 20x -timeout 10m

# Indexing the largest headers, as a ratio to the least that reading them takes.
bench-index:
	$(GO) test ./checkpoint -run '^$$' -bench '^BenchmarkIndex$$'

clean:
	rm -rf $(BIN) $(CACHE) demo
