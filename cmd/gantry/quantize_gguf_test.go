package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
)

// TestMain makes the test's binary the command itself where it is told to, for
// tests that need a process to kill.
func TestMain(m *testing.M) {
	if os.Getenv("GANTRY_TEST_COMMAND") != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestQuantizeGGUF: every type of ggml's and every cast is written, opens as
// what it should be, and the layout changes no byte. Without a tokenizer there
// is one warning, and the file says so.
func TestQuantizeGGUF(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	for scheme, want := range map[string]string{
		"none": "F32", "f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1",
		"iq4_nl": "IQ4_NL", "mxfp4": "MXFP4",
		// Rows of 64 and 172 do not divide into blocks of 256.
		"q2_K": "F16", "q3_K": "F16", "q4_K": "F16", "q5_K": "F16", "q6_K": "F16",
	} {
		var first []byte
		for _, tp := range []string{"1", "4"} {
			out := filepath.Join(t.TempDir(), "stories.gguf")
			code, stdout, stderr := gantry(t, "quantize", stories, "--to", scheme, "--tp", tp, "--out", out)
			if code != exit.Done || strings.Count(stderr, "warning") != 1 || !strings.Contains(stderr, "tokenizer") || !strings.Contains(stdout, out) {
				t.Fatalf("%s tp %s: exit %d: %s%s", scheme, tp, code, stdout, stderr)
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
			in := mustJSON[inspection](t, "inspect", out)
			if in.Format != "gguf" || in.Architecture != "llama" || in.Parameters != 260032 || in.DTypes[want] == 0 || in.Metadata["tokenizer.ggml.model"] != "none" {
				t.Errorf("%s: %+v", scheme, in)
			}
		}
	}
}

// TestQuantizeKilled: a process that is killed while it writes leaves nothing
// under the file's name, or what was there before.
func TestQuantizeKilled(t *testing.T) {
	model := filepath.Join(t.TempDir(), "model")
	if code, _, stderr := gantry(t, "synth", model, "--size", "64MiB"); code != exit.Done {
		t.Fatal(stderr)
	}
	for _, name := range []string{"model.gguf", "model.safetensors"} {
		for _, before := range []string{"", "what was there"} {
			out := filepath.Join(t.TempDir(), name)
			for tries := 0; !killWhileWriting(t, model, out, before); tries++ {
				if tries == 20 {
					t.Fatal("quantize could not be killed while it wrote")
				}
			}
			got, err := os.ReadFile(out)
			if before == "" && !errors.Is(err, os.ErrNotExist) || string(got) != before {
				t.Errorf("%s: %d bytes are there, %v; want %q", name, len(got), err, before)
			}
		}
	}
}

// killWhileWriting runs quantize in a process of its own and kills it when its
// temporary file is there. It reports whether that was seen, and the process had
// not yet renamed it. before is what the file holds to begin with; "" is no file.
func killWhileWriting(t *testing.T, model, out, before string) bool {
	t.Helper()
	if err := os.Remove(out); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if before != "" {
		if err := os.WriteFile(out, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "quantize", model, "--to", "none", "--out", out)
	cmd.Env = append(os.Environ(), "GANTRY_TEST_COMMAND=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	temporary := func() bool {
		list, err := filepath.Glob(out + ".*.tmp")
		if err != nil {
			t.Fatal(err)
		}
		return len(list) > 0
	}
	deadline := time.After(time.Minute)
	for !temporary() {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("quantize: %v", err)
			}
			return false // it was faster than this look-out
		case <-deadline:
			t.Fatal("quantize does not begin to write")
		case <-time.After(200 * time.Microsecond):
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	return temporary()
}
