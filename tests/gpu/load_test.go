//go:build gpu || fakecuda

package gpu

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/devicetest"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

const gpu = "cuda:0"

// staging is little enough that buffers are used again and again.
const staging = 4 << 20

// stories returns a folder of the stories260K model in the shared test data.
func stories(t *testing.T, name string) string {
	t.Helper()
	root := os.Getenv("GANTRY_TESTDATA")
	dir, err := os.Getwd()
	for ; err == nil && root == "" && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "shared/testdata")); err == nil {
			root = filepath.Join(dir, "shared/testdata")
		}
	}
	path := filepath.Join(root, "stories260K", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: set GANTRY_TESTDATA to the folder with the test data", err)
	}
	return path
}

// load loads stories260K on a device; its memory is freed at the end.
func load(t *testing.T, on, scheme string, opts ...loader.Option) (*model.Model, error) {
	t.Helper()
	s, err := device.Parse(on)
	if err != nil {
		t.Fatal(err)
	}
	opts = append(opts, loader.WithDevice(s), loader.WithStaging(staging), loader.WithValidate(true),
		loader.WithQuantization(quant.Config{Scheme: scheme}), loader.WithLayout(shard.Layout{TP: 2}))
	m, err := loader.New(opts...).Load(t.Context(), stories(t, "hf-f32"))
	if err == nil {
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return m, err
}

func open(t *testing.T, bytes int64) device.Arena {
	t.Helper()
	a, err := device.NewArena(gpu, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSuite(t *testing.T) {
	clean(t)
	devicetest.Run(t, gpu, device.NewArena)
}

// TestLoad: every scheme's ranks are on the GPU what they are in host memory.
// Where copies can be counted, each byte was copied there once, as planned, from
// pinned memory within the staging budget.
func TestLoad(t *testing.T) {
	for _, scheme := range quant.Names() {
		t.Run(scheme, func(t *testing.T) {
			clean(t)
			counted := watch(t)
			m, err := load(t, gpu, scheme)
			if err != nil {
				t.Fatal(err)
			}
			counted(m)
			host, err := load(t, device.CPU, scheme)
			if err != nil {
				t.Fatal(err)
			}
			for r, want := range host.Ranks() {
				if got := m.Ranks()[r]; got.Device != gpu || got.Digest != want.Digest {
					t.Errorf("rank %d on %s has digest %x, on the CPU %x", r, got.Device, got.Digest, want.Digest)
				}
			}
			same(t, m, host)
		})
	}
}

// TestBuffersAreUsedAgain: many chunks go through pinned memory that has room for
// two. What lies on the device is compared, not only the pieces' digests, which
// are taken before they are copied.
func TestBuffersAreUsedAgain(t *testing.T) {
	clean(t)
	dir := t.TempDir()
	if _, err := synth.Write(t.Context(), dir, synth.Options{Bytes: 128 << 20, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	var models []*model.Model
	for _, on := range []string{device.CPU, gpu} {
		s, err := device.Parse(on)
		if err != nil {
			t.Fatal(err)
		}
		m, err := loader.New(loader.WithDevice(s), loader.WithStaging(72<<20)).Load(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		models = append(models, m)
	}
	same(t, models[0], models[1])
}

// same compares the tensors of two models.
func same(t *testing.T, a, b *model.Model) {
	t.Helper()
	for i := range a.Plan().Tensors {
		name := a.Plan().Tensors[i].Name
		x, err := a.Vars().Tensor(name)
		y, err2 := b.Vars().Tensor(name)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		for p := range x.Planes() {
			got, err := x.Plane(p)
			want, err2 := y.Plane(p)
			if err := errors.Join(err, err2); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: plane %d differs: %v", name, p, err)
			}
		}
	}
}
