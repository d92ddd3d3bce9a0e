package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// testdata is the shared test data's folder.
func testdata(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{os.Getenv("GANTRY_TESTDATA"), "../../../shared/testdata"} {
		if _, err := os.Stat(filepath.Join(dir, "stories260K")); dir != "" && err == nil {
			return dir
		}
	}
	t.Fatal("the shared test data is missing: set GANTRY_TESTDATA to its folder (the one that holds stories260K)")
	return ""
}

// gantry runs a command line in this process.
func gantry(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs buffer
	code = run(args, &out, &errs)
	return code, out.String(), errs.String()
}

// buffer may be written to while it is read: the process's logger goes on
// writing what a server has to say while it stops.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// mustJSON runs a command line that must succeed and reads its --json.
func mustJSON[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	code, stdout, stderr := gantry(t, append(args, "--json")...)
	if code != exit.Done {
		t.Fatalf("gantry %s: exit %d: %s", strings.Join(args, " "), code, stderr)
	}
	dec := json.NewDecoder(strings.NewReader(stdout))
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("gantry %s: %v in %s", strings.Join(args, " "), err, stdout)
	}
	if dec.More() {
		t.Fatalf("gantry %s printed more than one JSON value: %s", strings.Join(args, " "), stdout)
	}
	return v
}

// sparse writes a valid safetensors file with one F32 matrix of rows × 1024
// whose data is a hole.
func sparse(t *testing.T, rows int64) string {
	t.Helper()
	header := fmt.Sprintf(`{"w":{"dtype":"F32","shape":[%d,1024],"data_offsets":[0,%d]}}`, rows, rows*4096)
	path := filepath.Join(t.TempDir(), "model.safetensors")
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	if err := os.WriteFile(path, append(b, header...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(8+len(header))+rows*4096); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestExitCodes: every kind of refusal has its exit code and one line.
func TestExitCodes(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	for _, c := range []struct {
		name string
		args []string
		want int
		says string
	}{
		{"unknown command", []string{"lode"}, exit.Usage, "unknown command"},
		{"unknown flag", []string{"load", stories, "--tpp", "2"}, exit.Usage, "unknown flag"},
		{"no model", []string{"load"}, exit.Usage, "accepts 1 arg"},
		{"unknown scheme", []string{"load", stories, "--quant", "q9_9"}, exit.Usage, "q8_0"},
		{"an override of nothing", []string{"plan", stories, "--quant-override", "lm_head"}, exit.Usage, "PATTERN=SCHEME"},
		{"an override that cannot be", []string{"plan", stories, "--quant-override", "model.layers.0.mlp.down_proj.weight=q8_0"}, exit.Usage, "172"},
		{"a recipe as an override", []string{"load", stories, "--quant-override", "*=q4_K_M"}, exit.Usage, "recipe"},
		{"unknown recovery", []string{"load", stories, "--recovery", "hope"}, exit.Usage, "fail-fast"},
		{"layout does not divide", []string{"load", stories, "--tp", "3"}, exit.Usage, "3"},
		{"no layout", []string{"plan", stories, "--dp", "0"}, exit.Usage, "want 1 to 1024"},
		{"no experts", []string{"load", stories, "--ep", "2"}, exit.Usage, "the checkpoint has none"},
		{"no rules", []string{"load", stories, "--rules", "/no/such/rules.yaml"}, exit.Usage, "/no/such/rules.yaml"},
		{"padding that is none", []string{"plan", stories, "--pad-vocab=-1"}, exit.Usage, "padded"},
		{"padding that does not divide", []string{"plan", stories, "--pad-vocab=509", "--tp", "4"}, exit.Usage, "tp 2 would"},
		{"detach alone", []string{"load", stories, "--detach"}, exit.Usage, "--server"},
		{"no server named", []string{"jobs"}, exit.Usage, "--server"},
		{"missing path", []string{"load", filepath.Join(stories, "nowhere"), "--once"}, exit.Source, "nowhere"},
		{"missing path, inspect", []string{"inspect", "/no/such/model"}, exit.Source, "/no/such/model"},
		{"folder without a model", []string{"plan", t.TempDir()}, exit.Source, ""},
		{"does not fit", []string{"load", sparse(t, 1<<28), "--once"}, exit.Capacity, ""}, // 1 TiB
		{"no such device", []string{"load", stories, "--device", "cuda:0", "--once"}, exit.Capacity, "cuda:0"},
		{"staging of a cluster's workers", []string{"load", stories, "--staging", "1GiB", "--server", "nats://127.0.0.1:1"}, exit.Usage, "--staging"},
		{"up without a worker", []string{"up", "--workers", "0"}, exit.Usage, "--workers 0"},
		{"up with less than none", []string{"up", "--workers", "-1"}, exit.Usage, "--workers -1"},
		{"up beyond loopback", []string{"up", "--nats-listen", "0.0.0.0:0"}, exit.Usage, "--insecure"},
		{"no kind of device", []string{"load", stories, "--device", "gpu", "--server", "nats://127.0.0.1:1"}, exit.Usage, "cuda:N"},
		{"placement file not there", []string{"load", stories, "--placement", "/no/such/file"}, exit.Usage, "/no/such/file"},
		{"placement of a rank that is not", []string{"load", stories, "--tp", "2", "--placement", placementFile(t, "placement: [{ranks: 2, worker: w0}]")}, exit.Usage, "rank 2"},
		{"placement where nobody is", []string{"load", stories, "--tp", "2", "--once", "--placement", placementFile(t, "placement: [{ranks: 1, worker: w9}]")}, exit.Capacity, "rank 1 is to be on worker w9"},
		{"CPU feature not there", []string{"load", stories, "--once", "--require", "cpu=avx9"}, exit.Capacity, "no avx9"},
		{"CPU feature not there, plan", []string{"plan", stories, "--require", "cpu=avx9"}, exit.Capacity, "no avx9"},
		{"CPU feature not there, and no checkpoint", []string{"load", filepath.Join(stories, "nowhere"), "--once", "--require", "cpu=avx9"}, exit.Capacity, "no avx9"}, // nothing is opened
		{"kind of device not there", []string{"load", stories, "--once", "--require", "device=cuda"}, exit.Capacity, "cuda device is required"},
		{"compute capability not there", []string{"plan", stories, "--require", "compute=7.5"}, exit.Capacity, "7.5 is required"},
		{"memory not there", []string{"load", stories, "--once", "--require", "memory=900TiB"}, exit.Capacity, "free memory"},
		{"requirement of nothing", []string{"load", stories, "--require", "disk=1"}, exit.Usage, "want device"},
		{"requirement without a value", []string{"load", stories, "--require", "cpu"}, exit.Usage, "KEY=VALUE"},
		{"requirement of no version", []string{"plan", stories, "--require", "compute=sm_80"}, exit.Usage, "8.0"},
		{"no layout in safetensors", []string{"quantize", stories, "--to", "q8_0", "--out", filepath.Join(t.TempDir(), "x.safetensors")}, exit.Usage, "q8_0"},
		{"no layout in GGUF", []string{"quantize", stories, "--to", "int8", "--out", filepath.Join(t.TempDir(), "x.gguf")}, exit.Usage, "q8_0"},
		{"no such container", []string{"quantize", stories, "--to", "int8", "--out", "x.bin"}, exit.Usage, "x.bin"},
		{"no cluster", []string{"workers", "--server", "nats://127.0.0.1:1"}, exit.Cluster, "127.0.0.1:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := gantry(t, c.args...)
			line := lastLine(stderr)
			if code != c.want || !strings.HasPrefix(line, "gantry: ") || !strings.Contains(line, c.says) {
				t.Errorf("exit %d, want %d, with a line that says %q; stdout %q, stderr %q", code, c.want, c.says, stdout, stderr)
			}
			if strings.Count(stderr, "gantry: ") != 1 {
				t.Errorf("want one line of error: %q", stderr)
			}
		})
	}
}

// TestModelRequires: what a model asks for is shown, and keeps it from being
// loaded where that is not.
func TestModelRequires(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(testdata(t), "stories260K", "hf-f32"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpoint.RequireName), []byte(`{"device": "cuda", "compute_capability": "8.0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"inspect", "plan"} {
		if code, stdout, _ := gantry(t, command, dir); code != exit.Done || !strings.Contains(stdout, "device=cuda compute=8.0") {
			t.Errorf("%s: exit %d, %q", command, code, stdout)
		}
	}
	code, _, stderr := gantry(t, "load", dir, "--once")
	if line := lastLine(stderr); code != exit.Capacity || !strings.Contains(line, "a cuda device is required") || !strings.Contains(line, checkpoint.RequireName) {
		t.Errorf("exit %d, %q", code, line)
	}
	code, _, stderr = gantry(t, "load", dir, "--once", "--require", "device=cpu")
	if code != exit.Capacity || !strings.Contains(stderr, "cuda device too") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

// placementFile writes a placement file.
func placementFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ranks.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPlacementFile: ranks lie where the file says.
func TestPlacementFile(t *testing.T) {
	file := placementFile(t, "placement:\n  - {ranks: 0, worker: w1}\n  - {ranks: \"2-3\", worker: w0, devices: cpu}\n")
	j := mustJSON[messages.Job](t, "load", filepath.Join(testdata(t), "stories260K", "hf-f32"), "--once", "--tp", "2", "--dp", "2", "--workers", "2", "--placement", file)
	var at []string
	for _, r := range j.Ranks {
		at = append(at, r.Worker)
	}
	if want := []string{"w1", "w1", "w0", "w0"}; !slices.Equal(at, want) {
		t.Errorf("ranks are at %q, want %q", at, want)
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return lines[len(lines)-1]
}

// TestHostileFilesAreRefused: every file that the format's own implementation
// rejects is exit 3 with one clear line, by inspect and by load.
func TestHostileFilesAreRefused(t *testing.T) {
	dir := filepath.Join(testdata(t), "safetensors")
	f, err := os.Open(filepath.Join(dir, "VERDICTS.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rejected := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), "\t")
		if !strings.HasPrefix(rest, "reject") {
			continue
		}
		rejected++
		verbs := [][]string{{"inspect"}}
		if rejected%10 == 1 { // a whole load of each would only take longer
			verbs = append(verbs, []string{"load", "--once"})
		}
		for _, verb := range verbs {
			code, _, stderr := gantry(t, append(verb, filepath.Join(dir, name))...)
			if line := lastLine(stderr); code != exit.Checkpoint || !strings.Contains(line, name) {
				t.Errorf("%s %s: exit %d, %q; want %d and a line that names the file", verb[0], name, code, line, exit.Checkpoint)
			}
		}
	}
	if rejected < 30 {
		t.Errorf("only %d rejected files in the verdict table", rejected)
	}
}

// TestLoadReports: the report of a load in this process, as JSON.
func TestLoadReports(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-sharded")
	decoded := []string{"q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "mxfp4", "nf4", "nvfp4", "binary", "int2",
		"custom:bits=3,symmetric=false,group=32"}
	for _, scheme := range append(quant.Names(), "custom:bits=4,symmetric=false,group=32", "custom:bits=8,group=0",
		"ort_nbits8:block=16,symmetric=false", "fp8_e4m3:scale=tensor", "custom:bits=3,symmetric=false,group=32") {
		t.Run(scheme, func(t *testing.T) {
			j := mustJSON[messages.Job](t, "load", stories, "--once", "--tp", "2", "--quant", scheme, "--name", "stories")
			if j.State != messages.StateReady || j.Model != "stories" || j.ReadAmplification != 1 || j.Retries != 0 {
				t.Errorf("report %+v", j)
			}
			if p := mustJSON[shard.Plan](t, "plan", stories, "--tp", "2", "--quant", scheme); p.PlacedBytes != j.BytesPlaced || p.ReadBytes != j.BytesRead {
				t.Errorf("placed %d and read %d bytes, the plan says %d and %d", j.BytesPlaced, j.BytesRead, p.PlacedBytes, p.ReadBytes)
			}
			if j.Validation.State != "passed" || len(j.Validation.Ranks) != 2 {
				t.Errorf("validation %+v", j.Validation)
			}
			want := "wrapped"
			if slices.Contains(decoded, scheme) {
				want = "decoded"
			}
			for _, r := range j.Validation.Ranks {
				if r.Method != want || !r.OK {
					t.Errorf("rank %d: %+v, want method %q", r.Rank, r, want)
				}
			}
			var stages []progress.Stage
			var read int64
			for _, s := range j.Stages {
				stages = append(stages, s.Stage)
				read += s.BytesRead
			}
			places := order(stages)
			if !slices.Contains(stages, progress.Initializing) || !slices.Contains(stages, progress.Validating) ||
				!slices.IsSorted(places) || len(slices.Compact(places)) != len(stages) || read != j.BytesRead {
				t.Errorf("stages %v", j.Stages)
			}
			for _, r := range j.Ranks {
				if r.Digest == "" || r.BytesDone != r.BytesTotal || r.Worker == "" || r.Device != "cpu" {
					t.Errorf("rank %+v", r)
				}
			}
		})
	}
}

// order returns the stages' places in the order of a load.
func order(stages []progress.Stage) []int {
	out := make([]int, len(stages))
	for i, s := range stages {
		out[i] = slices.Index(progress.Stages, s)
	}
	return out
}

// TestFaultsInTheSource: a read that fails twice and then works costs two
// retries; one that always fails ends the load with one line that names file,
// tensor, bytes and cause.
func TestFaultsInTheSource(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	// Byte 1,000,000 lies in the weights: headers are read as always.
	j := mustJSON[messages.Job](t, "load", stories, "--once", "--inject", "read model.safetensors [1000000,1000001) fail unavailable times=2")
	if j.State != messages.StateReady || j.Retries != 2 {
		t.Errorf("state %s with %d retries, want ready with 2: %s", j.State, j.Retries, j.Why)
	}
	code, stdout, stderr := gantry(t, "load", stories, "--once", "--json", "--recovery", "retry(2)", "--inject", "read model.safetensors [1000000,1000001) fail unavailable")
	if code != exit.Failed {
		t.Errorf("exit %d, want %d", code, exit.Failed)
	}
	line := lastLine(stderr)
	for _, part := range []string{"model.safetensors", "model.layers.", "bytes [", "injected"} {
		if !strings.Contains(line, part) {
			t.Errorf("the error does not name %q: %s", part, line)
		}
	}
	var failed messages.Job
	if err := json.Unmarshal([]byte(stdout), &failed); err != nil || failed.State != messages.StateFailed {
		t.Errorf("--json of a failed load: %v, %s", err, stdout)
	}
}

// TestQuantize: what is written opens as a checkpoint, and the layout changes
// no byte of it.
func TestQuantize(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	for _, scheme := range []string{"none", "bf16", "int8"} {
		var first []byte
		for _, tp := range []string{"1", "2", "4"} {
			out := filepath.Join(t.TempDir(), "model.safetensors")
			if code, _, stderr := gantry(t, "quantize", stories, "--to", scheme, "--tp", tp, "--out", out); code != exit.Done {
				t.Fatalf("%s tp %s: exit %d: %s", scheme, tp, code, stderr)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = got
			} else if !bytes.Equal(first, got) {
				t.Errorf("%s: tp %s changes the file", scheme, tp)
			}
			if in := mustJSON[inspection](t, "inspect", out); in.Quantized != (scheme == "int8") || in.Architecture != "llama" {
				t.Errorf("%s: %+v", scheme, in)
			}
		}
	}
}
