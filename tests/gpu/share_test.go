//go:build gpu || fakecuda

package gpu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/gantry-ml/gantry/device"
)

// envAttach has a process of this test binary attach an arena, given its handle,
// instead of testing.
const envAttach = "GANTRY_TEST_ATTACH"

// told is the exit code of a process that ends with err.
func told(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// attach writes what an arena of another process holds to stdout.
func attach(handle string) error {
	var h device.Handle
	if err := json.Unmarshal([]byte(handle), &h); err != nil {
		return err
	}
	a, err := device.Attach(h)
	if err != nil {
		return err
	}
	b := make([]byte, a.Size())
	if err := a.CopyOut(b, 0); err != nil {
		return err
	}
	if _, err := os.Stdout.Write(b); err != nil {
		return err
	}
	return a.Close()
}

// TestAttachFromAnotherProcess: a second process reads from the GPU what this
// one copied there, also after the export.
func TestAttachFromAnotherProcess(t *testing.T) {
	clean(t)
	want := make([]byte, 3<<20+77)
	r := rand.New(rand.NewPCG(5, 6))
	for i := range want {
		want[i] = byte(r.Uint32())
	}
	a := open(t, int64(len(want)))
	defer a.Close()
	h, err := a.(device.Exporter).Export()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.CopyIn(0, want); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envAttach+"="+string(text))
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("the other process read %d bytes, and not those that are there", out.Len())
	}
	if b, err := device.Attach(h); err == nil {
		b.Close()
		t.Error("CUDA let a process attach its own memory")
	}
}
