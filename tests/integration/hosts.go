package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
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

// TwoHosts makes two hosts with a cable between them, which go with the test.
// Where the system allows no namespaces the test is skipped: there is no other
// way to have two hosts here.
func TwoHosts(t testing.TB) (a, b *Host) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	hosts := make([]*Host, 2)
	for i := range hosts {
		h := &Host{Name: fmt.Sprintf("gantry%d-%d", os.Getpid(), i), Addr: fmt.Sprintf("10.213.77.%d", i+1), t: t}
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
	return Launch(h.t, "ip", name, append([]string{"netns", "exec", h.Name, bin}, args...)...)
}

// Dial connects from the host.
func (h *Host) Dial(network, address string) (net.Conn, error) {
	runtime.LockOSThread() // a namespace is a thread's
	defer runtime.UnlockOSThread()
	home, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return nil, err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + h.Name)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	conn, err := net.Dial(network, address)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(back) // this thread is good for nothing any more
	}
	return conn, err
}
