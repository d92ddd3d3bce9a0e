package source

import (
	"net/netip"
	"net/url"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// Private addresses are for hosts that the URI names, and for what a host
// redirects to that is at such an address itself. A public one gets nobody
// there, and none gets to a machine's metadata.
func TestGuardAddresses(t *testing.T) {
	const public, private, loopback, metadata = "203.0.113.7", "10.1.2.3", "127.0.0.1", "169.254.169.254"
	for what, c := range map[string]struct {
		root     string // the address of the URI's host
		o        Options
		name, at string
		refused  bool
	}{
		"public to public":           {public, Options{}, "cdn.example", public, false},
		"public to loopback":         {public, Options{}, "localhost", loopback, true},
		"public to private":          {public, Options{}, "cdn.example", private, true},
		"private to private":         {private, Options{}, "store.example", private, false},
		"loopback to loopback":       {loopback, Options{}, "localhost", loopback, false},
		"loopback to metadata":       {loopback, Options{}, "x.example", metadata, true},
		"the URI's host at metadata": {public, Options{}, "hub.example", metadata, true},
		"by DNS, the URI's host":     {public, Options{}, "hub.example", private, false},
		"allowed by name":            {public, Options{Hosts: []string{"hub.example", "cdn.example"}}, "cdn.example", private, false},
	} {
		w, err := newWeb(&url.URL{Scheme: "https", Host: "hub.example", Path: "/"}, c.o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.guard.address("hub.example", netip.MustParseAddr(c.root)); err != nil {
			t.Fatalf("%s: the URI's host: %v", what, err)
		}
		err = w.guard.address(c.name, netip.MustParseAddr(c.at))
		if want := map[bool]recovery.Class{true: recovery.NotAllowed, false: ""}[c.refused]; recovery.ClassOf(err) != want {
			t.Errorf("%s: %v, want class %q", what, err, want)
		}
	}
}
