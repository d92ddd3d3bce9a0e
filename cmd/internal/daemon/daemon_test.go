package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/recovery"
)

// flagSet is a set of flags as a daemon has them.
func flagSet(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.String("name", "from-default", "")
	f.String("nats-listen", "from-default", "")
	f.Int("cpu-ranks", 1, "")
	f.StringArray("model-root", nil, "")
	f.String("config", "", "")
	SecurityFlags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gantry.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPrecedence: a flag wins over the environment, which wins over the file,
// which wins over the default.
func TestPrecedence(t *testing.T) {
	path := config(t, "name: from-file\nnats-listen: from-file\ncpu-ranks: 3\nmodel-root: [/a, /b]\n")
	check := func(f *pflag.FlagSet, name, listen string, ranks int, roots ...string) {
		t.Helper()
		s, err := settings(f)
		if err != nil {
			t.Fatal(err)
		}
		if s.String("name") != name || s.String("nats-listen") != listen || s.Int("cpu-ranks") != ranks || !slices.Equal(s.Strings("model-root"), roots) {
			t.Errorf("name %q, nats-listen %q, cpu-ranks %d, model-root %q", s.String("name"), s.String("nats-listen"), s.Int("cpu-ranks"), s.Strings("model-root"))
		}
	}
	check(flagSet(t), "from-default", "from-default", 1)
	check(flagSet(t, "--config", path), "from-file", "from-file", 3, "/a", "/b")
	t.Setenv("GANTRY_NATS_LISTEN", "from-env")
	t.Setenv("GANTRY_CPU_RANKS", "4")
	t.Setenv("GANTRY_MODEL_ROOT", "/c,/d")
	t.Setenv("GANTRY_TESTDATA", "of no concern")
	check(flagSet(t, "--config", path), "from-file", "from-env", 4, "/c", "/d")
	check(flagSet(t, "--config", path, "--nats-listen", "from-flag", "--model-root", "/e"), "from-file", "from-flag", 4, "/e")
}

// TestUsage: a word too many is wrong usage, and --help shows the example.
func TestUsage(t *testing.T) {
	d := Daemon{Name: "worker", Short: "Hold arenas.", Example: "  worker --nats nats://127.0.0.1:4222", Flags: func(*pflag.FlagSet) {}}
	var out, errs bytes.Buffer
	if code := d.run([]string{"extra"}, &out, &errs); code != exit.Usage || !strings.Contains(errs.String(), "extra") || !strings.Contains(errs.String(), "worker --help") {
		t.Errorf("exit %d: %s", code, &errs)
	}
	if code := d.run([]string{"--help"}, &out, &errs); code != exit.Done || !strings.Contains(out.String(), "Examples:\n"+d.Example) {
		t.Errorf("exit %d: %s", code, &out)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for name, text := range map[string]string{"unknown": "nmae: x\n", "not YAML": "name: [\n"} {
		if _, err := settings(flagSet(t, "--config", config(t, text))); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}
