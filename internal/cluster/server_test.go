package cluster

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// TestServerThatCannotStart: a port that is taken and a folder that cannot be
// written are told at once, in one line, and not logged besides.
func TestServerThatCannotStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options   ServerOptions
		what, why string
	}{
		"port":  {ServerOptions{Listen: l.Addr().String()}, l.Addr().String(), "address already in use"},
		"file":  {ServerOptions{StateDir: file}, file, "not a directory"},
		"proc":  {ServerOptions{StateDir: "/proc/x"}, "/proc/x", "no such file"},
		"local": {ServerOptions{Listen: "192.0.2.1:0", Insecure: true}, "192.0.2.1:0", "cannot assign"},
	} {
		var log bytes.Buffer
		c.options.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
		begun := time.Now()
		_, err := StartServer(c.options)
		wantClass(t, err, recovery.Usage)
		if text := err.Error(); !strings.Contains(text, c.what) || !strings.Contains(text, c.why) {
			t.Errorf("%s: %s", name, text)
		}
		if took := time.Since(begun); took > startTimeout/2 {
			t.Errorf("%s: it took %s", name, took)
		}
		if log.Len() > 0 {
			t.Errorf("%s: logged besides: %s", name, log.String())
		}
	}
}
