package loader

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
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

// hub serves a folder as the model org/name of a hub.
func hub(t *testing.T, dir string) http.Handler {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	type sibling struct {
		Name string `json:"rfilename"`
		Size int64  `json:"size"`
		Blob string `json:"blobId"`
	}
	var siblings []sibling
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		siblings = append(siblings, sibling{e.Name(), info.Size(), "blob-" + e.Name()})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/models/org/name/revision/main", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": siblings}); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("/org/name/resolve/"+commit+"/{file}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"blob-`+r.PathValue("file")+`"`)
		http.ServeFile(w, r, filepath.Join(dir, r.PathValue("file")))
	})
	return mux
}

// TestLoadRemote places the same bytes as from files, and reads each once.
func TestLoadRemote(t *testing.T) {
	for _, dir := range []string{"hf-f32", "hf-sharded"} {
		path := filepath.Join(testdata(t, "stories260K"), dir)
		server := httptest.NewServer(http.FileServer(http.Dir(path)))
		defer server.Close()
		models := httptest.NewServer(hub(t, path))
		defer models.Close()
		t.Setenv("HF_ENDPOINT", models.URL)
		t.Setenv("HF_HUB_OFFLINE", "")
		layout := WithLayout(shard.Layout{TP: 2})
		digests := func(m *model.Model) (d [][16]byte) {
			for _, r := range m.Report().Ranks {
				d = append(d, r.Digest)
			}
			return d
		}
		want := digests(load(t, path, layout))
		for _, uri := range []string{server.URL + "/", "hf://org/name"} {
			m := load(t, uri, layout)
			if got := digests(m); len(got) != 2 || !slices.Equal(got, want) {
				t.Errorf("%s from %s: ranks %x, from files %x", dir, uri, got, want)
			}
			if a := m.Report().ReadAmplification(); a != 1 {
				t.Errorf("%s from %s: read amplification %g", dir, uri, a)
			}
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
