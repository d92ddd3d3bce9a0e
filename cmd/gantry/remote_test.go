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
	"github.com/gantry-ml/gantry/source/sourcetest/s3test"
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

// TestS3Exits: what is not there or not allowed is exit code 4.
func TestS3Exits(t *testing.T) {
	service, err := s3test.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	service.Setenv(t)
	service.Bucket(t, "models")
	service.PutFolder(t, "models", "m/", filepath.Join(testdata(t), "stories260K", "hf-f32"))
	for name, c := range map[string]struct {
		uri    string
		secret string
		want   int
	}{
		"there":          {"s3://models/m", s3test.SecretKey, exit.Done},
		"no such bucket": {"s3://nowhere/m", s3test.SecretKey, exit.Source},
		"no such prefix": {"s3://models/n", s3test.SecretKey, exit.Source},
		"no such key":    {"s3://models/m/n.safetensors", s3test.SecretKey, exit.Source},
		"wrong secret":   {"s3://models/m", "wrong", exit.Source},
		"no URI":         {"s3://m", s3test.SecretKey, exit.Usage},
	} {
		t.Setenv("AWS_SECRET_ACCESS_KEY", c.secret)
		if code, _, stderr := gantry(t, "inspect", c.uri); code != c.want {
			t.Errorf("%s: exit %d, %s", name, code, stderr)
		}
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
