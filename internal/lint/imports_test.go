package lint

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gantry-ml/gantry/"

// arrows says which packages of ours each package may import, besides the
// leaves and its own sub-packages. A package that is not listed may import
// nothing of ours: whoever adds one says here where it stands.
var arrows = map[string][]string{
	"dtype":               {},
	"recovery":            {},
	"progress":            {},
	"internal/alloctest":  {},
	"internal/invariants": {},
	"internal/lint":       {},
	"internal/testmodels": {"checkpoint"},
	"internal/settings":   {},
	"require":             {},
	"placement":           {"internal/settings"}, // its file's reader
	"source":              {},
	"checkpoint":          {"source", "quant", "require"}, // of quant the forms, which it names
	"quant":               {"internal/settings"},          // its file's reader
	"device":              {"internal/invariants", "require"},
	"shard":               {"checkpoint", "quant", "source"},
	"internal/job":        {"shard", "placement"},
	"internal/transfer":   {},
	"messages":            {"require", "placement", "shard", "internal/job"},
	"model":               {"internal/invariants", "shard", "quant", "device", "checkpoint", "source"},
	"loader":              {"require", "placement", "internal/job", "internal/transfer", "shard", "quant", "device", "source", "checkpoint", "model"},
	"actors":              {"require", "placement", "internal/job", "loader", "model", "messages", "shard", "checkpoint"},
	"internal/cluster":    {"messages", "checkpoint", "shard"},
	"telemetry":           {"messages", "source"},
}

// leaves may be imported by everything.
var leaves = []string{"dtype", "recovery", "progress"}

// libraryBans are modules that a user of the library must not pull in.
var libraryBans = []string{
	"github.com/nats-io/", "github.com/asynkron/protoactor-go", "go.opentelemetry.io/otel/exporters",
	"go.opentelemetry.io/contrib/exporters", "google.golang.org/grpc",
}

type goPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,Deps,GoFiles", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestImportsPointOneWay holds the arrows of the design.
func TestImportsPointOneWay(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "tests/") {
			continue // the edge may use everything
		}
		owner := room(name)
		allowed, known := arrows[owner]
		if !known {
			t.Errorf("package %s is in no room of the design: add it to arrows", name)
		}
		for _, imp := range p.Imports {
			other, ours := strings.CutPrefix(imp, module)
			if !ours || room(other) == owner {
				continue
			}
			if !slices.Contains(leaves, room(other)) && !slices.Contains(allowed, room(other)) {
				t.Errorf("%s imports %s: that arrow is not in the design", name, other)
			}
		}
	}
}

// TestLibraryStaysLight: using the library pulls in no NATS, no actors, no
// exporters.
func TestLibraryStaysLight(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module+"loader" && p.ImportPath != module+"model" {
			continue
		}
		for _, dep := range p.Deps {
			for _, ban := range libraryBans {
				if strings.HasPrefix(dep, ban) {
					t.Errorf("%s depends on %s", p.ImportPath, dep)
				}
			}
		}
	}
}

// TestEveryPackageSaysWhatItOwns: a doc comment, in every package with code.
func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// room returns the listed package that name is, or lies in.
func room(name string) string {
	for n := name; ; {
		if _, ok := arrows[n]; ok {
			return n
		}
		i := strings.LastIndexByte(n, '/')
		if i < 0 {
			return name
		}
		n = n[:i]
	}
}
