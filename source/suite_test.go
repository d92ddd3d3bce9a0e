package source_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/source/sourcetest"
)

// run is the tests with what they share: an authority that this process
// trusts, and an S3 service, started by the first that needs it.
type run struct{ m *testing.M }

func (r run) Run() int {
	defer trustAuthority()()
	defer endService()
	return r.m.Run()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(run{m}) }

// open opens a source that the test closes.
func open(t testing.TB, uri string, o source.Options) source.Source {
	t.Helper()
	s, err := source.Open(context.Background(), uri, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func faults(t testing.TB, rules string) *source.Faults {
	t.Helper()
	f, err := source.ParseFaults(rules)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestSources runs every kind of source and decorator through the contract.
func TestSources(t *testing.T) {
	for name, wrap := range map[string]func(s source.Source) source.Source{
		"bare":       func(s source.Source) source.Source { return s },
		"limit":      func(s source.Source) source.Source { return source.Limit(s, 1<<30) },
		"count":      func(s source.Source) source.Source { return source.Count(s, new(source.Counter)) },
		"retry":      func(s source.Source) source.Source { return source.Retry(s, source.RetryPolicy{}) },
		"concurrent": func(s source.Source) source.Source { return source.Concurrent(s, 2) },
		"observe": func(s source.Source) source.Source {
			return source.Observe(s, func(context.Context, source.Operation) {})
		},
		"inject": func(s source.Source) source.Source { return source.Inject(s, faults(t, "read * delay 1us")) },
	} {
		for _, mode := range []source.Mode{source.ModeAuto, source.ModePread, source.ModeMmap, source.ModeDirect} {
			t.Run(name+"/"+string(mode), func(t *testing.T) {
				sourcetest.Run(t, func(t *testing.T, dir string) source.Source {
					return wrap(open(t, dir, source.Options{Mode: mode}))
				})
			})
		}
	}
}
