package device_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/devicetest"
	"github.com/gantry-ml/gantry/recovery"
)

// envAttach has a process of this test binary attach an arena, given its handle,
// instead of testing.
const envAttach = "GANTRY_TEST_ATTACH"

func TestMain(m *testing.M) {
	text := os.Getenv(envAttach)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := attach([]byte(text)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// attach writes what an arena of another process holds to stdout. Its file, if
// it has one, is the first descriptor after the standard ones.
func attach(handle []byte) error {
	var h device.Handle
	if err := json.Unmarshal(handle, &h); err != nil {
		return err
	}
	h.File = os.NewFile(3, "arena")
	a, err := device.Attach(h)
	if err != nil {
		return err
	}
	if err := h.File.Close(); err != nil {
		return err
	}
	b := make([]byte, a.Size())
	if err := a.CopyOut(b, 0); err != nil {
		return err
	}
	if !bytes.Equal(a.Host(), b) {
		return fmt.Errorf("what is copied out is not what lies there")
	}
	if _, err := os.Stdout.Write(b); err != nil {
		return err
	}
	return a.Close()
}

func TestSharedArena(t *testing.T) { devicetest.Run(t, device.CPU, device.NewSharedArena) }

// share makes a shared arena with something in it, and exports it.
func share(t *testing.T, size int64) (device.Exporter, device.Handle, []byte) {
	t.Helper()
	a, err := device.NewSharedArena(device.CPU, size)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range want {
		want[i] = byte(r.Uint32())
	}
	if err := a.CopyIn(0, want); err != nil {
		t.Fatal(err)
	}
	e := a.(device.Exporter)
	h, err := e.Export()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.File.Close() })
	return e, h, want
}

// TestAttachFromAnotherProcess: a second process reads the bytes, also those
// that were written after the export.
func TestAttachFromAnotherProcess(t *testing.T) {
	a, h, want := share(t, 5<<20+123)
	defer a.Close()
	copy(want[100:], "written after the export")
	copy(a.Host()[100:], "written after the export")
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envAttach+"="+string(text))
	cmd.ExtraFiles = []*os.File{h.File}
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("the other process read %d bytes, and not those that are there", out.Len())
	}
}

// TestAttachedOutlives: what is attached stays after the arena is closed.
func TestAttachedOutlives(t *testing.T) {
	a, h, want := share(t, 100_000)
	b, err := device.Attach(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Host(), want) {
		t.Error("the bytes are gone with the arena")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestExportedFile: who is given the descriptor can neither write nor change the
// size, which others rely on.
func TestExportedFile(t *testing.T) {
	a, h, _ := share(t, 4096)
	defer a.Close()
	fd := int(h.File.Fd())
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("it can be mapped to be written")
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDWR, 0) // as its owner may
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("opened anew it can be mapped to be written")
	}
	if _, err := f.WriteAt([]byte{1}, 0); err == nil {
		t.Error("opened anew it can be written")
	}
	if f.Truncate(0) == nil || f.Truncate(8192) == nil {
		t.Error("opened anew its size can be changed")
	}
}

func TestAttachRefuses(t *testing.T) {
	a, h, _ := share(t, 4096)
	defer a.Close()
	large := h
	large.Size = 4097
	negative := h
	negative.Size = -1
	for name, h := range map[string]device.Handle{
		"no kind": {}, "no file": {Kind: device.KindFile, Size: 1}, "past its end": large, "less than nothing": negative,
	} {
		if _, err := device.Attach(h); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: %v, want class usage", name, err)
		}
	}
	if _, err := device.Attach(device.Handle{Kind: device.KindCUDA, Device: "cuda:9999", Size: 1}); recovery.ClassOf(err) != recovery.OutOfCapacity {
		t.Errorf("a GPU that is not there: %v, want class out_of_capacity", err)
	}
	empty, err := device.NewSharedArena(device.CPU, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	e, err := empty.(device.Exporter).Export()
	if err != nil {
		t.Fatal(err)
	}
	defer e.File.Close()
	b, err := device.Attach(e)
	if err != nil || b.Size() != 0 {
		t.Fatalf("an empty arena: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
