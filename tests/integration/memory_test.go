package integration

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/internal/invariants"
	"github.com/gantry-ml/gantry/messages"
)

// memorySlack is what a load may take besides what it places and its staging.
const memorySlack = 96 << 20

// memoryBytes is how large the models are whose memory is measured: 512 MiB, or
// as many MiB as GANTRY_MEMORY_MIB says.
func memoryBytes(t *testing.T) int64 {
	t.Helper()
	mib := int64(512)
	if s := os.Getenv("GANTRY_MEMORY_MIB"); s != "" {
		var err error
		if mib, err = strconv.ParseInt(s, 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	return mib << 20
}

// plainGantry returns the program without the race detector, whose own memory
// is no measure.
func plainGantry(t *testing.T) string {
	t.Helper()
	dir := bin
	if invariants.Enabled {
		dir = t.TempDir()
		if err := build(dir, false, "gantry"); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "gantry")
}

// measured runs a command line, samples its anonymous and shared memory from
// outside, and reads its --json into v.
func measured(t *testing.T, v any, program string, args ...string) (peak int64) {
	t.Helper()
	cmd := exec.Command(program, append(args, "--json")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	samples := 0
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v: %s", err, errs.String())
			}
			if err := json.Unmarshal(out.Bytes(), v); err != nil {
				t.Fatal(err)
			}
			if samples < 20 {
				t.Errorf("%d samples are no measurement", samples)
			}
			return peak
		case <-tick.C:
			if n := residentMemory(cmd.Process.Pid); n > 0 {
				peak, samples = max(peak, n), samples+1
			}
		}
	}
}

// within checks a peak of memory against what was placed and staged.
func within(t *testing.T, peak, placed, staging int64) {
	t.Helper()
	t.Logf("peak %d MiB, placed %d MiB, staging %d MiB: %d MiB of the %d MiB of slack are used",
		peak>>20, placed>>20, staging>>20, (peak-placed-staging)>>20, memorySlack>>20)
	if peak < placed/2 {
		t.Errorf("a peak of %d bytes is no measurement", peak)
	}
	if peak > placed+staging+memorySlack {
		t.Errorf("peak of anonymous and shared memory %d bytes, over %d", peak, placed+staging+memorySlack)
	}
}

// TestMemoryStaysBounded: a load takes placed bytes, staging, and at most
// 96 MiB more.
func TestMemoryStaysBounded(t *testing.T) {
	model := filepath.Join(t.TempDir(), "model")
	if _, err := synth.Write(t.Context(), model, synth.Options{Bytes: memoryBytes(t), Shards: 2}); err != nil {
		t.Fatal(err)
	}
	program := plainGantry(t)
	for _, scheme := range []string{"none", "q8_0"} {
		t.Run(scheme, func(t *testing.T) {
			var j messages.Job
			peak := measured(t, &j, program, "load", model, "--once", "--tp", "2", "--quant", scheme)
			if j.ReadAmplification != 1 || j.PeakStagingBytes <= 0 || j.PeakStagingBytes > 256<<20 || j.Validation.State != "passed" {
				t.Errorf("report %+v", j)
			}
			within(t, peak, j.BytesPlaced, j.PeakStagingBytes)
		})
	}
}

// TestSessionMemory: a session over the weights, and a run of it, stay within
// what a load may take, and take less than a tenth of the weights more than the
// load alone.
func TestSessionMemory(t *testing.T) {
	model := productsModel(t, memoryBytes(t))
	program := plainGantry(t)
	var j messages.Job
	alone := measured(t, &j, program, "load", model, "--once")
	var r struct {
		Placed  int64 `json:"bytes_placed"`
		Staging int64 `json:"peak_staging_bytes"`
		InPlace int64 `json:"weights_in_place_bytes"`
		Outputs []struct{ Min, Max float64 }
	}
	peak := measured(t, &r, program, "run", model, "--input", "x=ones", "--dim", "rows=4")
	within(t, peak, r.Placed, r.Staging)
	if more := peak - alone; more > r.Placed/10 {
		t.Errorf("a session takes %d MiB more than the load's %d MiB", more>>20, alone>>20)
	}
	t.Logf("the load alone %d MiB, with a session %d MiB", alone>>20, peak>>20)
	if r.InPlace != r.Placed {
		t.Errorf("%d of %d bytes are used in place", r.InPlace, r.Placed)
	}
	// Each product takes the mean of its inputs, which are all 1.
	for _, o := range r.Outputs {
		if math.Abs(o.Min-1) > 1e-4 || math.Abs(o.Max-1) > 1e-4 {
			t.Errorf("outputs from %g to %g, want 1", o.Min, o.Max)
		}
	}
}

// productsModel writes an ONNX model of so many bytes of F32 weights, in a file
// beside it: products one after the other, by matrices whose columns sum to 1.
func productsModel(t *testing.T, bytes int64) string {
	t.Helper()
	const width = 4096
	dir := t.TempDir()
	row := make([]byte, 0, 4*width)
	for range width {
		row = binary.LittleEndian.AppendUint32(row, math.Float32bits(1.0/width))
	}
	f, err := os.Create(filepath.Join(dir, "weights"))
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < bytes; at += int64(len(row)) {
		if _, err := f.Write(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var weights, nodes []onnxtest.Message
	in := "x"
	for i := range bytes / (4 * width * width) {
		name, out := fmt.Sprint("w", i), fmt.Sprint("y", i)
		weights = append(weights, onnxtest.Tensor(name, 1, width, width).External("weights", i*4*width*width, 4*width*width))
		nodes = append(nodes, onnxtest.Node("MatMul", out, in, name))
		in = out
	}
	value := func(name string) onnxtest.Message {
		shape := onnxtest.Message{}.Bytes(1, onnxtest.Message{}.Text(2, "rows")).Bytes(1, onnxtest.Message{}.Int(1, width))
		tensor := onnxtest.Message{}.Int(1, 1).Bytes(2, shape)
		return onnxtest.Message{}.Text(1, name).Bytes(2, onnxtest.Message{}.Bytes(1, tensor))
	}
	graph := onnxtest.Graph(weights, nodes...).Bytes(11, value("x")).Bytes(12, value(in))
	path := filepath.Join(dir, "model.onnx")
	if err := os.WriteFile(path, onnxtest.Model(graph), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// residentMemory returns a process's resident anonymous and shared memory in
// bytes, 0 when it is gone.
func residentMemory(pid int) (n int64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && (f[0] == "RssAnon:" || f[0] == "RssShmem:") {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			n += kib << 10
		}
	}
	return n
}
