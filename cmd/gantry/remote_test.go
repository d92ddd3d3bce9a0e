package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
)

// TestInspectRemote shows the same of a checkpoint on a web server as of its
// files.
func TestInspectRemote(t *testing.T) {
	dir := filepath.Join(testdata(t), "stories260K", "hf-sharded")
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	local, remote := mustJSON[inspection](t, "inspect", dir), mustJSON[inspection](t, "inspect", server.URL+"/")
	if diff := cmp.Diff(local.Tensors, remote.Tensors); diff != "" || local.Dimensions != remote.Dimensions {
		t.Error(diff)
	}
	if code, _, stderr := gantry(t, "inspect", server.URL+"/missing/"); code != exit.Source {
		t.Errorf("a folder that is not there: exit %d, %s", code, stderr)
	}
}

// TestUnreachableSource: every command says with exit code 4 that a source is
// not there, and fail-fast asks once for what others ask again for.
func TestUnreachableSource(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	var asked atomic.Int64
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer down.Close()
	for _, uri := range []string{gone.URL, down.URL} {
		for _, args := range [][]string{{"inspect"}, {"plan"}, {"load", "--once", "--recovery", "fail-fast"}} {
			asked.Store(0)
			code, stdout, stderr := gantry(t, append(args, uri+"/model.safetensors")...)
			if code != exit.Source || strings.Count(stderr, "gantry: ") != 1 {
				t.Errorf("%v %s: exit %d, %s%s", args, uri, code, stdout, stderr)
			}
			// The listing asks for several names at once, each of them once.
			if n := asked.Load(); args[0] == "load" && n > 16 {
				t.Errorf("fail-fast asked %d times", n)
			}
		}
	}
}
