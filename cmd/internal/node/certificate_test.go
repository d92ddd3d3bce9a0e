package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/cmd/internal/certs"
	"github.com/gantry-ml/gantry/recovery"
)

// A renewed certificate is used without a restart; one that is half written is
// not, and does no harm.
func TestCertificateIsRenewed(t *testing.T) {
	old, renewed := t.TempDir(), t.TempDir()
	for _, dir := range []string{old, renewed} {
		if err := certs.Init(dir, nil); err != nil {
			t.Fatal(err)
		}
	}
	c := &certificate{cert: filepath.Join(old, "node.pem"), key: filepath.Join(old, "node.key")}
	leaf := func() string {
		t.Helper()
		pair, err := c.get()
		if err != nil {
			t.Fatal(err)
		}
		return string(pair.Certificate[0])
	}
	first := leaf()
	replace := func(name string) {
		data, err := os.ReadFile(filepath.Join(renewed, name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(old, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Minute) // whatever the file system's clock shows
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
	}
	replace("node.pem")
	if leaf() != first {
		t.Error("a certificate without its key is used")
	}
	replace("node.key")
	if leaf() == first {
		t.Error("the renewed certificate is not used")
	}
	if _, err := (&certificate{cert: "/no/such", key: "/no/such"}).get(); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("files that are not there: %v", err)
	}
}
