package loader

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/source/sourcetest/s3test"
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

// TestLoadRemote: from files, web server, hub and bucket come the same ranks,
// each byte once, and what they say is what the model says.
func TestLoadRemote(t *testing.T) {
	service, err := s3test.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	service.Setenv(t)
	service.Bucket(t, "models")
	want := expectation(t, "expected.json", "hf-f32")
	for _, dir := range []string{"hf-f32", "hf-sharded", "onnx-external"} {
		path := filepath.Join(testdata(t, "stories260K"), dir)
		server := httptest.NewServer(http.FileServer(http.Dir(path)))
		defer server.Close()
		models := httptest.NewServer(hub(t, path))
		defer models.Close()
		t.Setenv("HF_ENDPOINT", models.URL)
		t.Setenv("HF_HUB_OFFLINE", "")
		service.PutFolder(t, "models", dir+"/", path)
		layout := WithLayout(shard.Layout{TP: 2})
		digests := func(m *model.Model) (d [][16]byte) {
			for _, r := range m.Report().Ranks {
				d = append(d, r.Digest)
			}
			return d
		}
		local := digests(load(t, path, layout))
		for _, uri := range []string{server.URL + "/", "hf://org/name", "s3://models/" + dir} {
			m := load(t, uri, layout)
			if got := digests(m); len(got) != 2 || !slices.Equal(got, local) {
				t.Errorf("%s from %s: ranks %x, from files %x", dir, uri, got, local)
			}
			if a := m.Report().ReadAmplification(); a != 1 {
				t.Errorf("%s from %s: read amplification %g", dir, uri, a)
			}
			if dir == "onnx-external" {
				continue // has no config.json; that its files speak is another test's
			}
			if got, _ := speak(t, m, want.Prompt, 100); !slices.Equal(got, want.Generated[:100]) {
				t.Errorf("%s from %s: %v, want %v", dir, uri, got, want.Generated[:100])
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

// TestRemoteRequests: a load asks once for each chunk, and for no byte twice.
func TestRemoteRequests(t *testing.T) {
	dir := synth(t, 1)
	var bytes, requests atomic.Int64
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".safetensors") {
			requests.Add(1)
			w = sent{w, &bytes}
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	l := New(WithQuantization(quant.Config{Scheme: "q8_0"}), WithLayout(shard.Layout{TP: 2}))
	plan, err := l.Plan(t.Context(), server.URL+"/")
	if err != nil {
		t.Fatal(err)
	}
	planning, planned := bytes.Swap(0), requests.Swap(0)
	m, err := l.Load(t.Context(), server.URL+"/")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	// Both plan; besides, each file is opened with a request for a byte.
	extra := int64(len(plan.Files))
	if got, want := requests.Load()-planned, int64(len(plan.Chunks))+extra; got > want {
		t.Errorf("%d requests for %d chunks of %d files", got, len(plan.Chunks), extra)
	}
	if got := bytes.Load() - planning; got != plan.StoredBytes+extra {
		t.Errorf("%d bytes sent for %d stored", got, plan.StoredBytes)
	}
	if len(plan.Chunks) < 4 || m.Report().ReadAmplification() != 1 {
		t.Errorf("%d chunks, read amplification %g", len(plan.Chunks), m.Report().ReadAmplification())
	}
}

// BenchmarkLink loads over a link on which each request waits for 20 ms first,
// and compares with one request for the whole file.
func BenchmarkLink(b *testing.B) {
	dir := synth(b, 9)
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond)
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	uri := server.URL + "/model.safetensors"
	b.Run("one-get", func(b *testing.B) {
		slab := make([]byte, slabBytes)
		for b.Loop() {
			r, err := http.Get(uri)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Body}, slab)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(n)
			r.Body.Close()
		}
	})
	_, ix := open(b, uri)
	plan := build(b, ix, shard.Options{Layout: shard.Layout{TP: 2}, Scheme: "q8_0"})
	b.Run("load-phase", func(b *testing.B) {
		b.SetBytes(plan.StoredBytes)
		for b.Loop() {
			b.StopTimer()
			m := newTeam(b, uri, plan, 1, NodeOptions{})
			b.StartTimer()
			m.chunks(b.Context())
			b.StopTimer()
			if err := m.nodes[0].Close("j"); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
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
			if first, ok := starts[int(x.File)]; !ok || x.Offset < first {
				starts[int(x.File)] = x.Offset
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
