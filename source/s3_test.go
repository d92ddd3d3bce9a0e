package source_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/source/sourcetest"
	"github.com/gantry-ml/gantry/source/sourcetest/s3test"
)

var (
	service     = sync.OnceValues(s3test.Start)
	serviceUsed atomic.Bool
	buckets     atomic.Int64
)

// endService ends the service if a test has started it.
func endService() {
	if serviceUsed.Load() {
		if s, err := service(); err == nil {
			s.Close()
		}
	}
}

// bucket makes a bucket in the service, with its variables set.
func bucket(t *testing.T) (*s3test.Server, string) {
	t.Helper()
	serviceUsed.Store(true)
	s, err := service()
	if err != nil {
		t.Fatal(err)
	}
	s.Setenv(t)
	name := "bucket-" + string(rune('a'+buckets.Add(1)))
	s.Bucket(t, name)
	return s, name
}

func TestS3Source(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"direct":                    nil,
		"every third request fails": thirdFails,
	} {
		t.Run(name, func(t *testing.T) {
			s, b := bucket(t)
			if wrap != nil {
				between(t, s, wrap)
			}
			sourcetest.Run(t, func(t *testing.T, dir string) source.Source {
				s.PutFolder(t, b, "models/x/", dir)
				s.Put(t, b, "models/x/folder/inside", []byte("x"))
				return open(t, "s3://"+b+"/models/x", source.Options{Retry: quick})
			})
		})
	}
}

func TestS3Faults(t *testing.T) {
	sourcetest.RunFaults(t, func(t *testing.T, dir string, wrap func(http.Handler) http.Handler) func(t *testing.T, o source.Options) source.Source {
		s, b := bucket(t)
		s.PutFolder(t, b, "models/x/", dir)
		between(t, s, wrap)
		return func(t *testing.T, o source.Options) source.Source {
			return open(t, "s3://"+b+"/models/x", o)
		}
	})
}

// between puts a server of wrap's between client and service.
func between(t *testing.T, s *s3test.Server, wrap func(http.Handler) http.Handler) {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	// The host stays what was signed for.
	conns := &http.Transport{}
	t.Cleanup(conns.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{Transport: conns, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host }}
	server := httptest.NewServer(wrap(proxy))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL", server.URL)
}

// TestS3Refusals: what is not there and what may not be read, and that no
// secret is told.
func TestS3Refusals(t *testing.T) {
	s, b := bucket(t)
	s.Put(t, b, "model/f.safetensors", []byte(payload))
	keys := filepath.Join(t.TempDir(), "credentials")
	text := "[right]\naws_access_key_id = " + s3test.AccessKey + "\naws_secret_access_key = " + s3test.SecretKey +
		"\n[wrong]\naws_access_key_id = " + s3test.AccessKey + "\naws_secret_access_key = not-the-secret\n[empty]\n"
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	profile := func(name string) map[string]string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": keys, "AWS_PROFILE": name}
	}
	for name, c := range map[string]struct {
		uri  string
		env  map[string]string
		o    source.Options
		want recovery.Class
	}{
		"fine":             {uri: b + "/model/f.safetensors"},
		"slash at the end": {uri: b + "/model/"},
		"a profile":        {uri: b + "/model", env: profile("right")},
		"other endpoint":   {uri: b + "/model", env: map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": s.URL}},
		"allowed host":     {uri: b + "/model", o: source.Options{Hosts: []string{"127.0.0.1"}}},
		"host not allowed": {uri: b + "/model", o: source.Options{Hosts: []string{"*.amazonaws.com"}}, want: recovery.NotAllowed},
		"metadata":         {uri: b + "/model", env: map[string]string{"AWS_ENDPOINT_URL": "http://169.254.169.254"}, want: recovery.NotAllowed},
		"no such key":      {uri: b + "/model/g.safetensors", want: recovery.NotFound},
		"no such bucket":   {uri: "no-such-bucket/model", want: recovery.NotFound},
		"wrong secret":     {uri: b + "/model", env: map[string]string{"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, want: recovery.NotAllowed},
		"wrong key":        {uri: b + "/model", env: map[string]string{"AWS_ACCESS_KEY_ID": "nobody"}, want: recovery.NotAllowed},
		"wrong profile":    {uri: b + "/model", env: profile("wrong"), want: recovery.NotAllowed},
		"empty profile":    {uri: b + "/model", env: profile("empty"), want: recovery.NotAllowed},
		"no such profile":  {uri: b + "/model", env: profile("nobody"), want: recovery.NotAllowed},
		"unsigned":         {uri: b + "/model", env: map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, want: recovery.NotAllowed},
		"nobody there":     {uri: b + "/model", env: map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, want: recovery.Unreachable},
		"bad endpoint":     {uri: b + "/model", env: map[string]string{"AWS_ENDPOINT_URL": "ftp://127.0.0.1"}, want: recovery.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			c.o.Retry = quick
			src, err := source.Open(context.Background(), "s3://"+c.uri, c.o)
			got := ""
			if err == nil {
				defer src.Close()
				if name := src.Entry(); name != "" && name != "f.safetensors" {
					_, err = src.Open(context.Background(), name)
				} else if _, err = src.Files(context.Background()); err == nil {
					got, err = readHTTP(src)
				}
			}
			if recovery.ClassOf(err) != c.want || err == nil && got != "4567" {
				t.Errorf("read %q, %v; want class %q", got, err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%q tells a secret, or is not one line", err)
			}
		})
	}
}

// TestS3Anonymous reads a public bucket without keys, also where objects may
// be read and not listed.
func TestS3Anonymous(t *testing.T) {
	s, b := bucket(t)
	s.Put(t, b, "model.safetensors", []byte(payload))
	statement := func(action, resource string) string {
		return `{"Effect":"Allow","Principal":"*","Action":"` + action + `","Resource":"arn:aws:s3:::` + resource + `"}`
	}
	read, list := statement("s3:GetObject", b+"/*"), statement("s3:ListBucket", b)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	for name, policy := range map[string]string{"read and list": read + "," + list, "read": read} {
		s.Policy(t, b, `{"Statement":[`+policy+`]}`)
		src := open(t, "s3://"+b, source.Options{Retry: quick})
		files, err := src.Files(context.Background())
		if err != nil || len(files) != 1 || files[0].Name != "model.safetensors" || files[0].Size != int64(len(payload)) {
			t.Errorf("%s: %v, %v", name, files, err)
		}
		r, err := src.Open(context.Background(), "model.safetensors")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := make([]byte, 4)
		if err := r.ReadAt(context.Background(), p, 4); err != nil || string(p) != "4567" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
		src.Close()
	}
}

// TestS3Changed: an object that is written again while it is read is an error.
func TestS3Changed(t *testing.T) {
	s, b := bucket(t)
	s.Put(t, b, "f.safetensors", []byte(payload))
	src := open(t, "s3://"+b+"/f.safetensors", source.Options{Retry: quick})
	defer src.Close()
	r, err := src.Open(context.Background(), "f.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4)
	if err := r.ReadAt(context.Background(), p, 0); err != nil {
		t.Fatal(err)
	}
	s.Put(t, b, "f.safetensors", []byte(strings.ToUpper(payload)))
	if err := r.ReadAt(context.Background(), p, 12); recovery.ClassOf(err) != recovery.SourceChanged {
		t.Errorf("read %q, %v", p, err)
	}
}

// TestS3Session: a session's token is sent along.
func TestS3Session(t *testing.T) {
	s, b := bucket(t)
	s.Put(t, b, "f.safetensors", []byte(payload))
	var tokens atomic.Int64
	between(t, s, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Amz-Security-Token") == "of-the-session" && r.Header.Get("Authorization") != "" {
				tokens.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	t.Setenv("AWS_SESSION_TOKEN", "of-the-session")
	src := open(t, "s3://"+b+"/f.safetensors", source.Options{Retry: quick})
	defer src.Close()
	if _, err := src.Files(context.Background()); err != nil && strings.Contains(err.Error(), "of-the-session") {
		t.Errorf("%v tells the token", err)
	}
	if tokens.Load() == 0 {
		t.Error("no request had the token")
	}
}

func TestS3URIs(t *testing.T) {
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	for uri, want := range map[string]string{
		"s3://bucket":                    "s3://bucket/ ",
		"s3://bucket/":                   "s3://bucket/ ",
		"s3://bucket/a/b":                "s3://bucket/a/b/ ",
		"s3://bucket/a/b/":               "s3://bucket/a/b/ ",
		"s3://bucket/a/m.gguf":           "s3://bucket/a/m.gguf m.gguf",
		"s3://bucket/m.safetensors":      "s3://bucket/m.safetensors m.safetensors",
		"s3://bucket/a.gguf/":            "s3://bucket/a.gguf/ ",
		"s3://b":                         "",
		"s3://":                          "",
		"s3:///a":                        "",
		"s3://u:secret@bucket/a":         "",
		"s3://bucket/a?X-Amz-Key=secret": "",
		"s3://bucket/../a":               "",
		"s3://bucket/a//b":               "",
	} {
		s, err := source.Open(context.Background(), uri, source.Options{})
		if err == nil {
			if got := s.URI() + " " + s.Entry(); got != want {
				t.Errorf("%s: %q, want %q", uri, got, want)
			}
			s.Close()
			continue
		}
		if want != "" || recovery.ClassOf(err) != recovery.Usage || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
