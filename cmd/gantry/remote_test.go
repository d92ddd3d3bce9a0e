package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
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
	if diff := cmp.Diff(local.Tensors, remote.Tensors); diff != "" || local.Architecture != remote.Architecture {
		t.Error(diff)
	}
	if code, _, stderr := gantry(t, "inspect", server.URL+"/missing/"); code != exit.Source {
		t.Errorf("a folder that is not there: exit %d, %s", code, stderr)
	}
}
