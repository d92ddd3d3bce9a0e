package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/dtype"
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

// TestInspectManyShards: of a remote model in a thousand files headers are
// read and one byte besides of each, and the report says how much.
func TestInspectManyShards(t *testing.T) {
	const shards = 1000
	dir := t.TempDir()
	where := map[string]string{}
	var headers int64
	for i := range shards {
		name, file := fmt.Sprintf("model.layers.%d.mlp.down_proj.weight", i), fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, shards)
		w, err := safetensors.Create(filepath.Join(dir, file), []safetensors.Tensor{{Name: name, DType: dtype.BF16, Shape: []int64{64, 64}}}, map[string]string{"format": "pt"})
		if err != nil {
			t.Fatal(err)
		}
		headers += w.Tensors()[0].Offset
		where[name] = file
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	index, err := json.Marshal(map[string]any{"weight_map": where})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), index, 0o600); err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int64
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files.ServeHTTP(counting{w, &sent}, r)
	}))
	defer server.Close()
	in := mustJSON[inspection](t, "inspect", server.URL+"/")
	want := headers + int64(len(index))
	if len(in.Tensors) != shards || in.BytesRead != want {
		t.Errorf("%d tensors, %d bytes read, the headers and the index have %d", len(in.Tensors), in.BytesRead, want)
	}
	// What the server sends besides are pages of names that are not there.
	if got := sent.Load(); got < want || got > want+headers/100+2000 {
		t.Errorf("the server sent %d bytes, the headers and the index have %d", got, want)
	}
	t.Logf("%d bytes read, %d sent, %d of headers", in.BytesRead, sent.Load(), want)
}

// counting counts what a handler sends.
type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
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
