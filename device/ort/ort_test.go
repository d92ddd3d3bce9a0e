package ort

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// openRuntime opens the library that make ort fetches.
func openRuntime(t *testing.T) *Runtime {
	t.Helper()
	r, err := Open("")
	if err != nil {
		t.Fatalf("%v\nthis test needs the ONNX Runtime library: run `make ort`", err)
	}
	return r
}

func TestOpen(t *testing.T) {
	r := openRuntime(t)
	if err := checkVersion(r.Version()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(strings.Join(r.Providers(), " "), "CPUExecutionProvider") {
		t.Errorf("providers %q", r.Providers())
	}
	again, err := Open(r.Path())
	if err != nil || again != r {
		t.Errorf("a second Open: %p, %v; want the same runtime %p", again, err, r)
	}
	other := filepath.Join(t.TempDir(), libraryName)
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other); err == nil || !strings.Contains(err.Error(), "open in this process already") {
		t.Errorf("opening another library: %v", err)
	}
}

func TestOpenUnusable(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What GetApi would answer is never asked of a library that is too old.
	fake := func(version string) string {
		return compile(t, `
			static const char* version(void) { return "`+version+`"; }
			static const void* api(unsigned v) { return 0; }
			static struct { const void* (*a)(unsigned); const char* (*v)(void); } base = { api, version };
			void* OrtGetApiBase(void) { return &base; }`)
	}
	for _, tt := range []struct {
		name, path, want string
	}{
		{"not a library", text, "it cannot be loaded: "},
		{"foreign", compile(t, `int answer(void) { return 42; }`), "it is not an ONNX Runtime library"},
		{"too old", fake("1.17.3"), "its version is 1.17.3, too old: 1.24 or newer is wanted"},
		{"of another major version", fake("2.0.0"), `"2.0.0", which is none of ONNX Runtime 1`},
		{"without our API", fake("1.99.0"), "it does not serve version 24 of its C API"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := open(tt.path)
			if recovery.ClassOf(err) != recovery.Unsupported || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want class unsupported and %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
	if _, err := Open(filepath.Join(dir, "missing.so")); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("a missing library: %v, want class not_found", err)
	}
}

// compile makes a shared library of C source.
func compile(t *testing.T, source string) string {
	t.Helper()
	lib := filepath.Join(t.TempDir(), libraryName)
	cmd := exec.Command("cc", "-shared", "-fPIC", "-x", "c", "-o", lib, "-")
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	return lib
}

func TestFind(t *testing.T) {
	t.Setenv(EnvLibrary, filepath.Join(t.TempDir(), "gone.so"))
	if _, err := Find(); recovery.ClassOf(err) != recovery.NotFound || !strings.Contains(err.Error(), EnvLibrary) {
		t.Errorf("%s names nothing: %v", EnvLibrary, err)
	}
	there := filepath.Join(t.TempDir(), "there.so")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvLibrary, there)
	if got, err := Find(); got != there || err != nil {
		t.Errorf("Find: %q, %v; want %q", got, err, there)
	}
}

// TestFindCUDA: both libraries of the provider lie beside ONNX Runtime's.
func TestFindCUDA(t *testing.T) {
	dir := t.TempDir()
	r := &Runtime{path: filepath.Join(dir, libraryName)}
	for _, name := range []string{sharedLibrary, cudaLibrary} {
		if _, err := r.FindCUDA(); recovery.ClassOf(err) != recovery.NotFound || !strings.Contains(err.Error(), name+" is not in "+dir) {
			t.Errorf("without %s: %v", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.FindCUDA(); err != nil || got != filepath.Join(dir, cudaLibrary) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCheckVersion(t *testing.T) {
	for v, ok := range map[string]bool{
		"1.24.0": true, "1.29.0": true, "1.30.0-dev": true,
		"1.23.9": false, "0.9.0": false, "2.1.0": false, "": false, "1": false, "1.x": false,
	} {
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("checkVersion(%q): %v, want ok %v", v, err, ok)
		}
	}
}

// TestSlots counts the members of OrtApi in the header that onnxruntime_go
// ships: each slot the shim calls must be the function that it is called for.
func TestSlots(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	header, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "onnxruntime_c_api.h"))
	if err != nil {
		t.Fatal(err)
	}
	if v := regexp.MustCompile(`#define ORT_API_VERSION (\d+)`).FindSubmatch(header); v == nil || string(v[1]) != "24" {
		t.Errorf("the header is of API version %s, apiVersion is %d", v, apiVersion)
	}
	text := regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`).ReplaceAllString(string(header), "")
	body := regexp.MustCompile(`(?s)\nstruct OrtApi \{.*?\n\};`).FindString(text)
	members := regexp.MustCompile(`ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE\(\s*(\w+)|ORT_API_CALL\s*\*\s*(\w+)\s*\)|ORT_API_T\([^,]+,\s*(\w+)`).FindAllStringSubmatch(body, -1)
	if len(members) < 300 {
		t.Fatalf("found %d members of OrtApi, there are some 400", len(members))
	}
	at := map[string]int{}
	for i, m := range members {
		name := m[1] + m[3] + m[4]
		if m[2] != "" {
			name = "Release" + m[2]
		}
		at[name] = i
	}
	for name, slot := range slots {
		if got, ok := at[name]; !ok || got != slot {
			t.Errorf("%s is slot %d (known: %v), the shim calls slot %d", name, got, ok, slot)
		}
	}
}

// relative is the largest difference, relative to the largest |want|.
func relative(got, want []float32) float64 {
	var diff, most float64
	for i := range want {
		diff = math.Max(diff, math.Abs(float64(got[i])-float64(want[i])))
		most = math.Max(most, math.Abs(float64(want[i])))
	}
	return diff / most
}
