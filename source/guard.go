package source

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/gantry-ml/gantry/recovery"
)

// guard decides which hosts a remote source may ask, for the URI itself and
// for every redirect. Names are checked before a request, addresses after the
// name was looked up, so that neither a redirect nor DNS gets around it.
type guard struct {
	hosts      []string // allowed explicitly: a name, an address, or *.domain
	restricted bool     // only hosts
	named      []string // hosts that the user named himself: his URI's first, his proxy's; or *.domain
	// inside is set once the URI's own host was seen at a private address:
	// what it redirects to could as well have been named.
	inside *atomic.Bool
}

// metadataNames and metadataAddrs are where clouds serve their machines'
// credentials; those at link-local addresses need no mention.
var (
	metadataNames = []string{"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
	metadataAddrs = []netip.Addr{netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("fd00:ec2::254")}
)

func canonicalHost(h string) string { return strings.ToLower(strings.TrimSuffix(h, ".")) }

func (g guard) allows(host string) bool { return listed(g.hosts, host) }

// listed reports whether a host is one of a list of names, addresses and
// *.domain.
func listed(hosts []string, host string) bool {
	host = canonicalHost(host)
	return slices.ContainsFunc(hosts, func(h string) bool {
		h = canonicalHost(h)
		domain, wild := strings.CutPrefix(h, "*")
		return h == host || wild && strings.HasPrefix(domain, ".") && strings.HasSuffix(host, domain)
	})
}

// host refuses a name. Class not_allowed.
func (g guard) host(name string) error {
	switch {
	case g.allows(name):
		return nil
	case g.restricted:
		return refusedHost(name, "not a host that this server may read from")
	case slices.Contains(metadataNames, canonicalHost(name)):
		return refusedHost(name, "a host of machine metadata")
	}
	return nil
}

// address refuses the address that a name stands for. Class not_allowed.
func (g guard) address(name string, ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	switch {
	case g.allows(name), g.allows(ip.String()):
		return nil
	case ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip.IsUnspecified(), slices.Contains(metadataAddrs, ip):
		return refusedHost(name, fmt.Sprintf("%s is a link-local or metadata address", ip))
	case !ip.IsLoopback() && !ip.IsPrivate():
		return nil
	case listed(g.named, name):
		if canonicalHost(name) == g.named[0] {
			g.inside.Store(true)
		}
		return nil
	case g.inside.Load():
		return nil
	}
	return refusedHost(name, fmt.Sprintf("%s is a private address", ip))
}

func refusedHost(name, why string) error {
	return &recovery.Error{Class: recovery.NotAllowed, Op: "open", File: name, Err: fmt.Errorf("%s", why),
		Hint: "a worker reads from it when started with --allow-host " + name}
}
