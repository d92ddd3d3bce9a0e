package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Host is a machine as far as its network goes: a namespace with one
// interface.
type Host struct {
	Name string // of the namespace
	Addr string // of its interface

	t testing.TB
}

// pairs counts the pairs of hosts that this process has made.
var pairs atomic.Int64

// TwoHosts makes two hosts with a cable between them, which go with the test.
// Where the system allows no namespaces the test is skipped: there is no other
// way to have two hosts here.
func TwoHosts(t testing.TB) (a, b *Host) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	hosts := make([]*Host, 2)
	pair := pairs.Add(1)
	for i := range hosts {
		h := &Host{Name: fmt.Sprintf("gantry%d-%d-%d", os.Getpid(), pair, i), Addr: fmt.Sprintf("10.213.77.%d", i+1), t: t}
		if out, err := exec.Command("ip", "netns", "add", h.Name).CombinedOutput(); err != nil {
			if text := string(out); strings.Contains(text, "not permitted") || errors.Is(err, exec.ErrNotFound) {
				t.Skipf("no network namespaces here: %v: %s", err, out)
			}
			t.Fatalf("ip netns add: %v: %s", err, out)
		}
		t.Cleanup(func() { h.ip("netns", "delete", h.Name) })
		hosts[i] = h
	}
	a, b = hosts[0], hosts[1]
	a.ip("link", "add", "cable", "netns", a.Name, "type", "veth", "peer", "name", "cable", "netns", b.Name)
	for _, h := range hosts {
		h.ip("-n", h.Name, "address", "add", h.Addr+"/24", "dev", "cable")
		h.ip("-n", h.Name, "link", "set", "lo", "up")
		h.Plug(true)
	}
	return a, b
}

// ip runs a command of iproute2.
func (h *Host) ip(args ...string) {
	h.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		h.t.Errorf("ip %v: %v: %s", args, err, out)
	}
}

// Plug puts the host's cable in, or pulls it out.
func (h *Host) Plug(in bool) {
	h.t.Helper()
	state := "down"
	if in {
		state = "up"
	}
	h.ip("-n", h.Name, "link", "set", "cable", state)
}

// Launch is the package's Launch, on the host.
func (h *Host) Launch(bin, name string, args ...string) *Process {
	h.t.Helper()
	p := Launch(h.t, "ip", name, append([]string{"netns", "exec", h.Name, bin}, args...)...)
	p.dial = func(_ context.Context, network, address string) (net.Conn, error) { return h.Dial(network, address) }
	return p
}

// Dial connects from the host.
func (h *Host) Dial(network, address string) (conn net.Conn, err error) {
	there := h.on(func() { conn, err = net.Dial(network, address) })
	return conn, errors.Join(there, err)
}

// Listen listens at a port of the host that is free.
func (h *Host) Listen() (l net.Listener, err error) {
	there := h.on(func() { l, err = net.Listen("tcp", h.Addr+":0") })
	return l, errors.Join(there, err)
}

// on runs f on a thread that is on the host.
func (h *Host) on(f func()) error {
	runtime.LockOSThread() // a namespace is a thread's
	defer runtime.UnlockOSThread()
	home, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + h.Name)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(back) // this thread is good for nothing any more
	}
	return nil
}
