package source_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/source/sourcetest"
)

const (
	testToken  = "hf_not_for_others"
	testCommit = "0123456789abcdef0123456789abcdef01234567"
)

// testHub serves a folder as the model org/name at main, to whoever has the
// token. Large files are redirected, with signatures that are good for a few
// requests, to another host, which accepts no token.
type testHub struct {
	t        testing.TB
	dir      string
	cdn      *httptest.Server
	resolved atomic.Int64 // redirects so far
	signed   sync.Map     // signature → how often it was used, *atomic.Int64
	etag     atomic.Value // overrides what the hub says of large files, where set
	less     string       // what a mirror does without: "digests" or "listings"
}

// large is from what size on files are kept at the other host.
const large = 1 << 10

func newTestHub(t testing.TB, dir string, between func(http.Handler) http.Handler) *testHub {
	h := &testHub{t: t, dir: dir}
	h.cdn = serve(t, between(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization") + r.Header.Get("Referer") + r.Header.Get("Cookie"); a != "" {
			t.Errorf("the other host was sent %q", a)
		}
		used, ok := h.signed.Load(r.URL.Query().Get("signature"))
		if !ok || used.(*atomic.Int64).Add(1) > 4 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf(`"cdn-%s"`, r.URL.Query().Get("signature")))
		http.ServeFile(w, r, filepath.Join(dir, r.URL.Path))
	})).ServeHTTP)
	server := serve(t, between(http.HandlerFunc(h.serve)).ServeHTTP)
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_TOKEN", testToken)
	t.Setenv("HF_HUB_OFFLINE", "")
	return h
}

func digest(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

func (h *testHub) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+testToken {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/org/name/resolve/"+testCommit+"/")
	if h.less != "" {
		name, ok = strings.CutPrefix(r.URL.Path, "/org/name/resolve/main/")
		if _, err := os.Stat(filepath.Join(h.dir, name)); err != nil {
			ok = false
		}
	}
	switch {
	case h.less == "listings" && !ok:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.URL.Path == "/api/models/org/name/revision/main" && r.URL.Query().Get("blobs") == "true":
		h.list(w)
		return
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	data, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil {
		h.t.Errorf("asked for %s: %v", name, err)
	}
	etag := digest(data)
	if len(data) < large {
		w.Header().Set("ETag", `"`+etag+`"`)
		http.ServeFile(w, r, filepath.Join(h.dir, name))
		return
	}
	if e, ok := h.etag.Load().(string); ok {
		etag = e
	}
	w.Header().Set("X-Linked-Etag", `"`+etag+`"`)
	w.Header().Set("X-Linked-Size", fmt.Sprint(len(data)))
	signature := fmt.Sprint(h.resolved.Add(1))
	h.signed.Store(signature, new(atomic.Int64))
	cdn := strings.Replace(h.cdn.URL, "127.0.0.1", "localhost", 1) // another host by its name too
	http.Redirect(w, r, fmt.Sprintf("%s/%s?signature=%s", cdn, name, signature), http.StatusFound)
}

func (h *testHub) list(w http.ResponseWriter) {
	siblings := []map[string]any{{"rfilename": "folder/file", "size": 1, "blobId": "00"}}
	err := fs.WalkDir(os.DirFS(h.dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(h.dir, name))
		f := map[string]any{"rfilename": name, "size": len(data), "blobId": digest(data)}
		if len(data) >= large {
			f["lfs"] = map[string]any{"sha256": digest(data), "size": len(data)}
		}
		if h.less == "digests" {
			f = map[string]any{"rfilename": name}
		}
		siblings = append(siblings, f)
		return err
	})
	if err == nil && h.less == "digests" {
		err = json.NewEncoder(w).Encode(map[string]any{"siblings": siblings})
	} else if err == nil {
		err = json.NewEncoder(w).Encode(map[string]any{"sha": testCommit, "siblings": siblings})
	}
	if err != nil {
		h.t.Error(err)
	}
}

func TestHubSource(t *testing.T) {
	for name, between := range map[string]func(http.Handler) http.Handler{"plain": plain, "every third request fails": thirdFails} {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T, dir string) source.Source {
				newTestHub(t, dir, between)
				patient := quick
				patient.Retries = 20 // a read asks two servers
				return open(t, "hf://org/name", source.Options{Retry: patient})
			})
		})
	}
}

func TestHubFaults(t *testing.T) {
	sourcetest.RunFaults(t, func(t *testing.T, dir string, between func(http.Handler) http.Handler) func(t *testing.T, o source.Options) source.Source {
		newTestHub(t, dir, between)
		return func(t *testing.T, o source.Options) source.Source {
			return open(t, "hf://org/name", o)
		}
	})
}

func readHub(o source.Options, uri string, reads int) error {
	s, err := source.Open(context.Background(), uri, o)
	if err != nil {
		return err
	}
	defer s.Close()
	r, err := s.Open(context.Background(), "model.safetensors")
	if err != nil {
		return err
	}
	defer r.Close()
	for i := range reads {
		p := make([]byte, 4)
		if err := r.ReadAt(context.Background(), p, int64(i)); err != nil {
			return err
		}
		if string(p) != "aaaa" {
			return fmt.Errorf("read %q", p)
		}
	}
	return nil
}

func hubFolder(t *testing.T) string {
	return tree(t, map[string]string{"model.safetensors": strings.Repeat("a", 2*large)})
}

// TestHubMirrors: hubs that list names only, or nothing, are asked for each
// file; digests are those that they give then.
func TestHubMirrors(t *testing.T) {
	for _, less := range []string{"digests", "listings"} {
		t.Run(less, func(t *testing.T) {
			dir := tree(t, map[string]string{"config.json": "{}", "model.safetensors": strings.Repeat("a", 2*large), "more.safetensors": "aa", "gguf/q8_0.gguf": "GGUF"})
			h := newTestHub(t, dir, plain)
			h.less = less
			s := open(t, "hf://org/name", source.Options{Retry: quick})
			files, err := s.Files(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"config.json": "hub=" + digest([]byte("{}")), "model.safetensors": "hub=" + digest([]byte(strings.Repeat("a", 2*large)))}
			if less == "digests" {
				want["more.safetensors"] = "hub=" + digest([]byte("aa"))
			}
			got := map[string]string{}
			for _, f := range files {
				got[f.Name] = f.ID
			}
			if !maps.Equal(got, want) {
				t.Errorf("files %v, want %v", got, want)
			}
			r, err := s.Open(t.Context(), "more.safetensors") // as a shard that the index names
			if err != nil || r.File().Size != 2 {
				t.Fatalf("opened %v, %v", r, err)
			}
			r.Close()
			if err := readHub(source.Options{Retry: quick}, "hf://org/name", 10); err != nil {
				t.Error(err)
			}
			if _, err := s.Open(t.Context(), "missing.safetensors"); recovery.ClassOf(err) != recovery.NotFound {
				t.Errorf("a file that is not there: %v", err)
			}
			one := open(t, "hf://org/name/gguf/q8_0.gguf", source.Options{Retry: quick})
			if files, err := one.Files(t.Context()); err != nil || len(files) != 1 || files[0].Name != "q8_0.gguf" || one.Entry() != "q8_0.gguf" {
				t.Errorf("a file in a folder below: %v, %v", files, err)
			}
			if _, err := open(t, "hf://org/name@v9", source.Options{Retry: quick}).Files(t.Context()); recovery.ClassOf(err) != recovery.NotFound {
				t.Errorf("a revision that is not there: %v", err)
			}
		})
	}
}

// TestHubSignatures: a signed address is used until it is refused, then the
// hub is asked for another.
func TestHubSignatures(t *testing.T) {
	h := newTestHub(t, hubFolder(t), plain)
	if err := readHub(source.Options{Retry: quick}, "hf://org/name@main", 10); err != nil {
		t.Fatal(err)
	}
	if n := h.resolved.Load(); n != 3 {
		t.Errorf("10 reads asked for %d signatures, each good for 4", n)
	}
}

// TestHubRefusals: each has its class, and no error holds the token.
func TestHubRefusals(t *testing.T) {
	h := newTestHub(t, hubFolder(t), plain)
	o := source.Options{Retry: quick}
	check := func(what string, err error, want recovery.Class) {
		t.Helper()
		if recovery.ClassOf(err) != want || strings.Contains(fmt.Sprint(err), "hf_") {
			t.Errorf("%s: %v, want class %s", what, err, want)
		}
	}
	check("no such revision", readHub(o, "hf://org/name@v2", 1), recovery.NotFound)
	check("a host that is not allowed", readHub(source.Options{Retry: quick, Hosts: []string{"example.com"}}, "hf://org/name", 1), recovery.NotAllowed)
	h.etag.Store("another")
	check("another digest", readHub(o, "hf://org/name", 1), recovery.SourceChanged)
	t.Setenv("HF_TOKEN", "hf_wrong")
	check("a wrong token", readHub(o, "hf://org/name", 1), recovery.NotAllowed)
	t.Setenv("HF_ENDPOINT", "ftp://hub")
	check("a wrong endpoint", readHub(o, "hf://org/name", 1), recovery.Usage)
}

// TestHubTokenFile takes the token from HF_TOKEN_PATH, which must be there,
// and else from HF_HOME.
func TestHubTokenFile(t *testing.T) {
	newTestHub(t, hubFolder(t), plain)
	home := tree(t, map[string]string{"token": testToken + "\n"})
	t.Setenv("HF_TOKEN", "")
	t.Setenv("HF_TOKEN_PATH", filepath.Join(home, "missing"))
	if err := readHub(source.Options{}, "hf://org/name", 1); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("a token that is not there: %v", err)
	}
	t.Setenv("HF_TOKEN_PATH", filepath.Join(home, "token"))
	if err := readHub(source.Options{}, "hf://org/name", 1); err != nil {
		t.Error(err)
	}
	t.Setenv("HF_TOKEN_PATH", "")
	t.Setenv("HF_HOME", home)
	if err := readHub(source.Options{}, "hf://org/name", 1); err != nil {
		t.Error(err)
	}
}

// TestHubCache: what huggingface_hub has downloaded is read from its cache and
// not asked for; what has another size there is, and so is all of it where a
// server may read some folders only.
func TestHubCache(t *testing.T) {
	h := newTestHub(t, hubFolder(t), plain)
	data := strings.Repeat("a", 2*large)
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	blob := filepath.Join(cache, "models--org--name", "blobs", digest([]byte(data)))
	if err := os.MkdirAll(filepath.Dir(blob), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kept string
		o    source.Options
		asks bool
	}{{data, source.Options{Retry: quick}, false}, {data[1:], source.Options{Retry: quick}, true}, {data, source.Options{Retry: quick, Hosts: []string{"127.0.0.1", "localhost"}}, true}} {
		if err := os.WriteFile(blob, []byte(c.kept), 0o600); err != nil {
			t.Fatal(err)
		}
		before := h.resolved.Load()
		if err := readHub(c.o, "hf://org/name", 2); err != nil {
			t.Fatal(err)
		}
		if asked := h.resolved.Load() > before; asked != c.asks {
			t.Errorf("%d bytes in the cache: the hub was asked for the file: %v", len(c.kept), asked)
		}
		if b, err := os.ReadFile(blob); err != nil || string(b) != c.kept {
			t.Errorf("the cache was written: %d bytes, %v", len(b), err)
		}
	}
}

// TestHubOffline reads the local cache alone.
func TestHubOffline(t *testing.T) {
	home := t.TempDir()
	repo := filepath.Join(home, "hub", "models--org--name")
	for name, data := range map[string]string{
		"refs/main": testCommit + "\n", "refs/bad": "../../x", "blobs/00": "aaaaaaaa",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(repo, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	snapshot := filepath.Join(repo, "snapshots", testCommit)
	if err := os.MkdirAll(snapshot, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../blobs/00", filepath.Join(snapshot, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL) })
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", home)
	t.Setenv("HF_HUB_CACHE", "")
	t.Setenv("HF_HUB_OFFLINE", "1")
	o := source.Options{Stall: time.Second}
	for uri, want := range map[string]recovery.Class{
		"hf://org/name": "", "hf://org/name@" + testCommit: "", "hf://org/name@bad": recovery.NotFound,
		"hf://org/name@v2": recovery.NotFound, "hf://org/other": recovery.NotFound,
	} {
		if err := readHub(o, uri, 2); recovery.ClassOf(err) != want {
			t.Errorf("%s: %v, want class %q", uri, err, want)
		}
	}
	if err := readHub(source.Options{Roots: []string{t.TempDir()}}, "hf://org/name", 1); recovery.ClassOf(err) != recovery.NotAllowed {
		t.Errorf("a cache outside the allowed folders: %v", err)
	}
}
