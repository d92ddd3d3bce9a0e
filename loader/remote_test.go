package loader

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// TestLoadOverHTTP places the same bytes as from files, and reads each once.
func TestLoadOverHTTP(t *testing.T) {
	for _, dir := range []string{"hf-f32", "hf-sharded"} {
		path := filepath.Join(testdata(t, "stories260K"), dir)
		server := httptest.NewServer(http.FileServer(http.Dir(path)))
		defer server.Close()
		layout := WithLayout(shard.Layout{TP: 2})
		local, remote := load(t, path, layout), load(t, server.URL+"/", layout)
		digests := func(m *model.Model) (d [][16]byte) {
			for _, r := range m.Report().Ranks {
				d = append(d, r.Digest)
			}
			return d
		}
		if l, r := digests(local), digests(remote); len(l) != 2 || !slices.Equal(l, r) {
			t.Errorf("%s: ranks %v from files, %v over HTTP", dir, l, r)
		}
		if a := remote.Report().ReadAmplification(); a != 1 {
			t.Errorf("%s: read amplification %g", dir, a)
		}
	}
}

// sent counts what a handler sends of tensor files.
type sent struct {
	http.ResponseWriter
	bytes *atomic.Int64
}

func (w sent) Write(p []byte) (int, error) {
	w.bytes.Add(int64(len(p)))
	return w.ResponseWriter.Write(p)
}

// TestRemoteIndexReadsHeadersOnly: planning asks for headers, and one byte to
// learn each file's size (twice: listed and opened).
func TestRemoteIndexReadsHeadersOnly(t *testing.T) {
	for _, dir := range []string{"hf-f32", "hf-sharded"} {
		var bytes atomic.Int64
		files := http.FileServer(http.Dir(filepath.Join(testdata(t, "stories260K"), dir)))
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".safetensors") {
				w = sent{w, &bytes}
			}
			files.ServeHTTP(w, r)
		}))
		defer server.Close()
		src, err := source.Open(t.Context(), server.URL+"/", source.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		ix, err := checkpoint.Open(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		starts := map[int]int64{}
		for _, x := range ix.Tensors {
			if first, ok := starts[x.File]; !ok || x.Offset < first {
				starts[x.File] = x.Offset
			}
		}
		var headers int64
		for _, n := range starts {
			headers += n
		}
		if got := bytes.Load(); got < headers || got > headers+headers/100+64 {
			t.Errorf("%s: %d bytes sent of files whose headers have %d", dir, got, headers)
		}
	}
}
